"""Sending stored files over HTTP: what is shown, what is only handed over, and in which pieces."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from turnwire.channels.web.downloads import send_file
from turnwire.files import FileStore, StoredFile
from turnwire.media import OCTETS
from turnwire.store import Database

pytestmark = pytest.mark.anyio

CONTENT = bytes(range(100))


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    bodies: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.bodies)


async def ask(
    file: StoredFile, method: str = "GET", *pairs: tuple[str, str], spec: str = "2.4", **named: str
) -> Answer:
    """What a server that speaks ASGI `spec` gets from `send_file`; `named` are request headers, `_` for `-`."""
    asked = [*pairs, *((name.replace("_", "-"), value) for name, value in named.items())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec},
        "method": method,
        "path": file.url,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in asked],
    }
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    await send_file(file, scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False]
    names = [name for name, _ in start["headers"]]
    assert len(names) == len(set(names))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
    return Answer(start["status"], headers, [message["body"] for message in rest])


def made(
    folder: Path, content: bytes = CONTENT, name: str = "report.pdf", media_type: str = "application/pdf"
) -> StoredFile:
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / sha256
    path.write_bytes(content)
    return StoredFile("file_1", "ada", None, name, media_type, len(content), sha256, 1_700_000_000.5, path)


@pytest.fixture
def file(tmp_path: Path) -> StoredFile:
    return made(tmp_path)


@pytest.mark.parametrize("spec", ["2.0", "2.3", "2.4"])
async def test_a_whole_file(file: StoredFile, spec: str) -> None:
    answer = await ask(file, spec=spec)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert answer.headers == {
        "content-type": "application/pdf",
        "content-disposition": "attachment; filename=\"report.pdf\"; filename*=UTF-8''report.pdf",
        "content-length": "100",
        "accept-ranges": "bytes",
        "etag": f'"{file.sha256}"',
        "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT",
        "cache-control": "private, max-age=31536000, immutable",
        "x-content-type-options": "nosniff",
        "content-security-policy": "sandbox; default-src 'none'",
        "cross-origin-resource-policy": "same-origin",
    }


async def test_a_stored_file_comes_back_as_it_was_put(database: Database, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    file = await FileStore(tmp_path / "files", database).put(content, owner="ada", name="数据.bin")
    answer = await ask(file)
    assert answer.body == content
    assert answer.headers["content-length"] == "1000000"
    assert len(answer.bodies) >= 4
    assert max(map(len, answer.bodies)) <= 256 * 1024
    part = await ask(file, range="bytes=500000-")
    assert part.body == content[500_000:]
    assert max(map(len, part.bodies)) <= 256 * 1024


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=10-19", 10, 19),
        ("bytes=99-99", 99, 99),
        ("bytes=90-", 90, 99),
        ("bytes=0-", 0, 99),
        ("bytes=90-1000", 90, 99),
        (f"bytes=90-{10**30}", 90, 99),
        ("bytes=-1", 99, 99),
        ("bytes=-10", 90, 99),
        ("bytes=-100", 0, 99),
        ("bytes=-1000", 0, 99),
        ("Bytes=1-2", 1, 2),
        ("bytes= 1-2 ", 1, 2),
    ],
)
@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_one_range(file: StoredFile, asked: str, first: int, last: int, spec: str) -> None:
    answer = await ask(file, range=asked, spec=spec)
    assert answer.status == 206
    assert answer.body == CONTENT[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/100"
    assert answer.headers["content-length"] == str(last + 1 - first)
    assert answer.headers["etag"] == f'"{file.sha256}"'
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=100-100", "bytes=1000-2000", f"bytes={10**30}-", "bytes=-0"])
async def test_a_range_outside_of_the_file(file: StoredFile, asked: str) -> None:
    answer = await ask(file, range=asked)
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */100")
    assert CONTENT[:10] not in answer.body
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_no_range_of_an_empty_file(tmp_path: Path) -> None:
    empty = made(tmp_path, b"")
    assert (await ask(empty)).status == 200
    answer = await ask(empty, range="bytes=0-")
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */0")


@pytest.mark.parametrize(
    "asked",
    [
        *("bytes=0-1,5-6", "bytes=0-1, 100-200", "lines=0-1", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2"),
        *(
            "bytes=1_0-",
            "bytes=+1-2",
            "bytes=--1",
            "bytes=0x1-2",
            "bytes 0-1",
            "",
            "bytes=100-99",
            "bytes=" + "1" * 5000,
        ),
        "bytes=\xb2-",
    ],
)
async def test_any_other_range_gets_the_whole_file(file: StoredFile, asked: str) -> None:
    answer = await ask(file, range=asked)
    assert (answer.status, answer.body) == (200, CONTENT)
    assert "content-range" not in answer.headers


async def test_two_range_headers_get_the_whole_file(file: StoredFile) -> None:
    assert (await ask(file, "GET", ("range", "bytes=0-1"), ("range", "bytes=2-3"))).status == 200


@given(st.integers(0, 120), st.integers(0, 120))
def test_ranges_are_slices(tmp_path_factory: pytest.TempPathFactory, first: int, last: int) -> None:
    file = made(tmp_path_factory.getbasetemp())
    answer = asyncio.run(ask(file, range=f"bytes={first}-{last}"))
    if first > last:
        assert (answer.status, answer.body) == (200, CONTENT)
    elif first >= 100:
        assert answer.status == 416
    else:
        assert (answer.status, answer.body) == (206, CONTENT[first : last + 1])


async def test_head_tells_and_sends_nothing(file: StoredFile) -> None:
    whole = await ask(file)
    for answer in (await ask(file, "HEAD"), await ask(file, "HEAD", range="bytes=0-1")):
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers == whole.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(file: StoredFile, method: str) -> None:
    answer = await ask(file, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
    assert CONTENT not in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("tags", ["{etag}", "W/{etag}", '"other", {etag}', 'W/"x",W/{etag} , "y"', "*", " * "])
async def test_what_the_client_has_is_not_sent_again(file: StoredFile, method: str, tags: str) -> None:
    etag = f'"{file.sha256}"'
    answer = await ask(file, method, if_none_match=tags.format(etag=etag), range="bytes=0-1")
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("tags", ['"other"', "", "{sha}", '"{sha}0"', '"*"', '"a", *'])
async def test_what_the_client_has_not_is_sent(file: StoredFile, tags: str) -> None:
    answer = await ask(file, if_none_match=tags.format(sha=file.sha256))
    assert (answer.status, answer.body) == (200, CONTENT)


@pytest.mark.parametrize(
    ("validator", "status"),
    [
        ('"{sha}"', 206),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 206),
        ('W/"{sha}"', 200),
        ('"other"', 200),
        ("Tue, 14 Nov 2023 22:13:21 GMT", 200),
    ],
)
async def test_if_range(file: StoredFile, validator: str, status: int) -> None:
    answer = await ask(file, range="bytes=1-2", if_range=validator.format(sha=file.sha256))
    assert answer.status == status
    assert answer.body == (CONTENT[1:3] if status == 206 else CONTENT)


@pytest.mark.parametrize(
    ("media_type", "disposition", "sent"),
    [
        ("image/png", "inline", None),
        ("image/jpeg", "inline", None),
        ("image/gif", "inline", None),
        ("image/webp", "inline", None),
        ("image/avif", "inline", None),
        ("audio/mpeg", "inline", None),
        ("video/mp4", "inline", None),
        ("text/plain", "inline", "text/plain; charset=utf-8"),
        ("text/html", "attachment", None),
        ("application/xhtml+xml", "attachment", None),
        ("image/svg+xml", "attachment", None),
        ("text/xml", "attachment", None),
        ("application/pdf", "attachment", None),
        ("application/json", "attachment", None),
        ("text/csv", "attachment", None),
        (OCTETS, "attachment", None),
        ("application/x-msdownload", "attachment", None),
        ("text/javascript", "attachment", OCTETS),
        ("application/x-javascript", "attachment", OCTETS),
        ("text/javascript1.5", "attachment", OCTETS),
        ("application/ecmascript", "attachment", OCTETS),
        ("text/css", "attachment", OCTETS),
        ("application/xslt+xml", "attachment", OCTETS),
    ],
)
async def test_only_passive_kinds_are_shown(
    tmp_path: Path, media_type: str, disposition: str, sent: str | None
) -> None:
    answer = await ask(made(tmp_path, b"<script>alert(1)</script>", "x", media_type))
    assert answer.headers["content-disposition"].partition(";")[0] == disposition
    assert answer.headers["content-type"] == (sent or media_type)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"


async def test_hostile_content_under_a_harmless_name_stays_harmless(database: Database, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files", database)
    page = b"<!doctype html><script>alert(1)</script>"
    for name, media_type in (("cat.png", "image/png"), ("page.html", None), ("x.svg", "image/svg+xml"), (None, None)):
        answer = await ask(await store.put(page, owner="mallory", name=name, media_type=media_type))
        inline = answer.headers["content-disposition"].startswith("inline")
        assert not inline or answer.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("季度报告.pdf", "____.pdf"),
        ("a b.pdf", "a b.pdf"),
        ("it's (1).pdf", "it's (1).pdf"),
        ('quo"te\\.pdf', "quo_te_.pdf"),
        ("100%20.pdf", "100_20.pdf"),
        ("line\r\nset-cookie: x=1.pdf", "line__set-cookie: x=1.pdf"),
        ("👩.png", "_.png"),
    ],
)
async def test_the_name_is_given_in_both_forms(tmp_path: Path, name: str, plain: str) -> None:
    disposition = (await ask(made(tmp_path, name=name))).headers["content-disposition"]
    kind, first, second = disposition.split("; filename")
    assert kind == "attachment"
    assert first == f'="{plain}"'
    assert second.startswith("*=UTF-8''")
    assert second.isascii()
    assert unquote(second.removeprefix("*=UTF-8''")) == name
    assert not set(second) & set(" \"'()\r\n;,").difference("'")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"short")])
@pytest.mark.parametrize("asked", [{}, {"range": "bytes=0-1"}])
async def test_lost_content_is_said_and_logged(
    file: StoredFile, damage: Callable[[Path], Any], asked: dict[str, str]
) -> None:
    damage(file.path)
    with structlog.testing.capture_logs() as logs:
        answer = await ask(file, **asked)
    assert answer.status == 404
    assert answer.body == b"The content of this file is no longer here.\n"
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers
    assert [(entry["event"], entry["file"]) for entry in logs] == [("the content of a file is lost", "file_1")]


@pytest.mark.parametrize("asked", [[], [(b"range", b"bytes=1-")]])
async def test_sending_stops_when_send_says_that_the_client_is_gone(tmp_path: Path, asked: list[Any]) -> None:
    file = made(tmp_path, bytes(4 * 2**20))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 3:
            raise OSError("the client is gone")

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "headers": asked}
    await send_file(file, scope, receive, send)
    assert len(sent) == 3


@pytest.mark.parametrize("raises", [False, True])
async def test_sending_stops_when_the_client_disconnects(tmp_path: Path, raises: bool) -> None:
    """A server before ASGI 2.4: `send` blocks on a full connection, `receive` tells of the end."""
    file = made(tmp_path, bytes(4 * 2**20))
    sent: list[Message] = []
    full = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 3:
            full.set()
            if raises:
                raise OSError("the client is gone")
            await asyncio.Event().wait()

    async def receive() -> Message:
        await full.wait()
        return {"type": "http.disconnect"}

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}, "method": "GET", "headers": []}
    await send_file(file, scope, receive, send)
    assert len(sent) == 3


async def test_a_disk_that_fails_breaks_the_body(tmp_path: Path) -> None:
    """A body that cannot be finished must not look finished."""
    file = made(tmp_path, bytes(4 * 2**20))
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 1:
            file.path.unlink()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}, "method": "GET", "headers": []}
    with pytest.raises(OSError, match="No such file"):
        await send_file(file, scope, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]
