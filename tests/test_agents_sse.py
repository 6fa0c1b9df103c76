"""The parser of server-sent events: any bytes, cut anywhere."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from turnwire.agents.sse import SSEError, SSEEvent, SSEParser

LINES = st.sampled_from(
    [
        *("data: a", "data:b", "data", "data:  你好", "data: 🌍\u2028\u0085", " data: no", "event: ping", "event"),
        *("id: 7", "id: a\0b", "id", ": note", "x: y", "\ufeff", "", "", ""),
    ]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r", "\r\n"])), max_size=20).map(
    lambda lines: "".join(line + end for line, end in lines)
)


def by_the_letter(text: str) -> list[SSEEvent]:
    """The standard's algorithm over the whole text at once."""
    events, data, kind, ident = [], list[str](), "", ""
    for line in [*re.split("\r\n|\r|\n", text.removeprefix("\ufeff")), ""]:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            if data:
                events.append(SSEEvent(kind or "message", "\n".join(data), ident))
            data, kind = [], ""
        elif name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            ident = value
    return events


@given(st.booleans(), STREAMS, st.lists(st.integers(min_value=0, max_value=400), max_size=12))
def test_any_chunking_of_the_same_bytes_gives_the_same_events(bom: bool, text: str, cuts: list[int]) -> None:
    body = ("\ufeff" * bom + text + "data: last").encode()
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parser = SSEParser()
    events = [event for a, b in pairwise(edges) for event in parser.feed(body[a:b])]
    events += parser.close()
    assert events == by_the_letter(body.decode())


@given(st.integers(min_value=1, max_value=64), st.lists(st.integers(min_value=0, max_value=60), min_size=1, max_size=6))
def test_any_chunking_meets_the_same_bound(step: int, sizes: list[int]) -> None:
    body = b"".join(b"data: " + b"x" * size + b"\n" + b"\n" * (size % 2) for size in sizes) + b"\n"

    def read(width: int) -> tuple[int, bool]:
        parser, count = SSEParser(max_event_bytes=50), 0
        try:
            for start in range(0, len(body), width):
                count += len(parser.feed(body[start : start + width]))
            while given := parser.close():
                count += len(given)
        except SSEError:
            return count, True
        return count, False

    assert read(step) == read(len(body))


def test_a_line_end_cut_in_two_is_one_line_end() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\ndata: b\r\n") == []
    assert parser.feed(b"\r") == [SSEEvent("message", "a\nb")]


def test_an_event_is_given_with_its_last_line() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\n\r") == [SSEEvent("message", "a")]
    assert parser.feed(b"\n") == []
    assert parser.close() == []
