"""A real HTTP server around an ASGI app, and ways to break what it says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@contextlib.asynccontextmanager
async def served(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """The app's address while the block runs; connections are taken from the beginning."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    config = uvicorn.Config(
        app, loop="none", lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listener.close()


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """A port on which nobody listens, and nobody can while the block runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


class Cutter:
    """Breaks the bodies of event streams; nothing is lost on the server.

    `limits` says after how many events each body breaks, in the order of the responses; None lets one through, and so
    does an empty list. `paths` are the requests so far.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.limits: list[int | None] = []
        self.always: int | None = None
        self.before: Callable[[Scope], Coroutine[Any, Any, None]] | None = None
        self.paths: list[str] = []
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = scope["query_string"].decode()
        self.paths.append(f"{scope['method']} {scope['path']}" + (f"?{query}" if query else ""))
        if self.before is not None:
            await self.before(scope)
        limit = self.limits.pop(0) if self.limits else self.always
        if limit is None:
            await self._app(scope, receive, send)
            return
        left = limit

        async def cut(message: Message) -> None:
            nonlocal left
            if message["type"] != "http.response.body":
                await send(message)
                return
            whole: bytes = message.get("body", b"")
            kept, rest = b"", whole
            while rest and left >= 0:
                event, end, rest = rest.partition(b"\n\n")
                if event.startswith(b":"):
                    kept += event + end
                    continue
                left -= 1
                # Half of the event that is too much comes through.
                kept += event + end if left >= 0 else event[: len(event) // 2]
            await send({"type": "http.response.body", "body": kept, "more_body": True})
            if left < 0:
                raise _Broken

        with contextlib.suppress(_Broken):
            await self._app(scope, receive, cut)


class _Broken(Exception):
    pass


class Wire:
    """A TCP proxy that breaks connections after a number of bytes of what the server says.

    `limits` holds one number for each connection to come, None for one that is left whole; when it is empty, all are.
    """

    def __init__(self, port: int) -> None:
        self.limits: list[int | None] = []
        self.connections = 0
        self._upstream = port
        self._open: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """The proxy's address while the block runs."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer, self.limits.pop(0) if self.limits else None))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        pipes = {
            asyncio.create_task(_pipe(reader, up_writer, None)),
            asyncio.create_task(_pipe(up_reader, writer, limit)),
        }
        try:
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pipe in pipes:
                pipe.cancel()
            for one in (writer, up_writer):
                one.close()
            await asyncio.gather(*pipes, writer.wait_closed(), up_writer.wait_closed(), return_exceptions=True)


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            passed = data if limit is None else data[:limit]
            writer.write(passed)
            await writer.drain()
            if limit is not None:
                limit -= len(passed)
                if not limit:
                    return
