"""What a store does about a second process, a full disk and a server that goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, func, select, update

from tests.servers import databases
from tests.store_gates import Gate, add, blocked, connected, names, opened, set_version
from tests.store_steps import again, begin, check, everything, fresh, said, take, turn_of, written
from turnwire import chunks as c
from turnwire.store import Database, StoreError, StoreInUse, StoreUnavailable, open_database
from turnwire.store.postgres import PostgresDatabase
from turnwire.store.schema import conversations

pytestmark = pytest.mark.anyio


# One process per file


async def test_a_file_is_served_by_one_process(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    with pytest.raises(StoreInUse, match=f"served by process {os.getpid()};"):
        await open_database(sqlite_url)
    await database.run(add, "a")
    await database.close()
    database = await open_database(sqlite_url)
    assert await database.read(names) == ["a"]
    await database.close()


async def test_another_name_of_the_same_file_meets_the_same_lock(tmp_path: Path) -> None:
    database = await open_database(f"sqlite:///{tmp_path / 'turnwire.db'}")
    (tmp_path / "link.db").symlink_to(tmp_path / "turnwire.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("link.db", "folder/turnwire.db", "./turnwire.db"):
        with pytest.raises(StoreInUse):
            await open_database(f"sqlite:///{tmp_path / name}")
    await database.close()


async def test_an_open_that_failed_gives_the_lock_back(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    await database.close()
    await set_version(sqlite_url, expected="0006", new="9999")
    with pytest.raises(StoreError, match="newer"):
        await open_database(sqlite_url)
    await set_version(sqlite_url, expected="9999", new="0006")
    await (await open_database(sqlite_url)).close()


async def test_an_open_that_was_cancelled_gives_the_lock_back(sqlite_url: str) -> None:
    for turns_of_the_loop in (0, 1, 2, 3, 5, 8, 13, 34, 89):
        opening = asyncio.create_task(open_database(sqlite_url))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        if not opening.cancelled():
            await opening.result().close()
    await (await open_database(sqlite_url)).close()


HOLDER = """
import asyncio, sys
from turnwire.store import open_database
from turnwire.store.queries.conversations import ensure_conversation

