"""The vocabulary of the journal and its JSON form: the AI SDK UI message stream, version 7.

Guarantee: `decode(encode(chunk)) == chunk`; an encoded chunk holds no null for an absent option, no newline and no
unknown type. Source: the chunk schema of the `ai` package (`ui-message-chunks.ts`).
"""

from __future__ import annotations

from typing import Any, TypeAlias, Union

import msgspec

from .events import JSON, FinishReason, ProviderMetadata


class Chunk(msgspec.Struct, rename="camel", omit_defaults=True, tag_field="type"):
    """Base of all chunks."""


class Start(Chunk, tag="start"):
    message_id: str
    message_metadata: dict[str, Any] | None = None


class Finish(Chunk, tag="finish"):
    finish_reason: FinishReason | None = None
    message_metadata: dict[str, Any] | None = None


class Abort(Chunk, tag="abort"):
    reason: str | None = None


class Error(Chunk, tag="error"):
    error_text: str


class StartStep(Chunk, tag="start-step"):
    pass


class FinishStep(Chunk, tag="finish-step"):
    pass


class ResetStep(Chunk, tag="reset-step"):
    pass


class TextStart(Chunk, tag="text-start"):
    id: str
    provider_metadata: ProviderMetadata | None = None


class TextDelta(Chunk, tag="text-delta"):
    id: str
    delta: str
    provider_metadata: ProviderMetadata | None = None


class TextEnd(Chunk, tag="text-end"):
    id: str
    provider_metadata: ProviderMetadata | None = None


class ReasoningStart(Chunk, tag="reasoning-start"):
    id: str
    provider_metadata: ProviderMetadata | None = None


class ReasoningDelta(Chunk, tag="reasoning-delta"):
    id: str
    delta: str
    provider_metadata: ProviderMetadata | None = None


class ReasoningEnd(Chunk, tag="reasoning-end"):
    id: str
    provider_metadata: ProviderMetadata | None = None


class ToolInputStart(Chunk, tag="tool-input-start"):
    tool_call_id: str
    tool_name: str
    provider_executed: bool | None = None
    provider_metadata: ProviderMetadata | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolInputDelta(Chunk, tag="tool-input-delta"):
    tool_call_id: str
    input_text_delta: str


class ToolInputAvailable(Chunk, tag="tool-input-available"):
    tool_call_id: str
    tool_name: str
    input: JSON
    provider_executed: bool | None = None
    provider_metadata: ProviderMetadata | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolInputError(Chunk, tag="tool-input-error"):
    tool_call_id: str
    tool_name: str
    input: JSON
    error_text: str
    provider_executed: bool | None = None
    provider_metadata: ProviderMetadata | None = None
    dynamic: bool | None = None
    title: str | None = None


class ToolOutputAvailable(Chunk, tag="tool-output-available"):
    tool_call_id: str
    output: JSON
    provider_executed: bool | None = None
    provider_metadata: ProviderMetadata | None = None
    dynamic: bool | None = None
    preliminary: bool | None = None


class ToolOutputError(Chunk, tag="tool-output-error"):
    tool_call_id: str
    error_text: str
    provider_executed: bool | None = None
    provider_metadata: ProviderMetadata | None = None
    dynamic: bool | None = None


class ToolApprovalRequest(Chunk, tag="tool-approval-request"):
    approval_id: str
    tool_call_id: str


class ToolApprovalResponse(Chunk, tag="tool-approval-response"):
    approval_id: str
    approved: bool
    reason: str | None = None


class ToolOutputDenied(Chunk, tag="tool-output-denied"):
    tool_call_id: str


class FileChunk(Chunk, tag="file"):
    url: str
    media_type: str
    provider_metadata: ProviderMetadata | None = None


class SourceUrl(Chunk, tag="source-url"):
    source_id: str
    url: str
    title: str | None = None
    provider_metadata: ProviderMetadata | None = None


class MessageMetadata(Chunk, tag="message-metadata"):
    message_metadata: dict[str, Any]


class DataPart(msgspec.Struct, omit_defaults=True):
    """A `data-NAME` part; the only chunk whose type is open."""

    type: str
    data: JSON
    id: str | None = None
    transient: bool | None = None


AnyChunk: TypeAlias = Chunk | DataPart

TYPES: dict[str, type[Chunk]] = {
    kind.__struct_config__.tag: kind  # type: ignore[misc]
    for kind in Chunk.__subclasses__()
}


class _Peek(msgspec.Struct):
    type: str


_encoder = msgspec.json.Encoder()
_peek = msgspec.json.Decoder(_Peek)
_known: msgspec.json.Decoder[Chunk] = msgspec.json.Decoder(Union[tuple(TYPES.values())])  # noqa: UP007
_data = msgspec.json.Decoder(DataPart)
_DATA_PREFIX = b'{"type":"data-'

encode = _encoder.encode
"""The chunk as JSON bytes, without a newline."""


def decode(payload: bytes | memoryview) -> AnyChunk:
    """The chunk of one record's JSON; raises `ValueError` naming what is wrong with it."""
    try:
        if payload[: len(_DATA_PREFIX)] == _DATA_PREFIX:
            return _data.decode(payload)
        return _known.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _decode_other(payload, error)


def _decode_other(payload: bytes | memoryview, error: Exception) -> AnyChunk:
    """A `data-` record that does not begin with its type, or the reason why there is no chunk."""
    try:
        kind = _peek.decode(payload).type
        if kind.startswith("data-"):
            return _data.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as again:
        error = again
    else:
        if kind not in TYPES:
            raise ValueError(f"unknown record type {kind!r}: was this journal written by a newer Turnwire?")
    raise ValueError(f"not a record of the journal: {error}")


def chunk_type(chunk: AnyChunk) -> str:
    """The wire name of a chunk, such as `text-delta`."""
    if isinstance(chunk, DataPart):
        return chunk.type
    return type(chunk).__struct_config__.tag  # type: ignore[return-value]
