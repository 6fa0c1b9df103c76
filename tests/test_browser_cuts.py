"""The chat page behind a network that breaks: cut, silent, or silent one way, at the worst moments.

Only the page's own clock is moved; no test waits for the seconds it tells of.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.browser import FIRST, LIMIT_MS, SECOND, WATCHED, Stage, Tab, opened_at_the_end, staged
from tests.cutting_proxy import CuttingProxy, cutting_proxy

pytestmark = [pytest.mark.anyio, pytest.mark.process]

CUT_MS = 20_000
# The page's longest pause between two attempts.
PAUSE_MS = 10_000
# The silence after which the page takes a connection or a request for dead, and how late it may look.
SILENCE_MS = 35_000
ENDED = re.compile(rb'"outcome":"')


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("page")) as built:
        yield built


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    async with theatre.story() as ready:
        yield ready


@pytest.fixture
async def network(stage: Stage) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(int(stage.server.url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
async def tab(stage: Stage, network: CuttingProxy) -> Tab:
    """A tab that reaches the server over the network that breaks, and whose clock a test moves."""
    opened = await stage.tab(url=network.url, offline=False)
    await opened.page.clock.install()
    await opened.open()
    return opened


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_MS / 1000):
        while not found():
            await asyncio.sleep(0)


async def stored(stage: Stage, tab: Tab, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Until the server, asked past the network, says what is wanted of the tab's conversation."""
    async with asyncio.timeout(LIMIT_MS / 1000), stage.server.client() as client:
        while True:
            answer = await client.get(f"/api/chat/{tab.conversation}")
            if answer.status_code == 200 and wanted(answer.json()):
                return


def ended(conversation: dict[str, Any]) -> bool:
    return conversation["turn"] is None and conversation["messages"][-1]["role"] == "assistant"


async def passes(tab: Tab, milliseconds: int) -> None:
    """So much of the page's own time."""
    await tab.page.clock.fast_forward(milliseconds)


async def says_that_it_reconnects(tab: Tab) -> None:
    await tab.page.wait_for_selector(".trouble span")


async def says_no_more(tab: Tab) -> None:
    await tab.page.wait_for_selector(".trouble span", state="detached")


