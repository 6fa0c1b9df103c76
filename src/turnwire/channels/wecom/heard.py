"""What the platform has asked for: the streams that it knows, and the ends of bubbles that it has fetched.

Guarantee: what one process notes, the couriers of all of them learn, from the store alone. A stream is named by the
delivery that it shows and the message that it answers, so that any process can tell what is asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import re

import structlog

from ...clock import Clock, wait
from ...store import Database, StoreError
from ...store.queries.deliveries import note_asked, was_asked

_log = structlog.get_logger(__name__)

LOOK_S = 1.0
"""Seconds between two looks for what other processes noted."""
_STREAM = re.compile(r"(dlv_[0-9A-Za-z_]{1,100})-([0-9a-f]{16})")


def stream_of(delivery: str, message: str) -> str:
    """The stream in which a delivery answers a message."""
    return f"{delivery}-{hashlib.sha256(message.encode('utf-8', 'replace')).hexdigest()[:16]}"


def delivery_of(stream: str) -> str | None:
    """The delivery that a stream shows; None for a stream that is none of ours."""
    found = _STREAM.fullmatch(stream)
    return found.group(1) if found else None


class Heard:
    """Notes what the platform asked for, and waits for it."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._events: dict[str, asyncio.Event] = {}

    async def note(self, stream: str, *, end: bool) -> None:
        """The platform knows the stream; or with `end`, it is being told how its bubble ends. Raises `StoreError`."""
        delivery, key = delivery_of(stream), _key(stream, end=end)
        if delivery is None:
            return
        await self._db.run(note_asked, delivery, key, "polled to the end" if end else "polled")
        if key in self._events:
            self._events[key].set()

    async def wait(self, stream: str, *, end: bool, until: float) -> bool:
        """Returns once that was noted, by whatever process; False if it was not until then, seconds since 1970."""
        delivery, key = delivery_of(stream), _key(stream, end=end)
        event = self._events.setdefault(key, asyncio.Event())
        try:
            while delivery is not None:
                left = until - self._clock.now()
                try:
                    if event.is_set() or await self._db.read(was_asked, delivery, key):
                        return True
                except StoreError as error:
                    _log.warning("a bubble waits for the store", stream=stream, error=str(error))
                if left <= 0:
                    break
                news = asyncio.ensure_future(event.wait())
                try:
                    await wait(self._clock, {news}, min(left, LOOK_S))
                finally:
                    news.cancel()
            return False
        finally:
            self._events.pop(key, None)


def _key(stream: str, *, end: bool) -> str:
    return f"{stream}-end" if end else stream
