"""The fold of a journal: what a reader should see now.

Guarantee: `fold(records)` is a pure function of the records; `fold(replay(view))` shows the same as `view`, and any tail
that is valid after the records is valid after the replay. History is `to_message(view)`, so it cannot differ from the
journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from . import chunks as c
from .events import JSON, ProviderMetadata


class StepPart(msgspec.Struct):
    """A model request begins."""


class TextPart(msgspec.Struct):
    """Text or reasoning, in the pieces it arrived in."""

    id: str
    pieces: list[str]
    reasoning: bool = False
    open: bool = True
    metadata: ProviderMetadata | None = None

    @property
    def text(self) -> str:
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""


class ToolPart(msgspec.Struct):
    """A tool call and its answer. `state` is the AI SDK's: `input-streaming`, `input-available`, `output-…`."""

    id: str
    name: str
    state: str = "input-streaming"
    input_pieces: list[str] = []
    input: JSON = None
    output: JSON = None
    error: str | None = None
    preliminary: bool | None = None
    dynamic: bool | None = None
    title: str | None = None
    provider_executed: bool | None = None
    metadata: ProviderMetadata | None = None
    result_metadata: ProviderMetadata | None = None
    input_failed: bool = False

    @property
    def open(self) -> bool:
        return self.state in ("input-streaming", "input-available") or bool(self.preliminary)


class OtherPart(msgspec.Struct):
    """A part that is one chunk: a file, a source, a `data-` part."""

    chunk: c.FileChunk | c.SourceUrl | c.DataPart


Part: TypeAlias = StepPart | TextPart | ToolPart | OtherPart


class View:
    """What a reader should see after the records applied so far."""

    __slots__ = (
        "_open",
        "aborted",
        "count",
        "error",
        "finish",
        "message_id",
        "metadata",
        "parts",
        "step_open",
    )

    def __init__(self) -> None:
        self.message_id: str | None = None
        self.metadata: dict[str, Any] = {}
        self.parts: list[Part] = []
        self.step_open = False
        self.error: str | None = None
        self.aborted: c.Abort | None = None
        self.finish: c.Finish | None = None
        self.count = 0
        self._open: dict[str, TextPart] = {}

    def apply(self, chunk: c.AnyChunk) -> None:
        """Folds one more record in. Raises `ValueError` if no valid journal could hold it here."""
        self.count += 1
        _APPLY[type(chunk)](self, chunk)

    def step_parts(self) -> list[Part]:
        """The parts of the current step: what a `reset-step` takes away."""
        return self.parts[self._step_index() :]

    def tool(self, call_id: str) -> ToolPart | None:
        """The newest call with that id."""
        for part in reversed(self.parts):
            if isinstance(part, ToolPart) and part.id == call_id:
                return part
        return None

    def open_text(self, part_id: str) -> TextPart:
        part = self._open.get(part_id)
        if part is None:
            raise ValueError(f"no open text part {part_id!r}")
        return part

    @property
    def outcome(self) -> str | None:
        """The turn's outcome, or None while it runs."""
        own = self.metadata.get("turnwire")
        return own.get("outcome") if self.finish is not None and isinstance(own, dict) else None

    def text(self) -> str:
        """The answer's text, parts separated by a blank line."""
        return "\n\n".join(
            part.text for part in self.parts if isinstance(part, TextPart) and not part.reasoning and part.text
        )

    def _step_index(self) -> int:
        for index in range(len(self.parts) - 1, -1, -1):
            if isinstance(self.parts[index], StepPart):
                return index + 1
        return 0

    def _start(self, chunk: c.Start) -> None:
        self.message_id = chunk.message_id
        _merge(self.metadata, chunk.message_metadata)

    def _finish(self, chunk: c.Finish) -> None:
        self.finish = chunk
        _merge(self.metadata, chunk.message_metadata)

    def _message_metadata(self, chunk: c.MessageMetadata) -> None:
        _merge(self.metadata, chunk.message_metadata)

    def _abort(self, chunk: c.Abort) -> None:
        self.aborted = chunk

    def _error(self, chunk: c.Error) -> None:
        self.error = chunk.error_text

    def _start_step(self, _: c.StartStep) -> None:
        self.parts.append(StepPart())
        self.step_open = True

    def _finish_step(self, _: c.FinishStep) -> None:
        self.step_open = False

    def _reset_step(self, _: c.ResetStep) -> None:
        del self.parts[self._step_index() :]
        self._open.clear()

    def _text_start(self, chunk: c.TextStart | c.ReasoningStart) -> None:
        part = TextPart(chunk.id, [], reasoning=isinstance(chunk, c.ReasoningStart), metadata=chunk.provider_metadata)
        self.parts.append(part)
        self._open[chunk.id] = part

    def _text_delta(self, chunk: c.TextDelta | c.ReasoningDelta) -> None:
        part = self._open.get(chunk.id)
        if part is None:
            raise ValueError(f"no open text part {chunk.id!r}")
        part.pieces.append(chunk.delta)
        if chunk.provider_metadata is not None:
            part.metadata = chunk.provider_metadata

    def _text_end(self, chunk: c.TextEnd | c.ReasoningEnd) -> None:
        part = self.open_text(chunk.id)
        part.open = False
        if chunk.provider_metadata is not None:
            part.metadata = chunk.provider_metadata
        del self._open[chunk.id]

    def _step_tool(self, call_id: str) -> ToolPart | None:
        for part in self.step_parts():
            if isinstance(part, ToolPart) and part.id == call_id:
                return part
        return None

    def _known_tool(self, call_id: str) -> ToolPart:
        part = self.tool(call_id)
        if part is None:
            raise ValueError(f"no tool call {call_id!r}")
        return part

    def _tool_input_start(self, chunk: c.ToolInputStart) -> None:
        part = self._step_tool(chunk.tool_call_id)
        if part is None:
            part = ToolPart(chunk.tool_call_id, chunk.tool_name)
            self.parts.append(part)
        part.name, part.state, part.input_pieces = chunk.tool_name, "input-streaming", []
        _describe(part, chunk)

    def _tool_input_delta(self, chunk: c.ToolInputDelta) -> None:
        self._known_tool(chunk.tool_call_id).input_pieces.append(chunk.input_text_delta)

    def _tool_input_available(self, chunk: c.ToolInputAvailable) -> None:
        part = self._step_tool(chunk.tool_call_id)
        if part is None:
            part = ToolPart(chunk.tool_call_id, chunk.tool_name)
            self.parts.append(part)
        part.name, part.state, part.input = chunk.tool_name, "input-available", chunk.input
        part.output = part.error = None
        _describe(part, chunk)

    def _tool_input_error(self, chunk: c.ToolInputError) -> None:
        part = self._step_tool(chunk.tool_call_id)
        if part is None:
            part = ToolPart(chunk.tool_call_id, chunk.tool_name)
            self.parts.append(part)
        part.name, part.state, part.input = chunk.tool_name, "output-error", chunk.input
        part.output, part.error, part.input_failed = None, chunk.error_text, True
        _describe(part, chunk)

    def _tool_output(self, chunk: c.ToolOutputAvailable) -> None:
        part = self._known_tool(chunk.tool_call_id)
        part.state, part.output, part.error = "output-available", chunk.output, None
        part.preliminary = chunk.preliminary
        _describe_result(part, chunk)

    def _tool_error(self, chunk: c.ToolOutputError) -> None:
        part = self._known_tool(chunk.tool_call_id)
        part.state, part.output, part.error = "output-error", None, chunk.error_text
        part.preliminary = None
        _describe_result(part, chunk)

    def _other(self, chunk: c.FileChunk | c.SourceUrl) -> None:
        self.parts.append(OtherPart(chunk))

    def _data(self, chunk: c.DataPart) -> None:
        if chunk.transient:
            return
        if chunk.id is not None:
            for part in self.parts:
                if (
                    isinstance(part, OtherPart)
                    and isinstance(part.chunk, c.DataPart)
                    and (part.chunk.type, part.chunk.id) == (chunk.type, chunk.id)
                ):
                    part.chunk = chunk
                    return
        self.parts.append(OtherPart(chunk))


