"""One provider stream made honest, without I/O: damaged bytes in, clean bytes out, and a definite end.

Guarantee: what is handed on is a legal event stream that the provider's own library reads to its end. A stream ends
cleanly only after the provider's finish or end marker was seen; every other end is a `GuardError`. Bytes that need no
repair are handed on as they are. No more than one event of the permitted size is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import msgspec

from . import _guard_wires as wires
from ._guard_errors import GuardError, Kind, Limits, retry_after
from .chat_reader import redactor
from .sse import SSEError, SSEEvent, SSEParser

Flag: TypeAlias = Literal["no-finish", "no-terminator", "second-finish"]

_FOREIGN_BYTES = 64 * 1024
_BOM = b"\xef\xbb\xbf"
_NAMED = re.compile(rb"event: ([\w.]+)\ndata: (\{[^\n]*\})\n\n")
_UNNAMED = re.compile(rb"()data: (\{[^\n]*\})\n\n")
_LINE_ENDS = (b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\xc2\x85")
"""U+2028, U+2029 and U+0085: legal inside JSON, line ends to some readers"""


class Guard:
    """Bytes of one response body in, clean bytes out.

    All times are the caller's, in seconds from any start; the guard asks no clock. When `due` has come before new bytes
    have, call `timed_out`. Once `ended` is true, hand on what the last call gave and then stop: with `error` if that is
    set, else cleanly. Later calls give nothing.

    Args:
        wire: whose stream it is; None for one of which nothing is known, which is handed on as it is.
        now: the time at which the response began.
        redact: makes a provider's text fit to be shown.
        headers: of the response, for `retry-after`.
    """

    def __init__(
        self,
        wire: wires.WireName | None,
        limits: Limits | None = None,
        *,
        now: float = 0.0,
        redact: Callable[[str], str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.ended = False
        self.error: GuardError | None = None
        self.finished = False
        """the provider said that the answer is complete"""
        self.flags: set[Flag] = set()
        """what was unusual about a stream that ended well"""
        self._wire = wires.WIRES[wire]() if wire else None
        self._limits = limits or Limits()
        self._redact = redact or redactor()
        self._headers = headers or {}
        self._parser = SSEParser(self._limits.max_event_bytes)
        self._clean = _NAMED if self._wire and self._wire.named else _UNNAMED
        self._tail = b"\n\n"
        self._begun = False
        self._foreign: bytearray | None = None
        self._partial = False
        self._counted = False
        self._heard = self._told = now
        self._due = 0.0

    @property
    def partial(self) -> bool:
        """Whether something of the answer was handed on."""
        return self._partial

    @property
    def due(self) -> float:
        """When to give up waiting for bytes."""
        if self._foreign is not None or self.finished:
            return self._due
        idle = self._heard + self._limits.idle_bytes
        return idle if self._wire is None else min(idle, self._told + self._limits.idle_events)

    def feed(self, data: bytes, now: float) -> bytes:
        """What to hand on of `data`, which came at `now`."""
        if self.ended or not data:
            return b""
        self._heard = now
        if self._wire is None:
            return data
        if self.finished and now > self._due:
            return self._end()
        if not self._begun and not self._begins(data, now):
            return b""
        if self._foreign is not None:
            self._foreign += data[: _FOREIGN_BYTES - len(self._foreign)]
            if len(self._foreign) == _FOREIGN_BYTES:
                self._not_sse()
            return b""
        out = self._take(self._wire, data, now)
        if self._told == now or self.finished or now < self._told + self._limits.idle_events:
            return out
        return out + self.timed_out(now)

    def eof(self, now: float) -> bytes:
        """What to hand on at the proper end of the body."""
        if self._wire is None:
            self.ended = True
        out = self._flush(now)
        return out if self.ended else out + self._stop("The model's stream ended before its answer was complete.")

    def broken(self, error: BaseException, now: float) -> bytes:
        """What to hand on when the connection ended with an error."""
        out = self._flush(now)
        cause = self._redact(f"{error}" or type(error).__name__)
        said = f"The connection to the model broke before its answer was complete: {cause}"
        return out if self.ended else out + self._stop(said)

    def timed_out(self, now: float) -> bytes:
        """What to hand on when `due` has come."""
        out = self._flush(now)
        if self.ended:
            return out
        if self.finished:
            return out + self._end()
        limits = self._limits
        # Both may have passed when a machine stood still; the one that was due first is the one to name.
        if self._wire is not None and self._told + limits.idle_events <= self._heard + limits.idle_bytes:
            return out + self._stop(f"The model sent only keep-alives for {limits.idle_events:g} s.", "idle_events")
        return out + self._stop(f"The model sent nothing for {limits.idle_bytes:g} s.", "idle_bytes")

    def _flush(self, now: float) -> bytes:
        """What the last event says if only its blank line is missing: nothing more will come."""
        if self.ended or self._wire is None:
            return b""
        if self._foreign is not None:
            self._not_sse()
            return b""
        try:
            return self._events(self._wire, self._parser.close(), now, last=True)
        except SSEError:
            return b""

    def _begins(self, data: bytes, now: float) -> bool:
        """False while there is nothing to see. A body that begins like JSON or HTML is no event stream."""
        start = data.removeprefix(_BOM).lstrip()
        if not start:
            return False
        self._begun = True
        if start.startswith((b"{", b"[", b"<")):
            self._foreign, self._due = bytearray(), now + self._limits.error_body
        return True

    def _take(self, wire: wires.Wire, data: bytes, now: float) -> bytes:
        """Sound events are handed on unchanged, as one slice; the rest goes through the parser."""
        if b"\r" in data and not self._tail.endswith(b"\r"):
            data = data.replace(b"\r\n", b"\n")
        out = b""
        if self._tail != b"\n\n":
            # The parser holds part of an event. What follows the next blank line may be sound again.
            cut = data.find(b"\n\n") + 2
            if cut == 1:
                return self._parse(wire, data, now)
            out, data = self._parse(wire, data[:cut], now), data[cut:]
        sound = 0
        if not (self.ended or self.finished) and self._tail == b"\n\n":
            whole = data.rfind(b"\n\n") + 2
            if whole > 1 and _is_sound(data if whole == len(data) else data[:whole]):
                sound = self._sound(wire, data, whole, now)
        return out + data[:sound] + self._parse(wire, data[sound:], now)

    def _sound(self, wire: wires.Wire, data: bytes, whole: int, now: float) -> int:
        """How many of the first `whole` bytes are sound events, up to the finish and with it."""
        end = 0
        read = wire.read
        for match in self._clean.finditer(data, 0, whole):
            if match.start() != end:
                break
            name, body = match.groups()
            if len(body) > self._limits.max_event_bytes:
                break
            try:
                seen = read(name.decode(), body)
            except (wires.BadEvent, wires.ProviderFailed):
                break
            if seen == wires.SAID:
                self._told, self._partial = now, True
            elif seen & wires.DROP:
                break
            elif seen:
                self._account(seen, now)
            end = match.end()
            if self.finished or self.ended:
                break
        return end

    def _parse(self, wire: wires.Wire, data: bytes, now: float) -> bytes:
        if self.ended or not data:
            return b""
        self._tail = (self._tail + data)[-2:]
        out = b""
        try:
            out = self._events(wire, self._parser.feed(data), now)
            if self._tail == b"\n\n":
                self._parser.feed(b"\n")  # it tells of an event that is too large one call late
        except SSEError:
            limit = self._limits.max_event_bytes
            out += self._stop(f"The model's stream holds an event of more than {limit} bytes.", "too_large")
        return out

    def _events(self, wire: wires.Wire, events: list[SSEEvent], now: float, *, last: bool = False) -> bytes:
        out: list[bytes] = []
        for event in events:
            if self.ended:
                break
            try:
                out.append(self._event(wire, event, now))
            except wires.BadEvent:
                if not last:
                    damaged = "The model's stream is damaged: one of its events is not JSON."
                    out.append(self._stop(damaged, "bad_event"))
            except wires.ProviderFailed as failed:
                out.append(self._failed(failed.body))
        return b"".join(out)

    def _event(self, wire: wires.Wire, event: SSEEvent, now: float) -> bytes:
        name, text = event.event, event.data.strip()
        name = "" if name == "message" else name
        if name in wires.IDLE_TYPES or not text:
            return b'event: ping\ndata: {"type":"ping"}\n\n' if wire.name == "anthropic" else b""
        if text == "[DONE]":
            return self._marker(wire)
        data = _one_line(text)
        if wire.named and not name:
            name = wires.event_type(data)
        finished = self.finished
        seen = wire.read(name, data)
        if seen & wires.DROP:
            return b""
        self._account(seen, now)
        if finished and seen & wires.FINISH and wire.name == "openai":
            self.flags.add("second-finish")
            data = wires.without_finish(data)
        if not data:
            return b""
        return (b"event: %s\n" % name.encode() if wire.named else b"") + b"data: %s\n\n" % data

    def _account(self, seen: int, now: float) -> None:
        """What an event means for the end of the stream."""
        if seen & wires.SAID:
            self._told, self._partial = now, True
        if seen & wires.OPENED:
            self.finished = False
        if seen & wires.FINISH:
            # Some providers put a finish on every chunk: each of them begins the grace anew.
            self.finished = self._partial = True
            counted = self._counted = bool(seen & wires.USAGE)
            self._due = now + (self._limits.end_grace if counted else self._limits.usage_grace)
        elif seen & wires.USAGE and self.finished and not self._counted:
            self._counted = True
            self._due = now + self._limits.end_grace
        if seen & wires.TERMINAL:
            if not self.finished:
                self.flags.add("no-finish")
            self.finished = self.ended = True

    def _marker(self, wire: wires.Wire) -> bytes:
        """`[DONE]` ends a stream of every wire, but only on one is it the end of an answer without a finish."""
        if not self.finished and (wire.name != "openai" or not self._partial):
            return self._stop("The model ended its stream without an answer.")
        if not self.finished:
            self.flags.add("no-finish")
        self.ended = True
        return wire.terminator

    def _end(self) -> bytes:
        self.ended = True
        terminator = self._wire.terminator if self._wire else b""
        if terminator:
            self.flags.add("no-terminator")
        return terminator

    def _stop(self, message: str, kind: Kind = "truncated") -> bytes:
        """The end of what can be read: nobody's concern after the finish, an error before."""
        if self.finished:
            return self._end()
        self._fail(message, kind)
        return b""

    def _failed(self, body: object) -> bytes:
        if self.finished:
            return self._end()
        said = wires.failure(body)
        text = self._redact(said.text) or "no details given"
        self._fail(
            f"The model's provider reported an error: {text}",
            "provider_error",
            retryable=said.passing,
            after=said.retry_after,
        )
        return b""

    def _not_sse(self) -> None:
        body = bytes(self._foreign or b"").removeprefix(_BOM).lstrip()
        kind, text, passing, after = "a web page", "", False, None
        if not body.startswith(b"<"):
            kind = "one JSON document"
            try:
                value = msgspec.json.decode(body)
            except (msgspec.DecodeError, RecursionError):
                value = None
            if isinstance(value, list) or (isinstance(value, dict) and value.get("error")):
                said = wires.failure(value)
                text, passing, after = self._redact(said.text), said.passing, said.retry_after
        said_so = f": {text}" if text else "."
        message = f"The model sent {kind} instead of an event stream{said_so}"
        self._fail(message, "not_sse", retryable=passing, after=after)

    def _fail(self, message: str, kind: Kind, *, retryable: bool | None = None, after: float | None = None) -> None:
        self.ended = True
        if retryable is None:
            retryable = kind not in ("bad_event", "too_large")
        after = retry_after(self._headers) if after is None else after
        self.error = GuardError(message, kind, retryable=retryable, retry_after=after, partial=self._partial)


def _is_sound(data: bytes) -> bool:
    """No line end that only some readers know, and no text that is not UTF-8."""
    if b"\r" in data:
        return False
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return not any(end in data for end in _LINE_ENDS)


def _one_line(text: str) -> bytes:
    """JSON on one line for every reader: line ends within strings are escaped, those between tokens are spaces."""
    if not text.isascii():
        text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\u0085", "\\u0085")
    return text.replace("\n", " ").encode()
