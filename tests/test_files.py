"""Attachments: what gets in, under which name and type, and what a crash or a race can leave."""

from __future__ import annotations

import asyncio
import base64
import errno
import gzip
import io
import os
import threading
import tracemalloc
import unicodedata
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.ext.asyncio import create_async_engine

from turnwire import files
from turnwire.files import FileMissing, FileStore, StoredFile
from turnwire.media import (
    NAME_BYTES,
    OCTETS,
    FileRefused,
    FileTooLarge,
    media_type_of,
    parse_data_url,
    safe_name,
)
from turnwire.store import Append, Database, StoreError, StoreUnavailable, open_database
from turnwire.store.queries.conversations import ensure_conversation
from turnwire.store.queries.files import add_file, hold_files
from turnwire.store.schema import files as files_table
from turnwire.store.schema import store_clock

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(60)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(60)
WEBM = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm" + bytes(
    60
)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(60)
OLE = bytes.fromhex("d0cf11e0a1b11ae1") + bytes(600)
HTML = b"<!doctype html><script>alert(1)</script>"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HOUR = 3600.0


def zipped(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return packed.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "files"


@pytest.fixture
def store(root: Path, database: Database) -> FileStore:
    return FileStore(root, database)


def blobs(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("??/*"))


def drafts(root: Path) -> list[Path]:
    return sorted((root / "tmp").glob("*"))


def age(path: Path, seconds: float) -> None:
    now = path.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


async def rows(database: Database) -> int:
    def count(conn: Connection) -> int:
        return conn.execute(select(func.count()).select_from(files_table)).scalar_one()

    return await database.read(count)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


class Watched:
    """A store that lets a test act before a query runs."""

    def __init__(self, inner: Database, before: Callable[[Any], Awaitable[None]]) -> None:
        self._inner = inner
        self._before = before

    async def run(self, query: Any, /, *args: Any, **kwargs: Any) -> Any:
        await self._before(query)
        return await self._inner.run(query, *args, **kwargs)

    async def read(self, query: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await self._inner.read(query, *args, **kwargs)

    async def append(self, batch: Sequence[Append]) -> set[str]:
        return await self._inner.append(batch)

    async def close(self) -> None:
        await self._inner.close()


# --- storing ---------------------------------------------------------------------------------------------------------


async def test_every_kind_of_source_is_stored_alike(store: FileStore, root: Path, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    path = tmp_path / "报告 final.bin"
    path.write_bytes(content)
    from_bytes = await store.put(content, owner="ada", name="a.bin")
    from_path = await store.put(path, owner="ada")
    from_stream = await store.put(
        pieces(content[:5], b"", content[5:400_000], content[400_000:]), owner="ada", name="c"
    )
    from_bare_iterator = await store.put(aiter(Bare([content])), owner="ada", name="d")
    stored = [from_bytes, from_path, from_stream, from_bare_iterator]
    assert {(file.sha256, file.size) for file in stored} == {(from_bytes.sha256, len(content))}
    assert [await file.read() for file in stored] == [content] * 4
    assert from_path.name == "报告 final.bin"
    assert from_path.url == f"/files/{from_path.id}/%E6%8A%A5%E5%91%8A%20final.bin"
    assert len({file.id for file in stored}) == 4
    assert blobs(root) == [from_bytes.path] == [root / from_bytes.sha256[:2] / from_bytes.sha256]
    assert from_bytes.path.stat().st_mode & 0o077 == 0
    assert drafts(root) == []


class Bare:
    """An async iterator that is no generator: it has no `aclose`."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> Bare:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop(0)


async def test_an_empty_file_is_a_file(store: FileStore) -> None:
    stored = [await store.put(b"", owner="ada", name="x.txt"), await store.put(pieces(), owner="ada")]
    assert [(file.size, file.media_type, await file.read()) for file in stored] == [(0, "text/plain", b"")] * 2


async def test_what_was_put_is_found_again(store: FileStore, database: Database, root: Path) -> None:
    conversation = await database.run(ensure_conversation, "c1", "web", "ada", "chat")
    await database.run(lambda conn: conn.execute(update(store_clock).values(offset_s=1e6)))
    before = await store.put(b"x", owner="ada")
    file = await store.put(PNG, owner="ada", conversation_id=conversation.id, name="p.png", media_type="image/png")
    assert (file.owner, file.conversation_id, file.media_type) == ("ada", "c1", "image/png")
    assert file.created_at >= before.created_at > file.path.stat().st_mtime + 9e5
    again = FileStore(root, database)
    assert await again.get(file.id) == file
    assert await again.get_many([file.id, "file_unknown", before.id]) == {file.id: file, before.id: before}
    assert await again.get_many([]) == {}
    assert await again.get("file_unknown") is None
    assert file.id.startswith("file_")
    assert len(file.id) == 37


async def test_lost_content_is_an_error_of_its_own(store: FileStore) -> None:
    file = await store.put(b"x", owner="ada", name="x.txt")
    file.path.unlink()
    with pytest.raises(FileMissing, match=file.id):
        await file.read()


async def test_content_and_folders_are_on_disk_before_the_row(
    root: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real = os.fsync

    def fsync(number: int) -> None:
        real(number)
        synced.add(os.fstat(number).st_ino)

    async def before(query: Any) -> None:
        (blob,) = blobs(root)
        seen.append({path.stat().st_ino for path in (blob, blob.parent, root, root.parent)} - synced)

    seen: list[set[int]] = []
    monkeypatch.setattr(os, "fsync", fsync)
    await FileStore(root, Watched(database, before)).put(b"durable", owner="ada")
    assert seen == [set()]


async def test_memory_stays_at_a_few_blocks(store: FileStore, tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(24 * 16):
            yield bytes(64 * 1024)

    path = tmp_path / "big.bin"
    path.write_bytes(bytes(24 * 2**20))
    await store.put(b"warm", owner="ada")
    tracemalloc.start()
    try:
        await store.put(endless(), owner="ada")
        await store.put(path, owner="ada")
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


# --- limits and refusals ---------------------------------------------------------------------------------------------


async def test_the_limit_is_a_limit_for_every_source(root: Path, database: Database, tmp_path: Path) -> None:
    store = FileStore(root, database, max_bytes=300_000)
    path = tmp_path / "big.bin"
    path.write_bytes(bytes(300_000))
    for source in (bytes(300_000), path, pieces(bytes(299_999), b"x")):
        assert (await store.put(source, owner="ada")).size == 300_000
    path.write_bytes(bytes(300_001))
    for source in (bytes(300_001), path, pieces(bytes(300_000), b"x")):
        with pytest.raises(FileTooLarge, match=r"'big\.bin' is larger than the limit of 300000 bytes \(0\.3 MB\)"):
            await store.put(source, owner="ada", name="big.bin")
    assert drafts(root) == []
    assert await rows(database) == 3


async def test_the_limit_holds_while_reading(root: Path, database: Database) -> None:
    closed = False

    async def endless() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield bytes(100_000)
        finally:
            closed = True

    store = FileStore(root, database, max_bytes=1000)
    with pytest.raises(FileTooLarge):
        await store.put(endless(), owner="ada")
    assert closed
    # It says that it has 0 bytes and has more.
    with pytest.raises(FileTooLarge):
        await FileStore(root, database, max_bytes=10).put(Path("/proc/self/status"), owner="ada")
    assert drafts(root) == blobs(root) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing.pdf", r"missing\.pdf' cannot be read: No such file"),
        (".", "is a folder; attach a file"),
        ("pipe", "is not a regular file"),
        ("plain/inside", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "null byte"),
        ("/proc/self/mem", "Input/output error"),
    ],
)
async def test_a_path_that_cannot_be_read_is_refused(store: FileStore, tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileRefused, match=says):
        await store.put(tmp_path / path, owner="ada")


async def test_a_forbidden_path_is_refused(store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    (tmp_path / "secret").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(FileRefused, match="secret' cannot be read: Permission denied"):
        await store.put(tmp_path / "secret", owner="ada")


async def test_an_iterator_must_give_bytes(store: FileStore, root: Path) -> None:
    async def words() -> AsyncIterator[Any]:
        yield b"fine"
        yield "text"

    with pytest.raises(FileRefused, match="'notes': its iterator gave str"):
        await store.put(words(), owner="ada", name="notes")
    assert drafts(root) == []


async def test_the_error_of_an_iterator_comes_through(store: FileStore, root: Path, database: Database) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield bytes(300_000)
        raise ConnectionResetError("the platform hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        await store.put(broken(), owner="ada")
    assert drafts(root) == blobs(root) == []
    assert await rows(database) == 0


async def test_a_full_disk_is_the_store_being_unavailable(
    store: FileStore, root: Path, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreUnavailable, match=r"'x\.txt' cannot be stored under .*: No space left"):
            await store.put(b"x", owner="ada", name="x.txt")
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="cannot be stored"):
        await FileStore(tmp_path / "plain" / "files", database).put(b"x", owner="ada")
    assert drafts(root) == []


# --- several at once, cancelled, crashed -----------------------------------------------------------------------------


async def test_the_same_content_at_the_same_time(store: FileStore, root: Path, database: Database) -> None:
    content = os.urandom(600_000)
    stored = await asyncio.gather(*(store.put(pieces(content), owner=f"u{n}", name=f"{n}.bin") for n in range(8)))
    assert [await file.read() for file in stored] == [content] * 8
    assert [file.owner for file in stored] == [f"u{n}" for n in range(8)]
    assert len(blobs(root)) == 1
    assert drafts(root) == []
    assert await rows(database) == 8


async def test_a_cancelled_put_leaves_nothing(store: FileStore, root: Path, database: Database) -> None:
    waiting = asyncio.Event()
    closed = False

    async def stalls() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            yield bytes(300_000)
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed = True

    task = asyncio.create_task(store.put(stalls(), owner="ada"))
    await waiting.wait()
    assert len(drafts(root)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed
    assert drafts(root) == blobs(root) == []
    assert await rows(database) == 0


async def test_a_put_cancelled_in_the_middle_of_a_write_waits_for_it(
    store: FileStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, started, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slow(number: int) -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(30)
        raise OSError(errno.EIO, "the disk died meanwhile")

    root.mkdir(parents=True)
    (root / "tmp").mkdir()
    monkeypatch.setattr(os, "fsync", slow)
    task = asyncio.create_task(store.put(b"x", owner="ada"))
    await started.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert drafts(root) == []


async def crash(query: Any) -> None:
    if query is add_file:
        raise KeyboardInterrupt


async def test_a_crash_before_the_row_leaves_an_orphan_that_is_pruned(root: Path, database: Database) -> None:
    store = FileStore(root, database)
    kept = await store.put(b"kept", owner="ada")
    with pytest.raises(KeyboardInterrupt):
        await FileStore(root, Watched(database, crash)).put(b"orphan", owner="ada")
    assert await rows(database) == 1
    (orphan,) = set(blobs(root)) - {kept.path}
    assert await store.prune() == 0
    age(kept.path, 2 * HOUR)
    age(orphan, HOUR - 60)
    assert await store.prune() == 0
    assert orphan.exists()
    age(orphan, 120)
    assert await store.prune() == 1
    assert blobs(root) == [kept.path]
    assert drafts(root) == []
    assert await kept.read() == b"kept"


async def test_prune_handles_many_and_an_empty_folder(store: FileStore, root: Path) -> None:
    assert await store.prune() == 0
    (root / "ab").mkdir()
    for number in range(250):
        orphan = root / "ab" / f"ab{number:062x}"
        orphan.write_bytes(b"x")
        age(orphan, 2 * HOUR)
    assert await store.prune() == 250
    assert blobs(root) == []


async def orphaned(store: FileStore, database: Database, content: bytes) -> StoredFile:
    """Old content of a file whose row was removed."""
    file = await store.put(content, owner="gone")
    await database.run(lambda conn: conn.execute(files_table.delete().where(files_table.c.id == file.id)))
    age(file.path, 2 * HOUR)
    return file


async def test_a_put_between_the_look_and_the_removal_is_kept(store: FileStore, root: Path, database: Database) -> None:
    await orphaned(store, database, b"same")
    put: list[StoredFile] = []

    async def before(query: Any) -> None:
        put.append(await store.put(b"same", owner="ada"))

    assert await FileStore(root, Watched(database, before)).prune() == 0
    assert await put[0].read() == b"same"


async def test_an_old_row_for_old_content_is_kept_even_if_it_comes_late(
    store: FileStore, root: Path, database: Database
) -> None:
    await orphaned(store, database, b"same")
    put: list[StoredFile] = []

    async def before(query: Any) -> None:
        put.append(await store.put(b"same", owner="ada"))
        age(put[0].path, 2 * HOUR)

    assert await FileStore(root, Watched(database, before)).prune() == 0
    assert await put[0].read() == b"same"


async def test_content_placed_during_the_removal_is_put_back(
    store: FileStore, root: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has placed the content and waits to add its row."""
    file = await orphaned(store, database, b"same")

    def hold(conn: Connection) -> None:
        hold_files(conn)
        fresh = root / "tmp" / "other"
        fresh.write_bytes(b"same")
        os.replace(fresh, file.path)

    monkeypatch.setattr(files, "hold_files", hold)
    assert await store.prune() == 0
    assert await file.read() == b"same"
    assert drafts(root) == []


async def test_a_put_waiting_to_add_its_row_is_kept(store: FileStore, root: Path, database: Database) -> None:
    await orphaned(store, database, b"same")
    pruned: list[int] = []

    async def before(query: Any) -> None:
        pruned.append(await store.prune())

    late = await FileStore(root, Watched(database, before)).put(b"same", owner="ada")
    assert pruned == [0]
    assert await late.read() == b"same"


async def test_what_crashes_left_in_the_draft_folder_is_ended(store: FileStore, root: Path) -> None:
    file = await store.put(b"mine", owner="ada")
    age(file.path, 2 * HOUR)
    file.path.rename(root / "tmp" / f"prune-{file.sha256}")
    # Nobody has a row for this one yet: a put may be about to add it.
    orphan = root / file.sha256[:2] / (file.sha256[:2] + "0" * 62)
    (root / "tmp" / f"prune-{orphan.name}").write_bytes(b"maybe")
    age(root / "tmp" / f"prune-{orphan.name}", 2 * HOUR)
    for name, hours in (("stale", 25), ("live", 2)):
        (root / "tmp" / name).write_bytes(b"half")
        age(root / "tmp" / name, hours * HOUR)
    assert await store.prune() == 0
    assert await file.read() == b"mine"
    assert orphan.read_bytes() == b"maybe"
    assert drafts(root) == [root / "tmp" / "live"]


async def test_nobody_adds_a_file_while_they_are_held(postgres_url: str) -> None:
    database = await open_database(postgres_url)
    engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))

    def add(conn: Connection) -> None:
        conn.execute(text("SET LOCAL lock_timeout = '50ms'"))
        add_file(conn, "f", owner="o", conversation_id=None, sha256="s", name="n", media_type="text/plain", size=1)

    try:
        async with engine.begin() as other:
            await other.run_sync(hold_files)
            with pytest.raises(StoreError, match="lock timeout"):
                await database.run(add)
        await database.run(add)
        assert await rows(database) == 1
    finally:
        await engine.dispose()
        await database.close()


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("季度报告（终稿）.docx", "季度报告（终稿）.docx"),
        ("résumé.pdf", "résumé.pdf"),
        ("re\u0301sume\u0301.pdf", "résumé.pdf"),
        ("👩‍👩‍👧 family.png", "👩‍👩‍👧 family.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("C:\\Users\\ada\\a.txt", "a.txt"),
        ("..%2f..%2Fetc%2fpasswd", "passwd"),
        ("a%5cb.txt", "b.txt"),
        ("100%.txt", "100%.txt"),
        ("folder/", "folder"),
        ("..", "file"),
        ("../", "file"),
        ("", "file"),
        (None, "file"),
        (" . . ", "file"),
        ("\0", "file"),
        ("a\0b\r\n\tc\x7f\x85.txt", "abc.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("\u2066x\u2069\u200f\u061c\ufeff\u200b.txt", "x.txt"),
        ("\u200d.png", "png"),
        (".bashrc", "bashrc"),
        ("...hidden", "hidden"),
        ("a.txt. . .", "a.txt"),
        ('a<b>c:d"e|f?g*.txt', "a_b_c_d_e_f_g_.txt"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("Com1 .tar.gz", "_Com1 .tar.gz"),
        ("lpt².x", "_lpt².x"),
        ("conx.txt", "conx.txt"),
        ("com10", "com10"),
        ("a\u2028b\u3000c.txt", "a b c.txt"),
        ("half \ud83d pair.txt", "half \ufffd pair.txt"),
        ("x" * 300 + ".pdf", "x" * 196 + ".pdf"),
        ("报" * 100 + ".pdf", "报" * 65 + ".pdf"),
        ("x" * 300, "x" * 200),
        ("x" * 190 + " " * 50 + ".pdf", "x" * 190 + ".pdf"),
        ("x" * 198 + "  " + "y" * 10, "x" * 198),
        ("x." + "y" * 300, "x." + "y" * 198),
        ("../" * 100_000 + "x" * 300 + ".pdf", "x" * 196 + ".pdf"),
    ],
)
def test_safe_name(given_name: str | None, safe: str) -> None:
    assert safe_name(given_name) == safe


def test_a_name_is_made_from_the_media_type() -> None:
    kinds = ["image/png", "image/jpeg", "text/plain; charset=utf-8", DOCX, "image/webp", "made/up", "no type", None]
    assert [safe_name("..", kind) for kind in kinds] == [
        *("file.png", "file.jpg", "file.txt", "file.docx", "file.webp", "file", "file", "file")
    ]


@given(st.text(alphabet=st.characters() | st.sampled_from("./\\ %2f5cCON\0\u202e\u200d\u0301:<"), max_size=400))
def test_any_name_becomes_one_safe_name(name: str) -> None:
    safe = safe_name(name)
    assert safe_name(safe) == safe
    assert 0 < len(safe.encode()) <= NAME_BYTES
    assert not set(safe) & set('/\\<>:"|?*')
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in safe)
    assert not any(
        unicodedata.bidirectional(char) in ("LRE", "RLO", "LRO", "RLE", "PDF", "LRI", "RLI") for char in safe
    )
    assert not safe.startswith((".", " "))
    assert not safe.endswith((".", " "))
    assert "%2f" not in safe.lower()


async def test_a_hostile_name_never_reaches_the_disk(store: FileStore, root: Path) -> None:
    file = await store.put(b"x", owner="../../up", name="../../\u202eevil/.x\0.png", media_type="text/plain")
    assert file.name == "x.png"
    assert {path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file()} == {file.sha256[:2]}


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "declared", "name", "stored"),
    [
        (PNG, "image/png", "a.png", "image/png"),
        (PNG, None, None, "image/png"),
        (PNG, "image/jpeg", "a.jpg", "image/png"),
        (PNG, "text/html", "a.html", "image/png"),
        (JPEG, "image/jpg", None, "image/jpeg"),
        (HTML, "image/png", "a.png", "text/plain"),
        (HTML, "image/png", "a.html", "text/html"),
        (HTML, "text/plain", "a.html", "text/plain"),
        (HTML, None, None, "text/plain"),
        (b"<svg/>", "image/svg+xml", None, "image/svg+xml"),
        (b"<svg/>", None, "x.svg", "image/svg+xml"),
        (zipped("a.txt"), "image/png", "a.png", "application/zip"),
        (zipped("a.txt"), "application/pdf", "a.pdf", "application/zip"),
        (zipped("a.txt"), "application/json", "a.json", "application/zip"),
        (zipped("a.class"), "application/java-archive", None, "application/java-archive"),
        (zipped("[Content_Types].xml", "word/document.xml"), None, None, DOCX),
        (zipped("odd", "word/document.xml"), None, "a.docx", DOCX),
        (zipped("a.txt"), "image/x-foo", None, "application/zip"),
        (OLE, None, "a.xls", "application/vnd.ms-excel"),
        (OLE, "image/png", "a.png", "application/x-ole-storage"),
        (gzip.compress(b"x", mtime=0), "application/gzip", "a.tar.gz", "application/gzip"),
        (WEBM, "audio/webm;codecs=opus", None, "audio/webm"),
        (WEBM, None, None, "video/webm"),
        (MP4, "video/mp4", None, "video/mp4"),
        (MP4, "audio/mpeg", "a.mp3", "video/mp4"),
        (b"%PDF-1.7\n", "text/plain", None, "application/pdf"),
        (b"{\\rtf1 hello}", None, None, "application/rtf"),
        (b"BMW, MZ and other cars", None, None, "text/plain"),
        (b"MZ\x90\0\x03\0\0\0" + bytes(80), "text/plain", "a.txt", "application/x-msdownload"),
        (b"a,b\n", "application/vnd.ms-excel", "a.csv", "text/csv"),
        (b"a,b\n", "TEXT/CSV; charset=utf-8", None, "text/csv"),
        ("名,b\n".encode("gbk"), "text/csv", None, "text/csv"),
        (b'{"a": 1}', "application/json", None, "application/json"),
        (b'{"a": 1}', "application/octet-stream", "a.json", "application/json"),
        (b'{"a": 1}', "application/vnd.api+json", None, "application/vnd.api+json"),
        (b"print()", "application/x-made-up", None, "application/x-made-up"),
        (b"words", "application/pdf", "a.pdf", "text/plain"),
        (b"words", "audio/mpeg", None, "text/plain"),
        ("你好".encode(), None, "a.md", "text/markdown"),
        (b"\x1b[31mred\x1b[0m\ttab\r\n", None, None, "text/plain"),
        (b"\0\1\2", "text/plain", "a.txt", OCTETS),
        (b"\0\1\2", "image/png", "a.png", OCTETS),
        (b"\0\1\2", "application/x-made-up", None, "application/x-made-up"),
        (b"\xff\xfe\x00", None, None, OCTETS),
        (b"\0\1\2", "text/html\r\nx: y", None, OCTETS),
        (b"x", "no type", None, "text/plain"),
        (b"", None, None, "text/plain"),
    ],
)
async def test_content_decides_the_type(content: bytes, declared: str | None, name: str | None, stored: str) -> None:
    assert media_type_of(content, whole=True, declared=declared, name=name) == stored


