"""Running background jobs, and bringing their results into their conversations.

Guarantee: a job that was left behind is run until it ends, by one process at a time, also after `kill -9`; its result
becomes a message and starts a turn once. How many run at a time is bounded; the others wait in the store. One that a
person stops ends within a second while its process lives, whatever its function does; history says so once, and no
agent is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from .._checks import plain_json
from ..clock import Clock, sleep, wait
from ..events import JSON, AgentEventError
from ..ids import new_id
from ..operation import NAME_CHARS, PROGRESS_BYTES, JobError, Operation, Work, find, takes_thread, work_of
from ..sanitize import clean_text
from ..store import Database, StoreError
from ..store.queries import jobs as q
from ..store.queries.conversations import add_message, get_conversation, touch
from ..store.queries.inbound import claim_inbound
from ..store.queries.rows import Conversation, OperationRow, TurnRow
from ..store.queries.turns import Fenced, create_turn
from .admission import Inbound
from .endings import end_unstarted
from .runner import CANCEL_GRACE_S, STOP_GRACE_S

_log = structlog.get_logger(__name__)

JOB = "op_"
"""What a job's id begins with."""
AT_ONCE = 16
"""Jobs that one process runs at a time."""
ATTEMPTS = 5
"""A job whose process ended so often is not started again: it may be what ends it."""
RESULT_BYTES = 256 * 1024
CANCEL_S = 5.0
"""Seconds that a job has to end when the process does."""
DEAF = "Its function ignores that and may go on; what it still does is not kept."


class _Run:
    """One run of a job in this process; `stop` is done once a person wants it to end."""

    def __init__(self, row: OperationRow) -> None:
        self.row = row
        self.stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None]
        self.operation: Operation | None = None
        self.thread: asyncio.Task[Any] | None = None

    def request_stop(self, by: str) -> None:
        """A person wants it to stop."""
        if not self.stop.done():
            self.stop.set_result(by)

    def tell(self) -> None:
        """Lets its function know."""
        if self.operation is not None:
            self.operation.stopping.set()


