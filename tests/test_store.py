"""The seam to the database: transactions, the clock, the schema and its migrations, and addresses."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from tests import servers
from tests.store_gates import Gate, add, names, set_version
from tests.store_steps import begin, everything, fresh, pass_time, said, take
from turnwire.store import Append, Database, StoreError, StoreUnavailable, open_database
from turnwire.store.migrate import migrate
from turnwire.store.queries.conversations import turn_input
from turnwire.store.queries.turns import get_turn
from turnwire.store.schema import messages, metadata, store_now

pytestmark = pytest.mark.anyio


# Transactions


async def test_what_a_query_did_before_it_raised_is_not_kept(database: Database) -> None:
    def query(conn: Connection) -> None:
        add(conn, "a")
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await database.run(query)
    assert await database.read(names) == []
    assert await database.run(add, "b") == "b"
    assert await database.read(names) == ["b"]


async def test_a_cancelled_caller_leaves_all_or_nothing(database: Database) -> None:
    def query(conn: Connection, number: int) -> None:
        add(conn, f"{number:04d}a")
        add(conn, f"{number:04d}b")

    for turns_of_the_loop in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377):
        caller = asyncio.create_task(database.run(query, turns_of_the_loop))
        for _ in range(turns_of_the_loop):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait({caller})
    await database.run(query, 9999)
    kept = await database.read(names)
    assert kept[-2:] == ["9999a", "9999b"]
    assert [name[:4] for name in kept[::2]] == [name[:4] for name in kept[1::2]]


async def test_cancelling_the_caller_does_not_cut_a_transaction_that_has_begun(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    gate = Gate()

    def query(conn: Connection) -> None:
        add(conn, "a")
        gate.wait(conn)
        add(conn, "b")

    caller = asyncio.create_task(database.run(query))
    await gate.reached.wait()
    caller.cancel()
    await asyncio.wait({caller})
    gate.open()
    await database.run(add, "c")
    assert await database.read(names) == ["a", "b", "c"]
    await database.close()


async def test_a_reader_does_not_wait_for_a_writer_and_sees_only_what_is_committed(database: Database) -> None:
    await database.run(add, "a")
    gate = Gate()

    def query(conn: Connection) -> None:
        add(conn, "b")
        gate.wait(conn)

    writer = asyncio.create_task(database.run(query))
    await gate.reached.wait()
    assert await database.read(names) == ["a"]
    gate.open()
    await writer
    assert await database.read(names) == ["a", "b"]


async def test_a_reader_sees_one_state_throughout(database: Database) -> None:
    await database.run(add, "a")
    gate = Gate()

    def query(conn: Connection) -> tuple[list[str], list[str]]:
        before = names(conn)
        gate.wait(conn)
        return before, names(conn)

    reader = asyncio.create_task(database.read(query))
    await gate.reached.wait()
    await database.run(add, "b")
    gate.open()
    assert await reader == (["a"], ["a"])


async def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError):
        await database.read(add, "a")
    assert await database.read(names) == []


async def test_a_row_that_breaks_a_rule_is_an_error_that_tells_nothing_private(database: Database) -> None:
    await take(database, said("hello"))
    secret = fresh("secret")

    def query(conn: Connection) -> None:
        row = conn.execute(select(messages)).one()._asdict()
        conn.execute(insert(messages).values(row | {"ord": 1, "role": secret, "content": secret.encode()}))

    with pytest.raises(StoreError) as caught:
        await database.run(query)
    assert not isinstance(caught.value, StoreUnavailable)
    told = "".join(traceback.format_exception(caught.value))
    assert "unique" in told.lower()
    assert secret not in told
    assert secret.encode().hex() not in told


async def test_a_row_without_its_turn_is_refused_for_good(database: Database) -> None:
    def query(conn: Connection) -> None:
        conn.execute(insert(metadata.tables["chunks"]).values(turn_id="turn_0", first_seq=0, count=1, payload=b"{}"))

    with pytest.raises(StoreError) as caught:
        await database.run(query)
    assert not isinstance(caught.value, StoreUnavailable)


async def test_a_closed_store_says_so(store_url: str) -> None:
    database = await open_database(store_url)
    await database.close()
    await database.close()
    for call in (database.run(names), database.read(names), database.append([Append("turn_0", 1, 0, 1, b"{}")])):
        with pytest.raises(StoreError, match="is closed"):
            await call


async def test_what_was_asked_for_before_the_close_is_done(sqlite_url: str) -> None:
    database = await open_database(sqlite_url)
    asked = [asyncio.create_task(database.run(add, f"c{number}")) for number in range(5)]
    await asyncio.sleep(0)
    await database.close()
    await asyncio.gather(*asked)
    database = await open_database(sqlite_url)
    assert len(await database.read(names)) == 5
    await database.close()


# The clock


async def test_the_stores_time_is_the_databases_plus_the_offset(database: Database) -> None:
    def now(conn: Connection) -> float:
        return conn.execute(select(store_now())).scalar_one()

    start = await database.read(now)
    assert abs(start - time.time()) < 5
    await pass_time(database, 3600)
    assert 3600 <= await database.read(now) - start < 3605


# The schema


@pytest.fixture
def empty_url(postgres_databases: servers.Databases) -> Iterator[str]:
    """A PostgreSQL database without tables."""
    with postgres_databases.copy_of("template1") as url:
        yield url


async def test_the_migrations_make_the_schema_of_the_code(database: Database) -> None:
    def differences(conn: Connection) -> Any:
        # On SQLite alembic takes the default '' for a difference to itself.
        options = {"compare_type": True, "compare_server_default": conn.dialect.name == "postgresql"}
        return compare_metadata(MigrationContext.configure(conn, opts=options), metadata)

    assert await database.run(differences) == []


async def test_the_migrations_make_the_same_indexes_as_the_code(
    database: Database, store_url: str, tmp_path: Path, empty_url: str
) -> None:
    # What an index leaves out, alembic does not compare.
    def indexes(conn: Connection) -> set[str]:
        if conn.dialect.name == "sqlite":
            found = conn.execute(text("SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"))
        else:
            found = conn.execute(text("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'"))
        return {" ".join(sql.split()) for sql in found.scalars() if "alembic_version" not in sql}

    migrated = await database.read(indexes)
    if store_url.startswith("sqlite"):
        engine = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
        with engine.begin() as conn:
            metadata.create_all(conn)
            made = indexes(conn)
        engine.dispose()
    else:
        server = create_async_engine(make_url(empty_url).set(drivername="postgresql+asyncpg"))
        async with server.begin() as connection:
            await connection.run_sync(metadata.create_all)
            made = await connection.run_sync(indexes)
        await server.dispose()
    assert migrated == made
    assert any("'running'" in sql and "UNIQUE" in sql for sql in migrated)


async def test_a_store_that_is_opened_again_keeps_everything(store_url: str) -> None:
    database = await open_database(store_url)
    await begin(database)
    before = await everything(database)
    await database.close()
    database = await open_database(store_url)
    assert await everything(database) == before
    await database.close()


async def test_many_processes_open_an_empty_database_and_it_is_migrated_once(empty_url: str) -> None:
    opened = await asyncio.gather(*(open_database(empty_url) for _ in range(5)))
    assert await opened[0].run(versions) == ["0006"]
    await opened[1].run(add, "a")
    assert await opened[4].read(names) == ["a"]
    await asyncio.gather(*(one.close() for one in opened))


async def test_several_stores_are_made_at_once(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path / f'{number}.db'}" for number in range(6)]
    opened = await asyncio.gather(*map(open_database, urls))
    for database in opened:
        assert await database.run(versions) == ["0006"]
        await database.run(add, "a")
        await database.close()


def versions(conn: Connection) -> list[str]:
    return list(conn.scalars(text("SELECT version_num FROM alembic_version")))


FIRST = """
INSERT INTO conversations (id, channel, owner, name, title, turns, created_at, updated_at)
    VALUES ('conv_1', 'web', 'ann', 'old', 'Old', 1, 1, 1);
