"""Random turns in a WeCom chat, whatever the platform, the network and our own process do: what people see in the end
is what the turn says, once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.random_turns import SEEDS, deaths, faults_of, scripts, some, tool
from tests.wecom_stage import Play, check_read, tokens
from turnwire import Snapshot
from turnwire.channels import facts
from turnwire.channels.wecom.errors import STREAM_OVER
from turnwire.channels.wecom.words import OWN
from turnwire.channels.words import EN
from turnwire.sim.wecom import Fault, Switches
from turnwire.testing import Attach, End, MemoryStore, Pause

pytestmark = pytest.mark.anyio

# What agents say

counter = itertools.count(10)


def token() -> str:
    return f"⟦{next(counter)}⟧"


def paragraph() -> str:
    return f"Paragraph {token()}. " + "word " * 20 + "\n\n"


def code() -> str:
    return "\n\n```python\n" + "\n".join(f"line = '{token()}'" for _ in range(5)) + "\n```\n\n"


def long_text() -> str:
    return "".join(f"{token()} 很长的一段话，" + "需要分成几个气泡。" * 40 + "\n\n" for _ in range(40))


TABLE_HEAD = "\n\n| city | rain |\n| --- | --- |\n"
words = st.one_of(
    st.builds(lambda: f"Hello {token()} "),
    st.builds(lambda: f"世界 {token()} 🙂"),
    st.builds(paragraph),
    st.builds(code),
    st.builds(lambda: f"{TABLE_HEAD}| {token()} | yes |\n\n"),
    st.builds(long_text),
)
turns = scripts(
    words,
    pieces=st.tuples(words, words, words).map(lambda three: [three[0], Pause(1.0), three[1], Pause(1.0), three[2]]),
    thoughts=st.sampled_from(["Thinking hard. ", "想一想 "]),
    pauses=[0.1, 1.0, 30.0, 400.0, 720.0],
)

# What goes wrong

CALLS = ["stream", "finish", "push", "upload_init", "upload_chunk", "upload_finish", "subscribe", "*"]
BREAKS = ["reset_before_applying", "reset_after_applying", "close_before_applying", "close_after_applying", "half_open"]
passing = st.one_of(
    faults_of(["lost", "ack_lost"], CALLS),
    faults_of(["ack_late", "slow"], CALLS, seconds=[1.0, 6.0, 12.0]),
    faults_of(BREAKS, CALLS, counts=1),
    faults_of(["refuse"], ["stream", "finish", "push"], code=[6000, 846601, 45009, 846609]),
    faults_of(["refuse"], ["upload_init", "upload_chunk", "upload_finish"], code=[-1, 45009, 846601]),
    faults_of(["drop"], ["stream"], counts=1),
)
# A first frame that is taken and then dropped without a word is seen by nobody.
worse = st.one_of(
    passing,
    faults_of(["refuse"], ["stream", "finish", "push"], code=[846608, 846605, 846604, 40058, 600039]),
    faults_of(["orphan"], ["stream", "finish", "push"], counts=1),
    faults_of(["expire_stream", "expire_req_id"], ["stream", "finish"], counts=1),
    faults_of(["refuse"], ["push", "upload_init", "upload_finish"], code=[40007, 40008, 93006, 40058, 40009]),
)
lives = st.sampled_from([(600.0, 600.0), (360.0, 360.0), (600.0, 360.0)])
"""What the platform allows a bubble, and what we think."""
switches = st.fixed_dictionaries(
    {
        "stream_expiry": st.sampled_from(["absolute", "idle"]),
        "expired_frame": st.sampled_from(["refuse", "drop"]),
        "frame_after_finish": st.sampled_from(["refuse", "drop"]),
        "stream_after_expiry": st.sampled_from(["refuse", "accept"]),
        "identical_final": st.sampled_from(["apply", "drop"]),
        "race": st.sampled_from(["conflict", "queue"]),
        "attach_after_finish": st.sampled_from(["ack_and_drop", "deliver"]),
        "push_after_stream": st.just("deliver"),
        "rate_unit": st.sampled_from(["messages", "messages", "frames"]),
        "latency": st.sampled_from([0.0, 0.25, 1.0]),
    }
)


async def play(
    store: MemoryStore,
    script: list[Any],
    faults: Sequence[dict[str, Any]] = (),
    said: dict[str, Any] | None = None,
    death: dict[str, Any] | None = None,
    life: tuple[float, float] = (600.0, 600.0),
    **how: Any,
) -> Play:
    """One turn, with what must hold of every one."""
    # Whoever died at a final frame takes a bubble that is over before its time for one that this frame has ended.
    added = [fault for fault in (Fault(**one) for one in faults) if not (death and _ends_early(fault))]
    tenant = Switches(**{"stream_life": life[0], **(said or {})})
    if any(fault.kind == "expire_stream" for fault in added):
        # Nobody can know of a bubble that dies early and whose platform says that it took what it drops.
        tenant.expired_frame = "refuse"
    how = {"stream_life_s": life[1], **how}
    done = await Play(store, faults=added, switches=tenant, how=how, **(death or {})).run(script)
    check_files(done)
    check_bubbles(done)
    if done.state.over is not None:
        assert done.row.outcome != "shown"
    elif _is_withheld(done):
        assert done.row.outcome == "partly"
        assert done.said[-1].text == OWN["en"].withheld
        assert any(call.op == "push" and call.code not in (None, 0) for call in done.sim.calls)
    else:
        wanted = [one for text in facts.said(done.desired) for one in tokens(text)]
        check_read(done, wanted, repeat=EN.repeat, corrected=OWN["en"].corrected)
    return done


def _ends_early(fault: Fault) -> bool:
    return fault.kind == "expire_stream" or (fault.kind == "refuse" and fault.code in STREAM_OVER)


def _is_withheld(play: Play) -> bool:
    """Whether a notice stands in the answer's place; it holds nothing of the turn, names of files neither."""
    return any(part.facts.get("lacks") for part in play.state.parts)


