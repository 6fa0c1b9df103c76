"""The load generator: it runs in the bench's own process, apart from the server's.

Guarantee: counts deltas and events as they arrive, without parsing; what it costs never enters a server's numbers.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Sequence
from urllib.parse import quote

import httptools
import msgspec

from .agents import MARK, Ask
from .server import Process

WAVE = 50
"""Connections that are opened together."""
LOOK_S = 0.002
LIMIT_S = 60.0
_MARK = MARK.encode()
_TURN = re.compile(rb"x-workflow-run-id: (\S+)", re.IGNORECASE)
_buffer = bytearray(1 << 18)


def post(chat: str, ask: Ask) -> bytes:
    """The request that asks in a conversation, as the AI SDK sends it; its answer is the turn's stream."""
    message = {"id": f"m-{chat}", "role": "user", "parts": [{"type": "text", "text": ask.text}]}
    body = msgspec.json.encode({"id": chat, "trigger": "submit-message", "messages": [message]})
    head = "POST /api/chat?ui=7 HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def get(path: str, ask: Ask | None = None) -> bytes:
    """A GET request; `ask` goes into the query for the bare server."""
    if ask is not None:
        path += f"{'&' if '?' in path else '?'}ask={quote(ask.text)}"
    return f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode()


class Reader:
    """One connection that sends a request and counts what comes.

    Attributes:
        turn: the turn's id, as the answer's headers tell; `opened` says that they came.
        deltas, events: marks and JSON objects seen. They differ when deltas were merged, and around a turn's ends.
        asked_at, first_at: when the request went out and the first delta came, in seconds of the monotonic clock.
        lost: the server closed the connection.
    """

    __slots__ = ("_head", "asked_at", "deltas", "events", "first_at", "lost", "opened", "socket", "turn")

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.turn = ""
        self.deltas = 0
        self.events = 0
        self.first_at = 0.0
        self.lost = False
        self.opened = False
        self._head = b""
        self.socket = socket.create_connection(address)
        self.asked_at = time.monotonic()
        self.socket.sendall(request)
        self.socket.setblocking(False)

    def read(self, now: float) -> None:
        """Takes what has come."""
        count = self.socket.recv_into(_buffer)
        self.lost = not count
        if not self.opened and not self.lost:
            self._open(bytes(_buffer[:count]))
        deltas = _buffer.count(_MARK, 0, count)
        if deltas and not self.deltas:
            self.first_at = now
        self.deltas += deltas
        self.events += _buffer.count(b"{", 0, count)

    def _open(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" not in self._head:
            return
        if not self._head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server refused: {self._head[:400]!r}")
        named = _TURN.search(self._head)
        self.turn = named[1].decode() if named else ""
        self.opened = True


class Crowd:
    """The readers of one server, read in turns by this process.

    It looks every `LOOK_S` seconds and never sleeps on its sockets, so that a send of the server wakes nobody: between
    virtual processors of one machine that costs the sender more than the send, and readers elsewhere do not cause it.
    """

    def __init__(self, server: Process) -> None:
        self._server = server
        self._epoll = select.epoll()
        self._readers: dict[int, Reader] = {}

    def open(self, requests: Sequence[bytes], *, over_s: float = 0.0) -> list[Reader]:
        """Opens one reader per request and waits for their headers.

        They are spread evenly over `over_s` seconds, or opened in waves, each once the one before it has its headers.
        """
        readers: list[Reader] = []
        begun = time.monotonic()
        for number, request in enumerate(requests):
            if over_s:
                self.run(begun + over_s * number / len(requests) - time.monotonic())
            elif number % WAVE == 0:
                self.until(lambda: all(reader.opened for reader in readers[-WAVE:]))
            readers.append(self._add(request))
        self.until(lambda: all(reader.opened for reader in readers))
        return readers

    def close(self, readers: Sequence[Reader]) -> None:
        """Hangs up."""
        for reader in readers:
            if self._readers.pop(reader.socket.fileno(), None):
                reader.socket.close()

    def run(self, seconds: float) -> None:
        """Reads for so long."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_S))
            self._look()

    def until(self, condition: Callable[[], bool]) -> None:
        """Reads until the condition holds; raises `TimeoutError` if it does not within `LIMIT_S` seconds."""
        ends = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > ends:
                raise TimeoutError("the server did not answer in time")
            self.run(LOOK_S)

    def watch(self, seconds: float) -> Window:
        """Reads for so long and says what the server used and the readers got."""
        return self.measure(lambda: self.run(seconds))

    def measure(self, work: Callable[[], object]) -> Window:
        """Does the work and says what the server used and the readers got meanwhile; nobody may hang up."""
        before = self._stand()
        work()
        after = self._stand()
        wall, cpu, loop, system, deltas, events = (late - early for early, late in zip(before, after, strict=True))
        return Window(wall, cpu, loop, system, int(deltas), int(events))

    def _add(self, request: bytes) -> Reader:
        reader = Reader(self._server.address, request)
        self._readers[reader.socket.fileno()] = reader
        self._epoll.register(reader.socket, select.EPOLLIN)
        return reader

    def _look(self) -> None:
        found = self._epoll.poll(0, max(len(self._readers), 1))
        now = time.monotonic()
        for number, _ in found:
            reader = self._readers[number]
            reader.read(now)
            if reader.lost:
                self.close([reader])

    def _stand(self) -> tuple[float, float, float, float, int, int]:
        server, readers = self._server, self._readers.values()
        deltas = sum(reader.deltas for reader in readers)
        events = sum(reader.events for reader in readers)
        return time.monotonic(), server.cpu_s(), server.loop_s(), server.system_s(), deltas, events


class Window(msgspec.Struct, frozen=True):
    """What a server used, and what its readers got, in `wall_s` seconds."""

    wall_s: float
    cpu_s: float
    loop_s: float
    system_s: float
    deltas: int
    events: int

    @property
    def cores(self) -> float:
        return self.cpu_s / self.wall_s


class Client:
    """One kept connection that asks and waits, for measuring how long an answer takes.

    Attributes:
        marked_ns: what the monotonic clock showed when the last answer's first delta had come.
    """

    def __init__(self, server: Process) -> None:
        self._socket = socket.create_connection(server.address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(LIMIT_S)
        self.marked_ns = 0

    def ask(self, request: bytes, until: re.Pattern[bytes] | None = None) -> bytes:
        """Sends a request; returns its answer's body, whole or up to where `until` matches."""
        self.marked_ns = 0
        self._socket.sendall(request)
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete and not (until and until.search(answer.body)):
            block = self._socket.recv(1 << 18)
            if not block:
                raise RuntimeError(f"the connection broke after {bytes(answer.body[-200:])!r}")
            if not self.marked_ns and _MARK in block:
                self.marked_ns = time.monotonic_ns()
            parser.feed_data(block)
        if parser.get_status_code() != 200:
            raise RuntimeError(f"the server refused: {bytes(answer.body[:400])!r}")
        return bytes(answer.body)

    def close(self) -> None:
        self._socket.close()


class _Answer:
    """What the HTTP parser finds."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.complete = False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True