class Jobs:
    """The background jobs of one process.

    Args:
        report: admits the result of a job into its conversation; False if it has to be tried again.
        changed: called with a conversation id after each change that people can see.
    """

    def __init__(
        self,
        *,
        process: str,
        db: Database,
        clock: Clock,
        lease_s: float,
        alone: bool,
        report: Callable[[OperationRow], Awaitable[bool]],
        changed: Callable[[str], None],
    ) -> None:
        self._process = process
        self._db = db
        self._clock = clock
        self._lease_s = lease_s
        self._alone = alone
        self._report = report
        self._changed = changed
        self._running: dict[str, _Run] = {}
        self._abandoned: set[asyncio.Task[Any]] = set()
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Takes up what was left behind, then looks whenever something may be there."""
        self._task = asyncio.create_task(self._forever(), name="turnwire-jobs")

    async def close(self) -> None:
        """Cancels what runs; whoever looks next runs it again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        running = list(self._running.values())
        for task in (*(run.task for run in running), *self._abandoned):
            task.cancel()
        for run in running:
            row = run.row
            await wait(self._clock, {run.task}, CANCEL_S)
            if not run.task.done():
                _log.warning("a background job ignores cancellation", job=row.id, name=row.name)
                continue
            try:
                await self._db.run(q.release_job, row.id, row.epoch)
            except StoreError as error:
                _log.warning("a job could not be given back; its lease ends by itself", job=row.id, error=str(error))

    async def add(self, turn: TurnRow, epoch: int, name: str, job: Any) -> str:
        """Stores a job that a turn leaves behind; returns its id. Raises `JobError`, and `Fenced` after the turn."""
        work = work_of(job)
        label = clean_text(str(name)).strip()[:NAME_CHARS]
        if not label:
            raise JobError("a background job needs a name that people can read")
        job_id = new_id(JOB[:-1], self._clock)
        await self._db.run(q.add_job, job_id, turn, epoch, label, msgspec.json.encode(work))
        self._changed(turn.conversation_id)
        self._poked.set()
        return job_id

    def look(self) -> None:
        """Somebody wants a job to stop, or one has ended: look into the store now."""
        self._poked.set()

    async def sweep(self) -> None:
        """One look: leases kept, wishes to stop learned, free jobs started, results brought home."""
        if self._running:
            await self._renew()
        room = AT_ONCE - len(self._running)
        if room > 0:
            mine = list(self._running)
            claimed = await self._db.run(
                q.claim_jobs, self._process, self._lease_s, limit=room, alone=self._alone, mine=mine
            )
            for row in claimed:
                run = self._running[row.id] = _Run(row)
                run.task = asyncio.create_task(self._run(run), name=f"job-{row.id}")
                run.task.add_done_callback(lambda _, job_id=row.id: self._ended(job_id))  # type: ignore[misc]
                self._changed(row.conversation_id)
        for row in await self._db.run(q.unreported):
            await self._bring_home(row)

    async def _renew(self) -> None:
        asked = dict(self._running)
        pairs = [(run.row.id, run.row.epoch) for run in asked.values()]
        standing = await self._db.run(q.renew_jobs, pairs, self._lease_s)
        for job_id, run in asked.items():
            by = standing.get(job_id)
            if by is not None:
                run.request_stop(by)
            elif job_id not in standing and not run.task.done() and not run.stop.done():
                _log.warning("a job was taken over by another process", job=job_id)
                run.task.cancel()

    async def _bring_home(self, row: OperationRow) -> None:
        """Reports one job; what fails is tried again, and must not keep the others from reporting."""
        try:
            if await self._report(row):
                self._changed(row.conversation_id)
        except Exception as error:  # noqa: BLE001
            _log.error("a job's result could not be brought into its conversation", job=row.id, exc_info=error)

    async def _forever(self) -> None:
        while True:
            self._poked.clear()
            try:
                await self.sweep()
            except StoreError as error:
                _log.warning("jobs could not be looked after", error=str(error))
            except Exception as error:  # noqa: BLE001 - without this every job would stand still
                _log.error("looking after jobs failed, and goes on", exc_info=error)
            poked = asyncio.ensure_future(self._poked.wait())
            try:
                await wait(self._clock, {poked}, self._lease_s / 3)
            finally:
                poked.cancel()

    def _ended(self, job_id: str) -> None:
        self._running.pop(job_id, None)
        self._poked.set()

    async def _run(self, run: _Run) -> None:
        """Runs a job and records what it came to."""
        row = run.row
        if row.stop_requested_at is not None:
            # Its last process ended before it could.
            await self._record(row, {"stopped": True})
            return
        work = asyncio.create_task(self._ending(run), name=f"work-{row.id}")
        try:
            await wait(self._clock, {work, run.stop}, None)
            ending: dict[str, Any] | None
            if not work.done():
                ending = await self._cut(run, work)
            elif work.cancelled():
                ending = {"reason": "It was cancelled from within."}
            else:
                ending = work.result()
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            self._abandon(run.thread)
            raise
        if ending is not None:
            await self._record(row, ending)

    async def _cut(self, run: _Run, work: asyncio.Task[dict[str, Any] | None]) -> dict[str, Any]:
        """Ends a job that a person stops: told, then cancelled, then left behind; returns what is to be recorded."""
        run.tell()
        await wait(self._clock, {work}, STOP_GRACE_S)
        if not work.done():
            work.cancel()
            await wait(self._clock, {task for task in (work, run.thread) if task is not None}, CANCEL_GRACE_S)
        if any([self._abandon(work), self._abandon(run.thread)]):
            _log.warning("a background job ignores cancellation; it is abandoned", job=run.row.id, name=run.row.name)
            return {"stopped": True, "reason": DEAF}
        said = None if work.cancelled() else work.result()
        return {"stopped": True, **(said or {})}

    def _abandon(self, task: asyncio.Task[Any] | None) -> bool:
        """Keeps hold of a task until it ends by itself; False if there is nothing to be kept."""
        if task is None or task.done():
            return False
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned_done)
        return True

    def _abandoned_done(self, task: asyncio.Task[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            _log.info("an abandoned background job has ended", task=task.get_name(), error=str(task.exception() or ""))

    async def _ending(self, run: _Run) -> dict[str, Any] | None:
        """What the job came to, as `save_result` takes it; None if another process has it now."""
        row = run.row
        try:
            if row.epoch > ATTEMPTS:
                raise JobError(f"It was started {ATTEMPTS} times, and its process ended each time.")
            result = msgspec.json.encode(await self._work(run))
            if len(result) > RESULT_BYTES:
                raise JobError(f"Its result is larger than {RESULT_BYTES} bytes.")
        except (JobError, AgentEventError) as error:
            return {"reason": clean_text(str(error)) or "It failed."}
        except Fenced:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it was, people are told that it failed
            _log.error("a background job failed", job=row.id, name=row.name, exc_info=error)
            return {"reason": f"It failed ({type(error).__name__})."}
        return {"result": result}

    async def _record(self, row: OperationRow, ending: dict[str, Any]) -> None:
        while True:
            try:
                await self._db.run(q.save_result, row.id, row.epoch, **ending)
            except Fenced:
                return
            except StoreError as error:
                _log.warning("a job's result waits for the store", job=row.id, error=str(error))
                await sleep(self._clock, self._lease_s / 3)
            else:
                return

    async def _work(self, run: _Run) -> JSON:
        row = run.row
        work = msgspec.json.decode(row.input, type=Work)
        function = find(work.call)
        conversation = await self._db.read(get_conversation, row.conversation_id)
        operation = run.operation = Operation(
            id=row.id,
            attempt=row.epoch,
            name=row.name,
            conversation=conversation.name,
            user=conversation.owner,
            progress=lambda value: self._progress(row, value),
        )
        if takes_thread(function):
            # A thread goes on when its waiter is cancelled; whoever stops it has to know.
            run.thread = asyncio.create_task(asyncio.to_thread(function, operation, *work.args, **work.kwargs))
            result = await asyncio.shield(run.thread)
        else:
            result = await function(operation, *work.args, **work.kwargs)
        return plain_json(result, "the result of a background job")

    async def _progress(self, row: OperationRow, value: JSON) -> None:
        try:
            said = msgspec.json.encode(plain_json(value, "the progress of a background job"))
        except AgentEventError as error:
            raise JobError(str(error)) from None
        if len(said) > PROGRESS_BYTES:
            raise JobError(f"the progress of a background job must be {PROGRESS_BYTES} bytes at most")
        await self._db.run(q.save_progress, row, said)
        self._changed(row.conversation_id)


def result_inbound(row: OperationRow, conversation: Conversation, clock: Clock) -> Inbound:
    """The result of a job as an inbound of its conversation: one, however often it is brought."""
    message_id = f"msg_{row.id}"
    about = {"id": row.id, "name": row.name, "status": row.status}
    message = {
        "id": message_id,
        "role": "user",
        "parts": [{"type": "text", "text": result_text(row)}],
        "metadata": {"turnwire": {"operation": about}},
    }
    return Inbound(
        channel=conversation.channel,
        owner=conversation.owner,
        conversation=conversation.name,
        key=f"operation:{row.id}",
        message=msgspec.json.encode(message),
        message_id=message_id,
        supersedes=False,
        metadata=msgspec.json.encode({"operation": about}),
        conversation_id=conversation.id,
        turn_id=new_id("turn", clock),
        answer_id=new_id("msg", clock),
    )


def note_stopped(conn: Connection, row: OperationRow, said: Inbound, now: float) -> TurnRow:
    """Puts the end of a job that a person stopped into history, in a turn that no agent runs; returns that turn.

    Whoever stopped it knows already, so nobody has to answer; the next turn's agent reads it with the history. The
    conversation must be locked.
    """
    conversation = touch(conn, row.conversation_id, turns=1)
    turn = create_turn(
        conn,
        turn_id=said.turn_id,
        conversation_id=row.conversation_id,
        number=conversation.turns - 1,
        message_id=said.answer_id,
        kind="agent",
        metadata=said.metadata,
    )
    claim_inbound(conn, row.conversation_id, said.key, turn.id)
    add_message(
        conn,
        turn_id=turn.id,
        conversation_id=row.conversation_id,
        turn_number=turn.number,
        message_id=said.message_id,
        content=said.message or b"null",
    )
    return end_unstarted(conn, turn, "stopped", None, now=now)


def result_text(row: OperationRow) -> str:
    """What is said in the conversation when a job has ended."""
    job = f"Background job “{row.name}” ({row.id})"
    value = msgspec.json.decode(row.result) if row.result else None
    said = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if row.status == "stopped":
        more = [f"It said: {said}"] if value is not None else []
        more += [row.reason] if row.reason else []
        return " ".join([f"{job} was stopped by {row.stop_requested_by or 'a person'}.", *more])
    return f"{job} failed: {row.reason}" if row.status == "failed" else f"{job} is done: {said}"
