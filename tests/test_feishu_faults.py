"""What people see in a Feishu chat when calls fail: one answer, whole, and not streaming."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.feishu_rig import FeishuRig, Told, feishu, saying
from turnwire import Turn
from turnwire.sim.feishu import Fault, MessageView, Switches
from turnwire.store.queries.rows import DeliveryRow
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

TIMEOUTS = ("timeout_after_applying", "timeout_before_applying", "bad_gateway", "bad_gateway_after_applying")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


class Shown:
    """What became of one question: the bot's messages that are still seen, and the delivery."""

    def __init__(self, messages: Sequence[MessageView], row: DeliveryRow, asked: MessageView) -> None:
        self.messages = messages
        self.row = row
        self.asked = asked

    def __repr__(self) -> str:
        seen = [(each.kind, each.text, each.streaming) for each in self.messages]
        return f"{self.row.outcome} ({self.row.reason}): {seen}"


async def ask_all(rig: FeishuRig, cases: Mapping[str, Sequence[Fault]], text: str = "hi") -> dict[str, Shown]:
    """One question a case, each in a chat of its own where its faults happen, all at once."""
    chats: dict[str, str] = {}
    asked: dict[str, str] = {}
    for number, (name, faults) in enumerate(cases.items()):
        user = f"ou_p{number}"
        chats[name] = rig.sim.p2p(user)
        for fault in faults:
            fault.target = chats[name]
            rig.sim.faults.add(fault)
        asked[name] = rig.sim.people.say(chats[name], text, user=user)
    rows = {row.target: row for row in await rig.settled(len(cases), step=0.5)}
    named = {name: next(row for target, row in rows.items() if asked[name].encode() in target) for name in cases}
    return {name: Shown(rig.answers(chats[name]), named[name], rig.sim.message(asked[name])) for name in cases}


def is_one_card(shown: Shown, text: str) -> bool:
    """One card says it all, for good; nothing else is there."""
    [*seen] = shown.messages
    return (
        shown.row.outcome == "shown"
        and [each.kind for each in seen] == ["interactive"]
        and seen[0].card is not None
        and seen[0].card.text.count(text) == 1
        and not seen[0].streaming
        and shown.asked.reactions == []
    )


# The store is real, so that the clock runs ahead of it: what has to be seen on the way gets time enough.
STREAMED = ("Hello ", 30.0, "**wor", 30.0, "ld**.", 0.5)


@pytest.mark.parametrize("kind", [TIMEOUTS[0], *(pytest.param(kind, marks=pytest.mark.heavy) for kind in TIMEOUTS[1:])])
async def test_a_call_without_an_answer_changes_nothing_that_is_seen(
    tmp_path: Path, clock: FakeClock, kind: str
) -> None:
    ops = ("reply", "content", "update", "settings", "react", "unreact")
    cases = {op: [Fault(op, kind)] for op in ops} | {"twice": [Fault("reply", kind, count=2)]}
    async with feishu(tmp_path, saying(*STREAMED, clock=clock), clock=clock) as rig:
        found = await ask_all(rig, cases)
        assert {name: one for name, one in found.items() if not is_one_card(one, "Hello **world**.")} == {}
        assert {call.op for call in rig.sim.calls if call.fault} == set(ops)


@pytest.mark.parametrize("kind", [TIMEOUTS[0], pytest.param(TIMEOUTS[2], marks=pytest.mark.heavy)])
async def test_making_an_entity_without_an_answer_makes_one_card(tmp_path: Path, clock: FakeClock, kind: str) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("create", kind))
        rig.sim.faults.add(Fault("token", kind))
        rig.say("hi")
        await rig.settled()
        assert [(each.kind, each.streaming) for each in rig.answers()] == [("interactive", False)]
        assert "Hello." in rig.card.text


async def test_an_upload_without_an_answer_sends_the_file_once(tmp_path: Path, clock: FakeClock) -> None:
    async def attach(turn: Turn) -> None:
        await turn.attach(b"a,b\n", name="data.csv")

    async with feishu(tmp_path, saying("Here: ", attach, clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("upload_file", "timeout_after_applying"))
        rig.sim.faults.add(Fault("reply", "timeout_after_applying", nth=2))
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert sorted(each.kind for each in rig.answers()) == ["file", "interactive"]
        assert rig.sim.counts["upload_file"] == 2


async def test_a_card_whose_sending_is_repeated_after_the_platform_forgot_it_is_sent_once(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("reply", "timeout_after_applying"))
        rig.say("hi")
        await rig.until(lambda: bool(rig.sim.tenant.sent))
        rig.sim.tenant.sent.clear()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert "Hello." in rig.card.text
        assert len(rig.answers()) == 1
        assert 230099 in {call.code for call in rig.sim.calls}


async def test_a_card_that_waited_to_be_sent_says_what_is_said_by_then(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("reply", "refuse", code=230020, count=0))
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.sim.counts.get("reply", 0) > 0)
        told.say("world.")
        told.end()
        await rig.pass_time(40.0)
        assert rig.answers() == []
        rig.sim.faults.clear()
        await rig.settled()
        assert "Hello world." in rig.card.text
        assert not rig.card.streaming


