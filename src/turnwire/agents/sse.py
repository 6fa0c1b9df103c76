"""Server-sent events out of bytes, without I/O.

Guarantee: the same bytes give the same events however they are cut into chunks, and no event takes more memory than the
bound. Follows section 9.2 of the WHATWG HTML Living Standard (server-sent events), with one deliberate difference: an
event that lacks its closing blank line when the body ends is still given, because model servers leave it out.
"""

from __future__ import annotations

import msgspec

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Default bound of one event, in bytes: room for an image inside an event."""

_BOM = b"\xef\xbb\xbf"


class SSEError(ValueError):
    """The stream holds an event larger than the bound; nothing more can be read from it."""


class SSEEvent(msgspec.Struct, frozen=True):
    """One event: its type, its data lines joined by LF, and the last id that the stream named."""

    event: str
    data: str
    id: str = ""


class SSEParser:
    """Bytes in, events out.

    Args:
        max_event_bytes: bound of one event's data and of any one line, in bytes.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._event = ""
        self._id = ""
        self._after_cr = False
        self._first_line = True
        self._overflow = False

    def feed(self, chunk: bytes) -> list[SSEEvent]:
        """The events that `chunk` completes.

        Raises `SSEError` when an event outgrows the bound, after all events before it have been given.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = chunk.splitlines()
        rest = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()
        events: list[SSEEvent] = []
        for line in lines:
            if self._line:
                self._line += line
                line = self._whole_line()
            self._take(line, events)
        if rest and not self._overflow:
            self._line += rest
            self._bound(0)
        return self._given(events)

    def close(self) -> list[SSEEvent]:
        """The event that was not closed when the body ended, if there is one. Raises `SSEError` as `feed` does."""
        events: list[SSEEvent] = []
        if self._line:
            self._take(self._whole_line(), events)
        self._take(b"", events)
        return self._given(events)

    def _given(self, events: list[SSEEvent]) -> list[SSEEvent]:
        if self._overflow and not events:
            raise SSEError(f"the stream holds an event of more than {self._max} bytes")
        return events

    def _whole_line(self) -> bytes:
        line = bytes(self._line)
        self._line.clear()
        return line

    def _bound(self, more: int) -> None:
        if self._data_bytes + len(self._line) + more > self._max:
            self._overflow = True
            self._line.clear()
            self._data.clear()

    def _take(self, line: bytes, events: list[SSEEvent]) -> None:
        self._bound(len(line))
        if self._overflow:
            return
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            if self._data:
                data = b"\n".join(self._data).decode("utf-8", "replace")
                events.append(SSEEvent(self._event or "message", data, self._id))
                self._data.clear()
                self._data_bytes = 0
            self._event = ""
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
