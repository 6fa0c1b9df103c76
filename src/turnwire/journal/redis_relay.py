"""The relay over Redis: one capped stream, the firehose, that every process writes to and reads once.

Guarantee: an idle relay sends at once; a busy one sends together what came while the last entry was under way. Every
entry carries its sender's dense number. Whoever sees a number missing (the sender's outbox was full, the stream was
trimmed, Redis lost something), cannot read an entry, or had to connect again, pokes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import msgspec
import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..clock import Clock, sleep, wait
from .follow import CONVERSATION
from .hub import Hub, Topic
from .relay import RelayError

_log = structlog.get_logger(__name__)

STREAM = "turnwire:firehose:1"
"""The key, with the version of what its entries hold."""
STREAM_ENTRIES = 2000
ENTRY_BYTES = 64 * 1024
"""With `STREAM_ENTRIES` this bounds the stream to about 128 MiB; records larger than this stay in the store only."""
OUTBOX_MESSAGES = 10_000
OUTBOX_BYTES = 16 * 1024 * 1024
MESSAGE_BYTES = 100
"""What a message weighs besides its records."""
READ_ENTRIES = 32
PROCESSES = 1000
"""Senders whose last number is remembered."""

BLOCK_S = 5.0
"""How long Redis may keep a read waiting for news; then it answers that there are none, which shows it is alive."""
ANSWER_S = 5.0
"""How long Redis may take to answer."""
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
CLOSE_S = 2.0
WARN_EVERY_S = 60.0

_START = b"0-0"
_Entry: TypeAlias = Mapping[Any, Any]


class _Records(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """Committed records; `records` is decoded only for a turn that somebody here reads, and None if too large."""

    turn_id: str
    first: int
    count: int
    ended: bool
    records: msgspec.Raw


class _Changed(msgspec.Struct, array_like=True, tag=1, frozen=True):
    conversation_id: str


class _Stop(msgspec.Struct, array_like=True, tag=2, frozen=True):
    name: str
    by: str


_Message: TypeAlias = _Records | _Changed | _Stop

_encode = msgspec.msgpack.Encoder().encode
_decode_messages = msgspec.msgpack.Decoder(list[_Message]).decode
_decode_records = msgspec.msgpack.Decoder(list[bytes] | None).decode


class _Outbox:
    """Messages that wait to be sent, bounded: the oldest go first, and the next entry's number tells of it."""

    def __init__(self) -> None:
        self._messages: deque[tuple[_Message, int]] = deque()
        self._bytes = 0
        self._number = 0
        self._dropped = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: _Message, size: int) -> None:
        self._messages.append((message, size))
        self._bytes += size
        while len(self._messages) > OUTBOX_MESSAGES or self._bytes > OUTBOX_BYTES:
            self._bytes -= self._messages.popleft()[1]
            self._dropped = True

    def take(self) -> tuple[int, list[_Message]]:
        """The number and the messages of the next entry."""
        taken: list[_Message] = []
        room = ENTRY_BYTES
        while self._messages and (not taken or self._messages[0][1] <= room):
            message, size = self._messages.popleft()
            taken.append(message)
            room -= size
            self._bytes -= size
        self._number += 2 if self._dropped else 1
        self._dropped = False
        return self._number, taken


class _Address(NamedTuple):
    """Where Redis is: the options of a connection, and a name for the log that holds no secret."""

    options: dict[str, Any]
    name: str


class _Link:
    """One connection to Redis, made anew by the next use after a failure; each use ends within `limit_s` seconds."""

    def __init__(self, address: _Address, limit_s: float) -> None:
        self.client = Redis.from_pool(ConnectionPool(**address.options))
        self.down = False
        self.pause_s = FIRST_PAUSE_S
        self._limit_s = limit_s

    def limit(self) -> asyncio.Timeout:
        return asyncio.timeout(self._limit_s)

    async def drop(self) -> None:
        # What is being thrown away may fail on its way out.
        with suppress(RedisError, OSError):
            await self.client.connection_pool.disconnect()


