"""Legal streams of the four wires as lists of events, ways to damage their bytes, and what a guard makes of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from tests.model_wires import WIRES, Answer, Call
from turnwire.agents._guard_wires import WireName
from turnwire.agents.guard import Guard, Limits
from turnwire.agents.sse import SSEParser

NAMES: list[WireName] = ["anthropic", "openai", "openai-responses", "google"]
MARKERS = {"openai": b"data: [DONE]", "anthropic": b'"message_stop"}'}
FINISHES = {
    "anthropic": b'"stop_reason": "',
    "openai": b'"finish_reason": "',
    "openai-responses": b"event: response.completed",
    "google": b'"finishReason"',
}

Event = tuple[str, Any]


def answer(text: Sequence[str] = ("Hello, ", "wörld"), calls: bool = False) -> Answer:
    return Answer(text, ["Hm. "], [Call("call_1", "look", '{"city": "北京"}')] if calls else [])


def stream(wire: str, said: Answer | None = None) -> list[bytes]:
    """The events of one whole answer, each with its blank line."""
    return WIRES[wire](said or answer())


def finish_of(wire: str, events: list[bytes]) -> int:
    """Which of `events` is the finish."""
    return next(place for place, event in enumerate(events) if FINISHES[wire] in event)


def parsed(data: bytes) -> list[Event]:
    """What a reader that follows the standard sees; JSON is read, pings are left out."""
    parser = SSEParser()
    events = [(event.event, event.data) for event in [*parser.feed(data), *parser.close()]]
    return [
        (name, text if text == "[DONE]" else json.loads(text)) for name, text in events if name not in ("ping", "error")
    ]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place for place in places if 0 < place < len(data)}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def guarded(
    wire: WireName, chunks: Iterable[bytes], limits: Limits | None = None, *, end: str = "eof"
) -> tuple[bytes, Guard]:
    """What a guard hands on of `chunks`, which come at once and end so: `eof`, `broken`, `open`."""
    guard = Guard(wire, limits)
    out = b"".join([guard.feed(chunk, 0.0) for chunk in chunks])
    if end == "eof":
        out += guard.eof(0.0)
    elif end == "broken":
        out += guard.broken(ConnectionResetError("reset by peer"), 0.0)
    else:
        while not guard.ended:
            out += guard.timed_out(guard.due)
    assert guard.feed(b"data: {}\n\n", 0.0) == guard.eof(0.0) == guard.timed_out(0.0) == b""
    return out, guard


def damaged(wire: str, events: list[bytes], ways: set[str], seed: int) -> bytes:
    """The bytes of `events`, written in other ways that mean the same."""
    rng = random.Random(seed)
    out = []
    for event in events:
        lines = event.decode().rstrip("\n").split("\n")
        if "noevent" in ways and wire in ("anthropic", "openai-responses"):
            lines = [line for line in lines if not line.startswith("event:")]
        if "multi" in ways:
            lines = [piece for line in lines for piece in _many_lines(line)]
        if "nospace" in ways:
            lines = [line.replace(": ", ":", 1) for line in lines]
        if "comments" in ways:
            lines = [piece for line in lines for piece in (": keep-alive", line)]
        if "fields" in ways:
            lines = ["id: 7", "retry: 100", *lines]
        kinds = [kind for kind in ("\n", "\r\n", "\r") if {"\n": "lf", "\r\n": "crlf", "\r": "cr"}[kind] in ways] or [
            "\n"
        ]
        newline = rng.choice(kinds)
        out.append("".join(line + newline for line in [*lines, ""]))
        if "pings" in ways:
            name = f"event: ping{newline}" if rng.random() < 0.5 or wire == "anthropic" else ""
            out.append(f"{name}data: {{}}{newline}{newline}" if name else f": ping{newline}{newline}")
    text = "".join(out)
    if "noblank" in ways:
        text = text.rstrip("\r\n")
    return (b"\xef\xbb\xbf" if "bom" in ways else b"") + text.encode()


def _many_lines(line: str) -> list[str]:
    if not line.startswith("data: {"):
        return [line]
    whole = json.dumps(json.loads(line[6:]), ensure_ascii=False, indent=1)
    return [f"data: {piece}" for piece in whole.split("\n")]
