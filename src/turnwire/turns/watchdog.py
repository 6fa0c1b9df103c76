"""Detects that something blocks the event loop, and names it.

Guarantee: when the loop has not turned for `limit_s` seconds, a warning with the place it hangs at is logged, once per
block. A thread watches, because a blocked loop cannot watch itself.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback

import structlog

from ..metrics import Metrics

_log = structlog.get_logger(__name__)

LIMIT_S = 3.0
FRAMES = 6


class Watchdog:
    """Watches one event loop from a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, metrics: Metrics, *, limit_s: float = LIMIT_S) -> None:
        self._loop = loop
        self._metrics = metrics
        self._limit_s = limit_s
        self._loop_thread = threading.get_ident()
        self._seen = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="turnwire-watchdog", daemon=True)

    def start(self) -> None:
        """Starts watching."""
        self._thread.start()

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()
        self._thread.join()

    def _beat(self) -> None:
        self._seen = time.monotonic()

    def _watch(self) -> None:
        told = False
        while not self._closed.wait(self._limit_s / 3):
            silent = time.monotonic() - self._seen
            if silent < self._limit_s:
                told = False
            elif not told:
                told = True
                self._metrics.blocked_loop.inc()
                frame = sys._current_frames().get(self._loop_thread)
                where = "".join(traceback.format_stack(frame)[-FRAMES:]) if frame else ""
                _log.warning("the event loop is blocked; run blocking code in a thread", seconds=silent, where=where)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._beat)
