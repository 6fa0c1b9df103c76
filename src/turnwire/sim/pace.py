"""A clock on which time passes faster or slower than on the machine's, for simulators that run as a process.

Guarantee: wall time, monotonic time and timers are all scaled alike, so that what lasts 20 s lasts 20 s on this clock.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from turnwire.clock import Clock, Handle, SystemClock


class ScaledClock:
    """A `Clock` that begins now.

    Args:
        scale: how many seconds pass on it in one second of the machine; more than 0.
    """

    def __init__(self, scale: float) -> None:
        if not (0 < scale < math.inf):
            raise ValueError(f"a time scale of {scale:g} is none; give a number above 0, as 10 for ten times as fast")
        machine: Clock = SystemClock()
        self._machine = machine
        self._scale = scale
        self._wall = machine.now()
        self._began = machine.monotonic()

    def now(self) -> float:
        """Wall time in seconds since 1970."""
        return self._wall + self._elapsed()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._began + self._elapsed()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        """Runs `callback` after `delay` seconds of this clock."""
        return asyncio.get_running_loop().call_later(delay / self._scale, callback)

    def _elapsed(self) -> float:
        return (self._machine.monotonic() - self._began) * self._scale
