"""What only one process may hold at a time, kept under a lease.

Guarantee: `work` runs here only while the lease is ours, and has ended before the lease does, also while the store
cannot be reached. Whoever dies is followed once its lease has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from .clock import Clock, sleep, wait
from .store import Database, StoreError
from .store.queries.leases import give_lease, renew_lease, take_lease

_log = structlog.get_logger(__name__)

GIVE_UP = 0.75
"""Share of the lease after which a holder that could not renew gives up."""


class Leased:
    """Does a work of which there may be one.

    Args:
        name: names it in the store.
        process: who we are.
        lease_s: seconds that a lease lasts; it is renewed, or asked for again, every third of that.
        alone: no other process is on the store.
        work: runs until it is cancelled; when it returns, the lease is given back, for good.
    """

    def __init__(
        self,
        name: str,
        *,
        process: str,
        db: Database,
        clock: Clock,
        lease_s: float,
        alone: bool,
        work: Callable[[], Awaitable[None]],
    ) -> None:
        self._name = name
        self._process = process
        self._db = db
        self._clock = clock
        self._lease_s = lease_s
        self._alone = alone
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self.held = False

    def start(self) -> None:
        """Begins to ask for the lease."""
        self._task = asyncio.create_task(self._forever(), name=f"lease-{self._name}")

    async def close(self) -> None:
        """Ends the work and gives the lease back."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _forever(self) -> None:
        while True:
            epoch: int | None = None
            try:
                epoch = await self._db.run(take_lease, self._name, self._process, self._lease_s, alone=self._alone)
            except StoreError as error:
                _log.warning("a lease could not be asked for", lease=self._name, error=str(error))
            if epoch is not None and await self._hold(epoch):
                return
            await sleep(self._clock, self._lease_s / 3)

    async def _hold(self, epoch: int) -> bool:
        """Works while the lease is ours; whether the work is over."""
        _log.info("a lease is held", lease=self._name, epoch=epoch)
        self.held = True
        work = asyncio.ensure_future(self._work())
        try:
            await self._keep(epoch, work)
            if work.done():
                work.result()
                return True
            _log.warning("a lease is lost", lease=self._name, epoch=epoch)
            return False
        except Exception as error:  # noqa: BLE001 - it is begun again; without this nobody would do it any more
            _log.error("what is done under a lease failed, and is begun again", lease=self._name, exc_info=error)
            return False
        finally:
            self.held = False
            work.cancel()
            await asyncio.wait({work})
            await self._give(epoch)

    async def _keep(self, epoch: int, work: asyncio.Future[None]) -> None:
        """Renews until the work ends or the lease is, or may be, somebody else's."""
        until = self._clock.monotonic() + self._lease_s * GIVE_UP
        while not await wait(self._clock, {work}, self._lease_s / 3):
            asked = self._clock.monotonic()
            # A store that does not answer must not keep us beyond the end of the lease.
            renewing = asyncio.ensure_future(self._db.run(renew_lease, self._name, epoch, self._lease_s))
            try:
                if not await wait(self._clock, {renewing}, until - asked):
                    return
                if not renewing.result():
                    return
                until = asked + self._lease_s * GIVE_UP
            except StoreError as error:
                _log.warning("a lease could not be renewed", lease=self._name, error=str(error))
                if self._clock.monotonic() >= until:
                    return
            finally:
                renewing.cancel()

    async def _give(self, epoch: int) -> None:
        try:
            await self._db.run(give_lease, self._name, epoch)
        except StoreError as error:
            _log.warning("a lease could not be given back; it ends by itself", lease=self._name, error=str(error))
