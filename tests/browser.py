"""The stage of the tests that open the chat page: Chromium, a real server, and tabs whose consoles are listened to.

A test module makes its own two fixtures from `staged` and `Stage.story`.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_agent import gate
from tests.server_process import ServerProcess, served
from turnwire.channels.web.page import STATIC

playwright_api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-gpu",
]
LIMIT_MS = 20_000
# Without a graphics card, moving dots cost more than the page.
PROFILE: dict[str, Any] = {"locale": "en-GB", "reduced_motion": "reduce"}
AGENT = "python:tests.page_agent:agent"
FIRST = " ".join(f"first{index}" for index in range(20))
SECOND = " ".join(f"second{index}" for index in range(20))
# What a test that cuts the network makes the browser itself report.
CUT = re.compile(r"Failed to load resource: (net::ERR_|the server responded with a status of 503)")
# How often the answer's first half ever stood there at the same time: what a reader saw, not only what is left.
WATCHED = """() => {
  const log = document.querySelector('[role=log]');
  const look = () => { window.most = Math.max(window.most ?? 0, log.textContent.split('first7 ').length - 1); };
  look();
  new MutationObserver(look).observe(log, { subtree: true, childList: true, characterData: true });
}"""


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """Debian's Chromium, or the one that `playwright install` put there."""
    if not (STATIC / "index.html").is_file():
        pytest.skip("the page is not built: make page")
    async with playwright_api.async_playwright() as playwright:
        path = str(CHROMIUM) if CHROMIUM.exists() else None
        if path is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        browser = await playwright.chromium.launch(executable_path=path, args=ARGS)
        try:
            yield browser
        finally:
            await browser.close()


class Tab:
    """One tab at the server's address `url`, and everything its console said."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(LIMIT_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))

    def _heard(self, said: Any) -> None:
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    async def open(self, conversation: str = "") -> None:
        await self.page.goto(f"{self.url}/{'#/c/' + conversation if conversation else ''}")
        await self.page.wait_for_selector(".composer textarea")

    async def ask(self, text: str) -> None:
        await self.page.fill(".composer textarea", text)
        await self.page.press(".composer textarea", "Enter")

    async def sees(self, text: str) -> None:
        await self.page.wait_for_function(
            "text => document.querySelector('[role=log]').innerText.includes(text)", arg=text
        )

    async def settled(self, answers: int = 1) -> None:
        """Until nothing runs and `answers` answers stand there."""
        await self.page.wait_for_function(
            "count => document.querySelector('.page').dataset.state === 'idle'"
            " && document.querySelectorAll('.answer[data-outcome]').length === count"
            " && !document.querySelector('.working, .answer[data-state=live], [data-tool=running]')",
            arg=answers,
        )

    async def text(self) -> str:
        """What stands in the log, folded parts included."""
        log: str = await self.page.evaluate("document.querySelector('[role=log]').textContent")
        return log

    async def count(self, text: str) -> int:
        return (await self.text()).count(text)

    async def outcome(self) -> str:
        value: str = await self.page.locator(".answer").last.get_attribute("data-outcome")
        return value

    @property
    def conversation(self) -> str:
        return str(self.page.url).partition("#/c/")[2]


class Stage:
    """A server and a browser; `finish` checks what must hold after every story."""

    def __init__(self, server: ServerProcess, browser: Any) -> None:
        self.server = server
        self.browser = browser
        self.profile: Any = None
        self.opened: list[Any] = []

    @contextlib.asynccontextmanager
    async def story(self) -> AsyncIterator[Stage]:
        """The stage for one test, which opens its own conversations and tabs; they are closed after it."""
        yield self
        while self.opened:
            await self.opened.pop().close()

    async def tab(self, *, url: str | None = None, **options: Any) -> Tab:
        """A tab at `url`, or at the server itself; one with options has a browser profile of its own."""
        if self.profile is None:
            self.profile = await self.browser.new_context(**PROFILE)
        context = self.profile
        if options:
            context = await self.browser.new_context(**{**PROFILE, **options})
            self.opened.append(context)
        page = await context.new_page()
        self.opened.append(page)
        return Tab(page, url or self.server.url)

    def gate(self) -> Path:
        return gate(self.server.folder, uuid.uuid4().hex[:8])

    async def finish(self, *tabs: Tab, answers: int = 1, cut: bool = False) -> None:
        fresh = await self.tab()
        await fresh.open(tabs[0].conversation)
        await fresh.settled(answers)
        stored = await fresh.text()
        for tab in tabs:
            await tab.settled(answers)
            assert await tab.text() == stored
            heard = [said for said in tab.complaints if not (cut and CUT.match(said))]
            assert heard == []
        assert fresh.complaints == []


@contextlib.asynccontextmanager
async def staged(folder: Path, settings: str = "") -> AsyncIterator[Stage]:
    """The server, with these further `settings`, and the browser that all stories of a module share."""
    settings = f"[turns]\nlease_s = 3\n{settings}"
    async with chromium() as browser, served(folder, use=AGENT, settings=settings) as server:
        # Started again, it must be found where it was.
        port = server.url.rpartition(":")[2]
        server.config.write_text(server.config.read_text().replace("port = 0", f"port = {port}"))
        yield Stage(server, browser)


@contextlib.contextmanager
def opened_at_the_end(path: Path) -> Iterator[Path]:
    """A gate that does not outlive its test shut: a held answer would hold the server's end up."""
    try:
        yield path
    finally:
        path.touch()
