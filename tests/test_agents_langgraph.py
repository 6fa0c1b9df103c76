"""The adapter of LangGraph, with stand-ins for the library's objects."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace as Thing
from typing import Any

import pytest

from turnwire.agents._framework_history import entries
from turnwire.agents._langgraph_messages import check, finish, messages
from turnwire.agents.langgraph import langgraph_agent
from turnwire.events import Data, Reasoning, Step, Text, ToolCall, ToolError, ToolInput, ToolResult, Usage
from turnwire.turn import AgentError, PendingCall, Resolution

pytestmark = pytest.mark.anyio


def message(kind: str = "AIMessageChunk", content: Any = "", **fields: Any) -> Any:
    about: dict[str, Any] = {"additional_kwargs": {}, "response_metadata": {}, "usage_metadata": None, "tool_calls": []}
    return Thing(**{"type": kind, "content": content, "id": None, "tool_call_chunks": [], **about, **fields})


class Graph:
    """A graph whose stream is `steps`; a callable step gets the run's settings."""

    def __init__(self, *steps: Any, checkpointer: Any = None, kept: list[Any] | None = None) -> None:
        self.checkpointer = checkpointer
        self.inputs: list[Any] = []
        self.settings: dict[str, Any] = {}
        self._steps, self._kept = steps, kept

    async def aget_state(self, settings: Any) -> Any:
        return Thing(values={"messages": self._kept} if self._kept else {})

    async def astream(self, given: Any, settings: Any, **_: Any) -> AsyncIterator[Any]:
        self.inputs.append(given)
        self.settings = settings
        for step in self._steps:
            if callable(step):
                step(settings)
            else:
                yield step


def at(node: str, said: Any) -> Any:
    return ((), "messages", (said, {"langgraph_checkpoint_ns": f"{node}:1", "langgraph_node": node}))


def user(text: str = "hi") -> dict[str, Any]:
    return {"role": "user", "parts": [{"type": "text", "text": text}]}


def turn(*before: dict[str, Any], resolutions: Any = ()) -> Any:
    return Thing(
        files=[],
        quote=None,
        text="hi",
        messages=[*before, user()],
        user="ada",
        conversation="c",
        resolutions=resolutions,
    )


@pytest.fixture(autouse=True)
def _library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain_core.callbacks", Thing(BaseCallbackHandler=object))
    monkeypatch.setitem(sys.modules, "langgraph.types", Thing(Command=lambda resume: {"resume": resume}))


async def said(graph: Graph, given: Any = None, **options: Any) -> tuple[list[Any], str]:
    """What a turn says, and the reason of its failure."""
    found: list[Any] = []
    try:
        async with aclosing(langgraph_agent(graph, **options)(given or turn())) as events:
            async for event in events:
                found.append(event)  # noqa: PERF401 - what was said stays when the agent fails
    except AgentError as error:
        return found, str(error)
    return found, ""


CALL = {"id": "c1", "name": "look", "args": {"a": 1}, "type": "tool_call"}


