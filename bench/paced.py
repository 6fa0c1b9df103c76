"""Many paced turns, one reader each: what a delta costs on its way from the agent to the reader.

Guarantee: the pacing agent's own cost is measured apart, yielding into nothing, and the idle server's beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from .agents import Ask
from .load import Client, Reader, Window, all_speak, get, open_readers, post, watch
from .server import Process

RATE = 20.0


class Plan(msgspec.Struct, frozen=True):
    """How many turns for how long: `settle_s` before the window of `window_s`, turns begun over `ramp_s`."""

    turns: int
    window_s: float
    settle_s: float = 1.0
    ramp_s: float = 0.0
    idle_s: float = 2.0

    def nominal(self, window: Window) -> float:
        """The deltas that agents say in a window, whether somebody counts them or not."""
        return self.turns * RATE * window.wall_s


class Cost(msgspec.Struct, frozen=True):
    """Seconds of processor time per second that passes; `loop` is the event loop's thread alone."""

    total: float
    loop: float
    system: float

    def less(self, other: Cost) -> Cost:
        return Cost(self.total - other.total, self.loop - other.loop, self.system - other.system)

    def per(self, rate: float) -> Cost:
        """Microseconds for each of `rate` things a second."""
        return Cost(self.total / rate * 1e6, self.loop / rate * 1e6, self.system / rate * 1e6)


def cost(window: Window) -> Cost:
    """What a window cost."""
    return Cost(window.cores, window.loop_s / window.wall_s, window.system_s / window.wall_s)


def warm_up(server: Process, request: bytes) -> None:
    """One request from beginning to end, so that what is imported or compiled late is there."""
    client = Client(server)
    client.ask(request)
    client.close()


def paced_posts(count: int, prefix: str = "chat") -> list[bytes]:
    """Requests for paced turns without an end, each in a conversation of its own."""
    ask = Ask(do="paced", rate=RATE)
    return [post(f"{prefix}-{number}", ask) for number in range(count)]


async def begin(server: Process, requests: Sequence[bytes], plan: Plan) -> list[Reader]:
    """Readers whose turns all speak."""
    readers = await open_readers(server, requests, over_s=plan.ramp_s)
    await all_speak(readers)
    await asyncio.sleep(plan.settle_s)
    return readers


async def idle(server: Process, plan: Plan) -> Cost:
    """What the server costs while nothing happens."""
    await asyncio.sleep(0.3)
    return cost(await watch(server, plan.idle_s))


async def into_nothing(server: Process, plan: Plan) -> Cost:
    """What the pacing agents alone cost; `server` is the bare one."""
    still = await idle(server, plan)
    path = f"/nothing?turns={plan.turns}"
    (reader,) = await open_readers(server, [get(path, Ask(do="paced", rate=RATE))])
    await asyncio.sleep(plan.settle_s)
    window = await watch(server, plan.window_s)
    reader.close()
    return cost(window).less(still)


async def hang_up(readers: Sequence[Reader], plan: Plan) -> None:
    """Closes all readers and lets the server notice."""
    for reader in readers:
        reader.close()
    await asyncio.sleep(plan.settle_s)
