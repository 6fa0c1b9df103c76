"""SQLite: one writer thread, readers beside it, one process per file.

Guarantee: everything that writes runs in one thread and one transaction after another, so a commit is never split and
never waits for a lock of our own. With `durability="full"` a commit survives power loss; with `"process"` it survives
the death of the process, but power loss may take the last commits.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool, StaticPool

from .database import Append, Durability, Query, StoreError, StoreInUse, StoreUnavailable, one_run_each
from .migrate import check, migrate

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2

# What passes when space, memory, a lock or the disk comes back.
_TRANSIENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}

_ADVANCE = "UPDATE turns SET head = head + ? WHERE id = ? AND epoch = ? AND head = ? AND status = 'running'"
_INSERT = "INSERT INTO chunks (turn_id, first_seq, count, payload) VALUES (?, ?, ?, ?)"


class SqliteDatabase:
    """A store in one SQLite file; see `open_database`."""

    def __init__(self, path: Path, durability: Durability) -> None:
        self._path = path
        self._lock: int | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="turnwire-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="turnwire-reader")
        self._write_engine = _engine(path, write=True, durability=durability)
        self._read_engine = _engine(path, write=False, durability=durability)
        self._connection: Connection | None = None
        self._closed = False

    @classmethod
    async def open(cls, name: str, *, durability: Durability, lock: bool) -> SqliteDatabase:
        """Opens the file `name`, taking its lock when `lock`; see `open_database`."""
        if not name or name == ":memory:":
            raise StoreError("[store] url: SQLite needs a file, for example sqlite:///turnwire.db")
        self = cls(_located(name), durability)
        try:
            await self._in(self._writer, partial(self._prepare, lock))
        except BaseException:
            await self.close()
            raise
        return self

    async def run(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.run`."""
        return await self._in(self._writer, partial(self._write, query, *args, **kwargs))

    async def read(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        return await self._in(self._readers, partial(self._look, query, *args, **kwargs))

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """See `Database.append`."""
        one_run_each(batch)
        return await self._in(self._writer, partial(self._append, batch))

    async def close(self) -> None:
        """Closes the file and gives the lock back; what was asked for before is done first."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._writer, self._close)
        self._writer.shutdown()

    async def _in(self, pool: ThreadPoolExecutor, job: Callable[[], T]) -> T:
        if self._closed:
            raise StoreUnavailable(f"the store {self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, job)
        except DBAPIError as error:
            raise _mapped(self._path, error.orig) from error
        except sqlite3.Error as error:
            raise _mapped(self._path, error) from error

    def _prepare(self, lock: bool) -> None:
        if lock:
            self._lock = _take_lock(self._path)
        elif not self._path.exists():
            raise StoreError(f"[store] url: {self._path} does not exist; has `turnwire serve` ever run here?")
        self._connection = self._write_engine.connect()
        (migrate if lock else check)(self._connection, str(self._path))

    def _write(self, query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        connection = self._connected()
        with connection.begin():
            return query(connection, *args, **kwargs)

    def _look(self, query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self._read_engine.connect() as connection, connection.begin():
            return query(connection, *args, **kwargs)

    def _append(self, batch: Sequence[Append]) -> set[str]:
        raw = self._connected().connection.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            raise StoreError("the store's connection is gone; restart")
        cursor = raw.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        try:
            fenced: set[str] = set()
            rows = []
            for run in batch:
                cursor.execute(_ADVANCE, (run.count, run.turn_id, run.epoch, run.head))
                if cursor.rowcount == 1:
                    rows.append((run.turn_id, run.head, run.count, run.payload))
                else:
                    fenced.add(run.turn_id)
            cursor.executemany(_INSERT, rows)
            cursor.execute("COMMIT")
        except BaseException:
            if raw.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        finally:
            cursor.close()
        return fenced

    def _connected(self) -> Connection:
        if self._connection is None:
            raise StoreUnavailable(f"the store {self._path} is closed")
        return self._connection

    def _close(self) -> None:
        self._readers.shutdown()
        self._read_engine.dispose()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._write_engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _engine(path: Path, *, write: bool, durability: Durability) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=StaticPool if write else QueuePool,
        connect_args={"check_same_thread": False, "timeout": 10.0},
        # What people wrote must not get into a log with the statement that failed.
        hide_parameters=True,
        **({} if write else {"pool_size": READERS, "max_overflow": 0}),
    )

    @event.listens_for(engine, "connect")
    def connect(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None
        for pragma in (
            "journal_mode = WAL",
            f"synchronous = {'FULL' if durability == 'full' else 'NORMAL'}",
            "foreign_keys = ON",
            "busy_timeout = 10000",
            "wal_autocheckpoint = 4000",
            "cache_size = -16000",
            *(() if write else ("query_only = ON",)),
        ):
            raw.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _located(name: str) -> Path:
    """The file behind `name`: two names of one file must meet at one lock."""
    path = Path(os.path.realpath(name))
    if not path.parent.is_dir():
        raise StoreError(f"[store] url: the folder {path.parent} does not exist; create it first")
    return path


def _take_lock(path: Path) -> int:
    held = -1
    try:
        held = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(held, 0)
        os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.read(held, 32).decode(errors="replace").strip()
        os.close(held)
        who = f"process {holder}" if holder else "another process"
        raise StoreInUse(
            f"{path} is served by {who}; stop that one first, "
            "or use PostgreSQL ([store] url) to run several processes on one store"
        ) from None
    except OSError as error:
        if held >= 0:
            os.close(held)
        raise StoreError(f"[store] url: {path}.lock cannot be locked: {error.strerror}; it must be writable") from error
    return held


def _mapped(path: Path, error: BaseException | None) -> StoreError:
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind of the error, the rest says more about it.
    if code is not None and code & 0xFF in _TRANSIENT:
        return StoreUnavailable(f"the store {path} cannot be used now: {error}")
    return StoreError(f"the store {path} failed: {error}")
