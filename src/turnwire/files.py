"""Attachments: content-addressed, size and type checked.

Guarantee: a file that has a row has its whole content on disk, under the SHA-256 of that content. A crash leaves at
most content without a row, which `prune` removes. Names and types from outside are made safe first.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import IO, ParamSpec, TypeAlias, TypeVar
from urllib.parse import quote

import msgspec
import structlog
from sqlalchemy import Connection

from .media import MAX_BYTES, FileRefused, FileTooLarge, media_type_of, safe_name
from .store.database import Database, StoreError, StoreUnavailable
from .store.queries.files import FileRow, add_file, get_file, get_files, hold_files, referenced_content, remove_files

P = ParamSpec("P")
T = TypeVar("T")

Source: TypeAlias = bytes | Path | AsyncIterator[bytes]

BLOCK = 256 * 1024
HEAD = 64 * 1024
ORPHAN_S = 3600.0
_STALE_DRAFT_S = 86400.0
_PRUNE_BATCH = 100
_TAKEN = "prune-"

_log = structlog.get_logger(__name__)


class FileMissing(Exception):
    """The row of a file is there, its content is not: something outside Turnwire removed it."""


class StoredFile(msgspec.Struct, frozen=True):
    """One file of ours. `size` in bytes, `created_at` in seconds since 1970 by the store's clock."""

    id: str
    owner: str
    conversation_id: str | None
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: float
    path: Path

    @property
    def url(self) -> str:
        """Its address on our own server, without scheme and host."""
        return f"/files/{self.id}/{quote(self.name, safe='')}"

    async def read(self) -> bytes:
        """The whole content. Raises `FileMissing` if it was removed behind our back."""
        try:
            return await _in_thread(self.path.read_bytes)
        except FileNotFoundError:
            raise FileMissing(f"the content of {self.id} ({self.name}) is gone from {self.path.parent}") from None


class FileStore:
    """Files under the folder `root`, their rows in `db`. `max_bytes` is the limit for one file, in bytes."""

    def __init__(self, root: Path, db: Database, *, max_bytes: int = MAX_BYTES) -> None:
        self._root = root.absolute()
        self._db = db
        self.max_bytes = max_bytes

    async def put(
        self,
        source: Source,
        *,
        owner: str,
        conversation_id: str | None = None,
        name: str | None = None,
        media_type: str | None = None,
    ) -> StoredFile:
        """Stores `source` and returns once content and row survive a crash.

        The same content is kept once, however many files hold it. Only a few blocks of 256 kB are in memory at a time.
        A cancelled call leaves nothing half-written behind. A generator given as `source` is closed in every case.

        Args:
            name: what the sender calls it; made safe by `safe_name`. Without it a path's own name is taken.
            media_type: what the sender declares; believed only where the content does not contradict it.

        Raises `FileTooLarge`; `FileRefused` for a source that cannot be read; `StoreUnavailable` when the disk cannot
        be written. Nothing is stored then.
        """
        if name is None and isinstance(source, Path):
            name = source.name
        label = f"file {safe_name(name, media_type)!r}"
        draft = _Draft(self._root, self.max_bytes, label)
        try:
            if isinstance(source, bytes):
                await _in_thread(draft.write, source)
            else:
                reading = _path_blocks(source) if isinstance(source, Path) else _stream_blocks(source, label)
                async with aclosing(reading) as blocks:
                    async for block in blocks:
                        await _in_thread(draft.write, block)
            sha256 = await _in_thread(draft.place)
        finally:
            await _in_thread(draft.close)
        found = media_type_of(bytes(draft.head), whole=draft.size <= HEAD, declared=media_type, name=name)
        row = await self._db.run(
            add_file,
            f"file_{secrets.token_hex(16)}",
            owner=owner,
            conversation_id=conversation_id,
            sha256=sha256,
            name=safe_name(name, found),
            media_type=found,
            size=draft.size,
        )
        return self._stored(row)

    async def get(self, file_id: str) -> StoredFile | None:
        """The file with that id, or None."""
        row = await self._db.read(get_file, file_id)
        return self._stored(row) if row else None

    async def get_many(self, file_ids: Collection[str]) -> dict[str, StoredFile]:
        """The files with those ids, by id; an unknown id is left out."""
        rows = await self._db.read(get_files, file_ids)
        return {file_id: self._stored(row) for file_id, row in rows.items()}

    async def discard(self, file_ids: Collection[str]) -> None:
        """Forgets files that nothing refers to yet. Content that no other file holds goes with a later `prune`.

        When the store refuses, the files stay, which harms nobody; it is logged.
        """
        if not file_ids:
            return
        try:
            await self._db.run(remove_files, file_ids)
        except StoreError as error:
            _log.warning("files that nothing refers to could not be removed", files=list(file_ids), error=str(error))

    async def prune(self, *, older_than_s: float = ORPHAN_S) -> int:
        """Removes content without a row that was placed more than `older_than_s` seconds ago; returns how many pieces.

        Content that a `put` is placing at the same time, in any process, is never lost: `put` always places a fresh
        file over what is there and then adds its row. Content is taken away in a transaction in which nobody can add a
        row: we look for rows, move the content aside, and put it back if what was moved turns out to be fresh. What a
        crash left aside is put back by the next call. Age is judged by the clock of the file system with the files.
        """
        now = await _in_thread(_sweep_drafts, self._root)
        removed = 0
        for shard in await _in_thread(_shards, self._root):
            old = await _in_thread(_old_content, shard, now - older_than_s)
            for start in range(0, len(old), _PRUNE_BATCH):
                batch = old[start : start + _PRUNE_BATCH]
                used = await self._db.read(referenced_content, batch)
                if loose := [sha256 for sha256 in batch if sha256 not in used]:
                    removed += await self._db.run(_remove_loose, self._root, loose, now - older_than_s)
        return removed

    def _stored(self, row: FileRow) -> StoredFile:
        path = _content_path(self._root, row.sha256)
        return StoredFile(**{name: getattr(row, name) for name in row.__struct_fields__}, path=path)


