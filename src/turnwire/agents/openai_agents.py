"""An agent of the OpenAI Agents SDK as a Turnwire agent.

Guarantee: a turn succeeds only if the provider said that each of its answers is finished, as far as the SDK tells: over
Chat Completions it makes a finish up, so the token counts that follow a real one must have come. No tool runs on an
answer that was cut. A failure that the SDK reports as a value becomes an `AgentError`, on one line and without secrets.

This module needs `turnwire[openai-agents]`, and imports it when a turn begins.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec

from ..events import (
    AgentEvent,
    Data,
    FinishReason,
    Reasoning,
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
from ._framework_errors import CUT, CUT_CALL, provider_failure
from ._framework_history import Answered, Asked, Attached, Entry, as_json, as_text, conversation, is_cut
from .chat_reader import ModelStreamError, redactor
from .guard import Guard, closing_streams, watched_streams

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

_MADE_UP = "__fake_id__"
"""The id of a response that the SDK put together from a Chat Completions stream."""

_RUN_HERE = frozenset(
    {"function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call"}
)
"""Kinds of calls whose results come as items of their own; the provider runs all others itself."""


def openai_agent(
    agent: Any,
    *,
    run_config: Any = None,
    context: Callable[[Turn], Any] | None = None,
    max_turns: int | None = 10,
    require_usage: bool = True,
    redact: Callable[[str], str] | None = None,
) -> Agent:
    """A Turnwire agent that runs `agent`, an `agents.Agent`, on the conversation.

    Each turn begins with `agent` and the whole conversation; sessions of the SDK are not used. A tool with
    `needs_approval` ends the turn `waiting`, and the person's answer goes on with it.

    Args:
        run_config: an `agents.RunConfig`. Token counts are always asked for.
        context: gives the context of one run; it is never stored.
        max_turns: how many requests to the model one turn may take; None for any number.
        require_usage: whether an answer over Chat Completions that came through no `guarded_client` counts only with
            its token counts. With False, an answer that was cut passes for whole on such a client.
        redact: makes a provider's text showable; by default one that knows the usual shapes of keys.
    """
    clean = redact or redactor()

    async def run_turn(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        run = _Run(agent, run_config, max_turns, require_usage)
        try:
            events_of = run.events(turn, context(turn) if context else None)
            with watched_streams() as run.guards:
                async with closing_streams(), aclosing(events_of) as events:
                    async for event in events:
                        yield event
        except AgentError:
            raise
        except Exception as error:
            shown = _readable(error, clean)
            if shown is None:
                raise
            # The body that the cause quotes belongs neither to people nor into a log.
            raise shown from None

    return run_turn


class _Run:
    """One run of the SDK, from its input to what the turn ends with."""

    def __init__(self, agent: Any, config: Any, max_turns: int | None, require_usage: bool) -> None:
        self._sdk: Any = importlib.import_module("agents")
        self._agent = agent
        self._config = config or self._sdk.RunConfig()
        self._max_turns = max_turns
        self._require_usage = require_usage
        # A stream that went through a guard was whole, or the guard would have said so.
        self.guards: list[Guard] = []
        self._failed: dict[str, str] = {}
        self._denied: set[str] = set()

    async def events(self, turn: Turn, context: Any) -> AsyncGenerator[AgentEvent, None]:
        start = await self._resumed(turn, context) if turn.resolutions else input_items(await conversation(turn))
        result = self._sdk.Runner.run_streamed(
            self._agent,
            start,
            context=context,
            max_turns=self._max_turns,
            hooks=self._gate(),
            run_config=self._run_config(),
        )
        answer = _Answer()
        try:
            async with aclosing(_everything(result)) as events:
                async for event in events:
                    if event.type == "raw_response_event":
                        for said in answer.read(event.data):
                            yield said
                    elif event.type == "run_item_stream_event":
                        for said in self._item(event.item):
                            yield said
        except Exception:
            if answer.over:
                # The SDK raises for an answer that ended at its limit or was withheld; what was said stands.
                return
            raise
        finally:
            # Without it, closing the events waits for the end of the run.
            result.cancel()
        for said in self._end(result, answer, context):
            yield said

    def _run_config(self) -> Any:
        settings = self._config.model_settings or self._sdk.ModelSettings()
        counted = dataclasses.replace(settings, include_usage=True)
        return dataclasses.replace(self._config, model_settings=counted, tool_error_formatter=self._on_tool_error)

    def _gate(self) -> Any:
        """What the SDK calls between a model's answer and the tools that the answer calls."""

        async def on_llm_end(_: Any, context: Any, agent: Any, response: Any) -> None:
            calls = [item for item in response.output if getattr(item, "type", "") == "function_call"]
            if any(is_cut(call.arguments) for call in calls):
                raise ModelStreamError(CUT_CALL)
            made_up = any(getattr(item, "id", "") == _MADE_UP for item in response.output)
            if made_up and self._require_usage and not self.guards and not response.usage.total_tokens:
                raise ModelStreamError(CUT)

        return types.new_class(
            "FinishGate", (self._sdk.RunHooks,), {}, lambda body: body.update(on_llm_end=on_llm_end)
        )()

    async def _on_tool_error(self, failure: Any) -> Any:
        """The SDK gives a failed tool's result as any other; this is where the two can be told apart."""
        if failure.kind == "tool_exception":
            self._failed[failure.call_id] = f"The tool {failure.tool_name} failed ({type(failure.error).__name__})."
        elif failure.kind == "tool_not_found":
            self._failed[failure.call_id] = failure.default_message
        given = self._config.tool_error_formatter
        message = given(failure) if given is not None else None
        return await message if inspect.isawaitable(message) else message

    def _item(self, item: Any) -> Iterator[AgentEvent]:
        raw = item.raw_item
        if item.type in ("tool_call_item", "handoff_call_item"):
            yield from self._call(raw)
        elif item.type in ("tool_call_output_item", "handoff_output_item"):
            own = str(_of(raw, "call_id") or _of(raw, "id") or "")
            if own in self._denied:
                return
            if own in self._failed:
                yield ToolError(id=own, error=self._failed[own])
            else:
                yield ToolResult(id=own, output=as_json(getattr(item, "output", None) or _of(raw, "output")))
        if item.type == "handoff_output_item":
            yield Data(name="handoff", data={"from": item.source_agent.name, "to": item.target_agent.name})

    def _call(self, raw: Any) -> Iterator[AgentEvent]:
        own = str(_of(raw, "call_id") or _of(raw, "id") or "")
        kind = str(_of(raw, "type") or "")
        name = str(_of(raw, "name") or kind)
        if kind in _RUN_HERE:
            yield ToolCall(id=own, name=name, input=_arguments(raw))
            return
        yield ToolCall(id=own, name=name, input=as_json(_of(raw, "action") or _of(raw, "queries") or _arguments(raw)))
        yield ToolResult(id=own, output=as_json(_of(raw, "output") or {"status": _of(raw, "status")}))

    def _end(self, result: Any, answer: _Answer, context: Any) -> Iterator[AgentEvent]:
        if result.interruptions:
            state = result.to_state().to_json(context_serializer=lambda _: {})
            if context is not None:
                state["context"]["context"] = {}
            for number, asked in enumerate(result.interruptions):
                yield ToolCall(
                    id=str(asked.call_id),
                    name=asked.tool_name or asked.name or "tool",
                    input=_arguments(asked.raw_item),
                    needs_approval=True,
                    state=None if number else state,
                )
            return
        output = result.final_output
        if output is None:
            raise AgentError("The agent ended without an answer.")
        if not answer.spoken:
            yield Text(output if isinstance(output, str) else f"```json\n{as_text(output)}\n```")

    async def _resumed(self, turn: Turn, context: Any) -> Any:
        answers = {resolution.call.id: resolution for resolution in turn.resolutions}
        stored = next((each.state for each in turn.resolutions if each.state is not None), None)
        state = await self._sdk.RunState.from_json(self._agent, stored, context_override=context)
        for asked in state.get_interruptions():
            answer = answers.get(str(asked.call_id))
            if answer is not None and answer.approved:
                state.approve(asked)
            else:
                reason = answer.reason if answer is not None else None
                self._denied.add(str(asked.call_id))
                state.reject(asked, rejection_message=f"A person did not allow this call. {reason or ''}".strip())
        return state


