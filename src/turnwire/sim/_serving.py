"""Connections of the simulated platform: HTTP with every way to answer badly.

Guarantee: an answer is written whole, or not at all, or the connection is reset; connections are counted. A request
that has come is dealt with even if its client does not wait for the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from ._http import NotHTTP, Protocol, Request, TooLarge, discard, read_body, read_head, reset

MAX_BODY = 64 * 1024 * 1024


class Hang(Exception):
    """The request is never answered."""


class Reset(Exception):
    """The connection is reset instead of an answer."""


@dataclass
class Answer:
    """An answer of HTTP; `code` is the business code in it."""

    status: int
    body: bytes
    code: int = 0
    media_type: str = "application/json; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Line:
    """One connection."""

    number: int
    gone: asyncio.Event
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Respond = Callable[[Request, bytes, int], Coroutine[Any, Any, Answer]]
Upgrade = Callable[[Request, Line], Awaitable[None]]


class Serving:
    """A server of HTTP/1.1.

    Args:
        host, port: where it listens; port 0 lets the system choose.
        respond: answers a request; it may raise `Hang` and `Reset`.
        upgrade: takes over a connection that asks for a websocket, until it returns.
    """

    def __init__(self, host: str, port: int, respond: Respond, upgrade: Upgrade) -> None:
        self.connections = 0
        self.open_connections = 0
        self.where = (host, port)
        self._respond = respond
        self._upgrade = upgrade
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Accepts connections from when it returns. Raises `OSError` when the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Protocol(self._connection), *self.where)
        self.where = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        """Refuses connections from when it is called, and breaks those that are open."""
        if self._server is None:
            return
        self._server.close()
        # What was accepted just now must have begun, so that it is among the tasks.
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    @property
    def url(self) -> str:
        """`http://HOST:PORT`; known once it was started."""
        host, port = self.where
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _connection(
        self, gone: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        self.open_connections += 1
        line = Line(self.connections, gone, reader, writer)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs is in a task
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(line):
                    continue
        except asyncio.CancelledError:
            # Only `stop` cancels, and this is all of the task; asyncio's streams report a cancelled one as an error.
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.close()

    async def _one(self, line: Line) -> bool:
        """Answers one request; whether the connection can take another."""
        try:
            request = await read_head(line.reader)
            if request is None:
                return False
            if "websocket" in request.headers.get("upgrade", "").lower():
                await self._upgrade(request, line)
                return False
            body = await read_body(request, line.reader, line.writer, MAX_BODY)
        except NotHTTP as error:
            line.writer.write(encode(Answer(400, str(error).encode(), media_type="text/plain"), close=True))
            return False
        except TooLarge as error:
            line.writer.write(encode(Answer(413, b"too large", media_type="text/plain"), close=True))
            await discard(line.reader, min(error.unread or 0, MAX_BODY))
            return False
        try:
            answer = await self._while_there(self._respond(request, body, line.number), line.gone)
        except Hang:
            await line.gone.wait()
            return False
        except Reset:
            reset(line.writer)
            return False
        line.writer.write(encode(answer, close=not request.keep_alive))
        await line.writer.drain()
        return request.keep_alive

    async def _while_there(self, work: Coroutine[Any, Any, Answer], gone: asyncio.Event) -> Answer:
        """The result of `work`; raises `ConnectionResetError` when the client leaves before it is there."""
        working, leaving = asyncio.create_task(work), asyncio.ensure_future(gone.wait())
        self._tasks.add(working)
        working.add_done_callback(self._worked)
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ConnectionResetError("the client has left")
            return working.result()
        finally:
            leaving.cancel()

    def _worked(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Nobody else may be there to hear of it.
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, Hang | Reset):
            task.get_loop().call_exception_handler({"message": "a call failed", "exception": error, "task": task})


def encode(answer: Answer, *, close: bool) -> bytes:
    """The bytes of a whole answer."""
    headers = {"Content-Type": answer.media_type, "Content-Length": str(len(answer.body)), **answer.headers}
    if close:
        headers["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n{lines}\r\n".encode() + answer.body