def check_files(play: Play) -> None:
    """Every confirmed file is there once, in order, before the last bubble; the others are named in the answer."""
    by_status = {file.name: file.status for file in play.desired.files}
    confirmed = [name for name, status in by_status.items() if status == "confirmed"]
    assert len(play.files) == len(set(play.files))
    assert [name for name in play.files if name in confirmed] == confirmed
    assert {by_status[name] for name in play.files} <= {"confirmed", "parked"}
    assert play.sim.view("alice").vanished == [] or play.faulted("drop")
    text = "\n".join(message.text for message in play.said)
    if play.state.over is None and not _is_withheld(play):
        assert all(name in text for name, status in by_status.items() if status != "confirmed")


def check_bubbles(play: Play) -> None:
    """No bubble is live, or waits for ever."""
    assert not [message for message in play.said if message.state == "live" and not play.state.repeat]
    for message in play.said:
        assert len(message.raw.encode()) <= 20_480


@settings(max_examples=SEEDS)
@given(
    script=turns,
    faults=some(passing),
    said=switches,
    death=deaths,
    life=lives,
)
async def test_people_see_the_turn_once(store: MemoryStore, script: list[Any], **how: Any) -> None:
    done = await play(store, script, **how)
    assert done.state.over is None


@settings(max_examples=SEEDS // 4)
@given(
    script=turns,
    faults=some(worse),
    said=switches,
    death=deaths,
    life=lives,
)
async def test_what_is_refused_is_said_otherwise(store: MemoryStore, script: list[Any], **how: Any) -> None:
    await play(store, script, **how)


# Named turns


async def test_a_notice_in_the_place_of_an_answer_names_no_file(store: MemoryStore) -> None:
    """Found by the test above: the file fails, and then what would have said so is refused as well."""
    faults = [
        {"op": "stream", "kind": "lost", "nth": 2},
        {"op": "stream", "kind": "refuse", "nth": 1, "code": 846608},
        {"op": "push", "kind": "refuse", "nth": 1, "count": 2, "code": 846608},
    ]
    done = await play(store, [Attach("file.txt"), End("done")], faults)
    assert _is_withheld(done)
    assert (done.row.outcome, done.said[-1].text) == ("partly", OWN["en"].withheld)


PIECES = [one for n in range(12) for one in (f"Piece ⟦{n}⟧ of it. ", Pause(60.0))]


@pytest.mark.parametrize("life", [600.0, 360.0])
@pytest.mark.parametrize("expiry", ["absolute", "idle"])
@pytest.mark.parametrize("after", ["ack_and_drop", "deliver"])
async def test_twelve_minutes_are_read_whole(store: MemoryStore, life: float, expiry: str, after: str) -> None:
    script = [*PIECES, Attach("report.pdf"), "⟦12⟧ The end."]
    said = {"stream_expiry": expiry, "attach_after_finish": after}
    done = await play(store, script, said=said, life=(life, life))
    assert done.row.outcome == "shown"
    assert not done.state.repeat
    assert done.files == ["report.pdf"]
    assert len(done.said) == (2 if life == 600.0 else 3)
    assert [message.state for message in done.said] == ["finished"] * len(done.said)


async def test_nothing_is_said_for_an_hour(store: MemoryStore) -> None:
    done = await play(store, ["Wait. ⟦1⟧", Pause(3600.0), "⟦2⟧ Here."], life=(600.0, 600.0))
    assert not done.state.repeat
    assert done.row.outcome == "shown"


@pytest.mark.parametrize("size", [60_000])
async def test_a_long_answer_is_read_over_several_bubbles(store: MemoryStore, size: int) -> None:
    text = "".join(f"⟦{n}⟧ 第{n}段，很长的回答🙂👩‍💻。" * 3 + "\n\n" for n in range(size // 150))
    text = text.replace("⟧ 第", "⟧ 第", 1)
    once = [f"⟦{n}⟧ 第{n}段，" + "很长的回答🙂👩‍💻。" * 6 + "\n\n" for n in range(size // 150)]
    code = "```python\n" + "\n".join(f"print('⟦c{n}⟧ 你好')" for n in range(300)) + "\n```\n"
    done = await play(store, ["".join(once[:150]), Pause(1.0), code, "".join(once[150:])])
    assert done.row.outcome == "shown"
    assert len(done.said) >= 3
    whole = "\n".join(message.text for message in done.said)
    assert whole.count("print('") == 300
    for message in done.said:
        assert len(message.raw.encode()) <= 20_480
        assert message.text.count("```") % 2 == 0
        assert "\ufffd" not in message.text


NAMED: dict[str, list[Any]] = {
    "plain": ["Hello ⟦1⟧ ", Pause(1.0), "there, ⟦2⟧ ", Pause(1.0), "all of you. ⟦3⟧"],
    "tools": ["Let me look. ⟦1⟧ ", *tool("search", 3.0), *tool("read", 3.0, fails=True), "Found it. ⟦2⟧"],
    "file": ["Here: ⟦1⟧ ", Attach("a.txt"), Pause(1.0), "and ⟦2⟧ ", Attach("b.txt"), "done."],
    "rewrite": [Snapshot("First ⟦1⟧ thought", part="a"), Pause(1.0), Snapshot("Second ⟦2⟧.", part="a"), Pause(1.0)],
    "failed": ["Half ⟦1⟧ an ans", Pause(1.0), End("failed", "the model broke")],
    "rotated": ["One ⟦1⟧. ", Pause(700.0), "Two ⟦2⟧. ", Pause(1.0), "Three ⟦3⟧."],
}


@pytest.mark.parametrize("name", NAMED)
async def test_every_crash_point(store: MemoryStore, name: str) -> None:
    whole = await play(store, NAMED[name])
    for at in range(whole.calls):
        for when in ("before", "after"):
            done = await play(store, NAMED[name], death={"dies": {at: when}})
            assert done.row.outcome in ("shown", "partly"), (at, when)
            assert not done.state.repeat, (at, when)


async def test_an_upload_that_may_not_be_leaves_no_bubble_open(store: MemoryStore) -> None:
    faults = [{"op": "upload_init", "kind": "refuse", "code": 93006, "nth": 1, "count": 1}]
    script = ["Look. ⟦1⟧ ", Pause(3.0), Attach("a.txt"), Pause(30.0), "There. ⟦2⟧"]
    done = await play(store, script, faults=faults)
    assert done.state.over is None
    assert [message.state for message in done.said] == ["finished"]


async def test_what_is_rewritten_before_it_could_be_sent_is_told_as_it_is_now(store: MemoryStore) -> None:
    # The first try of the bubble would have ended it, for it was full; it was not sent, for nothing was connected yet.
    script = [Snapshot(long_text(), part="step 0"), Attach("a.txt"), Pause(2.0), Snapshot("Short. ⟦1⟧", part="step 0")]
    done = await play(store, script, said={"frame_after_finish": "drop", "latency": 1.0})
    assert [message.text for message in done.said] == ["Short. ⟦1⟧"]
