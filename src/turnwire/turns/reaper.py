"""The reaper: ends turns whose owner is gone, and moves on conversations that nobody looks after.

Guarantee: within one lease time after its owner died, a turn has its `finish`; a turn whose agent was never called is
run after all; queued turns start. Reapers of several processes do not get in each other's way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from sqlalchemy import Connection

from ..clock import Clock, sleep
from ..files import FileStore
from ..journal import Hub
from ..store import Database, StoreError
from ..store.queries.approvals import EXPIRED, deny, expired_approvals, find_approval
from ..store.queries.conversations import lock_conversation, touch
from ..store.queries.deliveries import forget_receipts
from ..store.queries.records import forget_inbound, trim
from ..store.queries.rows import OperationRow, TurnRow
from ..store.queries.turns import Claim, Fenced, claim_next, expired, get_turn, running, stranded
from .endings import end_abandoned
from .supervisor import Supervisor

_log = structlog.get_logger(__name__)

HOUR_S = 3600.0
INBOUND_KEPT_S = 7 * 24 * HOUR_S
TRIM_EVERY_S = HOUR_S / 4


class Reaper:
    """Looks for abandoned turns every third of a lease.

    Args:
        alone: this process is the only one on the store, so whatever ran before it started has no owner.
        retention_s: seconds that the records of finished turns are kept.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        db: Database,
        hub: Hub,
        clock: Clock,
        alone: bool,
        retention_s: float,
        files: FileStore,
        changed: Callable[[str], None],
    ) -> None:
        self._files = files
        self._supervisor = supervisor
        self._db = db
        self._hub = hub
        self._clock = clock
        self._alone = alone
        self._retention_s = retention_s
        self._changed = changed
        self._task: asyncio.Task[None] | None = None
        self._tidying: asyncio.Task[None] | None = None
        self._next_trim = clock.monotonic()

    async def start(self) -> None:
        """Ends what the last process left behind, then keeps looking."""
        if self._alone:
            for turn in await self._db.run(running):
                await self._guarded(self._reap(turn, ask_lease=False), turn.id)
        await self.sweep()
        self._task = asyncio.create_task(self._forever(), name="turnwire-reaper")

    async def close(self) -> None:
        """Stops looking."""
        for task in (self._task, self._tidying):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})

    async def sweep(self) -> None:
        """One look: abandoned turns, stranded conversations, records and files past their time."""
        spare = list(self._supervisor.live)
        for turn in await self._db.run(expired, spare=spare):
            if turn.id not in self._supervisor.live:
                await self._guarded(self._reap(turn, ask_lease=True), turn.id)
        if not self._supervisor.draining:
            for conversation_id in await self._db.run(stranded):
                await self._guarded(self._move_on(conversation_id), conversation_id)
        for approval in await self._db.run(expired_approvals):
            await self._guarded(self._expire(approval), approval.id)
        if self._clock.monotonic() >= self._next_trim:
            self._next_trim = self._clock.monotonic() + TRIM_EVERY_S
            if self._tidying is None or self._tidying.done():
                self._tidying = asyncio.create_task(self._tidy(), name="turnwire-tidy")

    async def _guarded(self, work: Coroutine[Any, Any, None], about: str) -> None:
        """Does one thing, whole; what fails, or comes when we close, must not keep the reaper from the others."""
        try:
            await asyncio.shield(self._supervisor.spawn(work, f"reap-{about}", awaited=True))
        except Exception as error:  # noqa: BLE001
            _log.error("the reaper could not do one thing", about=about, exc_info=error)

    async def _tidy(self) -> None:
        """Drops what is past its time. Takes its time: nobody waits for it."""
        try:
            while await self._db.run(trim, self._retention_s):
                pass
            await self._db.run(forget_inbound, INBOUND_KEPT_S)
            while await self._db.run(forget_receipts, self._retention_s):
                pass
            await self._files.prune()
        except Exception as error:  # noqa: BLE001 - it is tried again, and nothing depends on it
            _log.error("what is past its time could not be dropped", exc_info=error)

    async def _forever(self) -> None:
        while True:
            await sleep(self._clock, self._supervisor.lease_s / 3)
            try:
                await self.sweep()
            except StoreError as error:
                _log.warning("the reaper could not look", error=str(error))
            except Exception as error:  # noqa: BLE001 - whoever waits for the reaper waits for ever if it ends
                _log.error("the reaper failed, and goes on", exc_info=error)

    async def _reap(self, turn: TurnRow, *, ask_lease: bool) -> None:
        try:
            claims, ended = await self._db.run(self._end, turn, ask_lease)
        except Fenced:
            return
        if ended is not None:
            self._supervisor.count(ended)
        _log.info("ended a turn whose owner was gone", turn=turn.id, owner=turn.owner)
        topic = self._hub.find(turn.id)
        if topic is not None:
            topic.wake()
        self._changed(turn.conversation_id)
        for claim in claims:
            self._supervisor.run(claim)

    def _end(self, conn: Connection, turn: TurnRow, ask_lease: bool) -> tuple[list[Claim], TurnRow | None]:
        """The turns to run now, and the turn if this ended it."""
        lock_conversation(conn, turn.conversation_id)
        supervisor = self._supervisor
        before = get_turn(conn, turn.id)
        claims = end_abandoned(
            conn,
            turn,
            now=self._clock.now(),
            owner=supervisor.process,
            lease_s=supervisor.lease_s,
            next_owner=None if supervisor.draining else supervisor.process,
            ask_lease=ask_lease,
        )
        after = get_turn(conn, turn.id)
        ended = before is not None and before.status == "running" and after is not None and after.status == "finished"
        return claims, after if ended else None

    async def _expire(self, approval: OperationRow) -> None:
        def query(conn: Connection) -> None:
            lock_conversation(conn, approval.conversation_id)
            found = find_approval(conn, approval.id)
            if found is not None and found.resolved_at is None:
                deny(conn, [found], EXPIRED)
                touch(conn, approval.conversation_id)

        await self._db.run(query)
        self._changed(approval.conversation_id)

    async def _move_on(self, conversation_id: str) -> None:
        claim = await self._db.run(self._claim_next, conversation_id)
        if claim is not None:
            self._supervisor.run(claim)

    def _claim_next(self, conn: Connection, conversation_id: str) -> Claim | None:
        lock_conversation(conn, conversation_id)
        claim = claim_next(conn, conversation_id, self._supervisor.process, self._supervisor.lease_s)
        if claim is not None:
            touch(conn, conversation_id)
        return claim