# Lifetimes and numbers


@pytest.mark.parametrize("kind", ["close_stream", "time_out_stream"])
async def test_a_card_whose_streaming_ended_unseen_is_opened_again(tmp_path: Path, clock: FakeClock, kind: str) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("content", kind))
        rig.say("hi")
        for piece in ("Begin. ", "Go on. ", "And on. "):
            told.say(piece)
            await rig.until(lambda: rig.shows(piece.strip()))  # noqa: B023 - called before the next piece
        refused = [call.code for call in rig.sim.calls if call.op == "content" and call.code]
        assert refused == [300309 if kind == "close_stream" else 200850]
        assert rig.sim.hopeless == []
        assert rig.card.streaming
        told.say("End.")
        told.end()
        await rig.settled()
        assert "Begin. Go on. And on. End." in rig.card.text
        assert not rig.card.streaming


async def test_a_card_that_cannot_be_opened_again_gets_the_whole_answer_at_the_end(
    tmp_path: Path, clock: FakeClock
) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("content", "close_stream"))
        rig.sim.faults.add(Fault("settings", "refuse", code=300122))
        rig.say("hi")
        told.say("Begin. ")
        await rig.until(lambda: rig.shows("Begin."))
        told.say("Go on. ")
        await rig.until(lambda: rig.sim.counts.get("settings", 0) == 1)
        told.say("And on. ")
        await rig.pass_time(20.0)
        assert [call.op for call in rig.sim.calls].count("content") == 1, "a card got text that it does not take"
        told.say("End.")
        told.end()
        await rig.settled()
        assert "Begin. Go on. And on. End." in rig.card.text
        assert not rig.card.streaming


async def test_a_missed_renewal_is_found_out_and_made_good(tmp_path: Path, clock: FakeClock) -> None:
    """The platform's streaming life is shorter than we were told."""
    said: list[Any] = [one for number in range(12) for one in (f"{number}, ", 5.0)]
    async with feishu(tmp_path, saying(*said, "end.", clock=clock), clock=clock,
                      switches=Switches(stream_life=20.0)) as rig:  # fmt: skip
        rig.say("hi")
        await rig.settled(step=0.5)
        assert "10, 11, end." in rig.card.text
        assert len(rig.answers()) == 1
        assert rig.sim.hopeless == []
        codes = [call.code for call in rig.sim.calls if call.code]
        assert set(codes) <= {200850, 300309}
        assert 1 <= len(codes) <= 4


async def test_numbers_that_were_used_are_not_used_again(tmp_path: Path, clock: FakeClock) -> None:
    cases = {
        "content": [Fault("content", "refuse_after_applying", code=300317)],
        "update": [Fault("update", "refuse_after_applying", code=300317, count=2)],
        "settings": [Fault("settings", "refuse_after_applying", code=300317)],
        "conflict": [Fault("update", "refuse_after_applying", code=200770)],
        "not applied": [Fault("update", "refuse", code=300317)],
    }
    async with feishu(tmp_path, saying(*STREAMED, clock=clock), clock=clock) as rig:
        found = await ask_all(rig, cases)
        assert {name: one for name, one in found.items() if not is_one_card(one, "Hello **world**.")} == {}
        assert rig.sim.counts["create"] == len(cases)


# Limits


async def test_a_limit_with_a_reset_is_waited_for_and_then_only_the_newest_text_is_sent(
    tmp_path: Path, clock: FakeClock
) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("content", "refuse", code=99991400, seconds=60.0))
        rig.say("hi")
        told.say("Begin. ")
        await rig.until(lambda: rig.shows("Begin."))
        told.say("One. ")
        await rig.until(lambda: any(call.code == 99991400 for call in rig.sim.calls))
        before = len(rig.sim.calls)
        for piece in ("Two. ", "Three. "):
            told.say(piece)
            await rig.pass_time(28.0)
        assert [call.op for call in rig.sim.calls[before:]] == []
        await rig.until(lambda: rig.shows("One. Two. Three."))
        assert rig.sim.calls[before].at >= rig.sim.calls[before - 1].at + 60.0
        assert len(rig.sim.calls) == before + 1
        told.end()
        await rig.settled()


