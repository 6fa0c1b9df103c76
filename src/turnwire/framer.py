"""The state machine between an agent and the journal.

Guarantee: whatever events an agent yields, in whatever order and however it ends, the chunks of one `Framer` are a stream
that every supported client accepts: one `start`, parts opened before their deltas and closed before tools, steps and the
end, text and reasoning never interleaved, every surviving tool call answered exactly once, one `finish` as the last chunk.

Each call returns one atomic group of chunks: a rewrite or an end must never be stored in halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from . import chunks as c
from . import events as e
from .sanitize import clean_json, clean_text, join_surrogates, split_trailing_surrogate
from .view import Part, TextPart, ToolPart, View, replay_parts

Outcome: TypeAlias = Literal["done", "stopped", "failed", "interrupted", "waiting"]

HELD_RESULTS = 1000
"""Results that may wait for their call; one more is an agent error."""

_UNANSWERED = {
    "done": "The agent ended without a result for this tool.",
    "stopped": "Stopped before the tool answered.",
    "failed": "The turn failed before the tool answered.",
    "interrupted": "The turn was interrupted before the tool answered.",
    "waiting": "The turn paused before the tool answered.",
}


class Framer:
    """One turn's framer. `view` is the fold of every chunk returned so far.

    Args:
        message_id: id of the assistant message, the same for the whole turn and in history.
        metadata: goes into `start.messageMetadata`.
    """

    def __init__(self, message_id: str, metadata: dict[str, Any] | None = None) -> None:
        self.view = View()
        self.ended = False
        self.usage: dict[str, int] = {}
        self.model: str | None = None
        self.finish_reason: e.FinishReason | None = None
        self._message_id = message_id
        self._metadata = metadata
        self._out: list[c.AnyChunk] = []
        self._part: TextPart | None = None
        self._carry = ""
        self._texts = 0
        self._names: dict[str, str] = {}
        self._calls: dict[str, ToolPart] = {}
        self._answered_in_step = False
        self._held: dict[str, list[e.ToolResult | e.ToolError]] = {}
        self._snapshots: dict[str, tuple[int, TextPart]] = {}
        self._step = 0
        self._closed: set[str] = set()

    @property
    def open_tools(self) -> int:
        """Tool calls that still owe an answer."""
        return len(self._calls)

    def start(self) -> list[c.AnyChunk]:
        """`start` and the first `start-step`; must come first."""
        self._emit(c.Start(self._message_id, self._metadata))
        self._open_step()
        return self._take()

    def feed(self, event: e.AgentEvent) -> list[c.AnyChunk]:
        """The chunks that one agent event becomes, possibly none.

        Raises `AgentEventError` when the event cannot be part of this turn; the turn can still be finished then.
        """
        if self.ended:
            raise e.AgentEventError("the turn has ended; it takes no more events")
        if type(event) is str:
            self._text(event)
            return self._take()
        handler = _HANDLERS.get(type(event))
        if handler is None:
            names = ", ".join(kind.__name__ for kind in get_args(e.AgentEvent))
            raise e.AgentEventError(
                f"the agent yielded {type(event).__name__}, which is no agent event; yield one of {names}"
            )
        try:
            handler(self, event)
        except e.AgentEventError:
            raise
        except (TypeError, OverflowError, RecursionError, ValueError, AttributeError) as error:
            raise e.AgentEventError(f"the agent's {type(event).__name__} cannot be written: {error}") from error
        return self._take()

    def finish(
        self, outcome: Outcome, *, reason: str | None = None, metadata: dict[str, Any] | None = None
    ) -> list[c.AnyChunk]:
        """Closes everything and ends the turn; a second call returns nothing.

        `reason` is what people read for `failed`, `interrupted` and `stopped`; `metadata` goes into
        `finish.messageMetadata`.
        """
        if self.ended:
            return []
        if self.view.message_id is None:
            self._emit(c.Start(self._message_id, self._metadata))
        self._close_part()
        for results in list(self._held.values()):
            for result in results:
                self._orphan(result)
        self._held.clear()
        for tool in list(self._calls.values()):
            self._dangling(tool, _UNANSWERED[outcome])
        if self.view.step_open:
            self._emit(c.FinishStep())
        text = clean_text(reason) if reason else None
        if outcome in ("failed", "interrupted"):
            self._emit(c.Error(text or f"The turn {outcome}."))
        elif outcome == "stopped":
            self._emit(c.Abort(text))
        self._emit(c.Finish(self._wire_reason(outcome), clean_json(metadata) if metadata else None))
        self.ended = True
        return self._take()

    def _wire_reason(self, outcome: Outcome) -> e.FinishReason:
        if outcome == "done":
            return self.finish_reason or "stop"
        if outcome == "waiting":
            return "tool-calls"
        return "error" if outcome in ("failed", "interrupted") else "other"

    def _emit(self, chunk: c.AnyChunk) -> None:
        self.view.apply(chunk)
        self._out.append(chunk)

    def _take(self) -> list[c.AnyChunk]:
        out, self._out = self._out, []
        return out

    # Steps

    def _open_step(self) -> None:
        self._emit(c.StartStep())
        self._step += 1
        self._answered_in_step = False

    def _next_step(self) -> None:
        self._close_part()
        self._emit(c.FinishStep())
        self._open_step()

    def _speak(self) -> None:
        """The model speaks: once all tools of a step have answered, that is a new request."""
        if self._answered_in_step and not self._calls:
            self._next_step()

    def _on_step(self, event: e.Step) -> None:
        if event.retry:
            self._rewrite(
                lambda part: (
                    not isinstance(part, TextPart)
                    and not (isinstance(part, ToolPart) and part.state == "input-streaming")
                )
            )
        elif self.view.step_parts() or self._part is not None:
            self._next_step()

    def _rewrite(self, survives: Callable[[Part], bool]) -> None:
        """`reset-step`, then the parts of the step that survive it, under their own ids."""
        if self._part is not None and survives(self._part):
            self._close_part()
        self._carry = ""
        self._part = None
        before = self.view.step_parts()
        if not before:
            return
        kept = [part for part in before if survives(part)]
        self._emit(c.ResetStep())
        for chunk in replay_parts(kept):
            self._emit(chunk)
        for part in before:
            if isinstance(part, ToolPart) and part.id in self._calls:
                fresh = self.view.tool(part.id) if part in kept else None
                if fresh is None:
                    del self._calls[part.id]
                    self._names = {own: wire for own, wire in self._names.items() if wire != part.id}
                else:
                    self._calls[part.id] = fresh
        renewed = {part.id: part for part in self.view.step_parts() if isinstance(part, TextPart)}
        self._snapshots = {
            name: (step, renewed.get(part.id, part) if step == self._step else part)
            for name, (step, part) in self._snapshots.items()
            if step != self._step or part.id in renewed
        }

    # Text and reasoning

    def _text(self, text: str) -> None:
        part = self._part
        if part is not None and not part.reasoning and not self._carry and text.isascii() and "\0" not in text:
            if text:
                self._emit(c.TextDelta(part.id, text))
            return
        self._say(text, reasoning=False)

    def _on_text(self, event: e.Text) -> None:
        self._text(_require_str(event.text, "Text.text"))

    def _on_reasoning(self, event: e.Reasoning) -> None:
        self._say(_require_str(event.text, "Reasoning.text"), reasoning=True, metadata=clean_json(event.metadata))

    def _say(self, text: str, *, reasoning: bool, metadata: e.ProviderMetadata | None = None) -> None:
        same = self._part is not None and self._part.reasoning == reasoning
        if same:
            text = join_surrogates(self._carry, text)
        elif text or metadata:
            self._flush_carry()
        text, carry = split_trailing_surrogate(text)
        text = clean_text(text)
        if text or metadata or carry:
            part = self._part if same and self._part else self._open_part(reasoning=reasoning)
            self._carry = carry
            if text or metadata:
                delta = c.ReasoningDelta if reasoning else c.TextDelta
                self._emit(delta(part.id, text, metadata))

    def _open_part(self, *, reasoning: bool) -> TextPart:
        self._close_part()
        self._speak()
        self._texts += 1
        if reasoning:
            self._emit(c.ReasoningStart(f"r{self._texts}"))
            self._part = self.view.open_text(f"r{self._texts}")
        else:
            self._emit(c.TextStart(f"t{self._texts}"))
            self._part = self.view.open_text(f"t{self._texts}")
        return self._part

    def _flush_carry(self) -> None:
        if self._carry and self._part is not None:
            self._carry = ""
            delta = c.ReasoningDelta if self._part.reasoning else c.TextDelta
            self._emit(delta(self._part.id, "\ufffd"))

    def _close_part(self) -> None:
        if self._part is None:
            return
        self._flush_carry()
        end = c.ReasoningEnd if self._part.reasoning else c.TextEnd
        self._emit(end(self._part.id))
        self._part = None

    def _on_snapshot(self, event: e.Snapshot) -> None:
        whole = clean_text(_require_str(event.text, "Snapshot.text"))
        target = self._snapshot_target(event.part)
        if target is None:
            if whole:
                self._close_part()
                part = self._open_part(reasoning=False)
                self._remember(event.part, part)
                self._emit(c.TextDelta(part.id, whole))
            return
        step, part = target
        if self._carry and part is self._part:
            self._carry = ""
        said = part.text
        if whole == said:
            return
        if step != self._step:
            raise e.AgentEventError("a Snapshot would change text of an earlier step; only the current step can change")
        if part is self._part and whole.startswith(said):
            self._emit(c.TextDelta(part.id, whole[len(said) :]))
            return
        names = [name for name, (_, known) in self._snapshots.items() if known is part]
        self._rewrite(lambda other: other is not part)
        for name in names:
            self._snapshots.pop(name, None)
        if whole:
            self._texts += 1
            self._emit(c.TextStart(f"t{self._texts}"))
            fresh = self._part = self.view.open_text(f"t{self._texts}")
            for name in names or ([event.part] if event.part else []):
                self._snapshots[name] = (self._step, fresh)
            self._emit(c.TextDelta(fresh.id, whole))

    def _remember(self, name: str | None, part: TextPart) -> None:
        if name is not None:
            self._snapshots[name] = (self._step, part)

    def _snapshot_target(self, name: str | None) -> tuple[int, TextPart] | None:
        if name is not None:
            return self._snapshots.get(name)
        if self._answered_in_step and not self._calls:
            return None
        for part in reversed(self.view.step_parts()):
            if isinstance(part, TextPart) and not part.reasoning:
                return (self._step, part)
        return None

    # Tools

    def _on_tool_input(self, event: e.ToolInput) -> None:
        tool = self._current(event.id)
        if tool is not None and tool.state != "input-streaming":
            return
        if tool is None:
            tool = self._begin(event.id, event.name, {})
        delta = clean_text(_require_str(event.delta, "ToolInput.delta"))
        if delta:
            self._emit(c.ToolInputDelta(tool.id, delta))

    def _on_tool_call(self, event: e.ToolCall) -> None:
        _require_name(event.id, "ToolCall.id")
        name = clean_text(_require_name(event.name, "ToolCall.name"))
        value = clean_json(event.input)
        metadata = clean_json(event.metadata)
        tool = self._current(event.id)
        if tool is not None and tool.state != "input-streaming":
            return
        self._close_part()
        if tool is None:
            self._speak()
        wire = tool.id if tool is not None else self._wire_id(event.id)
        self._emit(
            c.ToolInputAvailable(
                wire,
                name,
                value,
                provider_metadata=metadata,
                dynamic=event.dynamic or None,
                title=clean_text(event.title) if event.title else None,
            )
        )
        self._track(event.id, wire)
        for result in self._held.pop(event.id, ()):
            self._answer(result)

    def _on_result(self, event: e.ToolResult | e.ToolError) -> None:
        _require_name(event.id, "the tool result's id")
        if isinstance(event, e.ToolResult):
            event = e.ToolResult(
                id=event.id, output=clean_json(event.output), name=event.name, preliminary=event.preliminary
            )
        else:
            _require_str(event.error, "ToolError.error")
        wire = self._names.get(event.id)
        if wire is None:
            if sum(map(len, self._held.values())) >= HELD_RESULTS:
                raise e.AgentEventError(f"{HELD_RESULTS} tool results came without their calls")
            self._held.setdefault(event.id, []).append(event)
        elif wire in self._calls:
            self._answer(event)

    def _answer(self, event: e.ToolResult | e.ToolError) -> None:
        wire = self._names[event.id]
        tool = self._calls.get(wire)
        if tool is None:
            return
        self._close_part()
        if isinstance(event, e.ToolError):
            error = clean_text(event.error) or "The tool failed."
            if tool.state == "input-streaming":
                self._emit(c.ToolInputError(wire, tool.name, _written_input(tool), error))
            else:
                self._emit(c.ToolOutputError(wire, error))
        else:
            if tool.state == "input-streaming":
                self._emit(c.ToolInputAvailable(wire, tool.name, _written_input(tool)))
            self._emit(c.ToolOutputAvailable(wire, event.output, preliminary=event.preliminary or None))
            if event.preliminary:
                return
        self._settle(wire)

    def _begin(self, own_id: str, name: str, about: dict[str, Any]) -> ToolPart:
        _require_name(own_id, "the tool call's id")
        name = clean_text(_require_name(name, "the tool call's name"))
        self._close_part()
        self._speak()
        wire = self._wire_id(own_id)
        self._emit(c.ToolInputStart(wire, name, **about))
        return self._track(own_id, wire)

    def _current(self, own_id: str) -> ToolPart | None:
        """The open call that the agent means by `own_id`."""
        return self._calls.get(self._names.get(own_id, ""))

    def _track(self, own_id: str, wire: str) -> ToolPart:
        tool = self.view.tool(wire)
        assert tool is not None
        self._names[own_id] = wire
        self._calls[wire] = tool
        return tool

    def _wire_id(self, own_id: str) -> str:
        """The id on the wire: providers repeat ids between requests, a turn must not."""
        wire = base = clean_text(own_id)
        attempt = 1
        while wire in self._closed or wire in self._calls:
            attempt += 1
            wire = f"{base}~{attempt}"
        return wire

    def _settle(self, wire: str) -> None:
        self._calls.pop(wire, None)
        self._closed.add(wire)
        self._answered_in_step = True

    def _orphan(self, event: e.ToolResult | e.ToolError) -> None:
        """A result whose call never came: shown with the call it implies, not lost."""
        if event.id not in self._names:
            wire = self._wire_id(event.id)
            self._emit(c.ToolInputAvailable(wire, clean_text(event.name or "") or "tool", {}))
            self._track(event.id, wire)
        self._answer(event)

    def _dangling(self, tool: ToolPart, why: str) -> None:
        if tool.state == "input-streaming":
            self._emit(c.ToolInputError(tool.id, tool.name, _written_input(tool), why))
        elif tool.preliminary:
            self._emit(c.ToolOutputAvailable(tool.id, tool.output))
        else:
            self._emit(c.ToolOutputError(tool.id, why))
        self._settle(tool.id)

    # The rest

    def _on_file(self, event: e.File) -> None:
        _require_name(event.url, "File.url")
        _require_name(event.media_type, "File.media_type")
        self._plain(c.FileChunk(clean_text(event.url), clean_text(event.media_type), clean_json(event.metadata)))

    def _on_source(self, event: e.Source) -> None:
        _require_name(event.id, "Source.id")
        _require_name(event.url, "Source.url")
        title = clean_text(event.title) if event.title else None
        self._plain(c.SourceUrl(clean_text(event.id), clean_text(event.url), title))

    def _on_data(self, event: e.Data) -> None:
        name = clean_text(_require_name(event.name, "Data.name"))
        if name == "turnwire":
            raise e.AgentEventError("Data.name 'turnwire' is reserved; choose another name")
        ident = clean_text(event.id) if event.id is not None else None
        self._plain(c.DataPart(f"data-{name}", clean_json(event.data), ident, event.transient or None))

    def _plain(self, chunk: c.AnyChunk) -> None:
        self._close_part()
        self._emit(chunk)

    def _on_usage(self, event: e.Usage) -> None:
        for name, value in (
            ("inputTokens", event.input_tokens),
            ("outputTokens", event.output_tokens),
            ("totalTokens", event.total_tokens),
        ):
            if value is not None:
                self.usage[name] = self.usage.get(name, 0) + int(value)
        self.model = event.model or self.model
        if event.finish_reason is not None:
            if event.finish_reason not in get_args(e.FinishReason):
                raise e.AgentEventError(f"Usage.finish_reason {event.finish_reason!r} is none of {e.FinishReason}")
            self.finish_reason = event.finish_reason


def _written_input(tool: ToolPart) -> Any:
    """The arguments as far as the model wrote them: JSON if they are, else their text."""
    written = "".join(tool.input_pieces)
    try:
        return clean_json(msgspec.json.decode(written))
    except msgspec.DecodeError:
        return written


def _require_str(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise e.AgentEventError(f"{what} must be a string, not {type(value).__name__}")
    return value


def _require_name(value: object, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise e.AgentEventError(f"{what} must be a non-empty string, not {value!r:.40}")
    return value


_HANDLERS: dict[type, Callable[[Framer, Any], None]] = {
    e.Text: Framer._on_text,
    e.Snapshot: Framer._on_snapshot,
    e.Reasoning: Framer._on_reasoning,
    e.Step: Framer._on_step,
    e.ToolInput: Framer._on_tool_input,
    e.ToolCall: Framer._on_tool_call,
    e.ToolResult: Framer._on_result,
    e.ToolError: Framer._on_result,
    e.File: Framer._on_file,
    e.Source: Framer._on_source,
    e.Data: Framer._on_data,
    e.Usage: Framer._on_usage,
}


def resume_framer(view: View) -> Framer:
    """A framer that continues after `view`, to end a turn whose owner is gone."""
    framer = Framer(view.message_id or "")
    framer.view = view
    framer.ended = view.finish is not None
    for part in view.parts:
        if isinstance(part, TextPart) and part.open:
            framer._part = part
        elif isinstance(part, ToolPart) and part.open:
            framer._calls[part.id] = part
    return framer
