"""The journal over a real store: what is committed together and when, and who is shown what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.journal_steps import FLUSH_S, Desk, Writer, texts
from tests.store_steps import (
    check,
    fresh,
    reap,
    seen,
    turn_of,
    written,
)
from turnwire import chunks as c
from turnwire import events as e
from turnwire.journal import TurnFenced
from turnwire.journal.joining import MERGED_CHARS
from turnwire.journal.writer import PENDING_BYTES, PENDING_LIMIT
from turnwire.store import Database, StoreUnavailable
from turnwire.store.queries.records import read_all
from turnwire.store.queries.turns import answer_of, save_history
from turnwire.view import fold, replay

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    made = Desk(database)
    made.journal.start()
    yield made
    made.db.may_go_on.set()
    await made.journal.close()
    assert made.clock.pending == 0


# What is committed, and when


async def test_what_is_put_is_stored_and_shown_in_order(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    for word in ("one ", "two ", "three"):
        writer.say(word)
        await writer.log.flushed()
        await desk.pause()
    stored = await desk.db.read(read_all, writer.id)
    assert texts(stored) == ["one ", "two ", "three"]
    assert writer.topic.records(0) == stored
    assert writer.log.head == writer.topic.head == len(stored) == (await turn_of(desk.db, writer.id)).head
    assert [(first, count) for _, first, count, _ in desk.told] == [(0, 4), (4, 1), (5, 1)]


async def test_an_idle_journal_commits_at_once_and_a_busy_one_every_flush_s(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.log.flushed()
    assert desk.commits == 1
    writer.say("a")
    await desk.clock.advance(FLUSH_S - 0.001)
    writer.say("b")
    await desk.clock.settle()
    assert (desk.commits, writer.topic.head) == (1, 2)
    await desk.clock.advance(0.001)
    await writer.log.flushed()
    assert desk.commits == 2
    await desk.clock.advance(FLUSH_S)
    writer.say("c")
    await writer.log.flushed()
    assert desk.commits == 3
    assert texts(writer.topic.records(0)) == ["ab", "c"]


async def test_all_turns_share_a_commit(desk: Desk) -> None:
    writers = [await desk.turn(f"c{number}") for number in range(5)]
    for writer in writers:
        writer.start()
    await asyncio.gather(*(writer.log.flushed() for writer in writers))
    assert [len(batch) for batch in desk.db.batches] == [5]


async def test_what_one_put_gave_is_committed_together(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    desk.db.hold()
    await desk.db.asked.wait()
    for number in range(6):
        writer.log.put([c.DataPart("data-begin", number), c.DataPart("data-end", number)])
        if number == 3:
            await desk.clock.advance(FLUSH_S)
            desk.db.may_go_on.set()
            await desk.clock.until(lambda: writer.topic.head > 2)
    await desk.clock.advance(FLUSH_S)
    await writer.log.flushed()
    runs = [run.payload.split(b"\n") for batch in desk.db.batches for run in batch]
    assert len(runs) == 3
    for run in runs[1:]:
        kinds = [c.chunk_type(c.decode(record)) for record in run]
        assert kinds == ["data-begin", "data-end"] * (len(run) // 2)


async def test_deltas_that_wait_for_the_same_commit_become_one_record(desk: Desk) -> None:
    writer = await desk.turn()
    writer.log.put([c.Start("m"), c.TextStart("t"), c.TextDelta("t", "a")])
    writer.log.put([c.TextDelta("t", "b"), c.TextDelta("t", "c")])
    signed = c.TextDelta("t", "d", {"openai": {"id": "1"}})
    writer.log.put([signed, c.TextDelta("t", "e"), c.TextEnd("t")])
    writer.log.put([c.ReasoningStart("r"), c.ReasoningDelta("r", "f"), c.ReasoningDelta("r", "g")])
    writer.log.put([c.TextStart("u"), c.TextDelta("u", "h"), c.TextDelta("r", "i")])
    writer.log.put([c.ToolInputStart("x", "search"), c.ToolInputDelta("x", "j"), c.ToolInputDelta("x", "k")])
    await writer.log.flushed()
    assert await written(desk.db, writer.id) == [
        c.Start("m"),
        c.TextStart("t"),
        c.TextDelta("t", "abc"),
        c.TextDelta("t", "de", {"openai": {"id": "1"}}),
        c.TextEnd("t"),
        c.ReasoningStart("r"),
        c.ReasoningDelta("r", "fg"),
        c.TextStart("u"),
        c.TextDelta("u", "h"),
        c.TextDelta("r", "i"),
        c.ToolInputStart("x", "search"),
        c.ToolInputDelta("x", "j"),
        c.ToolInputDelta("x", "k"),
    ]


async def test_a_delta_does_not_grow_without_end(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    for _ in range(5):
        writer.say("x" * (MERGED_CHARS // 2))
        writer.say(e.Reasoning("x" * MERGED_CHARS))
        writer.say(e.Reasoning("x"))
    for _ in range(5):
        writer.say("x" * (MERGED_CHARS // 2))
    await writer.log.flushed()
    stored = await written(desk.db, writer.id)
    assert max(len(chunk.delta) for chunk in stored if isinstance(chunk, c.TextDelta)) == MERGED_CHARS
    assert replay(fold(stored)) == replay(fold(writer.put))


async def test_merging_changes_no_chunk_of_the_callers(desk: Desk) -> None:
    writer = await desk.turn()
    delta = c.TextDelta("t", "a")
    writer.log.put([c.TextStart("t"), delta])
    writer.log.put([c.TextDelta("t", "b")])
    await writer.log.flushed()
    assert delta.delta == "a"


# Shown means stored


async def test_nothing_is_shown_before_its_commit(desk: Desk) -> None:
    writer = await desk.turn()
    reading = asyncio.create_task(writer.topic.changed())
    desk.db.hold()
    writer.start()
    await desk.db.asked.wait()
    await desk.clock.settle()
    assert (writer.topic.head, writer.log.head, desk.told, reading.done()) == (0, 0, [], False)
    desk.db.may_go_on.set()
    await reading
    assert writer.topic.records(0) == await desk.db.read(read_all, writer.id)


async def test_an_end_is_shown_after_its_commit(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.log.flushed()
    await writer.end()
    assert writer.topic.ended
    assert desk.told[-1] == (writer.id, 2, 2, True)
    assert writer.topic.head == (await turn_of(desk.db, writer.id)).head
    assert isinstance(c.decode(writer.topic.records(0)[-1]), c.Finish)
    await check(desk.db)


# Waiting for a commit


async def test_flushed_returns_at_once_when_nothing_waits(desk: Desk) -> None:
    writer = await desk.turn()
    await asyncio.wait_for(writer.log.flushed(), 20)
    assert desk.commits == 0


async def test_flushed_waits_for_what_was_put_before_it(desk: Desk) -> None:
    writer = await desk.turn()
    desk.db.hold()
    writer.start()
    await desk.db.asked.wait()
    in_flight = asyncio.create_task(writer.log.flushed())
    await desk.clock.settle()
    writer.say("later")
    pending = asyncio.create_task(writer.log.flushed())
    await desk.clock.settle()
    assert not in_flight.done()
    desk.db.may_go_on.set()
    await in_flight
    await desk.clock.settle()
    assert (pending.done(), writer.topic.head) == (False, 2)
    await desk.clock.advance(FLUSH_S)
    await pending
    assert texts(writer.topic.records(0)) == ["later"]


async def test_a_waiter_that_is_cancelled_disturbs_nobody(desk: Desk) -> None:
    writer = await desk.turn()
    desk.db.hold()
    writer.start()
    waiters = [asyncio.create_task(writer.log.flushed()) for _ in range(3)]
    await desk.db.asked.wait()
    late = [asyncio.create_task(writer.log.flushed()) for _ in range(2)]
    await desk.clock.settle()
    waiters[0].cancel()
    late[0].cancel()
    await desk.clock.settle()
    assert [task.done() for task in (*waiters, *late)] == [True, False, False, True, False]
    desk.db.may_go_on.set()
    await asyncio.gather(*waiters[1:], late[1])
    writer.say("on it goes")
    await desk.pause()
    await writer.log.flushed()
    assert texts(writer.topic.records(0)) == ["on it goes"]


async def test_an_agent_that_says_too_much_is_to_wait(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.log.flushed()
    for _ in range(PENDING_LIMIT):
        assert not writer.log.full
        writer.say("x")
    full = [writer.log.full]
    await desk.clock.advance(FLUSH_S)
    await writer.log.flushed()
    assert [*full, writer.log.full] == [True, False]
    assert texts(writer.topic.records(0)) == ["x" * PENDING_LIMIT]


async def test_an_agent_that_says_too_much_at_once_is_to_wait(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.log.flushed()
    writer.say("x" * (PENDING_BYTES // 2))
    assert [writer.log.full] == [False]
    writer.say(e.Data(name="big", data="x" * (PENDING_BYTES // 2)))
    assert [writer.log.full] == [True]
    await desk.clock.advance(FLUSH_S)
    await writer.log.flushed()
    assert [writer.log.full] == [False]


# History


async def test_an_answer_is_saved_with_the_commit_of_what_it_holds(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    writer.say("half an answer")
    writer.log.save(writer.framer.view)
    assert await desk.db.read(answer_of, writer.id) is None
    await writer.log.flushed()
    await desk.clock.until(lambda: writer.id not in desk.journal._writing)
    conversation = (await turn_of(desk.db, writer.id)).conversation_id
    assert (await seen(desk.db, conversation))[-1] == ("assistant", "half an answer")
    writer.say(", and the rest")
    await writer.end()
    assert (await seen(desk.db, conversation))[-1] == ("assistant", "half an answer, and the rest")
    await check(desk.db)


@pytest.mark.parametrize("error", [StoreUnavailable("the disk is full"), RuntimeError("who knows")])
async def test_an_answer_that_cannot_be_saved_fails_its_turn_and_no_other(desk: Desk, error: Exception) -> None:
    saving, other = await desk.turn("a"), await desk.turn("b")
    desk.db.fails, desk.db.failure = save_history, error
    for writer in (saving, other):
        writer.start()
    saving.log.save(saving.framer.view)
    await other.log.flushed()
    await desk.clock.until(lambda: saving.log.failure is not None)
    assert str(error) in str(saving.log.failure)
    assert saving.topic.lost
    other.say("on it goes")
    await desk.pause()
    await other.log.flushed()
    assert texts(other.topic.records(0)) == ["on it goes"]
    assert len(await desk.db.read(read_all, saving.id)) == 2
    await check(desk.db)


# Closing


async def test_closing_commits_the_rest_without_waiting(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.log.flushed()
    writer.say("last words")
    await asyncio.wait_for(desk.journal.close(), 10)
    assert texts(await desk.db.read(read_all, writer.id)) == ["last words"]
    assert writer.topic.records(0) == await desk.db.read(read_all, writer.id)


async def test_closing_while_the_journal_waits_for_its_time_does_not_wait_for_it(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.log.flushed()
    writer.say("last words")
    await desk.clock.settle()
    assert desk.clock.pending == 1
    await asyncio.wait_for(desk.journal.close(), 10)
    assert texts(await desk.db.read(read_all, writer.id)) == ["last words"]


async def test_a_journal_that_never_started_closes(database: Database) -> None:
    await Desk(database).journal.close()


# Any number of turns, in any order

ACTS = st.sampled_from(["say", "say", "say", "think", "tool", "save", "flushed", "advance", "fence", "end"])


@given(st.lists(st.tuples(st.integers(0, 2), ACTS), max_size=20))
@settings(max_examples=max(10, settings().max_examples // 8), suppress_health_check=list(HealthCheck), deadline=None)
async def test_what_a_turn_said_is_what_is_stored_and_shown(database: Database, acts: list[tuple[int, str]]) -> None:
    desk = Desk(database, rounds=5)
    desk.journal.start()
    writers = [await desk.turn(fresh("chat")) for _ in range(3)]
    fenced: set[str] = set()
    for writer in writers:
        writer.start()
    for number, act in acts:
        await one_act(desk, writers[number], act, fenced)
    await desk.journal.close()
    for writer in writers:
        stored = await desk.db.read(read_all, writer.id)
        if writer.id in fenced:
            continue
        assert writer.log.failure is None
        assert replay(fold(map(c.decode, stored))) == replay(fold(writer.put)), "nothing is lost, nothing is twice"
        assert writer.topic.records(0) == stored
    await check(database)


async def one_act(desk: Desk, writer: Writer, act: str, fenced: set[str]) -> None:
    if act == "advance":
        await desk.clock.advance(FLUSH_S)
    elif act == "flushed":
        await desk.clock.advance(FLUSH_S)
        with contextlib.suppress(TurnFenced):
            await writer.log.flushed()
    elif writer.log.ending or writer.log.failure is not None:
        return
    elif act == "fence":
        await reap(desk.db, await turn_of(desk.db, writer.id), ask_lease=False, heir=None)
        fenced.add(writer.id)
    elif act == "end":
        with contextlib.suppress(TurnFenced):
            await writer.end()
    elif act == "save":
        writer.log.save(writer.framer.view)
    else:
        call = e.ToolCall(id=fresh("call"), name="search")
        writer.say({"say": "word ", "think": e.Reasoning("hm "), "tool": call}[act])
