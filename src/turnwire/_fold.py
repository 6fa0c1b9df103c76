"""The parts of a view and how each record changes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import msgspec

from . import chunks as c
from .events import JSON, ProviderMetadata


class StepPart(msgspec.Struct):
    """A model request begins."""


class TextPart(msgspec.Struct):
    """Text or reasoning. `pieces` is the text in the pieces it arrived in; reading `text` joins them."""

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


class Approval(msgspec.Struct):
    """A person is asked to allow a tool call. `approved` is None until somebody answered."""

    id: str
    approved: bool | None = None
    reason: str | None = None


class ToolPart(msgspec.Struct):
    """A tool call and its answer. `state` is the AI SDK's: `input-streaming`, `input-available`, `approval-…`,
    `output-…`.

    `input_failed` says that the arguments themselves were unusable; `error` then tells why.
    """

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
    approval: Approval | None = None

    @property
    def open(self) -> bool:
        """Whether an answer is still owed, by the tool or by a person."""
        return self.state in _OPEN or bool(self.preliminary)

    @property
    def asks(self) -> bool:
        """Whether a person has to allow it, and has not answered."""
        return self.state == "approval-requested"


_OPEN = ("input-streaming", "input-available", "approval-requested", "approval-responded")


class OtherPart(msgspec.Struct):
    """A part that is one chunk: a file, a source, a `data-` part."""

    chunk: c.FileChunk | c.SourceUrl | c.DataPart


Part: TypeAlias = StepPart | TextPart | ToolPart | OtherPart


class View:
    """What a reader should see after the records applied so far.

    The first `inherited` parts are those of the turns that this one goes on with; `touched` are those of them that it
    changed, in the order of their first change.
    """

    __slots__ = (
        "_open",
        "aborted",
        "count",
        "error",
        "finish",
        "inherited",
        "message_id",
        "metadata",
        "parts",
        "step_open",
        "touched",
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
        self.inherited = 0
        self.touched: list[ToolPart | OtherPart] = []
        self._open: dict[str, TextPart] = {}

    def apply(self, chunk: c.AnyChunk) -> None:
        """Folds one more record in. Raises `ValueError` if no valid journal could hold it here."""
        _APPLY[type(chunk)](self, chunk)
        self.count += 1

    def go_on(self) -> View:
        """This view as the beginning of a further turn of the same message; ends are forgotten, parts are kept."""
        self.error = self.aborted = self.finish = None
        self.count, self.inherited, self.step_open, self.touched = 0, len(self.parts), False, []
        self._open.clear()
        return self

    def step_parts(self) -> list[Part]:
        """The parts of the current step: what a `reset-step` takes away."""
        return self.parts[self._step_index() :]

    def tool(self, call_id: str) -> ToolPart | None:
        """The newest call with that id."""
        for part in reversed(self.parts):
            if isinstance(part, ToolPart) and part.id == call_id:
                return part
        return None

    def data_part(self, kind: str, part_id: str | None) -> OtherPart | None:
        """The `data-` part that a further one of that type and id replaces."""
        if part_id is None:
            return None
        for part in self.parts:
            if not isinstance(part, OtherPart) or not isinstance(part.chunk, c.DataPart):
                continue
            if part.chunk.id == part_id and part.chunk.type == kind:
                return part
        return None

    def open_text(self, part_id: str) -> TextPart:
        """The text or reasoning part that takes deltas of that id; raises `ValueError` if there is none."""
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
        self._touch(part)
        return part

    def _touch(self, part: ToolPart | OtherPart) -> None:
        """Notes a change of a part that is older than this turn."""
        if not self.inherited or any(part is known for known in self.touched):
            return
        if any(part is old for old in self.parts[: self.inherited]):
            self.touched.append(part)

    def _called(self, chunk: c.ToolInputStart | c.ToolInputAvailable | c.ToolInputError, state: str) -> ToolPart:
        """The call that `chunk` opens or goes on with, in its new state and without an answer."""
        part = self._step_tool(chunk.tool_call_id)
        if part is None:
            part = ToolPart(chunk.tool_call_id, chunk.tool_name, dynamic=chunk.dynamic)
            self.parts.append(part)
        part.name, part.state, part.input_failed = chunk.tool_name, state, False
        part.output = part.error = part.preliminary = part.approval = None
        if chunk.provider_executed is not None:
            part.provider_executed = chunk.provider_executed
        return part

    def _tool_input_start(self, chunk: c.ToolInputStart) -> None:
        part = self._called(chunk, "input-streaming")
        part.input_pieces, part.input = [], None
        _describe(part, chunk)

    def _tool_input_delta(self, chunk: c.ToolInputDelta) -> None:
        part = self._known_tool(chunk.tool_call_id)
        if part.state != "input-streaming":
            raise ValueError(f"the arguments of tool call {part.id!r} are complete")
        part.input_pieces.append(chunk.input_text_delta)

    def _tool_input_available(self, chunk: c.ToolInputAvailable) -> None:
        part = self._called(chunk, "input-available")
        part.input = chunk.input
        _describe(part, chunk)

    def _tool_input_error(self, chunk: c.ToolInputError) -> None:
        part = self._called(chunk, "output-error")
        part.input, part.error, part.input_failed = chunk.input, chunk.error_text, True
        # The client files this metadata with the result and takes no title from the chunk.
        if chunk.provider_metadata is not None:
            part.result_metadata = chunk.provider_metadata

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

    def _approval_request(self, chunk: c.ToolApprovalRequest) -> None:
        part = self._known_tool(chunk.tool_call_id)
        if part.state != "input-available":
            raise ValueError(f"tool call {part.id!r} cannot ask for an approval in state {part.state}")
        part.state, part.approval = "approval-requested", Approval(chunk.approval_id)

    def _approval_response(self, chunk: c.ToolApprovalResponse) -> None:
        for part in reversed(self.parts):
            if isinstance(part, ToolPart) and part.approval is not None and part.approval.id == chunk.approval_id:
                self._touch(part)
                part.state = "approval-responded"
                part.approval = Approval(chunk.approval_id, chunk.approved, chunk.reason)
                return
        raise ValueError(f"no approval {chunk.approval_id!r}")

    def _tool_denied(self, chunk: c.ToolOutputDenied) -> None:
        part = self._known_tool(chunk.tool_call_id)
        part.state, part.output, part.error, part.preliminary = "output-denied", None, None, None

    def _other(self, chunk: c.FileChunk | c.SourceUrl) -> None:
        self.parts.append(OtherPart(chunk))

    def _data(self, chunk: c.DataPart) -> None:
        if chunk.transient:
            return
        known = self.data_part(chunk.type, chunk.id)
        if known is not None:
            self._touch(known)
            known.chunk = chunk
        else:
            self.parts.append(OtherPart(chunk))


def _describe(part: ToolPart, chunk: c.ToolInputStart | c.ToolInputAvailable) -> None:
    if chunk.title is not None:
        part.title = chunk.title
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
    c.ToolApprovalRequest: View._approval_request,
    c.ToolApprovalResponse: View._approval_response,
    c.ToolOutputDenied: View._tool_denied,
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
