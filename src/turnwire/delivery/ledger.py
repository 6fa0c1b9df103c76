"""The ledger of one delivery: what is acknowledged, what was attempted, and every receipt.

Guarantee: an intent is stored before its act, a receipt before anything is built on it; only the holder of the newest
epoch stores anything. Nothing is lost while the store cannot be reached: the courier waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from ..clock import Clock, sleep
from ..store import Database, StoreError
from ..store.queries import deliveries as q
from ..store.queries.rows import DeliveryRow
from .outcomes import Receipt
from .state import Pending, State, dump, load

_log = structlog.get_logger(__name__)

T = TypeVar("T")

STORE_PAUSE_S = 1.0


class Ledger:
    """What is known of one claimed delivery. Its methods raise `Fenced` once somebody else drives it."""

    def __init__(self, row: DeliveryRow, *, db: Database, clock: Clock) -> None:
        self.row = row
        self.state: State = load(row.state)
        self._db = db
        self._clock = clock
        self._lock = asyncio.Lock()
        self._tried: dict[str, int] = {}
        self._attempts: dict[str, q.Attempt] = {}

    async def attempted(self, pending: Pending) -> None:
        """The state says that an act is about to be tried."""
        tried = self._tried.get(pending.key)
        if tried is None:
            tried = await self._insist(lambda: self._db.read(q.next_attempt, self.row.id, pending.key))
        self._tried[pending.key] = tried + 1
        attempt = self._attempts[pending.key] = q.Attempt(pending.key, tried, pending.kind, pending.digest)
        await self._save(lambda state: self._db.run(q.save_state, self.row.id, self.row.epoch, state, attempt))

    async def received(self, pending: Pending, receipt: Receipt) -> None:
        """The state says what came of it."""
        attempt = self._attempts.pop(pending.key, None)
        if attempt is None:
            await self.keep()
            return
        kind, reason = receipt.kind, receipt.reason
        await self._save(
            lambda state: self._db.run(q.save_receipt, self.row.id, self.row.epoch, state, attempt, kind, reason)
        )

    async def keep(self) -> None:
        """The state says something that was learned."""
        await self._save(lambda state: self._db.run(q.save_state, self.row.id, self.row.epoch, state))

    async def hold(self, reason: str) -> None:
        """Nothing can be shown until somebody writes there; nobody drives the delivery until then."""
        await self._save(lambda state: self._db.run(q.hold_delivery, self.row, state, reason))

    async def settle(self, outcome: str, reason: str | None, *, revision: int) -> bool:
        """Nothing more is to be done; False if what is to be shown has changed since `revision`."""
        own, epoch = self.row.id, self.row.epoch
        return await self._save(
            lambda state: self._db.run(q.settle_delivery, own, epoch, state, outcome, reason, revision=revision)
        )

    async def _save(self, write: Callable[[bytes], Awaitable[T]]) -> T:
        async with self._lock:
            return await self._insist(lambda: write(dump(self.state)))

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except StoreError as error:
                _log.warning("a delivery waits for the store", delivery=self.row.id, error=str(error))
                await sleep(self._clock, STORE_PAUSE_S)
