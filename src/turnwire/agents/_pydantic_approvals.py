"""Tools of pydantic-ai that a person has to allow, across the two turns that this takes.

Guarantee: the run goes on from exactly the messages at which it stopped, with every answer that was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import ValidationError
from pydantic_ai import DeferredToolRequests, DeferredToolResults, ToolApproved, ToolDenied
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter

from ..events import AgentEvent, ToolCall
from ..turn import AgentError

if TYPE_CHECKING:
    from ..turn import Turn

OUTSIDE = "A tool of the agent waits for a result from outside, which a turn cannot give."


class Resumed(msgspec.Struct, frozen=True):
    """A run that goes on: its messages, what was answered, and the ids of the calls as people see them."""

    history: list[ModelMessage]
    results: DeferredToolResults
    shown: dict[str, str]


def asked(requests: DeferredToolRequests, messages: list[ModelMessage]) -> Iterator[AgentEvent]:
    """The calls that wait for a person; the first of them keeps the run's messages. Raises `AgentError` for others."""
    if requests.calls:
        raise AgentError(OUTSIDE)
    kept: Any = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
    for call in requests.approvals:
        state = {"pydantic_ai": call.tool_call_id, "messages": kept}
        yield ToolCall(
            id=call.tool_call_id, name=call.tool_name, input=call.args_as_dict(), needs_approval=True, state=state
        )
        kept = None


def resumed(turn: Turn) -> Resumed | None:
    """What a turn goes on with that answers approvals of such a run; None for any other turn."""
    states = [one.state if isinstance(one.state, dict) else {} for one in turn.resolutions]
    kept = next((state["messages"] for state in states if state.get("messages")), None)
    if kept is None:
        return None
    try:
        history = ModelMessagesTypeAdapter.validate_python(kept)
    except ValidationError:
        raise AgentError("The run that asked was kept by another version of pydantic-ai; please ask again.") from None
    results, shown = DeferredToolResults(), {}
    for one, state in zip(turn.resolutions, states, strict=True):
        own = str(state.get("pydantic_ai") or one.call.id)
        shown[own] = one.call.id
        denied = ToolDenied(one.reason) if one.reason else ToolDenied()
        results.approvals[own] = ToolApproved() if one.approved else denied
    return Resumed(history, results, shown)
