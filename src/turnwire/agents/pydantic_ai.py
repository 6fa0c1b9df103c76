"""A pydantic-ai agent as a Turnwire agent.

Guarantee: a turn succeeds only if the provider said that each of its answers is finished; a finish that a library made
up does not count, and no tool runs on an answer that was cut. What a model or a provider reports as an error becomes an
`AgentError` on one line, without secrets and without response bodies.

This module needs `turnwire[pydantic-ai]`.
"""

from __future__ import annotations

import contextlib
import http
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import httpx2
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import DeferredToolRequests
from pydantic_ai.agent import AbstractAgent
from pydantic_ai.exceptions import (
    AgentRunError,
    ContentFilterError,
    IncompleteToolCall,
    ModelAPIError,
    ModelHTTPError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallEvent,
    ToolCallPart,
    ToolCallPartDelta,
    ToolResultEvent,
    UserContent,
    WebCitationSource,
)
from pydantic_core import to_json, to_jsonable_python

from ..events import (
    AgentEvent,
    FinishReason,
    Reasoning,
    Snapshot,
    Source,
    Step,
    Text,
    ToolCall,
    ToolError,
    ToolInput,
    ToolResult,
    Usage,
)
from ..turn import AgentError
from ._guard_errors import guard_error
from ._pydantic_approvals import asked, resumed
from ._pydantic_history import conversation, signature
from .chat_reader import ModelStreamError, error_text, redactor
from .guard import watched_streams

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_call": "tool-calls",
}
# Models that run in this process and have no stream that could break.
_NO_PROVIDER = (None, "test", "function")

_CUT = "The model's stream ended before its answer was complete."
_CUT_CALL = "The model reached its output limit while it was writing a tool call; the call was not run."
_UNRUN = {
    "length": _CUT_CALL,
    "content_filter": "The model's provider stopped the answer at a tool call; the call was not run.",
}
"""Why the calls of an answer with this finish are not run."""
WITHHELD = "The model's provider withheld the answer: its content filter was triggered."


