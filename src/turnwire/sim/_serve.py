"""A simulator as a process of its own.

Guarantee: `ready http://HOST:PORT` is printed once requests are accepted; SIGTERM and SIGINT end the process with exit
code 0; an address that is taken, or a time scale that is none, becomes a message and exit code 2.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Protocol

from turnwire._cli import fail, run, say

from .pace import ScaledClock


class Served(Protocol):
    """What is served."""

    async def start(self) -> None:
        """Accepts connections from when it returns. Raises `OSError` when the address is taken."""

    async def stop(self) -> None:
        """Ends what is open."""


def scaled_clock(scale: float) -> ScaledClock:
    """A clock for `--time-scale`."""
    try:
        return ScaledClock(scale)
    except ValueError as error:
        raise fail(ValueError(f"--time-scale: {error}")) from None


def serve(simulator: Served, host: str, port: int, *, url: Callable[[], str], hint: Callable[[], str]) -> None:
    """Serves until the process is asked to end.

    Args:
        simulator: what is started and stopped.
        host, port: where it listens, for the message when that is taken.
        url: its address; asked once it was started.
        hint: what to do with it, printed behind the address; asked once it was started.
    """

    async def work() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        try:
            await simulator.start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise fail(ValueError(f"cannot listen on {host}:{port}: {reason}; choose another --port")) from None
        say(f"ready {url()}")
        say(hint())
        await stopped.wait()
        await simulator.stop()

    run(work)
