"""Random turns in a Feishu chat, whatever the platform, the network and our own process do: what people see in the end
is what the turn says, once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.feishu_stage import EARLY, LATE, Play, expected, shown
from tests.random_turns import SEEDS, deaths, faults_of, scripts, some, tool
from turnwire import Snapshot
from turnwire.sim.feishu import Fault, Switches
from turnwire.testing import Attach, End, MemoryStore, Pause

pytestmark = pytest.mark.anyio

# What agents say

TABLE = "\n\n| city | rain |\n| --- | --- |\n| Bergen | yes |\n\n"
CODE = "\n\n```python\nprint('hello')\n```\n\n"
LONG = "\n\n".join(f"Paragraph {number}. " + "word " * 60 for number in range(30)) + "\n\n"
words = st.sampled_from(
    ["Hello ", "世界 ", "**bold** words ", "\n\nNext paragraph. ", "# Title\n\n", TABLE, CODE, LONG]
)
turns = scripts(
    words,
    pieces=words.map(lambda text: [text, Pause(0.4), text, Pause(0.4), text]),
    thoughts=words,
    pauses=[0.1, 1.0, 30.0, 700.0],
)

# What goes wrong

CALLS = ["token", "react", "create", "reply", "content", "update", "settings", "upload_file", "unreact", "*"]
CARD_CALLS = ["content", "update", "settings"]
AMBIGUOUS = [f"{what}_{when}_applying" for what in ("timeout", "reset") for when in ("before", "after")]
INSIDE = [1663, 2200, 300120]
"""Errors inside the platform: it does not know itself what it has done."""
BUSY = [99991400, 230020, 99991663, *INSIDE]
passing = st.one_of(
    faults_of([*AMBIGUOUS, "bad_gateway", "bad_gateway_after_applying"], CALLS),
    faults_of(AMBIGUOUS, ["reply", "update", "settings"]),
    faults_of(["slow"], CALLS, seconds=[0.3, 5.0, 14.0]),
    faults_of(["slow_answer"], CALLS, seconds=[0.3, 14.0, 40.0]),
    faults_of(["close_stream", "time_out_stream"], CARD_CALLS),
    faults_of(["lock"], CARD_CALLS, seconds=[0.5, 5.0]),
    faults_of(["expire_token"], CALLS),
    faults_of(["lag"], CALLS, seconds=[0.3, 2.0]),
    faults_of(["drop"], ["content"]),
    faults_of(["refuse"], CALLS, code=BUSY, seconds=[0.0, 20.0]),
    faults_of(["refuse_after_applying"], CALLS, code=INSIDE),
    faults_of(["refuse", "refuse_after_applying"], CARD_CALLS, counts=1, code=[300317, 200810]),
)
switches = st.fixed_dictionaries(
    {
        "content_semantics": st.sampled_from(["replace", "replace", "append", "drop_after_10min"]),
        "uuid_replay": st.sampled_from(["noop", "conflict"]),
        "seq_consume_on_error": st.booleans(),
        "update_ends_streaming": st.booleans(),
        "http_errors": st.sampled_from([400, 200]),
        "replica_lag": st.sampled_from([0.0, 0.0, 0.3]),
        "latency": st.sampled_from([0.0, 0.12, 1.0]),
        "reopen_restarts": st.booleans(),
    }
)
clocks = st.sampled_from([EARLY, LATE])


async def play(
    store: MemoryStore,
    script: list[Any],
    faults: Sequence[dict[str, Any]] = (),
    said: dict[str, Any] | None = None,
    death: dict[str, Any] | None = None,
    now: float = EARLY,
) -> Play:
    """One turn, with what must hold of every one."""
    added = [Fault(**fault) for fault in faults]
    done = await Play(store, faults=added, switches=Switches(**(said or {})), now=now, **(death or {})).run(script)
    check_files(done)
    check_sign(done)
    if done.state.over is not None:
        assert done.row.outcome != "shown"
        assert done.row.reason == done.state.over
    elif not done.faulted("recall", "delete"):
        check_answer(done)
        check_streams(done)
    return done


# What must hold


def check_answer(play: Play) -> None:
    """The answer is there once, as the rung in use shows it; what could not be taken away is known."""
    state = play.state
    left = {part.facts.get("message_id") for part in state.leftovers if part.exists and part.settled is not None}
    assert not left or play.row.outcome == "partly"
    seen = [shown(message) for message in play.said if message.message_id not in left]
    wanted = expected(play.desired, state.rung)
    if state.repeat:
        assert seen[-len(wanted) :] == wanted
        assert len(seen) <= len(wanted) + 1
    else:
        assert seen == wanted


def check_streams(play: Play) -> None:
    """Nothing is "generating"; where only its setting ends that and it is refused, the platform does in ten minutes."""
    refusals = [call for call in play.sim.calls if call.op == "settings" and call.fault == "refuse"]
    if play.sim.switches.update_ends_streaming or not refusals:
        assert not any(message.streaming for message in play.answers)


def check_files(play: Play) -> None:
    """Every confirmed file is there once, in order; the others are named in the answer."""
    names = [message.file.name for message in play.files if message.file is not None]
    by_status = {file.name: file.status for file in play.desired.files}
    confirmed = [name for name, status in by_status.items() if status == "confirmed"]
    assert len(names) == len(set(names))
    if not play.faulted("recall", "delete"):
        assert [name for name in names if name in confirmed] == confirmed
    assert {by_status[name] for name in names} <= {"confirmed", "parked"}
    if play.state.over is None:
        text = "\n".join(message.text for message in play.said)
        assert all(name in text for name, status in by_status.items() if status != "confirmed")


def check_sign(play: Play) -> None:
    """Nobody is typing any more."""
    asked = play.sim.message(play.asked)
    assert asked.gone or asked.reactions == [] or play.state.over is not None


@settings(max_examples=SEEDS)
@given(
    script=turns,
    faults=some(passing, most=5),
    said=switches,
    death=deaths,
    now=clocks,
)
async def test_people_see_the_turn_once(store: MemoryStore, script: list[Any], **how: Any) -> None:
    done = await play(store, script, **how)
    assert done.state.over is None
    # Text that is appended to itself may outgrow a card while it streams.
    assert done.state.rung == 0 or done.sim.switches.content_semantics == "append", done.state.notes
    assert done.row.outcome == "shown"
    assert done.sim.hopeless == []


# What the platform does not take

REFUSED = [
    *[200220, 200860, 300305, 230099, 230025, 230028, 230022, 11246, 300313],  # this content
    *[10002, 99991672, 230027, 300311, 230075, 12345],  # this way
    *[200740, 230031],  # this message
]
refusing = st.one_of(
    faults_of(["refuse"], ["create", "reply", "update", "content", "settings", "patch", "send"], code=REFUSED),
    st.builds(
        lambda op, code: {"op": op, "kind": "refuse", "count": 0, "code": code},
        st.sampled_from(["create", "reply", "update", "content", "settings", "patch", "upload_file"]),
        st.sampled_from(REFUSED),
    ),
    passing,
)


@settings(max_examples=SEEDS // 2)
@given(
    script=turns,
    faults=some(refusing),
    said=switches,
    death=deaths,
    now=clocks,
)
async def test_what_is_refused_is_said_in_a_plainer_way(store: MemoryStore, script: list[Any], **how: Any) -> None:
    done = await play(store, script, **how)
    if done.state.over is not None:
        # Nothing at all can be said in the chat.
        assert not [call for call in done.sim.calls if call.op == "reply" and call.applied and call.code == 0][5:]


async def test_a_card_that_is_gone_is_not_taken_for_one_that_was_sent(store: MemoryStore) -> None:
    gone = {"op": "reply", "kind": "refuse", "count": 0, "code": 200740}
    for at in range(12, 20):
        done = await play(store, ["Hello ", Pause(0.4), "you."], [gone], LAG, {"commits": frozenset({at})})
        assert done.row.outcome != "shown", at


# What people and operators do

BARRED = [230002, 230006, 230013, 230029, 230053, 232009]
GONE = [230011, 230110, 99992354, 231003]
ending = st.one_of(
    faults_of(["recall", "delete"], ["react", "reply", "content", "update", "settings"], counts=1),
    faults_of(["refuse"], ["reply", "content", "update", "settings"], counts=1, code=[*BARRED, *GONE]),
)


@settings(max_examples=SEEDS // 2)
@given(
    script=turns,
    faults=st.tuples(ending, st.lists(passing, max_size=2)).map(lambda both: [both[0], *both[1]]),
    said=switches,
    death=deaths,
)
async def test_what_people_took_away_is_not_sent_again(store: MemoryStore, script: list[Any], **how: Any) -> None:
    done = await play(store, script, **how)
    cards = [one for one in done.sim.tenant.in_chat(done.chat) if one.from_bot and one.msg_type == "interactive"]
    texts = [one for one in done.sim.tenant.in_chat(done.chat) if one.from_bot and one.msg_type == "text"]
    assert texts == []
    assert len(cards) <= len(expected(done.desired, 0)) + ("part" in str(script))
    assert len(done.sim.hopeless) <= 4


async def test_after_a_recall_no_further_file_is_tried(store: MemoryStore) -> None:
    files = [Attach(name=f"{number}-file.txt") for number in (1, 2, 3)]
    faults = [{"op": "react", "kind": "recall"}, {"op": "reply", "kind": "timeout_before_applying"}]
    done = await play(store, files, faults=faults)
    assert done.state.over is not None
    assert len(done.sim.hopeless) <= 3


# What the documents leave open

PIECES = ["One, ", Pause(1.0), "two, ", Pause(1.0), "three, ", Pause(700.0), "four, ", Pause(1.0), "five, ", Pause(1.0)]


@pytest.mark.parametrize("semantics", ["replace", "append", "drop_after_10min"])
@pytest.mark.parametrize("ends", [True, False], ids=["a replaced card streams no more", "only its setting ends that"])
async def test_what_becomes_of_streamed_text_makes_no_difference(
    store: MemoryStore, semantics: str, ends: bool
) -> None:
    said = {"content_semantics": semantics, "update_ends_streaming": ends, "reopen_restarts": False}
    done = await play(store, [*PIECES, "six."], said=said)
    assert done.row.outcome == "shown"
    assert done.said[0].text.startswith("One, two, three, four, five, six.")
    assert done.sim.counts["content"] >= 4


async def test_text_that_is_dropped_without_a_word_is_there_in_the_end(store: MemoryStore) -> None:
    never_reopened = {"op": "settings", "kind": "refuse", "count": 3, "code": 300122}
    done = await play(store, PIECES, [never_reopened], {"content_semantics": "drop_after_10min"})
    assert done.row.outcome == "shown"
    assert done.said[0].text.startswith("One, two, three, four, five, ")


# Every place at which a process can die

NAMED: dict[str, list[Any]] = {
    "plain": ["Hello ", Pause(0.5), "there, ", Pause(0.5), "all of you."],
    "tools": ["Let me look. ", *tool("search", 3.0), *tool("read", 3.0, fails=True), "Found it."],
    "file": ["Here: ", Attach("a.txt"), Pause(1.0), "and ", Attach("b.txt"), "done."],
    "overflow": [LONG, Pause(1.0), LONG, Pause(1.0), "The end."],
    "rewrite": [Snapshot("First thought " * 9, part="a"), Pause(1.0), Snapshot("Second.", part="a"), Pause(1.0), "."],
    "failed": ["Half an ans", Pause(1.0), End("failed", "the model broke")],
}
LAG = {"latency": 0.12}


SLOW = pytest.param("overflow", marks=pytest.mark.heavy)


@pytest.mark.parametrize("name", [*(name for name in NAMED if name != "overflow"), SLOW])
async def test_every_crash_point(store: MemoryStore, name: str) -> None:
    whole = await play(store, NAMED[name], said=LAG)
    assert len(whole.said) == (2 if name == "overflow" else 1)
    for at in range(whole.calls):
        for when in ("before", "after"):
            done = await play(store, NAMED[name], said=LAG, death={"dies": {at: when}})
            assert done.row.outcome == "shown", (at, when)
            assert [shown(one) for one in done.answers] == [shown(one) for one in whole.answers], (at, when)
            assert done.stage.processes == 2
            assert 300317 not in {call.code for call in done.sim.calls}, "numbers are not used twice"


@pytest.mark.parametrize("name", ["plain", pytest.param("file", marks=pytest.mark.heavy)])
async def test_every_call_that_is_not_answered(store: MemoryStore, name: str) -> None:
    whole = await play(store, NAMED[name], said=LAG)
    for nth in range(1, whole.calls + 1):
        for kind in ("timeout_before_applying", "reset_after_applying"):
            done = await play(store, NAMED[name], [{"op": "*", "kind": kind, "nth": nth}], said=LAG)
            assert done.row.outcome == "shown", (nth, kind)
            assert sorted(map(str, map(shown, done.answers))) == sorted(map(str, map(shown, whole.answers))), (
                nth,
                kind,
            )


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["file", "rewrite"])
async def test_every_commit_at_which_a_process_can_die(store: MemoryStore, name: str) -> None:
    whole = await play(store, NAMED[name], said=LAG)
    for at in range(whole.stage.commits):
        done = await play(store, NAMED[name], said=LAG, death={"commits": frozenset({at})})
        assert done.row.outcome == "shown", at
        assert [shown(one) for one in done.answers] == [shown(one) for one in whole.answers], at


# What was found


async def test_a_typing_sign_that_was_refused_and_made_is_taken_away(store: MemoryStore) -> None:
    fault = {"op": "react", "kind": "refuse_after_applying", "code": 2200}
    done = await play(store, [Pause(1.0), "Hello."], [fault])
    assert done.row.outcome == "shown"


async def test_a_card_that_was_sent_although_the_platform_had_an_error_is_the_card(store: MemoryStore) -> None:
    done = await play(
        store, ["Hello ", Pause(0.2), "world."], [{"op": "reply", "kind": "refuse_after_applying", "code": 2200}]
    )
    assert done.row.outcome == "shown"


async def test_a_typing_sign_that_is_gone_is_not_taken_away_again_and_again(store: MemoryStore) -> None:
    done = await play(store, [Pause(1.0), "Hello."], [{"op": "unreact", "kind": "timeout_after_applying"}])
    assert done.sim.counts["unreact"] <= 2
