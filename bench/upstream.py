"""The whole path of a delta: from a provider's bytes through SQLite's journal to a reader, beside what peers need.

Guarantee: every stack reads the same provider at the same pace and serves the same readers. What counts is the
processor time of the serving process alone, from the first request to the last end, without what it costs while idle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from . import paced
from .agents import Ask
from .load import Crowd, Reader, Window, post
from .paced import RATE, Cost
from .peers import Unavailable, ai_sdk, pydantic_web
from .report import Row
from .server import Process, provider, turnwire

NAME = "upstream"


class Plan(msgspec.Struct, frozen=True):
    """`turns` that begin over `ramp_s` and have answers of `count` deltas each."""

    turns: int
    count: int
    ramp_s: float

    @property
    def deltas(self) -> int:
        return self.turns * self.count

    @property
    def together_s(self) -> float:
        """How long all turns surely speak together."""
        return self.count / RATE - 2 * self.ramp_s


class Found(msgspec.Struct, frozen=True):
    """Microseconds for each delta, of whole turns and while all of them speak; memory in MB.

    `kept` is the part of the provider's deltas that reached the readers in time while all turns spoke: less than all of
    them come in time where a stack uses its whole core, and what comes late is cheaper, for it comes in heaps.
    """

    whole: Cost
    speaking: Cost
    kept: float
    peak_mb: float


class Stack(msgspec.Struct, frozen=True):
    """A server between provider and readers; `serve` gets the provider's address."""

    serve: Callable[[str], AbstractContextManager[Process]]
    about: str


CHAT, PYDANTIC, GATEWAY = "Turnwire, openai+http", "Turnwire, pydantic-ai", "Turnwire, no provider"
AI_SDK, WEB, TEXT = "AI SDK", "pydantic-ai's web adapter", "pydantic-ai, plain text"

STACKS = {
    CHAT: Stack(lambda url: turnwire(f"openai+{url}#paced-1"), "a remote agent, durable, resumable"),
    PYDANTIC: Stack(lambda url: turnwire("openai:paced-1", url), "OpenAI's library on the guard, durable, resumable"),
    GATEWAY: Stack(lambda _: turnwire(), "an agent in the process that says the same: what the gateway itself needs"),
    AI_SDK: Stack(ai_sdk, "AI SDK 7 + resumable-stream, its Redis not counted; what it keeps dies with the process"),
    WEB: Stack(pydantic_web, "VercelAIAdapter in a Starlette app under uvicorn with uvloop; keeps nothing"),
    TEXT: Stack(functools.partial(pydantic_web, plain=True), "the least that anything around pydantic-ai costs"),
}

SHARES = {
    (CHAT, AI_SDK): 0.4,
    (PYDANTIC, AI_SDK): 0.5,
    (PYDANTIC, WEB): 0.35,
    (PYDANTIC, TEXT): None,
    (CHAT, GATEWAY): None,
}
"""Which stack is compared with which, and the share of the other's cost that it may need."""


def run(quick: bool) -> list[Row]:
    """30 turns, 20 deltas a second each, in every stack; the second wave of turns counts, the first one warms up."""
    plan = Plan(turns=20, count=80, ramp_s=1.0) if quick else Plan(turns=30, count=200, ramp_s=2.0)
    found: dict[str, Found] = {}
    missing = []
    with provider(plan.count, RATE) as upstream:
        for name, stack in STACKS.items():
            try:
                found[name] = _measure(stack, f"{upstream.url}/v1", plan)
            except Unavailable as error:
                missing.append(Row(path=f"{name}: {error}", value=float("nan"), unit="µs"))
    compared = [_against(ours, other, found, share) for (ours, other), share in SHARES.items() if other in found]
    return [*(_alone(name, found[name], plan) for name in found), *missing, *compared]


def _alone(name: str, found: Found, plan: Plan) -> Row:
    return Row(
        path=f"per delta, {name}",
        value=found.whole.total,
        unit="µs",
        about=f"{STACKS[name].about}; {plan.turns} turns × {plan.count} deltas at {RATE:g}/s; {_spent(found)}",
    )


def _against(ours: str, other: str, found: dict[str, Found], share: float | None) -> Row:
    """One of our stacks against a share of what another needs."""
    mine, theirs = found[ours].whole, found[other].whole
    return Row(
        path=f"{ours}, against {other}",
        value=mine.total,
        unit="µs",
        budget=None if share is None else share * theirs.total,
        baseline=theirs.total,
    )


def _spent(found: Found) -> str:
    whole, speaking = found.whole, found.speaking
    return (
        f"the first thread {whole.loop:.0f} µs, the others {whole.total - whole.loop:.0f} µs, in the kernel "
        f"{whole.system:.0f} µs of both; while all turns speak {speaking.total:.0f} µs, and {found.kept:.0%} came in "
        f"time; {found.peak_mb:.0f} MB at most"
    )


def _measure(stack: Stack, upstream: str, plan: Plan) -> Found:
    with stack.serve(upstream) as server:
        crowd = Crowd(server)
        _finish(crowd, _begin(crowd, plan, "warm"), plan)
        still = paced.idle(crowd, paced.Plan(turns=0, window_s=0.0))
        windows: list[Window] = []

        def turns() -> None:
            readers = _begin(crowd, plan, "chat")
            windows.append(crowd.watch(plan.together_s))
            _finish(crowd, readers, plan)

        windows.append(crowd.measure(turns))
        speaking, whole = windows
        return Found(
            paced.cost(whole).less(still).per(plan.deltas / whole.wall_s),
            paced.cost(speaking).less(still).per(speaking.deltas / speaking.wall_s),
            speaking.deltas / (plan.turns * RATE * speaking.wall_s),
            server.rss_kb(peak=True) / 1024,
        )


def _begin(crowd: Crowd, plan: Plan, prefix: str) -> list[Reader]:
    """Readers whose turns have all begun and spoken."""
    ask = Ask(do="paced", count=plan.count, rate=RATE)
    readers = crowd.open([post(f"{prefix}-{number}", ask) for number in range(plan.turns)], over_s=plan.ramp_s)
    crowd.until(lambda: all(reader.deltas for reader in readers))
    return readers


def _finish(crowd: Crowd, readers: list[Reader], plan: Plan) -> None:
    """Reads every turn to its end, hangs up, and lets the server write what it writes then."""
    crowd.until(lambda: all(reader.deltas == plan.count for reader in readers))
    crowd.run(1.0)
    crowd.close(readers)
