"""The adapter of the OpenAI Agents SDK, with stand-ins for the SDK's objects."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace as Thing
from typing import Any

import pytest

from turnwire.agents._framework_history import NOT_FINISHED, entries
from turnwire.agents.openai_agents import input_items, openai_agent
from turnwire.events import Data, Reasoning, Source, Step, Text, ToolCall, ToolError, ToolInput, ToolResult, Usage
from turnwire.turn import AgentError, PendingCall, Resolution

pytestmark = pytest.mark.anyio


@dataclasses.dataclass
class Config:
    model_settings: Any = None
    tool_error_formatter: Any = None


@dataclasses.dataclass
class Settings:
    include_usage: bool | None = None


class Result:
    """A run: events, exceptions to raise, and callables that the SDK would call in between."""

    def __init__(self, steps: list[Any], options: dict[str, Any], **more: Any) -> None:
        self.final_output: Any = more.get("output", "said")
        self.interruptions: list[Any] = more.get("interruptions", [])
        self.cancelled = False
        self.options = options
        self._event_queue: asyncio.Queue[Any] = asyncio.Queue()
        self._steps = steps

    async def stream_events(self) -> AsyncIterator[Any]:
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if callable(step):
                await step(self.options)
            else:
                yield step

    def cancel(self) -> None:
        self.cancelled = True

    def to_state(self) -> Any:
        return Thing(to_json=lambda **_: {"context": {"context": {"key": "secret"}}, "step": 1})


class SDK:
    """The SDK, whose only run goes through `steps`; `results` are the runs that were made."""

    def __init__(self, steps: list[Any], **more: Any) -> None:
        self.results: list[Result] = []
        self.inputs: list[Any] = []
        self.RunConfig, self.ModelSettings, self.RunHooks = Config, Settings, object
        self.Runner = Thing(run_streamed=self._run)
        self.RunState = Thing(from_json=self._restored)
        self.state = Thing(answers=[], json=None)
        self._steps, self._more = steps, more

    def _run(self, agent: Any, given: Any, **options: Any) -> Result:
        self.inputs.append(given)
        self.results.append(Result(self._steps, options, **self._more))
        return self.results[-1]

    async def _restored(self, agent: Any, stored: Any, *, context_override: Any) -> Any:
        state, self.state.json = self.state, stored
        return Thing(
            get_interruptions=lambda: [Thing(call_id="c1"), Thing(call_id="c2")],
            approve=lambda asked: state.answers.append((asked.call_id, True, None)),
            reject=lambda asked, rejection_message: state.answers.append((asked.call_id, False, rejection_message)),
        )


def raw(kind: str, **fields: Any) -> Thing:
    return Thing(type="raw_response_event", data=Thing(type=f"response.{kind}", **fields))


def item(kind: str, raw_item: Any, **fields: Any) -> Thing:
    return Thing(type="run_item_stream_event", item=Thing(type=kind, raw_item=raw_item, **fields))


def call(own: str = "c1", arguments: str = '{"a": 1}', **fields: Any) -> Thing:
    return Thing(
        **{"type": "function_call", "call_id": own, "name": "look", "arguments": arguments, "id": "f", **fields}
    )


def response(*output: Any, own: str = "resp_1", **fields: Any) -> Thing:
    usage = Thing(input_tokens=1, output_tokens=2, total_tokens=3)
    return Thing(id=own, output=list(output), model="m", usage=usage, incomplete_details=None, **fields)


async def said(monkeypatch: pytest.MonkeyPatch, sdk: SDK, *, turn: Any = None, **options: Any) -> tuple[list[Any], str]:
    """What a turn says, and the reason of its failure."""
    monkeypatch.setitem(sys.modules, "agents", sdk)
    found: list[Any] = []
    turn = turn or Thing(files=[], messages=[], quote=None, text="hi", resolutions=())
    try:
        async with aclosing(openai_agent("agent", **options)(turn)) as events:
            async for event in events:
                found.append(event)  # noqa: PERF401 - what was said stays when the agent fails
    except AgentError as error:
        return found, str(error)
    return found, ""


async def test_an_answer_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = SDK(
        [
            raw("created"),
            raw("reasoning_summary_text.delta", delta="Hm."),
            raw("reasoning_summary_part.added", summary_index=1),
            raw("output_text.delta", delta="Look: "),
            raw("output_text.annotation.added", annotation={"url": "https://a.example", "title": "A"}),
            raw("output_item.added", output_index=1, item=call(arguments="")),
            raw("function_call_arguments.delta", output_index=1, delta='{"a": 1}'),
            raw("completed", response=response(call())),
            item("tool_call_item", call()),
            item("tool_call_item", {"type": "web_search_call", "id": "w1", "action": {"query": "x"}, "status": "done"}),
            item("tool_call_output_item", {"call_id": "c1", "output": "x"}, output={"n": 2}),
            item(
                "handoff_output_item",
                {"call_id": "h1", "output": "ok"},
                source_agent=Thing(name="A"),
                target_agent=Thing(name="B"),
            ),
        ]
    )
    found, why = await said(monkeypatch, sdk)
    assert why == ""
    assert found == [
        Step(),
        Reasoning("Hm."),
        Reasoning("\n\n"),
        Text("Look: "),
        Source(id="https://a.example", url="https://a.example", title="A"),
        ToolInput("c1", "look"),
        ToolInput("c1", "look", '{"a": 1}'),
        Usage(input_tokens=1, output_tokens=2, total_tokens=3, model="m", finish_reason="tool-calls"),
        ToolCall(id="c1", name="look", input={"a": 1}),
        ToolCall(id="w1", name="web_search_call", input={"query": "x"}),
        ToolResult(id="w1", output={"status": "done"}),
        ToolResult(id="c1", output={"n": 2}),
        ToolResult(id="h1", output="ok"),
        Data(name="handoff", data={"from": "A", "to": "B"}),
    ]
    assert sdk.results[0].cancelled
    assert sdk.results[0].options["run_config"].model_settings.include_usage is True


@pytest.mark.parametrize(
    ("output", "tokens", "require", "why"),
    [
        (call(arguments='{"a'), 3, True, "was writing a tool call"),
        (call(id="__fake_id__"), 0, True, "ended before its answer was complete"),
        (call(id="__fake_id__"), 0, False, ""),
        (call(id="__fake_id__"), 3, True, ""),
        (call(), 0, True, ""),
    ],
)
async def test_the_gate_between_an_answer_and_its_tools(
    output: Any, tokens: int, require: bool, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Thing(output=[output], usage=Thing(total_tokens=tokens))
    sdk = SDK([lambda options: options["hooks"].on_llm_end(None, None, answer)])
    _, failure = await said(monkeypatch, sdk, require_usage=require)
    assert why in failure
    assert bool(failure) == bool(why)


async def test_tools_that_fail_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def formatted(failure: Any) -> str:
        return f"own words for {failure.call_id}"

    told: list[Any] = []

    async def fails(options: dict[str, Any]) -> None:
        failure = Thing(kind="tool_exception", call_id="c1", tool_name="look", error=KeyError("secret"))
        told.append(await options["run_config"].tool_error_formatter(failure))

    sdk = SDK(
        [fails, item("tool_call_output_item", {"call_id": "c1"}, output="x"), raw("output_text.delta", delta="y")]
    )
    found, _ = await said(monkeypatch, sdk, run_config=Config(tool_error_formatter=formatted))
    assert found[0] == ToolError(id="c1", error="The tool look failed (KeyError).")
    assert told == ["own words for c1"]


@pytest.mark.parametrize(
    ("reason", "output", "finish", "why"),
    [
        ("max_output_tokens", (), "length", ""),
        ("content_filter", (), "content-filter", ""),
        ("max_output_tokens", (call(),), "length", "was writing a tool call"),
    ],
)
async def test_an_incomplete_response(
    reason: str, output: Any, finish: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    incomplete = response(*output)
    incomplete.incomplete_details = Thing(reason=reason)
    sdk = SDK(
        [raw("output_text.delta", delta="Hel"), raw("incomplete", response=incomplete), ValueError("the SDK raises")]
    )
    found, failure = await said(monkeypatch, sdk)
    assert [each.finish_reason for each in found if isinstance(each, Usage)] == [finish]
    assert (found[0], why in failure, bool(failure)) == (Text("Hel"), True, bool(why))


async def test_an_end_without_an_answer_is_a_failure_and_structured_output_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await said(monkeypatch, SDK([], output=None)) == ([], "The agent ended without an answer.")
    found, _ = await said(monkeypatch, SDK([], output={"city": "Oslo"}))
    assert found == [Text('```json\n{"city":"Oslo"}\n```')]


async def test_an_approval_keeps_the_run_without_its_context_and_goes_on_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = [Thing(call_id=own, tool_name="look", name="look", raw_item=call(own)) for own in ("c1", "c2")]
    found, _ = await said(monkeypatch, SDK([], output=None, interruptions=asked), context=lambda _: {"key": "secret"})
    state = {"context": {"context": {}}, "step": 1}
    asking: dict[str, Any] = {"name": "look", "input": {"a": 1}, "needs_approval": True}
    assert found == [ToolCall(id="c1", state=state, **asking), ToolCall(id="c2", **asking)]
    given = [
        Resolution(approval_id="2", approved=False, reason="no", call=PendingCall("c2", "look")),
        Resolution(approval_id="1", approved=True, reason=None, call=PendingCall("c1", "look"), state=state),
    ]
    outputs = [item("tool_call_output_item", {"call_id": own}, output=own) for own in ("c1", "c2")]
    sdk = SDK([*outputs, raw("output_text.delta", delta="Done.")])
    found, _ = await said(monkeypatch, sdk, turn=Thing(resolutions=tuple(given)))
    assert sdk.state.json == state
    assert sdk.state.answers == [("c1", True, None), ("c2", False, "A person did not allow this call. no")]
    assert found == [ToolResult(id="c1", output="c1"), Text("Done.")]


async def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        await said(monkeypatch, SDK([KeyError("x")]))


def test_a_conversation_as_input() -> None:
    tool = {"type": "tool-look", "toolCallId": "c1", "input": {"a": 1}}
    found = input_items(
        entries(
            [
                {"role": "system", "parts": [{"type": "text", "text": "Be kind."}]},
                {
                    "role": "user",
                    "parts": [
                        {"type": "text", "text": "One?"},
                        {"type": "file", "url": "u1", "mediaType": "application/pdf", "filename": "a.pdf"},
                    ],
                },
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "reasoning", "text": "SECRET"},
                        {"type": "text", "text": "I look."},
                        {**tool, "state": "output-available", "output": {"n": 2}},
                        {**tool, "state": "input-available"},
                        {"type": "text", "text": "Two."},
                        {"type": "step-start"},
                        {"type": "text", "text": "Three."},
                    ],
                },
            ],
            {"u1": b"%PDF"},
        )
    )
    pdf = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    assert found == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "One?"}, pdf]},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "call_2", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": '{"n":2}'},
        {"type": "function_call_output", "call_id": "call_2", "output": NOT_FINISHED},
        {"role": "assistant", "content": "Two."},
        {"role": "assistant", "content": "Three."},
    ]
