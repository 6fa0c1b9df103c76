"""What the chunks of a UI message stream mean as agent events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agent_events import (
    Spoken,
    answers,
    any_event,
    call,
    outcomes,
    parts_of,
    refold,
    result,
    speak,
    speak_on,
    wire,
)
from turnwire import chunks as c
from turnwire import events as e
from turnwire.agents._ui_reader import UIReader
from turnwire.agents.chat_reader import ModelStreamError
from turnwire.agents.remote_ui import _datas
from turnwire.agents.sse import SSEEvent
from turnwire.framer import Outcome
from turnwire.turn import AgentError
from turnwire.view import to_message


def told(
    chunks: Sequence[dict[str, Any]], calls: dict[str, str] | None = None, before: Sequence[dict[str, Any]] = ()
) -> tuple[list[Any], UIReader]:
    """The events that a stream becomes, the end of its body included; `before`: what the message has already."""
    reader = UIReader(calls, datas=_datas([{"role": "assistant", "parts": list(before)}]))
    said: list[Any] = []
    for chunk in chunks:
        said += reader.read(SSEEvent("message", json.dumps(chunk)))
    return said + reader.close(), reader


def shown(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts without what events have no word for: reasoning after reasoning is one part, ids of approvals differ.

    A step that only closes a round of tools may begin earlier or later.
    """
    out: list[dict[str, Any]] = []
    for part in parts:
        part = {key: value for key, value in part.items() if key != "id" or part["type"].startswith("data-")}
        if "approval" in part:
            part["approval"] = {key: value for key, value in part["approval"].items() if key != "id"}
        if part["type"] == "reasoning" and out and out[-1]["type"] == "reasoning":
            merged = out.pop()
            glue = "\n\n" if merged["text"] and part["text"] else ""
            part = {**merged, **part, "text": merged["text"] + glue + part["text"]}
        out.append(part)
    return [part for part in out if part["type"] != "step-start"]


def heard(inner: Spoken, outcome: Outcome) -> Spoken:
    """The same turn as another Turnwire says it that reads the first one's stream."""
    events, _ = told(wire(inner.chunks))
    outer = speak(events, outcome)
    assert outer.refused == []
    return outer


@settings(deadline=None)
@given(st.lists(any_event, max_size=14), outcomes)
def test_a_turn_of_a_turnwire_is_the_same_message_here(events: list[Any], outcome: Outcome) -> None:
    inner = speak(events, outcome)
    outer = heard(inner, outcome)
    assert shown(to_message(outer.framer.view)["parts"]) == shown(to_message(inner.framer.view)["parts"])


@pytest.mark.parametrize("between", [[], ["a"], [e.ToolInput("b", "search", "{")]])
def test_half_a_call_that_comes_again_after_a_reset_is_the_same_call(between: list[Any]) -> None:
    half = e.ToolInput("a", "search", '{"q": ', dynamic=True)
    inner = speak([e.Reasoning("a"), half, *between, e.Step(retry=True), *between[:1], half], "done")
    outer = heard(inner, "done")
    assert shown(to_message(outer.framer.view)["parts"]) == shown(to_message(inner.framer.view)["parts"])


def test_reasoning_around_arguments_is_two_parts() -> None:
    events = [
        e.ToolInput("a", "search", '{"q": '),
        e.Reasoning("a"),
        e.ToolInput("a", "search", "1}"),
        e.Reasoning("a"),
    ]
    inner = speak(events, "done")
    outer = heard(inner, "done")
    texts = [part["text"] for part in to_message(outer.framer.view)["parts"] if part["type"] == "reasoning"]
    assert texts == ["a", "a"]


@settings(deadline=None)
@given(st.data(), st.lists(any_event, max_size=8), st.lists(any_event, max_size=8))
def test_a_turn_that_goes_on_is_the_same_message_here(
    data: st.DataObject, before: list[Any], events: list[Any]
) -> None:
    inner = speak([*before, call("pay", needs_approval=True)], "waiting")
    _goes_on_alike(inner, data.draw(answers(refold(inner.chunks))), events)


def test_a_data_part_of_before_ends_no_text() -> None:
    chart = e.Data(name="chart", data=None, id="1")
    inner = speak([chart, call("pay", needs_approval=True)], "waiting")
    _goes_on_alike(inner, [c.ToolApprovalResponse(_asked(inner)[0], False, None)], ["a", chart, "a"])


