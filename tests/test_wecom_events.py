"""What people do in WeCom beside writing: they open a chat, click, and judge answers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.wecom_rig import NOT_ALLOWED, Heard, Told, WecomRig, away, saying, texts, wecom
from turnwire import ToolCall, Turn
from turnwire.cli import app
from turnwire.clock import sleep
from turnwire.sim.wecom import Callback, Fault
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


# Being greeted


@pytest.mark.parametrize(
    ("bot", "said"),
    [
        ({}, ["Hello! Write to me; /help tells what I understand."]),
        ({"welcome": "Good day."}, ["Good day."]),
        ({"welcome": ""}, []),
        ({"allow": ["bob"]}, []),
    ],
)
async def test_who_opens_the_chat_is_greeted(tmp_path: Path, clock: FakeClock, bot: Any, said: list[str]) -> None:
    async with wecom(tmp_path, Heard().agent, clock=clock, bot=bot) as rig:
        rig.sim.people.enter_chat()
        await rig.calm()
        assert [(each.text, each.via) for each in rig.answers()] == [(text, "welcome") for text in said]


@pytest.mark.parametrize(("late", "greeted"), [(4.0, 1), (6.0, 0)])
async def test_a_greeting_that_would_come_too_late_is_not_sent(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, late: float, greeted: int
) -> None:
    async with wecom(tmp_path, Heard().agent, clock=clock) as rig:
        hold_up(rig, monkeypatch, late)
        rig.sim.people.enter_chat()
        await rig.pass_time(10)
        assert len(rig.answers()) == rig.sim.counts.get("welcome", 0) == greeted


def hold_up(rig: WecomRig, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Whatever the bot is told waits so long behind something else."""
    take_body = rig.channel._reception.take_body

    async def later(*told: Any, **more: Any) -> Any:
        await sleep(rig.clock, seconds)
        return await take_body(*told, **more)

    monkeypatch.setattr(rig.channel._reception, "take_body", later)


# Clicks


class Pays:
    """An agent that asks before it pays."""

    def __init__(self) -> None:
        self.resumed: list[tuple[bool, str]] = []

    async def agent(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.resume is None:
            yield "I would pay. "
            yield ToolCall(id="pay-1", name="pay", input={"eur": 5}, needs_approval=True)
            return
        self.resumed.append((turn.resume.approved, turn.resume.by))
        yield "Paid." if turn.resume.approved else "Not paid."


async def card_of(rig: WecomRig) -> str:
    """The message with the only card in alice's chat, once it is there."""
    await rig.until(lambda: any(each.card is not None for each in rig.answers()))
    [message] = [each for each in rig.answers() if each.card is not None]
    return message.message_id


def told_by(rig: WecomRig, message: str) -> str:
    """What a card says, once it asks nothing more."""
    card = rig.sim.message(message).card
    assert card is not None
    assert not card.buttons
    return card.text


@pytest.mark.parametrize(
    ("button", "said", "told"), [("Allow", "Paid.", "Allowed by alice"), ("Deny", "Not paid.", "Denied by alice")]
)
async def test_an_approval_is_answered_by_a_click(
    tmp_path: Path, clock: FakeClock, button: str, said: str, told: str
) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        rig.sim.people.click(card, button)
        await rig.calm()
        assert told in told_by(rig, card)
        await rig.settled(2)
        assert pays.resumed == [(button == "Allow", "alice")]
        assert any(said in text for text in texts(rig))


async def test_of_two_clicks_the_first_one_counts(tmp_path: Path, clock: FakeClock) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        rig.sim.people.click(card, "Deny")
        rig.sim.people.click(card, "Allow")
        await rig.calm()
        assert rig.sim.counts["update"] == 2
        assert "Denied by alice" in told_by(rig, card)
        await rig.settled(2)
        assert pays.resumed == [(False, "alice")]


@pytest.mark.parametrize(("late", "told"), [(4.0, 1), (6.0, 0)])
async def test_a_click_counts_though_it_is_too_late_to_say_so(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, late: float, told: int
) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        hold_up(rig, monkeypatch, late)
        rig.sim.people.click(card, "Allow")
        await rig.settled(2)
        assert pays.resumed == [(True, "alice")]
        assert rig.sim.counts.get("update", 0) == told


async def test_a_click_behind_one_that_cannot_be_answered_is_answered(tmp_path: Path, clock: FakeClock) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        rig.sim.faults.add(Fault("update", "lost"))
        rig.sim.people.click(card, "Allow")
        rig.sim.people.click(card, "Allow")
        await rig.calm()
        assert "Allowed by alice" in told_by(rig, card)


async def test_who_may_not_click_is_told_so(tmp_path: Path, clock: FakeClock) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock, bot={"allow": ["alice"]}) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        clicks(rig, card, rig.sim.single("bob"), "bob")
        await rig.pass_time(5)
        assert pays.resumed == []
        # Only who clicked sees that; the simulator shows the card to everybody alike.
        [update] = [call.body for call in rig.sim.calls if call.op == "update"]
        assert update["userids"] == ["bob"]
        assert NOT_ALLOWED in told_by(rig, card)


