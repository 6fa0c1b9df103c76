"""What people, channels and jobs ask of a gateway: admitted, answered, reported, stopped.

Guarantee: what is asked is stored in one transaction before anybody is told of it; what it starts or stops follows.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from ..clock import Clock
from ..store import Database
from ..store.queries.conversations import lock_conversation, touch
from ..store.queries.jobs import ENDED, find_job, settle_job, stop_job
from ..store.queries.rows import OperationRow, TurnRow
from ..store.queries.turns import get_turn
from .admission import Admission, Inbound, Refused, admit
from .approvals import Answer, Answered, answer
from .endings import stop_turn
from .jobs import note_stopped, result_inbound
from .supervisor import Supervisor

_log = structlog.get_logger(__name__)


class Requests:
    """Carries out what is asked of one process; cancelling it would cut it in two.

    Args:
        lease_s: how long a turn that starts here is this process's.
        changed: called with a conversation id after each change that people can see.
        look: something that is written elsewhere is read here now.
        signal_stop: tells whoever runs the turn or job of that id that somebody wants it to stop.
    """

    def __init__(
        self,
        *,
        db: Database,
        supervisor: Supervisor,
        clock: Clock,
        process: str,
        lease_s: float,
        changed: Callable[[str], None],
        look: Callable[[], None],
        signal_stop: Callable[[str, str], None],
    ) -> None:
        self._db = db
        self._supervisor = supervisor
        self._clock = clock
        self._process = process
        self._lease_s = lease_s
        self._changed = changed
        self._look = look
        self._signal_stop = signal_stop

    async def submit(self, inbound: Inbound) -> Admission:
        """Admits an inbound and starts what can start. Raises `Refused`, `StoreError`."""
        if self._supervisor.draining:
            raise Refused("draining", "this server takes no new work; try again")
        return self._started(await self._db.run(self._admit, inbound), inbound.owner)

    def _admit(self, conn: Connection, inbound: Inbound) -> Admission:
        return admit(conn, inbound, process=self._process, lease_s=self._lease_s, now=self._clock.now())

    def _started(self, admission: Admission, by: str) -> Admission:
        """Starts and tells what an admission asks for."""
        for turn in admission.ended:
            self._supervisor.count(turn)
        for claim in admission.claims:
            self._supervisor.run(claim)
        for turn_id in admission.stopping:
            self._signal_stop(turn_id, by)
        if admission.kind == "steered":
            self._supervisor.look_into_inbox(admission.conversation.id)
        if admission.kind != "duplicate":
            self._changed(admission.conversation.id)
        return admission

    async def report(self, job: OperationRow) -> bool:
        """Brings the result of a background job into its conversation; False if that has to be tried again."""
        if self._supervisor.draining:
            return False

        def query(conn: Connection) -> Admission | None:
            conversation = lock_conversation(conn, job.conversation_id)
            current = find_job(conn, job.id)
            if current is None or current.resolved_at is not None:
                return None
            said = result_inbound(current, conversation, self._clock)
            if current.status == "stopped":
                noted = note_stopped(conn, current, said, self._clock.now())
                admission = Admission("created", conversation, noted, ended=[noted])
            else:
                admission = self._admit(conn, said)
            settle_job(conn, job.id, admission.turn.id)
            return admission

        try:
            admission = await self._db.run(query)
        except Refused as refused:
            _log.info("a job's result waits", job=job.id, why=refused.code)
            return False
        if admission is not None:
            self._started(admission, admission.conversation.owner)
        return True

    async def answer(self, given: Answer) -> Answered:
        """Records an answer to an approval and starts what goes on. Raises `Refused`, `StoreError`."""
        if self._supervisor.draining:
            raise Refused("draining", "this server takes no new work; try again")
        answered: Answered = await self._db.run(answer, given, process=self._process, lease_s=self._lease_s)
        for claim in answered.claims:
            self._supervisor.run(claim)
        if answered.first:
            self._changed(answered.conversation.id)
        return answered

    async def stop_turn(self, turn: TurnRow, by: str) -> TurnRow:
        """Records that `by` wants the turn to stop; returns it as it is then."""

        def query(conn: Connection) -> tuple[TurnRow, bool]:
            lock_conversation(conn, turn.conversation_id)
            before = get_turn(conn, turn.id)
            after = stop_turn(conn, turn, by, now=self._clock.now())
            return after, after.status == "finished" and before is not None and before.status != "finished"

        after, ended = await self._db.run(query)
        if ended:
            self._supervisor.count(after)
        if after.status == "running":
            self._signal_stop(turn.id, by)
        self._look()
        self._changed(turn.conversation_id)
        return after

    async def stop_job(self, job: OperationRow, by: str) -> OperationRow:
        """Records that `by` wants the background job to stop; returns it as it is then."""

        def query(conn: Connection) -> OperationRow:
            lock_conversation(conn, job.conversation_id)
            before = find_job(conn, job.id) or job
            if before.status in ENDED:
                return before
            touch(conn, job.conversation_id)
            return stop_job(conn, job.id, by) or before

        after: OperationRow = await self._db.run(query)
        self._signal_stop(job.id, by)
        self._changed(job.conversation_id)
        return after
