"""Pages with the stock `useChat`, opened in Chromium at a real server's own origin.

Guarantee: only the page and its script are ours to serve; everything else a page asks for, the server answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.asgi import question
from tests.browser import LIMIT_MS, PROFILE, chromium
from tests.server_process import ServerProcess, served

AGENT = "python:tests.use_chat_agent:agent"
HTML = '<!doctype html><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="{}"></script>'
# What Chromium itself says of the history of a conversation that does not exist yet, and of a body that breaks.
NO_HISTORY = "Failed to load resource: the server responded with a status of 404 (Not Found)"
BROKEN = "Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING"

# What stands there: for each answer, the kind and the text of each part.
Answers = list[list[list[str]]]
ANSWERS = """() => [...document.querySelectorAll('article[data-role=assistant]')].map(
  answer => [...answer.children].map(part => [part.dataset.part ?? 'text', part.textContent]))"""
SETTLED = """count => /ready|error/.test(document.querySelector('main').dataset.status)
  && document.querySelectorAll('article[data-role=assistant]').length === count"""
RESUME = re.compile(r"/stream(\?|$)")
SEEN = """() => document.dispatchEvent(new Event('visibilitychange'))"""


class Tab:
    """One tab with one page; `resumed` has the status of every resume, `complaints` what its console said."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.resumed: list[int] = []
        self.conversation = ""
        self._running: set[Any] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        page.set_default_timeout(LIMIT_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.on("request", self._asked)
        page.on("response", self._answered)
        page.on("requestfinished", self._ended)
        page.on("requestfailed", self._ended)

    def _heard(self, said: Any) -> None:
        if said.type in ("error", "warning") and (self.conversation or said.text != NO_HISTORY):
            self.complaints.append(said.text)

    def _asked(self, request: Any) -> None:
        if RESUME.search(request.url):
            self._running.add(request)
            self._idle.clear()
        if request.method == "POST" and urlsplit(request.url).path == "/api/chat":
            self.conversation = request.post_data_json["id"]

    def _answered(self, response: Any) -> None:
        if RESUME.search(response.url):
            self.resumed.append(response.status)

    def _ended(self, request: Any) -> None:
        self._running.discard(request)
        if not self._running:
            self._idle.set()

    async def open(self) -> None:
        """Loads the page, or loads it anew; a page that resumes has then got its first answer."""
        async with contextlib.AsyncExitStack() as asked:
            if "/documented" not in self.url:
                await asked.enter_async_context(self.page.expect_response(RESUME))
            await self.page.goto(self.url)
        await self.page.wait_for_selector("input")

    async def quiet(self) -> None:
        """Until no stream is resumed any more."""
        async with asyncio.timeout(LIMIT_MS / 1000):
            await self._idle.wait()

    async def ask(self, text: str) -> None:
        await self.page.fill("input:not([disabled])", text)
        await self.page.press("input", "Enter")

    async def press(self, button: str) -> None:
        await self.page.click(f"button:text-is('{button}')")

    async def sees(self, text: str) -> None:
        await self.page.wait_for_function(
            "text => document.getElementById('root').textContent.includes(text)", arg=text
        )

    async def text(self) -> str:
        everything: str = await self.page.evaluate("document.getElementById('root').textContent")
        return everything

    async def settled(self, answers: int = 1) -> Answers:
        """What stands there once `answers` answers do and nothing runs."""
        await self.page.wait_for_function(SETTLED, arg=answers)
        return await self.answers()

    async def answers(self) -> Answers:
        shown: Answers = await self.page.evaluate(ANSWERS)
        return shown

    async def messages(self) -> list[dict[str, Any]]:
        """The messages that the page keeps; none of a page that does not tell."""
        kept: list[dict[str, Any]] = json.loads(await self.page.evaluate("window.shown ?? '[]'"))
        return kept

    async def is_seen_again(self) -> None:
        """As when a person comes back to the tab."""
        await self.page.evaluate(SEEN)


class Stage:
    """A server, a browser, and the bundled pages of every line of the SDK."""

    def __init__(self, server: ServerProcess, context: Any, bundles: Path) -> None:
        self.server = server
        self.bundles = bundles
        self._context = context

    async def serve(self) -> None:
        """Puts the pages under the server's own origin."""
        await self._context.route(f"{self.server.url}/pages/**", self._page)

    async def _page(self, route: Any) -> None:
        path = urlsplit(route.request.url).path
        if path.endswith(".js"):
            await route.fulfill(path=self.bundles / path.removeprefix("/pages/"), content_type="text/javascript")
        else:
            await route.fulfill(body=HTML.format(f"{path}.js"), content_type="text/html; charset=utf-8")

    async def tab(self, line: int, page: str, **address: str) -> Tab:
        query = f"?{urlencode(address)}" if address else ""
        return Tab(await self._context.new_page(), f"{self.server.url}/pages/{line}/{page}{query}")

    async def let_go(self, gate: str) -> None:
        """Lets the answer that waits at a gate go on."""
        body = question(f"open {gate}", chat=f"gatekeeper-{gate}")
        async with self.server.client() as client:
            assert "opened" in (await client.post("/api/chat?ui=7", json=body)).text

    async def held(self, conversation: str) -> list[dict[str, Any]]:
        """The messages that the server holds once nothing runs any more."""
        async with self.server.client() as client:
            await client.get(f"/api/chat/{conversation}/stream")
            answer = (await client.get(f"/api/chat/{conversation}")).json()
        assert answer["turn"] is None
        messages: list[dict[str, Any]] = answer["messages"]
        return messages

    async def close(self) -> None:
        """Closes all tabs."""
        for page in self._context.pages:
            await page.close()


@contextlib.asynccontextmanager
async def staged(folder: Path, bundles: Path) -> AsyncIterator[Stage]:
    """The stage that the tests of a module share; each has its own conversations and tabs."""
    async with chromium() as browser, served(folder, use=AGENT) as server:
        context = await browser.new_context(**PROFILE)
        stage = Stage(server, context, bundles)
        await stage.serve()
        yield stage
        await context.close()