async def test_a_click_in_another_chat_answers_nothing(tmp_path: Path, clock: FakeClock) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        clicks(rig, card, rig.sim.single("bob"), "bob")
        await rig.pass_time(5)
        assert pays.resumed == []
        assert "There is nothing to answer here any more." in told_by(rig, card)


async def test_a_click_while_the_store_is_away_leaves_the_card_to_be_clicked_again(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        answer = rig.gateway.answer
        monkeypatch.setattr(rig.gateway, "answer", away)
        rig.sim.people.click(card, "Allow")
        await rig.calm()
        monkeypatch.setattr(rig.gateway, "answer", answer)
        rig.sim.people.click(card, "Allow")
        await rig.settled(2)
        assert pays.resumed == [(True, "alice")]


async def test_a_card_that_is_none_of_ours_says_so(tmp_path: Path, clock: FakeClock) -> None:
    async with wecom(tmp_path, Pays().agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        clicks(rig, card, rig.sim.single(), "alice", event_key="dance")
        await rig.calm()
        assert "This button does nothing any more." in told_by(rig, card)


def clicks(rig: WecomRig, card: str, chat: str, user: str, **more: str) -> Callback:
    """A click on a card that says this of itself."""
    shown = rig.sim.message(card).card
    assert shown is not None
    said = {"card_type": shown.card_type, "event_key": shown.buttons[0][0], "task_id": shown.task_id, **more}
    where = rig.sim.platform.chat(chat)
    return rig.sim.people._event(where, rig.sim.bot_id, user, "template_card_event", said, about=card)


async def test_a_click_stops_an_answer(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock, bot={"stop_card": True}) as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        card = await card_of(rig)
        clicks(rig, card, rig.sim.single("bob"), "bob")
        await rig.calm()
        assert "This answer has ended already." in told_by(rig, card)
        shown = rig.sim.platform.messages[card]
        assert shown.card is not None
        turn = (await rig.unsettled())[0].turn_id
        said = {"card_type": "button_interaction", "event_key": f"stop:{turn}", "task_id": shown.card["task_id"]}
        alice = rig.sim.platform.chat(rig.sim.single())
        rig.sim.people._event(alice, rig.sim.bot_id, "alice", "template_card_event", said, about=card)
        await rig.calm()
        assert "Stopping…" in told_by(rig, card)
        await rig.settled()
        assert any("This answer was stopped." in text for text in texts(rig))


# Opinions


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose configuration names the rig's store."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TURNWIRE_") and "__" in name]:
        monkeypatch.delenv(name)
    (tmp_path / "turnwire.toml").write_text(f'[store]\nurl = "sqlite:///{tmp_path}/wecom.db"\n')
    return tmp_path


async def opinion(delivery: str) -> Any:
    """What `turnwire deliveries show` says of it."""
    said = await asyncio.to_thread(CliRunner().invoke, app, ["deliveries", "show", delivery, "--json"])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)["feedback"]


async def test_what_people_think_of_an_answer_is_kept_with_its_delivery(folder: Path, clock: FakeClock) -> None:
    async with wecom(folder, saying("Hello."), clock=clock) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        [answer] = rig.answers()
        assert await opinion(row.id) is None
        for judged, content, good in [("good", "", True), ("bad", "too short", False), ("cancel", "", None)]:
            rig.sim.people.feedback(answer.message_id, judged, content)
            await rig.calm()
            kept = await opinion(row.id)
            assert (kept["good"], kept["content"], kept["by"]) == (good, content, "alice")
            assert kept["at"] == clock.now()
            await rig.pass_time(1)


@pytest.mark.parametrize("bot", [{}, {"allow": ["alice"]}])
async def test_what_strangers_think_of_an_answer_is_not_kept(folder: Path, clock: FakeClock, bot: Any) -> None:
    async with wecom(folder, saying("Hello."), clock=clock, bot=bot) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        rig.sim.single("bob")
        bob = rig.sim.platform.chat(rig.sim.single("bob"))
        for about in (f"trace_{row.id}-p0c", "trace_dlv_nothing-p0c", "", "x"):
            said = {"id": about, "type": 1, "inaccurate_reason_list": [2]}
            rig.sim.people._event(bob, rig.sim.bot_id, "bob", "feedback_event", said)
        await rig.calm()
        assert await opinion(row.id) is None
