"""The state machine between an agent and the journal.

Guarantee: whatever events an agent yields, in whatever order and however it ends, the chunks of one `Framer` are a
stream that every supported client accepts: one `start`, parts opened before their deltas and closed before tools, steps
and the end, text and reasoning never interleaved, every surviving tool call answered exactly once, one `finish` as the
last chunk. (`reset-step` alone needs a client of AI SDK 7.)

Each call returns one atomic group of chunks: a rewrite or an end must never be stored in halves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

from . import chunks as c
from . import events as e
from ._checks import checked, plain_json
from ._tools import Tools
from .sanitize import clean_text, join_surrogates, split_trailing_surrogate
from .view import Part, TextPart, ToolPart, View, replay_parts

Outcome: TypeAlias = Literal["done", "stopped", "failed", "interrupted", "waiting"]

_UNANSWERED = {
    "done": "The agent ended without a result for this tool.",
    "stopped": "Stopped before the tool answered.",
    "failed": "The turn failed before the tool answered.",
    "interrupted": "The turn was interrupted before the tool answered.",
    "waiting": "The turn paused before the tool answered.",
}


_ODD = re.compile("[\0\ud800-\udfff]").search
"""Finds what cannot go into a delta as it is."""


class Framer:
    """One turn's framer. `view` is the fold of every chunk returned so far.

    Args:
        message_id: id of the assistant message, the same for the whole turn and in history.
        metadata: goes into `start.messageMetadata`.
        view: the fold of a turn that another framer began; this one can only finish it.
        base: the fold of the turns whose message this one goes on with.
        answers: what people answered to the approvals that `base` asks for.
    """

    def __init__(
        self,
        message_id: str,
        metadata: dict[str, Any] | None = None,
        *,
        view: View | None = None,
        base: View | None = None,
        answers: Sequence[c.ToolApprovalResponse] = (),
    ) -> None:
        self.view = view if view is not None else base.go_on() if base is not None else View()
        self.ended = self.view.finish is not None
        self.usage: dict[str, int] = {}
        self.model: str | None = None
        self.finish_reason: e.FinishReason | None = None
        self._message_id = message_id
        self._metadata = plain_json(metadata or None, "the metadata of the start")
        self._resumed = view is not None
        self._out: list[c.AnyChunk] = []
        self._answers = answers
        self._tools = Tools(self.view, self._emit_alone, self._speak, approvals=message_id)
        # The open text or reasoning part, and the half of a surrogate pair that it waits to complete.
        self._part: TextPart | None = None
        self._carry = ""
        self._texts = sum(isinstance(part, TextPart) for part in self.view.parts)
        self._named: dict[str, str] = {}
        # The newest text part was emptied by a Snapshot: the next one means that part, not an older one.
        self._emptied = False
        for part in self.view.parts:
            if isinstance(part, TextPart) and part.open:
                self._part = part

    @property
    def open_tools(self) -> int:
        """Tool calls that still owe an answer."""
        return len(self._tools)

    @property
    def asks(self) -> bool:
        """A tool call waits for a person to allow it."""
        return self._tools.asks

    def wire_id(self, own: str) -> str | None:
        """The id on the wire of the newest call that the agent names `own`."""
        return self._tools.wire_id(own)

    def start(self) -> list[c.AnyChunk]:
        """`start` and the first `start-step`; must come first, and once."""
        if self._resumed or self.view.count:
            raise RuntimeError("the turn has started already")
        self._emit(c.Start(self._message_id, self._metadata))
        for answer in self._answers:
            self._tools.settle(answer)
        self._emit(c.StartStep())
        return self._take()

    def feed(self, event: e.AgentEvent) -> list[c.AnyChunk]:
        """The chunks that one agent event becomes, possibly none.

        Raises `AgentEventError` when the event cannot be part of this turn: it changed nothing then, and the turn goes
        on or is finished as if it had not come.
        """
        text = event.text if type(event) is e.Text else event
        part = self._part
        if (
            type(text) is str
            and part is not None
            and not part.reasoning
            and not self._carry
            and ("\0" not in text if text.isascii() else _ODD(text) is None)
            and text
            and not self._resumed
        ):
            self._emit(c.TextDelta(part.id, text))
            return self._take()
        if self.ended:
            raise e.AgentEventError("the turn has ended; it takes no more events")
        if self._resumed or not self.view.count:
            raise RuntimeError("a turn takes events only from the framer that started it, after start()")
        event = checked(event)
        if isinstance(event, str):
            self._say(event, reasoning=False)
        else:
            _HANDLERS[type(event)](self, event)
        return self._take()

    def finish(
        self, outcome: Outcome, *, reason: str | None = None, metadata: dict[str, Any] | None = None
    ) -> list[c.AnyChunk]:
        """Closes everything and ends the turn; a second call returns nothing.

        `reason` is what people read for `failed`, `interrupted` and `stopped`; `metadata` goes into
        `finish.messageMetadata`, and before an `error` too, where stock clients stop reading. Raises `ValueError`,
        before anything has changed, for an outcome or metadata that cannot be written.
        """
        if self.ended:
            return []
        if outcome not in _UNANSWERED:
            raise ValueError(f"outcome must be one of {', '.join(_UNANSWERED)}, not {outcome!r:.40}")
        last = c.Finish(self._wire_reason(outcome), plain_json(metadata or None, "the metadata of the finish"))
        text = clean_text(reason) if reason else None
        if not self.view.count:
            self._emit(c.Start(self._message_id, self._metadata))
        self._close_part()
        self._tools.finish(_UNANSWERED[outcome], waiting=outcome == "waiting")
        if self.view.step_open:
            self._emit(c.FinishStep())
        if self.view.error is None and self.view.aborted is None:
            if outcome in ("failed", "interrupted"):
                if last.message_metadata:
                    self._emit(c.MessageMetadata(last.message_metadata))
                self._emit(c.Error(text or f"The turn {'failed' if outcome == 'failed' else 'was interrupted'}."))
            elif outcome == "stopped":
                self._emit(c.Abort(text))
        self._emit(last)
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

    def _emit_alone(self, chunk: c.AnyChunk) -> None:
        """Emits a chunk around which no text may be open."""
        self._close_part()
        self._emit(chunk)

    def _take(self) -> list[c.AnyChunk]:
        out, self._out = self._out, []
        return out

    # Steps

    def _next_step(self) -> None:
        self._close_part()
        self._tools.end_step()
        self._emit(c.FinishStep())
        self._emit(c.StartStep())
        self._emptied = False

    def _speak(self) -> None:
        """The model speaks: once all tools of a step have answered, that is a new request."""
        if self._tools.round_over:
            self._next_step()

    def _on_step(self, event: e.Step) -> None:
        # After answered tools the request that is retried has said nothing yet; the step is the one before it.
        if event.retry and not self._tools.round_over:
            self._rewrite(_survives_retry)
        elif self.view.step_parts():
            self._next_step()

    def _rewrite(self, survives: Callable[[Part], bool]) -> None:
        """`reset-step`, then the parts of the step that survive it, under their own ids."""
        before = self.view.step_parts()
        if all(map(survives, before)):
            return
        if self._part is not None and survives(self._part):
            self._close_part()
        self._part, self._carry = None, ""
        self._emit(c.ResetStep())
        for chunk in replay_parts(filter(survives, before)):
            self._emit(chunk)
        self._tools.after_reset()

    # Text and reasoning

    def _on_text(self, event: e.Text) -> None:
        self._say(event.text, reasoning=False)

    def _on_reasoning(self, event: e.Reasoning) -> None:
        self._say(event.text, reasoning=True, metadata=event.metadata)

    def _say(self, text: str, *, reasoning: bool, metadata: e.ProviderMetadata | None = None) -> None:
        text = text.replace("\0", "")
        if not text and metadata is None:
            return
        part = self._part
        if part is None or part.reasoning != reasoning:
            part = self._open_part(reasoning=reasoning)
        text, self._carry = split_trailing_surrogate(join_surrogates(self._carry, text))
        text = clean_text(text)
        if text or metadata is not None:
            self._emit((c.ReasoningDelta if reasoning else c.TextDelta)(part.id, text, metadata))

    def _open_part(self, *, reasoning: bool, speaks: bool = True) -> TextPart:
        self._close_part()
        if speaks:
            self._speak()
        self._texts += 1
        if reasoning:
            part_id = f"r{self._texts}"
            self._emit(c.ReasoningStart(part_id))
        else:
            part_id = f"t{self._texts}"
            self._emit(c.TextStart(part_id))
            self._emptied = False
        self._part = self.view.open_text(part_id)
        return self._part

    def _close_part(self) -> None:
        part = self._part
        if part is None:
            return
        if self._carry:
            self._emit((c.ReasoningDelta if part.reasoning else c.TextDelta)(part.id, clean_text(self._carry)))
            self._carry = ""
        self._emit((c.ReasoningEnd if part.reasoning else c.TextEnd)(part.id))
        self._part = None

    def _on_snapshot(self, event: e.Snapshot) -> None:
        raw = event.text.replace("\0", "")
        head, carry = split_trailing_surrogate(raw)
        head = clean_text(head)
        part, in_step = self._meant_by(event)
        if part is None:
            self._speak_whole(head, carry, [event.part] if event.part is not None else [])
            return
        if raw and part is self._part and head.startswith(part.text):
            self._carry = carry
            if more := head[len(part.text) :]:
                self._emit(c.TextDelta(part.id, more))
            return
        if part is not self._part and clean_text(raw) == part.text:
            return
        if not in_step:
            raise e.AgentEventError("a Snapshot would change text of an earlier step; only the current step can change")
        names = [name for name, part_id in self._named.items() if part_id == part.id]
        self._rewrite(lambda other: other is not part)
        self._emptied = True
        self._speak_whole(head, carry, names, rewrites=True)
        if self._tools.round_over:
            # It was said before the tools answered; what the model says from now on is not more of it.
            self._close_part()

    def _speak_whole(self, head: str, carry: str, names: list[str], *, rewrites: bool = False) -> None:
        """A whole text as a new part, in the current step if it rewrites one of it."""
        if not head and not carry:
            return
        part = self._open_part(reasoning=False, speaks=not rewrites)
        self._carry = carry
        if head:
            self._emit(c.TextDelta(part.id, head))
        self._named.update(dict.fromkeys(names, part.id))

    def _meant_by(self, event: e.Snapshot) -> tuple[TextPart | None, bool]:
        """The text part that a snapshot stands for, and whether it is in the current step."""
        if event.part is not None:
            wanted = self._named.get(event.part)
            step = self.view.step_parts()
            for parts, in_step in ((step, True), (self.view.parts, False)):
                for part in parts:
                    if isinstance(part, TextPart) and part.id == wanted:
                        return part, in_step
        elif not self._tools.round_over and not self._emptied:
            for part in reversed(self.view.step_parts()):
                if isinstance(part, TextPart) and not part.reasoning:
                    return part, True
        return None, True

    # The rest

    def _on_tool_input(self, event: e.ToolInput) -> None:
        self._tools.input(event)

    def _on_tool_call(self, event: e.ToolCall) -> None:
        self._tools.call(event)

    def _on_tool_result(self, event: e.ToolResult | e.ToolError) -> None:
        self._tools.result(event)

    def _on_file(self, event: e.File) -> None:
        self._emit_alone(c.FileChunk(event.url, event.media_type, event.metadata))

    def _on_source(self, event: e.Source) -> None:
        # A citation in the middle of a sentence must not cut it in two.
        self._emit(c.SourceUrl(event.id, event.url, event.title))

    def _on_data(self, event: e.Data) -> None:
        chunk = c.DataPart(f"data-{event.name}", event.data, event.id, event.transient or None)
        if event.transient or self.view.data_part(chunk.type, chunk.id) is not None:
            self._emit(chunk)
        else:
            self._emit_alone(chunk)

    def _on_usage(self, event: e.Usage) -> None:
        for name, value in (
            ("inputTokens", event.input_tokens),
            ("outputTokens", event.output_tokens),
            ("totalTokens", event.total_tokens),
        ):
            if value is not None:
                self.usage[name] = self.usage.get(name, 0) + value
        self.model = event.model or self.model
        self.finish_reason = event.finish_reason or self.finish_reason


def _survives_retry(part: Part) -> bool:
    if isinstance(part, ToolPart):
        return part.state != "input-streaming"
    return not isinstance(part, TextPart)


_HANDLERS: dict[type, Callable[[Framer, Any], None]] = {
    e.Text: Framer._on_text,
    e.Snapshot: Framer._on_snapshot,
    e.Reasoning: Framer._on_reasoning,
    e.Step: Framer._on_step,
    e.ToolInput: Framer._on_tool_input,
    e.ToolCall: Framer._on_tool_call,
    e.ToolResult: Framer._on_tool_result,
    e.ToolError: Framer._on_tool_result,
    e.File: Framer._on_file,
    e.Source: Framer._on_source,
    e.Data: Framer._on_data,
    e.Usage: Framer._on_usage,
}


def resume_framer(view: View, message_id: str = "") -> Framer:
    """A framer that can only finish the turn of `view`, whose owner is gone.

    `message_id` is used when not even the `start` was stored.
    """
    return Framer(view.message_id or message_id, view=view)
