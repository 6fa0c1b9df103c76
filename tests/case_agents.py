"""Small agents over the official SDKs, one for each wire: what somebody writes who has an SDK, a tool and a guard.

Each asks, says what comes, runs its tool and asks again. It keeps the two rules that no guard can keep for it: what an
SDK raises is told in the guard's words, and a call is run only if the model itself ended the answer after it.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx2
import openai
from google import genai

from turnwire.agents.guard import guard_error
from turnwire.events import AgentEvent, FinishReason, Reasoning, Step, Text, ToolCall, ToolError, ToolInput, ToolResult
from turnwire.events import Usage as Used
from turnwire.turn import AgentError

CUT = "the model was cut while it was writing this call; the call was not run"
ROUNDS = 3
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
NAMES = ("get_weather", "now")

_FINISH: dict[str, FinishReason] = {
    **dict.fromkeys(("stop", "end_turn", "completed", "STOP"), "stop"),
    **dict.fromkeys(("tool_calls", "tool_use"), "tool-calls"),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "MAX_TOKENS"), "length"),
    **dict.fromkeys(("content_filter", "refusal", "SAFETY", "PROHIBITED_CONTENT"), "content-filter"),
}


@dataclass
class Kit:
    """What an agent is given: its HTTP client, the provider's address and key, and the function behind its tools."""

    http: httpx2.AsyncClient
    url: str
    key: str
    tool: Callable[[str, dict[str, Any]], Awaitable[str]]