async def test_an_answer_with_everything() -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    graph = Graph(
        at("model", message(content=[{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Look: "}])),
        at("model", message(tool_call_chunks=[{"id": "c1", "name": "look", "args": '{"a', "index": 1}])),
        at("model", message(tool_call_chunks=[{"id": None, "name": None, "args": '": 1}', "index": 1}])),
        at(
            "model", message(response_metadata={"finish_reason": "tool_calls", "model_name": "m"}, usage_metadata=usage)
        ),
        ((), "updates", {"model": {"messages": [message("ai", tool_calls=[CALL])]}}),
        ((), "custom", {"name": "progress", "data": 1, "id": 7}),
        ((), "custom", "half"),
        at("tools", message("tool", "here", tool_call_id="c1", status="error")),
        at("tools", message("tool", "nobody asked", tool_call_id="c9", status="success")),
        ((), "messages", (message(content="Done."), {"langgraph_checkpoint_ns": "model:2"})),
    )
    found, why = await said(graph)
    assert why == ""
    assert found == [
        Step(),
        Reasoning("Hm."),
        Text("Look: "),
        ToolInput("c1", "look", '{"a'),
        ToolInput("c1", "look", '": 1}'),
        Usage(input_tokens=1, output_tokens=2, total_tokens=3, model="m", finish_reason="tool-calls"),
        ToolCall(id="c1", name="look", input={"a": 1}),
        Data(name="progress", data=1, id="7"),
        Data(name="custom", data="half"),
        ToolError(id="c1", error="here"),
        Step(),
        Text("Done."),
    ]


@pytest.mark.parametrize(
    ("about", "fields", "why"),
    [
        ({"finish_reason": "stop"}, {}, ""),
        ({"stop_reason": "end_turn"}, {}, ""),
        ({"status": "completed"}, {"tool_calls": [CALL]}, ""),
        ({"finish_reason": "length"}, {}, ""),
        ({}, {}, "ended before its answer was complete"),
        ({"status": "in_progress"}, {}, "ended before its answer was complete"),
        ({"status": "failed"}, {}, "ended the answer with an error"),
        ({"finish_reason": "length"}, {"tool_calls": [CALL]}, "was writing a tool call"),
        ({"stop_reason": "max_tokens"}, {"tool_calls": [CALL]}, "was writing a tool call"),
        (
            {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
            {"tool_calls": [CALL]},
            "was writing a tool call",
        ),
        ({"finish_reason": "stop"}, {"tool_call_chunks": [{"args": '{"a'}]}, "was writing a tool call"),
        ({"finish_reason": "stop"}, {"invalid_tool_calls": [{"args": "{x"}]}, "cannot be read"),
        ({"finish_reason": "stop"}, {"tool_calls": [{"id": None, "name": "", "args": {}}]}, "cannot be read"),
    ],
)
async def test_the_gate_between_an_answer_and_the_next_node(about: Any, fields: Any, why: str) -> None:
    answer = message(response_metadata=about, **fields)

    def model_ends(settings: Any) -> None:
        (gate,) = settings["callbacks"]
        assert gate.raise_error
        assert gate.run_inline
        gate.on_llm_end(Thing(generations=[[Thing(message=answer)]]), run_id="1")

    found, failure = await said(Graph(model_ends, at("tools", message("ai", "reached"))), nodes={"tools"})
    assert why in failure
    assert bool(failure) == bool(why)
    assert (Text("reached") in found) == (not why)


def test_a_finish_need_not_be_told_if_it_is_not_required() -> None:
    check(message(), require_finish=False)
    assert finish(message(response_metadata={"finish_reason": "SAFETY"})) == "content-filter"
    assert finish(message(response_metadata={"finish_reason": "new word"})) == "other"


async def test_an_answer_that_broke_off_is_told_again() -> None:
    def breaks(settings: Any) -> None:
        settings["callbacks"][0].on_llm_error(ValueError(), run_id="1")

    graph = Graph(
        at("model", message(content="Hel", id="lc_run--1")),
        breaks,
        at("model", message(content="Hello", id="lc_run--2")),
    )
    found, _ = await said(graph)
    assert found == [Step(), Text("Hel"), Step(retry=True), Text("Hello")]


async def test_which_nodes_are_heard() -> None:
    steps = [
        at("first", message(content="a")),
        at("last", message(content="b")),
        ((), "messages", (message(content="c"), {"langgraph_checkpoint_ns": "last:1|inner:2"})),
        ((), "messages", (message(content="d"), {"langgraph_checkpoint_ns": "last:1|tools:2"})),
    ]
    graph: Any = Graph(*steps)
    graph.get_graph = lambda: Thing(
        edges=[Thing(source="first", target="last"), Thing(source="last", target="__end__")]
    )

    async def heard(**options: Any) -> str:
        return "".join(event.text for event in (await said(graph, **options))[0] if isinstance(event, Text))

    assert await heard() == "bc"
    assert await heard(nodes={"first", "inner"}) == "ac"
    del graph.get_graph
    assert await heard() == "abc"


async def test_what_the_graph_gets() -> None:
    first = {"role": "assistant", "parts": [{"type": "text", "text": "Yes?"}]}
    question = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    whole = {
        "messages": [
            {**question, "content": [{"type": "text", "text": "One"}]},
            {"role": "assistant", "content": "Yes?"},
            question,
        ]
    }
    plain = Graph()
    await said(plain, turn(user("One"), first))
    assert plain.inputs == [whole]
    forgot = Graph(checkpointer="there")
    await said(forgot, turn(user("One"), first), config={"configurable": {"x": 1}, "callbacks": ["own"]})
    assert forgot.inputs == [whole]
    assert forgot.settings["configurable"] == {"thread_id": "ada/c", "x": 1}
    assert forgot.settings["callbacks"][0] == "own"
    kept = Graph(checkpointer="there", kept=[message("human"), message("ai", tool_calls=[CALL])])
    await said(kept, turn(user("One"), first))
    (closed, asked) = kept.inputs[0]["messages"]
    assert (closed["role"], closed["tool_call_id"], asked) == ("tool", "c1", question)
    own = Graph()
    await said(own, make_input=lambda given: {"question": given.text})
    assert own.inputs == [{"question": "hi"}]


def interrupt(*requests: Any, own: str = "i1", value: Any = None) -> Any:
    return (
        (),
        "updates",
        {"__interrupt__": (Thing(id=own, value={"action_requests": list(requests)} if requests else value),)},
    )


async def test_what_a_person_is_asked() -> None:
    two = [CALL, {**CALL, "id": "c2", "args": {"a": 2}}]
    answered = ((), "updates", {"model": {"messages": [message("ai", tool_calls=two)]}})
    requests = [{"name": "look", "args": {"a": 2}}, {"name": "send", "args": {}}]
    found, _ = await said(Graph(answered, interrupt(*requests)))
    state = {"interrupt": "i1", "of": 2}
    assert found[2:] == [
        ToolCall(id="c2", name="look", input={"a": 2}, needs_approval=True, state={**state, "index": 0}),
        ToolCall(id="i1-1", name="send", input={}, needs_approval=True, state={**state, "index": 1}),
    ]
    found, _ = await said(Graph(interrupt(value="Sure?")))
    asked = ToolCall(
        id="i1",
        name="approval",
        input={"question": "Sure?"},
        needs_approval=True,
        dynamic=True,
        state={"interrupt": "i1", "of": 0, "index": 0},
    )
    assert found == [asked]


async def test_going_on_after_a_person_answered() -> None:
    def answer(own: str, index: int, of: int, approved: bool, interrupted: str = "i1") -> Resolution:
        state = {"interrupt": interrupted, "of": of, "index": index}
        call = PendingCall(own, "look")
        return Resolution(approval_id=own, approved=approved, reason="far", call=call, state=state)

    given = (answer("c2", 1, 2, False), answer("c1", 0, 2, True), answer("x", 0, 0, True, "i2"))
    again = message("ai", "Look: ", tool_calls=[CALL, {**CALL, "id": "c2"}])
    graph = Graph(
        at("model", again),
        ((), "updates", {"model": {"messages": [again]}}),
        at("tools", message("tool", "here", tool_call_id="c1")),
        at("tools", message("tool", "denied", tool_call_id="c2", status="error")),
    )
    found, _ = await said(graph, turn(resolutions=given))
    assert found == [ToolResult(id="c1", output="here")]
    denied = {"type": "reject", "message": "A person did not allow this call. far"}
    assert graph.inputs == [{"resume": {"i1": {"decisions": [{"type": "approve"}, denied]}, "i2": True}}]


async def test_other_errors_stay_what_they_are() -> None:
    def fails(_: Any) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await said(Graph(fails))


def test_a_conversation_as_messages() -> None:
    tool = {"type": "tool-look", "toolCallId": "c1", "state": "output-error", "input": {"a": 1}, "errorText": "no"}
    image = {"type": "file", "url": "u1", "mediaType": "image/png", "filename": "a.png"}
    found = messages(
        entries([{"role": "user", "parts": [image]}, {"role": "assistant", "parts": [tool]}], {"u1": b"png"})
    )
    assert found == [
        {"role": "user", "content": [{"type": "image", "base64": "cG5n", "mime_type": "image/png"}]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "no", "status": "error"},
    ]
