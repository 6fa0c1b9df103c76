"""The guard without I/O: whatever the dialect and the cuts, the same events; and an honest end at every byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_provider import delta, finish, sse, usage
from tests.guard_streams import MARKERS, NAMES, answer, cut, damaged, finish_of, guarded, parsed, stream
from turnwire.agents._guard_wires import WireName
from turnwire.agents.guard import Guard, GuardError, Limits, guard_error

WAYS = ["noevent", "multi", "nospace", "comments", "fields", "lf", "crlf", "cr", "pings", "noblank", "bom"]

wires = st.sampled_from(NAMES)
characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from("\u2028\u2029\u0085")
texts = st.lists(st.text(characters, min_size=1, max_size=8), min_size=1, max_size=4)
places = st.lists(st.integers(0, 4000), max_size=30)


@given(wires, texts, st.booleans(), st.sets(st.sampled_from(WAYS)), places, st.integers(0, 99), st.booleans())
def test_every_dialect_and_cut_gives_the_same_events(
    wire: WireName, text: list[str], calls: bool, ways: set[str], cuts: list[int], seed: int, marker: bool
) -> None:
    events = stream(wire, answer(text, calls))
    expected = parsed(b"".join(events))
    if not marker and wire in MARKERS:
        events = events[:-1]  # the guard adds what the provider left out
    body = damaged(wire, events, ways, seed)
    out, guard = guarded(wire, cut(body, cuts))
    assert guard.error is None
    assert parsed(out) == expected
    assert out.endswith(b"\n\n")
    for line_end in ("\r", "\u2028", "\u2029", "\u0085"):
        assert line_end not in out.decode()
    assert b"data: " in out
    assert b"\n:" not in out


@given(wires, st.booleans(), st.sampled_from(["eof", "broken", "open"]), st.data())
def test_an_end_is_clean_only_after_the_finish(wire: WireName, calls: bool, end: str, data: st.DataObject) -> None:
    events = stream(wire, answer(calls=calls))
    body = b"".join(events)
    finished = len(b"".join(events[: finish_of(wire, events) + 1])) - len(b"\n\n")
    length = data.draw(st.integers(0, len(body)))
    out, guard = guarded(wire, cut(body[:length], data.draw(places)), end=end)
    given_, expected = parsed(out), parsed(body)
    if length < finished:
        assert guard.error is not None
        assert guard.error.kind == ("idle_bytes" if end == "open" else "truncated")
        assert given_ == expected[: len(given_)]
    else:
        assert guard.error is None
        assert guard.finished
        rest = len(events) - 1 if wire == "openai" else len(events)
        assert given_[: finish_of(wire, events) + 1] == expected[: finish_of(wire, events) + 1]
        assert len(given_) in (rest, len(events))
        assert wire not in MARKERS or out.count(MARKERS[wire]) == 1


@given(wires, places)
def test_sound_bytes_are_handed_on_as_they_are(wire: WireName, cuts: list[int]) -> None:
    body = b"".join(stream(wire))
    out, guard = guarded(wire, cut(body, cuts))
    assert (out, guard.error, guard.flags) == (body, None, set())


@given(wires, st.binary(max_size=400), places)
def test_no_bytes_break_it(wire: WireName, junk: bytes, cuts: list[int]) -> None:
    body = b"".join(stream(wire)[:2]) + junk
    _, guard = guarded(wire, cut(body, cuts))
    assert guard.error is not None
    assert "\n" not in str(guard.error)


@pytest.mark.parametrize("opening", [b"data: ", b"data: {}\n\ndata: ", b": ", b"x", b"event: a\n" + b"data: y\n" * 200])
@pytest.mark.parametrize("wire", NAMES)
def test_no_more_than_one_event_is_kept(wire: WireName, opening: bytes) -> None:
    guard = Guard(wire, Limits(max_event_bytes=10_000))
    fed, chunk = 0, b"data: " + b"x" * 94 + b"\n" if b"event" in opening else b"x" * 100
    guard.feed(opening, 0.0)
    while not guard.ended:
        guard.feed(chunk, 0.0)
        fed += len(chunk)
        assert fed < 12_000
    assert guard.error is not None
    assert guard.error.kind == "too_large"
    assert not guard.error.retryable


@pytest.mark.parametrize("wire", NAMES)
def test_an_event_that_is_too_large_is_an_error_also_when_it_came_at_once(wire: WireName) -> None:
    first, *rest = stream(wire)
    event = rest[0].replace(b"{", b'{"pad": "' + b"x" * 20_000 + b'", ', 1)
    out, guard = guarded(wire, [first + event + b"".join(rest)], Limits(max_event_bytes=10_000))
    assert guard.error is not None
    assert guard.error.kind == "too_large"
    assert parsed(out) == parsed(first)


def test_an_event_that_is_too_large_is_not_forgotten_when_others_come_with_it() -> None:
    odd = sse(delta("a"), prefix="data:") + sse(delta("x" * 20_000), prefix="data:")
    out, guard = guarded("openai", [odd, sse(delta("b")) + sse(finish())], Limits(max_event_bytes=10_000))
    assert guard.error is not None
    assert guard.error.kind == "too_large"
    assert [chunk["choices"][0]["delta"]["content"] for _, chunk in parsed(out)] == ["a"]


def test_a_line_that_ends_in_cr_before_one_that_ends_in_crlf() -> None:
    first, last = (sse(event).rstrip(b"\n") for event in (delta("a"), finish()))
    out, guard = guarded("openai", [first + b"\r", b"\r\n" + last + b"\r\r\n"])
    assert guard.error is None
    assert len(parsed(out)) == 3


@pytest.mark.parametrize("wire", ["openai", "google"])
def test_events_that_say_nothing_at_all_are_left_out(wire: WireName) -> None:
    events = stream(wire)
    out, guard = guarded(wire, [events[0] + sse({}) + b"event: ping\ndata: {}\n\n" + b"".join(events[1:])])
    assert guard.error is None
    assert out == b"".join(events)


def test_graces_begin_with_the_finish_and_are_not_prolonged() -> None:
    guard = Guard("openai", Limits())
    guard.feed(sse(delta("a")), 10.0)
    assert guard.due == 70.0
    guard.feed(sse(finish()), 20.0)
    assert guard.due == 21.0
    guard.feed(sse(delta("b")), 20.5)
    assert guard.due == 21.0
    assert b"usage" in guard.feed(sse(usage()), 20.75)
    assert guard.due == 21.05
    guard.feed(sse(usage()), 21.0)
    assert guard.due == 21.05
    assert guard.feed(sse(delta("late")), 21.1) == b"data: [DONE]\n\n"
    assert guard.ended
    assert guard.error is None
    assert guard.flags == {"no-terminator"}


def test_usage_in_the_finish_leaves_only_the_short_grace() -> None:
    guard = Guard("google", Limits())
    guard.feed(b"".join(stream("google")), 5.0)
    assert guard.due == 5.3
    assert guard.timed_out(5.3) == b""
    assert (guard.ended, guard.error) == (True, None)


def test_a_finish_on_every_chunk_does_not_cut_the_answer() -> None:
    guard = Guard("google", Limits())
    for second in range(5):
        part: dict[str, Any] = {"content": {"parts": [{"text": "x"}]}, "finishReason": "STOP"}
        assert guard.feed(sse({"candidates": [part]}), second * 0.9)
    assert guard.due == 4 * 0.9 + 1.0


def test_two_alternatives_need_two_finishes() -> None:
    def chunk(index: int, reason: str | None = None) -> bytes:
        return sse({"choices": [{"index": index, "delta": {"content": "x"}, "finish_reason": reason}]})

    both = chunk(0) + chunk(1) + chunk(0, "stop")
    assert guarded("openai", [both])[1].error is not None
    assert guarded("openai", [both + chunk(1, "stop")])[1].error is None
    one_after_the_other = chunk(0) + chunk(0, "stop") + chunk(1)
    assert guarded("openai", [one_after_the_other])[1].error is not None


def test_pings_and_empty_deltas_say_nothing() -> None:
    quiet = {
        "openai": [b": x\n\n", sse(delta("", role="assistant")), b"event: ping\ndata: {}\n\n", sse({})],
        "anthropic": [b'event: ping\ndata: {"type": "ping"}\n\n', b": x\n\n"],
        "openai-responses": [b'event: keepalive\ndata: {"type":"keepalive"}\n\n', b'data: {"type":"keepalive"}\n\n'],
        "google": [b": x\n\n", sse({"usageMetadata": {"totalTokenCount": 3}}), b"event: ping\ndata: now\n\n"],
    }
    for wire in NAMES:
        guard = Guard(wire, Limits(idle_bytes=60, idle_events=300))
        guard.feed(b"".join(stream(wire)[:3]), 100.0)
        for second in range(100, 399, 20):
            guard.feed(quiet[wire][second // 20 % len(quiet[wire])], float(second))
            assert not guard.ended
        assert guard.due == 400.0
        guard.feed(quiet[wire][0], 400.0)
        assert guard.error is not None
        assert guard.error.kind == "idle_events"


@pytest.mark.parametrize("wire", NAMES)
def test_a_machine_that_stood_still_past_both_bounds_names_the_one_that_was_due_first(wire: WireName) -> None:
    guard = Guard(wire, Limits(idle_bytes=60, idle_events=300))
    guard.feed(b"".join(stream(wire)[:3]), 100.0)
    guard.timed_out(1000.0)
    assert guard.error is not None
    assert guard.error.kind == "idle_bytes"


@pytest.mark.parametrize("lead", [b"", b"\xef\xbb\xbf", b"\n  "])
@pytest.mark.parametrize("wire", NAMES)
def test_a_body_that_is_no_event_stream_is_told_by_its_content(wire: WireName, lead: bytes) -> None:
    said = b'{"error": {"message": "no such model sk-abcdefghijk", "code": 503, "type": "x"}}'
    for end in ("eof", "broken", "open"):
        out, guard = guarded(wire, [lead, said[:20], said[20:]], end=end)
        assert out == b""
        assert guard.error is not None
        assert guard.error.kind == "not_sse"
        assert guard.error.retryable
        assert "no such model ***" in str(guard.error)
    page, guard = guarded(wire, [lead + b"<!doctype html>" + b"x" * 100_000], end="open")
    assert guard.error is not None
    assert (page, guard.error.kind, guard.error.retryable) == (b"", "not_sse", False)


def test_the_rest_of_a_foreign_body_is_waited_for_shortly() -> None:
    guard = Guard("openai", Limits())
    guard.feed(b'{"error"', 10.0)
    assert guard.due == 12.0
    guard.feed(b': {"message": "gone"}}', 11.0)
    guard.timed_out(12.0)
    assert "gone" in str(guard.error)


ERRORS: list[tuple[WireName, bytes, bool, float | None]] = [
    ("openai", sse({"error": {"message": "boom", "code": 429}}), True, None),
    ("openai", sse({"error": {"message": "boom", "type": "invalid_request_error", "code": "bad"}}), False, None),
    ("openai", sse({"error": "boom, the server is overloaded"}), True, None),
    ("openai", b'event: error\ndata: {"message": "boom", "code": 400}\n\n', False, None),
    ("openai", sse({"object": "error", "message": "boom", "code": 503}), True, None),
    ("openai", sse({"choices": [{"finish_reason": "error"}], "error": {"message": "boom", "code": 502}}), True, None),
    ("anthropic", sse({"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}), True, None),
    ("anthropic", sse({"error": {"type": "authentication_error", "message": "boom"}}), False, None),
    ("openai-responses", sse({"type": "error", "code": "server_error", "message": "boom"}), True, None),
    (
        "openai-responses",
        sse({"type": "response.failed", "response": {"error": {"code": "invalid_prompt", "message": "boom"}}}),
        False,
        None,
    ),
    (
        "google",
        sse(
            {
                "error": {
                    "code": 429,
                    "message": "boom",
                    "details": [{"@type": "RetryInfo", "retryDelay": "17.5s"}],
                }
            }
        ),
        True,
        17.5,
    ),
]


@pytest.mark.parametrize(("wire", "event", "retryable", "after"), ERRORS)
def test_errors_in_the_stream_are_raised(wire: WireName, event: bytes, retryable: bool, after: float | None) -> None:
    begun = b"".join(stream(wire)[:3])
    out, guard = guarded(wire, [begun + event + begun])
    error = guard.error
    assert error is not None
    assert parsed(out) == parsed(begun)
    assert (error.kind, error.retryable, error.retry_after, error.partial) == ("provider_error", retryable, after, True)
    assert "boom" in str(error)
    _, first = guarded(wire, [event])
    assert first.error is not None
    assert not first.error.partial


@pytest.mark.parametrize("wire", NAMES)
def test_nothing_after_the_finish_is_an_error(wire: WireName) -> None:
    events = stream(wire)
    body = b"".join(events[: finish_of(wire, events) + 1])
    for more in (b"data: {oops\n\n", b'data: {"error": {"message": "boom"}}\n\n', b"data: " + b"x" * 2000):
        out, guard = guarded(wire, [body, more], Limits(max_event_bytes=1900))
        assert guard.error is None
        assert parsed(out)[: len(parsed(body))] == parsed(body)


@pytest.mark.parametrize("wire", ["anthropic", "openai-responses", "google"])
def test_the_end_marker_of_one_wire_is_no_answer_on_another(wire: WireName) -> None:
    done = b"data: [DONE]\n\n"
    assert guarded(wire, [b"".join(stream(wire)[:3]) + done])[1].error is not None
    out, guard = guarded(wire, [b"".join(stream(wire)) + done])
    assert guard.error is None
    assert b"[DONE]" not in out


def test_an_end_marker_after_text_but_no_finish_is_flagged_and_after_nothing_an_error() -> None:
    done = b"data: [DONE]\n\n"
    out, guard = guarded("openai", [sse(delta("text")) + done])
    assert (guard.error, guard.flags) == (None, {"no-finish"})
    assert out.endswith(done)
    assert b'"stop"' not in out
    assert guarded("openai", [sse(delta("", role="assistant")) + done])[1].error is not None


def test_a_second_finish_keeps_its_text_and_its_usage() -> None:
    again = {**finish("length"), "usage": {"total_tokens": 5}}
    out, guard = guarded("openai", [sse(delta("a")), sse(finish()), sse(delta("b")), sse(again), sse(finish())])
    chunks = [data for _, data in parsed(out) if data != "[DONE]"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop", None, None]
    assert chunks[-1]["usage"] == {"total_tokens": 5}
    assert guard.flags == {"second-finish", "no-terminator"}


@pytest.mark.parametrize(
    "text", [r'{"choices":[{"delta":{"content":"\ud83d"}}]}', '{"choices":[],"usage":{"cost":NaN}}']
)
def test_json_that_the_libraries_take_is_taken(text: str) -> None:
    out, guard = guarded("openai", [sse(text), sse(finish())])
    assert guard.error is None
    assert out.startswith(sse(text))


@pytest.mark.parametrize("bad", ['{"a"', "{]", "{'a': 1}", '{"a": "\x01"}', "[" * 100_000, "nope", '{"a":1}{"a":1}'])
@pytest.mark.parametrize("wire", NAMES)
def test_damaged_json_is_an_error(wire: WireName, bad: str) -> None:
    begun = b"".join(stream(wire)[:3])
    out, guard = guarded(wire, [begun + sse(bad) + b"".join(stream(wire)[3:])])
    assert guard.error is not None
    assert guard.error.kind == "bad_event"
    assert parsed(out) == parsed(begun)


@pytest.mark.parametrize("odd", ["42", '"text"', "null", "[1]", '{"choices": 7, "candidates": 7, "delta": 7}'])
@pytest.mark.parametrize("wire", NAMES)
def test_json_of_another_shape_is_left_out(wire: WireName, odd: str) -> None:
    events = stream(wire)
    out, guard = guarded(wire, [b"".join([*events[:3], sse(odd), *events[3:]])])
    assert guard.error is None
    assert parsed(out) == parsed(b"".join(events))


def test_bytes_that_are_no_text_become_marks() -> None:
    out, guard = guarded("openai", [sse(delta("a")).replace(b'a"', b'\xff"'), sse(finish())])
    assert guard.error is None
    assert "\ufffd" in out.decode()


def test_an_unknown_stream_only_has_its_silence_bounded() -> None:
    guard = Guard(None, Limits(idle_bytes=5), now=1.0)
    body = b"\xef\xbb\xbf{no\r: events"
    assert guard.feed(body, 3.0) == body
    assert guard.due == 8.0
    guard.timed_out(8.0)
    assert guard.error is not None
    assert guard.error.kind == "idle_bytes"
    whole = Guard(None)
    assert (whole.eof(0.0), whole.error, whole.ended) == (b"", None, True)
    broken = Guard(None)
    broken.broken(OSError("reset"), 0.0)
    assert broken.error is not None
    assert broken.error.kind == "truncated"


def test_headers_say_when_to_come_again() -> None:
    for headers, seconds in (({"retry-after": "3"}, 3.0), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25)):
        guard = Guard("openai", headers=headers)
        guard.eof(0.0)
        assert guard.error is not None
        assert guard.error.retry_after == seconds
    dated = Guard("openai", headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})
    dated.eof(0.0)
    assert dated.error is not None
    assert dated.error.retry_after is None


def test_the_guards_error_is_found_behind_another() -> None:
    inner = GuardError("cut", "truncated")
    outer = RuntimeError("the library's own")
    outer.__cause__ = ValueError("in between")
    outer.__cause__.__context__ = inner
    assert guard_error(outer) is inner
    assert guard_error(RuntimeError()) is None
    assert guard_error(None) is None


def test_names_come_from_the_data_where_they_are_missing() -> None:
    body = b"".join(sse(json.loads(event.partition(b"data: ")[2])) for event in stream("anthropic"))
    assert b"event:" not in body
    out, guard = guarded("anthropic", [body])
    assert guard.error is None
    assert [name for name, _ in parsed(out)] == [data["type"] for _, data in parsed(body)]