INSERT INTO turns (id, conversation_id, number, message_id, status, outcome, head, metadata, created_at)
    VALUES ('turn_1', 'conv_1', 0, 'msg_2', 'finished', 'done', 3, '{}', 1);
INSERT INTO messages (turn_id, ord, conversation_id, turn_number, message_id, role, content, created_at)
    VALUES ('turn_1', 0, 'conv_1', 0, 'msg_1', 'user', '{}', 1);
"""


def old_schema(conn: Connection) -> None:
    """The first schema, with a turn in it."""
    scripts = ScriptDirectory(Path(migrate.__code__.co_filename).parent / "migrations")
    context = MigrationContext.configure(conn, opts={"fn": lambda heads, _: scripts._upgrade_revs("0001", heads)})
    context.run_migrations(op=Operations(context))
    for statement in FIRST.strip().removesuffix(";").split(";\n"):
        conn.execute(text(statement))


async def test_a_store_of_the_first_schema_is_brought_up_to_date(store_url: str) -> None:
    if store_url.startswith("sqlite"):
        engine = create_engine(store_url)
        with engine.begin() as conn:
            old_schema(conn)
        engine.dispose()
    else:
        server = create_async_engine(make_url(store_url).set(drivername="postgresql+asyncpg"))
        async with server.begin() as connection:
            await connection.run_sync(old_schema)
        await server.dispose()
    database = await open_database(store_url)
    turn = await database.read(get_turn, "turn_1")
    assert turn is not None
    assert (turn.outcome, turn.continues) == ("done", None)
    assert [row.message_id for row in await database.read(turn_input, "turn_1")] == ["msg_1"]
    await database.close()


async def test_a_store_of_a_newer_turnwire_is_refused_and_left_alone(store_url: str) -> None:
    database = await open_database(store_url)
    await database.run(add, "a")
    await database.run(lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '9999'")).rowcount)
    await database.close()
    with pytest.raises(StoreError, match=r"newer Turnwire \(schema 9999\)"):
        await open_database(store_url)
    await set_version(store_url, expected="9999", new="0006")
    database = await open_database(store_url)
    assert await database.read(names) == ["a"]
    await database.close()


# Addresses


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("turnwire.db", "no database address"),
        ("postgresql:/ann:hunter2@host/db", "no database address"),
        ("postgresql://ann:hunter2@host:port/db", "no database address"),
        ("mysql://ann:hunter2@host/db", "'mysql' is not supported"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite:///turnwire.db?mode=ro", "options after"),
    ],
)
async def test_an_address_that_names_no_store_is_explained(url: str, told: str) -> None:
    with pytest.raises(StoreError, match=told) as caught:
        await open_database(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the folder .*/nowhere does not exist; create it first"):
        await open_database(f"sqlite:///{tmp_path / 'nowhere' / 'turnwire.db'}")


async def test_a_file_that_is_no_database_is_refused_for_good(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreError, match="not a database") as caught:
        await open_database(f"sqlite:///{path}")
    assert not isinstance(caught.value, StoreUnavailable)
    assert path.read_text().startswith("Dear diary")


async def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "100% #1 ä"
    folder.mkdir()
    database = await open_database(f"sqlite:///{folder}/turnwire.db")
    await database.run(add, "a")
    assert await database.read(names) == ["a"]
    await database.close()
    assert (folder / "turnwire.db").exists()


async def test_a_server_that_is_not_there_is_unavailable(postgres_dsn: str) -> None:
    url = make_url(postgres_dsn).set(port=1).render_as_string(hide_password=False)
    with pytest.raises(StoreUnavailable):
        await open_database(url)


async def test_a_wrong_password_is_not_told(postgres_url: str) -> None:
    url = make_url(postgres_url).set(password="hunter2").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match="28P01") as caught:
        await open_database(url)
    assert not isinstance(caught.value, StoreUnavailable)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


async def test_postgresqls_own_options_are_understood(postgres_url: str) -> None:
    database = await open_database(f"{postgres_url}?sslmode=prefer&application_name=turnwire-test")
    assert await database.read(lambda conn: conn.scalar(text("SHOW application_name"))) == "turnwire-test"
    await database.close()
