"""The gateway's overhead per delta: agent yields, journal commits, SSE bytes reach one reader."""

from __future__ import annotations

from . import paced
from .agents import Ask
from .load import Crowd, get, post
from .paced import RATE, Cost, Plan
from .report import Row
from .server import bare, turnwire

NAME = "delta"
BUDGET_US = 40.0


def run(quick: bool) -> list[Row]:
    """100 live turns, 20 deltas a second each."""
    plan = Plan(turns=100, window_s=3.0 if quick else 15.0)
    nothing = paced.into_nothing(plan)
    rate = plan.turns * RATE
    plain = _with_bare(plan, nothing)
    ours, unread, share = _with_gateway(plan, nothing)
    each, quiet = ours.per(rate * share), unread.per(rate)
    return [
        Row(
            path=f"gateway overhead per delta, {plan.turns} turns × {RATE:g}/s",
            value=each.total,
            unit="µs",
            budget=BUDGET_US,
            baseline=plain.per(rate).total,
            about=(
                f"{share:.1%} of the deltas arrived; baseline: a Starlette StreamingResponse, nothing kept; "
                f"the pacing agent itself ({nothing.per(rate).total:.1f} µs) and the idle server are taken off"
            ),
            where=[
                f"event loop {each.loop:.1f} µs, other threads (SQLite's writer) {each.total - each.loop:.1f} µs; "
                f"of both, in the kernel {each.system:.1f} µs",
                f"with nobody reading {quiet.total:.1f} µs (framer, journal, store), of it in the loop "
                f"{quiet.loop:.1f} µs; so the readers are {each.total - quiet.total:.1f} µs",
            ],
        )
    ]


def _with_gateway(plan: Plan, nothing: Cost) -> tuple[Cost, Cost, float]:
    """The cost with readers and without, and the share of the deltas that readers got."""
    with turnwire() as server:
        paced.warm_up(server, post("warm", Ask(do="stamp")))
        crowd = Crowd(server)
        still = paced.idle(crowd, plan)
        readers = paced.begin(crowd, paced.paced_posts(plan.turns), plan)
        window = crowd.watch(plan.window_s)
        paced.hang_up(crowd, readers, plan)
        unread = crowd.watch(plan.window_s)
    share = window.deltas / plan.nominal(window)
    return (
        paced.cost(window).less(still).less(nothing),
        paced.cost(unread).less(still).less(nothing),
        share,
    )


def _with_bare(plan: Plan, nothing: Cost) -> Cost:
    with bare() as server:
        paced.warm_up(server, get("/say", Ask(do="stamp")))
        crowd = Crowd(server)
        still = paced.idle(crowd, plan)
        paced.begin(crowd, [get("/say", Ask(do="paced", rate=RATE))] * plan.turns, plan)
        window = crowd.watch(plan.window_s)
    return paced.cost(window).less(still).less(nothing)