def _describe(part: ToolPart, chunk: c.ToolInputStart | c.ToolInputAvailable | c.ToolInputError) -> None:
    if chunk.dynamic is not None:
        part.dynamic = chunk.dynamic
    if chunk.title is not None:
        part.title = chunk.title
    if chunk.provider_executed is not None:
        part.provider_executed = chunk.provider_executed
    if chunk.provider_metadata is not None:
        part.metadata = chunk.provider_metadata


def _describe_result(part: ToolPart, chunk: c.ToolOutputAvailable | c.ToolOutputError) -> None:
    if chunk.provider_executed is not None:
        part.provider_executed = chunk.provider_executed
    if chunk.provider_metadata is not None:
        part.result_metadata = chunk.provider_metadata


def _merge(into: dict[str, Any], more: dict[str, Any] | None) -> None:
    for key, value in (more or {}).items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            into[key] = dict(into[key])
            _merge(into[key], value)
        else:
            into[key] = value


_APPLY: dict[type, Callable[[View, Any], None]] = {
    c.Start: View._start,
    c.Finish: View._finish,
    c.Abort: View._abort,
    c.Error: View._error,
    c.StartStep: View._start_step,
    c.FinishStep: View._finish_step,
    c.ResetStep: View._reset_step,
    c.TextStart: View._text_start,
    c.TextDelta: View._text_delta,
    c.TextEnd: View._text_end,
    c.ReasoningStart: View._text_start,
    c.ReasoningDelta: View._text_delta,
    c.ReasoningEnd: View._text_end,
    c.ToolInputStart: View._tool_input_start,
    c.ToolInputDelta: View._tool_input_delta,
    c.ToolInputAvailable: View._tool_input_available,
    c.ToolInputError: View._tool_input_error,
    c.ToolOutputAvailable: View._tool_output,
    c.ToolOutputError: View._tool_error,
    c.FileChunk: View._other,
    c.SourceUrl: View._other,
    c.MessageMetadata: View._message_metadata,
    c.DataPart: View._data,
}


