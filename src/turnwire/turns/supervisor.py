"""The turns that this process owns: started, kept under lease, stopped, drained, and the last word of each.

Guarantee: every claimed turn ends exactly once, by its run, by a rescue of this process or by a reaper of any process;
its task, cancelled at any point, still makes the last write. An owner that cannot renew its lease stops itself before
the lease ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from sqlalchemy import Connection

from ..clock import Clock, sleep, wait
from ..files import FileStore
from ..framer import Outcome
from ..journal import Hub, Journal, JournalError, TurnFenced
from ..metrics import Metrics
from ..store import Database, StoreError
from ..store.queries.conversations import lock_conversation
from ..store.queries.rows import TurnRow
from ..store.queries.turns import Claim, get_turn, renew
from .endings import end_abandoned
from .pump import Agent
from .runner import Background, Limits, Prepare, Receipts, TurnRun

_log = structlog.get_logger(__name__)

LEASE_MARGIN = 0.2
"""Share of the lease before its end at which an owner that could not renew gives up."""
RESCUE_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
REMEMBERED_STOPS = 1000
REMEMBERED_ENDS = 1000


class Supervisor:
    """Runs the claimed turns of one process.

    Args:
        process: this process's name as an owner.
        lease_s: seconds that a lease lasts; it is renewed every third of that.
        changed: called with a conversation id after each change that people can see.
    """

    def __init__(
        self,
        *,
        process: str,
        db: Database,
        journal: Journal,
        hub: Hub,
        files: FileStore,
        clock: Clock,
        agent: Agent,
        limits: Limits,
        lease_s: float,
        metrics: Metrics,
        changed: Callable[[str], None],
    ) -> None:
        self.process = process
        self.lease_s = lease_s
        self.draining = False
        self.live: dict[str, TurnRun] = {}
        self._db = db
        self._journal = journal
        self._hub = hub
        self._files = files
        self._clock = clock
        self._agent = agent
        self._limits = limits
        self._metrics = metrics
        self._changed = changed
        self._running_in: dict[str, str] = {}
        self._stops: dict[str, str] = {}
        self._counted: dict[str, None] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._awaited: set[asyncio.Task[Any]] = set()
        self._abandoned: set[asyncio.Task[None]] = set()
        self.background: Background | None = None
        self.prepare: Prepare | None = None
        self.receipts: Receipts | None = None
        self._renewer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts renewing leases."""
        self._renewer = asyncio.create_task(self._renew_forever(), name="turnwire-leases")

    def run(self, claim: Claim) -> None:
        """Starts a claimed turn."""
        run = TurnRun(
            claim,
            self._agent,
            db=self._db,
            journal=self._journal,
            files=self._files,
            clock=self._clock,
            limits=self._limits,
            background=self.background,
            prepare=self.prepare,
            receipts=self.receipts,
        )
        self.live[claim.turn.id] = run
        self._running_in[claim.turn.conversation_id] = claim.turn.id
        self._metrics.live_turns.set(len(self.live))
        by = self._stops.pop(claim.turn.id, None)
        if by is not None or claim.turn.stop_requested_at is not None:
            run.request_stop(by or claim.turn.stop_requested_by or "")
        if self.draining:
            run.interrupt("The server is shutting down.")
        self.spawn(self._own(run), f"turn-{claim.turn.id}")

    def runs_in(self, conversation_id: str) -> bool:
        """Whether a turn of that conversation runs in this process."""
        return conversation_id in self._running_in

    def stop(self, turn_id: str, by: str) -> None:
        """The intent to stop is recorded; tells the run, now or when it starts here."""
        run = self.live.get(turn_id)
        if run is not None:
            run.request_stop(by)
            return
        self._stops[turn_id] = by
        if len(self._stops) > REMEMBERED_STOPS:
            del self._stops[next(iter(self._stops))]

    def look_into_inbox(self, conversation_id: str) -> None:
        """A message may have come for the turn that runs in that conversation, perhaps here."""
        run = self.live.get(self._running_in.get(conversation_id, ""))
        if run is not None:
            run.look_into_inbox()

    def count(self, turn: TurnRow) -> None:
        """Counts, once, a turn that this process ended without running it to its end."""
        if turn.outcome is None or turn.id in self._counted:
            return
        self._counted[turn.id] = None
        if len(self._counted) > REMEMBERED_ENDS:
            del self._counted[next(iter(self._counted))]
        self._metrics.ended(turn.outcome, turn.created_at, self._clock.now())

    def spawn(self, work: Coroutine[Any, Any, Any], name: str, *, awaited: bool = False) -> asyncio.Task[Any]:
        """A task that this supervisor owns to its end: nothing cancels it but the end of the process.

        With `awaited`, somebody waits for its result and takes its error.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        if awaited:
            self._awaited.add(task)
        task.add_done_callback(self._done)
        return task

    async def drain(self, drain_s: float, hurry: asyncio.Event) -> None:
        """Lets live turns finish for `drain_s` seconds or until `hurry`, then ends the rest `interrupted`."""
        self.draining = True
        deadline = self._clock.monotonic() + drain_s
        hurried = asyncio.ensure_future(hurry.wait())
        try:
            while self._tasks and not hurried.done() and (left := deadline - self._clock.monotonic()) > 0:
                await wait(self._clock, {*self._tasks, hurried}, left)
        finally:
            hurried.cancel()
        for run in list(self.live.values()):
            run.interrupt("The server is shutting down.")
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Stops renewing; call it after `drain`."""
        if self._renewer is not None:
            self._renewer.cancel()
            await asyncio.wait({self._renewer})
        for task in self._abandoned:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        awaited = task in self._awaited
        self._awaited.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not awaited:
            _log.error("a task of the supervisor failed", task=task.get_name(), exc_info=error)

    async def _own(self, run: TurnRun) -> None:
        """The turn to its last write. Cancelling this, however often, interrupts it and does not cut the write."""
        work = self.spawn(self._run(run), f"run-{run.turn.id}")
        cancelled: asyncio.CancelledError | None = None
        while not work.done():
            try:
                await asyncio.wait({work})
            except asyncio.CancelledError as error:
                cancelled = error
                run.interrupt("The task that ran this turn was cancelled.")
        if cancelled is not None:
            raise cancelled

    async def _run(self, run: TurnRun) -> None:
        turn = run.turn
        self._changed(turn.conversation_id)
        following: Claim | None = None
        try:
            try:
                outcome, reason = await run.run()
            except JournalError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it was, the turn must have its end
                _log.error("turn could not be run", turn=turn.id, exc_info=error)
                outcome, reason = "failed", "The gateway could not run this turn; its log says why."
            ending = self.spawn(run.end(outcome, reason, self._heir()), f"end-{turn.id}", awaited=True)
            following = await asyncio.shield(ending)
            self._metrics.ended(outcome, turn.created_at, self._clock.now())
        except TurnFenced:
            _log.warning("turn was taken over by another process", turn=turn.id)
        except Exception as error:  # noqa: BLE001 - the store refused, or we failed: the rescue ends the turn
            _log.error("turn could not be written", turn=turn.id, exc_info=error)
            run.log.fail(JournalError(str(error)))
            self.spawn(self._rescue(run), f"rescue-{turn.id}")
        finally:
            self._let_go(run)
        self._changed(turn.conversation_id)
        if following is not None:
            self.run(following)

    def _let_go(self, run: TurnRun) -> None:
        self.live.pop(run.turn.id, None)
        # A turn that was taken over may still wind up here when the next one of its conversation runs.
        if self._running_in.get(run.turn.conversation_id) == run.turn.id:
            del self._running_in[run.turn.conversation_id]
        self._metrics.live_turns.set(len(self.live))
        self._journal.release(run.log)
        if run.abandoned and run.pump is not None:
            self._metrics.abandoned_agents.inc()
            self._abandoned.add(run.pump)
            run.pump.add_done_callback(self._abandoned_done)

    def _abandoned_done(self, task: asyncio.Task[None]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            _log.info("an abandoned agent has ended", task=task.get_name(), error=str(task.exception() or ""))

    def _heir(self) -> str | None:
        return None if self.draining else self.process

    async def _rescue(self, run: TurnRun) -> None:
        """Ends a turn whose records the store refused, once the store takes writes again."""
        if run.log.head == 0:
            # It will be run again; a store that takes everything but records must not make us turn in circles.
            await sleep(self._clock, RESCUE_PAUSES_S[-1])
        for attempt in range(1_000_000):
            try:
                claims, ended = await self._db.run(self._close_failed, run)
            except StoreError as error:
                pause = RESCUE_PAUSES_S[min(attempt, len(RESCUE_PAUSES_S) - 1)]
                _log.warning("turn waits for the store to be ended", turn=run.turn.id, error=str(error), again_s=pause)
                if self.draining:
                    return
                await sleep(self._clock, pause)
            else:
                if ended is not None:
                    self.count(ended)
                for claim in claims:
                    self.run(claim)
                break
        topic = self._hub.find(run.turn.id)
        if topic is not None:
            topic.wake()
        self._changed(run.turn.conversation_id)

    def _close_failed(self, conn: Connection, run: TurnRun) -> tuple[list[Claim], TurnRow | None]:
        """The turns to run now, and the turn if it has ended under us."""
        lock_conversation(conn, run.turn.conversation_id)
        current = get_turn(conn, run.turn.id)
        if current is None or current.epoch != run.log.epoch:
            return [], None
        outcome: Outcome = "failed"
        claims = end_abandoned(
            conn,
            current,
            now=self._clock.now(),
            owner=self.process,
            lease_s=self.lease_s,
            next_owner=self._heir(),
            ask_lease=False,
            outcome=outcome,
            reason="The store could not take what the agent said; the text up to here is kept.",
        )
        after = get_turn(conn, run.turn.id)
        return claims, after if after is not None and after.status == "finished" else None

    async def _renew_forever(self) -> None:
        while True:
            await sleep(self._clock, self.lease_s / 3)
            try:
                await self.renew()
            except Exception as error:  # noqa: BLE001 - without renewal every turn of this process would be lost
                _log.error("renewing leases failed, and goes on", exc_info=error)

    async def renew(self) -> None:
        """Renews every lease of this process, learns of stops, and gives up turns that it no longer owns."""
        runs = dict(self.live)
        if not runs:
            return
        asked_at = self._clock.monotonic()
        pairs = [(run.turn.id, run.log.epoch) for run in runs.values()]
        # A store that does not answer at all must not keep us from noticing that our leases end.
        asking = self.spawn(self._db.run(renew, pairs, self.lease_s), "renew", awaited=True)
        answered = await wait(self._clock, {asking}, self.lease_s / 3)
        if not answered or asking.exception() is not None:
            _log.warning("leases could not be renewed", turns=len(runs))
            for run in runs.values():
                if self._clock.monotonic() - run.renewed_at > self.lease_s * (1 - LEASE_MARGIN) - self.lease_s / 3:
                    self._lose(run, "The store could not be reached to keep this turn.")
            return
        standing: dict[str, str | None] = asking.result()
        for turn_id, run in runs.items():
            if turn_id not in standing:
                if turn_id in self.live and not run.log.ending:
                    run.log.fail(TurnFenced())
                    run.interrupt("Another process took this turn over.")
                continue
            run.renewed_at = asked_at
            # What another process took in for it; no message is sent for that.
            run.look_into_inbox()
            by = standing[turn_id]
            if by is not None:
                run.request_stop(by)

    def _lose(self, run: TurnRun, why: str) -> None:
        run.log.fail(JournalError(why))
        run.interrupt(why)
