"""What waits for a commit: how much it is, and which deltas become one. Pure."""

from __future__ import annotations

from .. import chunks as c

MERGED_CHARS = 16 * 1024
"""A delta that has grown to this is not joined any further."""
_DELTAS = (c.TextDelta, c.ReasoningDelta)


def weight_of(chunk: c.AnyChunk) -> int:
    """About how many bytes the chunk will be."""
    if isinstance(chunk, _DELTAS):
        return len(chunk.delta)
    if isinstance(chunk, (c.ToolOutputAvailable, c.ToolInputAvailable, c.DataPart)):
        return len(c.encode(chunk))
    return 200


def join_delta(pending: list[c.AnyChunk], chunk: c.AnyChunk) -> bool:
    """Joins a delta to the one that waits before it, if both belong to the same part."""
    last = pending[-1]
    if not isinstance(chunk, _DELTAS) or not isinstance(last, _DELTAS) or type(last) is not type(chunk):
        return False
    if last.id != chunk.id or chunk.provider_metadata is not None or len(last.delta) >= MERGED_CHARS:
        return False
    pending[-1] = type(last)(chunk.id, last.delta + chunk.delta, last.provider_metadata)
    return True
