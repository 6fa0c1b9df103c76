"""The seam between Turnwire and a database.

Guarantee: `run(fn, *args)` executes the plain function `fn(connection, *args)` in exactly one transaction: it commits
when `fn` returns and leaves nothing behind when it raises. Cancelling the caller does not cut a transaction in two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeAlias, TypeVar

import msgspec
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

P = ParamSpec("P")
T = TypeVar("T")

Query: TypeAlias = Callable[Concatenate[Connection, P], T]
Durability: TypeAlias = Literal["full", "process"]


class StoreError(Exception):
    """The store could not do what was asked; the message says what and what to do."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or written now (disk full, connection lost); try again.

    Nothing was committed, except perhaps when the connection to PostgreSQL broke during the commit itself: then all or
    nothing was, and only reading tells which.
    """


class StoreInUse(StoreError):
    """Another process serves this SQLite file."""


class Append(msgspec.Struct, frozen=True):
    """A run of records for one turn, valid only at exactly this `epoch` and `head`."""

    turn_id: str
    epoch: int
    head: int
    count: int
    payload: bytes


class Database(Protocol):
    """One open store."""

    async def run(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`query(connection, *args)` in one writing transaction."""
        ...

    async def read(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for a query that only reads: it does not wait behind writers and sees one state throughout."""
        ...

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """Appends every run whose epoch and head still stand, in one transaction; returns the ids of fenced turns.

        Raises `ValueError`, before anything is written, for two runs of one turn.
        """
        ...

    async def close(self) -> None:
        """Gives everything up that was opened; what was committed stays. Every later call raises `StoreError`."""
        ...


def one_run_each(batch: Sequence[Append]) -> None:
    """Raises `ValueError` if a turn has two runs in `batch`: what the second one's head means would be unclear."""
    if len({run.turn_id for run in batch}) != len(batch):
        raise ValueError("append: a turn may have one run in a batch; join them")


async def open_database(url: str, *, durability: Durability = "full", lock: bool = True) -> Database:
    """Opens the store at `url`, its schema being this version's.

    Args:
        url: `sqlite:///path.db` or `postgresql://user@host/db`.
        durability: SQLite only: `full` survives power loss, `process` survives the death of the process.
        lock: this process serves the store: the schema is brought up to date, and SQLite's file is locked. Without it
            the store is opened for looking at: a schema that is not this version's is refused.

    Raises `StoreInUse` if another process holds the lock, `StoreUnavailable` if the store cannot be reached now,
    `StoreError` for an address that names no store.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Neither the address nor the parser's words: they can hold a password.
        raise StoreError(
            "[store] url is no database address; use sqlite:///turnwire.db or postgresql://user@host/db"
        ) from None
    if parsed.get_backend_name() == "sqlite":
        from .sqlite import SqliteDatabase

        if parsed.query:
            raise StoreError("[store] url: options after '?' are not supported with SQLite; leave them out")
        return await SqliteDatabase.open(parsed.database or "", durability=durability, lock=lock)
    if parsed.get_backend_name() == "postgresql":
        from .migrate import check, migrate

        try:
            from .postgres import PostgresDatabase
        except ModuleNotFoundError as error:
            raise StoreError("[store] url names PostgreSQL: install turnwire[postgres]") from error
        return await PostgresDatabase.open(parsed, schema=migrate if lock else check)
    raise StoreError(f"[store] url: {parsed.get_backend_name()!r} is not supported; use sqlite or postgresql")
