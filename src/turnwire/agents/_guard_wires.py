"""What the four providers call a delta, a finish, token counts, an end marker and an error; without I/O.

Sources: the streaming references of Anthropic's Messages API, OpenAI's Chat Completions and Responses APIs, and
Gemini's `streamGenerateContent`.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from .chat_reader import dicts, error_text

WireName: TypeAlias = Literal["anthropic", "openai", "openai-responses", "google"]

QUIET = 0
"""the event says nothing: a ping, or a delta without content"""
SAID = 1
"""the event is part of the answer"""
FINISH = 2
"""the answer is complete; token counts and an end marker may follow"""
USAGE = 4
"""the event holds token counts"""
TERMINAL = 8
"""the provider's own end marker; nothing that follows belongs to the answer"""
OPENED = 16
"""the event begins another alternative answer, which needs a finish of its own"""
DROP = 32
"""the event is not for the reader: the provider's library would stumble over it"""

IDLE_TYPES = frozenset({"ping", "keepalive", "keep-alive", "keep_alive", "heartbeat"})
"""names of events that only keep the connection open"""

_PASSING = re.compile(
    r"overload|rate.?limit|server_?error|api_error|timeout|timed.?out|unavailable|internal|exhaust", re.I
)
_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s")


class BadEvent(Exception):
    """An event is not JSON."""


class ProviderFailed(Exception):
    """The provider reported an error. `body` is what it sent; it may hold anything."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.body = body


class Wire(Protocol):
    """One stream of one provider. It remembers which of several alternative answers are complete."""

    name: WireName
    named: bool
    """every event has an `event:` line"""
    terminator: bytes
    """what the provider's library needs to see at the end"""

    def read(self, name: str, data: bytes) -> int:
        """What an event means, as a sum of the flags above.

        Args:
            name: the event's name, empty if it has none.
            data: its data, JSON.

        Raises `BadEvent` and `ProviderFailed`.
        """


class _Valid(msgspec.Struct):
    """Any JSON object; decoding into it only checks the syntax."""


class _Typed(msgspec.Struct):
    type: Any = None


class _AnthropicDelta(msgspec.Struct):
    stop_reason: Any = None


class _AnthropicEvent(msgspec.Struct):
    type: Any = None
    delta: _AnthropicDelta | None = None
    usage: Any = None
    error: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: Any = None
    finish_reason: Any = None


