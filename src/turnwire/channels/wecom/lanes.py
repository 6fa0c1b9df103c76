"""Which frame an answer belongs to: answers name a request id only, and sometimes not even that.

Guarantee: of the frames with one request id, one is under way at a time. A frame is confirmed or refused only by an
answer that is its own; what leaves that open is `unknown`. So after a frame without an answer the next one with its
request id waits until the answer has come, or until it is so late that none is to be expected (`LATE_S`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import msgspec
import structlog

from ...clock import Clock, Handle
from ...delivery.outcomes import Receipt, refused, unknown
from .errors import Op, no_answer, receipt_of
from .frames import Ack, Json

_log = structlog.get_logger(__name__)

LATE_S = 15.0
"""Seconds after which no answer to a frame comes any more."""
WAITING = 8
"""Frames that may wait behind one with their request id; more are refused as busy."""
FRAMES = 1000
"""Frames of one connection that may be under way or wait; more are refused as busy."""
ORPHANS = 100
"""Answers without a request id that may be undecided; the oldest is given up."""


class Answer(msgspec.Struct, frozen=True):
    """What became of a frame: the receipt, the platform's code if there was one, and the answer's body."""

    receipt: Receipt
    code: int | None = None
    body: Json = {}


class Flight:
    """One frame on its way, and who waits for its answer.

    Args:
        text: the frame as it is sent.
        keys: the names of the fields of its body, to tell whom an answer without a request id concerns.
        ack_s: seconds after which its sender waits no longer.
    """

    __slots__ = ("ack_s", "answer", "keys", "op", "req_id", "sent", "text", "timer")

    def __init__(self, op: Op, req_id: str, text: str, keys: frozenset[str], ack_s: float) -> None:
        self.op = op
        self.req_id = req_id
        self.text = text
        self.keys = keys
        self.ack_s = ack_s
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.sent = False
        self.timer: Handle | None = None

    def resolve(self, answer: Answer) -> bool:
        """Tells who waits; whether anybody did."""
        if self.answer.done():
            return False
        self.answer.set_result(answer)
        return True


class _Lane:
    """The frames with one request id."""

    __slots__ = ("current", "idlers", "waiting")

    def __init__(self) -> None:
        self.current: Flight | None = None
        self.waiting: deque[Flight] = deque()
        self.idlers: list[asyncio.Future[None]] = []


class _Orphan:
    """A refusal without a request id, and the frames that it may be about."""

    __slots__ = ("code", "field", "suspects")

    def __init__(self, ack: Ack, suspects: set[Flight]) -> None:
        self.code = ack.code
        self.field = ack.field
        self.suspects = suspects


class Lanes:
    """The frames of one connection, until it is lost.

    Args:
        name: of the bot, for the log.
    """

    def __init__(self, clock: Clock, *, name: str) -> None:
        self._clock = clock
        self._name = name
        self._lanes: dict[str, _Lane] = {}
        self._outbox: deque[Flight] = deque()
        # Pieces of files, which everything else overtakes.
        self._bulk: deque[Flight] = deque()
        self._wake = asyncio.Event()
        self._orphans: deque[_Orphan] = deque(maxlen=ORPHANS)
        self._count = 0
        self._lost: str | None = None

    async def call(self, flight: Flight) -> Answer:
        """Sends a frame when its turn has come; what became of it. A caller who is cancelled before that takes it
        back, and one who is cancelled later does not free the lane."""
        if self._lost is not None:
            return _unsent(self._lost)
        lane = self._lanes.setdefault(flight.req_id, _Lane())
        if len(lane.waiting) >= WAITING or self._count >= FRAMES:
            self._drop_if_idle(flight.req_id, lane)
            return _unsent("too many frames wait for the platform's answers")
        self._count += 1
        lane.waiting.append(flight)
        self._go_on(flight.req_id, lane)
        try:
            return await flight.answer
        finally:
            self._take_back(flight)

    async def next(self) -> Flight:
        """The next frame to be written to the connection."""
        while not (box := self._outbox or self._bulk):
            self._wake.clear()
            await self._wake.wait()
        flight = box.popleft()
        flight.sent = True
        return flight

    async def idle(self, req_id: str) -> None:
        """Returns once no frame with that request id is under way or waits."""
        while (lane := self._lanes.get(req_id)) is not None:
            idler: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lane.idlers.append(idler)
            await idler

    # What comes

    def answered(self, ack: Ack) -> None:
        """An answer came."""
        if ack.req_id is None:
            self._orphan(ack)
            return
        lane = self._lanes.get(ack.req_id)
        flight = lane.current if lane is not None else None
        if flight is None or not flight.sent:
            _log.info("an answer to no frame came", bot=self._name, code=ack.code)
            return
        if not flight.resolve(Answer(receipt_of(flight.op, ack.code), ack.code, ack.body)):
            _log.info("an answer came too late", bot=self._name, op=flight.op, code=ack.code)
        self._release(flight)

    def lost(self, reason: str) -> None:
        """The connection is gone: whatever was sent is unknown, the rest was not sent."""
        if self._lost is not None:
            return
        self._lost = reason
        lanes, self._lanes = self._lanes, {}
        self._outbox.clear()
        self._bulk.clear()
        self._orphans.clear()
        for lane in lanes.values():
            for flight in _all(lane):
                _cancel(flight)
                gone = Answer(unknown(f"{reason}; it may have been done"))
                flight.resolve(gone if flight.sent else _unsent(reason))
            _let_go(lane)

    # Answers without a request id

    def _orphan(self, ack: Ack) -> None:
        current = [lane.current for lane in self._lanes.values()]
        suspects = {one for one in current if one is not None and one.sent and one.op != "ping"}
        root, _, more = ack.field.partition(".")
        if more and (named := {one for one in suspects if root in one.keys}):
            suspects = named
        _log.warning(
            "an answer came without a request id", bot=self._name, code=ack.code, field=ack.field, frames=len(suspects)
        )
        if ack.code is None or ack.code == 0 or not suspects:
            return
        self._orphans.append(_Orphan(ack, suspects))
        self._judge()

    def _judge(self) -> None:
        """Refuses the frame that alone can be meant."""
        for orphan in list(self._orphans):
            if len(orphan.suspects) == 1 and orphan in self._orphans:
                self._orphans.remove(orphan)
                (flight,) = orphan.suspects
                _log.warning("a frame was refused", bot=self._name, op=flight.op, code=orphan.code, field=orphan.field)
                flight.resolve(Answer(receipt_of(flight.op, orphan.code), orphan.code))
                self._release(flight)

    # Lanes

    def _go_on(self, req_id: str, lane: _Lane) -> None:
        """Sends the next frame of a lane that is free."""
        if lane.current is None and lane.waiting:
            flight = lane.current = lane.waiting.popleft()
            flight.timer = self._clock.call_later(flight.ack_s, lambda: self._silent(flight))
            self._box(flight).append(flight)
            self._wake.set()
        self._drop_if_idle(req_id, lane)

    def _box(self, flight: Flight) -> deque[Flight]:
        return self._bulk if flight.op == "upload_chunk" else self._outbox

    def _drop_if_idle(self, req_id: str, lane: _Lane) -> None:
        if lane.current is None and not lane.waiting and self._lanes.get(req_id) is lane:
            del self._lanes[req_id]
            _let_go(lane)

    def _silent(self, flight: Flight) -> None:
        """No answer came in time."""
        if not flight.sent:
            self._box(flight).remove(flight)
            flight.resolve(_unsent(f"the connection took no frame within {flight.ack_s:g} s"))
            self._release(flight)
            return
        flight.resolve(Answer(no_answer(flight.op, flight.ack_s)))
        left = max(LATE_S - flight.ack_s, 0.0)
        flight.timer = self._clock.call_later(left, lambda: self._give_up(flight))

    def _give_up(self, flight: Flight) -> None:
        """No answer will come; a refusal that may have been its own stays undecided."""
        undecided = [orphan for orphan in self._orphans if flight not in orphan.suspects]
        self._orphans.clear()
        self._orphans.extend(undecided)
        self._release(flight)

    def _release(self, flight: Flight) -> None:
        """The frame is no longer under way."""
        _cancel(flight)
        lane = self._lanes.get(flight.req_id)
        if lane is None or lane.current is not flight:
            return
        self._count -= 1
        lane.current = None
        for orphan in self._orphans:
            orphan.suspects.discard(flight)
        self._go_on(flight.req_id, lane)
        self._judge()

    def _take_back(self, flight: Flight) -> None:
        """Nobody waits for it any more; what was not sent will not be."""
        lane = self._lanes.get(flight.req_id)
        if lane is None or flight.sent:
            return
        if lane.current is flight:
            self._box(flight).remove(flight)
            self._release(flight)
        elif flight in lane.waiting:
            lane.waiting.remove(flight)
            self._count -= 1
            self._drop_if_idle(flight.req_id, lane)


def _unsent(reason: str) -> Answer:
    return Answer(refused("busy", f"{reason}; it was not sent"))


def _all(lane: _Lane) -> Iterator[Flight]:
    if lane.current is not None:
        yield lane.current
    yield from lane.waiting


def _cancel(flight: Flight) -> None:
    if flight.timer is not None:
        flight.timer.cancel()
        flight.timer = None


def _let_go(lane: _Lane) -> None:
    for idler in lane.idlers:
        if not idler.done():
            idler.set_result(None)
