"""Other hands on a store: transactions held open where a test wants it, and connections that are not ours."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, event, select
from sqlalchemy.util import await_only

from turnwire.store import Database, open_database
from turnwire.store.queries.conversations import ensure_conversation
from turnwire.store.schema import conversations

T = TypeVar("T")
U = TypeVar("U")


class Gate:
    """Holds a transaction open, in whatever way its database can be made to wait."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened = asyncio.Event()
        self._opened_for_threads = threading.Event()

    def wait(self, conn: Connection) -> None:
        """Called in the transaction."""
        self._loop.call_soon_threadsafe(self.reached.set)
        if conn.dialect.name == "postgresql":
            await_only(self._opened.wait())
        else:
            assert self._opened_for_threads.wait(30)

    def open(self) -> None:
        self._opened.set()
        self._opened_for_threads.set()


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    server = await asyncpg.connect(url)
    try:
        yield server
    finally:
        await server.close()


async def blocked(server: Any, count: int = 1) -> None:
    """Returns once that many transactions wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    while await server.fetchval(waiting) < count:
        await asyncio.sleep(0)


def gated(conn: Connection, query: Callable[[Connection], T], gate: Gate, at: int) -> T:
    """`query(conn)`, which waits at the gate before its statement number `at`, if there are as many."""
    left = at

    def before(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            gate.wait(conn)

    event.listen(conn, "before_cursor_execute", before)
    try:
        return query(conn)
    finally:
        event.remove(conn, "before_cursor_execute", before)


async def beside(
    db: Database, server: Any, query: Callable[[Connection], T], at: int, other: Callable[[], Awaitable[U]]
) -> tuple[T, U, bool]:
    """Runs `query` up to its statement number `at`, then `other` until it is done or waits for a lock, then the rest.

    Returns what both returned, and whether `query` had as many statements.
    """
    gate = Gate()
    first = asyncio.create_task(db.run(gated, query, gate, at))
    reached = asyncio.create_task(gate.reached.wait())
    await asyncio.wait({first, reached}, return_when=asyncio.FIRST_COMPLETED)
    between = not first.done()
    second = asyncio.ensure_future(other())
    waits = asyncio.create_task(blocked(server))
    await asyncio.wait({second, waits}, return_when=asyncio.FIRST_COMPLETED)
    gate.open()
    for watching in (reached, waits):
        watching.cancel()
    await asyncio.wait({reached, waits})
    return await first, await second, between


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """The store at `url`, closed at the end whatever happened."""
    database = await open_database(url)
    try:
        yield database
    finally:
        await database.close()


def add(conn: Connection, name: str) -> str:
    return ensure_conversation(conn, name, "web", "ann", name).id


def names(conn: Connection) -> list[str]:
    return list(conn.scalars(select(conversations.c.name).order_by(conversations.c.name)))


async def set_version(url: str, *, expected: str, new: str) -> None:
    """Another hand than ours on the table of versions."""
    look, change = "SELECT version_num FROM alembic_version", f"UPDATE alembic_version SET version_num = '{new}'"
    if url.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            assert file.execute(look).fetchall() == [(expected,)]
            file.execute(change)
            file.commit()
    else:
        async with connected(url) as server:
            assert await server.fetchval(look) == expected
            await server.execute(change)
