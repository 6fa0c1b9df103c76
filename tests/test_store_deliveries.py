"""Deliveries in the store: claimed by one process at a time, fenced, settled, reopened; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tests import servers
from tests.store_gates import Gate, gated
from tests.store_steps import fresh, pass_time
from turnwire.store import Database, open_database
from turnwire.store.migrate import _scripts
from turnwire.store.queries import deliveries as q
from turnwire.store.queries.conversations import get_conversation
from turnwire.store.queries.rows import DeliveryRow, Fenced
from turnwire.turns.admission import Inbound, Policy, admit

pytestmark = pytest.mark.anyio


def inbound(room: str, *, target: bytes | None = b'{"to":1}', policy: Policy = "queue") -> Inbound:
    own = fresh("msg")
    return Inbound(
        channel="board",
        owner="",
        conversation=room,
        key=own,
        message=msgspec.json.encode({"id": own, "role": "user", "parts": [{"type": "text", "text": "hello"}]}),
        message_id=own,
        policy=policy,
        reply_to=target,
        conversation_id=fresh("conv"),
        turn_id=fresh("turn"),
        answer_id=fresh("answer"),
    )


async def ordered(db: Database, room: str | None = None, **how: object) -> DeliveryRow:
    """A turn whose answer is to be shown."""
    wish = inbound(room or fresh("room"), **how)  # type: ignore[arg-type]
    admission = await db.run(admit, wish, process="p", lease_s=15.0, now=0.0)
    [row] = await db.read(q.deliveries_of, admission.turn.id)
    return row


async def claim(db: Database, owner: str, *, limit: int = 10, alone: bool = False, **how: object) -> list[DeliveryRow]:
    return await db.run(q.claim_deliveries, ["board"], owner, 15.0, limit=limit, alone=alone, **how)  # type: ignore[arg-type]


async def test_a_delivery_has_one_owner_until_its_lease_ends(database: Database) -> None:
    row = await ordered(database)
    assert (row.status, row.epoch, row.owner, row.push) == ("open", 0, None, 0)
    [taken] = await claim(database, "one")
    assert (taken.id, taken.epoch, taken.owner) == (row.id, 1, "one")
    assert await claim(database, "two") == []
    assert await database.run(q.renew_deliveries, [(row.id, 1), (row.id, 9)], 15.0) == {row.id}
    await pass_time(database, 14.0)
    assert await claim(database, "two") == []
    await pass_time(database, 2.0)
    [taken] = await claim(database, "two")
    assert (taken.epoch, taken.owner) == (2, "two")
    assert await database.run(q.renew_deliveries, [(row.id, 1)], 15.0) == set()


async def test_only_the_newest_epoch_writes(database: Database) -> None:
    row = await ordered(database)
    await claim(database, "one")
    await pass_time(database, 16.0)
    await claim(database, "two")
    attempt = q.Attempt("key", 0, "create", "digest")
    for write in (
        lambda conn: q.save_state(conn, row.id, 1, b"late", attempt),
        lambda conn: q.save_receipt(conn, row.id, 1, b"late", attempt, "confirmed", ""),
        lambda conn: q.settle_delivery(conn, row.id, 1, b"late", "shown", None, revision=0),
    ):
        with pytest.raises(Fenced):
            await database.run(write)
    await database.run(q.release_delivery, row.id, 1)
    await database.run(q.put_off, row.id, 1, 60.0)
    found = await database.read(q.find_delivery, row.id)
    assert found is not None
    assert (found.state, found.owner, found.status) == (None, "two", "open")
    assert await database.read(q.receipts_of, row.id) == []


async def test_an_intent_and_its_receipt_are_kept_with_the_state(database: Database) -> None:
    row = await ordered(database)
    await claim(database, "one")
    for tried in range(2):
        assert await database.read(q.next_attempt, row.id, "key") == tried
        attempt = q.Attempt("key", tried, "create", "digest")
        await database.run(q.save_state, row.id, 1, b"before", attempt)
        status = "unknown" if tried == 0 else "confirmed"
        await database.run(q.save_receipt, row.id, 1, b"after", attempt, status, "why")
    receipts = await database.read(q.receipts_of, row.id)
    assert [(one.attempt, one.status, one.reason) for one in receipts] == [
        (0, "unknown", "why"),
        (1, "confirmed", "why"),
    ]
    found = await database.read(q.find_delivery, row.id)
    assert found is not None
    assert found.state == b"after"


async def test_what_changed_meanwhile_is_not_settled(database: Database) -> None:
    row = await ordered(database)
    await claim(database, "one")
    await database.run(q.reopen, [row.turn_id])
    assert not await database.run(q.settle_delivery, row.id, 1, b"state", "shown", None, revision=0)
    assert await database.run(q.settle_delivery, row.id, 1, b"state", "shown", None, revision=1)
    assert await claim(database, "two") == []
    await database.run(q.reopen, [row.turn_id])
    [again] = await claim(database, "two")
    assert (again.epoch, again.revision, again.outcome, again.state) == (2, 2, None, b"state")


async def test_what_failed_is_left_alone_for_a_while_also_by_who_is_alone(database: Database) -> None:
    row = await ordered(database)
    await claim(database, "one")
    await database.run(q.put_off, row.id, 1, 30.0)
    assert await claim(database, "two", alone=True) == []
    await pass_time(database, 31.0)
    assert [one.id for one in await claim(database, "two", alone=True)] == [row.id]


async def test_who_is_alone_takes_what_others_had(database: Database) -> None:
    row = await ordered(database)
    await claim(database, "one")
    assert await claim(database, "one", alone=True) == [], "its own"
    assert await claim(database, "two") == []
    assert [one.id for one in await claim(database, "two", alone=True)] == [row.id]
    await database.run(q.release_delivery, row.id, 2)
    assert await claim(database, "three", mine=[row.id]) == []
    assert [one.epoch for one in await claim(database, "three")] == [3]


async def test_the_oldest_are_taken_first_and_of_known_channels_only(database: Database) -> None:
    rows = [await ordered(database) for _ in range(4)]
    assert await database.run(q.claim_deliveries, ["other"], "one", 15.0, limit=9, alone=True) == []
    assert [one.id for one in await claim(database, "one", limit=3)] == [one.id for one in rows[:3]]
    assert [one.id for one in await claim(database, "two", limit=3)] == [rows[3].id]


async def test_where_nobody_waits_there_is_no_delivery_and_later_turns_push(database: Database) -> None:
    room = fresh("room")
    quiet = await database.run(admit, inbound(room, target=None), process="p", lease_s=15.0, now=0.0)
    assert await database.read(q.deliveries_of, quiet.turn.id) == []
    await ordered(database, room, target=b'{"to":2}')
    pushed = await database.run(admit, inbound(room, target=None), process="p", lease_s=15.0, now=0.0)
    [row] = await database.read(q.deliveries_of, pushed.turn.id)
    assert (row.push, row.target) == (1, b'{"to":2}')


async def test_what_joins_a_turn_aims_its_answer_unless_it_is_shown_already(database: Database) -> None:
    room = fresh("room")
    await ordered(database, room)
    waiting = await ordered(database, room)
    joined = await ordered(database, room, target=b'{"to":2}', policy="collect")
    assert (joined.id, joined.target) == (waiting.id, b'{"to":2}')
    [_, taken] = await claim(database, "one")
    await database.run(q.save_state, taken.id, taken.epoch, b"{}")
    again = await ordered(database, room, target=b'{"to":3}', policy="collect")
    assert (again.id, again.target) == (waiting.id, b'{"to":2}')
    conversation = await database.read(get_conversation, waiting.conversation_id)
    assert conversation.target == b'{"to":3}', "the next push goes to who wrote last"


async def test_a_steered_message_aims_what_comes_later(database: Database) -> None:
    room = fresh("room")
    running = await ordered(database, room)
    wish = inbound(room, target=b'{"to":2}', policy="steer")
    admission = await database.run(admit, wish, process="p", lease_s=15.0, now=0.0)
    assert admission.kind == "steered"
    assert admission.conversation.target == b'{"to":2}'
    [row] = await database.read(q.deliveries_of, running.turn_id)
    assert row.target == b'{"to":1}', "the card of a turn that runs stays where it is"


async def test_operators_see_what_is_not_settled(database: Database) -> None:
    rows = [await ordered(database) for _ in range(3)]
    await claim(database, "one")
    await database.run(q.settle_delivery, rows[0].id, 1, b"{}", "shown", None, revision=0)
    await database.run(q.settle_delivery, rows[1].id, 1, b"{}", "partly", "why", revision=0)
    found = await database.read(q.list_deliveries, limit=10, unsettled=True)
    assert [one.id for one in found] == [rows[2].id, rows[1].id]
    assert len(await database.read(q.list_deliveries, limit=10)) == 3


async def test_processes_that_look_at_once_share_what_there_is(postgres_url: str) -> None:
    databases = [await open_database(postgres_url) for _ in range(3)]
    rows = [await ordered(databases[0]) for _ in range(12)]
    found = await asyncio.gather(*(claim(db, f"p{n}", limit=12) for n, db in enumerate(databases)))
    taken = [one.id for part in found for one in part]
    taken += [one.id for one in await claim(databases[0], "p9", limit=12)]
    assert sorted(taken) == sorted(row.id for row in rows), "each once"
    for db in databases:
        await db.close()


async def test_a_look_does_not_wait_for_another_one(postgres_url: str) -> None:
    one, two = await open_database(postgres_url), await open_database(postgres_url)
    row = await ordered(one)

    def look(conn: Connection) -> list[DeliveryRow]:
        return q.claim_deliveries(conn, ["board"], "one", 15.0, limit=5, alone=False)

    gate = Gate()
    mine = asyncio.create_task(one.run(gated, look, gate, 1))
    await gate.reached.wait()
    # It has found the delivery and not claimed it yet.
    assert await claim(two, "two") == []
    gate.open()
    assert [got.id for got in await mine] == [row.id]
    await one.close()
    await two.close()


@pytest.fixture
def empty_url(postgres_databases: servers.Databases) -> Iterator[str]:
    """A PostgreSQL database without tables."""
    with postgres_databases.copy_of("template1") as url:
        yield url


def _until(revision: str, conn: Connection) -> None:
    scripts: ScriptDirectory = _scripts()
    context = MigrationContext.configure(conn, opts={"fn": lambda heads, _: scripts._upgrade_revs(revision, heads)})
    context.run_migrations(op=Operations(context))


def _before_deliveries(conn: Connection) -> None:
    """The schema before this one, with a turn in it."""
    _until(str(_scripts().get_revision("0004").down_revision), conn)
    conn.execute(
        text(
            "INSERT INTO conversations (id, channel, owner, name, title, turns, created_at, updated_at)"
            " VALUES ('conv_1', 'web', 'ann', 'old', 'Old', 1, 1, 1)"
        )
    )
    conn.execute(
        text(
            "INSERT INTO turns (id, conversation_id, number, message_id, status, outcome, head, metadata, created_at)"
            " VALUES ('turn_1', 'conv_1', 0, 'msg_2', 'finished', 'done', 3, '{}', 1)"
        )
    )


async def test_a_sqlite_store_without_deliveries_gets_them(sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    with engine.begin() as conn:
        _before_deliveries(conn)
    engine.dispose()
    database = await open_database(sqlite_url)
    await _check_upgraded(database)
    await database.close()


async def _check_upgraded(database: Database) -> None:
    assert await database.read(q.deliveries_of, "turn_1") == []
    conversation = await database.read(get_conversation, "conv_1")
    assert (conversation.title, conversation.target) == ("Old", None)
    row = await ordered(database)
    assert [one.id for one in await claim(database, "one")] == [row.id]


async def test_a_postgres_store_without_deliveries_gets_them(empty_url: str) -> None:
    server = create_async_engine(make_url(empty_url).set(drivername="postgresql+asyncpg"))
    async with server.begin() as connection:
        await connection.run_sync(_before_deliveries)
    await server.dispose()
    database = await open_database(empty_url)
    await _check_upgraded(database)
    await database.close()


async def test_receipts_of_what_was_shown_are_forgotten_in_time(database: Database) -> None:
    kept = []
    for outcome in ("shown", "partly"):
        row = await ordered(database)
        [mine] = [one for one in await claim(database, "one") if one.id == row.id]
        attempt = q.Attempt("key", 0, "create")
        await database.run(q.save_state, mine.id, mine.epoch, b"{}", attempt)
        await database.run(q.settle_delivery, mine.id, mine.epoch, b"{}", outcome, None, revision=mine.revision)
        kept.append(mine.id)
    await database.run(q.forget_receipts, 3600.0)
    assert [len(await database.read(q.receipts_of, own)) for own in kept] == [1, 1]
    await pass_time(database, 4000.0)
    await database.run(q.forget_receipts, 3600.0)
    assert [len(await database.read(q.receipts_of, own)) for own in kept] == [0, 1]


async def test_what_is_held_waits_for_the_next_message_there(database: Database) -> None:
    room = fresh("room")
    row = await ordered(database, room)
    [held] = await claim(database, "p")
    await database.run(q.hold_delivery, held, b"{}", "nobody may write there")
    waiting = await database.read(q.find_delivery, row.id)
    assert waiting is not None
    assert (waiting.status, waiting.reason, waiting.owner) == ("held", "nobody may write there", None)
    assert await claim(database, "p") == []
    assert [one.id for one in await database.read(q.list_deliveries, limit=1000, unsettled=True) if one.id == row.id]
    await ordered(database, fresh("elsewhere"))
    await ordered(database, room, target=b'{"to":2}')
    [first, *_] = [one for one in await claim(database, "p", limit=1000) if one.conversation_id == row.conversation_id]
    assert (first.id, first.target, first.push, first.reason) == (row.id, b'{"to":2}', 0, None)


async def test_what_would_be_held_is_shown_at_a_message_that_came_meanwhile(database: Database) -> None:
    room = fresh("room")
    row = await ordered(database, room)
    [mine] = [one for one in await claim(database, "p", limit=1000) if one.id == row.id]
    await ordered(database, room, target=b'{"to":2}')
    await database.run(q.hold_delivery, mine, b"{}", "too late")
    [again] = [one for one in await claim(database, "q", limit=1000) if one.id == row.id]
    assert again.target == b'{"to":2}'


async def test_only_the_owner_holds(database: Database) -> None:
    row = await ordered(database)
    [mine] = [one for one in await claim(database, "p", limit=1000) if one.id == row.id]
    await claim(database, "q", limit=1000, alone=True)
    with pytest.raises(Fenced):
        await database.run(q.hold_delivery, mine, b"{}", "too late")


async def test_the_newest_feedback_counts(database: Database) -> None:
    row = await ordered(database)
    assert await database.run(q.save_feedback, row.id, b'{"good":false}')
    assert await database.run(q.save_feedback, row.id, b'{"good":true}')
    assert not await database.run(q.save_feedback, "dlv_nobody", b"{}")
    kept = await database.read(q.find_delivery, row.id)
    assert kept is not None
    assert kept.feedback == b'{"good":true}'


async def test_what_the_platform_asked_for_is_kept_once_and_needs_no_epoch(database: Database) -> None:
    row, other = await ordered(database), await ordered(database)
    await claim(database, "a")
    assert not await database.read(q.was_asked, row.id, "s")
    await asyncio.gather(*(database.run(q.note_asked, row.id, "s", "polled") for _ in range(3)))
    assert await database.read(q.was_asked, row.id, "s")
    assert not await database.read(q.was_asked, row.id, "s-end")
    assert not await database.read(q.was_asked, other.id, "s")
    [receipt] = await database.read(q.receipts_of, row.id)
    assert (receipt.key, receipt.kind, receipt.status) == ("s", "polled", "confirmed")


async def test_others_that_answer_the_same_message_are_known(database: Database) -> None:
    room = fresh("room")
    first, second = await ordered(database, room), await ordered(database, room)
    await ordered(database)
    await ordered(database, room, target=b'{"to":2}')
    [driven, *_] = [row for row in await claim(database, "a", limit=1000) if row.id == second.id]
    await database.run(q.save_state, second.id, driven.epoch, b"known")
    assert await database.read(q.states_at, first) == [b"known"]
