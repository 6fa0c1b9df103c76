"""Wire forms of the journal for web readers.

Guarantee: a dialect maps every record to exactly one wire event, so one number is `seq`, SSE id and `startIndex`. What
a client cannot take becomes a transient `data-turnwire` part that names it. Only `reset-step` before version 7 has no
such form: the body breaks there, and the client, resuming, gets the corrected fold. Source: the chunk schemas of `ai`
5.0.60 (strict) and 7.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

_PASS = frozenset(
    f"{part}-{what}" for part in ("text", "reasoning") for what in ("start", "delta", "end")
) | {
    "start", "error", "start-step", "finish-step", "message-metadata", "file", "source-url", "source-document",
    "tool-input-delta",
}  # fmt: skip
_STRICT_DROPS = {
    "finish": ("finishReason",),
    "abort": ("reason",),
    "tool-input-start": ("providerMetadata", "title", "toolMetadata"),
    "tool-input-available": ("title", "toolMetadata"),
    "tool-input-error": ("title", "toolMetadata"),
    "tool-output-available": ("providerMetadata", "toolMetadata"),
    "tool-output-error": ("providerMetadata", "toolMetadata"),
}
_TYPE_AT = len('{"type":"')


class Dialect:
    """One wire form.

    `frames` is what a topic shares among its readers: the bytes of a run of records, and whether the body must break
    after them.
    """

    name = "7"

    def frames(self, first: int, records: Sequence[bytes]) -> tuple[bytes, bool]:
        """The SSE events of records `first`, `first + 1`, ..."""
        return b"".join([b"id: %d\ndata: %b\n\n" % (seq, record) for seq, record in enumerate(records, first)]), False

    def replay(self, records: Sequence[bytes], last: int) -> bytes:
        """The SSE events of a folded replay of all records up to `last`; only its end can be resumed from."""
        body = [b"data: %b\n\n" % record for record in records]
        if body:
            body[-1] = b"id: %d\n%b" % (last, body[-1])
        return b"".join(body)


class Strict5(Dialect):
    """What AI SDK 5 takes since 5.0.60: no unknown type and no unknown key."""

    name = "5-strict"

    def frames(self, first: int, records: Sequence[bytes]) -> tuple[bytes, bool]:
        """See `Dialect.frames`."""
        out: list[bytes] = []
        for seq, record in enumerate(records, first):
            said = _strict(record)
            if said is None:
                return b"".join(out), True
            out.append(b"id: %d\ndata: %b\n\n" % (seq, said))
        return b"".join(out), False

    def replay(self, records: Sequence[bytes], last: int) -> bytes:
        """See `Dialect.replay`; a fold holds no reset."""
        return super().replay([_strict(record) or record for record in records], last)


def _strict(record: bytes) -> bytes | None:
    kind = record[_TYPE_AT : record.index(b'"', _TYPE_AT)].decode()
    if kind in _PASS or kind.startswith("data-"):
        return record
    if kind == "reset-step":
        return None
    drops = _STRICT_DROPS.get(kind)
    chunk = msgspec.json.decode(record)
    if drops is None:
        return msgspec.json.encode({"type": "data-turnwire", "data": {"record": chunk}, "transient": True})
    if any(key in chunk for key in drops):
        return msgspec.json.encode({key: value for key, value in chunk.items() if key not in drops})
    return record


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Dialect(), Strict5())}
DEFAULT = "5-strict"
