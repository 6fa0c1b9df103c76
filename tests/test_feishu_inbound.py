"""What people do in a Feishu chat, and what that causes: turns, stops, answers, notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.feishu_rig import FeishuRig, Told, feishu, saying
from turnwire import ToolCall, Turn
from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.settings import App
from turnwire.sim._feishu_events import Delivery
from turnwire.sim.feishu import Fault
from turnwire.store import StoreUnavailable
from turnwire.store.queries.deliveries import list_deliveries
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


class Heard:
    """An agent that keeps what it is asked, and answers with it."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    async def agent(self, turn: Turn) -> AsyncIterator[str]:
        self.turns.append(turn)
        yield f"Heard: {turn.text}"

    @property
    def texts(self) -> list[str]:
        return [turn.text for turn in self.turns]


async def taken(rig: FeishuRig) -> None:
    """Every event that was delivered has been taken, in no time."""
    await rig.clock.until(lambda: not rig._tasks)


async def clicked(rig: FeishuRig, message: str, button: str) -> Delivery:
    """Somebody has clicked, and got an answer."""
    click = rig.sim.people.click(message, button)
    await rig.clock.until(lambda: click.state != "sent")
    assert click.answer is not None
    return click


def arrives(rig: FeishuRig, chat: str, text: str, mentions: list[dict[str, Any]], **message: Any) -> None:
    """A message whose event says exactly this."""
    people = rig.sim.people
    said = rig.sim.tenant.make_id("om_")
    about = {
        "message_id": said, "chat_id": chat, "chat_type": "group", "message_type": "text",
        "create_time": str(int(rig.clock.now() * 1000)), "content": json.dumps({"text": text}), "mentions": mentions,
    }  # fmt: skip
    sender = {"sender_id": {"open_id": "ou_alice"}, "sender_type": message.pop("sender_type", "user")}
    people._emit(rig.sim.app_id, "im.message.receive_v1", {"sender": sender, "message": {**about, **message}})


def mention(number: int, name: str, open_id: str) -> dict[str, Any]:
    return {"key": f"@_user_{number}", "id": {"open_id": open_id}, "mentioned_type": "user", "name": name}


# Once, however often


