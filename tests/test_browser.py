"""The chat page in Chromium, against a real server: whatever is cut, killed or reloaded, it shows what is stored.

After every story the settled page is compared with the same page loaded anew, and the console must be clean.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page_agent import gate, picture
from tests.server_process import ServerProcess, served
from turnwire.channels.web.page import STATIC

playwright_api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")

pytestmark = [pytest.mark.anyio, pytest.mark.process]

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
    """One tab, and everything its console said."""

    def __init__(self, page: Any, server: ServerProcess) -> None:
        self.page = page
        self.server = server
        self.complaints: list[str] = []
        page.set_default_timeout(LIMIT_MS)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))

    def _heard(self, said: Any) -> None:
        if said.type in ("error", "warning"):
            self.complaints.append(said.text)

    async def open(self, conversation: str = "") -> None:
        await self.page.goto(f"{self.server.url}/{'#/c/' + conversation if conversation else ''}")
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

    async def tab(self, **options: Any) -> Tab:
        """A tab; one with options has a browser profile of its own."""
        if self.profile is None:
            self.profile = await self.browser.new_context(**PROFILE)
        context = self.profile
        if options:
            context = await self.browser.new_context(**{**PROFILE, **options})
            self.opened.append(context)
        page = await context.new_page()
        self.opened.append(page)
        return Tab(page, self.server)

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


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("page")
    async with chromium() as browser, served(folder, use=AGENT, settings="[turns]\nlease_s = 3\n") as server:
        # Started again, it must be found where it was.
        port = server.url.rpartition(":")[2]
        server.config.write_text(server.config.read_text().replace("port = 0", f"port = {port}"))
        yield Stage(server, browser)


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    """The server and the browser that all stories share; each has its own conversations and tabs."""
    yield theatre
    while theatre.opened:
        await theatre.opened.pop().close()


@contextlib.contextmanager
def opened_at_the_end(path: Path) -> Iterator[Path]:
    """A gate that does not outlive its test shut: a held answer would hold the server's end up."""
    try:
        yield path
    finally:
        path.touch()


