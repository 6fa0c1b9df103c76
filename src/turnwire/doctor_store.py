"""What `turnwire doctor` says of the store; opened for looking only."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url

from .channels import Holder
from .clock import Clock
from .doctor import Finding, look_at_space
from .store import StoreError
from .store.queries.leases import owner_query

WAL_BYTES = 256 << 20
PINGS = 3
SLOW_S = 0.02
_NOBODY = "nobody serves it now"


async def look_at_store(url: str, clock: Clock) -> AsyncIterator[Finding]:
    """Whether the store can be used, its schema, and who serves it."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        for finding in await asyncio.to_thread(_sqlite, Path(parsed.database or "")):
            yield finding
    else:
        for finding in await _postgres(url, clock):
            yield finding


def holder_in(url: str) -> Holder:
    """Tells who holds a lease of that store; of a store that does not exist yet, nobody does."""
    parsed = make_url(url)
    path = Path(parsed.database or "").absolute()

    async def holder(lease: str) -> str | None:
        if parsed.get_backend_name() == "sqlite":
            return await asyncio.to_thread(_sqlite_holder, path, lease)
        return await _postgres_holder(parsed, lease)

    return holder


def _sqlite_holder(path: Path, lease: str) -> str | None:
    if not path.exists():
        return None
    said = owner_query(lease).compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    try:
        connection = _opened(path)
        try:
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'leases'").fetchone()
            row = connection.execute(str(said)).fetchone() if made else None
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    return None if row is None else row[0]


async def _postgres_holder(url: URL, lease: str) -> str | None:
    try:
        import asyncpg
    except ModuleNotFoundError as error:
        raise StoreError("[store] url names PostgreSQL: install turnwire[postgres]") from error
    dialect: Any = postgresql.asyncpg.dialect
    said = owner_query(lease).compile(dialect=dialect(), compile_kwargs={"literal_binds": True})
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            if await connection.fetchval("SELECT to_regclass('leases')") is None:
                return None
            found = await connection.fetchval(str(said))
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        raise StoreError(f"the store cannot be asked: {type(error).__name__}") from error
    return None if found is None else str(found)


def _sqlite(path: Path) -> list[Finding]:
    path = path.absolute()
    if not path.parent.is_dir():
        return [Finding("problem", "store", f"the folder {path.parent} does not exist", f"mkdir -p {path.parent}")]
    found = [_writable(path.parent), look_at_space(path.parent, "store")]
    if path.exists():
        found += [*_file(path), _served(path)]
    else:
        found.append(Finding("ok", "store", f"{path} does not exist yet; `turnwire serve` makes it"))
    wal = path.with_name(path.name + "-wal")
    if wal.exists() and wal.stat().st_size > WAL_BYTES:
        what = f"{wal} has grown to {wal.stat().st_size / 1e6:.0f} MB"
        found.append(Finding("warning", "store", what, "end programs that keep the file open for reading"))
    return found


def _writable(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = f"give user {os.geteuid()} the right to write there, or set [store] url"
        return Finding("problem", "store", f"{folder} cannot be written: {error.strerror}", remedy)
    return Finding("ok", "store", f"{folder} can be written")


def _file(path: Path) -> list[Finding]:
    schema = _schema(path)
    journal = _journal(path) if schema.level != "problem" else None
    return [schema, journal] if journal else [schema]


def _schema(path: Path) -> Finding:
    remedy = "restore the file, or set [store] url to another one"
    try:
        connection = _opened(path)
        try:
            made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone() if made else None
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding("problem", "store", f"{path} cannot be read: {error}", remedy)
    if version is None:
        empty = path.stat().st_size == 0
        what = f"{path} is empty" if empty else f"{path} is a database, but no store of Turnwire"
        return Finding("ok", "store", what) if empty else Finding("problem", "store", what, remedy)
    return _version(str(path), str(version[0]))


def _opened(path: Path) -> sqlite3.Connection:
    # Where nobody has the file open there is no WAL; SQLite would make one, and leave it, unless told not to.
    alone = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.as_uri()}?mode=ro{alone}", uri=True, timeout=5.0)


def _journal(path: Path) -> Finding | None:
    with path.open("rb") as file:
        header = file.read(20)
    # Source: the SQLite file format, section 1.3: bytes 18 and 19 are 2 for a file in WAL mode.
    if not header.startswith(b"SQLite format 3\0") or header[18:20] == b"\x02\x02":
        return None
    remedy = "put it on a local disk; network file systems cannot hold a WAL"
    return Finding("warning", "store", f"{path}: its journal is not a WAL", remedy)


def _version(name: str, found: str) -> Finding:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(Path(__file__).parent / "store" / "migrations")
    head = scripts.get_current_head()
    if found == head:
        return Finding("ok", "store", f"{name}: schema {found}, up to date")
    if found in {script.revision for script in scripts.walk_revisions()}:
        remedy = "`turnwire serve` brings it up to date; keep a copy if you may want to go back"
        return Finding("warning", "store", f"{name}: schema {found}, this version needs {head}", remedy)
    return Finding("problem", "store", f"{name} was written by a newer Turnwire (schema {found})", "upgrade Turnwire")


def _served(path: Path) -> Finding:
    """Who holds the lock. It is asked for without being taken from anybody."""
    lock = path.with_name(path.name + ".lock")
    try:
        held = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Finding("ok", "store", _NOBODY)
    except OSError as error:
        remedy = f"give user {os.geteuid()} the right to read it"
        return Finding("problem", "store", f"{lock} cannot be read: {error.strerror}", remedy)
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(held, 32).decode(errors="replace").strip()
        return Finding("ok", "store", f"served by process {holder or 'unknown'} now", serving=True)
    finally:
        os.close(held)
    return Finding("ok", "store", _NOBODY)


async def _postgres(url: str, clock: Clock) -> list[Finding]:
    try:
        import asyncpg
    except ModuleNotFoundError:
        return [Finding("problem", "store", "[store] url names PostgreSQL", "install turnwire[postgres]")]
    parsed = make_url(url)
    name = parsed.render_as_string(hide_password=True)
    dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        connection = await asyncpg.connect(dsn, timeout=10)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError) as error:
        what = f"{name} cannot be reached: {str(error) or type(error).__name__}"
        return [Finding("problem", "store", what, "start PostgreSQL, or check host, user and password in [store] url")]
    try:
        return await _ask_postgres(connection, name, clock)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [Finding("problem", "store", f"{name} failed: {error}", "see the server's log")]
    finally:
        await connection.close()


async def _ask_postgres(connection: Any, name: str, clock: Clock) -> list[Finding]:
    version = await connection.fetchval("SHOW server_version")
    best = float("inf")
    for _ in range(PINGS):
        began = clock.monotonic()
        await connection.fetchval("SELECT 1")
        best = min(best, clock.monotonic() - began)
    what = f"{name}: PostgreSQL {version}, {best * 1000:.1f} ms away"
    near = best < SLOW_S
    remedy = "" if near else "run Turnwire nearer to it: every token waits for a commit"
    found = [Finding("ok" if near else "warning", "store", what, remedy)]
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        found.append(Finding("ok", "store", f"{name} has no tables yet; `turnwire serve` makes them"))
    else:
        found.append(_version(name, str(await connection.fetchval("SELECT version_num FROM alembic_version"))))
        running = "SELECT count(*), count(DISTINCT owner) FROM turns WHERE status = 'running'"
        turns, owners = await connection.fetchrow(running)
        if turns:
            what = f"{turns} running turns of {owners} processes"
            found.append(Finding("ok", "store", what, serving=True))
    return found
