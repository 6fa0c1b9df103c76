"""A thousand live turns in one process, one reader each: cores, first token, memory."""

from __future__ import annotations

import msgspec

from . import paced
from .agents import Ask
from .load import Crowd, Reader, Window, get, post
from .paced import RATE, Cost, Plan
from .report import Row, percentile
from .server import allow_files, bare, turnwire

NAME = "live"
TURNS = 1000
BUDGET_CORES = 1.0
BUDGET_P99_MS = 250.0
BUDGET_MB = 300.0
PROBE_EVERY_S = 0.1


class _Found(msgspec.Struct, frozen=True):
    """`ramp_ms` and `probe_ms` are first-token times, `unread` is the window after all readers left."""

    window: Window
    unread: Window
    ramp_ms: list[float]
    probe_ms: list[float]
    peak_mb: float
    before_mb: float


def run(quick: bool) -> list[Row]:
    """1000 live turns, 20 deltas a second each."""
    turns = allow_files(200 if quick else TURNS)
    plan = Plan(turns=turns, window_s=3.0 if quick else 20.0, ramp_s=3.0 if quick else 20.0)
    nothing = paced.into_nothing(plan)
    plain = _with_bare(plan)
    found = _with_gateway(plan)
    what = f"{plan.turns} live turns × {RATE:g}/s"
    return [_cores(what, plan, found, nothing, plain), *_first_tokens(what, found), _memory(what, plan, found)]


def _cores(what: str, plan: Plan, found: _Found, nothing: Cost, plain: Window) -> Row:
    read, unread = paced.cost(found.window), paced.cost(found.unread)
    share = found.window.deltas / plan.nominal(found.window)
    each = read.less(nothing).per(plan.turns * RATE * share)
    return Row(
        path=f"{what}, processor",
        value=read.total,
        unit="cores",
        budget=BUDGET_CORES,
        baseline=plain.cores,
        about=(
            f"{share:.1%} of the deltas arrived, in {found.window.events} events; of this the readers are "
            f"{read.total - unread.total:.2f} and the pacing agents {nothing.total:.2f} cores; {each.total:.1f} µs "
            f"per delta without these agents; baseline: Starlette StreamingResponse, nothing kept, "
            f"{plain.deltas / plan.nominal(plain):.1%} arrived"
        ),
        where=[
            f"event loop {read.loop:.2f} cores, other threads (SQLite's writer) {read.total - read.loop:.2f}; "
            f"of both, in the kernel {read.system:.2f}",
            f"with nobody reading {unread.total:.2f} cores, of it the loop {unread.loop:.2f}",
        ],
    )


def _first_tokens(what: str, found: _Found) -> list[Row]:
    return [
        Row(
            path=f"{what}, first token p99, {when}",
            value=percentile(times, 99),
            unit="ms",
            budget=BUDGET_P99_MS,
            about=f"{len(times)} turns, from the POST to the first delta of an agent that answers at once; "
            f"p50 {percentile(times, 50):.0f} ms",
            where=[
                "admission is one transaction of six to twelve statements in the one writer thread, in line with the "
                "commits and the ends of other turns, and threads share one core with a busy event loop; see "
                "'a whole turn' of the bench `first`"
            ],
        )
        for when, times in (("while they begin", found.ramp_ms), ("while they run", found.probe_ms))
    ]


def _memory(what: str, plan: Plan, found: _Found) -> Row:
    return Row(
        path=f"{what}, memory",
        value=found.peak_mb,
        unit="MB",
        budget=BUDGET_MB,
        about=(
            f"the most the process held; {found.before_mb:.0f} MB before the first turn, so "
            f"{(found.peak_mb - found.before_mb) * 1024 / plan.turns:.0f} kB per turn with its reader"
        ),
        where=["each turn's view and tail of records (up to 128 kB), its tasks, its reader"],
    )


def _with_gateway(plan: Plan) -> _Found:
    with turnwire() as server:
        paced.warm_up(server, post("warm", Ask(do="stamp")))
        before = server.rss_kb()
        crowd = Crowd(server)
        readers = paced.begin(crowd, paced.paced_posts(plan.turns), plan)
        window = crowd.watch(plan.window_s)
        probes = _probe(crowd, plan.window_s / 2)
        peak = server.rss_kb(peak=True)
        paced.hang_up(crowd, readers, plan)
        unread = crowd.watch(plan.window_s / 2)
    return _Found(window, unread, _waits(readers), _waits(probes), peak / 1024, before / 1024)


def _with_bare(plan: Plan) -> Window:
    with bare() as server:
        paced.warm_up(server, get("/say", Ask(do="stamp")))
        crowd = Crowd(server)
        paced.begin(crowd, [get("/say", Ask(do="paced", rate=RATE))] * plan.turns, plan)
        return crowd.watch(plan.window_s / 2)


def _probe(crowd: Crowd, seconds: float) -> list[Reader]:
    """Short turns begun beside the others, one every `PROBE_EVERY_S`."""
    ask = Ask(do="stamp")
    count = int(seconds / PROBE_EVERY_S)
    probes = crowd.open([post(f"probe-{number}", ask) for number in range(count)], over_s=seconds)
    crowd.until(lambda: all(probe.deltas for probe in probes))
    return probes


def _waits(readers: list[Reader]) -> list[float]:
    """Milliseconds from each reader's request to its first delta."""
    return [(reader.first_at - reader.asked_at) * 1e3 for reader in readers]
