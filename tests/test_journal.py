"""The journal over a real store: what is committed together and when, who is told, and what a failure costs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store_steps import (
    LEASE_S,
    Pen,
    begin,
    check,
    fresh,
    reap,
    said,
    seen,
    take,
    turn_of,
    written,
)
from turnwire import chunks as c
from turnwire import events as e
from turnwire.framer import Framer
from turnwire.journal import Hub, Journal, JournalError, Topic, TurnFenced, TurnLog
from turnwire.journal.follow import CONVERSATION, Follower
from turnwire.journal.hub import TAIL_BYTES, TAIL_RECORDS
from turnwire.journal.writer import PENDING_LIMIT
from turnwire.store import Append, Database, StoreUnavailable
from turnwire.store.queries.conversations import touch
from turnwire.store.queries.records import read_all, read_records
from turnwire.store.queries.turns import Claim, answer_of, end_turn, save_history
from turnwire.testing import FakeClock
from turnwire.view import fold, replay

pytestmark = pytest.mark.anyio

FLUSH_S = 0.02


class Watched:
    """A store that shows what is asked of it, and that can be slow or fail at will."""

    def __init__(self, db: Database) -> None:
        self.batches: list[list[Append]] = []
        self.failure: Exception | None = None
        self.fails: Callable[..., Any] | None = None
        self.asked = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._db = db

    async def append(self, batch: Sequence[Append]) -> set[str]:
        self.batches.append(list(batch))
        self.asked.set()
        await self.may_go_on.wait()
        if self.failure is not None and self.fails is None:
            raise self.failure
        return await self._db.append(batch)

    async def run(self, query: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.failure is not None and self.fails is query:
            raise self.failure
        return await self._db.run(query, *args, **kwargs)

    async def read(self, query: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await self._db.read(query, *args, **kwargs)

    async def close(self) -> None:
        await self._db.close()

    def hold(self) -> None:
        """Appends wait from now on."""
        self.may_go_on.clear()
        self.asked.clear()


class Desk:
    """A journal with everything around it."""

    def __init__(self, database: Database, *, rounds: int = 50) -> None:
        self.clock = FakeClock(rounds=rounds)
        self.hub = Hub()
        self.db = Watched(database)
        self.told: list[tuple[str, int, int, bool]] = []
        self.journal = Journal(
            self.db,
            self.hub,
            self.clock,
            flush_s=FLUSH_S,
            lease_s=LEASE_S,
            committed=lambda turn, first, records, ended: self.told.append((turn, first, len(records), ended)),
        )

    async def turn(self, name: str = "chat") -> Writer:
        """A running turn of a conversation of its own, its start committed."""
        return Writer(self, (await begin(self.db, conversation=name)))

    async def pause(self) -> None:
        """Long enough that the next commit is made at once."""
        await self.clock.advance(1.0)

    @property
    def commits(self) -> int:
        return len(self.db.batches)


class Writer:
    """A turn's log and the framer that feeds it."""

    def __init__(self, desk: Desk, pen: Pen) -> None:
        self.log: TurnLog = desk.journal.open(Claim(pen.turn, pen.epoch))
        self.topic: Topic = self.log.topic
        self.id = pen.turn.id
        self.framer: Framer = pen.framer
        self.put: list[c.AnyChunk] = []

    def start(self) -> None:
        self._put(self.framer.start())

    def say(self, *events: Any) -> None:
        for event in events:
            self._put(self.framer.feed(event))

    def _put(self, chunks: list[c.AnyChunk]) -> None:
        self.log.put(chunks)
        self.put += chunks

    async def end(self, outcome: Any = "done", reason: str | None = None, heir: str | None = None) -> Claim | None:
        told = {"turnwire": {"turn": self.id, "outcome": outcome}}
        chunks = self.framer.finish(outcome, reason=reason, metadata=told)
        self.put += chunks
        return await self.log.end(chunks, self.framer.view, outcome, reason, heir)


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    made = Desk(database)
    made.journal.start()
    yield made
    made.db.may_go_on.set()
    await made.journal.close()
    assert made.clock.pending == 0


def texts(records: Sequence[bytes]) -> list[str]:
    return [chunk.delta for chunk in map(c.decode, records) if isinstance(chunk, c.TextDelta)]


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
    await asyncio.wait_for(writer.log.flushed(), 5)
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


# Failures