def _goes_on_alike(inner: Spoken, said: Sequence[c.ToolApprovalResponse], events: list[Any]) -> None:
    outer = heard(inner, "waiting")
    went_on = speak_on(inner.chunks, said, events)
    # What is known here of a call is under the id that it has here.
    states = [one.state for one in told(wire(inner.chunks))[0] if isinstance(one, e.ToolCall) and one.needs_approval]
    here = dict(zip(_asked(inner), _asked(outer), strict=True))
    known = to_message(outer.framer.view)["parts"]
    read, _ = told(wire(went_on.chunks), {state["call"]: state["call"] for state in states}, known)
    ours = speak_on(
        outer.chunks, [c.ToolApprovalResponse(here[one.approval_id], one.approved, one.reason) for one in said], read
    )
    assert ours.refused == []
    assert _calls(ours) == _calls(went_on)


def _asked(spoken: Spoken) -> list[str]:
    # A step that is taken back and told again asks again, for the same approval.
    return list(dict.fromkeys(chunk.approval_id for chunk in spoken.chunks if isinstance(chunk, c.ToolApprovalRequest)))


def _calls(spoken: Spoken) -> list[Any]:
    return [part for part in shown(to_message(spoken.framer.view)["parts"]) if "toolCallId" in part or "text" in part]


def start(kind: str, own: str, **more: Any) -> dict[str, Any]:
    return {"type": f"{kind}-start", "id": own, **more}


def delta(kind: str, own: str, text: str) -> dict[str, Any]:
    return {"type": f"{kind}-delta", "id": own, "delta": text}


def end(kind: str, own: str, **more: Any) -> dict[str, Any]:
    return {"type": f"{kind}-end", "id": own, **more}


def said_parts(*chunks: dict[str, Any]) -> list[Any]:
    """What people see of a stream, in short."""
    events, _ = told([{"type": "start"}, {"type": "start-step"}, *chunks, {"type": "finish"}])
    spoken = speak(events)
    assert spoken.refused == []
    return [
        part.get("text", part.get("url", part.get("toolCallId", part.get("data"))))
        for part in parts_of(spoken)
        if part["type"] != "step-start"
    ]


@pytest.mark.parametrize("other", ["text", "reasoning"])
def test_interleaved_texts_stay_whole_and_in_order(other: str) -> None:
    weave = [piece for index in range(9) for piece in (delta("text", "a", str(index)), delta(other, "b", str(index)))]
    chunks = [start("text", "a"), start(other, "b"), *weave, end(other, "b"), end("text", "a")]
    assert said_parts(*chunks) == ["012345678", "012345678"]
    assert said_parts(*chunks[1:], start("text", "c"), delta("text", "c", "!"))[-1] == "!"


def test_a_text_is_shown_while_another_that_nobody_closed_is_silent() -> None:
    reader = UIReader()
    said: list[Any] = []
    for chunk in [start("reasoning", "r"), delta("reasoning", "r", "Hm"), start("text", "t")]:
        said += reader.take(chunk)
    for index in range(40):
        said += reader.take(delta("text", "t", f"{index} "))
    spoken = "".join(one if isinstance(one, str) else one.text for one in said)
    assert spoken == "Hm" + "".join(f"{index} " for index in range(40))
    said += reader.take(delta("reasoning", "r", "more")) + reader.close()
    assert [part["text"] for part in parts_of(speak(said))[1:]] == ["Hm", spoken[2:], "more"]


def test_a_source_does_not_cut_a_text_and_a_tool_does_not_shred_it() -> None:
    source = {"type": "source-url", "sourceId": "s", "url": "https://example.org"}
    assert said_parts(start("text", "a"), source, delta("text", "a", "x"), source, delta("text", "a", "y")) == [
        "xy", "https://example.org", "https://example.org",
    ]  # fmt: skip
    tool = {"toolCallId": "c", "toolName": "search"}
    weave = [
        piece
        for index in range(5)
        for piece in (delta("text", "a", str(index)), {"type": "tool-input-delta", **tool, "inputTextDelta": "1"})
    ]
    called = {"type": "tool-input-available", **tool, "input": 11111}
    first = [start("text", "a"), delta("text", "a", "Now: "), {"type": "tool-input-start", **tool}]
    assert said_parts(*first, *weave, called) == ["Now: ", "c", "01234"]