class _Completion(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    object: Any = None


class _Content(msgspec.Struct):
    parts: list[Any] | None = None


class _Candidate(msgspec.Struct):
    index: Any = 0
    content: _Content | None = None
    finishReason: Any = None  # noqa: N815 - the wire's name


class _Feedback(msgspec.Struct):
    blockReason: Any = None  # noqa: N815 - the wire's name


class _Generated(msgspec.Struct):
    candidates: list[_Candidate] | None = None
    usageMetadata: Any = None  # noqa: N815 - the wire's name
    promptFeedback: _Feedback | None = None  # noqa: N815 - the wire's name
    error: Any = None


_valid = msgspec.json.Decoder(_Valid)
_typed = msgspec.json.Decoder(_Typed)
_anthropic_event = msgspec.json.Decoder(_AnthropicEvent)
_completion = msgspec.json.Decoder(_Completion)
_generated = msgspec.json.Decoder(_Generated)


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes) -> Any:
    """`data` as the decoder's type, None if it is JSON of another shape. Raises `BadEvent`."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # It may be of another shape, or what the libraries' reader takes: NaN, half a surrogate pair.
        value = _loads(data)
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(value, decoder.type)
    return None


def _loads(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadEvent from None


class Anthropic:
    """Messages. The finish is `message_delta` with a `stop_reason`."""

    name: WireName = "anthropic"
    named = True
    terminator = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    _PLAIN = frozenset({"content_block_delta", "content_block_start", "content_block_stop", "message_start"})

    def read(self, name: str, data: bytes) -> int:
        if name in self._PLAIN:
            _decode(_valid, data)
            return SAID
        event = _decode(_anthropic_event, data)
        if event is None:
            return DROP
        kind = name or event.type
        if kind == "error" or event.type == "error" or event.error:
            raise ProviderFailed(_loads(data))
        if kind == "message_stop":
            return TERMINAL
        if not kind or kind in IDLE_TYPES:
            return QUIET if kind == "ping" else DROP
        seen = USAGE if event.usage else 0
        if kind == "message_delta" and event.delta is not None and event.delta.stop_reason:
            return seen | FINISH
        return seen | SAID


class Responses:
    """Responses. Completed and incomplete answers are final. Failed ones, too, which the library takes for values."""

    name: WireName = "openai-responses"
    named = True
    terminator = b""

    def read(self, name: str, data: bytes) -> int:
        if name.endswith((".delta", ".done", ".added")):
            _decode(_valid, data)
            return SAID
        event = _decode(_typed, data)
        if event is None:
            return DROP
        kind = name if name.startswith("response.") else event.type
        if kind in ("response.completed", "response.incomplete"):
            return FINISH | USAGE | TERMINAL
        if name == "error" or kind in ("error", "response.failed", "response.cancelled"):
            raise ProviderFailed(_loads(data))
        if kind is None:
            body = _loads(data)
            if body.get("error"):
                raise ProviderFailed(body)
            return DROP
        return QUIET if kind in IDLE_TYPES else SAID


class _Alternatives:
    """Which alternative answers were begun and which are complete; nearly always there is one."""

    def __init__(self) -> None:
        self._begun: set[int] = set()
        self._complete: set[int] = set()

    def _seen(self, index: Any, finish: Any) -> int:
        index = index if isinstance(index, int) else 0
        opened = 0
        if index not in self._begun:
            self._begun.add(index)
            opened = OPENED
        if not finish:
            return opened
        self._complete.add(index)
        return opened | (FINISH if self._begun == self._complete else 0)


class Completions(_Alternatives):
    """Chat completions. The finish is a `finish_reason`; the token counts come after it."""

    name: WireName = "openai"
    named = False
    terminator = b"data: [DONE]\n\n"

    def read(self, name: str, data: bytes) -> int:
        chunk = _decode(_completion, data)
        if chunk is None:
            return DROP
        if chunk.error or name == "error" or chunk.object == "error":
            raise ProviderFailed(_loads(data))
        if chunk.choices is None and not chunk.usage:
            return DROP
        seen = USAGE if chunk.usage else 0
        for choice in chunk.choices or ():
            if choice.finish_reason == "error":
                raise ProviderFailed(_loads(data))
            if _speaks(choice.delta):
                seen |= SAID
            seen |= self._seen(choice.index, choice.finish_reason)
        return seen


def _speaks(delta: Any) -> bool:
    return isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role")


class Generations(_Alternatives):
    """Gemini. The finish is a `finishReason`, or a `blockReason` for the prompt; there is no end marker."""

    name: WireName = "google"
    named = False
    terminator = b""

    def read(self, name: str, data: bytes) -> int:
        chunk = _decode(_generated, data)
        if chunk is None:
            return DROP
        if chunk.error or name == "error":
            raise ProviderFailed(_loads(data))
        seen = USAGE if chunk.usageMetadata else 0
        if chunk.promptFeedback is not None and chunk.promptFeedback.blockReason:
            return seen | FINISH | TERMINAL
        if chunk.candidates is None and chunk.promptFeedback is None and not seen:
            return DROP
        for candidate in chunk.candidates or ():
            if candidate.content is not None and candidate.content.parts:
                seen |= SAID
            seen |= self._seen(candidate.index, candidate.finishReason)
        return seen


WIRES: dict[WireName, type[Wire]] = {
    "anthropic": Anthropic,
    "openai": Completions,
    "openai-responses": Responses,
    "google": Generations,
}


def event_type(data: bytes) -> str:
    """The name that an event gives itself inside its data; empty if it gives none."""
    event = _decode(_typed, data)
    kind = event.type if event is not None else None
    return kind if isinstance(kind, str) and re.fullmatch(r"[\w.-]{1,100}", kind) else ""


def without_finish(data: bytes) -> bytes:
    """A chat-completions chunk whose finish was said before: without it, or nothing if nothing is left."""
    chunk = _loads(data)
    said = bool(chunk.get("usage"))
    for choice in dicts(chunk.get("choices")):
        choice["finish_reason"] = None
        said = said or _speaks(choice.get("delta"))
    return json.dumps(chunk, separators=(",", ":")).encode() if said else b""


class Failure(msgspec.Struct, frozen=True):
    """What an error body says. `text` is the provider's, and not yet fit to be shown."""

    text: str
    passing: bool
    """the same request may succeed later"""
    retry_after: float | None
    """seconds to wait, if the provider said so"""


def failure(body: Any) -> Failure:
    """What an error body says, in any of the providers' shapes."""
    if isinstance(body, list) and body:
        body = body[0]
    response = body.get("response") if isinstance(body, dict) else None
    if isinstance(response, dict) and response.get("error"):
        body = response
    error = body.get("error") if isinstance(body, dict) else None
    fields: dict[str, Any] = error if isinstance(error, dict) else body if isinstance(body, dict) else {}
    code = next((value for value in (fields.get("code"), fields.get("status")) if _is_status(value)), None)
    if code is not None:
        passing = code in (408, 409, 425, 429) or code >= 500
    else:
        named = " ".join(str(fields[key]) for key in ("type", "code", "status") if isinstance(fields.get(key), str))
        passing = bool(_PASSING.search(named or str(fields.get("message") or error or "")))
    return Failure(error_text(body) or "", passing, _retry_delay(fields))


def _is_status(value: Any) -> bool:
    return isinstance(value, int) and 400 <= value < 600


def _retry_delay(fields: dict[str, Any]) -> float | None:
    """Google's `google.rpc.RetryInfo`."""
    for detail in dicts(fields.get("details")):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (match := _DURATION.fullmatch(delay)):
            return float(match[1])
    return None
