"""The load generator: it runs in the bench's own process, apart from the server's.

Guarantee: counts deltas and events as they arrive, without parsing; what it costs never enters a server's numbers.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import cast
from urllib.parse import quote

import msgspec

from .agents import MARK, Ask
from .server import Process

WAVE = 50
"""Connections that are opened together."""
OPEN_S = 60.0
BODY_END = re.compile(rb"\r\n0\r\n\r\n")
_MARK = MARK.encode()
_TURN = re.compile(rb"x-workflow-run-id: (\S+)", re.IGNORECASE)
_buffer = bytearray(1 << 18)
_view = memoryview(_buffer)


def post(chat: str, ask: Ask) -> bytes:
    """The request that asks in a conversation; its answer is the turn's stream."""
    message = {"id": f"m-{chat}", "role": "user", "parts": [{"type": "text", "text": ask.text}]}
    body = msgspec.json.encode({"id": chat, "messages": [message]})
    head = "POST /api/chat?ui=7 HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def get(path: str, ask: Ask | None = None) -> bytes:
    """A GET request; `ask` goes into the query for the bare server."""
    if ask is not None:
        path += f"{'&' if '?' in path else '?'}ask={quote(ask.text)}"
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


class Reader(asyncio.BufferedProtocol):
    """One connection that sends a request and counts what comes.

    Attributes:
        turn: the turn's id, as the answer's headers tell.
        deltas, events: marks and JSON objects seen. They differ when deltas were merged, and around a turn's ends.
        asked_at, first_at: when the request went out and the first delta came, in seconds of the loop's clock.
    """

    def __init__(self, request: bytes) -> None:
        self.turn = ""
        self.deltas = 0
        self.events = 0
        self.asked_at = 0.0
        self.first_at = 0.0
        self.lost = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.asked_at = time.monotonic()
        self._transport.write(self._request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _view

    def buffer_updated(self, nbytes: int) -> None:
        if not self.opened.done():
            self._open(bytes(_view[:nbytes]))
        deltas = _buffer.count(_MARK, 0, nbytes)
        if deltas and not self.deltas:
            self.first_at = time.monotonic()
        self.deltas += deltas
        self.events += _buffer.count(b"{", 0, nbytes)

    def _open(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        if not self._head.startswith(b"HTTP/1.1 200"):
            self.opened.set_exception(RuntimeError(f"refused: {self._head[:300]!r}"))
            return
        named = _TURN.search(self._head)
        self.turn = named[1].decode() if named else ""
        self.opened.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.opened.done():
            self.opened.set_exception(RuntimeError(f"the connection broke: {exc}"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def open_readers(server: Process, requests: Sequence[bytes], *, over_s: float = 0.0) -> list[Reader]:
    """Opens one reader per request, in waves, spread over `over_s` seconds; returns when all have their headers."""
    loop = asyncio.get_running_loop()
    readers: list[Reader] = []
    wave = min(WAVE, max(len(requests) // 20, 1)) if over_s else WAVE
    begun = loop.time()
    async with asyncio.timeout(OPEN_S + over_s):
        for start in range(0, len(requests), wave):
            await asyncio.sleep(max(begun + over_s * start / len(requests) - loop.time(), 0.0))
            made = [
                loop.create_connection(partial(Reader, request), *server.address)
                for request in requests[start : start + wave]
            ]
            fresh = [protocol for _, protocol in await asyncio.gather(*made)]
            if not over_s:
                await asyncio.gather(*(reader.opened for reader in fresh))
            readers += fresh
        await asyncio.gather(*(reader.opened for reader in readers))
    return readers


async def all_speak(readers: Sequence[Reader]) -> None:
    """Returns when every reader has had a delta."""
    async with asyncio.timeout(OPEN_S):
        while not all(reader.deltas for reader in readers):
            await asyncio.sleep(0.05)


class Window(msgspec.Struct, frozen=True):
    """What a server used, and what readers got, over `wall_s` seconds."""

    wall_s: float
    cpu_s: float
    loop_s: float
    system_s: float
    deltas: int
    events: int

    @property
    def cores(self) -> float:
        return self.cpu_s / self.wall_s


async def watch(server: Process, seconds: float, readers: Sequence[Reader] = ()) -> Window:
    """Lets `seconds` pass and says what happened in them."""

    def look() -> tuple[float, float, float, float, int, int]:
        deltas = sum(reader.deltas for reader in readers)
        events = sum(reader.events for reader in readers)
        return time.monotonic(), server.cpu_s(), server.loop_s(), server.system_s(), deltas, events

    before = look()
    await asyncio.sleep(seconds)
    after = look()
    assert not any(reader.lost for reader in readers), "the server cut a reader"
    wall, cpu, loop, system, deltas, events = (late - early for early, late in zip(before, after, strict=True))
    return Window(wall, cpu, loop, system, int(deltas), int(events))


class Client:
    """One kept connection that asks and waits, for measuring how long an answer takes."""

    def __init__(self, server: Process) -> None:
        self._socket = socket.create_connection(server.address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.marked_ns = 0

    def ask(self, request: bytes, until: re.Pattern[bytes] = BODY_END) -> bytes:
        """Sends a request; returns what came, up to the body's end or to where `until` matches.

        `marked_ns` is then what the monotonic clock showed when the first delta had come.
        """
        self.marked_ns = 0
        self._socket.sendall(request)
        answer = bytearray()
        while True:
            block = self._socket.recv(1 << 18)
            if not block:
                raise RuntimeError(f"the connection broke after {bytes(answer[-200:])!r}")
            if not self.marked_ns and _MARK in block:
                self.marked_ns = time.monotonic_ns()
            answer += block
            if until.search(answer):
                return bytes(answer)

    def close(self) -> None:
        self._socket.close()
