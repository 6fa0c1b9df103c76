"""One record of every type, with every key, and the form that each takes in each dialect."""

from __future__ import annotations

from typing import Any

from turnwire import chunks as c

PM = {"openai": {"item": "1"}}
_TOOL: dict[str, Any] = {"provider_executed": True, "provider_metadata": PM, "dynamic": True}

CHUNKS: list[c.AnyChunk] = [
    c.Start("m", {"a": 1}),
    c.Finish("stop", {"a": 1}),
    c.Abort("a person stopped it"),
    c.Error("no"),
    c.StartStep(),
    c.FinishStep(),
    c.ResetStep(),
    c.TextStart("t", PM),
    c.TextDelta("t", "hi", PM),
    c.TextEnd("t", PM),
    c.ReasoningStart("r", PM),
    c.ReasoningDelta("r", "hm", PM),
    c.ReasoningEnd("r", PM),
    c.ToolInputStart("a", "run", title="Run", **_TOOL),
    c.ToolInputDelta("a", "{"),
    c.ToolInputAvailable("a", "run", {"q": 2**70, "é": [None, 1.5]}, title="Run", **_TOOL),
    c.ToolInputError("a", "run", None, "no JSON", title="Run", **_TOOL),
    c.ToolOutputAvailable("a", None, preliminary=True, **_TOOL),
    c.ToolOutputError("a", "no", **_TOOL),
    c.ToolApprovalRequest("p", "a"),
    c.ToolApprovalResponse("p", True, "ok"),
    c.ToolOutputDenied("a"),
    c.FileChunk("/files/1", "text/csv", PM),
    c.SourceUrl("s", "https://example.org", "A page", PM),
    c.MessageMetadata({"a": 1}),
    c.DataPart("data-chart", [1], "1"),
    c.DataPart("data-note", None, transient=True),
]
"""Every type that a journal can hold."""

LATER: list[dict[str, Any]] = [
    {"type": "tool-approval-request", "approvalId": "p", "toolCallId": "a", "isAutomatic": True, "signature": "s"},
    {"type": "tool-approval-response", "approvalId": "p", "approved": True, "reason": "ok", "providerMetadata": PM},
    {"type": "source-document", "sourceId": "s", "mediaType": "text/csv", "title": "T", "filename": "t.csv"},
    {"type": "reasoning-file", "url": "/files/1", "mediaType": "text/csv"},
    {"type": "custom", "kind": "a.b", "providerMetadata": PM},
]
"""Types of AI SDK 7 that no journal holds yet."""

PART = "a data-turnwire part"
BREAK = "the body breaks"

_TYPES_OF_7 = {"tool-approval-response": PART, "reasoning-file": PART, "custom": PART, "reset-step": BREAK}
_TYPES_OF_6 = {"tool-approval-request": PART, "tool-output-denied": PART}

FORMS: dict[str, dict[str, Any]] = {
    "5-strict": {
        **_TYPES_OF_7,
        **_TYPES_OF_6,
        "finish": {"finishReason"},
        "abort": {"reason"},
        "tool-input-start": {"providerMetadata", "title"},
        "tool-input-available": {"title"},
        "tool-input-error": {"title"},
        "tool-output-available": {"providerMetadata"},
        "tool-output-error": {"providerMetadata"},
    },
    "5": {**_TYPES_OF_7, **_TYPES_OF_6},
    "6": {
        **_TYPES_OF_7,
        "tool-input-start": {"providerMetadata"},
        "tool-output-available": {"providerMetadata"},
        "tool-output-error": {"providerMetadata"},
        "tool-approval-request": {"isAutomatic", "signature"},
    },
    "7": {},
}
"""What a dialect makes of a type: one of the two above, or the keys it leaves out; the rest it sends as it is."""
