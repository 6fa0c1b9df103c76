"""The tool calls of one turn, as the framer keeps them.

Guarantee: each call is opened once and answered once under an id of its own, whatever the agent repeats, forgets or
says in the wrong order. A result that comes before its call waits for it; a call that is never answered is answered at
the end of the turn.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from . import chunks as c
from . import events as e
from .sanitize import clean_json, clean_text, join_surrogates, split_trailing_surrogate
from .view import ToolPart, View

HELD_RESULTS = 1000
"""Results that may wait for their call; one more is an agent error."""

_CUT_SHORT = "The model stopped before it had written this call's arguments."


class Tools:
    """The calls of one turn.

    Args:
        view: the fold of the turn, which every emitted chunk has reached when `emit` returns.
        emit: takes a tool chunk; no text may be open around it.
        speak: called before a call that the model makes anew, so that a step can begin.
        approvals: what the ids of requests for an approval begin with.
    """

    def __init__(
        self, view: View, emit: Callable[[c.AnyChunk], None], speak: Callable[[], None], *, approvals: str
    ) -> None:
        self._view = view
        self._emit = emit
        self._speak = speak
        # The ids on the wire of calls that still owe an answer, in order, and of those that gave it.
        known = [part for part in view.parts if isinstance(part, ToolPart)]
        self._open: dict[str, None] = {part.id: None for part in known if part.open}
        self._answered: set[str] = {part.id for part in known if not part.open}
        # The agent's id of a call to the id of its newest use on the wire.
        self._wire: dict[str, str] = {part.id: part.id for part in known if part.open}
        self._approvals = approvals
        self._asked = sum(part.approval is not None for part in known)
        self._in_step: set[str] = set()
        self._step_answered = False
        self._half: dict[str, str] = {}
        self._held: dict[str, list[e.ToolResult | e.ToolError]] = {}
        self._held_count = 0

    def __len__(self) -> int:
        """Calls that still owe an answer."""
        return len(self._open)

    @property
    def round_over(self) -> bool:
        """All calls are answered, some of them in this step: what the model says next is a new request."""
        return self._step_answered and not self._open

    @property
    def asks(self) -> bool:
        """A call waits for a person to allow it."""
        return any(self._part(wire).asks for wire in self._open)

    def wire_id(self, own: str) -> str | None:
        """The id on the wire of the newest call that the agent names `own`."""
        return self._wire.get(own)

    def settle(self, answer: c.ToolApprovalResponse) -> None:
        """A person answered a request of an earlier turn: the call is to be answered now, or was refused."""
        self._emit(answer)
        if answer.approved:
            return
        for wire in self._open:
            part = self._part(wire)
            if part.approval is not None and part.approval.id == answer.approval_id:
                self._emit(c.ToolOutputDenied(wire))
                self._settle(wire)
                return

    def input(self, event: e.ToolInput) -> None:
        """More of a call's arguments; opens the call."""
        part = self._current(event.id)
        if part is None:
            self._speak()
            wire = self._begin(event.id)
            self._emit(c.ToolInputStart(wire, event.name, dynamic=event.dynamic or None))
        elif part.state == "input-streaming":
            wire = part.id
        else:
            return
        text = join_surrogates(self._half.pop(wire, ""), event.delta)
        text, half = split_trailing_surrogate(text)
        if half:
            self._half[wire] = half
        text = clean_text(text)
        if text:
            self._emit(c.ToolInputDelta(wire, text))

    def call(self, event: e.ToolCall) -> None:
        """A call with complete arguments; a second one for an open call can only ask for an approval."""
        part = self._current(event.id)
        if part is not None and part.state != "input-streaming":
            self._ask(event, part.id)
            return
        if part is None:
            self._speak()
            wire = self._begin(event.id)
        else:
            wire = part.id
            self._half.pop(wire, None)
        self._emit(
            c.ToolInputAvailable(
                wire,
                event.name,
                event.input,
                provider_metadata=event.metadata,
                # A client looks for a part that was opened among those of the same kind.
                dynamic=(event.dynamic or None) if part is None else part.dynamic,
                title=event.title or None,
            )
        )
        self._ask(event, wire)
        waiting = self._held.pop(event.id, [])
        self._held_count -= len(waiting)
        for result in waiting:
            self._answer(result)

    def _ask(self, event: e.ToolCall, wire: str) -> None:
        if event.needs_approval and self._part(wire).state == "input-available":
            self._asked += 1
            self._emit(c.ToolApprovalRequest(f"{self._approvals}.{self._asked}", wire))

    def result(self, event: e.ToolResult | e.ToolError) -> None:
        """An answer; a further one after the final one changes nothing."""
        if event.id in self._wire:
            self._answer(event)
            return
        if self._held_count >= HELD_RESULTS:
            raise e.AgentEventError(
                f"{HELD_RESULTS} tool results wait for their calls, the first for {next(iter(self._held))!r}; "
                "yield a ToolCall with the id of each result"
            )
        self._held.setdefault(event.id, []).append(event)
        self._held_count += 1

    def end_step(self) -> None:
        """Before a step closes: no call may go on half-written, because clients would not find it again."""
        for wire in list(self._open):
            part = self._part(wire)
            if part.state == "input-streaming":
                written, complete = self._written(part)
                if complete:
                    self._emit(c.ToolInputAvailable(wire, part.name, written, dynamic=part.dynamic))
                else:
                    self._fail(part, _CUT_SHORT)
        self._in_step.clear()
        self._step_answered = False

    def after_reset(self) -> None:
        """After a step was taken back: calls that did not survive it never were."""
        gone = {wire for wire in self._in_step if self._view.tool(wire) is None}
        self._in_step -= gone
        for wire in gone:
            self._open.pop(wire, None)
            self._half.pop(wire, None)
        self._wire = {own: wire for own, wire in self._wire.items() if wire not in gone}

    def finish(self, why: str, *, waiting: bool = False) -> None:
        """At the end of the turn: shows results whose call never came, and answers what is open with `why`.

        With `waiting` the calls that a person has to allow stay open.
        """
        for results in self._held.values():
            for result in results:
                if result.id not in self._wire:
                    wire = self._begin(result.id)
                    self._emit(c.ToolInputAvailable(wire, result.name or "tool", {}))
                self._answer(result)
        self._held.clear()
        for wire in list(self._open):
            part = self._part(wire)
            if waiting and part.asks:
                continue
            if part.preliminary:
                self._emit(c.ToolOutputAvailable(wire, part.output, dynamic=part.dynamic))
                self._settle(wire)
            else:
                self._fail(part, why)

    def _begin(self, own: str) -> str:
        """The id on the wire of a new call: providers repeat ids between requests, a turn must not."""
        wire, use = own, 1
        while wire in self._answered or wire in self._open:
            use += 1
            wire = f"{own}~{use}"
        self._wire[own] = wire
        self._open[wire] = None
        self._in_step.add(wire)
        return wire

    def _current(self, own: str) -> ToolPart | None:
        """The open call that the agent means by `own`."""
        wire = self._wire.get(own)
        return self._part(wire) if wire is not None and wire in self._open else None

    def _part(self, wire: str) -> ToolPart:
        part = self._view.tool(wire)
        if part is None:
            raise LookupError(f"the open tool call {wire!r} is not in the view")
        return part

    def _answer(self, event: e.ToolResult | e.ToolError) -> None:
        part = self._current(event.id)
        if part is None:
            return
        if isinstance(event, e.ToolError):
            self._fail(part, event.error or "The tool failed.")
            return
        if part.state == "input-streaming":
            self._emit(c.ToolInputAvailable(part.id, part.name, self._written(part)[0], dynamic=part.dynamic))
        # AI SDK 5 looks for the part among those of the kind that the answer names.
        preliminary = event.preliminary or None
        self._emit(c.ToolOutputAvailable(part.id, event.output, dynamic=part.dynamic, preliminary=preliminary))
        if not event.preliminary:
            self._settle(part.id)

    def _fail(self, part: ToolPart, error: str) -> None:
        if part.state == "input-streaming":
            self._emit(c.ToolInputError(part.id, part.name, self._written(part)[0], error, dynamic=part.dynamic))
        else:
            self._emit(c.ToolOutputError(part.id, error, dynamic=part.dynamic))
        self._settle(part.id)

    def _settle(self, wire: str) -> None:
        self._open.pop(wire, None)
        self._answered.add(wire)
        if wire in self._in_step:
            self._step_answered = True

    def _written(self, part: ToolPart) -> tuple[e.JSON, bool]:
        """The arguments as far as the model wrote them, and whether they are complete; if not, they are text."""
        written = "".join(part.input_pieces) + clean_text(self._half.pop(part.id, ""))
        if not written.strip():
            return {}, True
        try:
            return clean_json(msgspec.json.decode(written)), True
        except (ValueError, RecursionError):
            return written, False
