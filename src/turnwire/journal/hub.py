"""In-process fan-out of committed records to readers.

Guarantee: a topic shows each record of its turn once, in order, and only after its commit. A topic keeps a bounded
tail; a reader that fell behind it reads the store instead. What many readers need is encoded once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

TAIL_RECORDS = 512
TAIL_BYTES = 128 * 1024
MEMO_CURSORS = 16

Frames = Callable[[int, Sequence[bytes]], tuple[bytes, bool]]
"""A dialect's encoder: the wire bytes of records `first`, `first + 1`, ..., and whether the body breaks after them."""


class Topic:
    """The committed tail of one turn, and who waits for more of it.

    `head` is the number of records known to be committed. `ended` says that the last one is the turn's `finish`.
    """

    __slots__ = (
        "_bytes",
        "_first",
        "_memo",
        "_records",
        "_waiters",
        "changes",
        "ended",
        "head",
        "key",
        "lost",
        "readers",
        "ticks",
    )

    def __init__(self, key: str, head: int = 0) -> None:
        self.key = key
        self.head = head
        self.ended = False
        # Set when this process can no longer tell what is committed; readers must come again.
        self.lost = False
        self.readers = 0
        # Counts heartbeats, so that a woken reader can tell one from news.
        self.ticks = 0
        self.changes = 0
        self._first = head
        self._records: deque[bytes] = deque()
        self._bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._memo: dict[tuple[Frames, int], tuple[bytes, bool]] = {}

    def publish(self, first: int, records: Sequence[bytes], *, ended: bool = False) -> None:
        """Shows records that are committed. What is known already is skipped; a gap makes readers ask the store."""
        if first + len(records) <= self.head and not (ended and not self.ended):
            return
        if first > self.head:
            self._records.clear()
            self._bytes = 0
            self._first = first
        fresh = records[self.head - first :] if first < self.head else records
        self._records.extend(fresh)
        self._bytes += sum(map(len, fresh))
        self.head = max(self.head, first + len(records))
        while self._records and (len(self._records) > TAIL_RECORDS or self._bytes > TAIL_BYTES):
            self._bytes -= len(self._records.popleft())
            self._first += 1
        self.ended = self.ended or ended
        self.wake()

    def advance(self, head: int, *, ended: bool) -> None:
        """Says how far the store has come, without the records."""
        if head > self.head or (ended and not self.ended):
            self._records.clear()
            self._bytes = 0
            self._first = self.head = max(head, self.head)
            self.ended = self.ended or ended
            self.wake()

    def lose(self) -> None:
        """This process can no longer serve the turn."""
        self.lost = True
        self.wake()

    def wake(self) -> None:
        """Lets every waiting reader look again: something changed."""
        self.changes += 1
        self._memo.clear()
        self._release()

    def tick(self) -> None:
        """Lets every waiting reader send a heartbeat."""
        self.ticks += 1
        self._release()

    def _release(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def holds(self, cursor: int) -> bool:
        """Whether the records from `cursor` on are in the tail."""
        return self._first <= cursor

    def frames(self, cursor: int, encode: Frames) -> tuple[bytes, bool]:
        """The wire form of the records from `cursor` to the head, shared by all readers at that cursor."""
        memo = self._memo.get((encode, cursor))
        if memo is None:
            if len(self._memo) >= MEMO_CURSORS:
                self._memo.clear()
            start = cursor - self._first
            tail = [self._records[index] for index in range(start, len(self._records))]
            memo = self._memo[encode, cursor] = encode(cursor, tail)
        return memo

    def records(self, cursor: int) -> list[bytes]:
        """The records from `cursor` to the head."""
        return [self._records[index] for index in range(cursor - self._first, len(self._records))]

    async def changed(self) -> None:
        """Waits for the next publication or tick."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


class Hub:
    """The topics that somebody in this process writes or reads; a topic without either is let go."""

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}
        self._writers: set[str] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._topics)

    def open(self, key: str, head: int = 0) -> Topic:
        """The topic of that key, kept until `close`; for a writer of this process."""
        self._writers.add(key)
        return self._get(key, head)

    def close(self, key: str) -> None:
        """The writer is done; the topic goes with its last reader."""
        self._writers.discard(key)
        self._drop(key)

    def join(self, key: str, head: int = 0) -> Topic:
        """The topic of that key, for one reader, who must `leave` it."""
        topic = self._get(key, head)
        topic.readers += 1
        return topic

    def leave(self, topic: Topic) -> None:
        """One reader less."""
        topic.readers -= 1
        if self._topics.get(topic.key) is topic:
            self._drop(topic.key)

    def find(self, key: str) -> Topic | None:
        """The topic of that key, if anybody here writes or reads it."""
        return self._topics.get(key)

    def writes(self, key: str) -> bool:
        """Whether the topic's writer is in this process."""
        return key in self._writers

    def followed(self) -> list[Topic]:
        """Topics with readers here whose writer is elsewhere: somebody must look after them."""
        return [topic for topic in self._topics.values() if topic.key not in self._writers and not topic.ended]

    def tick(self) -> None:
        """Wakes every reader, so that the silent ones can send a heartbeat."""
        for topic in list(self._topics.values()):
            topic.tick()

    def lose_all(self) -> None:
        """This process stops serving: every reader, also one that joins later, must come again, elsewhere."""
        self._closed = True
        for topic in list(self._topics.values()):
            topic.lose()

    def _get(self, key: str, head: int) -> Topic:
        topic = self._topics.get(key)
        # A lost topic is for those who still have to notice; who comes now, comes again already.
        if topic is None or topic.lost:
            topic = self._topics[key] = Topic(key, head)
            topic.lost = self._closed
        return topic

    def _drop(self, key: str) -> None:
        topic = self._topics.get(key)
        if topic is not None and topic.readers <= 0 and key not in self._writers:
            del self._topics[key]
