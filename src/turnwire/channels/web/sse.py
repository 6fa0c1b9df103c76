"""Event streams: raw ASGI, fed from shared topics.

Guarantee: a reader gets every record from its cursor on, in order, once. A silent stream carries a comment at every
tick of the hub. A stream that must stop before the turn's `finish` breaks the HTTP body; it never ends cleanly. A
reader that takes nothing for `STALL_S` seconds loses its connection and can come again with its cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from starlette.types import Receive, Send

from ...clock import Clock
from ...gateway import Gateway
from ...journal import Topic
from ...store import StoreError
from ...store.queries.records import Trimmed, read_records
from .dialects import Dialect

_log = structlog.get_logger(__name__)

STALL_S = 30.0
PIECE_BYTES = 64 * 1024
COMMENT = b":\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-vercel-ai-ui-message-stream", b"v1"),
]


async def head_only(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """What HEAD answers for a stream: its headers, and an end."""
    await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Stream:
    """One response that stays open, and the one task that writes it."""

    __slots__ = ("_clock", "_receive", "_send", "_task", "gone", "sending_since")

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        self._receive = receive
        self._send = send
        self._clock = clock
        self._task: asyncio.Task[object] | None = None
        self.gone = False
        self.sending_since = 0.0

    async def open(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Sends the headers and one comment, so that proxies and clients know that the stream lives."""
        await self._send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
        await self.write(COMMENT)

    async def write(self, data: bytes) -> None:
        """Sends bytes; waits while the client does not take them."""
        self.sending_since = self._clock.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self.sending_since = 0.0

    async def close(self, data: bytes = b"") -> None:
        """Ends the body cleanly."""
        self.sending_since = self._clock.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def run(self, feed: Callable[[], Awaitable[None]]) -> None:
        """Runs `feed` until it ends or the client goes away."""
        self._task = asyncio.current_task()
        watcher = asyncio.ensure_future(self._watch())
        try:
            await feed()
        except asyncio.CancelledError:
            if not self.gone:
                raise
            if self._task is not None and self._task.uncancel() > 0:
                raise
        except OSError:
            self.gone = True
        finally:
            watcher.cancel()

    def cut(self) -> None:
        """Gives the client up."""
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.cut()


class Streams:
    """The open streams of one process."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._open: set[Stream] = set()

    def sweep(self) -> None:
        """Cuts the streams whose clients take nothing."""
        now = self._gateway.clock.monotonic()
        for stream in list(self._open):
            if stream.sending_since and now - stream.sending_since > STALL_S:
                self._gateway.metrics.cut_readers.labels("slow").inc()
                stream.cut()

    def __len__(self) -> int:
        return len(self._open)

    async def turn(
        self,
        receive: Receive,
        send: Send,
        *,
        turn_id: str,
        head: int,
        ended: bool,
        cursor: int,
        dialect: Dialect,
        headers: Sequence[tuple[bytes, bytes]] = (),
        before: bytes = b"",
    ) -> None:
        """Streams the records of a turn from `cursor` on, after the bytes `before`, to its `finish`.

        `head` and `ended` are what the store says of the turn.
        """
        topic = self._gateway.hub.join(turn_id, head)
        topic.advance(head, ended=ended)
        if not topic.ended and not self._gateway.hub.writes(turn_id):
            # Its writer is elsewhere, or was here when the turn was looked up and has ended it since.
            self._gateway.look()
        try:
            await self._serve(
                receive, send, lambda stream: self._feed_turn(stream, topic, cursor, dialect, headers, before)
            )
        finally:
            self._gateway.hub.leave(topic)

    async def states(
        self, receive: Receive, send: Send, *, key: str, state: Callable[[], Awaitable[tuple[int, bytes]]]
    ) -> None:
        """Streams the newest state whenever the topic `key` changes; states in between are skipped.

        `state` returns its version and its wire bytes.
        """
        topic = self._gateway.hub.join(key)
        try:
            await self._serve(receive, send, lambda stream: self._feed_states(stream, topic, state))
        finally:
            self._gateway.hub.leave(topic)

    async def _serve(self, receive: Receive, send: Send, feed: Callable[[Stream], Awaitable[None]]) -> None:
        stream = Stream(receive, send, self._gateway.clock)
        self._open.add(stream)
        self._gateway.metrics.readers.set(len(self._open))
        try:
            await stream.run(lambda: feed(stream))
        finally:
            self._open.discard(stream)
            self._gateway.metrics.readers.set(len(self._open))

    async def _feed_turn(
        self,
        stream: Stream,
        topic: Topic,
        cursor: int,
        dialect: Dialect,
        headers: Sequence[tuple[bytes, bytes]],
        before: bytes,
    ) -> None:
        await stream.open(headers)
        for start in range(0, len(before), PIECE_BYTES):
            await stream.write(before[start : start + PIECE_BYTES])
        while True:
            data, broken, cursor = await self._next(topic, cursor, dialect)
            if broken:
                if data:
                    await stream.write(data)
                self._broken("reset")
                return
            if topic.ended and cursor >= topic.head:
                await stream.close(data + DONE)
                return
            if data:
                await stream.write(data)
                continue
            if topic.lost:
                self._broken("lost")
                return
            ticks = topic.ticks
            await topic.changed()
            if topic.ticks != ticks and cursor >= topic.head and not topic.lost:
                await stream.write(COMMENT)

    async def _next(self, topic: Topic, cursor: int, dialect: Dialect) -> tuple[bytes, bool, int]:
        """What follows `cursor`, from the shared tail or, for who fell behind, from the store."""
        if cursor >= topic.head:
            return b"", False, cursor
        if topic.holds(cursor):
            data, broken = topic.frames(cursor, dialect.frames)
            return data, broken, topic.head
        try:
            records = await self._gateway.db.read(read_records, topic.key, cursor)
        except (StoreError, Trimmed) as error:
            _log.warning("a reader could not catch up", turn=topic.key, cursor=cursor, error=str(error))
            return b"", True, cursor
        if not records:
            return b"", True, cursor
        data, broken = dialect.frames(cursor, records)
        return data, broken, cursor + len(records)

    async def _feed_states(
        self, stream: Stream, topic: Topic, state: Callable[[], Awaitable[tuple[int, bytes]]]
    ) -> None:
        await stream.open(())
        shown, seen = -1, -1
        while not topic.lost:
            if topic.changes != seen:
                seen = topic.changes
                try:
                    version, data = await state()
                except StoreError as error:
                    _log.warning("a session stream could not be told", topic=topic.key, error=str(error))
                    self._broken("lost")
                    return
                if version > shown:
                    shown = version
                    await stream.write(data)
                continue
            ticks = topic.ticks
            await topic.changed()
            if topic.ticks != ticks:
                await stream.write(COMMENT)

    def _broken(self, why: str) -> None:
        self._gateway.metrics.cut_readers.labels(why).inc()
