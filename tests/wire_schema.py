"""The form of each event of the AI SDK UI message stream, written from the protocol's tables and nothing else.

Guarantee: `check_form` accepts the types and keys of those tables only, which is stricter than the loose clients of
today, and no text or key that a database or the client's JSON parser refuses. It shares no code with the package.
"""

from __future__ import annotations

import math
from typing import Any, Literal

Json = Any
Event = dict[str, Json]
Version = Literal["5-strict", "5", "6", "7"]


class ProtocolViolation(AssertionError):
    """A stream broke a rule. `rule` names it."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{rule}: {message}")
        self.rule = rule


# Kinds of values: "str", "bool", "any" (null too), "value" (anything but null), "pm" (objects by provider), "object",
# "reason" (why the model ended).
_PM = {"providerMetadata": "pm"}
_TOOL = {"providerExecuted": "bool", "toolMetadata": "object", "dynamic": "bool"}
_INPUT = {"toolCallId": "str", "toolName": "str"}
_PIECE = {"id": "str", "delta": "str"}

_SCHEMA: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "start": ({}, {"messageId": "str", "messageMetadata": "value"}),
    "finish": ({}, {"finishReason": "reason", "messageMetadata": "value"}),
    "abort": ({}, {"reason": "str"}),
    "error": ({"errorText": "str"}, {}),
    "start-step": ({}, {}),
    "finish-step": ({}, {}),
    "reset-step": ({}, {}),
    "text-start": ({"id": "str"}, _PM),
    "text-delta": (_PIECE, _PM),
    "text-end": ({"id": "str"}, _PM),
    "reasoning-start": ({"id": "str"}, _PM),
    "reasoning-delta": (_PIECE, _PM),
    "reasoning-end": ({"id": "str"}, _PM),
    "tool-input-start": (_INPUT, {**_TOOL, **_PM, "title": "str"}),
    "tool-input-delta": ({"toolCallId": "str", "inputTextDelta": "str"}, {}),
    "tool-input-available": ({**_INPUT, "input": "any"}, {**_TOOL, **_PM, "title": "str"}),
    "tool-input-error": ({**_INPUT, "input": "any", "errorText": "str"}, {**_TOOL, **_PM, "title": "str"}),
    "tool-output-available": ({"toolCallId": "str", "output": "any"}, {**_TOOL, **_PM, "preliminary": "bool"}),
    "tool-output-error": ({"toolCallId": "str", "errorText": "str"}, {**_TOOL, **_PM}),
    "tool-approval-request": (
        {"approvalId": "str", "toolCallId": "str"},
        {"isAutomatic": "bool", "signature": "str"},
    ),
    "tool-output-denied": ({"toolCallId": "str"}, {}),
    "tool-approval-response": (
        {"approvalId": "str", "approved": "bool"},
        {"reason": "str", "providerExecuted": "bool", **_PM},
    ),
    "source-url": ({"sourceId": "str", "url": "str"}, {"title": "str", **_PM}),
    "source-document": ({"sourceId": "str", "mediaType": "str", "title": "str"}, {"filename": "str", **_PM}),
    "file": ({"url": "str", "mediaType": "str"}, _PM),
    "reasoning-file": ({"url": "str", "mediaType": "str"}, _PM),
    "custom": ({"kind": "str"}, _PM),
    "data-*": ({"data": "any"}, {"id": "str", "transient": "bool"}),
    "message-metadata": ({"messageMetadata": "value"}, {}),
}

# Keys that some client of that version refuses: 5.0.60 for "5-strict", 6.0.20 for "6". Each newer 5 passes over them.
_KEYS_NOT_IN: dict[Version, dict[str, tuple[str, ...]]] = {
    "5-strict": {
        "finish": ("finishReason",),
        "abort": ("reason",),
        "tool-input-start": ("providerMetadata", "toolMetadata", "title"),
        "tool-input-available": ("toolMetadata", "title"),
        "tool-input-error": ("toolMetadata", "title"),
        "tool-output-available": ("providerMetadata", "toolMetadata"),
        "tool-output-error": ("providerMetadata", "toolMetadata"),
    },
    "5": {},
    "6": {
        "tool-input-start": ("providerMetadata", "toolMetadata"),
        "tool-input-available": ("toolMetadata",),
        "tool-input-error": ("toolMetadata",),
        "tool-output-available": ("providerMetadata", "toolMetadata"),
        "tool-output-error": ("providerMetadata", "toolMetadata"),
        "tool-approval-request": ("isAutomatic", "signature"),
    },
    "7": {},
}
_SINCE_7 = {"tool-approval-response", "custom", "reasoning-file", "reset-step"}
_SINCE_6 = {"tool-approval-request", "tool-output-denied"}
_TYPES_NOT_IN: dict[Version, set[str]] = {
    "5-strict": _SINCE_6 | _SINCE_7,
    "5": _SINCE_6 | _SINCE_7,
    "6": _SINCE_7,
    "7": set(),
}
_REASONS = {"stop", "length", "content-filter", "tool-calls", "error", "other"}


def check_form(event: Json, version: Version) -> str:
    """The type of an event that is well formed for that version; raises `ProtocolViolation`."""
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str):
        raise ProtocolViolation("unknown-type", f"not an event: {event!r:.80}")
    row = "data-*" if kind.startswith("data-") else kind
    if row not in _SCHEMA or row in _TYPES_NOT_IN[version]:
        raise ProtocolViolation("unknown-type", f"{kind!r} is unknown to {version}")
    required, optional = _SCHEMA[row]
    refused = _KEYS_NOT_IN[version].get(row, ())
    optional = {key: value for key, value in optional.items() if key not in refused}
    for key in required:
        if key not in event:
            raise ProtocolViolation("missing-key", f"{kind} has no {key}")
    for key, value in event.items():
        if key == "type":
            continue
        want = required.get(key) or optional.get(key)
        if want is None:
            raise ProtocolViolation("unknown-key", f"{kind} has the key {key!r}")
        _check_value(want, value, f"{kind}.{key}")
    _check_strings(event, kind)
    return kind


def _check_value(want: str, value: Json, what: str) -> None:
    if want == "any":
        return
    if value is None:
        raise ProtocolViolation("null", f"{what} is null")
    fits = {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "object": isinstance(value, dict),
        "pm": isinstance(value, dict) and all(isinstance(own, dict) for own in value.values()),
        "reason": isinstance(value, str) and value in _REASONS,
        "value": True,
    }[want]
    if not fits:
        raise ProtocolViolation("wrong-type", f"{what} is {value!r:.60}")


def _check_strings(value: Json, what: str) -> None:
    """Texts and keys, however deep: those that databases or the client's JSON parser refuse."""
    if isinstance(value, str):
        if "\0" in value:
            raise ProtocolViolation("no-nul", f"{what} holds NUL")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise ProtocolViolation("no-lone-surrogate", f"{what} holds a lone surrogate")
    elif isinstance(value, list):
        for item in value:
            _check_strings(item, what)
    elif isinstance(value, dict):
        constructor = value.get("constructor", "")
        poisoned = constructor is None or (isinstance(constructor, dict) and "prototype" in constructor)
        if "__proto__" in value or poisoned:
            raise ProtocolViolation("no-prototype-key", f"{what} holds a key that the client's JSON parser refuses")
        for key, item in value.items():
            _check_strings(key, what)
            _check_strings(item, f"{what}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ProtocolViolation("json", f"{what} is no JSON number")
