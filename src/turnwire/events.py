"""What an agent may say: the events it yields from a turn.

Guarantee: an agent can yield these in any order and at any time; the framer turns whatever comes into a stream that
every supported client accepts. An agent says what it means: a delta (`Text`) or a whole text (`Snapshot`); nothing is
guessed by comparing strings.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

FinishReason: TypeAlias = Literal["stop", "length", "content-filter", "tool-calls", "error", "other"]
JSON: TypeAlias = Any
ProviderMetadata: TypeAlias = dict[str, dict[str, Any]]


class AgentEventError(ValueError):
    """An agent yielded what cannot become part of a turn. It changed nothing; the turn ends `failed` and names it."""


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of all agent events."""


class Text(Event, frozen=True):
    """More answer text, appended to what was said. A plain `str` means the same."""

    text: str


class Snapshot(Event, frozen=True):
    """The whole text of one part of the answer so far, replacing what that part said.

    `part` names the text part of the current step it stands for; without it the newest one is meant.
    """

    text: str
    part: str | None = None


class Reasoning(Event, frozen=True):
    """More of the model's thinking. `metadata` (a signature, say) is kept with the part and never shown."""

    text: str
    metadata: ProviderMetadata | None = None


class Step(Event, frozen=True):
    """A new model request begins. With `retry`, it repeats the last request and streams its text again."""

    retry: bool = False


class ToolInput(Event, frozen=True):
    """A piece of a tool call's arguments as the model writes them, as JSON text. The first piece decides `dynamic`."""

    id: str
    name: str
    delta: str = ""
    dynamic: bool = False


class ToolCall(Event, frozen=True, kw_only=True):
    """A tool call whose arguments are complete. `input` is any JSON value; a `dynamic` tool is unknown to the page.

    With `needs_approval` a person must allow it first: once the agent returns, the turn ends `waiting`, and the answer
    starts a further turn, whose `resume` has it. `state` is any JSON value that this turn gets back then.
    """

    id: str
    name: str
    input: JSON = None
    title: str | None = None
    dynamic: bool = False
    metadata: ProviderMetadata | None = None
    needs_approval: bool = False
    state: JSON = None


class ToolResult(Event, frozen=True, kw_only=True):
    """What a tool answered. A `preliminary` result may be followed by further ones; the last one stays."""

    id: str
    output: JSON = None
    name: str | None = None
    preliminary: bool = False


class ToolError(Event, frozen=True, kw_only=True):
    """A tool failed, or its arguments were unusable; `error` is shown to people."""

    id: str
    error: str
    name: str | None = None


class File(Event, frozen=True, kw_only=True):
    """A file of the answer, by address. Use `turn.attach()` for files of our own store."""

    url: str
    media_type: str
    metadata: ProviderMetadata | None = None


class Source(Event, frozen=True, kw_only=True):
    """A web page the answer rests on."""

    id: str
    url: str
    title: str | None = None


class Data(Event, frozen=True, kw_only=True):
    """An application's own part, sent as `data-NAME`. One with the same name and `id` replaces the earlier one where it
    stands; a `transient` one is not kept."""

    name: str
    data: JSON
    id: str | None = None
    transient: bool = False


class Usage(Event, frozen=True, kw_only=True):
    """What one model request used, in tokens. Requests of a turn add up; the last `model` and `finish_reason` stand."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    model: str | None = None
    finish_reason: FinishReason | None = None


AgentEvent: TypeAlias = (
    str
    | Text
    | Snapshot
    | Reasoning
    | Step
    | ToolInput
    | ToolCall
    | ToolResult
    | ToolError
    | File
    | Source
    | Data
    | Usage
)