async def _everything(result: Any) -> AsyncGenerator[Any, None]:
    """Every event of a run: the SDK itself drops those that wait while an error is raised."""
    queue = result._event_queue
    async with aclosing(result.stream_events()) as events:
        async for event in events:
            waiting = [event]
            while waiting:
                for each in waiting:
                    yield each
                waiting = []
                while not queue.empty():
                    each = queue.get_nowait()
                    queue.task_done()
                    if not hasattr(each, "type"):
                        # The end mark, which the SDK wants to find itself.
                        queue.put_nowait(each)
                        break
                    waiting.append(each)


class _Answer:
    """One answer of the model while it streams. `over` says that it ended in a way for which the SDK raises."""

    def __init__(self) -> None:
        self.spoken = False
        self.over = False
        self._open = False
        self._refused = False
        self._calls: dict[int, tuple[str, str]] = {}

    def read(self, data: Any) -> Iterator[AgentEvent]:
        kind = data.type
        if kind == "response.created":
            yield Step(retry=self._open)
            self._open, self.spoken, self._refused, self._calls = True, False, False, {}
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            self.spoken = True
            self._refused = self._refused or "refusal" in kind
            yield Text(data.delta)
        elif kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
            yield Reasoning(data.delta)
        elif kind == "response.reasoning_summary_part.added" and data.summary_index:
            yield Reasoning("\n\n")
        elif kind == "response.output_item.added" and data.item.type == "function_call":
            self._calls[data.output_index] = (data.item.call_id, data.item.name)
            yield ToolInput(data.item.call_id, data.item.name)
        elif kind == "response.function_call_arguments.delta" and data.output_index in self._calls:
            yield ToolInput(*self._calls[data.output_index], data.delta)
        elif kind == "response.output_text.annotation.added":
            url = _of(data.annotation, "url")
            if url:
                yield Source(id=url, url=url, title=_of(data.annotation, "title"))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            yield from self._end(kind, data.response)

    def _end(self, kind: str, response: Any) -> Iterator[AgentEvent]:
        self._open = False
        texts = [part for item in response.output for part in getattr(item, "content", None) or ()]
        if not self.spoken:
            for part in texts:
                if getattr(part, "type", "") == "output_text" and part.text:
                    self.spoken = True
                    yield Text(part.text)
        called = any(getattr(item, "type", "") == "function_call" for item in response.output)
        reason: FinishReason | None = "tool-calls" if called else "stop"
        if response.id == _MADE_UP:
            reason = None
        if kind == "response.incomplete":
            filtered = getattr(response.incomplete_details, "reason", "") == "content_filter"
            reason = "content-filter" if filtered else "length"
        if self._refused:
            reason = "content-filter"
        usage = response.usage
        yield Usage(
            input_tokens=usage.input_tokens if usage else None,
            output_tokens=usage.output_tokens if usage else None,
            total_tokens=usage.total_tokens if usage else None,
            model=response.model or None,
            finish_reason=reason if kind != "response.failed" else None,
        )
        if kind == "response.incomplete" and called:
            raise ModelStreamError(CUT_CALL)
        self.over = kind == "response.incomplete" or self._refused


