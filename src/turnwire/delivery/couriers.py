"""The deliveries of one process: claimed, driven, kept under lease, given back.

Guarantee: every unsettled delivery is driven by one process at a time, also after `kill -9`: whoever claims it next
goes on from the ledger. What a process drives when it stops has `drain_s` seconds to settle; the rest is given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from ..clock import Clock, wait
from ..files import FileStore
from ..journal import Hub
from ..store import Database, StoreError
from ..store.queries import deliveries as q
from ..store.queries.rows import DeliveryRow, Fenced
from .courier import Courier
from .replica import Lost, Replica
from .surface import Courierable, DeliveryOrder

_log = structlog.get_logger(__name__)

AT_ONCE = 1000
"""Deliveries that one process drives at a time; the others wait in the store."""
AGAIN_S = 30.0
"""Seconds until a delivery whose courier failed is tried again."""
LOST_S = 0.5
"""Seconds until a delivery is taken up again whose turn this process can no longer follow."""


class Couriers:
    """The couriers of one process.

    Args:
        channels: those whose surfaces can be driven here, by name; it may change while they run.
        look: asks for news of turns that other processes write.
        changed: called with a conversation id after each change that people or agents can tell.
    """

    def __init__(
        self,
        channels: Mapping[str, Courierable],
        *,
        process: str,
        db: Database,
        hub: Hub,
        files: FileStore,
        clock: Clock,
        lease_s: float,
        alone: bool,
        look: Callable[[], None],
        changed: Callable[[str], None],
    ) -> None:
        self._channels = channels
        self._process = process
        self._db = db
        self._hub = hub
        self._files = files
        self._clock = clock
        self._lease_s = lease_s
        self._alone = alone
        self._look = look
        self._changed = changed
        self._driven: dict[str, tuple[DeliveryRow, asyncio.Task[None]]] = {}
        self._poked = asyncio.Event()
        self._closing = False
        self._renew_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Takes up what was left behind, then looks whenever something may be there."""
        if self._channels:
            self._task = asyncio.create_task(self._forever(), name="turnwire-couriers")

    def poke(self) -> None:
        """There may be a new delivery."""
        self._poked.set()

    @property
    def busy(self) -> int:
        """How many deliveries are driven here."""
        return len(self._driven)

    async def drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Lets couriers settle for `seconds` or until `hurry`; new deliveries of turns that end are taken meanwhile."""
        deadline = self._clock.monotonic() + seconds
        hurried = asyncio.ensure_future(hurry.wait())
        try:
            while not hurried.done() and (left := deadline - self._clock.monotonic()) > 0:
                await self._look_once()
                if not self._driven:
                    return
                await wait(self._clock, {*(task for _, task in self._driven.values()), hurried}, left)
        finally:
            hurried.cancel()

    async def close(self) -> None:
        """Stops driving; what is unsettled is given back."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        driven = list(self._driven.values())
        for _, task in driven:
            task.cancel()
        if driven:
            await asyncio.wait({task for _, task in driven})
        for row, _ in driven:
            try:
                await self._db.run(q.release_delivery, row.id, row.epoch)
            except StoreError as error:
                _log.warning("a delivery could not be given back; its lease ends by itself", error=str(error))

    async def sweep(self) -> None:
        """One look: leases kept, free deliveries taken."""
        now = self._clock.monotonic()
        if self._driven and now >= self._renew_at:
            self._renew_at = now + self._lease_s / 4
            pairs = [(row.id, row.epoch) for row, _ in self._driven.values()]
            standing = await self._db.run(q.renew_deliveries, pairs, self._lease_s)
            for own, (_, task) in list(self._driven.items()):
                if own not in standing and not task.done():
                    _log.info("a delivery is driven by another process, or settled", delivery=own)
                    task.cancel()
        channels = [name for name, channel in self._channels.items() if channel.showing]
        await self._let_go([row for row, _ in self._driven.values() if row.channel not in channels])
        room, mine = AT_ONCE - len(self._driven), list(self._driven)
        if room <= 0 or not channels or self._closing:
            return
        # Most looks find nothing; those must not wait behind writers.
        if await self._db.read(q.any_free, channels, self._process, alone=self._alone, mine=mine):
            claimed = await self._db.run(
                q.claim_deliveries,
                channels,
                self._process,
                self._lease_s,
                limit=room,
                alone=self._alone,
                mine=mine,
            )
            for row in claimed:
                task = asyncio.create_task(self._drive(row), name=f"courier-{row.id}")
                self._driven[row.id] = row, task
                task.add_done_callback(lambda _, own=row.id: self._ended(own))  # type: ignore[misc]

    async def _let_go(self, rows: list[DeliveryRow]) -> None:
        """Gives back what can no longer be shown from here, so that another process drives it."""
        for row in rows:
            _, task = self._driven.get(row.id, (row, None))
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
            await self._db.run(q.release_delivery, row.id, row.epoch)

    def _ended(self, own: str) -> None:
        self._driven.pop(own, None)
        self._poked.set()

    async def _drive(self, row: DeliveryRow) -> None:
        try:
            order = DeliveryOrder(row.id, row.turn_id, row.conversation_id, row.channel, row.target, bool(row.push))
            courier = Courier(
                row,
                self._channels[row.channel].surface(order),
                db=self._db,
                files=self._files,
                replica=Replica(row.turn_id, db=self._db, hub=self._hub, look=self._look),
                clock=self._clock,
                changed=lambda: self._changed(row.conversation_id),
            )
            outcome = await courier.run()
            _log.info("a delivery ends", delivery=row.id, outcome=outcome)
        except Fenced:
            _log.info("a delivery is driven by another process", delivery=row.id)
        except Lost:
            _log.info("a turn that is shown is written elsewhere now", delivery=row.id)
            await self._put_off(row, LOST_S)
        except Exception as error:  # noqa: BLE001 - the next look, here or elsewhere, tries again
            _log.error("a courier failed; its delivery is tried again", delivery=row.id, exc_info=error)
            await self._put_off(row, AGAIN_S)

    async def _put_off(self, row: DeliveryRow, seconds: float) -> None:
        try:
            await self._db.run(q.put_off, row.id, row.epoch, seconds)
        except StoreError as error:
            _log.warning("a delivery could not be given back; its lease ends by itself", error=str(error))

    async def _look_once(self) -> None:
        try:
            await self.sweep()
        except StoreError as error:
            _log.warning("deliveries could not be looked after", error=str(error))
        except Exception as error:  # noqa: BLE001 - without this every delivery would stand still
            _log.error("looking after deliveries failed, and goes on", exc_info=error)

    async def _forever(self) -> None:
        while True:
            self._poked.clear()
            await self._look_once()
            poked = asyncio.ensure_future(self._poked.wait())
            try:
                await wait(self._clock, {poked}, self._lease_s / 3)
            finally:
                poked.cancel()
