"""Topics, the hub and the follower: who is shown what is committed, here or elsewhere, and at what cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from tests.store_steps import begin, turn_of
from turnwire import chunks as c
from turnwire.journal import Hub, Journal, Topic
from turnwire.journal.follow import CONVERSATION, Follower
from turnwire.journal.hub import TAIL_BYTES, TAIL_RECORDS
from turnwire.store import Database, StoreUnavailable
from turnwire.store.queries.conversations import touch
from turnwire.store.queries.records import read_records
from turnwire.store.queries.turns import Claim
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def journal(database: Database) -> AsyncIterator[Journal]:
    made = Journal(database, Hub(), FakeClock())
    made.start()
    yield made
    await made.close()


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


async def test_a_reader_that_fell_behind_reads_the_store(database: Database, journal: Journal) -> None:
    pen = await begin(database)
    log = journal.open(Claim(pen.turn, pen.epoch))
    for number in range(TAIL_RECORDS + 100):
        log.put([c.DataPart("data-n", number)])
    await log.flushed()
    topic = log.topic
    assert not topic.holds(0)
    missed = await database.read(read_records, pen.turn.id, 0, rows=1_000_000)
    assert len(missed) == topic.head
    tail = next(cursor for cursor in range(topic.head) if topic.holds(cursor))
    assert topic.records(tail) == missed[tail:]
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


async def test_a_journal_lets_its_topics_go(database: Database) -> None:
    hub = Hub()
    journal = Journal(database, hub, FakeClock())
    pen = await begin(database)
    log = journal.open(Claim(pen.turn, pen.epoch))
    reader = hub.join(pen.turn.id)
    journal.release(log)
    assert len(hub) == 1
    hub.leave(reader)
    assert len(hub) == 0


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
    follower = Follower(database, hub, clock, every_s=lambda: 0.5)
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


class Away:
    """A store that cannot be read until it is back."""

    def __init__(self, db: Database) -> None:
        self.back = False
        self.looked = 0
        self._db = db

    async def read(self, query: Any, /, *args: Any) -> Any:
        self.looked += 1
        if not self.back:
            raise StoreUnavailable("away")
        return await self._db.read(query, *args)


async def test_a_follower_survives_a_store_that_is_away(database: Database) -> None:
    hub, clock, away = Hub(), FakeClock(), Away(database)
    pen = await (await begin(database)).say("hello")
    topic = hub.join(pen.turn.id)
    follower = Follower(cast("Database", away), hub, clock, every_s=lambda: 0.5)
    follower.start()
    await clock.advance(1.1)
    assert (away.looked, topic.head) == (2, 0)
    away.back = True
    await clock.advance(0.5)
    await clock.until(lambda: topic.head == pen.head)
    await follower.close()
