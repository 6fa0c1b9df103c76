"""The first chunk: from the agent's first event to its SSE bytes at the reader, on an idle gateway.

The agent's event is what the monotonic clock shows; both processes read the same clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

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


def run(quick: bool) -> list[Row]:
    """Turns one after another; the model thinks a while, or answers at once."""
    turns = (60 if quick else 500) + 1
    rows: list[Row] = []
    for think_s, what in ((THINK_S, f"after {THINK_S * 1e3:g} ms"), (0.0, "at once")):
        ask = Ask(do="stamp", think_s=think_s)
        with bare() as server:
            plain = _delays(server, [get("/say", ask)] * turns)
        with turnwire() as server:
            ours = _delays(server, [post(f"chat-{number}", ask) for number in range(turns)])
        for percent, budget in ((50, BUDGET_P50_MS), (99, BUDGET_P99_MS)):
            rows.append(
                Row(
                    path=f"first chunk, a model that answers {what}, p{percent}",
                    value=percentile(ours, percent),
                    unit="ms",
                    budget=budget,
                    baseline=percentile(plain, percent),
                    about=f"{len(ours)} turns one after another",
                    where=[
                        "the commit with its fsync, two thread hops, and what is left of the flush interval (20 ms) "
                        "that the turn's own first records began"
                    ],
                )
            )
    return rows


def _delays(server: Process, requests: Sequence[bytes]) -> list[float]:
    """Milliseconds from the agent's word to the reader, request by request; the first only warms up."""
    found = []
    client = Client(server)
    for request in requests:
        stamp = _STAMP.search(client.ask(request))
        assert stamp is not None
        found.append((client.marked_ns - int(stamp[1])) / 1e6)
    client.close()
    return found[1:]
