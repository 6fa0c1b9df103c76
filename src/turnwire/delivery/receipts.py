"""What became of the files of a turn, told to its agent from the ledger alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from ..clock import Clock, wait
from ..journal import Hub
from ..journal.follow import CONVERSATION
from ..store import Database, StoreError
from ..store.queries.deliveries import deliveries_of
from ..store.queries.rows import DeliveryRow, TurnRow
from ..turn import DeliveryOutcome
from .state import load

LOOK_S = 5.0
"""Seconds after which the ledger is looked into although nobody said that it changed."""
_OUTCOMES: Final[Mapping[str, DeliveryOutcome]] = {
    "waiting": "pending",
    "confirmed": "confirmed",
    "refused": "refused",
    "parked": "unknown",
}


class FileReceipts:
    """Looks into the ledger for agents."""

    def __init__(self, db: Database, hub: Hub, clock: Clock) -> None:
        self._db = db
        self._hub = hub
        self._clock = clock

    async def wait(self, turn: TurnRow, file: str, timeout: float | None) -> Mapping[str, DeliveryOutcome]:
        """The file's outcome by surface, once none is pending or `timeout` seconds have passed."""
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        topic = self._hub.join(CONVERSATION + turn.conversation_id)
        found: dict[str, DeliveryOutcome] = {}
        try:
            while True:
                seen = topic.changes
                try:
                    found, known = _read(await self._db.read(deliveries_of, turn.id), file), True
                except StoreError:
                    known = False
                left = LOOK_S if deadline is None else min(deadline - self._clock.monotonic(), LOOK_S)
                if (known and "pending" not in found.values()) or left <= 0:
                    return found
                if topic.changes == seen:
                    news = asyncio.ensure_future(topic.changed())
                    try:
                        await wait(self._clock, {news}, left)
                    finally:
                        news.cancel()
        finally:
            self._hub.leave(topic)


def _read(rows: list[DeliveryRow], file: str) -> dict[str, DeliveryOutcome]:
    found: dict[str, DeliveryOutcome] = {}
    for row in rows:
        item = load(row.state).items.get(file)
        found[row.channel] = _OUTCOMES[item.status] if item is not None else "pending"
        if found[row.channel] == "pending" and row.status == "settled":
            found[row.channel] = "refused"
    return found