async def test_bursts_of_too_many_calls_are_waited_out(tmp_path: Path, clock: FakeClock) -> None:
    cases = {
        "reply": [Fault("reply", "refuse", code=230020, count=4)],
        "content": [Fault("content", "refuse", code=230020, count=5)],
        "update": [Fault("update", "refuse", code=99991400, seconds=3.0, count=3)],
        "settings": [Fault("settings", "refuse", code=99991400, count=2)],
        "inside": [Fault("update", "refuse", code=2200, count=3)],
        "busy card": [Fault("update", "lock", seconds=3.0)],
        "sending": [Fault("reply", "refuse", code=230049, count=2)],
    }
    async with feishu(tmp_path, saying(*STREAMED, clock=clock), clock=clock) as rig:
        found = await ask_all(rig, cases)
        assert {name: one for name, one in found.items() if not is_one_card(one, "Hello **world**.")} == {}


async def test_nothing_that_is_sent_exceeds_the_limits(tmp_path: Path, clock: FakeClock) -> None:
    """Eight chats that stream at once, each as fast as it can, with a file each: the platform refuses nothing."""

    async def attach(turn: Turn) -> None:
        for number in range(3):
            await turn.attach(f"{number}".encode(), name=f"{number}.txt")

    said: list[Any] = [one for number in range(20) for one in (f"{number}, ", 0.1)]
    async with feishu(tmp_path, saying(attach, *said, clock=clock), clock=clock) as rig:
        found = await ask_all(rig, {f"{number}": [] for number in range(8)})
        assert [len(one.messages) for one in found.values()] == [4] * 8
        assert {call.code for call in rig.sim.calls} == {0}
        assert max(call.overlapping for call in rig.sim.calls if call.op in ("content", "update", "settings")) == 0


async def test_a_card_that_is_not_known_everywhere_yet_is_sent_a_little_later(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, saying(*STREAMED, clock=clock), clock=clock,
                      switches=Switches(replica_lag=0.3)) as rig:  # fmt: skip
        rig.say("hi")
        await rig.settled()
        assert rig.sim.counts["create"] == 1
        assert "Hello **world**." in rig.card.text


async def test_a_card_that_is_never_known_is_replaced_by_another_way(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock,
                      switches=Switches(replica_lag=1e6)) as rig:  # fmt: skip
        rig.say("hi")
        [row] = await rig.settled(step=1.0)
        assert row.outcome == "shown"
        assert "Hello." in rig.card.text
        assert len(rig.answers()) == 1
        assert rig.sim.counts["reply"] < 30


# Tokens


async def test_a_token_that_is_over_is_replaced_and_the_call_made_again(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, saying(*STREAMED, clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("content", "refuse", code=99991663))
        rig.sim.faults.add(Fault("update", "expire_token"))
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert "Hello **world**." in rig.card.text
        contents = [call for call in rig.sim.calls if call.op == "content"]
        again = contents[contents.index(next(call for call in contents if call.code == 99991663)) + 1]
        refused = next(call for call in contents if call.code == 99991663)
        assert again.body == refused.body
        # The platform gives the old token once more while it is good.
        assert rig.sim.counts["token"] == 3


async def test_an_app_that_is_not_known_ends_its_deliveries_and_says_why(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock, app={"app_secret": "wrong"}) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "failed"
        assert "app_secret" in str(row.reason)
        assert "wrong" not in str(row.reason)


# Messages that are taken away


async def test_an_answer_that_was_taken_away_is_not_given_again(tmp_path: Path, clock: FakeClock) -> None:
    cases = {
        "ours while it streams": [Fault("content", "recall")],
        "ours at the end": [Fault("update", "recall")],
        "ours, deleted": [Fault("update", "delete")],
    }
    async with feishu(tmp_path, saying(*STREAMED, clock=clock), clock=clock) as rig:
        found = await ask_all(rig, cases)
        assert {name: one.messages for name, one in found.items()} == {name: [] for name in cases}
        assert rig.sim.counts["reply"] == len(cases)
        assert rig.sim.counts.get("send", 0) == 0
        assert rig.sim.hopeless == []


async def test_a_question_that_was_taken_away_gets_no_answer_elsewhere(tmp_path: Path, clock: FakeClock) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock) as rig:
        found = await ask_all(rig, {"recalled": [Fault("reply", "recall")], "deleted": [Fault("reply", "delete")]})
        assert {name: one.messages for name, one in found.items()} == {"recalled": [], "deleted": []}
        assert {one.row.outcome for one in found.values()} == {"failed"}
        assert rig.sim.counts.get("send", 0) == 0