def pydantic_agent(
    agent: AbstractAgent[Any, Any],
    *,
    deps: Callable[[Turn], Any] | None = None,
    redact: Callable[[str], str] | None = None,
) -> Agent:
    """A Turnwire agent that runs `agent` on the conversation, with its own model, tools, instructions and limits.

    Output that is no text is said as JSON at the end. A tool that raises ends the turn, as it ends any such run.

    Args:
        deps: gives the dependencies of one run.
        redact: makes a provider's text showable; by default one that knows the usual shapes of keys.
    """
    clean = redact or redactor()

    async def run_turn(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        try:
            # Left to the garbage collector, a run would be ended later, and by another task.
            async with contextlib.aclosing(_run(agent, turn, deps(turn) if deps else None)) as events:
                async for event in events:
                    yield event
        except UserError as error:
            raise AgentError(f"The agent is not set up rightly: {clean(str(error))}") from error
        except (AgentRunError, httpx2.TransportError) as error:
            # The body that the cause quotes belongs neither to people nor into a log.
            raise readable(error, clean) from None

    return run_turn


async def _run(agent: AbstractAgent[Any, Any], turn: Turn, deps: Any) -> AsyncGenerator[AgentEvent, None]:
    before = resumed(turn)
    prompt: list[UserContent] | None = None
    if before is not None:
        history = before.history
    else:
        prompt, history = await conversation(turn, provider=_provider(agent))
        if history:
            history = await _with_system_prompts(agent, history, deps)
    shown = before.shown if before is not None else {}
    results = before.results if before is not None else None
    spoken = False
    sources: set[str] = set()
    async with agent.iter(prompt, message_history=history or None, deps=deps, deferred_tool_results=results) as run:
        async for node in run:
            if PydanticAgent.is_model_request_node(node):
                yield Step()
                answer = _Answer()
                with watched_streams() as guards:
                    async with node.stream(run.ctx) as stream:
                        async for event in stream:
                            for said in answer.read(event):
                                yield said
                        response = stream.response
                spoken = answer.spoken
                finish = _finish(response, marked=any("no-finish" in guard.flags for guard in guards[-1:]))
                for said in answer.rest(response, sources):
                    yield said
                for file in response.files:
                    await turn.attach(file.data, media_type=file.media_type)
                yield _usage(response, finish)
                for refused in _refused(response):
                    yield refused
                _check(response, finish)
                if finish == "content-filter" and not spoken:
                    # The library would fail now, and what the model said instead of an answer would be lost.
                    yield Text((response.provider_details or {}).get("refusal") or f"*{WITHHELD}*")
                    return
            elif PydanticAgent.is_call_tools_node(node):
                async with node.stream(run.ctx) as events:
                    async for event in events:
                        for said in _tool_events(event, shown):
                            yield said
    output = run.result.output if run.result is not None else None
    if isinstance(output, DeferredToolRequests):
        for said in asked(output, run.all_messages()):
            yield said
    elif not spoken and output is not None and not isinstance(output, str | BinaryContent):
        yield Text(f"```json\n{to_json(output, indent=2, fallback=str).decode()}\n```")


async def _with_system_prompts(
    agent: AbstractAgent[Any, Any], history: list[ModelMessage], deps: Any
) -> list[ModelMessage]:
    """`history` with the agent's system prompts, which pydantic-ai itself adds to new conversations only."""
    prompts = await agent.system_prompt_parts(deps=deps, message_history=history)
    if prompts and isinstance(first := history[0], ModelRequest):
        return [ModelRequest(parts=[*prompts, *first.parts]), *history[1:]]
    return history


def _provider(agent: AbstractAgent[Any, Any]) -> str:
    """The provider of the agent's model, as far as the agent names one."""
    model = agent.model
    return model.partition(":")[0] if isinstance(model, str) else getattr(model, "system", "")


class _Answer:
    """One answer of the model while it streams.

    The provider runs tools of its own in the middle of an answer; their calls and results come as parts of it.
    """

    def __init__(self) -> None:
        self.spoken = False
        self._calls: dict[int, ToolCallPart | NativeToolCallPart] = {}
        self._texts: list[int] = []
        self._thoughts = 0
        self._called: set[str] = set()
        self._answered: set[str] = set()

    def read(self, event: object) -> Iterator[AgentEvent]:
        if isinstance(event, PartStartEvent):
            yield from self._start(event.index, event.part)
        elif isinstance(event, PartDeltaEvent):
            yield from self._delta(event.index, event.delta)
        elif isinstance(event, PartEndEvent):
            yield from self._end(event.part)

    def rest(self, response: ModelResponse, sources: set[str]) -> Iterator[AgentEvent]:
        """What is certain only when the answer is whole; `sources` are those already named, to which it adds."""
        for part in response.parts:
            if isinstance(part, NativeToolCallPart):
                yield from self._end(part)
            elif isinstance(part, NativeToolReturnPart):
                yield from self._result(part)
            elif isinstance(part, TextPart):
                for source in (source for citation in part.citations or () for source in citation.sources):
                    if isinstance(source, WebCitationSource) and source.url not in sources:
                        sources.add(source.url)
                        yield Source(id=source.url, url=source.url, title=source.title)

    def _start(self, index: int, part: object) -> Iterator[AgentEvent]:
        if not isinstance(part, ThinkingPart):
            self._thoughts = 0
        if isinstance(part, TextPart):
            again = self._texts[-1:] == [index]
            self._texts.append(index)
            if again:
                # A part that begins anew replaces what it said.
                yield Snapshot(part.content)
            else:
                yield from self._text(part.content)
        elif isinstance(part, ThinkingPart):
            self._thoughts += 1
            if part.content:
                yield Reasoning(part.content)
        elif isinstance(part, ToolCallPart | NativeToolCallPart):
            again = index in self._calls
            self._calls[index] = part
            if not again:
                # Arguments that come as an object are complete only with the call.
                yield ToolInput(part.tool_call_id, part.tool_name, part.args if isinstance(part.args, str) else "")
        elif isinstance(part, NativeToolReturnPart) and part.content:
            # What is empty now may be filled at the end of the answer.
            yield from self._result(part)

    def _delta(self, index: int, delta: object) -> Iterator[AgentEvent]:
        if isinstance(delta, TextPartDelta):
            yield from self._text(delta.content_delta)
        elif isinstance(delta, ThinkingPartDelta):
            if delta.content_delta:
                yield Reasoning(delta.content_delta)
        elif isinstance(delta, ToolCallPartDelta):
            call = self._calls.get(index)
            if call is not None and isinstance(delta.args_delta, str) and delta.args_delta:
                yield ToolInput(call.tool_call_id, call.tool_name, delta.args_delta)

    def _end(self, part: object) -> Iterator[AgentEvent]:
        if isinstance(part, NativeToolCallPart):
            if part.tool_call_id not in self._called:
                self._called.add(part.tool_call_id)
                yield ToolCall(id=part.tool_call_id, name=part.tool_name, input=part.args_as_dict())
        elif isinstance(part, ThinkingPart) and part.provider_name and (signed := signature(part)):
            # Thoughts in a row become one part, and none of their signatures fits the whole.
            yield Reasoning("", metadata={part.provider_name: signed if self._thoughts == 1 else {}})

    def _result(self, part: NativeToolReturnPart) -> Iterator[AgentEvent]:
        if part.tool_call_id in self._answered:
            return
        self._answered.add(part.tool_call_id)
        if part.tool_call_id not in self._called:
            # Some calls are known by their results only.
            self._called.add(part.tool_call_id)
            known = (call for call in self._calls.values() if call.tool_call_id == part.tool_call_id)
            arguments = next((call.args_as_dict() for call in known), {})
            yield ToolCall(id=part.tool_call_id, name=part.tool_name, input=arguments)
        if part.outcome == "success":
            yield ToolResult(id=part.tool_call_id, output=_json(part.content), name=part.tool_name)
        else:
            yield ToolError(id=part.tool_call_id, error=part.model_response_str(), name=part.tool_name)

    def _text(self, text: str) -> Iterator[AgentEvent]:
        if text:
            self.spoken = True
            yield Text(text)


def _tool_events(event: object, shown: Mapping[str, str]) -> Iterator[AgentEvent]:
    """What a tool was asked and answered; `shown` are the ids of calls of an earlier turn as people see them."""
    if isinstance(event, ToolCallEvent):
        if event.tool_call_id in shown:
            return
        try:
            arguments = event.part.args_as_dict(raise_if_invalid=True)
        except (ValueError, AssertionError):
            # The call stays as the model wrote it, and the refusal that follows answers it.
            return
        yield ToolCall(id=event.tool_call_id, name=event.part.tool_name, input=arguments)
    elif isinstance(event, ToolResultEvent):
        part = event.part
        own = shown.get(part.tool_call_id, part.tool_call_id)
        if part.outcome == "success":
            yield ToolResult(id=own, output=_json(part.content), name=part.tool_name)
        else:
            why = part.content if isinstance(part.content, str) else part.model_response_str()
            yield ToolError(id=own, error=why, name=part.tool_name)


def _json(content: Any) -> Any:
    """What a tool answered, as JSON; files in it are described."""
    if isinstance(content, BinaryContent):
        return {"type": "file", "mediaType": content.media_type, "size": len(content.data)}
    if isinstance(content, list | tuple):
        return [_json(item) for item in content]
    if isinstance(content, dict):
        return {str(key): _json(item) for key, item in content.items()}
    return to_jsonable_python(content, fallback=str, bytes_mode="base64")


def _usage(response: ModelResponse, finish: FinishReason | None) -> Usage:
    usage = response.usage
    counted = usage.has_values()
    return Usage(
        input_tokens=usage.input_tokens if counted else None,
        output_tokens=usage.output_tokens if counted else None,
        total_tokens=usage.total_tokens if counted else None,
        model=response.model_name,
        finish_reason=finish,
    )


def _finish(response: ModelResponse, *, marked: bool) -> FinishReason | None:
    """Why the provider ended the answer; None if it did not: pydantic-ai keeps its word beside a reading of its own.

    `marked`: the stream had the provider's end marker but no reason. That is an end, but not one of a call.
    """
    if response.state != "complete":
        return None
    if marked:
        return None if response.tool_calls else "other"
    word = (response.provider_details or {}).get("finish_reason")
    if word is None and response.finish_reason in (None, "stop") and response.provider_name not in _NO_PROVIDER:
        return None
    return _FINISH.get(response.finish_reason or "", "other")


def _refused(response: ModelResponse) -> Iterator[AgentEvent]:
    """The calls of an answer that was cut: nobody can tell whether their arguments are whole."""
    why = _UNRUN.get(response.finish_reason or "")
    for call in response.tool_calls if why else ():
        yield ToolError(id=call.tool_call_id, error=why or "", name=call.tool_name)


def _check(response: ModelResponse, finish: FinishReason | None) -> None:
    if response.finish_reason == "error":
        raise ModelStreamError("The model's provider ended the answer with an error.")
    if finish is None:
        raise ModelStreamError(_CUT)
    if response.tool_calls and (why := _UNRUN.get(response.finish_reason or "")):
        raise ModelStreamError(why)


def readable(error: Exception, redact: Callable[[str], str]) -> AgentError:
    """What people may read about a failure of pydantic-ai, a provider or the connection."""
    if (guarded := guard_error(error)) is not None:
        return ModelStreamError(redact(str(guarded)))
    if isinstance(error, httpx2.TransportError):
        what = redact(str(error)) or type(error).__name__
        return ModelStreamError(f"The connection to the model broke before its answer was complete: {what}")
    if isinstance(error, ModelHTTPError):
        said = redact(error_text(error.body) or "")
        if error.in_stream:
            return ModelStreamError(f"The model's provider reported an error: {said or 'no details given'}")
        status = error.status_code
        phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
        return ModelStreamError(
            f"The model's provider answered {status}{phrase}{f': {said}' if said else '.'}", status=status
        )
    if isinstance(error, IncompleteToolCall):
        return ModelStreamError(_CUT_CALL)
    if isinstance(error, ContentFilterError):
        return ModelStreamError(WITHHELD)
    if isinstance(error, ModelAPIError):
        return ModelStreamError(
            f"The model's provider reported an error: {redact(error_text(error.body) or str(error))}"
        )
    message = error.message if isinstance(error, UnexpectedModelBehavior) else str(error)
    return AgentError(f"The agent could not finish: {redact(message)}")
