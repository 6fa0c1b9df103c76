"""Fan-out: many readers of one turn and of thirty, what a delivered event costs and what an idle reader holds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from . import paced
from .agents import SLOTS, Ask
from .load import Crowd, Window, get, post
from .paced import RATE, Cost
from .report import Row
from .server import Process, allow_files, bare, turnwire

NAME = "fanout"
BUDGET_US = 12.0
BUDGET_KB = 16.0
READERS = 3000
EARLY = 50
"""Readers that come and go first, so that what the first ones load is not counted as theirs."""
GATE = "go"


class _Found(msgspec.Struct, frozen=True):
    """`kb` is the memory of one idle reader."""

    kb: float
    still: Cost
    window: Window
    share: float

    @property
    def each(self) -> Cost:
        rate = self.window.events / self.window.wall_s
        return paced.cost(self.window).less(self.still).per(rate)


def run(quick: bool) -> list[Row]:
    """All readers on one turn, then on thirty."""
    readers = allow_files(300 if quick else READERS)
    window_s = 3.0 if quick else 10.0
    rows: list[Row] = []
    for turns in (1, 30):
        ours = _gateway(turns, readers, window_s)
        plain = _bare(turns, readers, window_s)
        rows.append(_event_row(turns, readers, ours, plain))
        if turns == 1:
            rows.append(_memory_row(readers, ours, plain))
    return rows


def _event_row(turns: int, readers: int, ours: _Found, plain: _Found) -> Row:
    each = ours.each
    of = "one turn" if turns == 1 else f"{turns} turns"
    return Row(
        path=f"SSE fan-out, {readers} readers of {of}, per event",
        value=each.total,
        unit="µs",
        budget=BUDGET_US,
        baseline=plain.each.total,
        about=(
            f"{ours.share:.1%} of the events arrived, with {paced.cost(ours.window).total:.2f} cores (baseline "
            f"{plain.share:.1%}, {paced.cost(plain.window).total:.2f}: Starlette StreamingResponse, one shared ticker)"
        ),
        where=[
            f"event loop {each.loop:.1f} µs, other threads {each.total - each.loop:.1f} µs; "
            f"in the kernel (mostly one send per event and reader) {each.system:.1f} µs"
        ],
    )


def _memory_row(readers: int, ours: _Found, plain: _Found) -> Row:
    return Row(
        path=f"memory per idle reader, {readers} readers",
        value=ours.kb,
        unit="kB",
        budget=BUDGET_KB,
        baseline=plain.kb,
        about=f"growth of the resident set over all readers, after {EARLY} that came and went",
        where=["sockets and parser of the HTTP server, two tasks per reader (writer, watcher of the disconnect)"],
    )


def _gateway(turns: int, count: int, window_s: float) -> _Found:
    with turnwire() as server:
        paced.warm_up(server, post("warm", Ask(do="stamp")))
        crowd = Crowd(server)
        ask = Ask(do="paced", rate=RATE, gate=GATE)
        owners = crowd.open([post(f"chat-{number}", ask) for number in range(turns)])
        paths = [f"/api/chat/{owner.turn}/stream?ui=7&startIndex=0" for owner in owners]
        requests = [get(paths[number % turns]) for number in range(count)]
        crowd.close(owners)
        return _measured(crowd, server, requests, post("opener", Ask(do="open", gate=GATE)), window_s)


def _bare(turns: int, count: int, window_s: float) -> _Found:
    with bare() as server:
        ask = Ask(do="paced", rate=RATE, gate=GATE)
        requests = [get(f"/fan?slot={number % turns % SLOTS}", ask) for number in range(count)]
        return _measured(Crowd(server), server, requests, get("/say", Ask(do="open", gate=GATE)), window_s)


def _measured(crowd: Crowd, server: Process, requests: Sequence[bytes], opener: bytes, window_s: float) -> _Found:
    """Opens the readers while nobody speaks, then the gate, and watches."""
    crowd.close(crowd.open(requests[:EARLY]))
    crowd.run(0.5)
    before = server.rss_kb()
    readers = crowd.open(requests)
    crowd.run(0.5)
    held = (server.rss_kb() - before) / len(readers)
    still = paced.cost(crowd.watch(min(window_s, 3.0)))
    crowd.close(crowd.open([opener]))
    crowd.until(lambda: all(reader.deltas for reader in readers))
    crowd.run(1.0)
    window = crowd.watch(window_s)
    return _Found(held, still, window, window.deltas / (len(readers) * RATE * window.wall_s))