async def test_a_message_that_the_bot_may_not_answer_is_answered_in_its_chat(tmp_path: Path, clock: FakeClock) -> None:
    cases = {str(code): [Fault("reply", "refuse", code=code, count=0)] for code in (230050, 230111, 230019)}
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock) as rig:
        found = await ask_all(rig, cases)
        assert {name: one for name, one in found.items() if not is_one_card(one, "Hello.")} == {}


@pytest.mark.parametrize("code", [230002, 99991403])
async def test_a_chat_in_which_nothing_can_be_said_ends_the_delivery(
    tmp_path: Path, clock: FakeClock, code: int
) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("reply", "refuse", code=code, count=0))
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "failed"
        assert row.reason
        assert rig.answers() == []
        assert rig.sim.counts["reply"] == 1


# Cards that are refused


LONG = "".join(f"Paragraph {number} with some words in it.\n\n" for number in range(40))


@pytest.mark.parametrize(
    "refused",
    [
        {"200860": Fault("update", "refuse", code=200860), "300305": Fault("update", "refuse", code=300305)},
        {"230099": Fault("update", "refuse", code=230099), "200220": Fault("update", "refuse", code=200220)},
    ],
)
async def test_a_final_card_that_is_refused_is_shown_more_plainly(
    tmp_path: Path, clock: FakeClock, refused: dict[str, Fault]
) -> None:
    async with feishu(tmp_path, saying(LONG, 1.0, "End.", clock=clock), clock=clock) as rig:
        found = await ask_all(rig, {name: [fault] for name, fault in refused.items()})
        for one in found.values():
            assert one.row.outcome == "shown"
            assert len(one.messages) == 1
            assert not one.messages[0].streaming
            assert all(f"Paragraph {number} " in one.messages[0].text for number in range(40))
            assert "End." in one.messages[0].text


@pytest.mark.parametrize("code", [200860, pytest.param(230099, marks=pytest.mark.heavy)])
async def test_a_card_that_is_never_taken_again_ends_as_something_that_is(
    tmp_path: Path, clock: FakeClock, code: int
) -> None:
    """From some point on the platform takes no content of any card at all."""
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        for op in ("update", "patch", "content"):
            rig.sim.faults.add(Fault(op, "refuse", code=code, count=0))
        rig.sim.faults.add(Fault("create", "refuse", code=200220, count=0))
        told.say("world.")
        told.end()
        [row] = await rig.settled()
        assert ["Hello world." in each.text for each in rig.answers()] == [True], rig.view()
        assert not rig.answers()[0].streaming
        assert row.outcome == "shown"


async def test_more_tables_than_a_card_takes(tmp_path: Path, clock: FakeClock) -> None:
    table = "| a | b |\n| --- | --- |\n| {0} | x |\n\n"
    answer = "".join(table.format(f"row{number}") for number in range(9))
    async with feishu(tmp_path, saying(answer, clock=clock), clock=clock, switches=Switches(table_limit=2)) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        text = "\n".join(each.text for each in rig.answers())
        assert [text.count(f"row{number}") for number in range(9)] == [1] * 9
        assert not any(each.streaming for each in rig.answers())


@pytest.mark.parametrize("code", [99991672, pytest.param(200220, marks=pytest.mark.heavy)])
async def test_without_entities_the_answer_is_a_card_that_is_patched(
    tmp_path: Path, clock: FakeClock, code: int
) -> None:
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("create", "refuse", code=code, count=0))
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        told.say("**world**.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert "Hello **world**." in rig.card.text
        assert len(rig.answers()) == 1
        assert rig.sim.counts["patch"] >= 1


async def test_the_ladder_goes_down_to_text_and_file(tmp_path: Path, clock: FakeClock) -> None:
    """No card is taken at all; then no text either."""
    cases: dict[str, list[Fault]] = {"text": [], "file": []}
    async with feishu(tmp_path, saying("Hello ", 1.0, "**world**.", clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("create", "refuse", code=99991672, count=0))
        cases["text"] = [Fault("reply", "refuse", code=230099)]
        cases["file"] = [Fault("reply", "refuse", code=230099), Fault("reply", "refuse", code=230025, nth=2)]
        found = await ask_all(rig, cases)
        assert [each.kind for each in found["text"].messages] == ["text"]
        assert found["text"].messages[0].text == "Hello **world**."
        assert [each.kind for each in found["file"].messages] == ["text", "file"]
        assert {one.row.outcome for one in found.values()} == {"shown"}
