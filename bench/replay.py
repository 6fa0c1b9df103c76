"""Replaying a turn of 10 000 deltas to a client without a cursor: how many events, and how long it takes."""

from __future__ import annotations

import re
import time

from .agents import Ask
from .load import Client, Crowd, get, post
from .report import Row, median
from .server import Process, turnwire

NAME = "replay"
BUDGET_EVENTS = 25
BUDGET_MS = 5.0
DELTAS = 10_000
_NUMBERED = re.compile(rb"id: (\d+)\ndata: [^\n]*\n\n")
"""In a replay only the last event has a number."""


def run(quick: bool) -> list[Row]:
    """The same turn while it runs and when it is finished."""
    times = 10 if quick else 50
    with turnwire() as server:
        turn = _say(server, Ask(do="long", count=DELTAS, gate="end"))
        path = f"/api/chat/{turn}/stream?ui=7"
        first_ms = _live(server, path)
        live_ms = median([_live(server, path) for _ in range(times)])
        client = Client(server)
        client.ask(post("opener", Ask(do="open", gate="end")))
        raw = client.ask(get(f"{path}&startIndex=0"))
        cpu = server.cpu_s()
        found = [_timed(client, get(path)) for _ in range(times)]
        cpu = server.cpu_s() - cpu
        raw_ms = median([_timed(client, get(f"{path}&startIndex=0"))[0] for _ in range(3)])
        client.close()
    return [
        Row(
            path=f"replay of a finished turn of {DELTAS} deltas, events",
            value=_events(found[0][1]),
            unit="events",
            budget=BUDGET_EVENTS,
            baseline=_events(raw),
            about="baseline: the same turn read raw, from record 0",
            where=["one event per part and its ends: see turnwire.view.replay"],
        ),
        Row(
            path=f"replay of a finished turn of {DELTAS} deltas, time",
            value=median([ms for ms, _ in found]),
            unit="ms",
            budget=BUDGET_MS,
            baseline=raw_ms,
            about=(
                f"median of {times}, from the request's first byte to the answer's last at the client; "
                f"{cpu / times * 1e3:.2f} ms of processor time each"
            ),
            where=["two lookups and one read of the store, each a hop to a reader thread"],
        ),
        Row(
            path="the same while the turn runs, time",
            value=live_ms,
            unit="ms",
            about=f"median of {times}; the first reader, for whom the turn is folded, waits {first_ms:.0f} ms",
        ),
    ]


def _say(server: Process, ask: Ask) -> str:
    """Starts the turn and waits until it has said everything; returns its id."""
    crowd = Crowd(server)
    (reader,) = crowd.open([post("long", ask)])
    crowd.until(lambda: reader.deltas == ask.count)
    crowd.close([reader])
    return reader.turn


def _live(server: Process, path: str) -> float:
    client = Client(server)
    ms, _ = _timed(client, get(path), _NUMBERED)
    client.close()
    return ms


def _timed(client: Client, request: bytes, until: re.Pattern[bytes] | None = None) -> tuple[float, bytes]:
    began = time.perf_counter()
    answer = client.ask(request, until)
    return (time.perf_counter() - began) * 1e3, answer


def _events(answer: bytes) -> int:
    """Events with data, the closing `[DONE]` not counted."""
    return answer.count(b"data: {")