async def test_twenty_seconds_without_a_network_cost_nothing(stage: Stage, network: CuttingProxy, tab: Tab) -> None:
    with opened_at_the_end(stage.gate()) as go:
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        network.cut()
        await says_that_it_reconnects(tab)
        for _ in range(4):
            await passes(tab, CUT_MS // 4)
        go.touch()
        await stored(stage, tab, ended)
        assert await tab.count("second0") == 0
        network.heal()
        await passes(tab, PAUSE_MS)
        await tab.sees("second19")
        await says_no_more(tab)
        await stage.finish(tab, cut=True)
    assert await tab.page.evaluate("window.most") == 1
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert await tab.outcome() == "done"


@pytest.mark.heavy
@pytest.mark.parametrize("lost", [False, True], ids=["goes on", "is lost"])
async def test_a_connection_that_falls_silent_and(stage: Stage, network: CuttingProxy, tab: Tab, lost: bool) -> None:
    with opened_at_the_end(stage.gate()) as go:
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        network.hang()
        go.touch()
        await stored(stage, tab, ended)
        await passes(tab, CUT_MS)
        network.heal(lost=lost)
        if lost:
            assert await tab.count("second0") == 0
            await passes(tab, SILENCE_MS - CUT_MS)
        await tab.sees("second19")
        await stage.finish(tab, cut=lost)
    assert await tab.page.evaluate("window.most") == 1
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert await tab.outcome() == "done"


@pytest.mark.heavy
async def test_a_silence_of_a_minute_is_told_and_over_at_once(stage: Stage, network: CuttingProxy, tab: Tab) -> None:
    with opened_at_the_end(stage.gate()) as go:
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        network.hang()
        await passes(tab, SILENCE_MS)
        await says_that_it_reconnects(tab)
        await until(lambda: b"/stream?" in network.swallowed)
        await passes(tab, CUT_MS)
        network.heal()
        await says_no_more(tab)
        assert await tab.page.locator("[data-state=live]").count() == 1
        go.touch()
        await stage.finish(tab, cut=True)
    assert await tab.page.evaluate("window.most") == 1
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


@pytest.mark.heavy
async def test_requests_that_a_network_swallowed_are_made_again(stage: Stage, network: CuttingProxy, tab: Tab) -> None:
    with opened_at_the_end(stage.gate()) as go:
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        network.hang()
        await passes(tab, SILENCE_MS)
        await says_that_it_reconnects(tab)
        await until(lambda: b"/stream?" in network.swallowed)
        network.heal(lost=True)
        await passes(tab, SILENCE_MS)
        await says_no_more(tab)
        go.touch()
        await stage.finish(tab, cut=True)


async def test_a_finish_that_is_lost_is_fetched(stage: Stage, network: CuttingProxy, tab: Tab) -> None:
    with opened_at_the_end(stage.gate()) as go:
        await tab.ask(f"held {go}")
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        network.hang_at(ENDED)
        go.touch()
        await network.struck.wait()
        await stored(stage, tab, ended)
        network.cut()
        await says_that_it_reconnects(tab)
        assert await tab.page.locator(".answer[data-state=live]").count() == 1
        network.heal()
        await passes(tab, PAUSE_MS)
        await says_no_more(tab)
        await stage.finish(tab, cut=True)
    assert await tab.page.evaluate("window.most") == 1
    assert await tab.outcome() == "done"


async def test_a_turn_that_failed_during_a_cut_is_shown_as_failed(
    stage: Stage, network: CuttingProxy, tab: Tab
) -> None:
    with opened_at_the_end(stage.gate()) as go:
        await tab.ask(f"breaks {go}")
        await tab.sees("first19")
        network.cut()
        go.touch()
        await stored(stage, tab, ended)
        await says_that_it_reconnects(tab)
        network.heal()
        await passes(tab, PAUSE_MS)
        await tab.page.wait_for_selector(".outcome.failed")
        await stage.finish(tab, cut=True)
    assert await tab.outcome() == "failed"
    assert await tab.count("the model went away") == 1
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


@pytest.mark.parametrize("fate", ["the question is cut off", "the question is swallowed", "the reply is cut off"])
async def test_a_question_is_sent_once_when(stage: Stage, network: CuttingProxy, tab: Tab, fate: str) -> None:
    network.hang(up=fate.startswith("the question"))
    await tab.ask(f"counts {stage.gate().name}")
    await tab.page.wait_for_selector(".question[data-state=sending]")
    if fate == "the reply is cut off":
        await stored(stage, tab, ended)
    else:
        await until(lambda: b"POST /api/chat" in network.swallowed)
    if fate == "the question is swallowed":
        network.heal(lost=True)
        await passes(tab, SILENCE_MS)
    else:
        network.cut()
        await says_that_it_reconnects(tab)
        await passes(tab, CUT_MS)
        network.heal()
        await passes(tab, PAUSE_MS)
    await tab.sees("This is run 1.")
    await says_no_more(tab)
    await stage.finish(tab, cut=True)
    assert await tab.count("This is run") == 1
    assert await tab.page.locator(".question").count() == 1


@pytest.mark.heavy
async def test_answer_again_is_done_once_when_the_reply_is_lost(stage: Stage, network: CuttingProxy, tab: Tab) -> None:
    await tab.ask(f"counts {stage.gate().name}")
    await tab.settled()
    network.hang(up=False)
    await tab.page.click(".answer button[aria-label='Answer again']")
    await stored(stage, tab, lambda said: ended(said) and "run 2" in str(said["messages"][-1]))
    network.cut()
    await says_that_it_reconnects(tab)
    network.heal()
    await passes(tab, PAUSE_MS)
    await tab.sees("This is run 2.")
    await says_no_more(tab)
    await stage.finish(tab, cut=True)
    assert await tab.count("This is run") == 1
