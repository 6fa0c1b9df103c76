"""The fold of a journal: what a reader should see now.

Guarantee: `fold(records)` is a pure function of the records; `fold(replay(view))` shows the same as `view`, and any
tail that is valid after the records is valid after the replay. History is `to_message(view)`, so it cannot differ from
the journal, and says what a stock client of the AI SDK holds after the same records (source: `processUIMessageStream`
in the `ai` package). The one difference: while a call's arguments stream, the client also guesses its `input`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from . import chunks as c
from ._fold import Approval, OtherPart, Part, StepPart, TextPart, ToolPart, View, fold

STEER = "data-steer"
"""The part that says that the agent took a message while it ran; its id is the message's."""

__all__ = [
    "STEER",
    "Approval",
    "OtherPart",
    "Part",
    "StepPart",
    "TextPart",
    "ToolPart",
    "View",
    "fold",
    "replay",
    "replay_parts",
    "taken_messages",
    "to_message",
]


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
    """The shortest valid stream that brings a reader to `view`; what follows the view may follow it.

    The reader is empty or, for a turn that goes on with a message, holds that message as the turns before left it.
    """
    out: list[c.AnyChunk] = []
    if view.message_id is not None:
        out.append(c.Start(view.message_id, dict(view.metadata) or None))
    changed = _replay_changes(view)
    steps = 0
    for part in view.parts[view.inherited :]:
        if isinstance(part, StepPart):
            if steps:
                out.append(c.FinishStep())
            steps += 1
        out += replay_parts((part,))
        if steps and changed:
            out += changed
            changed = []
    out += changed
    if steps and not view.step_open:
        out.append(c.FinishStep())
    if view.aborted is not None:
        out.append(view.aborted)
    if view.error is not None:
        out.append(c.Error(view.error))
    if view.finish is not None:
        out.append(view.finish)
    return out


def _replay_changes(view: View) -> list[c.AnyChunk]:
    """What the turn changed in parts that are older than it."""
    out: list[c.AnyChunk] = []
    for part in view.touched:
        out += [part.chunk] if isinstance(part, OtherPart) else _replay_answer(part)
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
    flags: dict[str, Any] = {"provider_executed": part.provider_executed, "dynamic": part.dynamic}
    about = {**flags, "provider_metadata": part.metadata, "title": part.title}
    out: list[c.AnyChunk] = []
    if part.state == "input-streaming":
        out.append(c.ToolInputStart(part.id, part.name, **about))
        if part.input_pieces:
            out.append(c.ToolInputDelta(part.id, "".join(part.input_pieces)))
        return out
    result: dict[str, Any] = {"dynamic": part.dynamic, "provider_metadata": part.result_metadata}
    if part.input_failed:
        if part.title is not None or part.metadata is not None:
            out.append(c.ToolInputStart(part.id, part.name, **about))
        out.append(c.ToolInputError(part.id, part.name, part.input, part.error or "", **{**flags, **result}))
        return out
    out.append(c.ToolInputAvailable(part.id, part.name, part.input, **about))
    if part.approval is not None:
        out.append(c.ToolApprovalRequest(part.approval.id, part.id))
    return out + _replay_answer(part)


def _replay_answer(part: ToolPart) -> list[c.AnyChunk]:
    """What was answered to a call whose arguments, and whose request for an approval, the reader has."""
    out: list[c.AnyChunk] = []
    if part.approval is not None and part.approval.approved is not None:
        out.append(c.ToolApprovalResponse(part.approval.id, part.approval.approved, part.approval.reason))
    result: dict[str, Any] = {"dynamic": part.dynamic, "provider_metadata": part.result_metadata}
    if part.state == "output-available":
        out.append(c.ToolOutputAvailable(part.id, part.output, preliminary=part.preliminary, **result))
    elif part.state == "output-error":
        out.append(c.ToolOutputError(part.id, part.error or "", **result))
    elif part.state == "output-denied":
        out.append(c.ToolOutputDenied(part.id))
    return out


def taken_messages(view: View) -> list[str]:
    """The ids of the messages that the agent took from its inbox: what its `data-steer` parts say."""
    chunks = [part.chunk for part in view.parts[view.inherited :] if isinstance(part, OtherPart)]
    return [chunk.id for chunk in chunks if isinstance(chunk, c.DataPart) and chunk.type == STEER and chunk.id]


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
        if part.input_pieces:
            ui["rawInput"] = "".join(part.input_pieces)
    else:
        ui["input"] = part.input
    if part.state == "output-available":
        ui["output"] = part.output
    elif part.state == "output-error":
        ui["errorText"] = part.error or ""
    if part.approval is not None:
        ui["approval"] = _some(id=part.approval.id, approved=part.approval.approved, reason=part.approval.reason)
    return ui | _some(
        preliminary=part.preliminary,
        title=part.title,
        providerExecuted=part.provider_executed,
        callProviderMetadata=part.metadata,
        resultProviderMetadata=part.result_metadata,
    )


def _some(**fields: Any) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