def test_a_step_that_is_tried_again_takes_back_what_it_said() -> None:
    tool = {"toolCallId": "c", "toolName": "search"}
    tried = [start("reasoning", "r"), delta("reasoning", "r", "Hm"), start("text", "0"), delta("text", "0", "Hel")]
    half = [*tried, {"type": "tool-input-start", **tool}, {"type": "tool-input-delta", **tool, "inputTextDelta": "{"}]
    again = [start("text", "0"), delta("text", "0", "Help"), end("text", "0")]
    assert said_parts(*half, {"type": "reset-step"}, *again) == ["Help"]
    assert said_parts(*tried[2:], {"type": "reset-step"}, start("text", "0"), delta("text", "0", "Bye")) == ["Bye"]
    assert said_parts(*half, {"type": "reset-step"}) == []


def test_a_call_that_a_reset_takes_back_is_answered() -> None:
    called = {"type": "tool-input-available", "toolCallId": "c", "toolName": "search", "input": {}}
    events, _ = told([called, {"type": "reset-step"}, start("text", "0"), delta("text", "0", "No.")])
    assert e.ToolError(id="c", error="The remote agent took this call back.") in events


@pytest.mark.parametrize(
    ("metadata", "usage"),
    [
        ({"turnwire": {"usage": {"inputTokens": 1, "outputTokens": 2}, "model": "m"}}, (1, 2, None, "m")),
        ({"totalUsage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}, "modelId": "m"}, (1, 2, 3, "m")),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}, (1, 2, 3, None)),
        ({"usage": {"promptTokens": 1, "completionTokens": None}, "model": 5}, (1, None, None, None)),
        ({"totalTokens": 3, "model": "m"}, (None, None, 3, "m")),
        ({"usage": {"inputTokens": -1, "outputTokens": True}}, (None, None, None, None)),
    ],
)
def test_token_counts_are_found_in_their_usual_places(metadata: Any, usage: Any) -> None:
    events, _ = told([{"type": "start", "messageMetadata": {"x": 1}}, {"type": "finish", "messageMetadata": metadata}])
    counted = events[-1]
    assert (counted.input_tokens, counted.output_tokens, counted.total_tokens, counted.model) == usage


def test_what_events_have_no_word_for_is_kept_as_data() -> None:
    document = {"type": "source-document", "sourceId": "d", "mediaType": "text/plain", "title": "D"}
    events, _ = told(
        [document, {"type": "custom", "kind": "p.x"}, {"type": "reasoning-file", "url": "u", "mediaType": "m"}]
    )
    assert events[:3] == [
        e.Data(name="source-document", data={"sourceId": "d", "mediaType": "text/plain", "title": "D"}, id="d"),
        e.Data(name="custom", data={"kind": "p.x"}),
        e.File(url="u", media_type="m"),
    ]


def test_records_that_an_older_dialect_wraps_are_read() -> None:
    record = {"type": "tool-approval-request", "approvalId": "p", "toolCallId": "c"}
    called = {"type": "tool-input-available", "toolCallId": "c", "toolName": "pay", "input": 1}
    events, _ = told([called, {"type": "data-turnwire", "data": {"record": record}, "transient": True}])
    assert events[1].needs_approval
    assert events[1].state == {"call": "c", "approval": {"id": "p"}}


def test_an_approval_that_needs_nobody_asks_nobody() -> None:
    called = {"type": "tool-input-available", "toolCallId": "c", "toolName": "pay", "input": 1}
    asked = {"type": "tool-approval-request", "approvalId": "p", "toolCallId": "c", "isAutomatic": True}
    events, _ = told([called, asked, {"type": "tool-output-available", "toolCallId": "c", "output": 2}])
    assert [getattr(one, "needs_approval", None) for one in events[:2]] == [False, None]
    assert events[1] == result("c", 2)


def test_the_end_of_reasoning_brings_its_signature() -> None:
    about = {"p": {"signature": "s"}, "turnwire": {"file": "f"}, "q": 5}
    events, _ = told(
        [start("reasoning", "r"), delta("reasoning", "r", "Hm"), end("reasoning", "r", providerMetadata=about)]
    )
    assert events[:2] == [e.Reasoning("Hm"), e.Reasoning("", {"p": {"signature": "s"}})]


def test_halves_of_a_surrogate_pair_are_one_character() -> None:
    events, _ = told([start("text", "t"), delta("text", "t", "\ud83d"), delta("text", "t", "\ude00")])
    assert [part["text"] for part in parts_of(speak(events))[1:]] == ["😀"]


def test_after_a_failure_nothing_counts() -> None:
    events, reader = told([{"type": "error", "errorText": "x"}, start("text", "t"), delta("text", "t", "late")])
    assert isinstance(reader.failure, AgentError)
    assert not reader.finished
    assert events == [e.Usage()]
    with pytest.raises(ModelStreamError, match="has no id"):
        UIReader().read(SSEEvent("message", '{"type":"text-start"}'))
