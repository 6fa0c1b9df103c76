"""Approvals in the chat page: whoever answers, wherever and whenever, every tab shows what was recorded, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import AGENT, FIRST, LIMIT_MS, SECOND, Stage, Tab, opened_at_the_end, staged
from tests.server_process import served

pytestmark = [pytest.mark.anyio, pytest.mark.process]

ALLOW, DENY, REASON = ".choices .primary", ".denial button", ".denial input"
# How often the answer's beginning ever stood there, and whether its article was ever another one.
WATCHED = """() => {
  const log = document.querySelector('[role=log]');
  window.counts = new Set();
  window.article = document.querySelector('.answer');
  const look = () => window.counts.add(log.textContent.split('Let me see.').length - 1);
  look();
  new MutationObserver(look).observe(log, { subtree: true, childList: true, characterData: true });
}"""
STEADY = "[...window.counts].join() === '1' && window.article === document.querySelector('.answer')"


@pytest.fixture(scope="module")
async def theatre(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    async with staged(tmp_path_factory.mktemp("page")) as built:
        yield built


@pytest.fixture
async def stage(theatre: Stage) -> AsyncIterator[Stage]:
    async with theatre.story() as ready:
        yield ready


async def asked(stage: Stage, text: str = "pays", *, calls: int = 1) -> Tab:
    """A tab in which somebody is asked, and whose answer is watched from then on."""
    tab = await stage.tab()
    await tab.open()
    await tab.ask(text)
    await ready(tab, calls)
    await tab.page.evaluate(WATCHED)
    return tab


async def ready(tab: Tab, calls: int = 1) -> None:
    """Until so many calls can be answered."""
    await tab.page.wait_for_function(
        "count => document.querySelectorAll('.choices .primary:enabled').length === count", arg=calls
    )


async def stands(tab: Tab, *states: str) -> None:
    """Until the calls stand so, from top to bottom."""
    await tab.page.wait_for_function(
        "states => [...document.querySelectorAll('[data-tool]')].map((one) => one.dataset.tool).join() === states",
        arg=",".join(states),
    )


async def told(tab: Tab, text: str) -> None:
    """Until screen readers were told so."""
    await tab.page.wait_for_function(
        "text => document.querySelector('p[role=status]').textContent.includes(text)", arg=text
    )


async def test_a_call_that_is_allowed_is_made_and_the_answer_goes_on_in_its_place(stage: Stage) -> None:
    tab = await asked(stage)
    assert await tab.outcome() == "waiting"
    assert await tab.count("Waiting for your approval.") == 1
    panel = tab.page.locator("details.tool[open]")
    shown = await panel.inner_text()
    for part in ("Pay the bill", "pay", '"eur": 5', "needs your approval", "Allow", "Deny"):
        assert part in shown
    await tab.page.click(ALLOW)
    await tab.sees("Paid pay-1.")
    await stage.finish(tab)
    assert await tab.page.evaluate(STEADY)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert await tab.outcome() == "done"
    await stands(tab, "done")
    assert await tab.page.locator(".verdict").inner_text() == "Allowed"
    assert await tab.count("Waiting for your approval.") == 0


async def test_a_call_that_is_denied_says_why_after_a_reload_too(stage: Stage) -> None:
    tab = await asked(stage)
    await tab.page.fill(REASON, "too dear")
    await tab.page.press(REASON, "Enter")
    await tab.sees("Kept pay-1.")
    await stage.finish(tab)
    assert await tab.page.evaluate(STEADY)
    await stands(tab, "denied")
    assert await tab.page.locator(".verdict").inner_text() == "Denied: too dear"
    await tab.page.reload()
    await tab.settled()
    assert await tab.page.locator(".verdict").text_content() == "Denied: too dear"


async def test_a_question_is_still_there_after_a_reload(stage: Stage) -> None:
    tab = await asked(stage)
    await tab.page.reload()
    await ready(tab)
    assert await tab.page.locator("details.tool[open]").count() == 1
    await tab.page.click(ALLOW)
    await tab.sees("Paid pay-1.")
    await stage.finish(tab)


@pytest.mark.heavy
async def test_a_reload_while_the_answer_goes_on_shows_it_once(stage: Stage) -> None:
    with opened_at_the_end(stage.gate()) as go:
        tab = await asked(stage, f"pays {go}")
        await tab.page.click(ALLOW)
        await tab.sees("first19")
        assert await tab.page.evaluate(STEADY)
        await tab.page.reload()
        await tab.sees("first19")
        await tab.page.evaluate(WATCHED)
        assert await tab.page.locator(".answer[data-state=live]").count() == 1
        go.touch()
        await stage.finish(tab)
    assert await tab.page.evaluate(STEADY)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


@pytest.mark.heavy
async def test_a_cut_while_the_answer_goes_on_costs_nothing(stage: Stage) -> None:
    with opened_at_the_end(stage.gate()) as go:
        tab = await stage.tab(offline=False)
        await tab.open()
        await tab.ask(f"pays {go}")
        await ready(tab)
        await tab.page.evaluate(WATCHED)
        await tab.page.context.set_offline(True)
        await tab.page.click(ALLOW)
        await tab.page.wait_for_selector(".choices .primary:disabled")
        await tab.page.context.set_offline(False)
        await tab.sees("first19")
        await tab.page.context.set_offline(True)
        await tab.page.wait_for_selector(".trouble span")
        await tab.page.context.set_offline(False)
        await tab.page.wait_for_selector(".trouble span", state="detached")
        go.touch()
        await stage.finish(tab, cut=True)
    assert await tab.page.evaluate(STEADY)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)
    assert await tab.outcome() == "done"


async def test_a_second_tab_sees_the_question_and_the_answer(stage: Stage) -> None:
    with opened_at_the_end(stage.gate()) as go:
        one = await asked(stage, f"pays {go}")
        two = await stage.tab()
        await two.open(one.conversation)
        await ready(two)
        await two.page.evaluate(WATCHED)
        await one.page.click(ALLOW)
        await two.sees("first19")
        go.touch()
        await stage.finish(one, two)
    for tab in (one, two):
        assert await tab.page.evaluate(STEADY)
        assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


@pytest.mark.heavy
async def test_of_two_answers_at_once_the_first_counts_in_both_tabs(stage: Stage) -> None:
    one = await asked(stage)
    two = await stage.tab()
    await two.open(one.conversation)
    await ready(two)
    await two.page.evaluate(WATCHED)
    sent = asyncio.Event()
    goes = asyncio.Event()

    async def late(route: Any) -> None:
        sent.set()
        await goes.wait()
        await route.continue_()

    await two.page.route("**/api/approvals/**", late)
    await two.page.click(ALLOW)
    async with asyncio.timeout(LIMIT_MS / 1000):
        await sent.wait()
    assert await two.page.locator(".choices .primary:disabled").inner_text() == "Sending …"
    await one.page.fill(REASON, "not now")
    await one.page.click(DENY)
    await one.sees("Kept pay-1.")
    goes.set()
    await stage.finish(one, two)
    for tab in (one, two):
        assert await tab.page.evaluate(STEADY)
        assert await tab.page.locator(".verdict").inner_text() == "Denied: not now"


@pytest.mark.heavy
async def test_an_answer_that_comes_too_late_shows_what_was_recorded(stage: Stage) -> None:
    tab = await asked(stage)
    approval = await tab.page.locator("[data-approval]").get_attribute("data-approval")
    # This tab learns nothing of the other answer before its own.
    await tab.page.route("**/api/chat/**", lambda route: route.abort())
    await tab.page.route("**/events", lambda route: route.abort())
    async with stage.server.client() as client:
        other = await client.post(f"/api/approvals/{approval}", json={"approved": False, "reason": "by phone"})
        assert other.json()["first"] is True
    await tab.page.click(ALLOW)
    await stands(tab, "denied")
    await tab.page.unroute_all()
    await stage.finish(tab, cut=True)
    assert await tab.page.locator(".verdict").inner_text() == "Denied: by phone"


@pytest.mark.heavy
async def test_a_killed_server_keeps_the_question(stage: Stage) -> None:
    tab = await asked(stage)
    await stage.server.kill()
    await tab.page.wait_for_selector(".trouble span")
    await tab.page.click(ALLOW)
    await stage.server.start()
    await tab.sees("Paid pay-1.")
    await tab.page.wait_for_selector(".trouble span", state="detached")
    await stage.finish(tab, cut=True)
    assert await tab.page.evaluate(STEADY)
    assert (await tab.count(FIRST), await tab.count(SECOND)) == (1, 1)


@pytest.mark.heavy
async def test_a_new_message_takes_the_question_away(stage: Stage) -> None:
    tab = await asked(stage)
    await tab.ask("something else")
    await tab.sees("You said: something else")
    await stands(tab, "denied")
    await stage.finish(tab, answers=2)
    assert await tab.page.evaluate(STEADY)
    assert await tab.page.locator(".verdict").inner_text() == "Denied: a newer message came first"
    assert await tab.count("Waiting for your approval.") == 0


@pytest.mark.heavy
async def test_a_question_that_nobody_answers_in_time_expires_in_every_tab(theatre: Stage, tmp_path: Path) -> None:
    settings = "[turns]\nlease_s = 3\napproval_timeout_s = 2\n"
    async with (
        served(tmp_path, use=AGENT, settings=settings) as server,
        Stage(server, theatre.browser).story() as stage,
    ):
        one = await asked(stage)
        two = await stage.tab()
        await two.open(one.conversation)
        for tab in (one, two):
            await stands(tab, "denied")
            assert await tab.page.locator(".verdict").inner_text() == "Denied: nobody answered in time"
            assert await tab.page.locator(".approval").count() == 0
            assert await tab.count("Waiting for your approval.") == 0
        assert await one.page.evaluate(STEADY)
        await stage.finish(one, two)


@pytest.mark.heavy
async def test_several_calls_are_answered_one_by_one_and_then_the_answer_goes_on(stage: Stage) -> None:
    one = await asked(stage, "buys", calls=3)
    two = await stage.tab()
    await two.open(one.conversation)
    await ready(two, 3)
    await two.page.evaluate(WATCHED)
    await one.page.locator(ALLOW).nth(1).click()
    for tab in (one, two):
        await stands(tab, "asked", "allowed", "asked")
        assert await tab.count("Waiting for your approval.") == 1
    await two.page.locator(DENY).nth(1).click()
    for tab in (one, two):
        await stands(tab, "asked", "allowed", "denied")
    await one.page.click(ALLOW)
    for tab in (one, two):
        await tab.sees("Paid buy-0. Paid buy-1. Kept buy-2.")
    await stage.finish(one, two)
    for tab in (one, two):
        assert await tab.page.evaluate(STEADY)
        assert await tab.count(SECOND) == 1


@pytest.mark.heavy
async def test_what_cannot_be_taken_is_said_and_can_be_answered_again(stage: Stage) -> None:
    tab = await asked(stage)
    refusal = {"error": {"code": "bad_request", "message": "not like this"}}
    await tab.page.route("**/api/approvals/**", lambda route: route.fulfill(status=400, json=refusal))
    await tab.page.click(ALLOW)
    await tab.page.wait_for_selector(".approval [role=alert]:has-text('not like this')")
    await tab.page.unroute_all()
    await tab.page.click(ALLOW)
    await tab.sees("Paid pay-1.")
    tab.complaints.clear()
    await stage.finish(tab)


async def test_the_keyboard_answers_and_a_screen_reader_is_told(stage: Stage) -> None:
    tab = await asked(stage)
    await told(tab, "Pay the bill: needs your approval.")
    await tab.page.focus(ALLOW)
    await tab.page.keyboard.press("Enter")
    assert await tab.page.evaluate("document.activeElement.matches('details.tool summary')")
    await tab.sees("Paid pay-1.")
    await told(tab, "Paid pay-1.")
    await stage.finish(tab)
