"""One request as a scenario sees it: what was asked, and every way of writing, pausing and ending the connection.

Guarantee: nothing is written that the scenario did not ask for, no framing either; pauses are taken on the injected
clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from turnwire.clock import Clock, sleep

from ._http import PHRASES, reset
from ._json import Json, compact
from ._model_answers import Answer, Ask, Ended, Event, Ids, Wire
from ._model_records import Seen

BREATH_BYTES = 64 * 1024
STREAM = "text/event-stream; charset=utf-8"


class Peer:
    """The client of one request, and what the scenario has the model answer.

    Args:
        wire: the protocol that it speaks.
        ask: what it asks.
        seen: where what is sent is written down; its number makes the ids of the answer.
        retry_after: what refusals say about when to come again, in seconds.
        writer: the connection.
        clock: takes the pauses.
        waiting: called with True when nothing will be written until time passes or the client acts, then with False.
    """

    def __init__(
        self,
        wire: Wire,
        ask: Ask,
        seen: Seen,
        retry_after: float,
        writer: asyncio.StreamWriter,
        clock: Clock,
        waiting: Callable[[bool], None],
    ) -> None:
        self.wire = wire
        self.ask = ask
        self.ids = Ids(seen.number)
        self.answer = Answer()
        self.seen = seen
        self.retry_after = retry_after
        self.clock = clock
        self.ended: Ended = "completed"
        self.reusable = False
        self._writer = writer
        self._waiting = waiting
        self._chunked = True
        self._sequence = 0
        self._unpaused = 0

    # What there is to say

    def script(self, answer: Answer | None = None, *, usage: bool | None = None) -> list[Event]:
        """The events of an answer, the scenario's own if none is given; `usage` overrules what the client asked."""
        ask = self.ask if usage is None else replace(self.ask, usage=usage)
        return self.wire.stream(answer or self.answer, self.ids, ask)

    def begun(self, deltas: int = 2) -> list[Event]:
        """The script up to its delta number `deltas`."""
        script = self.script()
        places = [place for place, event in enumerate(script) if event.role == "delta"]
        return script[: places[deltas - 1] + 1]

    def until(self, *roles: str, usage: bool | None = None) -> list[Event]:
        """The script up to the last event of one of these roles."""
        script = self.script(usage=usage)
        return script[: max(place for place, event in enumerate(script) if event.role in roles) + 1]

    # Writing

    async def raw(self, data: bytes) -> None:
        """Writes bytes as they are."""
        self._writer.write(data)
        self.seen.sent += len(data)
        self._unpaused += len(data)
        if self._unpaused > BREATH_BYTES:
            # A drain with room in the buffers does not give way: a flood would be megabytes ahead of its reader.
            self._unpaused = 0
            await asyncio.sleep(0)
        await self._writer.drain()

    async def head(
        self, kind: str = STREAM, *, status: int = 200, framed: bool = True, headers: Mapping[str, str] | None = None
    ) -> None:
        """The head of an answer; the body follows in chunks, or, unframed, until the connection ends."""
        self._chunked = framed
        self.seen.status = status
        await self.raw(
            self._head(status, kind, "transfer-encoding: chunked" if framed else "connection: close", headers)
        )

    async def send(self, data: bytes) -> None:
        """A piece of the body, as a chunk of its own."""
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)

    async def say(self, events: Iterable[Event]) -> None:
        """Events, each in a chunk of its own."""
        for event in events:
            if isinstance(event.data, dict) and "sequence_number" in event.data:
                event = event._replace(data={**event.data, "sequence_number": self._sequence})
                self._sequence += 1
            await self.send(event.encode())

    async def end(self) -> None:
        """The proper end of the body; the connection may be used again."""
        if self._chunked:
            await self.raw(b"0\r\n\r\n")
            self.reusable = True

    async def json(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer of JSON."""
        body = compact(value).encode("utf-8", "replace")
        self.seen.status = status
        await self.raw(self._head(status, "application/json", f"content-length: {len(body)}", headers) + body)
        self.reusable = True

    async def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        """A refusal in the shape of the provider."""
        problem: Json = self.wire.problem(status, message)
        await self.json(status, problem, headers)

    # Waiting and ending

    async def pause(self, seconds: float) -> None:
        """Says nothing for `seconds`."""
        self._waiting(True)
        try:
            await sleep(self.clock, seconds)
        finally:
            self._waiting(False)

    async def hang(self) -> None:
        """Says nothing until the client leaves."""
        self._waiting(True)
        try:
            await asyncio.Event().wait()
        finally:
            self._waiting(False)

    def reset(self) -> None:
        """Ends the connection with an RST. Bytes that were just written may be lost: pause before."""
        reset(self._writer)
        self.ended = "reset"

    def _head(self, status: int, kind: str, framing: str, headers: Mapping[str, str] | None) -> bytes:
        request = self.ids.of("req")
        more = {"content-type": kind, "request-id": request, "x-request-id": request, **(headers or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        return f"HTTP/1.1 {status} {PHRASES.get(status, 'Unknown')}\r\n{lines}{framing}\r\n\r\n".encode()
