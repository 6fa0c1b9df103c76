"""The stock `useChat` of every line of the AI SDK, in Chromium: what a person sees is what the conversation holds.

Every settled page is compared with the same page loaded anew, and its console must be clean.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests import node_clients
from tests.react_pages import BROKEN, Answers, Stage, Tab, staged
from tests.test_clients import plain
from tests.use_chat_agent import LENGTHY

pytestmark = [pytest.mark.anyio, pytest.mark.process]

LINES = pytest.mark.parametrize("line", [*(pytest.param(old, marks=pytest.mark.heavy) for old in (5, 6)), 7])
HALF = ["text", "The first half"]
WHOLE = ["text", "The first half and the second."]

REPLACED = """first => {
  const last = JSON.parse(window.shown).at(-1);
  return last.role === 'assistant' && last.id !== first;
}"""

# The questions that the agent answers at once, and what then stands there.
KINDS: dict[str, list[list[str]]] = {
    "text": [["text", "Hello, world: 你好 😀\n\n\u2028end"]],
    "reasoning": [["reasoning", "Let me think."], ["text", "Done."]],
    "tools": [
        ["text", "Looking."],
        ["search output-available", '{"q":"x"} → {"found":["é",2,null]}'],
        ["run output-available", '{"code":[1]} → {"exit":0}'],
        ["search output-available", "null → null"],
        ["text", "Found."],
    ],
    "toolerror": [
        ["search output-error", '{"q":1} → "The index is gone."'],
        ["run output-error", '"{\\"broken" → "These arguments are no JSON."'],
        ["text", "It did not work."],
    ],
    "file": [["text", "Here:"], ["file", "table.csv, text/csv"], ["source", "A page"], ["text", "That was it."]],
    "data": [["data-chart", '{"step":2}'], ["text", "Charted."], ["data-plain", "[1,null]"]],
}


@pytest.fixture(scope="module")
def bundles() -> Path:
    """The bundled pages."""
    try:
        return node_clients.bundle(node_clients.install())
    except node_clients.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory, bundles: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("pages"), bundles) as stage:
        yield stage


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    """The server and the browser that all tests share."""
    yield theatre
    await theatre.close()


async def _opened(stage: Stage, line: int, name: str, page: str = "parts") -> Tab:
    tab = await stage.tab(line, page, id=f"{page}-{line}-{name}", ui=str(line))
    await tab.open()
    await tab.quiet()
    return tab


async def _is_stored(stage: Stage, tab: Tab, line: int, complaints: tuple[str, ...] = ()) -> None:
    """What stands there is what the server holds and what a reload shows; leaves the page loaded anew."""
    shown = await tab.answers()
    assert tab.complaints == list(complaints)
    if messages := await tab.messages():
        held = await stage.held(tab.conversation)
        for one, other in zip(messages, held, strict=True):
            if _outcome(other) == "failed":
                one["metadata"] = other["metadata"]  # the client takes nothing after an error
            assert plain(one, f"ai{line}", str(line)) == plain(other, f"ai{line}", str(line))
    await tab.open()
    await tab.quiet()
    assert (await tab.settled(len(shown)), tab.resumed[-1]) == (shown, 204)
    assert tab.complaints == list(complaints)


def _outcome(message: dict[str, Any]) -> str | None:
    about: dict[str, Any] = message.get("metadata", {}).get("turnwire", {})
    return about.get("outcome")


@LINES
async def test_every_kind_of_part_is_shown(stage: Stage, line: int, subtests: pytest.Subtests) -> None:
    tab = await _opened(stage, line, "kinds")
    for count, (question, expected) in enumerate(KINDS.items(), 1):
        await tab.ask(question)
        shown = await tab.settled(count)
        with subtests.test(question):
            assert shown[-1] == expected
    assert await tab.page.text_content("aside") == "only now"
    async with tab.page.expect_download() as download:
        await tab.page.click("a[data-part=file]", modifiers=["Alt"])
    assert Path(await (await download.value).path()).read_bytes() == b"a,b\n1,2\n"
    await _is_stored(stage, tab, line)
    assert await tab.page.text_content("aside") == ""


@LINES
async def test_a_failed_turn_says_why_and_the_next_one_works(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "fail")
    await tab.ask("fail")
    (answer,) = await tab.settled()
    assert answer[0] == ["text", "As far as"]
    assert await tab.page.text_content("[role=alert]") == "Error: The model ran out of words."
    await _is_stored(stage, tab, line)
    assert await tab.page.get_attribute("article:last-of-type", "data-outcome") == "failed"
    await tab.ask("count")
    assert (await tab.settled(2))[-1] == [["text", "I have read 3 messages."]]
    assert await tab.page.locator("[role=alert]").count() == 0
    await _is_stored(stage, tab, line)


@LINES
async def test_stop_ends_the_turn_with_what_it_had_said(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "stop")
    await tab.ask("stop")
    await tab.sees("One ")
    await tab.press("Stop")
    (answer,) = await tab.settled()
    assert answer[0] == ["text", "One "]
    await _is_stored(stage, tab, line)
    assert await tab.page.get_attribute("article:last-of-type", "data-outcome") == "stopped"


@pytest.mark.heavy
@LINES
async def test_a_reload_in_the_middle_and_a_second_tab_show_the_whole_answer_once(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "slow")
    await tab.ask("slow")
    await tab.sees(HALF[1])
    before = await tab.answers()
    assert before[0][-1] == HALF
    await tab.open()
    second = await stage.tab(line, "parts", id=tab.conversation, ui=str(line))
    await second.open()
    for one in (tab, second):
        await one.sees(HALF[1])
        assert await one.answers() == before
    await stage.let_go(tab.conversation)
    for one in (tab, second):
        assert await one.settled() == [[*before[0][:-1], WHOLE]]
    second.conversation = tab.conversation
    for one in (tab, second):
        await _is_stored(stage, one, line)


@pytest.mark.heavy
@LINES
async def test_who_only_leaves_can_return_to_the_turn(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "leave")
    await tab.ask("slow")
    await tab.sees(HALF[1])
    await tab.press("Leave")
    before = await tab.settled()
    assert before[0][-1] == HALF
    await tab.press("Return")
    await tab.page.wait_for_selector("main[data-status=streaming]")
    await stage.let_go(tab.conversation)
    await tab.sees(WHOLE[1])
    assert await tab.settled() == [[*before[0][:-1], WHOLE]]
    await _is_stored(stage, tab, line)


@LINES
async def test_a_rewrite_leaves_the_right_text_once(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "rewrite")
    await tab.ask("rewrite")
    await tab.sees("Total: 10")
    (before,) = await tab.answers()
    await stage.let_go(tab.conversation)
    await tab.sees("Total: 12")
    assert await tab.answers() == [[*before[:-1], ["text", "Total: 12"]]]
    await stage.let_go(f"{tab.conversation}-2")
    assert await tab.settled() == [[*before[:-1], ["text", "Total: 12 in all."]]]
    await _is_stored(stage, tab, line, (BROKEN,) if line < 7 else ())


@pytest.mark.heavy
@LINES
async def test_an_answer_that_is_made_again_takes_the_place_of_the_first(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "again")
    await tab.ask("count")
    await tab.settled()
    await tab.ask("count")
    expected: Answers = [[["text", "I have read 1 messages."]], [["text", "I have read 3 messages."]]]
    assert await tab.settled(2) == expected
    first = (await tab.messages())[-1]["id"]
    await tab.press("Again")
    await tab.page.wait_for_function(REPLACED, arg=first)
    assert await tab.settled(2) == expected
    await _is_stored(stage, tab, line)


@LINES
async def test_the_page_of_the_documentation_works_unchanged(stage: Stage, line: int) -> None:
    tab = await stage.tab(line, "documented")
    await tab.open()
    await tab.ask("slow")
    await tab.sees("AI: The first half")
    await stage.let_go(tab.conversation)
    await tab.sees("AI: The first half and the second.")
    await tab.ask("count")
    await tab.sees("User: count")
    await tab.sees("AI: I have read 3 messages.")
    await tab.page.wait_for_selector("input:not([disabled])")
    assert (await tab.text()).count("The first half") == 1
    assert tab.complaints == []


@pytest.mark.heavy
@LINES
async def test_the_page_of_the_documentation_that_loads_a_chat_works_unchanged(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "loads", "documented")
    await tab.ask("text")
    await tab.sees("😀\n\n\u2028end")
    await tab.open()
    await tab.sees("User: textAI: Hello, world: 你好 😀\n\n\u2028end")
    await tab.ask("count")
    await tab.sees("AI: I have read 3 messages.")
    assert (await tab.text()).count("Hello") == 1
    assert tab.complaints == []


@LINES
async def test_a_stock_page_resumes_in_the_middle_and_knows_what_was_said(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "resumes", "stock")
    await tab.ask("slow")
    await tab.sees(HALF[1])
    await tab.open()
    await tab.sees(HALF[1])
    assert await tab.answers() == [[HALF]]
    await stage.let_go(tab.conversation)
    assert await tab.settled() == [[WHOLE]]
    await tab.ask("count")
    expected: Answers = [[WHOLE], [["text", "I have read 3 messages."]]]
    assert await tab.settled(2) == expected
    await _is_stored(stage, tab, line)


@pytest.mark.heavy
@pytest.mark.parametrize("line", [7])  # the hooks of the lines before put the replay behind what stands there
async def test_a_stock_page_comes_back_by_itself_to_a_body_that_broke(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "breaks", "stock")
    await tab.ask("rewrite")
    await tab.sees("Total: 10")
    await stage.let_go(tab.conversation)
    await tab.page.wait_for_selector("main[data-status=error]")
    await tab.is_seen_again()
    await tab.sees("Total: 12")
    assert await tab.answers() == [[["text", "Total: 12"]]]
    await stage.let_go(f"{tab.conversation}-2")
    assert await tab.settled() == [[["text", "Total: 12 in all."]]]
    await _is_stored(stage, tab, line, (BROKEN,))


@pytest.mark.heavy
@LINES
async def test_a_stock_page_opens_a_new_conversation_without_an_error(stage: Stage, line: int) -> None:
    tab = await _opened(stage, line, "new", "stock")
    assert tab.resumed[-1] == 204
    assert await tab.settled(0) == []
    assert await tab.page.get_attribute("main", "data-status") == "ready"


@pytest.mark.heavy
@LINES
@pytest.mark.parametrize(("question", "said"), [("stop", "One "), ("lengthy", LENGTHY)])
async def test_the_stop_button_of_the_documentation_stops_the_turn(
    stage: Stage, line: int, question: str, said: str
) -> None:
    tab = await _opened(stage, line, f"stops-{question}", "stock")
    await tab.ask(question)
    await tab.sees(said)
    async with tab.page.expect_response("**/stop") as stopped:
        await tab.press("Stop")
    assert (await stopped.value).status == 202
    assert await tab.settled() == [[["text", said]]]
    assert _outcome((await stage.held(tab.conversation))[-1]) == "stopped"
    await _is_stored(stage, tab, line)
