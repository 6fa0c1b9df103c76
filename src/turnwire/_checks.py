"""The fields of agent events, checked and cleaned before the framer sees them.

Guarantee: `checked(event)` has fields of the declared types only, its text and JSON are what every client takes, and it
shares nothing mutable with the agent. `AgentEventError` names the event, the field and what to give instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, get_args

from . import events as e
from .sanitize import clean_json, clean_text

MAX_TOKENS = 2**53
"""The largest integer that JavaScript holds exactly."""

_Check: TypeAlias = Callable[[Any, str], Any]


def plain_json(value: Any, what: str) -> Any:
    """`value` as JSON values of its own; raises `AgentEventError` naming `what`."""
    try:
        return clean_json(value)
    except RecursionError:
        raise e.AgentEventError(f"{what} cannot be written: it is nested too deeply or holds itself") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise e.AgentEventError(f"{what} cannot be written as JSON: {error}") from error


def _string(value: Any, what: str) -> str:
    """Exactly a `str`, not cleaned: a delta may end inside a surrogate pair."""
    if not isinstance(value, str):
        raise e.AgentEventError(f"{what} must be a string, not {type(value).__name__}")
    return value if type(value) is str else str.__str__(value)


def _text(value: Any, what: str) -> str:
    return clean_text(_string(value, what))


def _name(value: Any, what: str) -> str:
    name = _text(value, what)
    if not name:
        raise e.AgentEventError(f"{what} must not be empty")
    return name


def _part_name(value: Any, what: str) -> str:
    name = _name(value, what)
    if name == "turnwire":
        raise e.AgentEventError(f"{what} 'turnwire' is reserved; choose another name")
    return name


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise e.AgentEventError(f"{what} must be True or False, not {type(value).__name__}")
    return value


def _tokens(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_TOKENS:
        raise e.AgentEventError(f"{what} must be a whole number of tokens from 0 on, not {value!r:.40}")
    return int(value)


def _finish_reason(value: Any, what: str) -> str:
    reason = _string(value, what)
    if reason not in (reasons := get_args(e.FinishReason)):
        raise e.AgentEventError(f"{what} must be one of {', '.join(reasons)}, not {reason!r:.40}")
    return reason


def _metadata(value: Any, what: str) -> dict[str, dict[str, Any]] | None:
    plain = plain_json(value, what)
    if not isinstance(plain, dict) or not all(isinstance(own, dict) for own in plain.values()):
        raise e.AgentEventError(f'{what} must be objects by provider, such as {{"anthropic": {{"signature": "..."}}}}')
    return plain or None


def _optional(check: _Check) -> _Check:
    return lambda value, what: None if value is None else check(value, what)


FIELDS: dict[type[e.Event], dict[str, _Check]] = {
    e.Text: {"text": _string},
    e.Snapshot: {"text": _string, "part": _optional(_name)},
    e.Reasoning: {"text": _string, "metadata": _optional(_metadata)},
    e.Step: {"retry": _flag},
    e.ToolInput: {"id": _name, "name": _name, "delta": _string, "dynamic": _flag},
    e.ToolCall: {
        "id": _name,
        "name": _name,
        "input": plain_json,
        "title": _optional(_text),
        "dynamic": _flag,
        "metadata": _optional(_metadata),
        "needs_approval": _flag,
        "state": plain_json,
    },
    e.ToolResult: {"id": _name, "output": plain_json, "name": _optional(_text), "preliminary": _flag},
    e.ToolError: {"id": _name, "error": _text, "name": _optional(_text)},
    e.File: {"url": _name, "media_type": _name, "metadata": _optional(_metadata)},
    e.Source: {"id": _name, "url": _name, "title": _optional(_text)},
    e.Data: {"name": _part_name, "data": plain_json, "id": _optional(_text), "transient": _flag},
    e.Usage: {
        "input_tokens": _optional(_tokens),
        "output_tokens": _optional(_tokens),
        "total_tokens": _optional(_tokens),
        "model": _optional(_text),
        "finish_reason": _optional(_finish_reason),
    },
}


def checked(event: Any) -> Any:
    """The event with its fields checked and cleaned, or a plain string; raises `AgentEventError`."""
    if isinstance(event, str):
        return _string(event, "Text")
    kind = type(event)
    checks = FIELDS.get(kind)
    if checks is None:
        names = ", ".join(known.__name__ for known in get_args(e.AgentEvent))
        raise e.AgentEventError(f"the agent yielded {kind.__name__}, which is no agent event; yield one of {names}")
    return kind(**{field: check(getattr(event, field), f"{kind.__name__}.{field}") for field, check in checks.items()})