def input_items(entries: list[Entry]) -> list[dict[str, Any]]:
    """The conversation as input of the SDK; each call is followed by its output."""
    items: list[dict[str, Any]] = []
    for entry in entries:
        if isinstance(entry, Asked):
            items.append({"role": "user", "content": [_content(part) for part in entry.parts]})
        elif isinstance(entry, Answered):
            if entry.text:
                items.append({"role": "assistant", "content": entry.text})
            for call in entry.calls:
                arguments = msgspec.json.encode(call.arguments).decode()
                items.append({"type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments})
            items += [
                {"type": "function_call_output", "call_id": call.id, "output": call.output} for call in entry.calls
            ]
        else:
            items.append({"role": "system", "content": entry.text})
    return items


def _content(part: str | Attached) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if part.media_type.lower().startswith("image/"):
        return {"type": "input_image", "image_url": part.data_url, "detail": "auto"}
    return {"type": "input_file", "filename": part.name, "file_data": part.data_url}


def _arguments(raw: Any) -> Any:
    given = _of(raw, "arguments")
    if not isinstance(given, str):
        return as_json(_of(raw, "input") or _of(raw, "action"))
    try:
        return msgspec.json.decode(given or "{}")
    except msgspec.DecodeError:
        return given


def _of(raw: Any, name: str) -> Any:
    return raw.get(name) if isinstance(raw, dict) else getattr(raw, name, None)


def _readable(error: Exception, redact: Callable[[str], str]) -> AgentError | None:
    shown = provider_failure(error, redact)
    if shown is None and type(error).__module__.partition(".")[0] == "agents":
        return AgentError(f"The agent could not finish: {redact(str(error))}")
    return shown
