"""What an OpenAI-compatible chat-completions stream means, without I/O.

Guarantee: nothing that a provider wrote reaches an error text unless it is short, on one line and free of secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from ..events import AgentEvent, FinishReason, Reasoning, Usage
from ..sanitize import clean_text
from ..turn import AgentError
from .sse import SSEEvent

_SHOWN_CHARS = 300
_SECRETS = re.compile(
    r"(?i)\b(?:bearer|basic)\s+\S+|\b(?:sk|pk|rk|gsk|csk|xai|hf|ghp|pplx|nvapi|key|token)[-_][\w*.-]{8,}"
    r"|\bAIza[\w-]{20,}|(?<=//)[^\s/@]+@"
)
_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    "function_call": "tool-calls",
}


class ModelStreamError(AgentError):
    """The model's answer did not come whole. The text is meant for people.

    `status` is the HTTP status if the response was refused, else None.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ChatReader:
    """What the events of one chat-completions stream mean, without I/O.

    Attributes:
        done: the provider sent its end marker.
        finish_reason: why the answer is over, once the provider said so.
        counted: the provider counted its tokens.
        taken: chunks so far that say something.
        failure: why the answer failed, once it is known; nothing after it counts, and nothing after the finish fails.
    """

    def __init__(self, redact: Callable[[str], str] | None = None) -> None:
        self.done = False
        self.finish_reason: FinishReason | None = None
        self.counted = False
        self.taken = 0
        self.failure: ModelStreamError | None = None
        self._redact = redact or redactor()
        self._refused = False
        self._model: str | None = None
        self._tokens: dict[str, int | None] = {}

    @property
    def finished(self) -> bool:
        """Whether the provider said that its answer is over."""
        return self.finish_reason is not None

    ending = finished

    def read(self, event: SSEEvent) -> list[AgentEvent]:
        """The agent events that one server-sent event becomes.

        Raises `ModelStreamError` for damaged JSON and for an end marker before anything else. What the provider itself
        calls an error, and a tool call, become the `failure`: what came with them is still said.
        """
        data = event.data.strip()
        if data == "[DONE]":
            if not self.taken and self.finish_reason is None:
                raise ModelStreamError("The model ended its stream without an answer.")
            self.done = True
            self.finish_reason = self.finish_reason or "other"
            return []
        if not data:
            return []
        try:
            chunk = msgspec.json.decode(data)
        except (msgspec.DecodeError, RecursionError):
            raise ModelStreamError("The model's stream is damaged: one of its events is not JSON.") from None
        if not isinstance(chunk, dict):
            return []
        if event.event == "error" or chunk.get("error") or chunk.get("object") == "error":
            text = self._redact(error_text(chunk) or "")
            self._fail(f"The model's provider reported an error: {text or 'no details given'}")
        self._count(chunk)
        said: list[AgentEvent] = []
        for choice in dicts(chunk.get("choices")):
            if not choice.get("index"):
                self._choice(choice, said)
        self.taken += bool(said)
        return said

    def usage(self) -> Usage:
        """Tokens, model and finish reason, as far as the provider named them."""
        return Usage(**self._tokens, model=self._model, finish_reason=self.finish_reason)

    def _fail(self, why: str) -> None:
        if self.failure is None and self.finish_reason is None:
            self.failure = ModelStreamError(why)

    def _choice(self, choice: dict[str, Any], said: list[AgentEvent]) -> None:
        delta = choice.get("delta")
        if isinstance(delta, dict):
            thought = delta.get("reasoning_content") or delta.get("reasoning")
            if thought and isinstance(thought, str):
                said.append(Reasoning(thought))
            said += _content(delta.get("content"))
            refusal = delta.get("refusal")
            if refusal and isinstance(refusal, str):
                self._refused = True
                said.append(refusal)
            self._no_tools(delta)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            if reason == "error":
                self._fail("The model's provider ended the answer with an error.")
            else:
                self.finish_reason = "content-filter" if self._refused else _FINISH.get(reason, "other")

    def _no_tools(self, delta: dict[str, Any]) -> None:
        """A call waits for a result that nobody here can give, so the answer cannot be completed."""
        calls = dicts(delta.get("tool_calls")) + dicts([delta.get("function_call")])
        for call in calls:
            about = next((call[kind] for kind in ("function", "custom") if isinstance(call.get(kind), dict)), call)
            name = self._redact(str(about.get("name") or "without a name"))
            self._fail(f"The model called a tool ({name}), but no tools were offered to it.")

    def _count(self, chunk: dict[str, Any]) -> None:
        model = chunk.get("model")
        if model and isinstance(model, str):
            self._model = clean_text(model)[:200]
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self.counted = True
            self._tokens = {
                "input_tokens": _tokens(usage.get("prompt_tokens")),
                "output_tokens": _tokens(usage.get("completion_tokens")),
                "total_tokens": _tokens(usage.get("total_tokens")),
            }


def redactor(*secrets: str | None) -> Callable[[str], str]:
    """A function that makes a provider's text showable: one line, at most 300 characters, no secrets."""
    known = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def redact(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "***")
        text = " ".join(_SECRETS.sub("***", clean_text(text)).split())
        return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"

    return redact


def error_text(body: Any) -> str | None:
    """What an error body says, in any of the usual shapes."""
    if isinstance(body, list) and body:
        body = body[0]
    for _ in range(3):
        if not isinstance(body, dict):
            break
        body = next((body[key] for key in ("error", "message", "detail", "type", "code") if body.get(key)), None)
    return str(body) if isinstance(body, (str, int)) else None


def _content(content: object) -> list[AgentEvent]:
    """A delta's content: text, or as Mistral's reasoning models have it, parts of text and of thoughts."""
    if isinstance(content, str):
        return [content] if content else []
    said: list[AgentEvent] = []
    for part in dicts(content):
        if part.get("type") == "thinking":
            thought = "".join(str(one.get("text") or "") for one in dicts(part.get("thinking")))
            said += [Reasoning(thought)] if thought else []
        elif isinstance(part.get("text"), str) and part["text"]:
            said.append(part["text"])
    return said


def _tokens(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def dicts(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON array; nothing of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
