"""A fake OpenAI-compatible chat server on raw asyncio streams: one scenario per way in which such servers misbehave.

Each scenario is a function that drives one connection after its request was read. Pauses are taken on the clock of the
test. `Fake.idle` says that the server has written all it will write until time passes or the client goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from turnwire.clock import Clock, SystemClock, sleep

PIECES = ["Hello, ", "wörld ", "你好🌍", " done."]
TEXT = "".join(PIECES)
USAGE = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}


def delta(content: str | None = None, **more: Any) -> dict[str, Any]:
    said = {} if content is None else {"content": content}
    return {"model": "fake-1", "choices": [{"index": 0, "delta": {**said, **more}, "finish_reason": None}]}


def finish(reason: str = "stop") -> dict[str, Any]:
    return {"model": "fake-1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}


def usage() -> dict[str, Any]:
    return {"model": "fake-1", "choices": [], "usage": USAGE}


def sse(value: Any, newline: str = "\n", prefix: str = "data: ") -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{prefix}{text}{newline}{newline}".encode()


def whole_answer(newline: str = "\n", prefix: str = "data: ") -> bytes:
    """A faultless body."""
    values = [delta("", role="assistant"), *map(delta, PIECES), finish(), usage(), "[DONE]"]
    return b"".join(sse(value, newline, prefix) for value in values)


class Peer:
    """One connection of the fake server, after its request was read."""

    def __init__(self, fake: Fake, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.fake = fake
        self.clock = fake.clock
        self._reader = reader
        self._writer = writer
        self._chunked = True

    async def head(
        self, kind: str = "text/event-stream", *, status: str = "200 OK", framed: bool = True, more: str = ""
    ) -> None:
        self._chunked = framed
        framing = "transfer-encoding: chunked" if framed else "connection: close"
        await self.raw(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{framing}\r\n{more}\r\n".encode())

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.fake.sent += len(data)

    async def send(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    async def say(self, *values: Any) -> None:
        for value in values:
            await self.send(sse(value))

    async def end(self) -> None:
        """The proper end of the body."""
        if self._chunked:
            await self.raw(b"0\r\n\r\n")

    async def hang(self) -> None:
        """Keeps the connection open until the client closes it."""
        self.fake.idle.set()
        await self._reader.read()

    async def pause(self, seconds: float) -> None:
        self.fake.idle.set()
        await sleep(self.clock, seconds)

    def reset(self) -> None:
        """Ends the connection with an RST."""
        raw = socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno()))
        with raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Scenario = Callable[[Peer], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


class Fake:
    """The running server: where it is, what was asked, and what became of its connections."""

    def __init__(self, scenario: Scenario, clock: Clock) -> None:
        self.scenario = scenario
        self.clock = clock
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.sent = 0
        self.open = 0
        self.idle = asyncio.Event()
        self.gate = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self.open -= 1
            self.idle.set()
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")[1:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(json.loads(body))
        self.headers.append(headers)
        peer = Peer(self, reader, writer)
        await self.scenario(peer)
        return not writer.is_closing() and peer._chunked and self.scenario is ok

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def fake_provider(scenario: str | Scenario, clock: Clock | None = None) -> AsyncIterator[Fake]:
    """A server that treats every request by `scenario`."""
    act = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
    fake = Fake(act, clock or SystemClock())
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield fake
    finally:
        server.close()
        await fake.close()
        await server.wait_closed()


def scenario(act: Scenario) -> Scenario:
    SCENARIOS[act.__name__] = act
    return act


def body_scenario(name: str, *parts: bytes, kind: str = "text/event-stream") -> None:
    """A scenario that sends these bytes, each in a chunk of its own, and ends properly."""

    async def act(peer: Peer) -> None:
        await peer.head(kind)
        for part in parts:
            await peer.send(part)
        await peer.end()

    SCENARIOS[name] = act


@scenario
async def ok(peer: Peer) -> None:
    await peer.head()
    await peer.send(whole_answer())
    await peer.end()


@scenario
async def o_no_done(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES), finish())
    await peer.hang()


@scenario
async def o_open_after_done(peer: Peer) -> None:
    await peer.head()
    await peer.send(whole_answer())
    await peer.hang()


@scenario
async def o_usage_late(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES), finish())
    await peer.pause(0.15)
    await peer.say(usage(), "[DONE]")
    await peer.end()


@scenario
async def o_usage_late_hang(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES), finish())
    await peer.pause(0.15)
    await peer.say(usage())
    await peer.hang()


@scenario
async def o_usage_very_late(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES), finish())
    await peer.pause(3)
    await peer.say(usage(), "[DONE]")
    await peer.end()


@scenario
async def clean_eof_mid(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]))
    await peer.end()


@scenario
async def raw_eof_mid(peer: Peer) -> None:
    await peer.head(framed=False)
    await peer.say(*map(delta, PIECES[:2]))


@scenario
async def fin_mid(peer: Peer) -> None:
    await peer.head(more="connection: close\r\n")
    await peer.say(*map(delta, PIECES[:2]))


@scenario
async def rst_mid(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]))
    await peer.pause(0.05)
    peer.reset()


@scenario
async def rst_after_finish(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES), finish())
    await peer.pause(0.05)
    peer.reset()


@scenario
async def error_mid_open(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]), PROVIDER_ERROR)
    await peer.hang()


@scenario
async def stall_after_2(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]))
    await peer.hang()


@scenario
async def comments_forever(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]))
    while True:
        await peer.send(b": keep-alive\n\n")
        await peer.pause(5)


@scenario
async def pings_forever(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]))
    while True:
        await peer.send(b"event: ping\ndata: {}\n\n")
        await peer.pause(5)


@scenario
async def slow_thinking(peer: Peer) -> None:
    await peer.head()
    for _ in range(20):
        await peer.send(b": thinking\n\n")
        await peer.pause(10)
    await peer.send(whole_answer())
    await peer.end()


@scenario
async def no_headers(peer: Peer) -> None:
    await peer.hang()


@scenario
async def gzip(peer: Peer) -> None:
    packer = zlib.compressobj(wbits=31)
    await peer.head(more="content-encoding: gzip\r\n")
    body = whole_answer()
    cut = body.index("wörld".encode()) - 40
    await peer.send(packer.compress(body[:cut]) + packer.flush(zlib.Z_SYNC_FLUSH))
    peer.fake.idle.set()
    await peer.fake.gate.wait()
    await peer.send(packer.compress(body[cut:]) + packer.flush())
    await peer.end()


@scenario
async def too_big_event(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES[:2]))
    await peer.send(b"data: ")
    while True:
        await peer.send(b"x" * 65536)


@scenario
async def flood(peer: Peer) -> None:
    await peer.head()
    while True:
        await peer.say(delta("x" * 50_000))


@scenario
async def flood_after_finish(peer: Peer) -> None:
    await peer.head()
    await peer.say(*map(delta, PIECES), finish())
    while True:
        await peer.say(delta("!"))
        await asyncio.sleep(0)


async def refuse(peer: Peer, status: str, kind: str, body: bytes) -> None:
    await peer.head(kind, status=status)
    await peer.send(body)
    await peer.end()


PROVIDER_ERROR = {"error": {"message": "overloaded\n  key sk-proj-abcdefghij123456 " + "x" * 400, "code": 529}}
_CRLF = whole_answer("\r\n")
_ONCE = whole_answer()
_THREE_MB = "x" * 3_000_000

body_scenario("eof_after_finish", *map(sse, [*map(delta, PIECES), finish()]))
body_scenario("done_without_finish", *map(sse, [*map(delta, PIECES), "[DONE]"]))
body_scenario("done_only", sse("[DONE]"))
body_scenario("empty_body")
body_scenario("error_mid", *map(sse, [*map(delta, PIECES[:2]), PROVIDER_ERROR]))
body_scenario("error_event", sse(delta(PIECES[0])), b'event: error\ndata: {"message": "overloaded"}\n\n')
body_scenario("json_200", b'{"error": {"message": "no such model"}}', kind="application/json; charset=utf-8")
body_scenario("html_200", b"<html><body>Please log in</body></html>", kind="text/html")
body_scenario("comments", b": x\n\n" + b"".join(b": x\n" + event + b"\n\n" for event in _ONCE.split(b"\n\n")[:-1]))
body_scenario("crlf", _CRLF)
body_scenario("cr", whole_answer("\r"))
body_scenario("mixed", *map(sse, [*map(delta, PIECES), finish()], ["\r", "\n", "\r\n", "\r", "\n"]))
body_scenario("crlf_split", *(part for line in _CRLF.split(b"\r\n")[:-1] for part in (line + b"\r", b"\n")))
body_scenario("bytewise", *(bytes([byte]) for byte in _ONCE))
body_scenario("bom", b"\xef\xbb\xbf" + _ONCE)
body_scenario("nospace", whole_answer(prefix="data:"))
body_scenario("multi_data", _ONCE.replace(b'data: {"model": "fake-1", ', b'data: {"model": "fake-1",\ndata: '))
body_scenario("last_no_blank", _ONCE[:-1])
body_scenario("u2028", *map(sse, [delta("a\u2028b\u2029c\u0085d"), finish(), "[DONE]"]))
body_scenario("bad_json", sse(delta(PIECES[0])), sse('{"oops'))
body_scenario("big_event", *map(sse, [delta(_THREE_MB), finish(), "[DONE]"]))
body_scenario("garbage_after_done", _ONCE + sse(delta("garbage")) + b"data: xx\n\n")
body_scenario(
    "double_finish", *map(sse, [*map(delta, PIECES[:3]), finish(), delta(PIECES[3]), finish(), usage(), "[DONE]"])
)
body_scenario(
    "reasoning_content",
    *map(
        sse,
        [
            delta(reasoning_content="Let me "),
            delta(reasoning_content="think."),
            *map(delta, PIECES),
            finish(),
            "[DONE]",
        ],
    ),
)
body_scenario(
    "reasoning",
    *map(sse, [delta(reasoning="Let me "), delta(reasoning="think."), *map(delta, PIECES), finish(), "[DONE]"]),
)
