"""Files in the chat page: dropped, pasted or picked, taken back, refused, shown and downloaded."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.browser import AGENT, Stage, Tab, staged
from tests.page_agent import picture
from tests.server_process import served

pytestmark = [pytest.mark.anyio, pytest.mark.process]

# What stands in the page's hand: a name, a type and either `data` or a number of `zeros`.
_File = Mapping[str, object]

NOTE: _File = {"name": "note.txt", "type": "text/plain", "data": b"twelve bytes"}
DOT: _File = {"name": "dot.png", "type": "image/png", "data": picture()}
EMPTY: _File = {"name": "empty.txt", "type": "text/plain", "data": b""}
# What the page takes as one file, and what this server takes as one request.
LARGEST_BYTES = 25 * 1024 * 1024
BODY_BYTES = 1_000_000
COMPOSER, PAGE = ".composer textarea", "[role=log]"

# What a system hands to a page: events whose data holds files of the page's own making.
HOLDS = """files => {
  const data = new DataTransfer();
  for (const { name, type, base64, zeros } of files) {
    const bytes = zeros ? new Uint8Array(zeros) : Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
    data.items.add(new File([bytes], name, { type }));
  }
  window.held = data;
}"""
DRAGS = """([selector, steps]) => {
  for (const step of steps) {
    const event = new DragEvent(step, { dataTransfer: window.held, bubbles: true, cancelable: true });
    document.querySelector(selector).dispatchEvent(event);
  }
}"""
PASTES = """selector => {
  const event = new ClipboardEvent('paste', { clipboardData: window.held, bubbles: true, cancelable: true });
  document.querySelector(selector).dispatchEvent(event);
}"""

# The longest time in which nothing else could happen in the page.
WATCHES_PAUSES = """() => {
  window.longest = 0;
  let last = performance.now();
  setInterval(() => {
    const now = performance.now();
    window.longest = Math.max(window.longest, now - last);
    last = now;
  }, 5);
}"""
# What is done at once with so much takes seconds; a busy machine pauses a page for less.
LONGEST_PAUSE_MS = 1000


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    settings = f"[channels.web]\nmax_body_bytes = {BODY_BYTES}\n"
    async with staged(tmp_path_factory.mktemp("page"), settings) as built:
        yield built


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    async with theatre.story() as ready:
        yield ready


@pytest.fixture
async def tab(stage: Stage) -> Tab:
    opened = await stage.tab()
    await opened.open()
    return opened


async def holds(tab: Tab, *files: _File) -> None:
    """Puts files into the hand that drags or pastes."""
    told = []
    for file in files:
        data = file.get("data", b"")
        assert isinstance(data, bytes)
        rest = {key: value for key, value in file.items() if key != "data"}
        told.append({**rest, "base64": base64.b64encode(data).decode()})
    await tab.page.evaluate(HOLDS, told)


async def gives(tab: Tab, way: str, *files: _File) -> None:
    """Hands files over in one of the ways."""
    await holds(tab, *files)
    if way == "pasted":
        await tab.page.evaluate(PASTES, COMPOSER)
    else:
        place = PAGE if way == "dropped on the page" else COMPOSER
        await tab.page.evaluate(DRAGS, [place, ["dragenter", "dragover"]])
        await tab.page.evaluate(DRAGS, [place, ["drop"]])


async def chips(tab: Tab, *names: str) -> None:
    """Until exactly these files wait to be sent."""
    await tab.page.wait_for_function(
        "names => JSON.stringify([...document.querySelectorAll('.chip .file-name')].map((one) => one.textContent))"
        " === JSON.stringify(names)",
        arg=list(names),
    )


@pytest.mark.parametrize("way", ["dropped on the composer", "dropped on the page", "pasted"])
async def test_files_reach_the_agent(stage: Stage, tab: Tab, way: str) -> None:
    await gives(tab, way, NOTE, DOT)
    await chips(tab, "note.txt", "dot.png")
    await tab.ask("look at these")
    await tab.sees("Got note.txt with 12 bytes.")
    await tab.sees(f"Got dot.png with {len(picture())} bytes.")
    await chips(tab)
    await stage.finish(tab)
    assert await tab.page.locator(".question .picture img").count() == 1
    assert await tab.page.locator(".question a.file:has-text('note.txt')").count() == 1


@pytest.mark.heavy
async def test_a_file_needs_no_words(stage: Stage, tab: Tab) -> None:
    await gives(tab, "pasted", NOTE)
    await chips(tab, "note.txt")
    await tab.page.press(COMPOSER, "Enter")
    await tab.sees("Got note.txt with 12 bytes.")
    await stage.finish(tab)


@pytest.mark.heavy
async def test_the_page_says_where_to_drop_only_while_files_are_over_it(tab: Tab) -> None:
    await holds(tab, NOTE)
    await tab.page.evaluate(DRAGS, [PAGE, ["dragenter", "dragover"]])
    await tab.page.wait_for_selector(".drop")
    await tab.page.evaluate(DRAGS, [PAGE, ["dragleave"]])
    await tab.page.wait_for_selector(".drop", state="detached")
    await tab.page.evaluate(DRAGS, [PAGE, ["dragenter", "dragover", "drop"]])
    await tab.page.wait_for_selector(".drop", state="detached")
    await chips(tab, "note.txt")


@pytest.mark.heavy
async def test_words_that_are_pasted_are_words(tab: Tab) -> None:
    await tab.page.evaluate("window.held = new DataTransfer(); window.held.setData('text/plain', 'words')")
    taken = """selector => !document.querySelector(selector).dispatchEvent(
      new ClipboardEvent('paste', { clipboardData: window.held, bubbles: true, cancelable: true }))"""
    assert await tab.page.evaluate(taken, COMPOSER) is False
    await chips(tab)


@pytest.mark.heavy
async def test_an_empty_file_is_a_file(stage: Stage, tab: Tab) -> None:
    await gives(tab, "dropped on the composer", EMPTY)
    await chips(tab, "empty.txt")
    await tab.ask("look at nothing")
    await tab.sees("Got empty.txt with 0 bytes.")
    await stage.finish(tab)


async def test_too_large_a_file_is_refused_and_nothing_else_is_lost(stage: Stage, tab: Tab) -> None:
    big = {"name": "big.bin", "type": "application/octet-stream", "zeros": LARGEST_BYTES + 1}
    await tab.page.fill(COMPOSER, "look at these")
    await gives(tab, "dropped on the composer", big, NOTE)
    await tab.page.wait_for_selector(".composer [role=alert]:has-text('big.bin')")
    await chips(tab, "note.txt")
    assert await tab.page.input_value(COMPOSER) == "look at these"
    await tab.page.click(".composer button[aria-label='Send']")
    await tab.sees("Got note.txt with 12 bytes.")
    await tab.page.wait_for_function("() => !document.querySelector('.composer [role=alert]').textContent")
    await stage.finish(tab)
    assert await tab.count("big.bin") == 0


@pytest.mark.heavy
async def test_the_largest_file_is_sent_while_the_page_goes_on(stage: Stage, tmp_path: Path) -> None:
    async with served(tmp_path, use=AGENT) as server:
        tab = await Stage(server, stage.browser).tab()
        await tab.open()
        whole = {"name": "whole.bin", "type": "application/octet-stream", "zeros": LARGEST_BYTES}
        await gives(tab, "dropped on the composer", whole)
        await chips(tab, "whole.bin")
        await tab.page.evaluate(WATCHES_PAUSES)
        await tab.ask("look at this")
        await tab.sees(f"Got whole.bin with {LARGEST_BYTES} bytes.")
        assert await tab.page.evaluate("window.longest") < LONGEST_PAUSE_MS
        assert tab.complaints == []
        await tab.page.context.close()


@pytest.mark.heavy
@pytest.mark.parametrize("size", [BODY_BYTES, LARGEST_BYTES])
async def test_more_than_the_server_takes_is_refused_and_the_words_stay(tab: Tab, size: int) -> None:
    whole = {"name": "whole.bin", "type": "application/octet-stream", "zeros": size}
    await gives(tab, "dropped on the composer", whole)
    await chips(tab, "whole.bin")
    await tab.ask("look at this")
    await tab.page.wait_for_selector(f".question[data-state=refused] [role=alert]:has-text('{BODY_BYTES} bytes')")
    assert await tab.count("look at this") == 1
    assert await tab.count("larger than this server takes") == 1
    await tab.page.click(".question button:has-text('Discard')")
    await tab.page.wait_for_selector(".question", state="detached")
    await tab.page.wait_for_selector(".page[data-state=idle]")


@pytest.mark.heavy
async def test_a_file_that_is_taken_back_is_not_sent(stage: Stage, tab: Tab) -> None:
    await gives(tab, "pasted", NOTE, DOT)
    await chips(tab, "note.txt", "dot.png")
    await tab.page.click(".chip:has-text('note.txt') button")
    await chips(tab, "dot.png")
    await gives(tab, "pasted", EMPTY)
    await chips(tab, "dot.png", "empty.txt")
    await tab.ask("look at these")
    await tab.sees("Got dot.png")
    await stage.finish(tab)
    assert await tab.count("note.txt") == 0


async def test_files_go_both_ways(stage: Stage, tab: Tab) -> None:
    picked = [{"name": one["name"], "mimeType": one["type"], "buffer": one["data"]} for one in (NOTE, DOT)]
    await tab.page.set_input_files("input[type=file]", picked)
    await chips(tab, "note.txt", "dot.png")
    await tab.ask("look at these")
    await tab.sees("Got note.txt with 12 bytes.")
    await tab.settled()
    await tab.ask("files please")
    await tab.settled(2)
    for index in range(2):
        await tab.page.locator("article .picture img").nth(index).evaluate("image => image.decode()")
    await tab.sees("table.csv")
    async with tab.page.expect_download() as download:
        await tab.page.click("a.file:has-text('table.csv')")
    path = await (await download.value).path()
    assert Path(path).read_bytes() == b"a,b\n1,2\n" * 300
    await stage.finish(tab, answers=2)
