"""What people write in WeCom, and what that causes: turns, stops, answers, notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.wecom_rig import NOT_ALLOWED, Heard, Told, away, texts, wecom
from turnwire import Turn
from turnwire.channels.wecom.events import read_event, read_message, without_mention, without_secrets
from turnwire.channels.wecom.links import Links
from turnwire.sim._wecom_ws import again
from turnwire.sim.wecom import Fault
from turnwire.testing import FakeClock

TRY_AGAIN = "I cannot take messages just now. Please try again in a minute."

in_time = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


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
        ("hello @Sim bot", "Sim bot", "hello"),
        ("@Bob and @Sim bot meet", "Sim bot", "@Bob and @Sim bot meet"),
        ("@Sim bot @Sim bot", "Sim bot", "@Sim bot"),
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
    link = Links("ours", "key").to("files", "file_1", "a.csv", 0)
    quote = {"msgtype": "text", "text": {"content": f"Look: {link}, there"}}
    body = {"response_url": "https://x/2", "quote": image, "mixed": {"msg_item": [image, quote]}, "msgid": "m"}
    shown = json.dumps(without_secrets(body))
    assert "https" not in shown
    assert link not in shown
    assert "until=604800&signature=***, there" in shown
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
@pytest.mark.parametrize("kind", ["reset_before_applying", "reset_after_applying", "ack_lost", "lost"])
async def test_the_request_to_try_again_is_seen_once_whatever_happens(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with wecom(tmp_path, Heard().agent, clock=clock) as rig:
        monkeypatch.setattr(rig.gateway, "submit", away)
        rig.sim.faults.add(Fault("finish", kind))
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


@in_time
async def test_what_has_no_frame_is_answered_by_who_brings_it(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        reception = rig.channel._reception
        about = {"chattype": "single", "from": {"userid": "alice"}}
        message = {**about, "msgtype": "text", "text": {"content": "hi"}}
        first = await reception.take_body({**message, "msgid": "m1"})
        assert first.admission is not None
        assert (first.text, first.admission.kind) == ("", "created")
        # The platform brings it again until it is answered: whoever answers must learn of the same turn.
        second = await reception.take_body({**message, "msgid": "m1"})
        assert second.admission is not None
        assert (second.admission.kind, second.admission.turn.id) == ("duplicate", first.admission.turn.id)
        monkeypatch.setattr(rig.gateway, "submit", away)
        for repeated in (False, True):
            third = await reception.take_body({**message, "msgid": "m2"})
            assert (third.text, third.repeated, third.admission) == (TRY_AGAIN, repeated, None)
        entered = await reception.take_body({**about, "event": {"eventtype": "enter_chat"}})
        assert entered.text.startswith("Hello!")
        key = {"event_key": "stop:turn_x", "task_id": "t1"}
        event = {"eventtype": "template_card_event", "template_card_event": key}
        clicked = await reception.take_body({**about, "msgtype": "event", "event": event})
        assert clicked.card is not None
        assert clicked.card["task_id"] == "t1"
        await rig.until(lambda: bool(heard.turns))
        assert heard.texts == ["hi"]
        assert rig.answers() == []


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
