"""A clock for a simulator that runs as a process of its own: time passes faster, and can be told to jump.

Guarantee: after a jump, each timer that has become due runs once, at once; none is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from turnwire.clock import Clock, Handle


class _Timer:
    """A callback for a time of the clock; armed again after each jump."""

    def __init__(self, due: float, callback: Callable[[], object], timers: set[_Timer]) -> None:
        self.due = due
        self._callback = callback
        self._timers = timers
        self._handle: Handle | None = None

    def arm(self, clock: Clock, now: float) -> None:
        self._stop()
        delay = self.due - now
        if delay <= 0:
            self._handle = asyncio.get_running_loop().call_soon(self._run)
        else:
            self._handle = clock.call_later(delay, self._run)

    def cancel(self) -> None:
        self._stop()
        self._timers.discard(self)

    def _stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        self._timers.discard(self)
        self._callback()


class JumpingClock:
    """A `Clock` on top of another.

    Args:
        clock: how time passes between jumps.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jumped = 0.0
        self._timers: set[_Timer] = set()

    def now(self) -> float:
        """Wall time in seconds since 1970."""
        return self._clock.now() + self._jumped

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._clock.monotonic() + self._jumped

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        """Runs `callback` after `delay` seconds of this clock."""
        timer = _Timer(self.monotonic() + delay, callback, self._timers)
        self._timers.add(timer)
        timer.arm(self._clock, self.monotonic())
        return timer

    def jump(self, seconds: float) -> None:
        """Makes it `seconds` later than it was, 0 or more."""
        if not seconds >= 0:
            raise ValueError("advance: seconds must be 0 or more")
        self._jumped += seconds
        for timer in sorted(self._timers, key=lambda each: each.due):
            timer.arm(self._clock, self.monotonic())
