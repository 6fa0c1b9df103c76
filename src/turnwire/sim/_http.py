"""Requests of HTTP/1.1 out of a byte stream, and a protocol that notices at once that the client is gone.

Guarantee: no request takes more memory than its bounds, and what is not HTTP is refused with a reason. The simulators
use no HTTP framework, because they must also be able to answer wrongly.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

MAX_HEAD_BYTES = 64 * 1024
PHRASES = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    413: "Content Too Large", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
    529: "Overloaded",
}  # fmt: skip

Serve = Callable[[asyncio.Event, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class NotHTTP(Exception):
    """What the client sent is no request that this server reads."""


class TooLarge(Exception):
    """The body is larger than the bound; `unread` bytes of it are still to come, None for nobody knows."""

    def __init__(self, unread: int | None) -> None:
        super().__init__("the body is too large")
        self.unread = unread


@dataclass
class Request:
    """The head of a request; names of headers in lower case, the path without its query and decoded."""

    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)
    keep_alive: bool = True


class Protocol(asyncio.StreamReaderProtocol):
    """Streams over one connection. `gone` is set when the client has closed it or it broke."""

    def __init__(self, serve: Serve) -> None:
        self.gone = asyncio.Event()
        reader = asyncio.StreamReader(limit=MAX_HEAD_BYTES)
        super().__init__(reader, functools.partial(serve, self.gone))

    def eof_received(self) -> bool | None:
        """The client will send no more: for an HTTP client that means it has left."""
        self.gone.set()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self.gone.set()
        super().connection_lost(exc)


async def read_head(reader: asyncio.StreamReader) -> Request | None:
    """The next request's head, None when the client closed the connection between requests. Raises `NotHTTP`."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise NotHTTP(f"the head of a request may have {MAX_HEAD_BYTES} bytes") from None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise NotHTTP("the first line must be METHOD TARGET HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise NotHTTP("each header must be a line NAME: VALUE")
        headers[name.lower()] = value.strip()
    path, _, query = words[1].partition("?")
    keep = "close" not in headers.get("connection", "").lower() and words[2] == "HTTP/1.1"
    return Request(words[0], words[1], unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, keep)


async def read_body(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes.

    Raises `TooLarge` before reading more than that, `NotHTTP` for a length that is none, and `IncompleteReadError` when
    the client leaves in the middle.
    """
    chunked = "chunked" in request.headers.get("transfer-encoding", "").lower()
    said = request.headers.get("content-length", "0")
    if not chunked and not (said.isascii() and said.isdigit()):
        raise NotHTTP("content-length must be a number")
    if not chunked and int(said) > limit:
        raise TooLarge(int(said))
    if request.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if not chunked:
        return await reader.readexactly(int(said))
    try:
        return await _chunks(reader, limit)
    except asyncio.LimitOverrunError:
        raise NotHTTP(f"a line between chunks may have {MAX_HEAD_BYTES} bytes") from None


async def discard(reader: asyncio.StreamReader, size: int) -> None:
    """Reads `size` bytes and keeps none, so that a client that is still writing comes to read its answer."""
    while size > 0 and (piece := await reader.read(min(size, MAX_HEAD_BYTES))):
        size -= len(piece)


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with an RST."""
    if writer.is_closing():
        return
    # Lingering belongs to the socket, not to the descriptor, so a copy of the descriptor sets it under any event loop.
    with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as copy:
        copy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _chunks(reader: asyncio.StreamReader, limit: int) -> bytes:
    body = bytearray()
    while True:
        line = (await reader.readuntil(b"\r\n")).partition(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError:
            raise NotHTTP("each chunk must begin with its size") from None
        if size < 0 or len(body) + size > limit:
            raise TooLarge(None)
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return bytes(body)
        body += await reader.readexactly(size)
        await reader.readexactly(2)
