"""The fenced append: who may write, what is kept, and what any interleaving of owners leaves behind."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select

from tests.store_steps import (
    LEASE_S,
    Pen,
    answer,
    begin,
    check,
    check_rows,
    everything,
    fresh,
    pass_time,
    said,
    stop,
    take,
    turn_of,
    written,
)
from turnwire import chunks as c
from turnwire.store import Append, Database, StoreError, StoreUnavailable
from turnwire.store.queries.conversations import lock_conversation
from turnwire.store.queries.records import (
    Trimmed,
    forget_inbound,
    join_records,
    read_all,
    read_records,
    read_replay,
    trim,
)
from turnwire.store.queries.rows import TurnRow
from turnwire.store.queries.turns import (
    Claim,
    Ending,
    Fenced,
    answer_of,
    claim,
    end_turn,
    get_turn,
    lease_ended,
    renew,
    save_history,
)
from turnwire.store.schema import chunks

pytestmark = pytest.mark.anyio


async def takeover(db: Database, turn_id: str, owner: str = "p2") -> Claim:
    """Another process claims the turn."""

    def query(conn: Connection) -> Claim:
        turn = get_turn(conn, turn_id)
        assert turn is not None
        lock_conversation(conn, turn.conversation_id)
        return claim(conn, turn, owner, LEASE_S)

    return await db.run(query)


async def rows_of(db: Database, turn_id: str) -> list[tuple[int, int]]:
    table = select(chunks.c.first_seq, chunks.c.count).where(chunks.c.turn_id == turn_id).order_by(chunks.c.first_seq)
    return await db.read(lambda conn: [(row[0], row[1]) for row in conn.execute(table)])


def run_of(pen: Pen, head: int, *payloads: bytes, epoch: int | None = None) -> Append:
    return Append(pen.turn.id, pen.epoch if epoch is None else epoch, head, len(payloads), join_records(payloads))


# One batch


async def test_the_runs_of_a_batch_are_kept_each_for_its_turn(database: Database) -> None:
    pens = [await begin(database, conversation=f"c{number}") for number in range(3)]
    for head, group in ((0, (b"{}", b"[]")), (2, (b"1",)), (3, (b"2", b"3", b"4"))):
        assert await database.append([run_of(pen, head, *group) for pen in reversed(pens)]) == set()
    for pen in pens:
        assert await database.read(read_all, pen.turn.id) == [b"{}", b"[]", b"1", b"2", b"3", b"4"]
        assert await rows_of(database, pen.turn.id) == [(0, 2), (2, 1), (3, 3)]
        assert (await turn_of(database, pen.turn.id)).head == 6


async def test_an_empty_batch_is_nothing(database: Database) -> None:
    assert await database.append([]) == set()


async def test_a_fenced_turn_is_left_out_alone(database: Database) -> None:
    good, stale_epoch, behind, ahead, over, hurried = [
        await (await begin(database, conversation=name)).say("hello") for name in "abcdef"
    ]
    await takeover(database, stale_epoch.turn.id)
    await over.end()
    queued = (await take(database, said("later", conversation="f"))).turn
    before = {
        pen.turn.id: await database.read(read_all, pen.turn.id) for pen in (stale_epoch, behind, ahead, over, hurried)
    }
    more = good.framer.feed("!")
    fenced = await database.append(
        [
            run_of(stale_epoch, stale_epoch.head, b"1"),
            run_of(behind, behind.head - 1, b"1"),
            run_of(ahead, ahead.head + 1, b"1"),
            good.records(more),
            run_of(over, over.head + over.ending().count, b"1"),
            run_of(hurried, hurried.head, b"1", epoch=hurried.epoch + 1),
            Append(queued.id, queued.epoch, 0, 1, b"1"),
            Append("turn_unknown", 1, 0, 1, b"1"),
        ]
    )
    turns = (stale_epoch, behind, ahead, over, hurried)
    assert fenced == {*(pen.turn.id for pen in turns), queued.id, "turn_unknown"}
    assert (await written(database, good.turn.id))[-1:] == more
    for pen in turns:
        assert await database.read(read_all, pen.turn.id) == before[pen.turn.id]
    await check(database)


async def test_a_turn_has_one_run_in_a_batch(database: Database) -> None:
    pen, other = await begin(database, conversation="a"), await begin(database, conversation="b")
    with pytest.raises(ValueError, match="one run"):
        await database.append([run_of(other, 0, b"1"), run_of(pen, 0, b"1"), run_of(pen, 1, b"2")])
    assert await database.read(read_all, other.turn.id) == []
    await check(database)


async def test_of_two_writers_at_the_same_place_one_is_fenced(database: Database) -> None:
    pen = await begin(database)
    outcomes = await asyncio.gather(*(database.append([run_of(pen, 0, b"%d" % number)]) for number in range(8)))
    assert sorted(map(len, outcomes)) == [0, *[1] * 7]
    assert len(await database.read(read_all, pen.turn.id)) == 1


async def test_an_end_is_fenced_like_an_append(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    ending = pen.ending()
    assert not await database.append([run_of(pen, pen.head, c.encode(c.TextDelta("t1", "more")))])
    with pytest.raises(Fenced):
        await database.run(end_turn, ending, next_owner="p1", lease_s=LEASE_S)
    await takeover(database, pen.turn.id)
    with pytest.raises(Fenced):
        await pen.end()
    assert not any(isinstance(chunk, c.Finish) for chunk in await written(database, pen.turn.id))
    assert (await turn_of(database, pen.turn.id)).status == "running"


async def test_a_turn_ends_once(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    await pen.end()
    pen.framer.ended = False
    pen.head = (await turn_of(database, pen.turn.id)).head
    with pytest.raises(Fenced):
        await database.run(end_turn, pen.ending(), next_owner=None, lease_s=LEASE_S)
    await check(database)


# Claims and leases


async def test_a_claim_needs_the_turn_as_it_was_read(database: Database) -> None:
    pen = await begin(database)
    first = await takeover(database, pen.turn.id)
    assert first.epoch == pen.epoch + 1
    with pytest.raises(Fenced):
        await database.run(claim, pen.turn, "p3", LEASE_S)
    turn = await turn_of(database, pen.turn.id)
    assert (turn.owner, turn.epoch, turn.started_at) == ("p2", first.epoch, pen.turn.started_at)


async def test_a_turn_that_has_its_end_is_never_claimed_again(database: Database) -> None:
    turn = await answer(database, "hi")
    with pytest.raises(Fenced):
        await takeover(database, turn.id)
    await check(database)


async def test_a_renewal_names_only_what_still_stands_and_who_wants_it_stopped(database: Database) -> None:
    mine, lost, over, stopped, twice = [await begin(database, conversation=name) for name in "abcde"]
    await takeover(database, lost.turn.id)
    await (await over.say("hi")).end()
    await stop(database, stopped.turn, "bob")
    await stop(database, twice.turn, "bob")
    await stop(database, twice.turn, "eve")
    await pass_time(database, LEASE_S - 1)
    owned = [pen.run for pen in (twice, stopped, over, lost, mine)]
    standing = await database.run(renew, owned, LEASE_S)
    assert standing == {mine.turn.id: None, stopped.turn.id: "bob", twice.turn.id: "bob"}
    await pass_time(database, 2)
    assert not await database.read(lease_ended, *mine.run)
    assert await database.read(lease_ended, lost.turn.id, lost.epoch + 1)
    assert not await database.read(lease_ended, *lost.run)
    await pass_time(database, LEASE_S)
    assert await database.read(lease_ended, *mine.run)
    assert await database.run(renew, [], LEASE_S) == {}


# Reading


async def test_records_are_read_from_any_cursor(database: Database) -> None:
    pen = await begin(database)
    all_records = [b'{"n":%d}' % number for number in range(12)]
    head = 0
    for size in (3, 1, 4, 2, 2):
        assert not await database.append([run_of(pen, head, *all_records[head : head + size])])
        head += size
    for cursor in range(13):
        assert await database.read(read_records, pen.turn.id, cursor) == all_records[cursor:]
    assert await database.read(read_records, pen.turn.id, 2, rows=2) == all_records[2:4]
    assert await database.read(read_records, pen.turn.id, 4, rows=1) == all_records[4:8]
    assert await database.read(read_records, pen.turn.id, 7, rows=2) == all_records[7:10]
    assert await database.read(read_records, pen.turn.id, 20) == []
    assert await database.read(read_records, "turn_unknown", 0) == []


async def test_a_page_at_a_time_gives_every_record_once(database: Database) -> None:
    pen = await begin(database)
    for head in range(0, 40, 4):
        await database.append([run_of(pen, head, *(b"%d" % number for number in range(head, head + 4)))])
    got: list[bytes] = []
    while page := await database.read(read_records, pen.turn.id, len(got), rows=3):
        got += page
    assert got == [b"%d" % number for number in range(40)]


async def test_trimmed_records_are_an_explicit_answer(database: Database) -> None:
    old = await answer(database, "old", conversation="a")
    live = await (await begin(database, conversation="b")).say("hi")
    await pass_time(database, 3600)
    young = await answer(database, "young", conversation="a")
    assert await database.run(trim, 1800.0) == 1
    for cursor in (0, 2, old.head):
        with pytest.raises(Trimmed):
            await database.read(read_records, old.id, cursor)
    assert await database.read(read_replay, old.id) != []
    assert len(await database.read(read_records, young.id, 0)) == young.head
    assert len(await database.read(read_records, live.turn.id, 0)) == live.head
    assert await database.run(trim, 1800.0) == 0
    assert (await turn_of(database, old.id)).trimmed_at is not None
    await check(database)


async def test_trimming_goes_on_in_portions_and_beside_another(database: Database) -> None:
    for number in range(5):
        await answer(database, "old", conversation=f"c{number}")
    await pass_time(database, 10)
    assert await database.run(trim, 5.0, limit=2) == 2
    trimmed = await asyncio.gather(*(database.run(trim, 5.0, limit=2) for _ in range(4)))
    assert sum(trimmed) + await database.run(trim, 5.0) == 3
    assert await database.run(trim, 5.0) == 0


async def test_old_dedupe_keys_are_forgotten_and_young_ones_kept(database: Database) -> None:
    old, young = said("old"), said("young")
    await take(database, old)
    await pass_time(database, 100)
    await take(database, young)
    assert await database.run(forget_inbound, 50.0) == 1
    assert (await take(database, young)).kind == "duplicate"
    assert await database.run(forget_inbound, 50.0) == 0


# Owners in any interleaving

OWNERS = 3


@dataclass
class Owner:
    """What one process believes of the turn, rightly or not. Its records and answers carry the epoch it believes in."""

    name: str
    turn: TurnRow
    epoch: int = 0
    head: int = 0
    said: int = 0
    saved: dict[int, bytes] = field(default_factory=dict)
    ended: list[bytes] = field(default_factory=list)

    def payload(self, **more: Any) -> bytes:
        self.said += 1
        return json.dumps({"epoch": self.epoch, "by": self.name, "n": self.said, **more}).encode()

    async def claim(self, db: Database) -> None:
        mine = await takeover(db, self.turn.id, self.name)
        self.turn, self.epoch, self.head = mine.turn, mine.epoch, mine.turn.head

    async def claim_what_was_seen(self, db: Database) -> None:
        mine = await db.run(claim, self.turn, self.name, LEASE_S)
        self.turn, self.epoch, self.head = mine.turn, mine.epoch, mine.turn.head

    async def look(self, db: Database) -> None:
        self.turn = await turn_of(db, self.turn.id)

    async def append(self, db: Database) -> None:
        records = [self.payload() for _ in range(1 + self.said % 3)]
        run = Append(self.turn.id, self.epoch, self.head, len(records), join_records(records))
        if not await db.append([run]):
            self.head += len(records)

    async def end(self, db: Database) -> None:
        records, content = [self.payload(), self.payload(finish=True)], self.payload()
        ending = Ending(
            turn=self.turn,
            epoch=self.epoch,
            head=self.head,
            count=len(records),
            payload=join_records(records),
            outcome="done",
            reason=None,
            replay=b"{}",
            answer=content,
        )
        await db.run(end_turn, ending, next_owner=None, lease_s=LEASE_S)
        self.ended.append(content)

    async def save(self, db: Database) -> None:
        content = self.payload()
        await db.run(save_history, [(self.turn, self.epoch, content)])
        self.saved[self.epoch] = content

    async def renew(self, db: Database) -> None:
        await db.run(renew, [(self.turn.id, self.epoch)], LEASE_S)


acts = st.sampled_from(["append", "append", "append", "save", "claim", "claim_what_was_seen", "look", "renew", "end"])
# A round is what happens at the same time: at most one act of each owner.
rounds = st.lists(st.dictionaries(st.integers(0, OWNERS - 1), acts, min_size=1), min_size=4, max_size=18)
settled = settings(
    max_examples=max(60, settings().max_examples // 4), suppress_health_check=list(HealthCheck), deadline=None
)


@given(rounds)
@settled
@example([{0: "append"}, {1: "claim"}, {0: "append", 1: "append"}, {0: "save", 1: "save"}, {0: "end"}, {1: "end"}])
@example([{0: "claim", 1: "claim", 2: "claim"}, {0: "end", 1: "end", 2: "end"}])
async def test_no_interleaving_of_owners_mixes_their_records(database: Database, rounds: list[dict[int, str]]) -> None:
    pen = await begin(database, conversation=fresh("chat"))
    owners = [Owner(f"p{number}", pen.turn) for number in range(OWNERS)]
    owners[0].epoch = pen.epoch
    for happening in rounds:
        acting = [getattr(owners[number], act)(database) for number, act in happening.items()]
        for outcome in await asyncio.gather(*acting, return_exceptions=True):
            assert outcome is None or isinstance(outcome, Fenced), repr(outcome)
    turn = await turn_of(database, pen.turn.id)
    await database.read(check_rows, turn)
    records = [json.loads(record) for record in await database.read(read_all, turn.id)]
    epochs = [record["epoch"] for record in records]
    assert epochs == sorted(epochs), "nothing of an older epoch after a newer one"
    for epoch in set(epochs):
        assert len({record["by"] for record in records if record["epoch"] == epoch}) == 1
    finishes = [place for place, record in enumerate(records) if "finish" in record]
    ended = [content for owner in owners for content in owner.ended]
    saved = await database.read(answer_of, turn.id)
    if turn.status == "finished":
        assert finishes == [len(records) - 1], "one finish, and it is the last record"
        assert epochs[-1] == turn.epoch
        assert ended == [saved], "history is the winner's"
        return
    assert finishes == []
    assert ended == []
    (winner,) = [owner for owner in owners if owner.epoch == turn.epoch]
    if turn.epoch in winner.saved:
        assert saved == winner.saved[turn.epoch], "history is the winner's"


async def test_a_deposed_owner_cannot_save_history(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    other = await begin(database, conversation="other")
    await database.run(save_history, [(pen.turn, pen.epoch, b'"first"')])
    newer = await takeover(database, pen.turn.id)
    await database.run(
        save_history, [(pen.turn, pen.epoch, b'"late"'), (other.turn, other.epoch, b'"beside a fenced one"')]
    )
    assert await database.read(answer_of, pen.turn.id) == b'"first"'
    assert await database.read(answer_of, other.turn.id) == b'"beside a fenced one"'
    await database.run(save_history, [(newer.turn, newer.epoch, b'"second"')])
    assert await database.read(answer_of, pen.turn.id) == b'"second"'


async def test_an_append_that_breaks_a_rule_leaves_nothing_behind_and_the_store_working(database: Database) -> None:
    pen, other = [await (await begin(database, conversation=name)).say("hello") for name in "ab"]
    stray = insert(chunks).values(turn_id=pen.turn.id, first_seq=pen.head, count=1, payload=b"1")
    await database.run(lambda conn: conn.execute(stray).rowcount)
    before = await everything(database)
    with pytest.raises(StoreError) as caught:
        await database.append([run_of(other, other.head, b"2"), run_of(pen, pen.head, b"2")])
    assert not isinstance(caught.value, StoreUnavailable)
    assert await everything(database) == before
    await other.say("on it goes")
    await database.run(lambda conn: conn.execute(delete(chunks).where(chunks.c.payload == b"1")).rowcount)
    await check(database)


async def test_a_page_of_large_records_is_bounded_by_bytes(database: Database) -> None:
    pen = await begin(database)
    large = [b'"%s"' % (b"x" * 1000) for _ in range(10)]
    for head, record in enumerate(large):
        await database.append([run_of(pen, head, record)])
    assert len(await database.read(read_records, pen.turn.id, 3, page_bytes=2500)) == 3
    assert await database.read(read_records, pen.turn.id, 0, page_bytes=1) == large[:1]
    assert await database.read(read_records, pen.turn.id, 0) == large
