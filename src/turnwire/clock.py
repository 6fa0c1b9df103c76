"""Time as a thing that is passed in, so that a test decides what time it is.

Guarantee: no module of Turnwire asks the machine for the time or sleeps except through a `Clock`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol


class Handle(Protocol):
    """A timer that can be taken back."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Wall time, monotonic time and timers, all in seconds."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle: ...


class SystemClock:
    """The machine's clock; timers belong to the running event loop."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        return asyncio.get_running_loop().call_later(delay, callback)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def sleep(clock: Clock, seconds: float) -> None:
    """Waits for `seconds` on the given clock."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handle = clock.call_later(max(seconds, 0.0), lambda: _settle(done))
    try:
        await done
    finally:
        handle.cancel()


async def wait(clock: Clock, aws: set[asyncio.Future[Any]], seconds: float | None) -> bool:
    """True once the first of `aws` is done, False after `seconds`. Nothing waited for is ever cancelled."""
    if seconds is None:
        await asyncio.wait(aws, return_when=asyncio.FIRST_COMPLETED)
        return True
    timer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handle = clock.call_later(max(seconds, 0.0), lambda: _settle(timer))
    try:
        done, _ = await asyncio.wait({*aws, timer}, return_when=asyncio.FIRST_COMPLETED)
        return bool(done - {timer})
    finally:
        handle.cancel()
        timer.cancel()