def fold(records: Iterable[c.AnyChunk], view: View | None = None) -> View:
    """The view after `records`, continuing `view` if one is given."""
    view = view or View()
    for record in records:
        view.apply(record)
    return view


def replay_parts(parts: Iterable[Part]) -> list[c.AnyChunk]:
    """The shortest chunks that show `parts` again to a reader in an open step."""
    out: list[c.AnyChunk] = []
    for part in parts:
        if isinstance(part, TextPart):
            out += _replay_text(part)
        elif isinstance(part, ToolPart):
            out += _replay_tool(part)
        elif isinstance(part, OtherPart):
            out.append(part.chunk)
        else:
            out.append(c.StartStep())
    return out


def replay(view: View) -> list[c.AnyChunk]:
    """The shortest valid stream that brings an empty reader to `view`; what follows the view may follow it."""
    out: list[c.AnyChunk] = []
    if view.message_id is not None:
        out.append(c.Start(view.message_id, dict(view.metadata) or None))
    steps = 0
    for part in view.parts:
        if isinstance(part, StepPart):
            if steps:
                out.append(c.FinishStep())
            steps += 1
        out += replay_parts((part,))
    if steps and not view.step_open:
        out.append(c.FinishStep())
    if view.error is not None:
        out.append(c.Error(view.error))
    if view.aborted is not None:
        out.append(view.aborted)
    if view.finish is not None:
        out.append(view.finish)
    return out


def _replay_text(part: TextPart) -> list[c.AnyChunk]:
    start, delta, end = (
        (c.ReasoningStart, c.ReasoningDelta, c.ReasoningEnd)
        if part.reasoning
        else (c.TextStart, c.TextDelta, c.TextEnd)
    )
    out: list[c.AnyChunk] = [start(part.id, provider_metadata=part.metadata)]
    if part.text:
        out.append(delta(part.id, part.text))
    if not part.open:
        out.append(end(part.id))
    return out


def _replay_tool(part: ToolPart) -> list[c.AnyChunk]:
    about: dict[str, Any] = {
        "provider_executed": part.provider_executed,
        "provider_metadata": part.metadata,
        "dynamic": part.dynamic,
        "title": part.title,
    }
    if part.state == "input-streaming":
        out: list[c.AnyChunk] = [c.ToolInputStart(part.id, part.name, **about)]
        if part.input_pieces:
            out.append(c.ToolInputDelta(part.id, "".join(part.input_pieces)))
        return out
    if part.input_failed:
        return [c.ToolInputError(part.id, part.name, part.input, part.error or "", **about)]
    out = [c.ToolInputAvailable(part.id, part.name, part.input, **about)]
    if part.state == "output-available":
        out.append(
            c.ToolOutputAvailable(
                part.id, part.output, preliminary=part.preliminary, provider_metadata=part.result_metadata
            )
        )
    elif part.state == "output-error":
        out.append(c.ToolOutputError(part.id, part.error or "", provider_metadata=part.result_metadata))
    return out


def to_message(view: View) -> dict[str, Any]:
    """The view as an AI SDK UI message: what history keeps."""
    message: dict[str, Any] = {"id": view.message_id or "", "role": "assistant", "parts": []}
    if view.metadata:
        message["metadata"] = dict(view.metadata)
    message["parts"] = [_ui_part(part) for part in view.parts]
    return message


def _ui_part(part: Part) -> dict[str, Any]:
    if isinstance(part, StepPart):
        return {"type": "step-start"}
    if isinstance(part, TextPart):
        return _some(
            type="reasoning" if part.reasoning else "text",
            text=part.text,
            state="streaming" if part.open else "done",
            providerMetadata=part.metadata,
        )
    if isinstance(part, OtherPart):
        ui: dict[str, Any] = msgspec.to_builtins(part.chunk)
        ui.pop("transient", None)
        return ui
    ui = {"type": "dynamic-tool", "toolName": part.name} if part.dynamic else {"type": f"tool-{part.name}"}
    ui |= {"toolCallId": part.id, "state": part.state}
    if part.state == "input-streaming":
        ui["rawInput"] = "".join(part.input_pieces)
    else:
        ui["input"] = part.input
    if part.state == "output-available":
        ui["output"] = part.output
    elif part.state == "output-error":
        ui["errorText"] = part.error or ""
    return ui | _some(
        preliminary=part.preliminary,
        title=part.title,
        providerExecuted=part.provider_executed,
        callProviderMetadata=part.metadata,
        resultProviderMetadata=part.result_metadata,
    )


def _some(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
