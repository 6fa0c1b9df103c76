"""Running background jobs, and bringing their results into their conversations.

Guarantee: a job that was left behind is run until it ends, by one process at a time, also after `kill -9`; its result
becomes a message and starts a turn once. How many run at a time is bounded; the others wait in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from .._checks import plain_json
from ..clock import Clock, sleep, wait
from ..events import JSON, AgentEventError
from ..ids import new_id
from ..operation import NAME_CHARS, PROGRESS_BYTES, JobError, Operation, Work, find, takes_thread, work_of
from ..sanitize import clean_text
from ..store import Database, StoreError
from ..store.queries import jobs as q
from ..store.queries.conversations import get_conversation
from ..store.queries.rows import Conversation, OperationRow, TurnRow
from ..store.queries.turns import Fenced
from .admission import Inbound

_log = structlog.get_logger(__name__)

AT_ONCE = 16
"""Jobs that one process runs at a time."""
ATTEMPTS = 5
"""A job whose process ended so often is not started again: it may be what ends it."""
RESULT_BYTES = 256 * 1024
CANCEL_S = 5.0
"""Seconds that a job has to end when the process does."""


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
        self._running: dict[str, tuple[OperationRow, asyncio.Task[None]]] = {}
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
        for _, task in running:
            task.cancel()
        for row, task in running:
            await wait(self._clock, {task}, CANCEL_S)
            if not task.done():
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
        job_id = new_id("op", self._clock)
        await self._db.run(q.add_job, job_id, turn, epoch, label, msgspec.json.encode(work))
        self._changed(turn.conversation_id)
        self._poked.set()
        return job_id

    async def sweep(self) -> None:
        """One look: leases kept, free jobs started, results brought home."""
        if self._running:
            pairs = [(row.id, row.epoch) for row, _ in self._running.values()]
            standing = await self._db.run(q.renew_jobs, pairs, self._lease_s)
            for job_id, (_, task) in list(self._running.items()):
                if job_id not in standing and not task.done():
                    _log.warning("a job was taken over by another process", job=job_id)
                    task.cancel()
        room = AT_ONCE - len(self._running)
        if room > 0:
            mine = list(self._running)
            claimed = await self._db.run(
                q.claim_jobs, self._process, self._lease_s, limit=room, alone=self._alone, mine=mine
            )
            for row in claimed:
                task = asyncio.create_task(self._run(row), name=f"job-{row.id}")
                self._running[row.id] = row, task
                task.add_done_callback(lambda _, job_id=row.id: self._ended(job_id))  # type: ignore[misc]
                self._changed(row.conversation_id)
        for row in await self._db.run(q.unreported):
            await self._bring_home(row)

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

    async def _run(self, row: OperationRow) -> None:
        """Runs a job and records what it came to."""
        try:
            if row.epoch > ATTEMPTS:
                raise JobError(f"It was started {ATTEMPTS} times, and its process ended each time.")
            result = msgspec.json.encode(await self._work(row))
            if len(result) > RESULT_BYTES:
                raise JobError(f"Its result is larger than {RESULT_BYTES} bytes.")
            ending: dict[str, Any] = {"result": result}
        except (JobError, AgentEventError) as error:
            ending = {"reason": clean_text(str(error)) or "It failed."}
        except Fenced:
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, people are told that it failed
            _log.error("a background job failed", job=row.id, name=row.name, exc_info=error)
            ending = {"reason": f"It failed ({type(error).__name__})."}
        await self._record(row, ending)

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

    async def _work(self, row: OperationRow) -> JSON:
        work = msgspec.json.decode(row.input, type=Work)
        function = find(work.call)
        conversation = await self._db.read(get_conversation, row.conversation_id)
        operation = Operation(
            id=row.id,
            attempt=row.epoch,
            name=row.name,
            conversation=conversation.name,
            user=conversation.owner,
            progress=lambda value: self._progress(row, value),
        )
        if takes_thread(function):
            result = await asyncio.to_thread(function, operation, *work.args, **work.kwargs)
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
        await self._db.run(q.save_progress, row.id, row.epoch, said)
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


def result_text(row: OperationRow) -> str:
    """What is said in the conversation when a job has ended."""
    if row.status == "failed":
        return f"Background job “{row.name}” ({row.id}) failed: {row.reason}"
    value = msgspec.json.decode(row.result) if row.result else None
    said = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return f"Background job “{row.name}” ({row.id}) is done: {said}"
