"""The first chunk: from the agent's first event to its SSE bytes at the reader, on an idle gateway.

The agent's event is what the monotonic clock shows; both processes read the same clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from .agents import MARK, Ask
from .load import Client, get, post
from .report import Row, percentile
from .server import Process, bare, turnwire

NAME = "first"
BUDGET_P50_MS = 5.0
BUDGET_P99_MS = 25.0
THINK_S = 0.03
"""More than one flush interval: what a model's first token takes at the very least."""
_STAMP = re.compile(rf'"delta":"(\d+){MARK}"'.encode())


class _Found(msgspec.Struct, frozen=True):
    """Milliseconds: from the agent's word to the reader, turn by turn, and of processor time per turn."""

    delays: list[float]
    cpu: float


def run(quick: bool) -> list[Row]:
    """Turns one after another; the model thinks a while, or answers at once."""
    turns = (60 if quick else 500) + 1
    rows: list[Row] = []
    for think_s, what in ((THINK_S, f"after {THINK_S * 1e3:g} ms"), (0.0, "at once")):
        ask = Ask(do="stamp", think_s=think_s)
        with bare() as server:
            plain = _ask(server, [get("/say", ask)] * turns)
        with turnwire() as server:
            ours = _ask(server, [post(f"chat-{number}", ask) for number in range(turns)])
        rows += [
            _delay(what, percent, budget, ours, plain) for percent, budget in ((50, BUDGET_P50_MS), (99, BUDGET_P99_MS))
        ]
        if not think_s:
            rows.append(_whole(ours, plain))
    return rows


def _delay(what: str, percent: int, budget: float, ours: _Found, plain: _Found) -> Row:
    return Row(
        path=f"first chunk, a model that answers {what}, p{percent}",
        value=percentile(ours.delays, percent),
        unit="ms",
        budget=budget,
        baseline=percentile(plain.delays, percent),
        about=f"{len(ours.delays)} turns one after another",
        where=[
            "the commit with its fsync, a thread hop to the writer and back, and what is left of the flush interval "
            "(20 ms) that the turn's own first records began"
        ],
    )


def _whole(ours: _Found, plain: _Found) -> Row:
    return Row(
        path="a whole turn of one delta, processor",
        value=ours.cpu,
        unit="ms",
        baseline=plain.cpu,
        about="admission, first and last records, history: all transactions of a turn, and its HTTP request",
    )


def _ask(server: Process, requests: Sequence[bytes]) -> _Found:
    """Asks one after another; the first only warms up."""
    delays = []
    client = Client(server)
    client.ask(requests[0])
    cpu = server.cpu_s()
    for request in requests[1:]:
        stamp = _STAMP.search(client.ask(request))
        assert stamp is not None
        delays.append((client.marked_ns - int(stamp[1])) / 1e6)
    cpu = server.cpu_s() - cpu
    client.close()
    return _Found(delays, cpu / len(delays) * 1e3)