async def test_a_failed_append_fails_exactly_its_turns(desk: Desk) -> None:
    first, second, third = [await desk.turn(name) for name in "abc"]
    for writer in (first, second, third):
        writer.start()
    await third.log.flushed()
    await desk.pause()
    desk.db.hold()
    first.say("lost")
    second.say("lost")
    await desk.db.asked.wait()
    second.say("lost too")
    third.say("kept")
    waiting = [asyncio.create_task(writer.log.flushed()) for writer in (first, second, third)]
    await desk.clock.settle()
    desk.db.failure = StoreUnavailable("the disk is full")
    desk.db.may_go_on.set()
    outcomes = await asyncio.gather(*waiting[:2], return_exceptions=True)
    desk.db.failure = None
    assert [type(outcome) for outcome in outcomes] == [JournalError, JournalError]
    assert "the disk is full" in str(outcomes[0])
    await desk.clock.advance(FLUSH_S)
    await waiting[2]
    for writer in (first, second):
        assert writer.topic.lost
        assert texts(await desk.db.read(read_all, writer.id)) == []
        assert writer.topic.head == writer.log.head == 2
        with pytest.raises(JournalError):
            writer.log.put([c.StartStep()])
        with pytest.raises(JournalError):
            await writer.log.flushed()
        with pytest.raises(JournalError):
            await writer.end()
    assert not third.topic.lost
    assert texts(third.topic.records(0)) == texts(await desk.db.read(read_all, third.id)) == ["kept"]
    await third.end()
    await check(desk.db)


async def test_a_fenced_turn_fails_alone(desk: Desk) -> None:
    fenced, other = await desk.turn("a"), await desk.turn("b")
    for writer in (fenced, other):
        writer.start()
    await other.log.flushed()
    await desk.pause()
    await reap(desk.db, await turn_of(desk.db, fenced.id), ask_lease=False)
    desk.hub.join(fenced.id)
    for writer in (fenced, other):
        writer.say("more")
    with pytest.raises(TurnFenced):
        await fenced.log.flushed()
    await other.log.flushed()
    assert fenced.topic.lost
    assert (fenced.topic.head, fenced.topic.ended) == (2, False)
    assert texts(other.topic.records(0)) == ["more"]
    assert [turn for turn, *_ in desk.told] == [fenced.id, other.id, other.id]
    await check(desk.db)


async def test_an_end_that_is_fenced_or_cannot_be_stored_is_told(desk: Desk) -> None:
    fenced, failed, odd = [await desk.turn(name) for name in "abc"]
    for writer in (fenced, failed, odd):
        writer.start()
    await odd.log.flushed()
    await reap(desk.db, await turn_of(desk.db, fenced.id), ask_lease=False)
    with pytest.raises(TurnFenced):
        await fenced.end()
    desk.db.fails = end_turn
    for writer, error in ((failed, StoreUnavailable("the disk is full")), (odd, RuntimeError("who knows"))):
        desk.db.failure = error
        with pytest.raises(JournalError, match=str(error)):
            await writer.end()
        assert writer.log.failure is not None
        assert (await turn_of(desk.db, writer.id)).status == "running"
    for writer in (fenced, failed, odd):
        assert (writer.topic.lost, writer.topic.ended) == (True, False)
    await check(desk.db)


