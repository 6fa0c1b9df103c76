"""What a failure costs a journal: exactly its turns, loudly; and how a turn ends in the middle of everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.journal_steps import FLUSH_S, Desk, texts
from tests.store_steps import (
    check,
    reap,
    said,
    take,
    turn_of,
)
from turnwire import chunks as c
from turnwire.journal import JournalError, TurnFenced
from turnwire.store import Database, StoreUnavailable
from turnwire.store.queries.records import read_all
from turnwire.store.queries.turns import end_turn

pytestmark = pytest.mark.anyio


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    made = Desk(database)
    made.journal.start()
    yield made
    made.db.may_go_on.set()
    await made.journal.close()
    assert made.clock.pending == 0


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


async def test_a_turn_that_cannot_be_written_fails_alone(desk: Desk) -> None:
    broken, other = await desk.turn("a"), await desk.turn("b")
    told: list[JournalError] = []
    broken.log.on_failure = told.append
    broken.log.put([c.Start("m", {"turnwire": object()})])
    other.start()
    with pytest.raises(JournalError, match="cannot be written"):
        await broken.log.flushed()
    await other.log.flushed()
    assert told == [broken.log.failure]
    assert (broken.topic.lost, broken.topic.head, other.topic.head) == (True, 0, 2)
    await other.end()
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
