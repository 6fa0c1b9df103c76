"""The chunks of a UI message stream as they come from a remote: JSON whose fields are checked when they are read."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import msgspec

from ..events import ProviderMetadata
from ..sanitize import clean_text
from .chat_reader import ModelStreamError

Chunk: TypeAlias = dict[str, Any]


class Call(msgspec.Struct):
    """A tool call of the remote; `id` is its id here."""

    id: str
    name: str = "tool"
    input: Any = None
    title: str | None = None
    dynamic: bool = False
    state: str = "streaming"
    written: str = ""
    held: str = ""
    answer: Chunk | None = None


def decode(data: str) -> Any:
    """The JSON of one event. Raises `ModelStreamError`."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        # A delta of a JavaScript server may end within a surrogate pair, which only this decoder takes.
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ModelStreamError("The remote agent's stream is damaged: one of its events is not JSON.") from None


def text_of(chunk: Chunk, key: str) -> str | None:
    """A field that is a string, or None."""
    value = chunk.get(key)
    return value if isinstance(value, str) else None


def needed(chunk: Chunk, key: str) -> str:
    """A field that must be a string, and not empty. Raises `ModelStreamError`."""
    value = clean_text(text_of(chunk, key) or "")
    if not value:
        raise ModelStreamError(f"The remote agent's stream is damaged: a {chunk['type']} has no {key}.")
    return value


def provider_metadata(chunk: Chunk) -> ProviderMetadata | None:
    """What the provider keeps with a part."""
    value = chunk.get("providerMetadata")
    if not isinstance(value, dict):
        return None
    # Ours is about our own files and turns; that of another Turnwire would be taken for it.
    return {own: fields for own, fields in value.items() if isinstance(fields, dict) and own != "turnwire"} or None
