"""Wire forms of the journal for web readers.

Guarantee: a dialect maps every record to exactly one wire event, so one number is `seq`, SSE id and `startIndex`. What
a client cannot take becomes a transient `data-turnwire` part that holds it. Only `reset-step` before version 7 has no
such form: the body breaks there, and the client, resuming, gets the corrected fold. Source: the chunk schemas of `ai`
5.0.60 and 6.0.20, which refuse unknown types and keys, and of 5.0.277, 6.0.326 and 7.0.173, which refuse unknown types
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec

Drops = Mapping[str, tuple[str, ...]]

_TYPES_5 = frozenset(
    f"{part}-{what}" for part in ("text", "reasoning") for what in ("start", "delta", "end")
) | {
    "start", "finish", "abort", "error", "start-step", "finish-step", "message-metadata",
    "tool-input-start", "tool-input-delta", "tool-input-available", "tool-input-error",
    "tool-output-available", "tool-output-error",
    "file", "source-url", "source-document",
}  # fmt: skip
_TYPES_6 = _TYPES_5 | {"tool-approval-request", "tool-output-denied"}
_DROPS_5: Drops = {
    "finish": ("finishReason",),
    "abort": ("reason",),
    "tool-input-start": ("providerMetadata", "title", "toolMetadata"),
    "tool-input-available": ("title", "toolMetadata"),
    "tool-input-error": ("title", "toolMetadata"),
    "tool-output-available": ("providerMetadata", "toolMetadata"),
    "tool-output-error": ("providerMetadata", "toolMetadata"),
}
_DROPS_6: Drops = {
    "tool-input-start": ("providerMetadata", "toolMetadata"),
    "tool-input-available": ("toolMetadata",),
    "tool-input-error": ("toolMetadata",),
    "tool-output-available": ("providerMetadata", "toolMetadata"),
    "tool-output-error": ("providerMetadata", "toolMetadata"),
    "tool-approval-request": ("isAutomatic", "signature"),
}
_TYPE_AT = len('{"type":"')


class Dialect:
    """One wire form, by itself that of AI SDK 7: every record as it is.

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


class Older(Dialect):
    """A wire form for clients before AI SDK 7.

    `types` are those that the client knows, besides `data-NAME`; `drops` are the keys, by type, that it refuses.
    """

    types: ClassVar[frozenset[str]]
    drops: ClassVar[Drops]

    def frames(self, first: int, records: Sequence[bytes]) -> tuple[bytes, bool]:
        """See `Dialect.frames`."""
        out: list[bytes] = []
        for seq, record in enumerate(records, first):
            said = self.form(record)
            if said is None:
                return b"".join(out), True
            out.append(b"id: %d\ndata: %b\n\n" % (seq, said))
        return b"".join(out), False

    def replay(self, records: Sequence[bytes], last: int) -> bytes:
        """See `Dialect.replay`; a fold holds no reset."""
        return super().replay([self.form(record) or record for record in records], last)

    def form(self, record: bytes) -> bytes | None:
        """The event that a record becomes, or None where the body must break."""
        kind = record[_TYPE_AT : record.index(b'"', _TYPE_AT)].decode()
        if kind == "reset-step":
            return None
        if kind.startswith("data-"):
            return record
        if kind not in self.types:
            data = {"record": msgspec.Raw(record)}
            return msgspec.json.encode({"type": "data-turnwire", "data": data, "transient": True})
        drops = self.drops.get(kind)
        if drops is None:
            return record
        chunk: dict[str, msgspec.Raw] = _fields.decode(record)
        if not any(key in chunk for key in drops):
            return record
        return msgspec.json.encode({key: value for key, value in chunk.items() if key not in drops})


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Strict5(Older):
    """What every AI SDK since 5.0.60 takes: no unknown type and no unknown key."""

    name = "5-strict"
    types = _TYPES_5
    drops = _DROPS_5


class Dialect5(Older):
    """What AI SDK 5 takes since it passes over unknown keys, after 5.0.216: all keys, but no unknown type."""

    name = "5"
    types = _TYPES_5
    drops: ClassVar[Drops] = {}


class Dialect6(Older):
    """What every AI SDK 6 since 6.0.20 takes: approval requests, and titles and reasons, but not every metadata."""

    name = "6"
    types = _TYPES_6
    drops = _DROPS_6


DIALECTS: dict[str, Dialect] = {dialect.name: dialect for dialect in (Dialect(), Strict5(), Dialect5(), Dialect6())}
DEFAULT = "5-strict"
