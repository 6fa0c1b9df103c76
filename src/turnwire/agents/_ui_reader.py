"""What a UI message stream of the AI SDK means as agent events, without I/O.

Guarantee: what a stock client shows after the stream is what the events say, as far as events can: texts in the order
in which they began, each tool call with its answers, files, sources and `data-` parts; what `reset-step` took away and
did not bring again is taken back. Unknown types are passed over. Source: `ui-message-chunks.ts` and
`process-ui-message-stream.ts` of the `ai` package, versions 5 to 7.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from ..events import (
    AgentEvent,
    Data,
    File,
    FinishReason,
    Snapshot,
    Source,
    Step,
    ToolCall,
    ToolError,
    ToolInput,
    ToolResult,
)
from ._ui_chunks import Call, Chunk, decode, needed, provider_metadata, text_of
from ._ui_reset import Reset
from ._ui_texts import Part, Texts
from ._ui_usage import usage_of
from .chat_reader import ModelStreamError, redactor
from .sse import SSEEvent

_DENIED = "The call was not allowed."
_TAKEN_BACK = "The remote agent took this call back."
_ABOUT_THE_MESSAGE = ("start", "message-metadata", "tool-approval-response")


class UIReader:
    """Reads the events of one stream.

    Args:
        calls: calls of earlier streams of this message, by the remote's id: their id here.
        datas: the data parts that this message has already, as name and id; more of one is no part of its own.
        redact: makes a text of the remote showable.

    Attributes:
        finished: the remote said that its answer is over; one put together from several says so several times.
        ending: it said so, and nothing since.
        taken: chunks so far that say something.
        done: nothing of the stream is left.
        failure: why the answer failed, once the remote said so; nothing after it counts.
    """

    def __init__(
        self,
        calls: Mapping[str, str] | None = None,
        redact: Callable[[str], str] | None = None,
        datas: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.finished = False
        self.ending = False
        self.taken = 0
        self.done = False
        self.failure: ModelStreamError | None = None
        self._redact = redact or redactor()
        self._reason: FinishReason | None = None
        self._metadata: dict[str, Any] = {}
        self._parts: list[Part] = []
        self._texts = Texts(self._parts)
        self._calls = {theirs: Call(ours, state="called") for theirs, ours in (calls or {}).items()}
        self._datas = set(datas)
        self._reset: Reset | None = None

    def read(self, event: SSEEvent) -> list[AgentEvent]:
        """The agent events that one server-sent event becomes.

        Raises `ModelStreamError` for what cannot be read, unless the remote has finished.
        """
        data = event.data.strip()
        if data == "[DONE]":
            self.done = True
            self.finished = self.finished or self.taken > 0
            return []
        try:
            chunk = decode(data) if data else None
            return self.take(chunk) if isinstance(chunk, dict) else []
        except ModelStreamError:
            if self.finished:
                return []
            raise

    def take(self, chunk: Chunk) -> list[AgentEvent]:
        """The agent events that one chunk becomes."""
        kind = chunk.get("type")
        if self.failure is not None or not isinstance(kind, str):
            return []
        if kind == "data-turnwire" and isinstance(chunk.get("data"), dict):
            # A Turnwire that was asked for an older version wraps what that version does not know.
            record = chunk["data"].get("record")
            return self.take(record) if isinstance(record, dict) and record.get("type") != kind else []
        handler = _HANDLERS.get(kind)
        if handler is None and not (kind.startswith("data-") and len(kind) > 5):
            return []
        if kind not in _ABOUT_THE_MESSAGE:
            self.taken += 1
            self.ending = kind == "finish"
        out: list[AgentEvent] = []
        if self._reset is not None and kind not in _ABOUT_THE_MESSAGE:
            if self._reset.comes_again(chunk, kind):
                return []
            out = self._settle(self._reset)
        return out + (handler(self, chunk) if handler is not None else self._on_data(chunk))

    def close(self) -> list[AgentEvent]:
        """What is left to say when nothing more comes: what waited, and what the requests used, if it is known."""
        out = self._settle(self._reset) if self._reset is not None else []
        out += self._texts.end_all()
        return [*out, usage_of(self._metadata, self._reason)]

    # The message

    def _on_metadata(self, chunk: Chunk) -> list[AgentEvent]:
        metadata = chunk.get("messageMetadata")
        if isinstance(metadata, dict):
            self._metadata.update(metadata)
        return []

    def _on_finish(self, chunk: Chunk) -> list[AgentEvent]:
        self._on_metadata(chunk)
        reason = chunk.get("finishReason")
        if isinstance(reason, str):
            self._reason = reason if reason in get_args(FinishReason) else "other"  # type: ignore[assignment]
        self.finished = True
        out = self._texts.end_all()
        if self._reason == "error":
            self.failure = ModelStreamError("The remote agent ended its answer with an error.")
        return out

    def _on_error(self, chunk: Chunk) -> list[AgentEvent]:
        text = self._redact(text_of(chunk, "errorText") or "") or "no details given"
        self.failure = ModelStreamError(f"The remote agent reported an error: {text}")
        return self._texts.end_all()

    def _on_abort(self, chunk: Chunk) -> list[AgentEvent]:
        reason = self._redact(text_of(chunk, "reason") or "")
        self.failure = ModelStreamError(f"The remote agent was stopped{': ' + reason if reason else '.'}")
        return self._texts.end_all()

    # Steps

    def _on_start_step(self, _: Chunk) -> list[AgentEvent]:
        out = self._texts.end_all()
        self._parts.clear()
        return [*out, Step()]

    def _on_finish_step(self, _: Chunk) -> list[AgentEvent]:
        return self._texts.end_all()

    def _on_reset(self, _: Chunk) -> list[AgentEvent]:
        out = self._texts.end_all()
        self._reset = Reset(list(self._parts), self._calls)
        return out

    def _settle(self, reset: Reset) -> list[AgentEvent]:
        """What came again is known: takes the rest of the step back."""
        self._reset = None
        before, kept = reset.before, reset.kept
        lost = [part for part in before if part not in kept]
        half = {str(part.key) for part in lost if part.kind == "tool" and self._state(part) == "streaming"}
        out: list[AgentEvent] = []
        if half or any(part.kind == "reasoning" for part in lost):
            out.append(Step(retry=True))
            self._parts[:] = [p for p in before if p.kind == "other" or (p.kind == "tool" and p.key not in half)]
            for key in half:
                del self._calls[key]
            for part in kept:
                if part.kind in ("text", "reasoning"):
                    out += self._texts.say_again(part)
                elif part.kind == "tool" and self._state(part) == "streaming":
                    half_said = self._calls[str(part.key)]
                    again = ToolInput(half_said.id, half_said.name, half_said.written, half_said.dynamic)
                    out += [*self._texts.cut(), again]
            if kept:
                out += self._texts.cut()
        else:
            self._parts[:] = [part for part in before if part.kind != "text" or part in kept]
            out += [Snapshot("", part=part.name) for part in lost if part.kind == "text"]
        for part in lost:
            call = self._calls.get(str(part.key)) if part.kind == "tool" else None
            if call is not None and call.state != "answered":
                call.state = "answered"
                out.append(ToolError(id=call.id, error=_TAKEN_BACK))
        for chunk in reset.unsettled:
            out += _HANDLERS[chunk["type"]](self, chunk)
        return out

    def _state(self, part: Part) -> str | None:
        call = self._calls.get(str(part.key))
        return call.state if call is not None else None

    # Text

    def _on_text(self, chunk: Chunk) -> list[AgentEvent]:
        kind, _, what = str(chunk["type"]).partition("-")
        own, about, reasoning = needed(chunk, "id"), provider_metadata(chunk), kind == "reasoning"
        if what == "start":
            return self._texts.start(own, about, reasoning=reasoning)
        if what == "end":
            return self._texts.end(own, about, reasoning=reasoning)
        return self._texts.delta(own, text_of(chunk, "delta") or "", about, reasoning=reasoning)

    # Tools

    def _begun(self, chunk: Chunk) -> Call:
        """The call that a chunk begins or goes on with; one that was answered may be made anew."""
        own = needed(chunk, "toolCallId")
        call = self._calls.get(own)
        if call is None or call.state == "answered":
            call = self._calls[own] = Call(own, state="new")
            self._parts.append(Part("tool", own))
        if call.state in ("new", "streaming"):
            call.name = text_of(chunk, "toolName") or call.name
            call.title = text_of(chunk, "title") or call.title
            call.dynamic = chunk.get("dynamic") is True or call.dynamic
        return call

    def _on_input_start(self, chunk: Chunk) -> list[AgentEvent]:
        call = self._begun(chunk)
        if call.state != "new":
            return []
        out = self._texts.cut()
        call.state = "streaming"
        return [*out, ToolInput(call.id, call.name, "", call.dynamic)]

    def _on_input_delta(self, chunk: Chunk) -> list[AgentEvent]:
        call = self._calls.get(needed(chunk, "toolCallId"))
        if call is None or call.state != "streaming":
            return []
        call.held += text_of(chunk, "inputTextDelta") or ""
        # Between two pieces of one text it would cut that text in two; the whole arguments come anyway.
        return [] if self._texts.speaking else self._written(call)

    def _written(self, call: Call) -> list[AgentEvent]:
        held, call.held = call.held, ""
        call.written += held
        # Arguments end the text before them, so what follows is a part of its own.
        return [*self._texts.cut(), ToolInput(call.id, call.name, held, call.dynamic)] if held else []

    def _on_input(self, chunk: Chunk) -> list[AgentEvent]:
        call = self._begun(chunk)
        if call.state not in ("new", "streaming"):
            return []
        call.state, call.input = "called", chunk.get("input")
        return [
            *self._texts.cut(),
            ToolCall(
                id=call.id,
                name=call.name,
                input=call.input,
                title=call.title,
                dynamic=call.dynamic,
                metadata=provider_metadata(chunk),
            ),
        ]

    def _on_input_error(self, chunk: Chunk) -> list[AgentEvent]:
        call = self._begun(chunk)
        if call.state not in ("new", "streaming"):
            return []
        out = self._texts.cut()
        out += self._written(call)
        given = chunk.get("input")
        written = given if isinstance(given, str) else "" if given is None else json.dumps(given)
        if call.state == "new":
            out.append(ToolInput(call.id, call.name, written, call.dynamic))
        elif isinstance(given, str) and given.startswith(call.written):
            call.held = given[len(call.written) :]
            out += self._written(call)
        call.state = "answered"
        return [*out, ToolError(id=call.id, error=text_of(chunk, "errorText") or "", name=call.name)]

    def _answered(self, chunk: Chunk) -> tuple[str, list[AgentEvent]]:
        """The id here of the call that is answered, and what must be said before."""
        own = needed(chunk, "toolCallId")
        call = self._calls.get(own)
        out = self._texts.cut()
        if call is None:
            return own, out
        out += self._written(call)
        call.answer = chunk
        if chunk.get("preliminary") is not True:
            call.state = "answered"
        return call.id, out

    def _on_output(self, chunk: Chunk) -> list[AgentEvent]:
        own, out = self._answered(chunk)
        return [*out, ToolResult(id=own, output=chunk.get("output"), preliminary=chunk.get("preliminary") is True)]

    def _on_output_error(self, chunk: Chunk) -> list[AgentEvent]:
        own, out = self._answered(chunk)
        return [*out, ToolError(id=own, error=text_of(chunk, "errorText") or "")]

    def _on_denied(self, chunk: Chunk) -> list[AgentEvent]:
        own, out = self._answered(chunk)
        # A call that a person denied here is closed already; this one changes nothing then.
        return [*out, ToolError(id=own, error=_DENIED)]

    def _on_approval(self, chunk: Chunk) -> list[AgentEvent]:
        own = needed(chunk, "toolCallId")
        call = self._calls.get(own)
        if call is None or call.state != "called" or chunk.get("isAutomatic") is True:
            return []
        call.state = "asked"
        state = {"call": own, "approval": {"id": needed(chunk, "approvalId")}}
        if signature := text_of(chunk, "signature"):
            state["approval"]["signature"] = signature  # type: ignore[index]
        return [
            *self._texts.cut(),
            ToolCall(
                id=call.id, name=call.name, input=call.input, dynamic=call.dynamic, needs_approval=True, state=state
            ),
        ]

    # The rest

    def _on_file(self, chunk: Chunk) -> list[AgentEvent]:
        self._parts.append(Part("other", chunk))
        kind = text_of(chunk, "mediaType") or "application/octet-stream"
        return [*self._texts.cut(), File(url=needed(chunk, "url"), media_type=kind, metadata=provider_metadata(chunk))]

    def _on_source(self, chunk: Chunk) -> list[AgentEvent]:
        self._parts.append(Part("other", chunk))
        source = Source(id=needed(chunk, "sourceId"), url=needed(chunk, "url"), title=text_of(chunk, "title"))
        return self._texts.aside(source)

    def _on_document(self, chunk: Chunk) -> list[AgentEvent]:
        return self._as_data(chunk, "source-document", text_of(chunk, "sourceId"))

    def _on_custom(self, chunk: Chunk) -> list[AgentEvent]:
        return self._as_data(chunk, "custom", None)

    def _as_data(self, chunk: Chunk, name: str, own: str | None) -> list[AgentEvent]:
        """A part that agent events have no word for."""
        self._parts.append(Part("other", chunk))
        data = {key: value for key, value in chunk.items() if key != "type"}
        return [*self._texts.cut(), Data(name=name, data=data, id=own)]

    def _on_data(self, chunk: Chunk) -> list[AgentEvent]:
        name, own, transient = str(chunk["type"])[5:], text_of(chunk, "id"), chunk.get("transient") is True
        data = Data(name=name, data=chunk.get("data"), id=own, transient=transient)
        if transient:
            return [data]
        if own is not None and (name, own) in self._datas:
            for part in self._parts:
                if part.kind == "other" and (part.key["type"], part.key.get("id")) == (chunk["type"], own):
                    part.key = chunk
            return [data]
        if own is not None:
            self._datas.add((name, own))
        self._parts.append(Part("other", chunk))
        return [*self._texts.cut(), data]


_HANDLERS: dict[str, Callable[[UIReader, Chunk], list[AgentEvent]]] = {
    "start": UIReader._on_metadata,
    "message-metadata": UIReader._on_metadata,
    "finish": UIReader._on_finish,
    "error": UIReader._on_error,
    "abort": UIReader._on_abort,
    "start-step": UIReader._on_start_step,
    "finish-step": UIReader._on_finish_step,
    "reset-step": UIReader._on_reset,
    **{f"{kind}-{what}": UIReader._on_text for kind in ("text", "reasoning") for what in ("start", "delta", "end")},
    "tool-input-start": UIReader._on_input_start,
    "tool-input-delta": UIReader._on_input_delta,
    "tool-input-available": UIReader._on_input,
    "tool-input-error": UIReader._on_input_error,
    "tool-output-available": UIReader._on_output,
    "tool-output-error": UIReader._on_output_error,
    "tool-output-denied": UIReader._on_denied,
    "tool-approval-request": UIReader._on_approval,
    "tool-approval-response": lambda _, __: [],
    "file": UIReader._on_file,
    "reasoning-file": UIReader._on_file,
    "source-url": UIReader._on_source,
    "source-document": UIReader._on_document,
    "custom": UIReader._on_custom,
}