class RedisRelay:
    """One process's end of the firehose; see `open_relay` for the arguments.

    Args:
        stream: the key of the stream.

    Raises `RelayError` for an address that cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        process: str,
        hub: Hub,
        clock: Clock,
        stop: Callable[[str, str], None],
        told: Callable[[str], None],
        poke: Callable[[], None],
        stream: str = STREAM,
    ) -> None:
        address = _parse(url)
        self._name = address.name
        self._process = process.encode()
        self._hub = hub
        self._clock = clock
        self._stop = stop
        self._told = told
        self._poke = poke
        self._stream = stream
        # A blocked read holds its connection, so the reader has one of its own.
        self._reading = _Link(address, BLOCK_S + ANSWER_S)
        self._writing = _Link(address, ANSWER_S)
        self._outbox = _Outbox()
        self._filled = asyncio.Event()
        self._place: bytes | None = None
        self._numbers: dict[bytes, int] = {}
        self._warned_at = float("-inf")
        self._closing = False
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts connecting, reading and sending."""
        self._reader = asyncio.create_task(self._read(), name="turnwire-relay-reader")
        self._writer = asyncio.create_task(self._write(), name="turnwire-relay-writer")

    def publish(self, turn_id: str, first: int, records: Sequence[bytes], ended: bool, /) -> None:
        """See `Relay.publish`."""
        fits = sum(map(len, records)) + MESSAGE_BYTES <= ENTRY_BYTES
        body = _encode(list(records) if fits else None)
        self._put(_Records(turn_id, first, len(records), ended, msgspec.Raw(body)), len(body))

    def changed(self, conversation_id: str, /) -> None:
        """See `Relay.changed`."""
        self._put(_Changed(conversation_id))

    def stop(self, name: str, by: str, /) -> None:
        """See `Relay.stop`."""
        self._put(_Stop(name, by))

    async def close(self) -> None:
        """See `Relay.close`."""
        self._closing = True
        self._filled.set()
        if self._writer is not None and not self._writing.down:
            await wait(self._clock, {self._writer}, CLOSE_S)
        tasks = {task for task in (self._reader, self._writer) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for link in (self._reading, self._writing):
            await link.drop()
            await link.client.aclose()

    def _put(self, message: _Message, body_size: int = 0) -> None:
        if not self._closing:
            self._outbox.put(message, body_size + MESSAGE_BYTES)
            self._filled.set()

    async def _write(self) -> None:
        while True:
            while not self._outbox:
                if self._closing:
                    return
                self._filled.clear()
                await self._filled.wait()
            number, messages = self._outbox.take()
            try:
                entry = {"process": self._process, "number": number, "messages": _encode(messages)}
            except UnicodeEncodeError as error:
                # The number is spent, so the others look in the store.
                _log.warning("relay messages could not be sent", error=str(error))
                continue
            if not await self._send(entry):
                return

    async def _send(self, entry: dict[Any, Any]) -> bool:
        """Sends the entry, however long Redis is away; False when the relay closes meanwhile."""
        while True:
            try:
                async with self._writing.limit():
                    await self._writing.client.xadd(self._stream, entry, maxlen=STREAM_ENTRIES, approximate=True)
            except Exception as error:  # noqa: BLE001 - whatever it was, the store has it all and the next try may work
                if not await self._failed(self._writing, error):
                    return False
            else:
                self._works(self._writing)
                return True

    async def _read(self) -> None:
        while True:
            try:
                await self._find_place()
                # Whatever was committed before that place is in the store, so this look misses nothing.
                self._poke()
                await self._read_on(None)
                self._works(self._reading)
                while True:
                    await self._read_on(int(BLOCK_S * 1000))
            except Exception as error:  # noqa: BLE001 - whatever it was, the relay goes on and the follower looks
                if not await self._failed(self._reading, error):
                    return

    async def _find_place(self) -> None:
        """Begins at the end of the stream, or where we were, unless the stream is not the one that we read before."""
        async with self._reading.limit():
            newest: Any = await self._reading.client.xrevrange(self._stream, count=1)
        end: bytes = newest[0][0] if newest else _START
        if self._place is None:
            self._place = end
        elif _order(end) < _order(self._place):
            self._place = _START

    async def _read_on(self, block_ms: int | None) -> None:
        place: Any = self._place
        async with self._reading.limit():
            found: Any = await self._reading.client.xread({self._stream: place}, count=READ_ENTRIES, block=block_ms)
        for _, entries in found or ():
            for self._place, entry in entries:
                self._receive(entry)

    def _receive(self, entry: _Entry) -> None:
        try:
            process = entry[b"process"]
            if process == self._process:
                return
            if self._is_news(process, int(entry[b"number"])):
                for message in _decode_messages(entry[b"messages"]):
                    self._apply(message)
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            self._poke()
            if self._clock.monotonic() - self._warned_at >= WARN_EVERY_S:
                self._warned_at = self._clock.monotonic()
                _log.warning("an entry of the relay's stream was skipped", stream=self._stream, error=repr(error))

    def _is_news(self, process: bytes, number: int) -> bool:
        """False for an entry that was sent twice; pokes when some were missed."""
        last = self._numbers.pop(process, 0)
        self._numbers[process] = max(number, last)
        if len(self._numbers) > PROCESSES:
            del self._numbers[next(iter(self._numbers))]
        if number > last + 1:
            self._poke()
        return number > last

    def _apply(self, message: _Message) -> None:
        match message:
            case _Stop():
                self._stop(message.name, message.by)
            case _Changed():
                topic = self._hub.find(CONVERSATION + message.conversation_id)
                if topic is not None:
                    topic.wake()
                self._told(message.conversation_id)
            case _Records():
                topic = self._hub.find(message.turn_id)
                if topic is not None and not self._hub.writes(message.turn_id):
                    self._show(topic, message)

    def _show(self, topic: Topic, message: _Records) -> None:
        known = message.first + message.count <= topic.head
        if known and (topic.ended or not message.ended):
            return
        records = _decode_records(message.records) if message.first <= topic.head else None
        if records is None:
            self._poke()
        else:
            topic.publish(message.first, records, ended=message.ended)

    def _works(self, link: _Link) -> None:
        link.pause_s = FIRST_PAUSE_S
        if link.down:
            link.down = False
            if not self._any_down():
                _log.info("relay reached again", relay=self._name)

    async def _failed(self, link: _Link, error: Exception) -> bool:
        """Returns after a pause; False when the relay closes and there is no next try."""
        if not self._closing and not self._any_down():
            _log.warning(
                "relay failed, trying again; other processes look in the store meanwhile",
                relay=self._name,
                error=f"{type(error).__name__}: {str(error) or 'no answer in time'}",
            )
        link.down = True
        await link.drop()
        if self._closing:
            return False
        await sleep(self._clock, link.pause_s)
        link.pause_s = min(link.pause_s * 2, LONGEST_PAUSE_S)
        return True

    @property
    def down(self) -> bool:
        """See `Relay.down`."""
        return self._any_down()

    def _any_down(self) -> bool:
        return self._reading.down or self._writing.down


def _order(place: bytes) -> tuple[int, int]:
    milliseconds, _, number = place.partition(b"-")
    return int(milliseconds), int(number)


def client_of(url: str) -> Redis:
    """A client of the same server, for other uses than the relay. Raises `RelayError`."""
    return Redis.from_pool(ConnectionPool(**_parse(url).options))


def _parse(url: str) -> _Address:
    """What stands in the address; no message repeats any of it, for it may be a piece of the password."""
    try:
        parts = urlsplit(url)
        given: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise RelayError(
            "[relay] url: not a Redis address; use redis://HOST:6379/0, rediss://... or unix:///SOCKET, "
            "and write special characters of the password as %XX"
        ) from None
    if parts.scheme == "unix":
        name = f"unix://{given.get('path', '')}"
    else:
        database = parts.path.strip("/")
        if database and not database.isdecimal():
            raise RelayError(
                "[relay] url: what follows the host must be the number of a database, such as /0; "
                "write special characters of the password as %XX"
            )
        name = f"{parts.scheme}://{given.get('host', 'localhost')}:{given.get('port', 6379)}/{given.get('db', 0)}"
    options = given | {
        "decode_responses": False,
        "protocol": 2,
        "socket_connect_timeout": ANSWER_S,
        # redis-py uses it in `wait_for`, which before Python 3.12 can lose a cancellation; see `_Link.limit`.
        "socket_timeout": None,
        "socket_keepalive": True,
        # A failure is for us to see: it means that something may have been missed.
        "retry": Retry(NoBackoff(), 0),
    }
    if parts.scheme == "unix":
        del options["socket_keepalive"]
    _check(options)
    return _Address(options, name)


def _check(options: dict[str, Any]) -> None:
    """Makes a connection, without connecting it, to see whether all of its options exist."""
    try:
        pool = ConnectionPool(**options)
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, RedisError):
        raise RelayError("[relay] url: an option after the question mark is unknown or unusable") from None
