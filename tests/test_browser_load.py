"""What the chat page needs before it can be used: few bytes, only this server's, and no answer of its API."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browser import LIMIT_MS, PROFILE, Stage, Tab, staged

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.heavy]

LIMIT_BYTES = 400_000
MOST_REQUESTS = 10
USABLE_S = 1.0
LOADS = 5
# Notes when the composer first stands there and is not barred.
NOTES = """new MutationObserver((_, observer) => {
  const composer = document.querySelector('.composer textarea:not([disabled])');
  if (!composer) return;
  observer.disconnect();
  performance.mark('usable');
}).observe(document, { subtree: true, childList: true });"""


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("page")) as built:
        yield built


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    async with theatre.story() as ready:
        yield ready


class Traffic:
    """Everything that a tab asks for."""

    def __init__(self, tab: Tab) -> None:
        self.requests: list[Any] = []
        self.failed: list[str] = []
        self.encoded: dict[str, str] = {}
        tab.page.on("request", lambda request: self.requests.append(request))
        tab.page.on("requestfailed", lambda request: self.failed.append(f"{request.url}: {request.failure}"))

    def paths(self) -> list[str]:
        return [urlsplit(request.url).path for request in self.requests]

    async def bodies(self) -> dict[str, bytes]:
        """What was answered, by path; every answer must have been a good one."""
        found: dict[str, bytes] = {}
        for request in self.requests:
            response = await request.response()
            assert response is not None, f"{request.url}: {request.failure}"
            assert response.status == 200, request.url
            path = urlsplit(request.url).path
            found[path] = await response.body()
            self.encoded[path] = response.headers.get("content-encoding", "")
        return found


async def loaded(stage: Stage) -> tuple[Tab, Traffic]:
    """An empty page in a profile that has nothing cached, when nothing more is asked for."""
    tab = await stage.tab(offline=False)
    traffic = Traffic(tab)
    await tab.open()
    await tab.page.wait_for_selector(".welcome")
    await tab.page.wait_for_selector(".side .none, .side .list a")
    await tab.page.wait_for_load_state("networkidle")
    return tab, traffic


async def test_an_empty_page_is_small_and_asks_nobody_else(stage: Stage) -> None:
    tab, traffic = await loaded(stage)
    sizes = {}
    for path, body in (await traffic.bodies()).items():
        packed = traffic.encoded.get(path) == "gzip"
        assert packed or not path.endswith((".js", ".css", "/")), path
        sizes[path] = len(gzip.compress(body)) if packed else len(body)
    assert sum(sizes.values()) < LIMIT_BYTES, sizes
    assert {"/", "/api/conversations"} <= sizes.keys()
    assert {urlsplit(request.url).netloc for request in traffic.requests} == {urlsplit(stage.server.url).netloc}
    assert len(traffic.requests) <= MOST_REQUESTS, traffic.paths()
    assert len(set(traffic.paths())) == len(traffic.paths()), traffic.paths()
    assert traffic.failed == []
    assert tab.complaints == []


async def test_what_only_some_answers_need_comes_with_them(stage: Stage) -> None:
    tab, traffic = await loaded(stage)
    before = set(traffic.paths())
    assert [path for path, body in (await traffic.bodies()).items() if b"KaTeX_Main" in body] == []
    await tab.ask("rich")
    await tab.settled()
    await tab.page.wait_for_selector(".katex-display")
    await tab.page.wait_for_selector("code .hljs-keyword")
    await tab.page.wait_for_function("() => document.fonts.status === 'loaded'")
    later = {path.rpartition(".")[2] for path in set(traffic.paths()) - before if path.startswith("/assets/")}
    assert {"js", "woff2"} <= later
    assert traffic.failed == []


async def test_only_its_own_files_hold_up_the_first_picture(stage: Stage) -> None:
    tab, _ = await loaded(stage)
    entries = await tab.page.evaluate(
        "performance.getEntriesByType('resource').map(({ name, renderBlockingStatus }) =>"
        " ({ name, blocks: renderBlockingStatus === 'blocking' }))"
    )
    blocking = [entry["name"] for entry in entries if entry["blocks"]]
    assert all(name.startswith(f"{stage.server.url}/assets/") for name in blocking)
    assert len(blocking) <= 2, blocking


async def test_the_page_takes_words_before_the_server_answers_anything(stage: Stage) -> None:
    tab = await stage.tab(offline=False)
    answers = asyncio.Event()

    async def held(route: Any) -> None:
        await answers.wait()
        await route.continue_()

    await tab.page.route("**/api/**", held)
    await tab.open()
    await tab.ask("hello there")
    await tab.page.wait_for_selector(".question[data-state=sending]")
    await tab.page.fill(".composer textarea", "and more")
    assert await tab.page.input_value(".composer textarea") == "and more"
    answers.set()
    await tab.sees("You said: hello there")
    await stage.finish(tab)
    assert await tab.page.input_value(".composer textarea") == "and more"


async def test_a_second_load_fetches_no_asset_again(stage: Stage) -> None:
    tab, _ = await loaded(stage)
    await tab.page.reload()
    await tab.page.wait_for_selector(".welcome")
    fetched = await tab.page.evaluate(
        "performance.getEntriesByType('resource').filter((one) => one.name.includes('/assets/'))"
        ".map(({ name, transferSize }) => [name, transferSize])"
    )
    assert fetched
    assert [name for name, size in fetched if size > 0] == []


@pytest.mark.heavy
async def test_the_page_is_usable_within_a_second(stage: Stage) -> None:
    """Loads with an empty cache, by the browser's own clock; what else the machine does can only slow them down."""
    took = []
    for _ in range(LOADS + 1):
        context = await stage.browser.new_context(**PROFILE)
        page = await context.new_page()
        page.set_default_timeout(LIMIT_MS)
        await page.add_init_script(NOTES)
        await page.goto(stage.server.url)
        await page.wait_for_function("() => performance.getEntriesByName('usable').length > 0")
        took.append(await page.evaluate("performance.getEntriesByName('usable')[0].startTime") / 1000)
        await context.close()
    # The first one warms the browser up.
    assert min(took[1:]) < USABLE_S, took
