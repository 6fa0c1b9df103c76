"""Event streams: raw ASGI, fed from shared topics.

Guarantee: a reader gets every record from its cursor on, in order, once. A silent stream carries a comment at every
tick of the hub. A stream that must stop before the turn's `finish` breaks the HTTP body; it never ends cleanly. A
reader that takes nothing for `STALL_S` seconds loses its connection and can come again with its cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import structlog
from starlette.types import Receive, Send

from ...clock import Clock
from ...gateway import Gateway
from ...journal import Topic
from ...store import StoreError
from ...store.queries.conversations import visible_message
from ...store.queries.records import Trimmed, read_records
from ...store.queries.rows import TurnRow
from ...store.queries.turns import get_turn
from ...view import STEER
from .dialects import Dialect

_log = structlog.get_logger(__name__)

STALL_S = 30.0
PIECE_BYTES = 64 * 1024
COMMENT = b":\n\n"
DONE = b"data: [DONE]\n\n"
_STEERS = b'{"type":"%b"' % STEER.encode()
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
        turn: TurnRow,
        cursor: int,
        dialect: Dialect,
        headers: Sequence[tuple[bytes, bytes]] = (),
        before: bytes = b"",
    ) -> None:
        """Streams the records of a turn from `cursor` on, after the bytes `before`, to its `finish`."""

        async def feed(stream: Stream) -> None:
            await stream.open(headers)
            for start in range(0, len(before), PIECE_BYTES):
                await stream.write(before[start : start + PIECE_BYTES])
            await self._feed_records(stream, topic, cursor, dialect)

        with self._joined(turn) as topic:
            await self._serve(receive, send, feed)

    async def steered(
        self,
        receive: Receive,
        send: Send,
        *,
        turn: TurnRow,
        message_id: str,
        dialect: Dialect,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Streams the turn that answers a message which came while `turn` ran: `turn` from its first record once its
        agent has taken the message, or else the turn that the message becomes when `turn` has ended.
        """

        async def feed(stream: Stream) -> None:
            await stream.open(headers)
            answering = await self._answering(stream, turn, message_id)
            if answering is not None:
                with self._joined(answering) as topic:
                    await self._feed_records(stream, topic, 0, dialect)

        await self._serve(receive, send, feed)

    async def _answering(self, stream: Stream, turn: TurnRow, message_id: str) -> TurnRow | None:
        """Waits until it is clear which turn answers the message; None if this process cannot tell any more."""
        seen = 0
        with self._joined(turn) as topic:
            while not topic.lost:
                try:
                    seen, answering = await self._taken(topic, turn, seen, message_id)
                except (StoreError, Trimmed) as error:
                    _log.warning("who answers a message cannot be told", turn=turn.id, error=str(error))
                    break
                if answering is not None:
                    return answering
                if topic.ended or seen < topic.head:
                    continue
                ticks = topic.ticks
                await topic.changed()
                if topic.ticks != ticks:
                    await stream.write(COMMENT)
        self._broken("lost")
        return None

    async def _taken(self, topic: Topic, turn: TurnRow, seen: int, message_id: str) -> tuple[int, TurnRow | None]:
        """One look, from record `seen` on: how far it went, and the turn that answers the message, if that is clear."""
        read = self._gateway.db.read
        if seen < topic.head:
            records = await read(read_records, turn.id, seen)
            if not records:
                raise Trimmed(turn.id)
            if any(_takes(record, message_id) for record in records):
                return seen, await read(get_turn, turn.id)
            return seen + len(records), None
        if not topic.ended:
            return seen, None
        stands = await read(visible_message, turn.conversation_id, message_id)
        return seen, await read(get_turn, stands.turn_id if stands is not None else turn.id)

    @contextmanager
    def _joined(self, turn: TurnRow) -> Iterator[Topic]:
        """The topic of a turn for one reader; looked after if its writer is elsewhere, or was here until now."""
        topic = self._gateway.hub.join(turn.id, turn.head)
        topic.advance(turn.head, ended=turn.status == "finished")
        if not topic.ended and not self._gateway.hub.writes(turn.id):
            self._gateway.look()
        try:
            yield topic
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

    async def _feed_records(self, stream: Stream, topic: Topic, cursor: int, dialect: Dialect) -> None:
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


def _takes(record: bytes, message_id: str) -> bool:
    """Whether the record says that the turn's agent took that message."""
    if not record.startswith(_STEERS):
        return False
    said: dict[str, object] = msgspec.json.decode(record)
    return said.get("id") == message_id
