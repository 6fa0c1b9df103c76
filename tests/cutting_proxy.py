"""A network between a browser and a server, which a test can break in the ways in which networks break."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator

BLOCK_BYTES = 65536


class _Line:
    """One connection of the browser, the one to the server that belongs to it, and whether bytes pass each way."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.ends = [client]
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        # Whether bytes waited here since the last healing, and whether they wait for ever.
        self.held = False
        self.lost = False

    def reset(self) -> None:
        for end in self.ends:
            if not end.is_closing():
                # Without lingering, closing a socket resets the connection.
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.transport.abort()


class CuttingProxy:
    """Passes bytes on until it is told otherwise; `url` is where the browser finds the server.

    What a silent line was given stands in `swallowed` until the line heals. `struck` is set when `hang_at` struck.
    """

    def __init__(self, port: int) -> None:
        self.url = ""
        self.swallowed = b""
        self.struck = asyncio.Event()
        self._port = port
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._up = self._down = True
        self._mark: re.Pattern[bytes] | None = None

    def cut(self) -> None:
        """Resets every connection, and each new one."""
        self._refuses = True
        for line in self._lines:
            line.reset()

    def hang(self, *, up: bool = True, down: bool = True) -> None:
        """Passes nothing on towards the server (`up`) or the browser (`down`); whatever is or gets open stays so."""
        self._up, self._down = not up, not down
        self._steer()

    def hang_at(self, mark: re.Pattern[bytes]) -> None:
        """Hangs as soon as the server says what matches; what it said before is passed on."""
        self._mark = mark

    def heal(self, *, lost: bool = False) -> None:
        """Passes everything on again; when `lost`, what was held is lost and its connections stay silent for ever."""
        self._refuses, self._up, self._down, self._mark, self.swallowed = False, True, True, None, b""
        for line in self._lines:
            line.lost = line.lost or (lost and line.held)
            line.held = False
        self._steer()

    def _steer(self) -> None:
        for line in self._lines:
            for way, flows in ((line.up, self._up), (line.down, self._down)):
                if flows and not line.lost:
                    way.set()
                else:
                    way.clear()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Takes a connection of the browser."""
        line = _Line(writer)
        if self._refuses:
            line.reset()
            return
        self._lines.add(line)
        self._steer()
        task = asyncio.create_task(self._serve(line, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
            line.ends.append(to_server)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._pass_up(line, reader, to_server))
                ways.create_task(self._pass_down(line, from_server, writer))
        except* ConnectionError:
            # One side is gone, which the other side learns by the reset.
            pass
        finally:
            line.reset()
            self._lines.discard(line)

    async def _pass_up(self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while block := await source.read(BLOCK_BYTES):
            if not line.up.is_set():
                self.swallowed += block
            await self._pass(line, line.up, block, sink)
        sink.close()

    async def _pass_down(self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while block := await source.read(BLOCK_BYTES):
            found = self._mark.search(block) if self._mark else None
            if found:
                await self._pass(line, line.down, block[: found.start()], sink)
                block = block[found.start() :]
                self.hang()
                self.struck.set()
            await self._pass(line, line.down, block, sink)
        await line.down.wait()
        sink.close()

    async def _pass(self, line: _Line, way: asyncio.Event, block: bytes, sink: asyncio.StreamWriter) -> None:
        line.held = line.held or not way.is_set()
        await way.wait()
        if sink.is_closing():
            raise ConnectionResetError
        sink.write(block)
        await sink.drain()

    async def close(self) -> None:
        """Resets everything and waits for the end of it."""
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def cutting_proxy(port: int) -> AsyncIterator[CuttingProxy]:
    """A proxy on this machine before the server at `port`."""
    proxy = CuttingProxy(port)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.close()
