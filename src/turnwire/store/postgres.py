"""PostgreSQL: many processes on one store.

Guarantee: a transaction that PostgreSQL gave up for a deadlock or a serialization failure is repeated whole; every
other failure leaves nothing behind. What only reads sees one state of the store from its first statement to its last.
Appends use a pool of their own and speak to the driver directly.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .database import Append, Query, StoreError, StoreUnavailable, one_run_each

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 5
# Seconds to connect, and for one statement: a store that hangs must become an error.
_LIMITS: dict[str, Any] = {"timeout": 10.0, "command_timeout": 30.0}
_RETRY = ("40001", "40P01")
# Connection trouble, a standby that was promoted or not yet, resources (disk, connections), operator intervention,
# system errors.
_TRANSIENT = ("08", "25006", "53", "57", "58")
_FAILURES = (DBAPIError, PoolTimeout, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
_MIGRATION_LOCK = 0x7475726E

_LOCK = """SELECT id, epoch, head FROM turns
WHERE id = ANY($1::text[]) AND status = 'running' ORDER BY id FOR NO KEY UPDATE"""
_ADVANCE = """UPDATE turns SET head = turns.head + run.count
FROM unnest($1::text[], $2::int[]) AS run(id, count) WHERE turns.id = run.id"""
_INSERT = """INSERT INTO chunks (turn_id, first_seq, count, payload)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::int[], $4::bytea[])"""


class PostgresDatabase:
    """A store in a PostgreSQL database; see `open_database`."""

    def __init__(self, url: URL) -> None:
        self._name = url.render_as_string(hide_password=True)
        # The driver reads the address itself: it knows PostgreSQL's own options, such as sslmode.
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg", query={}),
            async_creator=lambda: asyncpg.connect(self._dsn, **_LIMITS),
            pool_size=8,
            max_overflow=0,
            pool_pre_ping=True,
            # What people wrote must not get into a log with the statement that failed.
            hide_parameters=True,
        )
        self._reading = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._pool: Any = None
        self._closed = False

    @classmethod
    async def open(cls, url: URL, *, schema: Callable[[Connection, str], None]) -> PostgresDatabase:
        """Connects and lets `schema` bring the schema up to date, or check it; see `open_database`."""
        self = cls(url)
        try:
            self._pool = await asyncpg.create_pool(self._dsn, min_size=1, max_size=2, **_LIMITS)
            async with self._engine.connect() as connection:
                await connection.run_sync(_alone, schema, self._name)
        except _FAILURES as error:
            await self.close()
            raise self._mapped(error) from error
        except BaseException:
            await self.close()
            raise
        return self

    async def run(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.run`."""
        return await self._transaction(self._engine, query, args, kwargs)

    async def read(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        return await self._transaction(self._reading, query, args, kwargs)

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """See `Database.append`."""
        one_run_each(batch)

        async def once() -> set[str]:
            async with self._pool.acquire() as connection, connection.transaction():
                return await _append(connection, batch)

        return await self._repeated(once)

    async def close(self) -> None:
        """Closes all connections, those for appends once they are idle."""
        self._closed = True
        if self._pool is not None:
            await self._pool.close()
        await self._engine.dispose()

    async def _transaction(
        self, engine: AsyncEngine, query: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        async def once() -> T:
            async with engine.begin() as connection:
                return await connection.run_sync(query, *args, **kwargs)

        return await self._repeated(once)

    async def _repeated(self, once: Callable[[], Awaitable[T]]) -> T:
        """Awaits `once()`, again if PostgreSQL gave it up for another transaction."""
        for left in reversed(range(ATTEMPTS)):
            if self._closed:
                raise StoreUnavailable(f"the store {self._name} is closed")
            try:
                return await once()
            except _FAILURES as error:
                if not left or _sqlstate(error) not in _RETRY:
                    raise self._mapped(error) from error
        raise AssertionError("unreachable")

    def _mapped(self, error: BaseException) -> StoreError:
        state = _sqlstate(error)
        detail = getattr(error, "orig", None) or error
        if state is None or state.startswith(_TRANSIENT) or state in _RETRY:
            return StoreUnavailable(f"the store {self._name} cannot be used now: {detail}")
        return StoreError(f"the store {self._name} failed ({state}): {detail}")


async def _append(connection: Any, batch: Sequence[Append]) -> set[str]:
    rows = await connection.fetch(_LOCK, [run.turn_id for run in batch])
    stand = {row["id"]: (row["epoch"], row["head"]) for row in rows}
    good = [run for run in batch if stand.get(run.turn_id) == (run.epoch, run.head)]
    if good:
        ids, counts = [run.turn_id for run in good], [run.count for run in good]
        await connection.execute(_ADVANCE, ids, counts)
        await connection.execute(_INSERT, ids, [run.head for run in good], counts, [run.payload for run in good])
    return {run.turn_id for run in batch} - {run.turn_id for run in good}


def _alone(connection: Connection, schema: Callable[[Connection, str], None], name: str) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.commit()
    try:
        schema(connection, name)
    finally:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()


def _sqlstate(error: BaseException) -> str | None:
    for candidate in (error, getattr(error, "orig", None), error.__cause__):
        state = getattr(candidate, "sqlstate", None)
        if isinstance(state, str):
            return state
    return None
