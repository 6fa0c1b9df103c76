"""One response read by a task of its own, so that a bound can pass without cutting a read in two.

Guarantee: what waits for its reader is bounded; time in which the reader, and not the peer, was slow does not count;
closing takes no longer than its bound, whatever the transport below does.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from typing import cast

import httpx2

from ..clock import Clock, Handle, wait

QUEUED_BYTES = 1024 * 1024
QUEUED_CHUNKS = 256
"""Bounds of what waits for its reader; then the peer has to wait."""

_PIECE = 64 * 1024


class Pump:
    """Sends a request through `transport` and reads the response's body.

    Args:
        decode: undo the gzip or deflate encoding of a body with status 200, piece by piece.
        bound: how long closing may take, in seconds.
    """

    def __init__(
        self,
        transport: httpx2.AsyncBaseTransport,
        request: httpx2.Request,
        clock: Clock,
        *,
        decode: bool,
        bound: float,
    ) -> None:
        self.response: httpx2.Response | None = None
        self.clock = clock
        self.bound = bound
        self._decode = decode
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._blocked_at = 0.0
        self._held = 0.0
        self._discards = False
        self._timer: Handle | None = None
        self._timer_due = 0.0
        self.task = asyncio.create_task(self._run(transport, request), name="provider stream")
        self.task.add_done_callback(self._ended)

    def time(self) -> float:
        """Monotonic seconds, without those in which nothing was read because nobody took it."""
        return self.clock.monotonic() - self._held

    def take(self) -> deque[tuple[float, bytes]]:
        """All that has come and was not taken yet, each piece with its time."""
        taken, self._chunks, self._bytes = self._chunks, deque(), 0
        self._go_on()
        return taken

    async def news(self, seconds: float) -> None:
        """Until something has happened, or `seconds` have passed, or for no reason: look again."""
        due = self.clock.monotonic() + seconds
        if self._timer is None or self._timer_due > due:
            self._stop_timer()
            self._timer, self._timer_due = self.clock.call_later(seconds, self._fire), due
        self._news = self._loop.create_future()
        await self._news

    async def close(self, *, drain: float = 0.0) -> None:
        """Ends the exchange. If the body ends by itself within `drain` seconds, the connection can be used again."""
        if drain and not self.task.done():
            self._discards = True
            self.take()
            await wait(self.clock, {self.task}, drain)
        await close_all({self})

    def abandon(self) -> None:
        """Ends the exchange some time; may be called from any thread."""
        if not self.task.done() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.task.cancel)

    async def _run(self, transport: httpx2.AsyncBaseTransport, request: httpx2.Request) -> None:
        response = await transport.handle_async_request(request)
        try:
            self.response = response
            self._wake()
            stream = cast(httpx2.AsyncByteStream, response.stream)
            encoding = response.headers.get("content-encoding", "").strip().lower()
            if encoding in ("", "identity") or not self._decode or response.status_code != 200:
                async for chunk in stream:
                    await self._put(chunk)
                return
            inflater = _Inflater(encoding)
            async for chunk in stream:
                for piece in inflater.feed(chunk):
                    await self._put(piece)
            inflater.finish()
        finally:
            await cast(httpx2.AsyncByteStream, response.stream).aclose()

    async def _put(self, chunk: bytes) -> None:
        if self._discards:
            return
        self._chunks.append((self.time(), chunk))
        self._bytes += len(chunk)
        self._wake()
        if self._bytes >= QUEUED_BYTES or len(self._chunks) >= QUEUED_CHUNKS:
            self._room = self._loop.create_future()
            self._blocked_at = self.clock.monotonic()
            await self._room

    def _go_on(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            self._held += self.clock.monotonic() - self._blocked_at
            room.set_result(None)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _fire(self) -> None:
        self._timer = None
        self._wake()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # whoever reads the stream is told; nobody may be reading
        self._stop_timer()
        self._wake()


async def close_all(pumps: Collection[Pump]) -> None:
    """Ends these exchanges together; what takes longer than its bound is left to itself."""
    running = [pump for pump in pumps if not pump.task.done()]
    for pump in running:
        pump.task.cancel()
    if running:
        ended = asyncio.gather(*(pump.task for pump in running), return_exceptions=True)
        await wait(running[0].clock, {ended}, max(pump.bound for pump in running))


class _Inflater:
    """gzip and deflate, undone in pieces of a bounded size."""

    def __init__(self, encoding: str) -> None:
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise httpx2.DecodingError("the body is encoded in a way that was not asked for")
        # 32 more: the header tells gzip from zlib.
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            try:
                piece = self._inflate.decompress(data, _PIECE)
            except zlib.error:
                raise httpx2.DecodingError("the body's encoding is damaged") from None
            if piece:
                yield piece
            data = self._inflate.unconsumed_tail

    def finish(self) -> None:
        if not self._inflate.eof:
            raise httpx2.RemoteProtocolError("the body ended within its encoding")
