"""The order of answers: those of one conversation appear there as their turns came.

Guarantee: nothing of a turn is shown before something of each earlier one is, or that one is settled; but an earlier
answer that cannot be shown holds later ones up for `ORDER_S` seconds at most.
"""

from __future__ import annotations

from sqlalchemy import Connection

from ..clock import Clock
from ..store import Database
from ..store.queries.deliveries import earlier_states
from ..store.queries.rows import DeliveryRow
from .state import State, load

ORDER_S = 30.0
LOOK_S = 0.2
"""Seconds between two looks at what is waited for."""


class Place:
    """The place of one delivery among those of its conversation."""

    def __init__(self, row: DeliveryRow, *, db: Database, clock: Clock) -> None:
        self._row = row
        self._db = db
        self._clock = clock
        self._until: float | None = None
        self._look_at = 0.0
        self.free = is_seen(load(row.state))

    async def look(self) -> None:
        """Learns whether the place is free now. Raises `StoreError`."""
        now = self._clock.monotonic()
        if self.free or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        self.free = not await self._db.read(is_behind, self._row)

    def wait_s(self) -> float:
        """How long to wait until the next look; 0 if something may be shown."""
        if self.free:
            return 0.0
        now = self._clock.monotonic()
        if self._until is None:
            self._until = now + ORDER_S
        if now >= self._until:
            self.free = True
            return 0.0
        return max(min(self._look_at, self._until) - now, 0.001)


def is_behind(conn: Connection, row: DeliveryRow) -> bool:
    """Whether an earlier turn of the conversation has still to appear on the channel."""
    return not all(is_seen(load(state)) for state in earlier_states(conn, row))


def is_seen(state: State) -> bool:
    """Whether something of a delivery may be visible."""
    return any(part.exists or part.maybe for part in (*state.parts, *state.leftovers)) or bool(state.items)
