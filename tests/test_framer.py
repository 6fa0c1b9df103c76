"""What agents do, and what the framer makes of it: G3 by named example."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agent_events import call, parts_of, result, shown, speak, types
from turnwire import events as e
from turnwire.framer import Framer

CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "an empty turn": ([], ["|"]),
    "events that say nothing": (
        ["", e.Text(""), e.Text("\0"), e.Reasoning(""), e.Snapshot(""), e.Step(), e.Usage()],
        ["|"],
    ),
    "deltas are one text": (["a", e.Text("b"), "c"], ["|", "abc"]),
    "equal deltas are not duplicates": (["Total: 1", "0", "0"], ["|", "Total: 100"]),
    "a turn of nothing but thinking": ([e.Reasoning("hm"), e.Reasoning("m")], ["|", ["hmm"]]),
    "text and thinking in turn": (
        ["a", e.Reasoning("x"), "b", e.Reasoning("y")],
        ["|", "a", ["x"], "b", ["y"]],
    ),
    "parallel tools do not close each other": (
        [call("a"), call("b"), result("b", 2), result("a", 1)],
        ["|", ("a", "available", 1), ("b", "available", 2)],
    ),
    "what follows the last answer is a new step": (
        ["a", call("a"), result("a"), "b"],
        ["|", "a", ("a", "available", "ok"), "|", "b"],
    ),
    "a tool after the last answer is a new step": (
        [call("a"), result("a"), call("b"), result("b")],
        ["|", ("a", "available", "ok"), "|", ("b", "available", "ok")],
    ),
    "text while tools are open stays in the step": (
        [call("a"), "wait", call("b"), "more", result("a"), result("b")],
        ["|", ("a", "available", "ok"), "wait", ("b", "available", "ok"), "more"],
    ),
    "a result before its call waits for it": (
        [result("a", 1), result("b", 2), "x", call("b"), call("a")],
        ["|", "x", ("b", "available", 2), "|", ("a", "available", 1)],
    ),
    "a result whose call never came is shown": (
        ["x", result("a", 1, name="search"), e.ToolError(id="b", error="no")],
        ["|", "x", ("a", "available", 1), ("b", "error", "no")],
    ),
    "a second result changes nothing": (
        [call("a"), call("b"), result("a", 1), result("a", 2), e.ToolError(id="a", error="no"), result("b", 3)],
        ["|", ("a", "available", 1), ("b", "available", 3)],
    ),
    "a second call with an open id changes nothing": (
        [call("a", input=1), call("a", input=2), result("a")],
        ["|", ("a", "available", "ok")],
    ),
    "an id used again in a later step is another call": (
        [call("a"), result("a", 1), e.Step(), call("a"), result("a", 2)],
        ["|", ("a", "available", 1), "|", ("a~2", "available", 2)],
    ),
    "an id used again without a step is another call": (
        [call("a"), result("a", 1), call("a"), result("a", 2)],
        ["|", ("a", "available", 1), "|", ("a~2", "available", 2)],
    ),
    "an id that looks like a second use": (
        [call("a~2"), call("a"), result("a", 1), call("a"), result("a", 2), result("a~2", 3)],
        ["|", ("a~2", "available", 3), ("a", "available", 1), ("a~3", "available", 2)],
    ),
    "a call without a result is answered": (
        [call("a"), "x"],
        ["|", ("a", "error", "The agent ended without a result for this tool."), "x"],
    ),
    "preliminary results, then the last one": (
        [
            call("a"),
            result("a", 1, preliminary=True),
            "x",
            result("a", 2, preliminary=True),
            result("a", 3),
            result("a", 4),
        ],
        ["|", ("a", "available", 3), "x"],
    ),
    "the last preliminary result stands if none follows": (
        [call("a"), result("a", 1, preliminary=True), result("a", 2, preliminary=True)],
        ["|", ("a", "available", 2)],
    ),
    "an error after a preliminary result": (
        [call("a"), result("a", 1, preliminary=True), e.ToolError(id="a", error="no")],
        ["|", ("a", "error", "no")],
    ),
    "an answer in a later step": (
        [call("a"), e.Step(), "x", result("a"), "y"],
        ["|", ("a", "available", "ok"), "|", "x", "y"],
    ),
    "a step that is announced after the tools answered": (
        [call("a"), result("a"), e.Step(), e.Step(), "x"],
        ["|", ("a", "available", "ok"), "|", "x"],
    ),
    "a file stands where it was said": (
        ["a", e.File(url="/f", media_type="text/csv"), "b"],
        ["|", "a", "file", "b"],
    ),
    "a source does not cut a sentence": (
        ["a", e.Source(id="s", url="u"), "b"],
        ["|", "ab", "source-url"],
    ),
    "transient data does not cut a sentence": (
        ["a", e.Data(name="tick", data=1, transient=True), "b"],
        ["|", "ab"],
    ),
    "data stands where it was said and changes there": (
        ["a", e.Data(name="x", data=1, id="1"), "b", e.Data(name="x", data=2, id="1"), "c"],
        ["|", "a", "data-x", "bc"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_people_see(name: str) -> None:
    events, expected = CASES[name]
    assert shown(speak(events)) == expected


CUT_PAIRS: dict[str, tuple[list[Any], list[Any]]] = {
    "across deltas": (["a\ud83d", "\ude00b"], ["|", "a😀b"]),
    "across deltas with nothing between": (["a\ud83d", "", e.Text("\0"), "\ude00b"], ["|", "a😀b"]),
    "around events that are no part": (
        ["\ud83d", e.Usage(input_tokens=1), e.Data(name="x", data=1, transient=True), "\ude00"],
        ["|", "😀"],
    ),
    "within a delta": (["\ud83d\ude00"], ["|", "😀"]),
    "in thinking": ([e.Reasoning("\ud83d"), e.Reasoning("\ude00")], ["|", ["😀"]]),
    "across a switch of parts": (["a\ud83d", e.Reasoning("\ude00"), "b"], ["|", "a\ufffd", ["\ufffd"], "b"]),
    "by a tool": (
        ["a\ud83d", call("t"), result("t"), "\ude00"],
        ["|", "a\ufffd", ("t", "available", "ok"), "|", "\ufffd"],
    ),
    "by the end": (["a\ud83d"], ["|", "a\ufffd"]),
    "by another half": (["\ud83d", "\ud83d", "\ude00"], ["|", "\ufffd😀"]),
}


@pytest.mark.parametrize("name", CUT_PAIRS)
def test_a_surrogate_pair_cut(name: str) -> None:
    events, expected = CUT_PAIRS[name]
    assert shown(speak(events)) == expected


def test_a_surrogate_pair_cut_in_a_tools_arguments() -> None:
    spoken = speak([e.ToolInput("a", "search", '"\ud83d'), e.ToolInput("a", "search", '\ude00"'), result("a")])
    assert parts_of(spoken)[1]["input"] == "😀"


def test_text_closes_around_every_tool_chunk() -> None:
    spoken = speak(["a", e.ToolInput("t", "search", "{"), "b", e.ToolInput("t", "search", "}"), "c", call("t")])
    assert types(spoken) == [
        *("text-start", "text-delta", "text-end", "tool-input-start", "tool-input-delta"),
        *("text-start", "text-delta", "text-end", "tool-input-delta"),
        *("text-start", "text-delta", "text-end", "tool-input-available", "tool-output-error"),
    ]


ARGUMENTS: dict[str, tuple[list[Any], Any, str]] = {
    "complete in a ToolCall": (
        [e.ToolInput("a", "search", '{"q"'), call("a", input={"q": 1}), result("a")],
        {"q": 1},
        "ok",
    ),
    "complete without a ToolCall": ([e.ToolInput("a", "search", '{"q": 1}'), result("a")], {"q": 1}, "ok"),
    "none at all": ([e.ToolInput("a", "search"), result("a")], {}, "ok"),
    "not JSON": ([e.ToolInput("a", "search", "{q}"), result("a")], "{q}", "ok"),
    "refused by the tool": (
        [e.ToolInput("a", "search", "{q}"), e.ToolError(id="a", error="bad input")],
        "{q}",
        "bad input",
    ),
    "complete when the next step begins": ([e.ToolInput("a", "search", "{}"), e.Step(), result("a")], {}, "ok"),
    "cut by the next step": (
        [e.ToolInput("a", "search", '{"q'), e.Step(), result("a")],
        '{"q',
        "The model stopped before it had written this call's arguments.",
    ),
    "cut by the end": ([e.ToolInput("a", "search", '{"q')], '{"q', "The agent ended without a result for this tool."),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_tools_arguments(name: str) -> None:
    events, written, answer = ARGUMENTS[name]
    part = parts_of(speak(events))[1]
    assert part["input"] == written
    assert answer in (part.get("output"), part.get("errorText"))


def test_a_call_cut_by_the_next_step_can_be_made_again() -> None:
    spoken = speak([e.ToolInput("a", "search", '{"q'), e.Step(), call("a", input={"q": 1}), result("a", 1)])
    assert [part["toolCallId"] for part in parts_of(spoken) if "toolCallId" in part] == ["a", "a~2"]
    assert parts_of(spoken)[-1]["output"] == 1


def test_what_is_known_of_a_call_reaches_the_client() -> None:
    spoken = speak(
        [
            e.ToolInput("a", "first", "{", dynamic=True),
            e.ToolCall(id="a", name="second", title="Find", metadata={"openai": {"id": "x"}}),
            e.ToolInput("b", "static"),
            e.ToolCall(id="b", name="static", dynamic=True),
        ]
    )
    dynamic, static = parts_of(spoken)[1:]
    assert (dynamic["type"], dynamic["toolName"], dynamic["title"]) == ("dynamic-tool", "second", "Find")
    assert dynamic["callProviderMetadata"] == {"openai": {"id": "x"}}
    assert static["type"] == "tool-static"


def test_usage_adds_up_and_the_last_model_stands() -> None:
    framer = speak(
        [
            e.Usage(input_tokens=3, output_tokens=1, model="m1", finish_reason="tool-calls"),
            e.Usage(input_tokens=4, total_tokens=9, model="m2"),
        ]
    ).framer
    assert framer.usage == {"inputTokens": 7, "outputTokens": 1, "totalTokens": 9}
    assert (framer.model, framer.finish_reason) == ("m2", "tool-calls")


def test_a_signature_stays_with_its_thinking() -> None:
    signed = {"anthropic": {"signature": "s"}}
    part = parts_of(speak([e.Reasoning("hm"), e.Reasoning("", metadata=signed), "a"]))[1]
    assert (part["text"], part["providerMetadata"]) == ("hm", signed)


class Str(str):
    """A string as some libraries yield it."""


def test_a_string_of_a_subclass_is_text() -> None:
    assert shown(speak([Str("a"), Str("b"), e.Text(Str("c"))])) == ["|", "abc"]


OUTPUTS: dict[str, tuple[Any, Any]] = {
    "huge integers": ([2**70, -(2**65)], [2**70, -(2**65)]),
    "NaN and infinities": ([float("nan"), {"x": float("-inf")}], [None, {"x": None}]),
    "nested NUL": ({"a\0": ["b\0", {"c": "\0"}]}, {"a": ["b", {"c": ""}]}),
    "nested lone surrogates": ({"\ud800": ["\udc00", "\ud83d\ude00"]}, {"\ufffd": ["\ufffd", "😀"]}),
    "keys that JavaScript refuses": ({"x": {"__proto__": 1}}, {"x": {"(__proto__)": 1}}),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_tools_output(name: str) -> None:
    output, expected = OUTPUTS[name]
    assert parts_of(speak([call("a"), result("a", output)]))[1]["output"] == expected


def test_an_output_belongs_to_the_turn_from_then_on() -> None:
    framer = Framer("msg_1")
    framer.start()
    output = {"rows": [1]}
    framer.feed(call("a"))
    framer.feed(result("a", output))
    output["rows"].append(2)
    tool = framer.view.tool("a")
    assert tool is not None
    assert tool.output == {"rows": [1]}


REFUSED: list[tuple[Any, str]] = [
    (b"text", "the agent yielded bytes, which is no agent event; yield one of str, Text, Snapshot, "),
    (
        result("a", object()),
        "ToolResult.output cannot be written as JSON: object has no JSON form; give plain JSON values",
    ),
    (call("a", input={(1,): 2}), "ToolCall.input cannot be written as JSON: tuple has no JSON form"),
    (e.Text(3), "Text.text must be a string, not int"),  # type: ignore[arg-type]
    (e.ToolCall(id="\0", name="x"), "ToolCall.id must not be empty"),
    (e.Reasoning("", metadata={"anthropic": "s"}), "Reasoning.metadata must be objects by provider"),  # type: ignore[dict-item]
    (e.Data(name="turnwire", data=1), "Data.name 'turnwire' is reserved; choose another name"),
    (e.Usage(input_tokens=-1), "Usage.input_tokens must be a whole number of tokens from 0 on, not -1"),
    (e.Usage(finish_reason="x"), "Usage.finish_reason must be one of stop, length, "),  # type: ignore[arg-type]
    (e.Step(retry=1), "Step.retry must be True or False, not int"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("event", "message"), REFUSED)
def test_a_refusal_says_what_and_what_to_do(event: Any, message: str) -> None:
    spoken = speak([call("a"), event])
    assert [str(error)[: len(message)] for error in spoken.refused] == [message]


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    (refusal,) = speak([call("a", input=loop)]).refused
    assert str(refusal) == "ToolCall.input cannot be written: it is nested too deeply or holds itself"


def test_results_that_wait_for_calls_are_bounded() -> None:
    spoken = speak([result(f"r{number}") for number in range(1001)])
    assert [str(error) for error in spoken.refused] == [
        "1000 tool results wait for their calls, the first for 'r0'; yield a ToolCall with the id of each result"
    ]
    assert len(shown(spoken)) == 1001
