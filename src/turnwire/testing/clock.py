"""A clock that a test moves, so that half an hour passes in a millisecond and always in the same order.

Guarantee: time stands still except inside `FakeClock.advance`, and every timer runs at exactly the time it was set for.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count

from turnwire.clock import Clock, Handle, SystemClock

_NAP_S = 0.0005


class _Timer:
    """One callback in the heap; `order` keeps timers of the same instant in the order in which they were set."""

    __slots__ = ("callback", "due", "order")

    def __init__(self, due: float, order: int, callback: Callable[[], object]) -> None:
        self.due = due
        self.order = order
        self.callback: Callable[[], object] | None = callback

    def __lt__(self, other: _Timer) -> bool:
        return (self.due, self.order) < (other.due, other.order)

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """A `Clock` whose time moves only when `advance` is awaited.

    Args:
        now: the wall time at the start, in seconds since 1970. The monotonic time starts elsewhere, so that code which
            mixes the two is seen.
        rounds: how many turns the event loop gets to become idle, here and between two timers.
    """

    def __init__(self, now: float = 1_700_000_000.0, *, rounds: int = 50) -> None:
        self._wall = now
        self._monotonic = 1000.0
        self._elapsed = 0.0
        self._rounds = rounds
        self._timers: list[_Timer] = []
        self._order = count()
        self._advancing = False

    def now(self) -> float:
        """Wall time in seconds since 1970."""
        return self._wall + self._elapsed

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._monotonic + self._elapsed

    @property
    def pending(self) -> int:
        """How many timers have neither run nor been cancelled; 0 at the end of a test: nothing was left behind."""
        return sum(timer.callback is not None for timer in self._timers)

    @property
    def next_in(self) -> float | None:
        """Seconds until the next timer; None if there is none."""
        live = (timer.due for timer in self._timers if timer.callback is not None)
        due = min(live, default=None)
        return None if due is None else max(due - self._elapsed, 0.0)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        """Runs `callback` after `delay` seconds; on the loop's next turn, without an advance, if that is 0 or less."""
        if math.isnan(delay):
            raise ValueError("call_later: the delay is not a number")
        if delay <= 0:
            return asyncio.get_running_loop().call_soon(callback)
        timer = _Timer(self._elapsed + delay, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    async def settle(self) -> None:
        """Lets everything run that can run without time passing.

        The loop gets a bounded number of turns. Work that waits for a thread or a socket may still be under way: wait
        for its result, or use `until`.
        """
        for _ in range(self._rounds):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        """Moves time forward, stopping at each timer on the way and letting the loop become idle before and after it.

        Timers of the same instant run together, in the order in which they were set. Timers set on the way run too if
        they are due in time. An error raised by a timer is raised here, with the clock standing at that timer's time.

        Args:
            seconds: how far to move, 0 or more.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"advance: {seconds!r} is no way to go; give seconds, 0 or more")
        if self._advancing:
            raise RuntimeError("advance: another advance is under way; one test moves the clock in one place")
        self._advancing = True
        try:
            target = self._elapsed + seconds
            await self.settle()
            while self._timers and self._timers[0].due <= target:
                self._elapsed = self._timers[0].due
                self._run_due()
                await self.settle()
            self._elapsed = target
        finally:
            self._advancing = False

    async def until(self, condition: Callable[[], bool], *, limit: float = 10.0) -> None:
        """Lets the loop run, with time standing still, until `condition()` holds.

        For results that come from a thread, a socket or another process. Raises `TimeoutError` after `limit` seconds of
        the machine's time.
        """
        machine: Clock = SystemClock()
        end = machine.monotonic() + limit
        turns = 0
        while not condition():
            if machine.monotonic() > end:
                raise TimeoutError(f"until: the condition did not come true within {limit} s")
            # Whom it waits for may need the processor.
            await asyncio.sleep(0 if turns < self._rounds else _NAP_S)
            turns += 1

    def _run_due(self) -> None:
        while self._timers and self._timers[0].due <= self._elapsed:
            timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()
