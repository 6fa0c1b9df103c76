"""What waits for a commit: how much it is, and which deltas become one. Pure."""

from __future__ import annotations

from .. import chunks as c

MERGED_CHARS = 16 * 1024
"""A delta that has grown to this is not joined any further."""


def weight_of(chunk: c.AnyChunk) -> int:
    """About how many bytes the chunk will be."""
    kind = type(chunk)
    if kind is c.TextDelta or kind is c.ReasoningDelta:
        return len(chunk.delta)  # type: ignore[union-attr]
    if kind is c.ToolOutputAvailable or kind is c.ToolInputAvailable or kind is c.DataPart:
        return len(c.encode(chunk))
    return 200


def join_delta(pending: list[c.AnyChunk], chunk: c.AnyChunk) -> bool:
    """Joins a delta to the one that waits before it, if both belong to the same part."""
    last = pending[-1]
    if isinstance(chunk, c.TextDelta):
        if not isinstance(last, c.TextDelta) or last.id != chunk.id or chunk.provider_metadata is not None:
            return False
        if len(last.delta) >= MERGED_CHARS:
            return False
        pending[-1] = c.TextDelta(chunk.id, last.delta + chunk.delta, last.provider_metadata)
        return True
    if isinstance(chunk, c.ReasoningDelta):
        if not isinstance(last, c.ReasoningDelta) or last.id != chunk.id or chunk.provider_metadata is not None:
            return False
        if len(last.delta) >= MERGED_CHARS:
            return False
        pending[-1] = c.ReasoningDelta(chunk.id, last.delta + chunk.delta, last.provider_metadata)
        return True
    return False
