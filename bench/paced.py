"""Many paced turns, one reader each: what a delta costs on its way from the agent to the reader.

Guarantee: the pacing agent's own cost is measured apart, yielding into nothing, and the idle server's beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .agents import Ask
from .load import Client, Crowd, Reader, Window, get, post
from .server import Process, bare

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


def begin(crowd: Crowd, requests: Sequence[bytes], plan: Plan) -> list[Reader]:
    """Readers whose turns all speak."""
    readers = crowd.open(requests, over_s=plan.ramp_s)
    crowd.until(lambda: all(reader.deltas for reader in readers))
    crowd.run(plan.settle_s)
    return readers


def idle(crowd: Crowd, plan: Plan) -> Cost:
    """What the server costs while nothing happens."""
    crowd.run(0.3)
    return cost(crowd.watch(plan.idle_s))


def into_nothing(plan: Plan) -> Cost:
    """What the pacing agents alone cost, in a bare server."""
    with bare() as server:
        crowd = Crowd(server)
        still = idle(crowd, plan)
        crowd.open([get(f"/nothing?turns={plan.turns}", Ask(do="paced", rate=RATE))])
        crowd.run(plan.settle_s)
        return cost(crowd.watch(plan.window_s)).less(still)


def hang_up(crowd: Crowd, readers: Sequence[Reader], plan: Plan) -> None:
    """Closes the readers and lets the server notice."""
    crowd.close(readers)
    crowd.run(plan.settle_s)
