"""The chat client: what it says and what it calls an error."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chat_runs import HELLO, KEY, Run, advance_to_end, ended, quiet, running
from tests.fake_provider import PIECES, TEXT, Peer, delta, fake_provider, finish, refuse, sse, usage
from turnwire.agents.remote import OpenAIChat
from turnwire.events import Step, Usage
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

# The stream as it should be, and every spelling of it

SPELLINGS = [
    "ok", "comments", "crlf", "cr", "crlf_split", "bytewise", "bom", "nospace", "multi_data", "last_no_blank",
    "garbage_after_done", "double_finish",
]  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
async def test_every_spelling_of_a_whole_answer_is_understood(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert run.events[0] == Step()
    assert run.text == TEXT
    assert run.usages == [
        Usage(input_tokens=30, output_tokens=12, total_tokens=42, model="fake-1", finish_reason="stop")
    ]
    assert run.events[-1] is run.usages[0]
    assert clock.pending == 0


@pytest.mark.parametrize("name", ["mixed", "eof_after_finish"])
async def test_the_end_of_the_body_ends_a_finished_answer_at_once(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages == [Usage(model="fake-1", finish_reason="stop")]


async def test_line_separators_of_unicode_stay_in_the_text() -> None:
    clock = FakeClock()
    async with running("u2028", clock) as (_, run):
        await ended(clock, run)
    assert run.text == "a\u2028b\u2029c\u0085d"


async def test_a_large_event_arrives() -> None:
    clock = FakeClock()
    async with running("big_event", clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert len(run.text) == 3_000_000


async def test_compressed_deltas_arrive_one_by_one() -> None:
    clock = FakeClock()
    async with running("gzip", clock) as (fake, run):
        await clock.until(lambda: run.text == PIECES[0])
        assert not run.task.done()
        fake.gate.set()
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart_from_the_answer(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert run.reasoning == "Let me think."
    assert run.text == TEXT


@pytest.mark.parametrize(
    ("wire", "reason"),
    [("length", "length"), ("content_filter", "content-filter"), ("tool_calls", "tool-calls"), ("eos", "other")],
)
async def test_finish_reasons_get_their_own_names(wire: str, reason: str) -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        last: Any = {"choices": [{"index": 0, "delta": {}, "finish_reason": wire}]}
        await peer.say(delta("x"), last, "[DONE]")
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert [used.finish_reason for used in run.usages] == [reason]


async def test_a_refusal_is_shown_and_finishes_as_filtered() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(delta(refusal="I cannot."), {"choices": [{"delta": {}, "finish_reason": "stop"}]}, "[DONE]")
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert run.text == "I cannot."
    assert run.usages[0].finish_reason == "content-filter"


async def test_done_without_a_finish_reason_is_an_end_of_an_unknown_kind() -> None:
    clock = FakeClock()
    async with running("done_without_finish", clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages[0].finish_reason == "other"


# When it ends


async def test_after_the_finish_usage_is_awaited_for_one_second() -> None:
    clock = FakeClock()
    async with running("o_no_done", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.9)
        assert not run.task.done()
        await clock.advance(0.2)
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages == [Usage(model="fake-1", finish_reason="stop")]


async def test_the_end_marker_ends_the_answer_without_waiting() -> None:
    clock = FakeClock()
    async with running("o_open_after_done", clock) as (fake, run):
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert run.error is None
    assert run.usages[0].total_tokens == 42


async def test_late_usage_is_kept() -> None:
    clock = FakeClock()
    async with running("o_usage_late", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.15)
        await ended(clock, run)
    assert run.usages == [
        Usage(input_tokens=30, output_tokens=12, total_tokens=42, model="fake-1", finish_reason="stop")
    ]


async def test_after_usage_the_end_marker_is_awaited_for_a_third_of_a_second() -> None:
    clock = FakeClock()
    async with running("o_usage_late_hang", clock) as (fake, run):
        await quiet(clock, fake)
        fake.idle.clear()
        await clock.advance(0.15)
        await quiet(clock, fake)
        await clock.advance(0.25)
        assert not run.task.done()
        await clock.advance(0.1)
        await ended(clock, run)
    assert run.error is None
    assert run.usages[0].total_tokens == 42


async def test_usage_that_comes_too_late_is_not_waited_for() -> None:
    clock = FakeClock()
    async with running("o_usage_very_late", clock) as (fake, run):
        passed = await advance_to_end(clock, fake, run, step=0.1, limit=2)
    assert passed < 1.3
    assert run.error is None
    assert run.usages == [Usage(model="fake-1", finish_reason="stop")]


async def test_a_reset_after_the_finish_loses_nothing() -> None:
    clock = FakeClock()
    async with running("rst_after_finish", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.05)
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages[0].finish_reason == "stop"


async def test_text_without_end_after_the_finish_is_cut_off() -> None:
    clock = FakeClock()
    async with running("flood_after_finish", clock) as (fake, run):
        await clock.until(lambda: len(run.text) > len(TEXT))
        passed = await flood(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert passed <= 1.2
    assert run.error is None
    assert run.text.startswith(TEXT + "!")


async def flood(clock: FakeClock, run: Run) -> float:
    passed = 0.0
    while not run.task.done() and passed < 5:
        await clock.advance(0.1)
        passed += 0.1
    return passed


# What is an error

CUT = [
    ("clean_eof_mid", "ended before its answer was complete"),
    ("raw_eof_mid", "ended before its answer was complete"),
    ("fin_mid", "connection to the model broke"),
    ("error_mid", "reported an error: overloaded"),
    ("error_mid_open", "reported an error: overloaded"),
]


@pytest.mark.parametrize(("name", "text"), CUT)
async def test_a_cut_answer_is_an_error_and_its_text_is_kept(name: str, text: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert text in str(run.error)
    assert run.text == "".join(PIECES[:2])
    assert run.usages == []
    assert clock.pending == 0


async def test_a_reset_in_the_answer_is_an_error() -> None:
    clock = FakeClock()
    async with running("rst_mid", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.05)
        await ended(clock, run)
    assert "connection to the model broke" in str(run.error)
    assert run.text == "".join(PIECES[:2])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty_body", "ended before its answer was complete"),
        ("done_only", "without an answer"),
        ("json_200", "sent application/json instead of an event stream: no such model"),
        ("html_200", "sent text/html instead of an event stream."),
        ("error_event", "reported an error: overloaded"),
        ("bad_json", "not JSON"),
    ],
)
async def test_what_is_no_answer_is_an_error_that_says_so(name: str, text: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert text in str(run.error)
    assert run.usages == []


async def test_an_event_over_the_bound_is_an_error() -> None:
    clock = FakeClock()
    async with running("too_big_event", clock, max_event_bytes=1_000_000) as (fake, run):
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert "more than 1000000 bytes" in str(run.error)
    assert run.text == "".join(PIECES[:2])


async def test_what_a_provider_says_of_an_error_is_short_and_holds_no_secret() -> None:
    clock = FakeClock()
    async with running("error_mid", clock) as (_, run):
        await ended(clock, run)
    text = str(run.error)
    assert "overloaded key ***" in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("status", "kind", "body", "expected"),
    [
        (
            "401 No",
            "application/json",
            f'{{"error":{{"message":"Wrong key {KEY}."}}}}',
            "401 Unauthorized: Wrong key ***",
        ),
        (
            "429 No",
            "application/json",
            '[{"error":{"message":"slow down"}}]',
            "answered 429 Too Many Requests: slow down",
        ),
        ("529 No", "application/json", '{"detail":"busy"}', "answered 529: busy"),
        ("502 No", "text/html", "<html>secret page</html>", "answered 502 Bad Gateway."),
        ("503 No", "text/plain", "no healthy upstream", "answered 503 Service Unavailable: no healthy upstream"),
        ("302 No", "text/plain", "", "answered 302 Found."),
    ],
)
async def test_a_refusal_names_its_status_and_its_reason(status: str, kind: str, body: str, expected: str) -> None:
    clock = FakeClock()
    async with running(lambda peer: refuse(peer, status, kind, body.encode()), clock) as (_, run):
        await ended(clock, run)
    assert expected in str(run.error)
    assert KEY not in str(run.error)
    assert run.error is not None
    assert run.error.status == int(status[:3])


async def test_the_body_of_a_refusal_is_not_waited_for_long() -> None:
    async def act(peer: Peer) -> None:
        await peer.head("application/json", status="500 No")
        await peer.send(b'{"error":')
        await peer.hang()

    clock = FakeClock()
    async with running(act, clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(2)
        await ended(clock, run)
    assert "answered 500 Internal Server Error." in str(run.error)


async def test_a_tool_that_was_not_offered_is_an_error_that_names_it() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        await peer.say(delta("Let me see. "), delta(tool_calls=[call]))
        await peer.hang()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert "get_weather" in str(run.error)
    assert run.text == "Let me see. "


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (delta("b", tool_calls=[CALL]), "called a tool (get_weather)"),
        (delta("b", function_call={"name": "look"}), "called a tool (look)"),
        (delta("b", tool_calls=[{"type": "custom", "custom": {"name": "grep"}}]), "called a tool (grep)"),
        (delta("b", tool_calls=[{"index": 0, "function": None}]), "called a tool (without a name)"),
        ({"choices": [{"delta": {"content": "b"}, "finish_reason": "error"}]}, "ended the answer with an error"),
        ({**delta("b"), "error": {"message": "overloaded"}}, "reported an error: overloaded"),
    ],
)
async def test_what_comes_together_with_a_failure_is_said_before_it(last: dict[str, Any], text: str) -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.send(sse(delta("a")) + sse(last) + sse(delta("lost")) + sse(finish()) + sse("[DONE]"))
        await peer.hang()

    clock = FakeClock()
    async with running(act, clock) as (fake, run):
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert text in str(run.error)
    assert (run.text, run.usages) == ("ab", [])


@pytest.mark.parametrize("late", [delta(tool_calls=[CALL]), {"error": {"message": "late"}}, "{oops"])
async def test_no_failure_undoes_a_finished_answer(late: Any) -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(delta("x"), finish(), late, usage(), "[DONE]")
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert (run.error, run.text, run.usages[0].finish_reason) == (None, "x", "stop")


async def test_no_tools_are_called_by_empty_fields() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(delta("x", tool_calls=[], function_call=None), delta(tool_calls=None), finish(), "[DONE]")
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert (run.error, run.text) == (None, "x")


async def test_content_may_come_in_parts() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Let me "}, {"type": "text", "text": "see."}]}

    async def act(peer: Peer) -> None:
        await peer.head()
        parts: list[Any] = [thought, {"type": "reference", "reference_ids": [1]}, {"type": "text", "text": "Seen"}]
        await peer.say(*({"choices": [{"delta": {"content": [part]}}]} for part in parts), delta("."), finish())
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert (run.error, run.reasoning, run.text) == (None, "Let me see.", "Seen.")


async def test_an_event_nested_too_deeply_is_an_error() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(delta("x"), "[" * 100_000)
        await peer.hang()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert "not JSON" in str(run.error)
    assert run.text == "x"


async def test_a_server_that_is_not_there_is_named() -> None:
    async with fake_provider("ok") as fake:
        address = fake.base_url
    run = Run(OpenAIChat(address, "fake-1").stream(HELLO))
    await run.task
    assert "The model at 127.0.0.1:" in str(run.error)
    assert "cannot be reached" in str(run.error)


async def test_a_connection_closed_without_an_answer_is_named() -> None:
    async def act(peer: Peer) -> None:
        return None

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert "closed the connection without an answer" in str(run.error)
