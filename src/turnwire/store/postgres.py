"""PostgreSQL: many processes on one store.

Guarantee: a transaction that PostgreSQL gave up for a deadlock or a serialization failure is repeated whole; every
other failure leaves nothing behind. Appends use a pool of their own and speak to the driver directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from .database import Append, Query, StoreError, StoreUnavailable
from .migrate import migrate

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS = 5
_RETRY = ("40001", "40P01")
# Connection trouble, resources (disk, connections), operator intervention, system errors.
_TRANSIENT = ("08", "53", "57", "58")
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
        self._engine = create_async_engine(
            url.set(drivername="postgresql+asyncpg"), pool_size=8, max_overflow=0, pool_pre_ping=True
        )
        self._dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._pool: Any = None

    @classmethod
    async def open(cls, url: URL) -> PostgresDatabase:
        """Connects and brings the schema up to date; see `open_database`."""
        self = cls(url)
        try:
            self._pool = await asyncpg.create_pool(self._dsn, min_size=1, max_size=2)
            async with self._engine.connect() as connection:
                await connection.run_sync(_migrate, self._name)
        except BaseException as error:
            await self.close()
            raise self._mapped(error) from error
        return self

    async def run(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.run`."""
        return await self._transaction(query, args, kwargs)

    async def read(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        return await self._transaction(query, args, kwargs)

    async def _transaction(self, query: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                async with self._engine.begin() as connection:
                    return await connection.run_sync(query, *args, **kwargs)
            except (DBAPIError, OSError, asyncpg.InterfaceError) as error:
                if attempt + 1 < ATTEMPTS and _sqlstate(error) in _RETRY:
                    continue
                raise self._mapped(error) from error
        raise AssertionError("unreachable")

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """See `Database.append`."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                return await _append(connection, batch)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise self._mapped(error) from error

    async def close(self) -> None:
        """Closes all connections; what was committed stays."""
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        await self._engine.dispose()

    def _mapped(self, error: BaseException) -> BaseException:
        state = _sqlstate(error)
        if isinstance(error, StoreError) or not isinstance(error, Exception):
            return error
        known = isinstance(error, (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError))
        if not known:
            return error
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


def _migrate(connection: Connection, name: str) -> None:
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.commit()
    try:
        migrate(connection, name)
    finally:
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()


def _sqlstate(error: BaseException) -> str | None:
    for candidate in (error, getattr(error, "orig", None), error.__cause__):
        state = getattr(candidate, "sqlstate", None)
        if isinstance(state, str):
            return state
    return None