async def _in_thread(job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`job(*args)` in a thread; a cancelled caller still waits for it, so that nothing goes on behind its back."""
    running = asyncio.get_running_loop().run_in_executor(None, partial(job, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise


async def _path_blocks(path: Path) -> AsyncGenerator[bytes, None]:
    try:
        file = await _in_thread(_open_source, path)
        try:
            while block := await _in_thread(file.read, BLOCK):
                yield block
        finally:
            await _in_thread(file.close)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileRefused(f"{str(path)!r} cannot be read: {reason}") from error


async def _stream_blocks(source: AsyncIterator[bytes], label: str) -> AsyncGenerator[bytes, None]:
    waiting = bytearray()
    try:
        async for piece in source:
            if not isinstance(piece, (bytes, bytearray, memoryview)):
                raise FileRefused(f"{label}: its iterator gave {type(piece).__name__}; it must give bytes")
            waiting += piece
            if len(waiting) >= BLOCK:
                yield bytes(waiting)
                waiting.clear()
        if waiting:
            yield bytes(waiting)
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()


def _open_source(path: Path) -> IO[bytes]:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise FileRefused(f"{str(path)!r} is a folder; attach a file")
    if not stat.S_ISREG(mode):
        raise FileRefused(f"{str(path)!r} is not a regular file; attach its content as bytes")
    return path.open("rb")


class _Draft:
    """Content on its way in; used by one thread at a time."""

    def __init__(self, root: Path, limit: int, label: str) -> None:
        self._root, self._limit, self._label = root, limit, label
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._path: Path | None = None
        self.size = 0
        self.head = bytearray()

    def write(self, block: bytes) -> None:
        if self.size + len(block) > self._limit:
            raise FileTooLarge(self._label, self._limit)
        try:
            self._opened().write(block)
        except OSError as error:
            raise self._unwritable(error) from error
        self._digest.update(block)
        self.size += len(block)
        self.head += block[: HEAD - len(self.head)]

    def place(self) -> str:
        """Makes the content durable under its digest, over what may be there, and returns the digest."""
        sha256 = self._digest.hexdigest()
        blob = _content_path(self._root, sha256)
        try:
            file, path = self._opened(), self._path
            file.flush()
            os.fsync(file.fileno())
            file.close()
            _make_folder(blob.parent)
            if path is not None:
                os.utime(path)
                os.replace(path, blob)
                self._path = None
            _sync_folder(blob.parent)
        except OSError as error:
            raise self._unwritable(error) from error
        return sha256

    def close(self) -> None:
        """Removes what was not placed."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk could not take is discarded anyway
                self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            number, path = tempfile.mkstemp(dir=_draft_folder(self._root))
            self._file, self._path = os.fdopen(number, "wb"), Path(path)
        return self._file

    def _unwritable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"{self._label} cannot be stored under {self._root}: {error.strerror or error}")


def _content_path(root: Path, sha256: str) -> Path:
    return root / sha256[:2] / sha256


def _draft_folder(root: Path) -> Path:
    _make_folder(root / "tmp")
    return root / "tmp"


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sweep_drafts(root: Path) -> float:
    """Ends what crashes left in the draft folder and returns the time of its file system."""
    folder = _draft_folder(root)
    with tempfile.NamedTemporaryFile(dir=folder) as mark:
        now = os.stat(mark.fileno()).st_mtime
        for path in folder.iterdir():
            with suppress(FileNotFoundError):  # another process did it first
                if path.name.startswith(_TAKEN):
                    os.utime(path)
                    os.replace(path, _content_path(root, path.name.removeprefix(_TAKEN)))
                elif path.stat().st_mtime < now - _STALE_DRAFT_S:
                    path.unlink()
    return now


def _shards(root: Path) -> list[Path]:
    """The folders that may hold content; a young store has few of them."""
    return [shard for number in range(256) if (shard := root / f"{number:02x}").is_dir()]


def _old_content(shard: Path, cutoff: float) -> list[str]:
    old: list[str] = []
    for path in shard.iterdir():
        with suppress(FileNotFoundError):  # another process removed it
            if path.stat().st_mtime < cutoff:
                old.append(path.name)
    return old


def _remove_loose(conn: Connection, root: Path, sha256s: Collection[str], cutoff: float) -> int:
    hold_files(conn)
    used = referenced_content(conn, sha256s)
    return sum(_remove(root, sha256, cutoff) for sha256 in sha256s if sha256 not in used)


def _remove(root: Path, sha256: str, cutoff: float) -> bool:
    blob, taken = _content_path(root, sha256), _draft_folder(root) / f"{_TAKEN}{sha256}"
    with suppress(FileNotFoundError):  # another prune put it back or removed it
        os.replace(blob, taken)
        if taken.stat().st_mtime < cutoff:
            taken.unlink()
            return True
        os.replace(taken, blob)
    return False
