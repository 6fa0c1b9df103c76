"""How often a busy journal commits: turns that talk make room, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.journal_steps import FLUSH_S, Desk, Writer, texts
from turnwire.clock import sleep
from turnwire.journal.pace import LONGEST_S, SHARE, Pace
from turnwire.store import Append, Database

pytestmark = pytest.mark.anyio


def burdened(share: float, *, seconds: float = 30.0) -> Pace:
    """A pace after `seconds` in which a commit of all turns took `share` of the ordinary interval."""
    pace = Pace(FLUSH_S)
    at = 0.0
    while at < seconds:
        took = share * FLUSH_S
        pace.took(at, took)
        at += max(pace.pause_s, took)
    return pace


def test_commits_that_take_little_time_are_not_thinned_out() -> None:
    assert burdened(SHARE * 0.9).pause_s == FLUSH_S


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_commits_that_take_much_time_come_as_often_as_their_share_allows(share: float) -> None:
    assert burdened(share).pause_s == pytest.approx(FLUSH_S * share / SHARE, rel=0.15)


def test_no_store_is_so_slow_that_a_turn_waits_longer_than_the_longest_pause() -> None:
    pace = burdened(100.0)
    assert pace.pause_s == LONGEST_S
    assert [pace.most(waiting) for waiting in (1, 2, 1000)] == [1, 2, 1000]
    pace.took(31.0, 0.0001)
    assert [pace.most(waiting) for waiting in (1, 2, 1000)] == [1, 1, 80]
    for at in range(32, 60):
        pace.took(at, 0.0001)
    assert (pace.pause_s, pace.most(1000)) == (FLUSH_S, 1000)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 100.0))), st.sampled_from([0.0, FLUSH_S]))
def test_a_pause_stays_within_its_bounds(commits: list[tuple[float, float]], flush_s: float) -> None:
    pace, at = Pace(flush_s), 1000.0
    for gap, took in commits:
        at += gap
        pace.took(at, took)
        assert flush_s <= pace.pause_s <= (LONGEST_S if flush_s else 0.0)
        assert 1 <= pace.most(1) <= pace.most(50) <= 50


@pytest.fixture
async def busy(database: Database) -> AsyncIterator[Desk]:
    """A journal whose commits take as long as the ordinary interval; what they store is not looked at here."""
    desk = Desk(database)
    takes(desk, FLUSH_S)
    desk.journal.start()
    yield desk
    takes(desk, 0.0)
    closing = asyncio.ensure_future(desk.journal.close())
    await desk.clock.advance(LONGEST_S)
    await closing


def takes(desk: Desk, seconds: float) -> None:
    """From now on each commit takes `seconds`, whatever is in it."""

    async def slow(batch: Sequence[Append]) -> set[str]:
        desk.db.batches.append(list(batch))
        await sleep(desk.clock, seconds)
        return set()

    desk.db.append = slow  # type: ignore[method-assign]


async def talk(desk: Desk, writers: Sequence[Writer], seconds: float) -> None:
    """Each of `writers` says a word every 10 ms."""
    for _ in range(round(seconds / 0.01)):
        for writer in writers:
            writer.say("w")
        await desk.clock.advance(0.01)


async def until_committed(desk: Desk, writer: Writer) -> None:
    """Until just after a commit of a turn that talks on."""
    head = writer.topic.head
    while writer.topic.head == head:
        writer.say("w")
        await desk.clock.advance(0.005)


async def test_a_turn_that_talks_is_committed_less_often_and_a_quiet_one_at_once(busy: Desk) -> None:
    talker, quiet = await busy.turn("talker"), await busy.turn("quiet")
    for writer in (talker, quiet):
        writer.start()
    await talk(busy, [talker], 5.0)
    before = busy.commits
    await talk(busy, [talker], 1.0)
    assert 10 <= busy.commits - before <= 15
    await until_committed(busy, talker)
    head = talker.topic.head
    talker.say("more")
    quiet.say("a word")
    await busy.clock.advance(2 * FLUSH_S)
    assert (texts(quiet.topic.records(0)), talker.topic.head) == (["a word"], head)
    await busy.clock.advance(LONGEST_S)
    assert "".join(texts(talker.topic.records(head))).endswith("more")


async def test_who_waits_for_a_commit_is_not_made_to_wait_for_the_pause(busy: Desk) -> None:
    talker = await busy.turn()
    talker.start()
    await talk(busy, [talker], 5.0)
    await until_committed(busy, talker)
    talker.say("now")
    waiting = asyncio.ensure_future(talker.log.flushed())
    await busy.clock.advance(2 * FLUSH_S)
    assert waiting.done()
    assert texts(talker.topic.records(0))[-1].endswith("now")


async def test_the_commits_of_many_turns_that_talk_are_spread_and_none_is_left_out(busy: Desk) -> None:
    talkers = [await busy.turn(f"c{number}") for number in range(40)]
    for talker in talkers:
        talker.start()
    await talk(busy, talkers, 3.0)
    before, heads = busy.commits, [talker.topic.head for talker in talkers]
    await talk(busy, talkers, 1.0)
    sizes = [len(batch) for batch in busy.db.batches[before:]]
    assert max(sizes) <= len(talkers) / 2
    quiet = await busy.turn("quiet")
    quiet.start()
    await talk(busy, talkers, 3 * FLUSH_S)
    quiet.say("a word")
    await talk(busy, talkers, 3 * FLUSH_S)
    assert texts(quiet.topic.records(0)) == ["a word"]
    assert all(talker.topic.head >= head + 3 for talker, head in zip(talkers, heads, strict=True))


async def test_of_many_who_speak_at_once_those_who_were_quiet_come_first(busy: Desk) -> None:
    talkers = [await busy.turn(f"c{number}") for number in range(40)]
    for talker in talkers:
        talker.start()
    await talk(busy, talkers, 3.0)
    quiet = await busy.turn("quiet")
    quiet.start()
    await busy.clock.advance(2 * LONGEST_S)
    heads = [talker.topic.head for talker in talkers]
    for writer in (*talkers, quiet):
        writer.say("a word")
    await busy.clock.advance(FLUSH_S)
    assert texts(quiet.topic.records(0)) == ["a word"]
    waiting = sum(talker.topic.head == head for talker, head in zip(talkers, heads, strict=True))
    assert waiting > len(talkers) / 2


async def test_a_store_that_is_slow_whatever_it_is_given_gets_larger_commits(busy: Desk) -> None:
    takes(busy, LONGEST_S / 2)
    talkers = [await busy.turn(f"c{number}") for number in range(40)]
    for talker in talkers:
        talker.start()
    await talk(busy, talkers, 3.0)
    heads = [talker.topic.head for talker in talkers]
    await talk(busy, talkers, 2.0)
    assert all(talker.topic.head >= head + 4 for talker, head in zip(talkers, heads, strict=True))
