"""The fold, the shortest replay of it, and the message that history keeps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent_events import Spoken, any_event, few, outcomes, speak, turns, wire
from tests.strict_client import StrictClient, comparable
from turnwire import chunks as c
from turnwire import events as e
from turnwire.framer import Outcome
from turnwire.view import StepPart, View, fold, replay, to_message


@few
@given(st.lists(any_event, max_size=15), outcomes)
def test_a_replay_stands_for_the_records_up_to_any_point(events: list[Any], outcome: Outcome) -> None:
    chunks = speak(events, outcome).chunks
    message = to_message(fold(chunks))
    for cut in range(len(chunks) + 1):
        stream = replay(fold(chunks[:cut])) + chunks[cut:]
        assert to_message(fold(stream)) == message
        client = StrictClient("7").feed_all(wire(stream))
        assert comparable(client.end()) == message


@given(turns())
def test_a_replay_is_short_and_takes_nothing_back(spoken: Spoken) -> None:
    view = spoken.framer.view
    stream = replay(view)
    steps = sum(isinstance(part, StepPart) for part in view.parts)
    assert len(stream) <= 3 * (len(view.parts) - steps) + 2 * steps + 3
    assert not any(isinstance(chunk, c.ResetStep) for chunk in stream)
    assert replay(fold(stream)) == stream


def test_a_long_turn_is_replayed_in_a_few_chunks() -> None:
    spoken = speak(["word "] * 10_000)
    assert len(spoken.chunks) > 10_000
    assert [type(chunk).__name__ for chunk in replay(spoken.framer.view)] == [
        *("Start", "StartStep", "TextStart", "TextDelta", "TextEnd", "FinishStep", "Finish")
    ]


@given(turns())
def test_folding_on_is_folding_at_once(spoken: Spoken) -> None:
    chunks = spoken.chunks
    half = len(chunks) // 2
    assert to_message(fold(chunks[half:], fold(chunks[:half]))) == to_message(fold(chunks))


def test_reading_a_view_does_not_change_what_it_becomes() -> None:
    chunks = speak(["a", "b", e.ToolInput("t", "search", "{"), "c"]).chunks
    view = View()
    for chunk in chunks:
        view.apply(chunk)
        view.text()
        to_message(view)
        replay(view)
    assert to_message(view) == to_message(fold(chunks))


def test_the_answers_text_leaves_thinking_and_tools_out() -> None:
    view = speak(
        ["one", e.Reasoning("hm"), "two", e.ToolCall(id="t", name="x"), e.ToolResult(id="t"), "three"]
    ).framer.view
    assert view.text() == "one\n\ntwo\n\nthree"


def test_the_outcome_is_known_once_the_turn_has_ended() -> None:
    assert speak(["a"], None).framer.view.outcome is None
    assert speak(["a"], "stopped").framer.view.outcome == "stopped"
    assert fold([c.Start("m"), c.Finish()]).outcome is None


def test_metadata_merges_key_by_key_and_touches_no_record() -> None:
    start = c.Start("m", {"turnwire": {"turn": "t", "usage": {"inputTokens": 1}}, "list": [1]})
    records = [start, c.MessageMetadata({"turnwire": {"usage": {"outputTokens": 2}}}), c.Finish("stop", {"list": [2]})]
    view = fold(records)
    assert view.metadata == {
        "turnwire": {"turn": "t", "usage": {"inputTokens": 1, "outputTokens": 2}},
        "list": [2],
    }
    assert start.message_metadata == {"turnwire": {"turn": "t", "usage": {"inputTokens": 1}}, "list": [1]}


IMPOSSIBLE: dict[str, list[c.AnyChunk]] = {
    "a delta without its part": [c.TextDelta("t1", "a")],
    "a delta after its part": [c.TextStart("t1"), c.TextEnd("t1"), c.TextDelta("t1", "a")],
    "an end without its part": [c.ReasoningEnd("r1")],
    "a delta of a part that was taken back": [c.StartStep(), c.TextStart("t1"), c.ResetStep(), c.TextDelta("t1", "a")],
    "a result without its call": [c.ToolOutputAvailable("a", 1)],
    "an error without its call": [c.ToolOutputError("a", "no")],
    "arguments without their call": [c.ToolInputDelta("a", "{")],
    "arguments after they were complete": [c.ToolInputAvailable("a", "x", {}), c.ToolInputDelta("a", "{")],
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_no_journal_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no open text part|no tool call|are complete"):
        fold(IMPOSSIBLE[name])


META = {"openai": {"id": "x"}}
RECORDS: dict[str, list[c.AnyChunk]] = {
    "a call told piece by piece": [
        c.ToolInputStart("a", "first", provider_executed=True, provider_metadata=META, title="Find"),
        c.ToolInputDelta("a", '{"q"'),
        c.ToolInputDelta("a", ": 1}"),
        c.ToolInputAvailable("a", "second", {"q": 1}),
        c.ToolOutputAvailable("a", 1, preliminary=True, provider_metadata={"openai": {"n": 1}}),
        c.ToolOutputAvailable("a", 2),
    ],
    "a dynamic call that failed": [
        c.ToolInputStart("a", "x", dynamic=True),
        c.ToolInputAvailable("a", "x", [], dynamic=True, title="Find"),
        c.ToolOutputError("a", "no", provider_metadata=META, provider_executed=False, dynamic=True),
    ],
    "unusable arguments of a call that was described": [
        c.ToolInputStart("a", "x", provider_metadata=META, title="Find", dynamic=True),
        c.ToolInputDelta("a", "{"),
        c.ToolInputError("a", "x", "{", "bad", provider_metadata={"openai": {"e": 1}}, dynamic=True),
    ],
    "unusable arguments at once": [c.ToolInputError("a", "x", "{", "bad", provider_metadata=META, title="Find")],
    "signed text and thinking": [
        c.ReasoningStart("r1", META),
        c.ReasoningDelta("r1", "hm"),
        c.ReasoningEnd("r1", {"openai": {"id": "y"}}),
        c.TextStart("t1"),
        c.TextDelta("t1", "a", META),
        c.TextEnd("t1"),
    ],
    "files, sources and data": [
        c.FileChunk("/f", "text/csv", META),
        c.SourceUrl("s", "u", "title", META),
        c.DataPart("data-x", 1, "1"),
        c.DataPart("data-x", None),
        c.DataPart("data-x", 2, "1"),
        c.DataPart("data-y", 3, "1", transient=True),
    ],
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_message_is_what_the_client_holds_after_every_record(name: str) -> None:
    records = [c.Start("m"), c.StartStep(), *RECORDS[name]]
    client = StrictClient("7")
    for count, record in enumerate(records, 1):
        client.feed(wire([record])[0])
        view = fold(records[:count])
        assert to_message(view) == comparable(client.message())
        again = StrictClient("7").feed_all(wire(replay(view)))
        assert comparable(again.message()) == comparable(client.message())