def test_a_character_cut_by_the_block_is_no_error() -> None:
    head = "好".encode() * 3
    assert media_type_of(head[:-1], whole=False) == "text/plain"
    assert media_type_of(head[:-1], whole=True) == OCTETS


async def test_the_first_block_is_gathered_from_small_pieces(store: FileStore) -> None:
    file = await store.put(pieces(*(PNG[n : n + 1] for n in range(len(PNG)))), owner="ada", media_type="text/html")
    assert (file.media_type, file.name) == ("image/png", "file.png")
    text_file = await store.put("好".encode() * 100_000, owner="ada", name="long.txt")
    assert text_file.media_type == "text/plain"
    late = await store.put(b"words " * 20_000 + b"\0", owner="ada", name="long.csv")
    assert late.media_type == "text/csv"


# --- data URLs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", ("image/png", b"\x89PNG\r\n\x1a\n")),
        ("data:image/png;base64,iVBORw0KGgo", ("image/png", b"\x89PNG\r\n\x1a\n")),
        ("data:image/png;base64,iVBORw0KGgo%3D", ("image/png", b"\x89PNG\r\n\x1a\n")),
        ("data:x/y;base64,-_8=", ("x/y", b"\xfb\xff")),
        ("data:x/y;base64,%2b%2F8=", ("x/y", b"\xfb\xff")),
        ("data:x/y;base64,aGVs\r\n bG8=", ("x/y", b"hello")),
        ("DATA:Text/HTML;charset=utf-8;BASE64,aGk=", ("text/html", b"hi")),
        ("data:,a%20b%2Cc,d", ("text/plain", b"a b,c,d")),
        ("data:;base64,", ("text/plain", b"")),
        ("data:text/plain;charset=utf-8,%E4%BD%A0好", ("text/plain", "你好".encode())),
        ("data:text/plain,100%", ("text/plain", b"100%")),
        ("data:text/plain;base64=no,aGk=", ("text/plain", b"aGk=")),
        ("data:nonsense;base64,aGk=", (OCTETS, b"hi")),
    ],
)
def test_parse_data_url(url: str, parsed: tuple[str, bytes]) -> None:
    assert parse_data_url(url) == parsed


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.org/x.png", "must begin with 'data:'"),
        ("", "must begin with 'data:'"),
        ("data:image/png;base64", "without a comma"),
        ("data:x/y;base64,secret!", "unreadable base64"),
        ("data:x/y;base64,secre", "unreadable base64"),
        ("data:x/y;base64,sec=ret0", "unreadable base64"),
        ("data:x/y;base64,\xe9\xe9\xe9\xe9", "unreadable base64"),
        ("data:x/y,secret\ud83d", "surrogate"),
    ],
)
def test_a_bad_data_url_is_refused_without_repeating_it(url: str, says: str) -> None:
    with pytest.raises(FileRefused, match=says) as raised:
        parse_data_url(url)
    assert "sec" not in str(raised.value)


def test_data_urls_have_the_same_limit() -> None:
    for size in (9, 10, 11, 12):
        content = b"\xff" * size
        for url in (
            f"data:x/y;base64,{base64.b64encode(content).decode()}",
            f"data:x/y;base64,{base64.b64encode(content).decode().rstrip('=')}",
            "data:x/y," + "%ff" * size,
        ):
            if size <= 10:
                assert parse_data_url(url, max_bytes=10) == ("x/y", content)
            else:
                with pytest.raises(FileTooLarge, match="data URL is larger than the limit of 10 bytes"):
                    parse_data_url(url, max_bytes=10)


@given(st.binary(max_size=300))
def test_data_urls_round_trip(content: bytes) -> None:
    assert parse_data_url(f"data:a/b;base64,{base64.b64encode(content).decode()}") == ("a/b", content)
    assert parse_data_url("data:a/b," + "".join(f"%{byte:02X}" for byte in content)) == ("a/b", content)
