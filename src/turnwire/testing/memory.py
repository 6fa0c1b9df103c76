"""A store in memory: nothing of it runs in a thread.

Guarantee: what is asked of it is done in the loop's own thread, in the order it was asked.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, insert
from sqlalchemy.pool import StaticPool

from ..store import Append, StoreError
from ..store.database import Query
from ..store.schema import metadata, store_clock

P = ParamSpec("P")
T = TypeVar("T")

_EMPTY: list[bytes] = []


class MemoryStore:
    """A `Database` in memory, used in the loop's own thread.

    Args:
        before: called before each transaction; what it raises is raised.
    """

    def __init__(self, engine: Engine | None = None, before: Callable[[], None] | None = None) -> None:
        self.engine = engine or _engine()
        self._raw = _raw(self.engine)
        self._before = before

    def wipe(self) -> None:
        """Makes it empty again, which is faster than another one."""
        self._raw.deserialize(_EMPTY[0])

    def is_settled(self, turn_id: str) -> bool:
        """Whether the turn's delivery is settled or held; asked often, so past every layer."""
        query = "SELECT status FROM deliveries WHERE turn_id = ?"
        return self._raw.execute(query, (turn_id,)).fetchall() in ([("settled",)], [("held",)])

    async def run(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.run`."""
        await asyncio.sleep(0)
        if self._before is not None:
            self._before()
        with self.engine.begin() as connection:
            return query(connection, *args, **kwargs)

    async def read(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        return await self.run(query, *args, **kwargs)

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """A stage writes its turns by itself; raises `StoreError`."""
        raise StoreError("the store of a stage takes no appends")

    async def close(self) -> None:
        """Lets the memory go."""
        self.engine.dispose()


def _engine() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connect(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(store_clock).values(id=1, offset_s=0.0))
    if not _EMPTY:
        _EMPTY.append(_raw(engine).serialize())
    return engine


def _raw(engine: Engine) -> sqlite3.Connection:
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            raise TypeError("a stage keeps everything in SQLite's memory")
        return raw