@dataclass
class Call:
    """A call while it is written."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Answer:
    """What one request came to."""

    calls: dict[Any, Call] = field(default_factory=dict)
    finish: str | None = None
    tokens: tuple[int, int] | None = None
    text: str = ""
    results: list[tuple[Call, str]] = field(default_factory=list)

    def text_of(self, text: str | None) -> list[AgentEvent]:
        """The event for a piece of text, if it holds any."""
        self.text += text or ""
        return [Text(text)] if text else []

    def written(self, key: Any, piece: str) -> ToolInput:
        """The event for a piece of arguments."""
        call = self.calls[key]
        call.arguments += piece
        return ToolInput(call.id, call.name, piece)

    async def ended(self, run: Callable[[str, dict[str, Any]], Awaitable[str]]) -> AsyncGenerator[AgentEvent, None]:
        """Counts, then the calls with their results. Raises `AgentError` for an answer whose calls were cut."""
        went, came = self.tokens or (None, None)
        total = sum(self.tokens) if self.tokens else None
        finish = _FINISH.get(self.finish or "", "other")
        yield Used(input_tokens=went, output_tokens=came, total_tokens=total, finish_reason=finish)
        if self.calls and finish not in ("tool-calls", "stop"):
            for call in self.calls.values():
                yield ToolError(id=call.id, name=call.name, error=CUT)
            raise AgentError(CUT)
        for call in self.calls.values():
            given = json.loads(call.arguments or "{}")
            yield ToolCall(id=call.id, name=call.name, input=given)
            output = await run(call.name, given)
            self.results.append((call, output))
            yield ToolResult(id=call.id, output=output)


async def chat(kit: Kit) -> AsyncGenerator[AgentEvent, None]:
    """OpenAI, Chat Completions."""
    client = openai.AsyncOpenAI(base_url=kit.url, api_key=kit.key, http_client=kit.http, max_retries=0)
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
    asked: list[Any] = [{"role": "user", "content": "hi"}]
    options: Any = {"include_usage": True}
    for _ in range(ROUNDS):
        yield Step()
        answer = Answer()
        async for chunk in await client.chat.completions.create(
            model="m", messages=asked, tools=tools, stream=True, stream_options=options
        ):
            if chunk.usage:
                answer.tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
            for choice in chunk.choices:
                for event in _chat_delta(answer, choice.delta):
                    yield event
                answer.finish = "refusal" if choice.delta.refusal else answer.finish
                if choice.finish_reason and answer.finish != "refusal":
                    answer.finish = choice.finish_reason
        async for event in answer.ended(kit.tool):
            yield event
        if not answer.results:
            return
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments or "{}"}}
            for call, _ in answer.results
        ]
        asked.append({"role": "assistant", "content": answer.text or None, "tool_calls": calls})
        asked += [{"role": "tool", "tool_call_id": call.id, "content": output} for call, output in answer.results]


def _chat_delta(answer: Answer, delta: Any) -> list[AgentEvent]:
    thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
    said: list[AgentEvent] = [Reasoning(thought)] if thought else []
    said += [*answer.text_of(delta.content), *answer.text_of(delta.refusal)]
    for part in delta.tool_calls or []:
        # Without an index, a call goes on until another id comes.
        own = next((key for key, call in answer.calls.items() if call.id == part.id), None)
        key = part.index if part.index is not None else own or part.id or next(reversed(answer.calls), None)
        if key not in answer.calls:
            answer.calls[key] = Call(part.id, part.function.name)
        said.append(answer.written(key, part.function.arguments or ""))
    return said


async def responses(kit: Kit) -> AsyncGenerator[AgentEvent, None]:
    """OpenAI, Responses."""
    client = openai.AsyncOpenAI(base_url=kit.url, api_key=kit.key, http_client=kit.http, max_retries=0)
    tools: Any = [{"type": "function", "name": name, "parameters": SCHEMA, "strict": False} for name in NAMES]
    asked: Any = "hi"
    more: dict[str, Any] = {}
    for _ in range(ROUNDS):
        yield Step()
        answer = Answer()
        refused = False
        async for event in await client.responses.create(model="m", input=asked, tools=tools, stream=True, **more):
            if event.type == "response.output_text.delta":
                yield answer.text_of(event.delta)[0]
            elif event.type == "response.refusal.delta":
                refused = True
                yield answer.text_of(event.delta)[0]
            elif event.type == "response.reasoning_summary_text.delta":
                yield Reasoning(event.delta)
            elif event.type == "response.output_item.added" and event.item.type == "function_call":
                answer.calls[event.output_index] = Call(event.item.call_id, event.item.name)
                yield answer.written(event.output_index, "")
            elif event.type == "response.function_call_arguments.delta":
                yield answer.written(event.output_index, event.delta)
            elif event.type in ("response.completed", "response.incomplete"):
                response: Any = event.response
                why = response.incomplete_details.reason if response.incomplete_details else response.status
                answer.finish = "refusal" if refused else why
                answer.tokens = (response.usage.input_tokens, response.usage.output_tokens)
                more = {"previous_response_id": response.id}
        async for said in answer.ended(kit.tool):
            yield said
        if not answer.results:
            return
        asked = [
            {"type": "function_call_output", "call_id": call.id, "output": output} for call, output in answer.results
        ]


async def messages(kit: Kit) -> AsyncGenerator[AgentEvent, None]:
    """Anthropic, Messages."""
    client = anthropic.AsyncAnthropic(base_url=kit.url, api_key=kit.key, http_client=kit.http, max_retries=0)
    tools: Any = [{"name": name, "input_schema": SCHEMA} for name in NAMES]
    asked: list[Any] = [{"role": "user", "content": "hi"}]
    for _ in range(ROUNDS):
        yield Step()
        answer = Answer()
        blocks: list[Any] = []
        begun = 0
        async for event in await client.messages.create(
            model="m", max_tokens=999, messages=asked, tools=tools, stream=True
        ):
            if event.type == "message_start":
                begun = event.message.usage.input_tokens
            elif event.type == "content_block_start" and event.content_block.type == "tool_use":
                answer.calls[event.index] = Call(event.content_block.id, event.content_block.name)
                yield answer.written(event.index, "")
            elif event.type == "content_block_delta":
                for said in _block_delta(answer, event.index, event.delta):
                    yield said
            elif event.type == "message_delta":
                answer.finish = event.delta.stop_reason or answer.finish
                answer.tokens = (begun, event.usage.output_tokens)
        async for said in answer.ended(kit.tool):
            yield said
        if not answer.results:
            return
        blocks += [{"type": "text", "text": answer.text}] if answer.text else []
        results = []
        for call, output in answer.results:
            given = json.loads(call.arguments or "{}")
            blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": given})
            results.append({"type": "tool_result", "tool_use_id": call.id, "content": output})
        asked += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]


def _block_delta(answer: Answer, index: int, delta: Any) -> list[AgentEvent]:
    if delta.type == "text_delta":
        return answer.text_of(delta.text)
    if delta.type == "thinking_delta":
        return [Reasoning(delta.thinking)]
    if delta.type == "signature_delta":
        return [Reasoning("", metadata={"anthropic": {"signature": delta.signature}})]
    if delta.type == "input_json_delta":
        return [answer.written(index, delta.partial_json)]
    return []


async def generate(kit: Kit) -> AsyncGenerator[AgentEvent, None]:
    """Google, Gemini."""
    client = _google(kit.http, kit.url, kit.key)
    declared = [{"name": name, "parameters_json_schema": SCHEMA} for name in NAMES]
    config: Any = {
        "tools": [{"function_declarations": declared}],
        "automatic_function_calling": {"disable": True},
    }
    asked: list[Any] = [{"role": "user", "parts": [{"text": "hi"}]}]
    for _ in range(ROUNDS):
        yield Step()
        answer = Answer()
        came: list[Any] = []
        async for chunk in await client.models.generate_content_stream(model="m", contents=asked, config=config):
            for event in _generated(answer, chunk, came):
                yield event
        async for event in answer.ended(kit.tool):
            yield event
        if not answer.results:
            return
        parts = [
            {"function_response": {"id": call.id, "name": call.name, "response": {"output": output}}}
            for call, output in answer.results
        ]
        asked += [{"role": "model", "parts": came}, {"role": "user", "parts": parts}]


@functools.lru_cache
def _google(http: httpx2.AsyncClient, url: str, key: str) -> Any:
    """To make one takes longer than a turn."""
    options: Any = {"base_url": url, "httpx_async_client": http}
    return genai.Client(api_key=key, http_options=options).aio


def _generated(answer: Answer, chunk: Any, came: list[Any]) -> list[AgentEvent]:
    said: list[AgentEvent] = []
    if chunk.prompt_feedback and chunk.prompt_feedback.block_reason:
        answer.finish = chunk.prompt_feedback.block_reason.value
    if counts := chunk.usage_metadata:
        answer.tokens = (counts.prompt_token_count or 0, counts.candidates_token_count or 0)
    for candidate in chunk.candidates or []:
        for part in (candidate.content.parts if candidate.content else None) or []:
            came += [part] if part.text or part.function_call else []
            if part.thought:
                own = base64.b64encode(part.thought_signature or b"").decode()
                said.append(Reasoning(part.text or "", {"google": {"thoughtSignature": own}} if own else None))
            elif part.function_call:
                call = part.function_call
                answer.calls[len(answer.calls)] = Call(call.id, call.name)
                said.append(answer.written(len(answer.calls) - 1, json.dumps(call.args or {}, ensure_ascii=False)))
            else:
                said += answer.text_of(part.text)
        answer.finish = candidate.finish_reason.value if candidate.finish_reason else answer.finish
    return said


SDKS: dict[str, Callable[[Kit], AsyncGenerator[AgentEvent, None]]] = {
    "O": chat,
    "R": responses,
    "A": messages,
    "G": generate,
}
"""The agent of each wire, by its letter in the simulator."""


async def told(agent: Callable[[Kit], AsyncGenerator[AgentEvent, None]], kit: Kit) -> AsyncGenerator[AgentEvent, None]:
    """`agent`, with what its SDK raises told for people."""
    try:
        async for event in agent(kit):
            yield event
    except (openai.APIError, anthropic.APIError, genai.errors.APIError, httpx2.TransportError) as error:
        guarded = guard_error(error)
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        raise AgentError(
            str(guarded) if guarded else f"answered {status}" if status else type(error).__name__
        ) from None
