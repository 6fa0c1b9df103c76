"""Forwarded messages: the agent reads what was said by whom, in order, whatever the platform gives out of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.feishu_rig import FeishuRig, feishu
from turnwire import Turn
from turnwire.channels.feishu.forwarded import CHARS, MESSAGES, Told, transcript, unfold
from turnwire.sim.feishu import Fault
from turnwire.testing import FakeClock

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"
NOT_GIVEN = "the platform gives out no files of forwarded messages and cards (234043)"


class Heard:
    """An agent that keeps what it is asked."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    async def agent(self, turn: Turn) -> AsyncIterator[str]:
        self.turns.append(turn)
        yield "Heard."


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


def talk(rig: FeishuRig, chat: str = "oc_talk") -> str:
    """A chat of people without the bot."""
    rig.sim.tenant.user("ou_bob", "Bob")
    return rig.sim.add_chat(chat, members=["ou_alice", "ou_bob"], bots=[]).chat_id


@pytest.mark.anyio
async def test_forwarded_messages_are_read_in_order_with_names(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        people, chat = rig.sim.people, talk(rig)
        rows = [[{"tag": "text", "text": "Two rows:"}], [{"tag": "a", "text": "link", "href": "https://x.example"}]]
        said = [
            people.say(chat, "Where shall we meet?"),
            people.send(chat, "post", {"title": "Plan", "content": rows}, user="ou_bob"),
            people.say(chat, "Good.", user="ou_stranger"),
        ]
        people.forward(rig.chat, said)
        await rig.settled()
        [turn] = heard.turns
        assert turn.text == (
            "Alice: Where shall we meet?\nBob: **Plan**\nTwo rows:\n[link](https://x.example)\nstranger: Good."
        )
        assert turn.files == []


@pytest.mark.anyio
async def test_what_the_bot_said_and_who_was_mentioned_is_named(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        asked = rig.say("what is new?", rig.sim.group)
        await rig.settled()
        rig.sim.people.forward(rig.chat, [asked, rig.answers(rig.sim.group)[0].message_id])
        await rig.settled(2)
        assert heard.turns[1].text.splitlines()[:2] == ["Alice: @Sim bot what is new?", "a bot: Heard."]


@pytest.mark.anyio
async def test_what_is_forwarded_inside_of_it_is_read_too(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        people, chat = rig.sim.people, talk(rig)
        inner = people.forward(chat, [people.say(chat, "deep\ndown", user="ou_bob"), people.say(chat, "and deeper")])
        await clock.advance(1.0)
        last = people.say(chat, "See above.")
        people.forward(rig.chat, [inner, last])
        await rig.settled()
        assert heard.turns[0].text.splitlines() == [
            "Alice: [forwarded messages]",
            "    Bob: deep",
            "    down",
            "    Alice: and deeper",
            "Alice: See above.",
        ]


@pytest.mark.anyio
async def test_files_that_the_platform_does_not_give_out_are_named(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        people, chat = rig.sim.people, talk(rig)
        said = [
            people.send_file(chat, "photo.png", PNG, image=True, media_type="image/png"),
            people.send_file(chat, "plan.pdf", b"%PDF-1.4", user="ou_bob", media_type="application/pdf"),
        ]
        people.forward(rig.chat, said)
        await rig.settled()
        [turn] = heard.turns
        assert turn.files == []
        assert turn.text == (
            f"Alice: [image.png]\nBob: [plan.pdf]\n[2 files of these messages could not be fetched: {NOT_GIVEN}]"
        )
        assert rig.sim.counts["download"] == 1


@pytest.mark.anyio
async def test_files_are_fetched_where_the_platform_gives_them_out(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.channels.feishu.resources.FORWARDED_FILES", 3)
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        rig.sim.switches.forwarded_files = "by_container"
        rig.sim.faults.add(Fault("download", "refuse", code=234037, nth=2))
        people, chat = rig.sim.people, talk(rig)
        said = [people.send_file(chat, f"{one}.txt", one.encode(), media_type="text/plain") for one in "abcd"]
        people.forward(rig.chat, [people.forward(chat, said)])
        await rig.settled()
        [turn] = heard.turns
        assert [(file.name, await file.read()) for file in turn.files] == [("a.txt", b"a"), ("c.txt", b"c")]
        assert "    Alice: [d.txt]" in turn.text
        assert "the attached file b.txt could not be fetched" in turn.text
        assert "[1 file of these messages could not be fetched: 3 are fetched at most]" in turn.text


@pytest.mark.anyio
async def test_what_cannot_be_read_at_once_is_asked_for_again(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        people, chat = rig.sim.people, talk(rig)
        rig.sim.faults.add(Fault("get", "bad_gateway"), Fault("get", "refuse", code=99991400, seconds=1))
        people.forward(rig.chat, [people.say(chat, "one")])
        await rig.settled()
        rig.sim.faults.add(Fault("get", "refuse", code=230027))
        people.forward(rig.chat, [people.say(chat, "two")])
        await rig.settled(2)
        refused = "the app lacks a permission; `turnwire doctor` names it (230027)"
        assert [turn.text for turn in heard.turns] == [
            "Alice: one",
            f"[the forwarded messages could not be read: {refused}]",
        ]


@pytest.mark.anyio
async def test_forwarded_messages_can_be_replied_to(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with feishu(tmp_path, heard.agent, clock=clock) as rig:
        people, chat = rig.sim.people, talk(rig)
        forwarded = people.forward(rig.chat, [people.say(chat, "one"), people.say(chat, "two", user="ou_bob")])
        await rig.settled()
        rig.say("What do they say?", reply_to=forwarded)
        await rig.settled(2)
        assert heard.turns[1].quote == "Alice: one\nBob: two"


# Reading, without a tenant


def item(own: str, upper: str, at: Any, text: str = "", **more: Any) -> dict[str, Any]:
    """A message as the platform gives it back."""
    sender = {"id": "ou_alice", "id_type": "open_id", "sender_type": "user"}
    body = {"content": json.dumps({"text": text or own})}
    said = {"message_id": own, "upper_message_id": upper, "create_time": at, "msg_type": "text", "sender": sender}
    return {**said, "body": body, **more}


def test_items_come_in_any_order_and_belong_where_they_say() -> None:
    items = [
        item("late", "top", "3000"),
        item("inner", "middle", "9000"),
        item("middle", "top", "2000", msg_type="merge_forward", body={"content": "Merged and Forwarded Message"}),
        item("lost", "nobody", "2500"),
        item("first", "top", "1000"),
        item("top", "", "9999", msg_type="merge_forward"),
    ]
    told = unfold("top", items)
    assert [(one.text, one.depth) for one in told] == [
        ("first", 0), ("[forwarded messages]", 0), ("inner", 1), ("lost", 0), ("late", 0),
    ]  # fmt: skip


def test_a_message_that_is_inside_of_itself_is_read_once() -> None:
    items = [item("top", "", "1"), item("a", "b", "1"), item("b", "a", "2"), item("c", "c", "3"), item("d", "top", "4")]
    assert [one.text for one in unfold("top", items)] == ["d", "a", "b", "c"]


def test_a_recalled_message_is_said_to_be_one() -> None:
    [told] = unfold("top", [item("a", "top", "1", deleted=True, body={"content": ""})])
    assert told.text == "[this message was recalled]"


def test_the_text_is_bounded_and_says_what_is_left_out() -> None:
    def told(text: str) -> Told:
        return Told("ou_alice", True, 0, text, [])

    many = transcript([told(f"word {number}") for number in range(MESSAGES + 7)], {"ou_alice": "Alice"})
    assert many.splitlines()[-2:] == [f"Alice: word {MESSAGES - 1}", "[… 7 more messages are left out]"]
    large = transcript([told("x" * 40_000), told("y" * 40_000), told("z")], {})
    assert large.splitlines()[1:] == [
        "ou_alice: " + "y" * (CHARS - 40_000) + f" [… {80_000 - CHARS} more characters are left out]",
        "[… 1 more messages are left out]",
    ]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
IDS = st.sampled_from(["top", "a", "b", "c"])
ITEMS = st.lists(
    st.fixed_dictionaries(
        {"message_id": IDS},
        optional={
            "upper_message_id": IDS | ANY,
            "create_time": ANY | st.integers(0, 9).map(str),
            "msg_type": st.sampled_from(["text", "merge_forward", "image"]) | ANY,
            "sender": ANY,
            "body": ANY | st.fixed_dictionaries({"content": ANY | st.just('{"text": "words"}')}),
            "mentions": ANY,
            "deleted": ANY,
        },
    ),
    max_size=8,
)


@given(ITEMS)
def test_no_item_makes_reading_fail(items: list[dict[str, Any]]) -> None:
    told = unfold("top", items)
    assert len(told) == sum(one["message_id"] != "top" for one in items)
    assert isinstance(transcript(told, {}), str)
