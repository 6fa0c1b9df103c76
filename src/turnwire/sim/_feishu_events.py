"""The events that the platform owes to apps: when each is sent, to whom, and when again.

Guarantee: an event is sent until it is acknowledged, at most five times: at once, and 15 s, 5 min, 1 h and 6 h after
the attempt before. A click on a card is sent once. The clock that is passed in decides.

Transports take part by `attach`; an event for which there is none waits for one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from turnwire.clock import Clock, Handle

from ._json import Json
from .faults import Faults

AGAIN_S = (15.0, 300.0, 3600.0, 6 * 3600.0)
ACK_S = 3.0
KINDS = {
    "duplicate": "An event is sent twice, although the first was acknowledged.",
    "lost_ack": "The acknowledgement of an event is lost: it is sent again, 15 s later.",
    "reorder": "An event is held back until the next one of its app was sent.",
    "delay": "An event is sent `seconds` later.",
}


@dataclass
class Delivery:
    """One event for one app.

    Args:
        event_id: in the header of the event.
        app_id: for whom it is.
        body: the event, JSON 2.0.
        again: whether it is sent again while nobody acknowledges it.
        attempts: when it was sent, in seconds of the clock's wall time.
        state: `waiting` for a time or a transport, `sent`, `acked`, or `over` when nobody ever acknowledged it.
        answer: what the acknowledgement carried.
    """

    event_id: str
    app_id: str
    body: Json
    again: bool = True
    attempts: list[float] = field(default_factory=list)
    state: Literal["waiting", "held", "sent", "acked", "over"] = "waiting"
    answer: Json | None = None
    due: float = 0.0
    ignore_acks: int = 0
    done: Callable[[Delivery], None] | None = None
    timer: Handle | None = None

    @property
    def event_type(self) -> str:
        """As in its header."""
        return str(self.body["header"]["event_type"])


Sender = Callable[[Delivery], None]


class EventQueue:
    """The events of one tenant.

    Args:
        clock: times of attempts.
        faults: drawn for each event as the operation `event`.
        seed: decides which of several connections gets an event.
    """

    def __init__(self, clock: Clock, faults: Faults, *, seed: int = 0) -> None:
        self.deliveries: list[Delivery] = []
        self._clock = clock
        self._faults = faults
        self._senders: dict[str, list[Sender]] = {}
        self._random = random.Random(seed)  # noqa: S311 - routing must be repeatable, not secret

    # Transports

    def attach(self, app_id: str, sender: Sender) -> None:
        """Sends the app's events through `sender` too, one of several by chance; those that wait go at once."""
        self._senders.setdefault(app_id, []).append(sender)
        self._pump()

    def detach(self, app_id: str, sender: Sender) -> None:
        """Sends nothing more through it; what it was sent and has not acknowledged comes again in its time."""
        self._senders[app_id].remove(sender)

    def connections(self, app_id: str) -> int:
        """How many transports an app has."""
        return len(self._senders.get(app_id, ()))

    # Events

    def push(
        self, app_id: str, body: Json, *, again: bool = True, done: Callable[[Delivery], None] | None = None
    ) -> Delivery:
        """Owes an event to an app. `done` hears of its end: acknowledged, or given up."""
        delivery = Delivery(body["header"]["event_id"], app_id, body, again, due=self._clock.now(), done=done)
        fault = self._faults.draw("event", app_id, delivery.event_type)
        self.deliveries.append(delivery)
        held = [each for each in self.deliveries if each.state == "held" and each.app_id == app_id]
        match fault.kind if fault else "":
            case "duplicate":
                twin = Delivery(delivery.event_id, app_id, body, again, due=self._clock.now())
                self.deliveries.append(twin)
            case "lost_ack":
                delivery.ignore_acks = 1
            case "delay" if fault:
                delivery.due += fault.seconds
            case "reorder":
                delivery.state = "held"
                return delivery
        self._pump()
        for each in held:
            each.state = "waiting"
        self._pump()
        return delivery

    def ack(self, delivery: Delivery, *, ok: bool, answer: Json | None = None) -> None:
        """What the app said to an event; one that it did not take comes again in its time."""
        if delivery.state != "sent" or not ok:
            return
        if delivery.ignore_acks:
            delivery.ignore_acks -= 1
            return
        self._stop(delivery)
        delivery.state, delivery.answer = "acked", answer
        if delivery.done:
            delivery.done(delivery)

    def wake(self) -> None:
        """Looks for events that are due, after the clock was moved by other means than its timers."""
        self._pump()

    def open(self) -> None:
        """Takes up what `close` left: what was sent and not acknowledged comes again in its time."""
        for delivery in list(self.deliveries):
            if delivery.state == "sent":
                self._silent(delivery)
        self._pump()

    def close(self) -> None:
        """Takes back all timers."""
        for delivery in self.deliveries:
            self._stop(delivery)

    # When

    def _pump(self) -> None:
        now = self._clock.now()
        for delivery in list(self.deliveries):
            if delivery.state != "waiting":
                continue
            if delivery.due > now:
                if delivery.timer is None:
                    delivery.timer = self._clock.call_later(delivery.due - now, partial(self._due, delivery))
            elif senders := self._senders.get(delivery.app_id):
                self._send(delivery, self._random.choice(senders))

    def _due(self, delivery: Delivery) -> None:
        delivery.timer = None
        delivery.due = min(delivery.due, self._clock.now())
        self._pump()

    def _send(self, delivery: Delivery, sender: Sender) -> None:
        self._stop(delivery)
        delivery.state = "sent"
        delivery.attempts.append(self._clock.now())
        delivery.timer = self._clock.call_later(ACK_S, partial(self._silent, delivery))
        sender(delivery)

    def _silent(self, delivery: Delivery) -> None:
        """Nobody has acknowledged the attempt in time."""
        delivery.timer = None
        if delivery.state != "sent":
            return
        tried = len(delivery.attempts)
        if not delivery.again or tried > len(AGAIN_S):
            delivery.state = "over"
            if delivery.done:
                delivery.done(delivery)
            return
        delivery.state, delivery.due = "waiting", delivery.attempts[-1] + AGAIN_S[tried - 1]
        self._pump()

    @staticmethod
    def _stop(delivery: Delivery) -> None:
        if delivery.timer is not None:
            delivery.timer.cancel()
            delivery.timer = None