async def test_a_message_that_is_delivered_five_times_over_seven_hours_is_one_turn(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.gateway.FOLLOW_S", 1e6)
    monkeypatch.setattr("turnwire.gateway.TICK_S", 1e6)
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.say("hi")
        [event] = rig.sim.events.deliveries
        event.ignore_acks = 10
        await rig.settled()
        await rig.pass_time(26_000.0, step=13_000.0)
        await rig.settled()
        assert len(event.attempts) == 5
        assert heard.texts == ["hi"]
        assert len(rig.answers()) == 1


async def test_a_message_that_could_not_be_taken_is_taken_when_it_comes_for_the_last_time(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.gateway.FOLLOW_S", 1e6)
    monkeypatch.setattr("turnwire.gateway.TICK_S", 1e6)
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        submit = rig.gateway.submit

        async def away(inbound: Any) -> Any:
            raise StoreUnavailable("the store is away")

        monkeypatch.setattr(rig.gateway, "submit", away)
        rig.say("hi")
        [event] = rig.sim.events.deliveries
        await rig.pass_time(15 + 300 + 3600 + 100, step=2000.0)
        assert len(event.attempts) == 4
        monkeypatch.setattr(rig.gateway, "submit", submit)
        while len(event.attempts) < 5:
            await clock.advance(clock.next_in or 0.0)
        await taken(rig)
        assert event.state == "acked"
        await rig.settled()
        assert len(rig.answers()) == 1
        assert heard.texts == ["hi"]


async def test_a_message_that_is_delivered_many_times_at_once_is_one_turn(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.say("hi")
        [event] = rig.sim.events.deliveries
        await asyncio.gather(*(rig.channel.take(event.body) for _ in range(8)))
        await rig.settled()
        assert heard.texts == ["hi"]
        assert len(rig.answers()) == 1


async def test_an_event_is_acknowledged_however_long_the_agent_and_the_platform_take(
    tmp_path: Path, clock: FakeClock
) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("*", "timeout_before_applying", count=0))
        rig.say("hi")
        # Nothing answers: taking the event must not wait for anything but the store.
        await rig.channel.take(rig.sim.events.deliveries[0].body)
        assert len(await rig.gateway.db.read(list_deliveries, limit=10)) == 1
        rig.sim.faults.clear()
        told.end()


async def test_a_message_that_is_too_old_is_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock, app={"stale_after_s": 600.0}) as rig:
        arrives(rig, rig.chat, "old", [], chat_type="p2p", create_time=str(int((clock.now() - 601) * 1000)))
        arrives(rig, rig.chat, "new", [], chat_type="p2p", create_time=str(int((clock.now() - 500) * 1000)))
        await taken(rig)
        await rig.settled()
        assert heard.texts == ["new"]


# Contents


async def test_what_people_send_reaches_the_agent(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock, turns__policy="queue") as rig:
        sim, chat = rig.sim, rig.chat
        sim.faults.add(Fault("download", "refuse", code=234003, nth=3, count=2))
        sim.people.send_file(chat, "photo.png", PNG, image=True, media_type="image/png")
        await taken(rig)
        sim.people.send_file(chat, "data.json", b'{"code": 7}', media_type="application/json")
        await taken(rig)
        rows = [[{"tag": "text", "text": "See "}, {"tag": "a", "text": "this", "href": "https://x.example"}]]
        others: list[tuple[str, dict[str, Any]]] = [
            ("post", {"title": "Plan", "content": rows}),
            ("sticker", {"file_key": "file_1"}),
            ("audio", {"file_key": "file_gone", "duration": 1}),
            ("media", {"file_key": "file_gone", "image_key": "i"}),
            ("share_chat", {"chat_id": "oc_x"}),
        ]
        for kind, content in others:
            sim.people.send(chat, kind, content)
            await taken(rig)
        await rig.settled(7)
        files = [[(file.name, file.media_type, await file.read()) for file in turn.files] for turn in heard.turns]
        assert files[:3] == [
            [("image.png", "image/png", PNG)],
            [("data.json", "application/json", b'{"code": 7}')],
            [],
        ]
        assert heard.texts[2] == "**Plan**\nSee [this](https://x.example)"
        assert heard.texts[3] == "[sticker]"
        assert "voice.ogg could not be fetched" in heard.texts[4]
        assert "video.mp4 could not be fetched" in heard.texts[5]
        assert heard.texts[6] == "[a message of the kind share_chat]"


async def test_a_file_that_cannot_be_had_at_once_is_asked_for_again(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("download", "bad_gateway"))
        rig.sim.faults.add(Fault("download", "refuse", code=99991400, seconds=2.0, nth=2))
        rig.sim.people.send_file(rig.chat, "notes.txt", b"abc", media_type="text/plain")
        await rig.settled()
        assert [file.name for file in heard.turns[0].files] == ["notes.txt"]


async def test_a_file_that_is_too_large_is_told_to_the_agent(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.channels.feishu.resources.RESOURCE_BYTES", 10)
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.people.send_file(rig.chat, "big.bin", b"x" * 11)
        await rig.settled()
        assert heard.turns[0].files == []
        assert "big.bin could not be fetched: it is larger than 10 bytes" in heard.texts[0]
        assert rig.sim.counts["download"] == 1


async def test_forwarded_messages_are_read_out(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.people.send(rig.chat, "merge_forward", {})
        await rig.settled()
        assert heard.texts == ["[the forwarded messages could not be read]"]


async def test_what_a_message_replies_to_is_given_to_the_agent(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        first = rig.say("The plan is blue.")
        await rig.settled()
        rig.say("Which colour?", reply_to=first)
        await rig.settled(2)
        rig.say("And this?", reply_to=rig.answers()[0].message_id)
        await rig.settled(3)
        assert [turn.quote for turn in heard.turns][:2] == [None, "The plan is blue."]
        assert "Heard: The plan is blue." in str(heard.turns[2].quote)


# Groups


async def test_in_a_group_the_bot_answers_who_names_it(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        bot = rig.sim.tenant.apps[rig.sim.app_id].open_id
        people = [mention(1, "Sim bot", bot), mention(2, "Bob", "ou_bob"), mention(10, "Ten", "ou_ten")]
        arrives(rig, rig.sim.group, "@_user_10 knows", people[1:])
        arrives(rig, rig.sim.group, "nobody", [])
        arrives(rig, rig.sim.group, "@_all", [])
        arrives(rig, rig.sim.group, "@_user_1 ask @_user_10 and @_user_2", people)
        arrives(rig, rig.sim.group, "@_user_1 from a bot", people, sender_type="app")
        await taken(rig)
        await rig.settled()
        assert heard.texts == ["ask @Ten and @Bob"]


async def test_a_bot_that_does_not_know_its_own_name_yet_is_told_again(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("bot_info", "bad_gateway"))
        rig.say("hi", rig.sim.group)
        await taken(rig)
        await clock.advance(16.0)
        await rig.settled()
        assert len(rig.sim.events.deliveries[0].attempts) == 2
        assert heard.texts == ["hi"]


async def test_a_group_without_gate_hears_everything_but_bots(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock, app={"require_mention": False}) as rig:
        arrives(rig, rig.sim.group, "one", [])
        arrives(rig, rig.sim.group, "two", [], sender_type="app")
        await taken(rig)
        await rig.settled()
        assert heard.texts == ["one"]


async def test_each_topic_is_a_conversation_and_is_answered_in_itself(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.add_chat("oc_topics", "topic", members=["ou_alice"], bots=[rig.sim.app_id])
        asked = [rig.say(text, "oc_topics") for text in ("one", "two")]
        await rig.settled(2)
        again = rig.say("three", "oc_topics", reply_to=asked[0])
        await rig.settled(3)
        topics = {rig.sim.message(each).thread_id for each in asked}
        assert len(topics) == 2
        assert {turn.conversation for turn in heard.turns} == {f"oc_topics/{topic}" for topic in topics}
        placed_in = {turn.text: turn.conversation for turn in heard.turns}
        assert placed_in["three"] == placed_in["one"] != placed_in["two"]
        placed = {each.parent_id: each.thread_id for each in rig.answers("oc_topics")}
        assert placed == {each: rig.sim.message(each).thread_id for each in (*asked, again)}


async def test_a_group_that_takes_no_topics_is_answered_all_the_same(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, saying("Hello."), clock=clock) as rig:
        rig.sim.add_chat("oc_topics", "topic", members=["ou_alice"], bots=[rig.sim.app_id])
        rig.sim.tenant.chats["oc_topics"].threads = False
        rig.say("one", "oc_topics")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert len(rig.answers("oc_topics")) == 1


async def test_topics_can_be_one_conversation(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock, app={"topics": False}) as rig:
        rig.sim.add_chat("oc_topics", "topic", members=["ou_alice"], bots=[rig.sim.app_id])
        asked = [rig.say(text, "oc_topics") for text in ("one", "two")]
        await rig.settled(2)
        assert {turn.conversation for turn in heard.turns} == {"oc_topics"}
        assert {each.parent_id for each in rig.answers("oc_topics")} == set(asked)


# Who may


async def test_who_is_not_on_the_list_is_told_once_and_not_answered(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock, app={"allow": ["ou_bob"]}) as rig:
        asked = rig.say("hi")
        [event] = rig.sim.events.deliveries
        event.ignore_acks = 1
        rig.say("hi", rig.sim.group)
        rig.sim.people.say(rig.sim.group, "and me?", user="ou_bob")
        await rig.settled()
        await rig.pass_time(20.0)
        assert len(event.attempts) >= 2
        assert heard.texts == ["and me?"]
        assert [(each.text, each.parent_id) for each in rig.answers()] == [
            ("You may not use this bot here; ask who runs it.", asked)
        ]
        assert len(rig.answers(rig.sim.group)) == 1


async def test_a_chat_can_be_on_the_list(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock, app={"allow": ["oc_group"]}) as rig:
        rig.say("hi", rig.sim.group)
        await rig.settled()
        assert heard.texts == ["hi"]


# Stopping


async def test_a_question_that_is_taken_back_stops_its_turn(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        asked = rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.people.recall(asked)
        await rig.settled()
        assert not rig.card.streaming
        assert "This answer was stopped." in rig.card.text
        rig.sim.people.recall(rig.say("never mind"))
        told.end()
        await rig.settled(2)


async def test_a_question_that_is_taken_back_stops_the_turn_of_its_topic_alone(
    tmp_path: Path, clock: FakeClock
) -> None:
    told = {"one": Told(), "two": Told()}

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        async for said in told[turn.text].agent(turn):
            yield said

    async with feishu(tmp_path, agent, clock=clock) as rig:
        rig.sim.add_chat("oc_topics", "topic", members=["ou_alice"], bots=[rig.sim.app_id])
        asked = {text: rig.say(text, "oc_topics") for text in told}
        for text in told:
            told[text].say(f"About {text}. ")
        await rig.until(lambda: all(rig.shows(f"About {text}", "oc_topics") for text in told))
        answers = {
            text: answer for text in told for answer in rig.answers("oc_topics") if f"About {text}" in answer.text
        }
        # Who names another chat stops nothing there.
        elsewhere = {"message_id": asked["two"], "chat_id": rig.chat}
        await rig.channel.take({"header": {"event_type": "im.message.recalled_v1"}, "event": elsewhere})
        rig.sim.people.recall(asked["one"])
        await rig.until(lambda: not rig.sim.message(answers["one"].message_id).streaming)
        assert "This answer was stopped." in rig.sim.message(answers["one"].message_id).text
        told["two"].say("And more.")
        told["two"].end()
        await rig.settled(2)
        shown = rig.sim.message(answers["two"].message_id).text
        assert "And more." in shown
        assert "stopped" not in shown


@pytest.mark.parametrize("how", ["command", "button"])
async def test_a_turn_is_stopped_by_whom_it_answers(tmp_path: Path, clock: FakeClock, how: str) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        card = rig.card
        if how == "button":
            click = await clicked(rig, card.message_id, "Stop")
            assert click.answer == {"toast": {"type": "info", "content": "Stopping…"}}
        else:
            rig.say("/stop")
        await rig.settled(2 if how == "command" else 1)
        shown = rig.sim.message(card.message_id)
        assert "Hello" in shown.text
        assert "This answer was stopped." in shown.text
        assert shown.card is not None
        assert not shown.streaming
        assert not any(block.kind == "button" for block in shown.card.blocks)
        assert {call.code for call in rig.sim.calls} <= {0, 200810, 230020, 11310, 230099}
        others = [each.text.partition("\n")[0] for each in rig.answers() if each.message_id != card.message_id]
        assert others == (["Stopped."] if how == "command" else [])


async def test_a_click_on_what_has_ended_says_so(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        turn = (await rig.gateway.db.read(list_deliveries, limit=1))[0].turn_id

        async def click(chat: str, **value: str) -> str:
            about = {"operator": {"open_id": "ou_alice"}, "action": {"value": value},
                     "context": {"open_chat_id": chat}}  # fmt: skip
            answer = await rig.channel.take({"header": {"event_type": "card.action.trigger"}, "event": about})
            assert answer is not None
            return str(answer["toast"]["content"])

        # A card that was carried elsewhere stops nothing.
        assert await click("oc_elsewhere", turnwire="stop", turn=turn) == "This answer has ended already."
        assert await click(rig.chat, turnwire="stop", turn="turn_unknown") == "This answer has ended already."
        assert await click(rig.chat) == "This button does nothing any more."
        told.say("world.")
        told.end()
        await rig.settled()
        assert "Hello world." in rig.card.text
        assert await click(rig.chat, turnwire="stop", turn=turn) == "This answer has ended already."


async def test_commands(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        for number, text in enumerate(["one", "/help", "/new", "two"]):
            rig.say(text)
            await rig.settled(number + 1)
        assert heard.texts == ["one", "two"]
        assert len(heard.turns[1].messages) == 1
        assert "/stop" in rig.answers()[1].text
        assert len(rig.answers()) == 4


# Approvals


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


@pytest.mark.parametrize(
    ("button", "said", "toast"), [("Allow", "Paid.", "Approved."), ("Deny", "Not paid.", "Denied.")]
)
async def test_an_approval_is_answered_by_a_click_once(
    tmp_path: Path, clock: FakeClock, button: str, said: str, toast: str
) -> None:
    pays = Pays()
    async with feishu(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        await rig.settled()
        card = rig.card
        value = {"turnwire": "approve" if button == "Allow" else "deny"}
        click = await clicked(rig, card.message_id, button)
        assert click.answer is not None
        assert click.answer["toast"]["content"] == toast
        await rig.settled(2)
        assert pays.resumed == [(button == "Allow", "Alice")]
        old, new = rig.sim.message(card.message_id), rig.answers()[-1]
        assert old.message_id != new.message_id
        assert old.card is not None
        assert "Alice" in old.text
        assert not any(block.text in ("Allow", "Deny") for block in old.card.blocks for block in (block, *block.blocks))
        assert said in new.text
        assert "I would pay." not in new.text
        about = {"operator": {"open_id": "ou_bob"}, "context": {"open_chat_id": rig.chat},
                 "action": {"value": {**click.body["event"]["action"]["value"], **value}}}  # fmt: skip
        again = await rig.channel.take({"header": {"event_type": "card.action.trigger"}, "event": about})
        assert again is not None
        assert "already" in again["toast"]["content"]
        elsewhere = await rig.channel.take(
            {"header": {"event_type": "card.action.trigger"}, "event": {**about, "context": {"open_chat_id": "oc_x"}}}
        )
        assert elsewhere is not None
        assert elsewhere["toast"]["content"] == "There is nothing to answer here any more."
        assert len(rig.answers()) == 2


async def test_a_click_is_answered_in_time_though_nobody_can_say_who_it_was(tmp_path: Path, clock: FakeClock) -> None:
    pays = Pays()
    async with feishu(tmp_path, pays.agent, clock=clock) as rig:
        rig.say("buy it")
        await rig.settled()
        rig.sim.faults.add(Fault("user", "timeout_before_applying", count=0))
        rig.sim.people.click(rig.card.message_id, "Allow")
        await rig.clock.until(lambda: rig.transport.waiting == 1)
        await clock.advance(1.0)
        await taken(rig)
        await rig.settled(2)
        assert pays.resumed == [(True, "ou_alice")]


# Several messages


@pytest.mark.parametrize(("policy", "cards", "turns"), [("queue", 3, 3), ("collect", 2, 2), ("interrupt", 3, 3)])
async def test_messages_while_a_turn_runs(
    tmp_path: Path, clock: FakeClock, policy: str, cards: int, turns: int
) -> None:
    heard: list[str] = []
    go = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        heard.append(turn.text)
        yield f"To {turn.text}: "
        await go.wait()
        yield "done."

    async with feishu(tmp_path, agent, clock=clock, turns__policy=policy) as rig:
        first = rig.say("one")
        await rig.until(lambda: rig.shows("To one"))
        second = rig.say("two")
        await taken(rig)
        last = rig.say("three")
        await taken(rig)
        go.set()
        await rig.settled(turns)
        assert len(rig.answers()) == cards
        assert not any(each.streaming for each in rig.answers())
        # A turn that shows its sign under a message already stays there.
        answered = [each.parent_id for each in rig.answers()]
        if policy == "collect":
            assert answered in ([first, second], [first, last])
        else:
            assert answered == [first, second, last]
        assert len(heard) <= turns
        if policy == "collect":
            assert heard[1] == "two\n\nthree"


async def answers_to(turn: Turn) -> AsyncIterator[str]:
    yield f"To {turn.text}."


async def test_answers_appear_in_the_order_of_their_turns(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, answers_to, clock=clock) as rig:
        first = rig.say("one")
        rig.sim.faults.add(Fault("reply", "refuse", code=232096, count=3, target=first))
        await taken(rig)
        second = rig.say("two")
        await rig.settled(2)
        assert [each.parent_id for each in rig.answers()] == [first, second]


async def test_an_answer_that_cannot_be_shown_does_not_hold_others_up_for_ever(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with feishu(tmp_path, answers_to, clock=clock) as rig:
        first = rig.say("one")
        rig.sim.faults.add(Fault("reply", "refuse", code=232096, count=0, target=first))
        await taken(rig)
        second = rig.say("two")
        await rig.until(lambda: bool(rig.answers()))
        assert [each.parent_id for each in rig.answers()] == [second]
        rig.sim.faults.clear()
        await rig.settled(2)
        assert {each.parent_id for each in rig.answers()} == {first, second}


async def test_a_message_that_steers_a_turn_reaches_it(tmp_path: Path, clock: FakeClock) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield f"To {turn.text}: "
        async for more in turn.inbox:
            yield f"and {more.text}."
            return

    async with feishu(tmp_path, agent, clock=clock, turns__policy="steer") as rig:
        rig.say("one")
        await rig.until(lambda: rig.shows("To one"))
        rig.say("two")
        await rig.settled()
        assert "and two." in rig.card.text


async def test_a_message_that_is_refused_is_told_so_once(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.turns.admission.MAX_QUEUED", 1)
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.say("two")
        await taken(rig)
        refused = rig.say("three")
        await rig.until(lambda: rig.shows("Too much is waiting"))
        assert [each.parent_id for each in rig.answers() if "Too much" in each.text] == [refused]
        told.end()
        told.end()
        await rig.settled(2)


# Several apps


async def test_two_apps_are_two_bots(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.add_app("cli_other", "other", "Other bot")
        settings = App(name="other", app_id="cli_other", app_secret="other", base_url="http://127.0.0.1:1",
                       language="zh", allow=["ou_bob"])  # fmt: skip
        other = FeishuChannel(settings, clock=clock, transport=rig.transport)
        other._reception.gateway = other._resources.gateway = rig.gateway
        rig.gateway.channels[other.name] = other
        rig.couriers._channels = {**rig.couriers._channels, other.name: other}  # type: ignore[union-attr]
        rig.sim.tenant.chats[rig.sim.group].bots.append("cli_other")

        async def event(body: dict[str, Any]) -> None:
            await other.take(body)

        rig.say("to one")
        chat = rig.sim.people.say("cli_other", "to the other", user="ou_bob")
        await event(rig.sim.events.deliveries[-1].body)
        await rig.settled(2)
        assert {turn.text for turn in heard.turns} == {"to one", "to the other"}
        theirs = rig.sim.view(rig.sim.message(chat).parent_id or rig.sim.p2p("ou_bob", "cli_other")).from_bots
        assert [each.sender for each in theirs] == ["Other bot"]
        assert [each.sender for each in rig.answers()] == ["Sim bot"]
        await other.close()