async def test_a_turn_takes_nothing_after_its_end(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.end()
    with pytest.raises(JournalError, match="its end"):
        writer.log.put([c.StartStep()])
    await writer.log.flushed()
    await check(desk.db)


# The end


async def test_an_end_waits_for_the_commit_in_flight_and_takes_what_is_pending(desk: Desk) -> None:
    writer = await desk.turn()
    desk.db.hold()
    writer.start()
    writer.say("one ")
    await desk.db.asked.wait()
    writer.say("two ")
    pending = asyncio.create_task(writer.log.flushed())
    ending = asyncio.create_task(writer.end())
    await desk.clock.settle()
    assert not ending.done()
    assert (await turn_of(desk.db, writer.id)).status == "running"
    desk.db.may_go_on.set()
    await asyncio.gather(ending, pending)
    assert desk.commits == 1, "what was pending is in the last commit"
    assert texts(await desk.db.read(read_all, writer.id)) == ["one ", "two "]
    assert writer.topic.records(0) == await desk.db.read(read_all, writer.id)
    assert (await check(desk.db))[0].outcome == "done"


async def test_an_end_does_not_wait_for_other_turns(desk: Desk) -> None:
    writer, other = await desk.turn("a"), await desk.turn("b")
    writer.start()
    await writer.log.flushed()
    await desk.pause()
    desk.db.hold()
    other.start()
    await desk.db.asked.wait()
    await asyncio.wait_for(writer.end(), 10)
    assert (other.topic.head, writer.topic.ended) == (0, True)


async def test_an_end_whose_last_records_failed_is_told(desk: Desk) -> None:
    writer = await desk.turn()
    desk.db.hold()
    writer.start()
    await desk.db.asked.wait()
    ending = asyncio.create_task(writer.end())
    await desk.clock.settle()
    desk.db.failure = StoreUnavailable("the disk is full")
    desk.db.may_go_on.set()
    with pytest.raises(JournalError, match="the disk is full"):
        await ending
    assert (await turn_of(desk.db, writer.id)).head == 0


async def test_an_end_claims_the_next_turn(desk: Desk) -> None:
    writer = await desk.turn()
    queued = (await take(desk.db, said("next"))).turn
    writer.start()
    claim = await writer.end(heir="p9")
    assert claim is not None
    assert (claim.turn.id, claim.turn.owner) == (queued.id, "p9")


async def test_an_idle_journal_stays_idle_through_an_end(desk: Desk) -> None:
    first = await desk.turn("a")
    first.start()
    await first.end()
    second = await desk.turn("b")
    second.start()
    await asyncio.wait_for(second.log.flushed(), 10)
    assert second.topic.head == 2


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


@given(st.lists(st.tuples(st.integers(0, 2), ACTS), max_size=24))
@settings(max_examples=max(40, settings().max_examples // 8), suppress_health_check=list(HealthCheck), deadline=None)
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


# Topics


def records(first: int, count: int, size: int = 0) -> list[bytes]:
    return [b"%d" % number + b"." * size for number in range(first, first + count)]


def test_a_topic_keeps_a_bounded_tail() -> None:
    topic = Topic("t")
    for first in range(0, 2000, 100):
        topic.publish(first, records(first, 100))
    assert topic.head == 2000
    assert topic.holds(2000 - TAIL_RECORDS)
    assert not topic.holds(2000 - TAIL_RECORDS - 1)
    assert topic.records(1990) == records(1990, 10)
    topic.publish(2000, records(2000, 40, TAIL_BYTES // 16))
    assert topic.holds(2040 - 15)
    assert not topic.holds(2040 - 16)
    topic.publish(2040, [b"." * (TAIL_BYTES + 1)])
    assert not topic.holds(2040)
    assert topic.holds(2041)
    assert topic.records(2041) == []


async def test_a_reader_that_fell_behind_reads_the_store(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    for number in range(TAIL_RECORDS + 100):
        writer.log.put([c.DataPart("data-n", number)])
    await writer.log.flushed()
    assert not writer.topic.holds(0)
    missed = await desk.db.read(read_records, writer.id, 0, rows=1_000_000)
    assert len(missed) == writer.topic.head
    tail = next(cursor for cursor in range(writer.topic.head) if writer.topic.holds(cursor))
    assert writer.topic.records(tail) == missed[tail:]
    assert len(missed) - tail == TAIL_RECORDS


def test_what_a_topic_knows_is_skipped_and_a_gap_sends_readers_to_the_store() -> None:
    topic = Topic("t")
    topic.publish(0, records(0, 3))
    topic.publish(1, records(1, 2))
    topic.publish(2, records(2, 3))
    assert topic.records(0) == records(0, 5)
    topic.publish(8, records(8, 2))
    assert (topic.head, topic.holds(5), topic.holds(8)) == (10, False, True)
    assert topic.records(8) == records(8, 2)
    topic.advance(12, ended=False)
    assert (topic.head, topic.holds(10), topic.holds(12)) == (12, False, True)
    topic.advance(11, ended=False)
    topic.publish(9, records(9, 2))
    assert topic.head == 12
    topic.publish(11, records(11, 2), ended=True)
    assert (topic.head, topic.ended, topic.records(12)) == (13, True, records(12, 1))
    topic.publish(11, records(11, 1), ended=True)
    assert topic.head == 13


def test_an_end_that_comes_late_does_not_turn_a_topic_back() -> None:
    topic = Topic("t")
    topic.advance(10, ended=False)
    topic.publish(7, records(7, 1), ended=True)
    assert (topic.head, topic.ended) == (10, True)
    topic.advance(9, ended=True)
    assert topic.head == 10


def test_the_wire_form_of_a_tail_is_made_once_for_all_readers() -> None:
    topic = Topic("t")
    made: list[int] = []

    def encode(first: int, tail: Sequence[bytes]) -> tuple[bytes, bool]:
        made.append(first)
        return b",".join(tail), False

    topic.publish(0, records(0, 3))
    assert [topic.frames(1, encode) for _ in range(3)] == [(b"1,2", False)] * 3
    assert topic.frames(0, encode) == (b"0,1,2", False)
    topic.publish(3, records(3, 1))
    assert topic.frames(1, encode) == (b"1,2,3", False)
    assert made == [1, 0, 1]


async def test_every_change_wakes_every_reader() -> None:
    changes: list[Callable[[Topic], None]] = [
        lambda topic: topic.publish(0, records(0, 1)),
        lambda topic: topic.advance(3, ended=False),
        lambda topic: topic.advance(0, ended=True),
        lambda topic: topic.lose(),
        lambda topic: topic.tick(),
        lambda topic: topic.wake(),
    ]
    for change in changes:
        topic = Topic("t")
        readers = [asyncio.create_task(topic.changed()) for _ in range(3)]
        await asyncio.sleep(0)
        readers[0].cancel()
        await asyncio.sleep(0)
        assert not readers[1].done()
        change(topic)
        await asyncio.gather(*readers[1:])


# The hub


def test_a_topic_lives_as_long_as_its_writer_or_a_reader() -> None:
    hub = Hub()
    written_here = hub.open("t", 4)
    reading = [hub.join("t"), hub.join("t")]
    assert all(topic is written_here for topic in reading)
    assert (written_here.head, hub.writes("t"), hub.followed()) == (4, True, [])
    hub.leave(reading[0])
    hub.close("t")
    assert (hub.find("t"), hub.writes("t"), hub.followed()) == (written_here, False, [written_here])
    hub.leave(reading[1])
    assert (hub.find("t"), len(hub)) == (None, 0)
    topic = hub.open("u")
    hub.leave(hub.join("u"))
    assert hub.find("u") is topic
    hub.close("u")
    assert len(hub) == 0


async def test_a_journal_lets_its_topics_go(desk: Desk) -> None:
    writer = await desk.turn()
    writer.start()
    await writer.end()
    assert len(desk.hub) == 1
    desk.journal.release(writer.log)
    assert len(desk.hub) == 0


def test_only_topics_that_go_on_elsewhere_are_followed() -> None:
    hub = Hub()
    hub.open("mine")
    hub.join("mine")
    live, ended = hub.join("live"), hub.join("ended")
    ended.advance(1, ended=True)
    assert hub.followed() == [live]


def test_a_lost_topic_is_not_given_to_those_who_come_again() -> None:
    hub = Hub()
    slow = hub.join("t")
    hub.open("t")
    slow.lose()
    hub.close("t")
    again = hub.join("t")
    assert again is not slow
    assert not again.lost
    writing = hub.open("t")
    assert writing is again
    hub.leave(slow)
    assert hub.find("t") is again
    hub.close("t")
    hub.leave(again)
    assert len(hub) == 0


def test_a_process_that_stops_serving_sends_every_reader_away() -> None:
    hub = Hub()
    topics = [hub.join("a"), hub.open("b")]
    hub.lose_all()
    assert all(topic.lost for topic in topics)
    assert hub.join("c").lost
    assert hub.join("a").lost


# Topics whose writer is elsewhere


async def test_a_follower_finds_what_other_processes_committed(database: Database) -> None:
    hub, clock = Hub(), FakeClock()
    follower = Follower(database, hub, clock, every_s=0.5)
    pen = await (await begin(database)).say("hello")
    topic = hub.join(pen.turn.id)
    conversation = hub.join(CONVERSATION + pen.turn.conversation_id)
    follower.start()
    await clock.advance(0.5)
    await clock.until(lambda: conversation.head > 0)
    assert (topic.head, topic.ended) == (pen.head, False)
    version = conversation.head
    await pen.say("more")
    await database.run(touch, pen.turn.conversation_id)
    await clock.settle()
    assert topic.head < pen.head
    follower.poke()
    await clock.until(lambda: conversation.head > version)
    assert topic.head == pen.head
    await pen.end()
    await clock.advance(0.5)
    await clock.until(lambda: topic.ended)
    assert topic.head == (await turn_of(database, pen.turn.id)).head
    await follower.close()
    assert clock.pending == 0


async def test_a_follower_survives_a_store_that_is_away(database: Database) -> None:
    hub, clock, db = Hub(), FakeClock(), Watched(database)
    pen = await (await begin(database)).say("hello")
    topic = hub.join(pen.turn.id)
    looked = 0

    async def away(*_: Any) -> Any:
        nonlocal looked
        looked += 1
        raise StoreUnavailable("away")

    db.read = away  # type: ignore[method-assign]
    follower = Follower(db, hub, clock, every_s=0.5)
    follower.start()
    await clock.advance(1.1)
    assert (looked, topic.head) == (2, 0)
    del db.read
    await clock.advance(0.5)
    await clock.until(lambda: topic.head == pen.head)
    await follower.close()
