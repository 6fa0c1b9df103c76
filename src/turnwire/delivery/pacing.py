"""Waiting one's turn under a platform's limits.

Guarantee: no more acts pass a bucket than its rate allows, whoever asks; who asked first goes first. Frames leave a
share of each bucket to urgent acts, so that finals do not wait behind them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from ..clock import Clock, sleep
from ..config import Config

KEPT_BUCKETS = 10_000
GRAIN_S = 1e-6
"""What floating-point times may differ by that mean the same moment."""


class Limit(msgspec.Struct, frozen=True):
    """`rate` acts a second, `burst` of them at once; frames leave `spare` (0 to 1) of the burst alone."""

    rate: float
    burst: int
    spare: float = 0.25

    def depth(self, *, urgent: bool) -> float:
        """How many acts may pass at once."""
        return float(self.burst) if urgent else max(self.burst * (1.0 - self.spare), 1.0)


Keys = Sequence[tuple[str, Limit]]


class Pacer(Protocol):
    """Says when an act may go out."""

    async def take(self, keys: Keys, *, urgent: bool = False) -> None:
        """Waits until every bucket has room, and takes it; the widest bucket comes last."""
        ...

    def penalise(self, key: str, seconds: float) -> None:
        """The platform asked to be left alone: nothing passes this bucket for that long."""
        ...

    async def close(self) -> None:
        """Lets go of whatever it holds."""
        ...


class Lines:
    """Who asked first goes first: one line of frames and one of urgent acts before each widest bucket."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, bool], tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def front(self, keys: Keys, *, urgent: bool) -> AsyncIterator[None]:
        """Holds the first place in the line."""
        place = keys[-1][0], urgent
        lock, waiting = self._locks.get(place, (asyncio.Lock(), 0))
        self._locks[place] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks.pop(place)
            if waiting > 1:
                self._locks[place] = lock, waiting - 1


class _Bucket:
    """A bucket as the time at which it will be empty again, on the clock's monotonic time."""

    __slots__ = ("closed_until", "full_at")

    def __init__(self) -> None:
        self.full_at = 0.0
        self.closed_until = 0.0

    def due(self, now: float, limit: Limit, *, urgent: bool) -> float:
        """When the next act may pass, without taking it."""
        early = (limit.depth(urgent=urgent) - 1.0) / limit.rate
        return max(self.closed_until, max(self.full_at, now) - early, now)

    def take(self, now: float, limit: Limit) -> None:
        self.full_at = max(self.full_at, now) + 1.0 / limit.rate


class LocalPacer:
    """Buckets of one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lines = Lines()

    async def take(self, keys: Keys, *, urgent: bool = False) -> None:
        """Waits until every bucket has room, and takes it."""
        if not keys:
            return
        # Who waits for a bucket of their own does not stand in the way of others.
        await self._pass(keys[:-1], urgent=urgent, take=False)
        async with self._lines.front(keys, urgent=urgent):
            await self._pass(keys, urgent=urgent)

    def penalise(self, key: str, seconds: float) -> None:
        """Nothing passes this bucket for that long."""
        bucket = self._bucket(key)
        bucket.closed_until = max(bucket.closed_until, self._clock.monotonic() + seconds)

    async def close(self) -> None:
        """It holds nothing."""

    async def _pass(self, keys: Keys, *, urgent: bool, take: bool = True) -> None:
        while True:
            now = self._clock.monotonic()
            due = max((self._bucket(key).due(now, limit, urgent=urgent) for key, limit in keys), default=now)
            if due <= now + GRAIN_S:
                for key, limit in keys if take else ():
                    self._bucket(key).take(now, limit)
                return
            await sleep(self._clock, due - now)

    def _bucket(self, key: str) -> _Bucket:
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket()
            if len(self._buckets) > KEPT_BUCKETS:
                # That which was asked for longest ago has long been empty.
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket


def pacer_for(config: Config, clock: Clock) -> Pacer:
    """The pacer of a process: shared with others where they share a relay, else its own."""
    if not config.relay.url:
        return LocalPacer(clock)
    from .shared_pacing import SharedPacer

    return SharedPacer(config.relay.url, clock)