async def main():
    database = await open_database(sys.argv[1])
    await database.run(ensure_conversation, "a", "web", "ann", "a")
    print("ready", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.mark.process
async def test_a_killed_process_gives_the_lock_back_and_leaves_its_commits(sqlite_url: str) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, sqlite_url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"ready\n"
        with pytest.raises(StoreInUse, match=f"served by process {holder.pid};"):
            await open_database(sqlite_url)
    finally:
        holder.kill()
        await holder.wait()
    database = await open_database(sqlite_url)
    assert await database.read(names) == ["a"]
    await database.close()


async def test_a_served_file_can_be_looked_at(sqlite_url: str) -> None:
    with pytest.raises(StoreError, match="does not exist; has `turnwire serve` ever run here"):
        await open_database(sqlite_url, lock=False)
    served = await open_database(sqlite_url)
    await served.run(add, "a")
    looking = await open_database(sqlite_url, lock=False)
    assert await looking.read(names) == ["a"]
    await served.run(add, "b")
    assert await looking.read(names) == ["a", "b"]
    await looking.close()
    await served.run(add, "c")
    await served.close()


async def test_looking_at_an_older_store_does_not_change_it(sqlite_url: str) -> None:
    await (await open_database(sqlite_url)).close()
    path = sqlite_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("DROP TABLE alembic_version")
        file.commit()
    with pytest.raises(StoreError, match="older schema; `turnwire serve` brings it up to date"):
        await open_database(sqlite_url, lock=False)
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'").fetchall() == []


@pytest.fixture
def empty_postgres_url(postgres_dsn: str) -> Iterator[str]:
    async def leave(_: str) -> None:
        """No schema."""

    with databases(postgres_dsn, leave) as made, made.fresh() as url:
        yield url


async def test_looking_at_an_empty_postgresql_database_does_not_change_it(empty_postgres_url: str) -> None:
    with pytest.raises(StoreError, match="older schema; `turnwire serve` brings it up to date"):
        await open_database(empty_postgres_url, lock=False)
    await (await open_database(empty_postgres_url)).close()
    await (await open_database(empty_postgres_url, lock=False)).close()


# A disk that is full


async def set_room(database: Database, pages: int) -> None:
    await database.run(lambda conn: conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())


async def test_a_full_disk_loses_nothing_and_the_store_works_again_after_it(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    pen = await (await begin(database)).say("kept ")
    await set_room(database, 1)
    before = await everything(database)
    long = "x" * 200_000
    part = pen.framer.view.step_parts()[0]
    assert hasattr(part, "id")
    with pytest.raises(StoreUnavailable, match="full"):
        await pen.write([c.TextDelta(part.id, long)])
    with pytest.raises(StoreUnavailable, match="full"):
        await take(database, said(long))
    with pytest.raises(StoreUnavailable, match="full"):
        await database.run(lambda conn: [add(conn, fresh("big") * 1000) for _ in range(100)] and None)
    assert await everything(database) == before
    await set_room(database, 1_000_000)
    assert await pen.write([c.TextDelta(part.id, long)])
    await take(database, said(long))
    await check(database)
    assert len(await written(database, pen.turn.id)) == pen.head
    await database.close()


# A server that goes away


async def end_connections(server: Any) -> int:
    """Ends every other connection to the database, as an administrator or a restart would."""
    ended = await server.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    return len(ended)


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[PostgresDatabase]:
    async with opened(postgres_url) as database:
        assert isinstance(database, PostgresDatabase)
        yield database


async def test_a_transaction_that_lost_its_connection_is_not_kept(
    postgres: PostgresDatabase, postgres_url: str
) -> None:
    gate = Gate()

    def query(conn: Connection) -> None:
        add(conn, "a")
        gate.wait(conn)
        add(conn, "b")

    async with connected(postgres_url) as server:
        caller = asyncio.create_task(postgres.run(query))
        await gate.reached.wait()
        assert await end_connections(server) >= 1
        gate.open()
        with pytest.raises(StoreUnavailable):
            await caller
        await end_connections(server)
    assert await postgres.read(names) == []
    await postgres.run(add, "c")
    assert await postgres.read(names) == ["c"]


async def test_an_append_that_lost_its_connection_is_not_kept(postgres: PostgresDatabase, postgres_url: str) -> None:
    pen = await (await begin(postgres)).say("one ")
    async with connected(postgres_url) as server:
        lock = server.transaction()
        await lock.start()
        await server.execute("SELECT 1 FROM turns FOR UPDATE")
        writing = asyncio.create_task(pen.say("two "))
        async with connected(postgres_url) as other:
            await blocked(other)
            await other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        with pytest.raises(StoreUnavailable):
            await writing
        await lock.rollback()
    assert (await turn_of(postgres, pen.turn.id)).head == pen.head
    await pen.say("three ")
    assert [chunk.delta for chunk in await written(postgres, pen.turn.id) if isinstance(chunk, c.TextDelta)] == [
        "one ",
        "three ",
    ]
    await check(postgres)


async def test_idle_connections_that_were_ended_are_replaced(postgres: PostgresDatabase, postgres_url: str) -> None:
    pen = await (await begin(postgres)).say("one ")
    async with connected(postgres_url) as server:
        assert await end_connections(server) >= 2
    await postgres.run(add, "a")
    assert "a" in await postgres.read(names)
    with contextlib.suppress(StoreUnavailable):
        await postgres.append([])
    await pen.say("two ")
    await check(postgres)


async def test_too_many_transactions_at_once_is_unavailable(postgres: PostgresDatabase) -> None:
    gates = [Gate() for _ in range(8)]
    holding = [asyncio.create_task(postgres.run(gate.wait)) for gate in gates]
    for gate in gates:
        await gate.reached.wait()
    postgres._engine.sync_engine.pool._timeout = 0.01  # type: ignore[attr-defined]
    try:
        with pytest.raises(StoreUnavailable):
            await postgres.run(add, "a")
    finally:
        for gate in gates:
            gate.open()
        await asyncio.gather(*holding)
    await postgres.run(add, "b")
    assert await postgres.read(names) == ["b"]


async def test_a_transaction_that_was_given_up_for_another_is_repeated_whole(postgres: PostgresDatabase) -> None:
    for name in ("a", "b"):
        await postgres.run(add, name)
    gates = [Gate(), Gate()]
    tries = [0, 0]

    def rename(number: int) -> Callable[[Connection], None]:
        def query(conn: Connection) -> None:
            first, second = ("a", "b") if number == 0 else ("b", "a")
            tries[number] += 1
            count_up(conn, first)
            if tries[number] == 1:
                gates[number].wait(conn)
            count_up(conn, second)

        return query

    both = [asyncio.create_task(postgres.run(rename(number))) for number in (0, 1)]
    for gate in gates:
        await gate.reached.wait()
    for gate in gates:
        gate.open()
    await asyncio.gather(*both)
    assert sum(tries) >= 3
    counted = select(func.sum(conversations.c.version))
    assert await postgres.read(lambda conn: conn.scalar(counted)) == 4


def count_up(conn: Connection, name: str) -> None:
    conn.execute(update(conversations).where(conversations.c.name == name).values(version=conversations.c.version + 1))


TRIES = 5


async def test_an_append_that_was_given_up_for_another_transaction_is_repeated_whole(
    postgres: PostgresDatabase, postgres_url: str
) -> None:
    first = await (await begin(postgres, conversation="a")).say("hi")
    second = await (await begin(postgres, conversation="b")).say("hi")
    assert first.turn.id < second.turn.id
    for _ in range(TRIES):
        batch = [pen.records(pen.framer.feed("!")) for pen in (first, second)]
        heads = [pen.head for pen in (first, second)]
        given_up = await _meets_another(postgres, postgres_url, batch, (first.turn.id, second.turn.id))
        await check(postgres)
        assert (await turn_of(postgres, first.turn.id)).head == heads[0] + 1
        assert (await turn_of(postgres, second.turn.id)).head == heads[1] + 1
        if given_up:
            return
        first.head, second.head = heads[0] + 1, heads[1] + 1
    pytest.fail("PostgreSQL always gave the other transaction up")


async def _meets_another(postgres: PostgresDatabase, url: str, batch: Any, turns_: tuple[str, str]) -> bool:
    """An append and another transaction each wait for the other's lock; whether the append was given up for it."""
    async with connected(url) as server, connected(url) as other:
        lock = server.transaction()
        await lock.start()
        await server.execute("SELECT 1 FROM turns WHERE id = $1 FOR UPDATE", turns_[1])
        writing = asyncio.create_task(postgres.append(batch))
        await blocked(other)
        try:
            # Whoever waits for a second gives up: the append, unless it has waited that long before this began.
            await server.execute("SELECT 1 FROM turns WHERE id = $1 FOR UPDATE", turns_[0])
            given_up = True
        except asyncpg.DeadlockDetectedError:
            given_up = False
        await lock.rollback()
        assert await writing == set()
    return given_up


async def test_refused_wishes_leave_no_conversation(database: Database) -> None:
    from turnwire.turns.admission import Refused

    with pytest.raises(Refused):
        await take(database, again("msg_unknown", conversation="new"))
    assert await database.read(names) == []
