"""What the messages of the Claude Agent SDK mean, without I/O.

Guarantee: each text, thought and call is said once, however often the CLI repeats it; what it streamed and then took
back is taken back. A turn succeeds only if the CLI reported success and the provider ended the last answer itself.
Messages are told apart by their attributes, so this module needs no SDK.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ..events import (
    AgentEvent,
    FinishReason,
    Reasoning,
    Snapshot,
    Step,
    Text,
    ToolCall,
    ToolError,
    ToolInput,
    Usage,
)
from ..turn import AgentError
from ._claude_tools import NOT_WHOLE, SubAgents, tool_answer
from .chat_reader import ModelStreamError, redactor

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
    "tool_use": "tool-calls",
    "tool_deferred": "tool-calls",
}
_SUBTYPES = {
    "error_max_turns": "The agent reached its limit of model requests for one turn.",
    "error_max_budget_usd": "The agent reached its budget for one turn.",
    "error_max_structured_output_retries": "The model did not give its answer in the form that was asked for.",
}
_KINDS = {
    "max_output_tokens": "The model reached its output limit several times in a row.",
    "authentication_failed": "The model's provider refused the key.",
}
_SYNTHETIC = "<synthetic>"
_CUT = "The model's stream ended before its answer was complete."
_ENDED = "Claude Code ended before its answer was complete."
# What the CLI adds to errors for the person at its terminal: advice, and the address that it was given.
_ADVICE = re.compile(r"^API Error: |\s*If it persists.*$|\s*[·-]\s*Please run /login.*$", re.DOTALL)
_TOOL_KINDS = ("tool_use", "server_tool_use", "mcp_tool_use")


class _Block(msgspec.Struct):
    """A block of an answer that was streamed. `whole` once its message confirmed it."""

    kind: str
    name: str = ""
    id: str = ""
    text: str = ""
    whole: bool = False


class _Answer:
    """One answer of the model: a request that the CLI made."""

    def __init__(self, own: str, model: str | None) -> None:
        self.id = own
        self.model = model
        self.finish: str | None = None
        self.blocks: dict[int, _Block] = {}
        self.tokens = (0, 0)
        self.counted = False

    def spend(self, usage: Any) -> None:
        """Counts of an answer only grow while it streams."""
        now = _tokens(usage)
        self.tokens = (max(self.tokens[0], now[0]), max(self.tokens[1], now[1]))


class ClaudeEvents:
    """What the messages of one turn mean.

    Attributes:
        session: the id of the CLI's session, once it is known.
        at: the id of the newest message in it.
        began: the model has answered something.
        result: the message that ended the turn, once it came.
        asks: the id of the call that waits for a person, when the turn ended with one.

    Args:
        redact: makes a provider's text showable.
    """

    def __init__(self, redact: Callable[[str], str] | None = None) -> None:
        self.session: str | None = None
        self.at: str | None = None
        self.began = False
        self.result: Any = None
        self.asks: str | None = None
        self._redact = redact or redactor()
        self._answer: _Answer | None = None
        self._thoughts = 0
        self._counted = (0, 0)
        self._failure: Any = None
        self._agents = SubAgents()
        # Results come while the answer that made the calls still streams; between its pieces they would cut it in two.
        self._held: list[AgentEvent] = []

    def read(self, message: Any) -> list[AgentEvent]:
        """The agent events that one message becomes, often none."""
        data = getattr(message, "data", None)
        named = getattr(message, "session_id", None) or (data.get("session_id") if isinstance(data, dict) else None)
        self.session = named or self.session
        if isinstance(getattr(message, "event", None), dict):
            return list(self._stream(message))
        if hasattr(message, "is_error") and hasattr(message, "subtype"):
            return list(self._result(message))
        if isinstance(data, dict):
            return list(self._system(message))
        if hasattr(message, "content"):
            return list(self._message(message))
        return []

    def check(self) -> None:
        """At the end of the messages: raises `AgentError` unless the turn succeeded."""
        result = self.result
        if result is None or result.is_error:
            raise self._error(result)
        if self.asks is None and (self._answer is None or self._answer.finish is None):
            raise ModelStreamError(_CUT)

    # Streaming

    def _stream(self, message: Any) -> Iterator[AgentEvent]:
        if message.parent_tool_use_id:
            # A sub-agent's answers are shown by the block, under its call.
            return
        event, answer = message.event, self._answer
        kind = event.get("type")
        if kind == "message_start":
            about = event.get("message") or {}
            yield from self._begin(str(about.get("id") or ""), about.get("model"), about.get("usage"))
        elif answer is None:
            return
        elif kind == "content_block_start":
            yield from self._start(answer, event.get("index"), event.get("content_block") or {})
        elif kind == "content_block_delta":
            block = answer.blocks.get(event.get("index", 0))
            if block is not None:
                yield from self._delta(answer, block, event.get("delta") or {})
        elif kind == "message_delta":
            answer.finish = (event.get("delta") or {}).get("stop_reason") or answer.finish
            answer.spend(event.get("usage"))
        elif kind == "message_stop":
            # The CLI says so of answers that were cut, too; only a reason is an end.
            if answer.finish is not None:
                yield from self._flush()
            yield from self._count()

    def _begin(self, own: str, model: str | None, usage: Any) -> Iterator[AgentEvent]:
        """A new answer: a further request, or the last one made again because its answer was cut."""
        last = self._answer
        yield from self._count()
        if last is not None:
            yield Step(retry=last.finish is None)
        yield from self._flush()
        self.began = True
        self._thoughts = 0
        self._answer = _Answer(own, model)
        self._answer.spend(usage)

    def _start(self, answer: _Answer, index: Any, content: dict[str, Any]) -> Iterator[AgentEvent]:
        kind = str(content.get("type") or "")
        if kind == "thinking":
            self._thoughts += 1
        else:
            self._thoughts = 0
        if kind == "text":
            block = answer.blocks[index] = _Block("text", f"{answer.id}.{index}")
            yield from self._more(block, str(content.get("text") or ""))
        elif kind == "thinking":
            block = answer.blocks[index] = _Block("thinking")
            yield from self._more(block, str(content.get("thinking") or ""))
        elif kind in _TOOL_KINDS:
            answer.blocks[index] = _Block("tool", str(content.get("name")), str(content.get("id")))
            yield ToolInput(str(content.get("id")), str(content.get("name")))
        elif kind.endswith("_tool_result"):
            yield tool_answer(str(content.get("tool_use_id")), content.get("content"), content.get("is_error"))

    def _delta(self, answer: _Answer, block: _Block, delta: dict[str, Any]) -> Iterator[AgentEvent]:
        kind = delta.get("type")
        if kind == "text_delta" and block.kind == "text":
            yield from self._more(block, str(delta.get("text") or ""))
        elif kind == "thinking_delta" and block.kind == "thinking":
            yield from self._more(block, str(delta.get("thinking") or ""))
        elif kind == "signature_delta" and block.kind == "thinking":
            yield self._signed(str(delta.get("signature") or ""))
        elif kind == "input_json_delta" and block.kind == "tool" and delta.get("partial_json"):
            yield ToolInput(block.id, block.name, str(delta["partial_json"]))

    def _more(self, block: _Block, text: str) -> Iterator[AgentEvent]:
        if not text:
            return
        if block.kind == "thinking":
            yield Reasoning(text)
        else:
            # A name, so that the block can be corrected as long as its step is open.
            yield Text(text) if block.text else Snapshot(text, part=block.name)
        block.text += text

    def _signed(self, signature: str) -> Reasoning:
        # Thoughts in a row become one part, and none of their signatures fits the whole.
        return Reasoning("", metadata={"anthropic": {"signature": signature} if self._thoughts == 1 else {}})

    # Whole messages

    def _message(self, message: Any) -> Iterator[AgentEvent]:
        if getattr(message, "model", None) == _SYNTHETIC:
            # The CLI reports errors as if the model had said them.
            self._failure = message
            return
        if message.parent_tool_use_id:
            yield from self._agents.read(message)
            return
        self.at = getattr(message, "uuid", None) or self.at
        if hasattr(message, "model"):
            yield from self._assistant(message)
            return
        # What else the CLI says in the name of the user is meant for the model.
        for block in _blocks(message):
            if hasattr(block, "tool_use_id"):
                self._held.append(tool_answer(block.tool_use_id, block.content, getattr(block, "is_error", None)))
        if self._answer is None or self._answer.finish is not None:
            yield from self._flush()

    def _assistant(self, message: Any) -> Iterator[AgentEvent]:
        own = message.message_id or (self._answer.id if self._answer else "")
        if self._answer is None or self._answer.id != own:
            # It was not streamed: the CLI falls back to that when streams keep breaking.
            yield from self._begin(own, message.model, message.usage)
        answer = self._answer
        if answer is None:
            return
        for block in _blocks(message):
            yield from self._whole(answer, block)
        if message.stop_reason:
            answer.finish = message.stop_reason
            answer.spend(message.usage)
            yield from self._flush()

    def _whole(self, answer: _Answer, block: Any) -> Iterator[AgentEvent]:
        """A block as the CLI keeps it, which is what counts."""
        if hasattr(block, "tool_use_id"):
            yield tool_answer(block.tool_use_id, block.content, getattr(block, "is_error", None))
        elif hasattr(block, "input"):
            self._agents.called(block.id)
            if isinstance(block.input, dict) and NOT_WHOLE in block.input:
                yield ToolError(
                    id=block.id, error="The model stopped inside this call; it was not run.", name=block.name
                )
            else:
                yield ToolCall(id=block.id, name=block.name, input=block.input)
        elif hasattr(block, "thinking"):
            if (streamed := _streamed(answer, "thinking")) is not None:
                streamed.whole = True
            elif block.thinking:
                self._thoughts += 1
                yield Reasoning(block.thinking)
                yield self._signed(getattr(block, "signature", ""))
        elif hasattr(block, "text"):
            streamed = _streamed(answer, "text")
            if streamed is None:
                index = len(answer.blocks)
                streamed = answer.blocks[index] = _Block("text", f"{answer.id}.{index}")
            streamed.whole = True
            if streamed.text != block.text:
                streamed.text = block.text
                yield Snapshot(block.text, part=streamed.name)

    def _system(self, message: Any) -> Iterator[AgentEvent]:
        subtype = str(getattr(message, "subtype", ""))
        if subtype == "api_retry" and self._answer is not None and self._answer.finish is None:
            # What was streamed is taken back at once: the next try may be seconds away.
            yield from self._count()
            yield Step(retry=True)
            self._answer = None
            yield from self._flush()
        elif subtype.startswith("task_"):
            yield from self._agents.progress(message)

    # The end

    def _result(self, result: Any) -> Iterator[AgentEvent]:
        self.result = result
        yield from self._flush()
        yield from self._count()
        spent = _tokens(result.usage)
        # Sub-agents and requests of the CLI's own are in here only.
        more = tuple(max(0, now - known) for now, known in zip(spent, self._counted, strict=True))
        if any(more):
            yield Usage(input_tokens=more[0], output_tokens=more[1], total_tokens=sum(more))
        if result.structured_output is not None:
            written = msgspec.json.format(msgspec.json.encode(result.structured_output), indent=2).decode()
            yield Text(f"```json\n{written}\n```")
        if (call := result.deferred_tool_use) is not None and not result.is_error:
            self.asks = call.id
            state = {"session": self.session, "call": call.id}
            yield ToolCall(id=call.id, name=call.name, input=call.input, needs_approval=True, state=state)

    def _flush(self) -> Iterator[AgentEvent]:
        held, self._held = self._held, []
        yield from held

    def _count(self) -> Iterator[AgentEvent]:
        answer = self._answer
        if answer is None or answer.counted:
            return
        answer.counted = True
        spent = answer.tokens
        self._counted = (self._counted[0] + spent[0], self._counted[1] + spent[1])
        finish = _FINISH.get(answer.finish, "other") if answer.finish else None
        yield Usage(
            input_tokens=spent[0],
            output_tokens=spent[1],
            total_tokens=sum(spent),
            model=answer.model,
            finish_reason=finish,
        )

    def _error(self, result: Any) -> AgentError:
        kind = getattr(self._failure, "error", None)
        if kind in _KINDS:
            return ModelStreamError(_KINDS[kind])
        if result is not None and result.subtype in _SUBTYPES:
            return AgentError(_SUBTYPES[result.subtype])
        if result is not None and str(result.terminal_reason or "").startswith("aborted"):
            return AgentError("The agent was interrupted.")
        said = [str(block.text) for block in _blocks(self._failure) if hasattr(block, "text")]
        if not said and result is not None:
            said = [result.result] if result.result else [text for text in result.errors or () if text[:1] != "["]
        text = self._redact(_ADVICE.sub("", " ".join(said)))
        if result is None and not text:
            return ModelStreamError(_ENDED)
        status = getattr(result, "api_error_status", None)
        return ModelStreamError(f"The model's provider reported an error: {text or 'no details given'}", status=status)


def _blocks(message: Any) -> list[Any]:
    content = getattr(message, "content", None)
    return content if isinstance(content, list) else []


def _streamed(answer: _Answer, kind: str) -> _Block | None:
    """The oldest block of this kind that was streamed and not yet confirmed."""
    return next((block for block in answer.blocks.values() if block.kind == kind and not block.whole), None)


def _tokens(usage: Any) -> tuple[int, int]:
    """What went in and came out; what a cache gave or took went in, too."""
    if not isinstance(usage, dict):
        return 0, 0
    known = {name: count for name, count in usage.items() if isinstance(count, int)}
    entered = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(known.get(name, 0) for name in entered), known.get("output_tokens", 0)
