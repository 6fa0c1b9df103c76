"""What people do in WeCom, and what that causes: turns, stops, answers, notices."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.wecom_rig import Heard, Told, WecomRig, saying, wecom
from turnwire import ToolCall, Turn
from turnwire.channels.wecom.events import read_event, read_message, without_mention, without_secrets
from turnwire.cli import app
from turnwire.clock import sleep
from turnwire.sim._wecom_ws import again
from turnwire.sim.wecom import Callback, Fault
from turnwire.store import StoreUnavailable
from turnwire.testing import FakeClock

TRY_AGAIN = "I cannot take messages just now. Please try again in a minute."
NOT_ALLOWED = "You may not use this bot here; ask who runs it."

in_time = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


def texts(rig: WecomRig, chat: str = "alice") -> list[str]:
    """What the bot has said, finished bubbles and messages alike."""
    assert not [each for each in rig.answers(chat) if each.streaming]
    return [each.text for each in rig.answers(chat)]


async def away(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("the store is away")


# Reading


@pytest.mark.parametrize(
    ("text", "called", "left"),
    [
        ("@Robot hello there", "", "hello there"),
        ("@Robot\u2005hello", "", "hello"),
        ("@Sim bot hello", "Sim bot", "hello"),
        ("@Sim bot", "Sim bot", ""),
        ("@Sim botany is fun", "Sim bot", "botany is fun"),
        ("  @Robot \n /stop ", "", "/stop"),
        ("mail me @home", "", "mail me @home"),
        ("@Robot ask @Bob", "", "ask @Bob"),
        ("@Renamed /stop", "Sim bot", "/stop"),
        ("@", "", ""),
        ("", "", ""),
    ],
)
def test_the_mention_at_the_beginning_is_left_out(text: str, called: str, left: str) -> None:
    assert without_mention(text, called) == left


JUNK: list[Any] = [
    None,
    1,
    "x",
    [],
    {},
    [1],
    {"content": 1},
    {"msg_item": "x"},
    {"msg_item": [1, {"msgtype": "mixed"}]},
]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("kind", ["text", "mixed", "image", "voice", "quote", "from", "event", "other"])
def test_no_content_makes_reading_fail(kind: str, junk: Any) -> None:
    body = {"msgid": "m", "msgtype": kind, "from": {"userid": "u"}, kind: junk}
    said = read_message(body, req_id="r", unreadable="?")
    assert said is None or (said.id, said.group) == ("m", False)
    about = {"from": {"userid": "u"}}
    for event in ("enter_chat", "template_card_event", "feedback_event"):
        read_event({**about, "event": {"eventtype": event, event: junk}})
        read_event({**about, "event": {"eventtype": event, event: {"type": junk, "inaccurate_reason_list": junk}}})
    read_event({"event": junk})
    without_secrets(body)


def test_what_opens_something_stands_in_no_trace() -> None:
    image = {"msgtype": "image", "image": {"url": "https://x/1", "aeskey": "K"}}
    body = {"response_url": "https://x/2", "quote": image, "mixed": {"msg_item": [image]}, "msgid": "m"}
    shown = json.dumps(without_secrets(body))
    assert "https" not in shown
    assert '"K"' not in shown
    assert '"m"' in shown


# What people write


@in_time
async def test_a_text_is_answered_under_its_message(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.say("hi")
        await rig.settled()
        [turn] = heard.turns
        assert (turn.text, turn.user, turn.conversation, turn.files, turn.quote) == ("hi", "alice", "alice", [], None)
        assert [(each.text, each.via) for each in rig.answers()] == [("Heard: hi", "reply")]


@in_time
async def test_a_voice_message_is_its_words(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.people.say_aloud("alice", "how are you")
        await rig.settled()
        assert heard.texts == ["how are you"]


@in_time
async def test_what_cannot_be_read_is_said_to_be_so(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.tell({"msgtype": "location", "location": {"lat": 1}})
        await rig.settled()
        assert heard.texts == ["[a message that this bot cannot read]"]


@in_time
async def test_a_group_is_one_conversation_under_its_own_name(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.add_group("wr_group", members=["alice"], bots=[rig.sim.bot_id])
        for number, (chat, user) in enumerate([("wr_Group", "alice"), ("wr_Group", "bob"), ("wr_group", "alice")]):
            rig.say(f"hello {number}", chat, user=user)
            await rig.settled(number + 1)
        found = [(turn.text, turn.user, turn.conversation) for turn in heard.turns]
        assert found == [
            ("hello 0", "alice", "wr_Group"),
            ("hello 1", "bob", "wr_Group"),
            ("hello 2", "alice", "wr_group"),
        ]
        assert len(heard.turns[1].messages) == 3
        assert texts(rig, "wr_Group") == ["Heard: hello 0", "Heard: hello 1"]
        assert texts(rig, "wr_group") == ["Heard: hello 2"]


@in_time
async def test_who_only_mentions_the_bot_is_answered(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.say("", rig.sim.group)
        await rig.settled()
        assert heard.texts == ["@Sim bot"]


@in_time
async def test_what_is_quoted_is_told_to_the_agent(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.say("The sky is green.")
        await rig.settled()
        rig.say("Is that so?", quote=rig.view().messages[0].message_id)
        await rig.settled(2)
        assert [turn.quote for turn in heard.turns] == [None, "The sky is green."]
        assert heard.texts[1] == "Is that so?"


@in_time
@pytest.mark.parametrize("sender", [{}, {"userid": ""}, {"userid": "bot_sim"}, None])
async def test_bots_are_not_answered(tmp_path: Path, clock: FakeClock, sender: Any) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.tell({"msgtype": "text", "text": {"content": "beep"}, "chattype": "group", "chatid": "wr_Group",
                  "from": sender})  # fmt: skip
        rig.say("hi")
        await rig.settled()
        await rig.pass_time(5)
        assert heard.texts == ["hi"]
        assert rig.answers(rig.sim.group) == []


# Once, however often


@in_time
async def test_a_message_that_comes_twice_is_one_turn_and_one_answer(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("callback", "duplicate"))
        rig.say("hi")
        await rig.settled()
        await rig.pass_time(5)
        assert heard.texts == ["hi"]
        assert texts(rig) == ["Heard: hi"]


@in_time
async def test_a_copy_that_comes_to_another_process_is_no_other_message(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        told = rig.say("hi")
        await rig.settled()
        await rig.restart()
        rig.sim.sockets._tell(again(rig.sim.platform, told))
        await rig.pass_time(5)
        assert heard.texts == ["hi"]
        assert texts(rig) == ["Heard: hi"]


@in_time
async def test_everybody_who_writes_at_once_is_answered(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        people = [f"person{number}" for number in range(40)]
        for person in people:
            rig.say(f"I am {person}", rig.sim.single(person))
        await rig.settled(len(people))
        assert sorted(heard.texts) == sorted(f"I am {person}" for person in people)
        for person in people:
            assert texts(rig, rig.sim.single(person)) == [f"Heard: I am {person}"]


# Who may


@in_time
async def test_who_is_not_on_the_list_is_told_once_and_not_answered(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock, bot={"allow": ["bob"]}) as rig:
        rig.sim.faults.add(Fault("callback", "duplicate"))
        rig.say("hi")
        rig.say("hi", rig.sim.group)
        rig.say("and me?", rig.sim.group, user="bob")
        await rig.settled()
        await rig.pass_time(5)
        assert heard.texts == ["and me?"]
        assert texts(rig) == [NOT_ALLOWED]
        assert texts(rig, rig.sim.group) == ["Heard: and me?"]


@in_time
async def test_a_group_can_be_on_the_list(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock, bot={"allow": ["wr_Group"]}) as rig:
        rig.say("hi", rig.sim.group)
        await rig.settled()
        assert heard.texts == ["hi"]


# What cannot be taken


@in_time
@pytest.mark.parametrize("language", ["en", "zh"])
async def test_who_writes_while_the_store_is_away_is_asked_to_try_again(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock, bot={"language": language}) as rig:
        submit = rig.gateway.submit
        monkeypatch.setattr(rig.gateway, "submit", away)
        told = rig.say("hi")
        again_words = {"en": TRY_AGAIN, "zh": "暂时无法接收消息，请一分钟后重试。"}[language]
        await rig.until(lambda: rig.shows(again_words))
        monkeypatch.setattr(rig.gateway, "submit", submit)
        # Who was asked to write again does so; a copy of the first message would be answered beside that.
        rig.sim.sockets._tell(again(rig.sim.platform, told))
        rig.say("hi again")
        await rig.settled()
        assert heard.texts == ["hi again"]
        assert texts(rig) == [again_words, "Heard: hi again"]


@in_time
async def test_a_copy_of_what_was_taken_is_no_reason_to_ask_for_it_again(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        told = rig.say("hi")
        await rig.settled()
        monkeypatch.setattr(rig.gateway, "submit", away)
        rig.sim.sockets._tell(again(rig.sim.platform, told))
        await rig.pass_time(5)
        assert texts(rig) == ["Heard: hi"]


@in_time
async def test_the_request_to_try_again_arrives_though_the_connection_is_lost(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wecom(tmp_path, Heard().agent, clock=clock) as rig:
        monkeypatch.setattr(rig.gateway, "submit", away)
        rig.sim.faults.add(Fault("finish", "reset_before_applying"))
        rig.say("hi")
        await rig.until(lambda: rig.shows(TRY_AGAIN))
        await rig.pass_time(60)
        assert texts(rig) == [TRY_AGAIN]


@in_time
@pytest.mark.parametrize("how", ["deaf", "draining"])
async def test_who_writes_while_the_gateway_stops_is_asked_to_try_again(
    tmp_path: Path, clock: FakeClock, how: str
) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        if how == "deaf":
            await rig.channel.stop_listening()
        else:
            rig.gateway.supervisor.draining = True
        rig.say("hi")
        await rig.until(lambda: rig.shows(TRY_AGAIN))
        assert heard.texts == []
        assert texts(rig) == [TRY_AGAIN]


@in_time
async def test_who_writes_too_much_is_told_so(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.turns.admission.MAX_QUEUED", 1)
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.say("two")
        rig.say("three")
        await rig.until(lambda: rig.shows("Too much is waiting"))
        told.end()
        told.end()
        await rig.settled(2)
        assert len([text for text in texts(rig) if "Too much" in text]) == 1


# While a turn runs


@in_time
@pytest.mark.parametrize(
    ("policy", "heard", "answers"),
    [
        ("queue", ["one", "two", "three"], 3),
        ("collect", ["one", "two\n\nthree"], 2),
        ("interrupt", ["one", "three"], 3),
        ("reject", ["one"], 3),
    ],
)
async def test_messages_while_a_turn_runs(
    tmp_path: Path, clock: FakeClock, policy: str, heard: list[str], answers: int
) -> None:
    asked: list[str] = []
    go = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        asked.append(turn.text)
        yield f"To {turn.text}: "
        await go.wait()
        yield "done."

    async with wecom(tmp_path, agent, clock=clock, turns__policy=policy) as rig:
        rig.say("one")
        await rig.until(lambda: rig.shows("To one"))
        rig.say("two")
        rig.say("three")
        await rig.calm()
        go.set()
        await rig.settled(len(heard))
        await rig.until(lambda: len(rig.answers()) >= answers)
        assert [text for text in asked if text in heard] == heard
        assert len([text for text in texts(rig) if "Too much" in text]) == (2 if policy == "reject" else 0)


@in_time
async def test_a_message_that_steers_a_turn_reaches_it(tmp_path: Path, clock: FakeClock) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield f"To {turn.text}: "
        async for more in turn.inbox:
            yield f"and {more.text}."
            return

    async with wecom(tmp_path, agent, clock=clock, turns__policy="steer") as rig:
        rig.say("one")
        await rig.until(lambda: rig.shows("To one"))
        rig.say("two")
        await rig.settled()
        assert any("and two." in text for text in texts(rig))


@in_time
@pytest.mark.parametrize("chat", ["alice", "wr_Group"])
async def test_commands(tmp_path: Path, clock: FakeClock, chat: str) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        for number, text in enumerate(["one", "/help", "/new", "two"]):
            rig.say(text, chat)
            await rig.settled(number + 1)
        assert heard.texts == ["one", "two"]
        assert len(heard.turns[1].messages) == 1
        assert "/stop" in texts(rig, chat)[1]
        assert len(texts(rig, chat)) == 4


@in_time
async def test_a_turn_is_stopped_by_a_command(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.say("/stop")
        await rig.settled(2)
        assert any("Hello" in text and "This answer was stopped." in text for text in texts(rig))
        assert "Stopped." in texts(rig)


# Being greeted


@in_time
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


@in_time
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


@in_time
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


@in_time
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


@in_time
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


@in_time
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


@in_time
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


@in_time
async def test_a_click_in_another_chat_answers_nothing(tmp_path: Path, clock: FakeClock) -> None:
    pays = Pays()
    async with wecom(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        card = await card_of(rig)
        clicks(rig, card, rig.sim.single("bob"), "bob")
        await rig.pass_time(5)
        assert pays.resumed == []
        assert "There is nothing to answer here any more." in told_by(rig, card)


@in_time
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


@in_time
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


@in_time
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


@in_time
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


@in_time
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