async def test_an_answer_streams_and_stays(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        assert await tab.page.locator("[data-state=live]").count() == 1
        go.touch()
        await tab.sees("second19")
        await stage.finish(tab)
    assert await tab.count(FIRST) == 1
    assert await tab.count(SECOND) == 1
    assert await tab.outcome() == "done"


async def test_a_reload_in_the_middle_shows_the_whole_answer_once(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.reload()
        await tab.sees("first19")
        assert await tab.count(FIRST) == 1
        go.touch()
        await stage.finish(tab)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


async def test_a_second_tab_follows_what_the_first_one_asks(stage: Stage) -> None:
    one, two = await stage.tab(), await stage.tab()
    await one.open()
    await one.ask("hello there")
    await one.settled()
    await two.open(one.conversation)
    await two.settled()
    with opened_at_the_end(stage.gate()) as go:
        await one.ask(f"held {go}")
        await two.sees("first19")
        go.touch()
        await stage.finish(one, two, answers=2)
    assert await two.count(SECOND) == 1


async def test_stop_ends_the_answer_and_says_so(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.press(".composer textarea", "Escape")
        await stage.finish(tab)
    assert await tab.outcome() == "stopped"
    assert await tab.count("You stopped this answer.") == 1
    assert await tab.count("second0") == 0


async def test_a_killed_server_comes_back_and_the_answer_is_called_interrupted(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await stage.server.kill()
        await tab.page.wait_for_selector(".trouble span")
        await stage.server.start()
        await tab.page.wait_for_selector(".outcome.interrupted")
        await tab.page.wait_for_selector(".trouble span", state="detached")
        await stage.finish(tab, cut=True)
    assert await tab.count(FIRST) == 1
    assert await tab.outcome() == "interrupted"


# How often the answer's first half ever stood there at the same time: what a reader saw, not only what is left.
WATCHED = """() => {
  const log = document.querySelector('[role=log]');
  const look = () => { window.most = Math.max(window.most ?? 0, log.textContent.split('first7 ').length - 1); };
  new MutationObserver(look).observe(log, { subtree: true, childList: true, characterData: true });
}"""


async def test_a_while_offline_costs_nothing(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        await tab.page.context.set_offline(True)
        await tab.page.wait_for_selector(".trouble span")
        await tab.page.context.set_offline(False)
        await tab.page.wait_for_selector(".trouble span", state="detached")
        assert await tab.page.locator("[data-state=live]").count() == 1
        go.touch()
        await tab.sees("second19")
        assert await tab.page.evaluate("window.most") == 1
        await stage.finish(tab, cut=True)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert await tab.outcome() == "done"


SHOWN = """state => {
  Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_a_tab_that_nobody_sees_gives_its_connections_back(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    with opened_at_the_end(stage.gate()) as go:
        await tab.page.clock.install()
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(SHOWN, "hidden")
        await tab.page.clock.fast_forward(11_000)
        async with asyncio.timeout(LIMIT_MS / 1000), stage.server.client() as client:
            while "turnwire_readers 0.0" not in (await client.get("/metrics")).text:
                pass
        go.touch()
        assert await tab.count("second0") == 0
        await tab.page.evaluate(SHOWN, "visible")
        await stage.finish(tab)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


async def test_a_question_asked_offline_is_sent_once(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    await tab.open()
    await tab.page.context.set_offline(True)
    await tab.ask("hello from the tunnel")
    await tab.page.wait_for_selector(".question[data-state=sending]")
    await tab.page.context.set_offline(False)
    await stage.finish(tab, cut=True)
    assert await tab.count("You said: hello from the tunnel") == 1


async def test_files_go_both_ways(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    note = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"twelve bytes"}
    image = {"name": "dot.png", "mimeType": "image/png", "buffer": picture()}
    await tab.page.set_input_files("input[type=file]", [note, image])
    await tab.page.wait_for_selector(".chip >> nth=1")
    await tab.ask("look at these")
    await tab.sees("Got note.txt with 12 bytes.")
    await tab.settled()
    await tab.ask("files please")
    await tab.settled(2)
    shown = "image => image.complete && image.naturalWidth > 0"
    for index in range(2):
        await tab.page.locator("article .picture img").nth(index).evaluate("image => image.decode()")
        assert await tab.page.locator("article .picture img").nth(index).evaluate(shown)
    await tab.sees("table.csv")
    async with tab.page.expect_download() as download:
        await tab.page.click("a.file:has-text('table.csv')")
    path = await (await download.value).path()
    assert Path(path).read_bytes() == b"a,b\n1,2\n" * 300
    await stage.finish(tab, answers=2)


async def test_a_tool_error_and_a_failed_turn_say_why(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("tools")
    await tab.settled()
    assert await tab.page.locator("[data-tool=done]").count() == 1
    assert await tab.page.locator("[data-tool=failed]").count() == 1
    assert await tab.count("the weather service is down") == 1
    assert await tab.outcome() == "done"
    await tab.ask("fails")
    await tab.settled(2)
    assert await tab.outcome() == "failed"
    assert await tab.count("the model's account is empty") == 1
    assert await tab.count("I begin,") == 1
    await stage.finish(tab, answers=2)


async def test_a_rewrite_leaves_only_the_right_text(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("rewrites")
    await stage.finish(tab)
    assert await tab.count("a wrong beginning") == 0
    assert await tab.count("a right answer") == 1


async def test_editing_and_answering_again_replace_what_stood_there(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("firstt")
    await tab.settled()
    await tab.page.click(".answer button[aria-label='Answer again']")
    await tab.settled()
    await stage.finish(tab)
    assert await tab.count("You said: firstt") == 1
    await tab.page.hover(".question")
    await tab.page.click(".question button[aria-label='Edit']")
    await tab.page.fill(".question textarea", "second")
    await tab.page.press(".question textarea", "Enter")
    await tab.sees("You said: second")
    await stage.finish(tab)
    assert await tab.count("firstt") == 0


async def test_questions_wait_in_line(stage: Stage) -> None:
    tab = await stage.tab()
    with opened_at_the_end(stage.gate()) as go:
        await tab.open()
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.ask("me next")
        await tab.sees("me next")
        go.touch()
        await tab.sees("You said: me next")
        await stage.finish(tab, answers=2)
    text = await tab.text()
    assert text.index("second19") < text.index("me next")


async def test_markdown_is_drawn_and_nothing_in_it_runs(stage: Stage) -> None:
    tab = await stage.tab()
    await tab.open()
    await tab.ask("rich")
    await tab.settled()
    await tab.page.wait_for_selector(".katex-display")
    await tab.page.wait_for_selector("code .hljs-keyword")
    assert await tab.page.locator(".markdown table tr").count() == 3
    assert await tab.page.locator(".markdown b, .markdown img, .markdown a[href^=javascript]").count() == 0
    link = tab.page.locator(".markdown a", has_text="the page")
    assert await link.get_attribute("rel") == "noopener noreferrer"


async def test_a_long_history_opens_at_its_end(stage: Stage) -> None:
    parts = [{"type": "text", "text": "word " * 40}]
    async with stage.server.client() as client:
        for index in range(40):
            message = {
                "id": f"m{index}",
                "role": "user",
                "parts": [*parts, {"type": "text", "text": f"number {index}"}],
            }
            answer = await client.post("/api/chat", json={"id": "long", "messages": [message]})
            assert answer.status_code == 200
    tab = await stage.tab()
    await tab.open("long")
    await tab.settled(40)
    last = tab.page.locator(".answer").last
    await last.wait_for()
    assert await last.evaluate("node => node.getBoundingClientRect().top < innerHeight")
    await stage.finish(tab, answers=40)


async def test_the_list_searches_and_switches_and_the_words_change(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    await tab.open()
    await tab.ask("about apples")
    await tab.settled()
    await tab.page.click("text=New chat")
    await tab.page.wait_for_selector(".welcome")
    await tab.ask("about pears")
    await tab.settled()
    await tab.page.wait_for_selector(".list a:has-text('apples')")
    await tab.page.wait_for_selector(".list a:has-text('pears')")
    await tab.page.fill("[type=search]", "apple")
    await tab.page.wait_for_function("() => document.querySelectorAll('.list li').length === 1")
    await tab.page.click(".list a")
    await tab.sees("You said: about apples")
    assert await tab.count("pears") == 0
    await tab.page.click("[aria-label='Switch to Chinese']")
    await tab.page.wait_for_selector("text=新对话")
    assert tab.complaints == []


async def test_a_server_with_tokens_asks_for_one_and_shows_files_with_it(stage: Stage, tmp_path: Path) -> None:
    settings = '[channels.web]\nauth = "token"\n[channels.web.tokens]\nalice = "a-long-enough-secret-token"\n'
    async with served(tmp_path, use=AGENT, settings=settings) as server:
        tab = await Stage(server, stage.browser).tab()
        await tab.page.goto(server.url)
        await tab.page.fill(".token input", "not this one")
        await tab.page.press(".token input", "Enter")
        await tab.page.wait_for_selector(".token [role=alert]")
        await tab.page.fill(".token input", "a-long-enough-secret-token")
        await tab.page.press(".token input", "Enter")
        await tab.page.wait_for_selector(".token", state="detached")
        await tab.ask("files please")
        await tab.settled()
        await tab.page.locator(".answer .picture img").evaluate("image => image.decode()")
        assert (await tab.page.locator(".answer .picture img").get_attribute("src")).startswith("blob:")
        await tab.page.context.close()


async def test_it_fits_a_phone(stage: Stage) -> None:
    tab = await stage.tab(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    await tab.open()
    await tab.ask("rich")
    await tab.settled()
    await tab.page.wait_for_selector(".katex-display")
    assert await tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await tab.page.evaluate("document.querySelector('.scroll').scrollWidth <= innerWidth")
    await tab.page.click("[aria-label='Show conversations']")
    await tab.page.wait_for_selector(".list a")
    assert tab.complaints == []
