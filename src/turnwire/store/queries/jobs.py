"""Background jobs: left behind by turns, run under a lease, and reported once.

Guarantee: only the holder of a job's newest epoch records its progress and its end; the wish to stop one is recorded
once and needs no epoch; a job is settled in the transaction that brings its end into its conversation.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, and_, bindparam, insert, or_, select, update

from ..schema import operations, store_now, turns
from .conversations import touch
from .rows import OperationRow, TurnRow
from .turns import Fenced

ENDED = ("done", "failed", "stopped")

_COLUMNS = OperationRow.columns(operations)
_LIVE = (
    select(*_COLUMNS)
    .where(
        operations.c.conversation_id == bindparam("conversation"),
        operations.c.kind == "job",
        operations.c.resolved_at.is_(None),
    )
    .order_by(operations.c.created_at, operations.c.id)
)


def add_job(conn: Connection, job_id: str, turn: TurnRow, epoch: int, name: str, work: bytes) -> None:
    """Leaves a job behind. Raises `Fenced` unless the turn still runs under `epoch`."""
    stands = conn.execute(
        select(turns.c.id)
        .where(turns.c.id == turn.id, turns.c.epoch == epoch, turns.c.status == "running")
        .with_for_update(key_share=True)
    ).one_or_none()
    if stands is None:
        raise Fenced(turn.id)
    conn.execute(
        insert(operations).values(
            id=job_id,
            kind="job",
            conversation_id=turn.conversation_id,
            turn_id=turn.id,
            status="queued",
            name=name,
            input=work,
            created_at=store_now(),
        )
    )


def find_job(conn: Connection, job_id: str) -> OperationRow | None:
    """The job of that id, or None."""
    row = conn.execute(select(*_COLUMNS).where(operations.c.id == job_id, operations.c.kind == "job")).one_or_none()
    return OperationRow.of(row) if row else None


def live_jobs(conn: Connection, conversation_id: str) -> list[OperationRow]:
    """The conversation's jobs that have not reported, the oldest first."""
    return [OperationRow.of(row) for row in conn.execute(_LIVE, {"conversation": conversation_id})]


def claim_jobs(
    conn: Connection, owner: str, lease_s: float, *, limit: int, alone: bool, mine: Sequence[str] = ()
) -> list[OperationRow]:
    """Makes `owner` the owner of jobs that nobody runs, the oldest first; the epoch of each grows by one.

    Args:
        alone: no other process is on the store, so that a job of another owner has none.
        mine: jobs that this process runs already.
    """
    ownerless: ColumnElement[bool] = operations.c.lease_until < store_now()
    if alone:
        ownerless = or_(ownerless, operations.c.owner != owner)
    free = or_(operations.c.status == "queued", and_(operations.c.status == "running", ownerless))
    found = list(
        conn.execute(
            select(operations.c.id)
            .where(
                operations.c.kind == "job", operations.c.resolved_at.is_(None), free, operations.c.id.not_in(list(mine))
            )
            .order_by(operations.c.created_at, operations.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).scalars()
    )
    if not found:
        return []
    rows = conn.execute(
        update(operations)
        .where(operations.c.id.in_(found))
        .values(status="running", owner=owner, epoch=operations.c.epoch + 1, lease_until=store_now() + lease_s)
        .returning(*_COLUMNS)
    )
    return sorted((OperationRow.of(row) for row in rows), key=lambda job: (job.created_at, job.id))


def renew_jobs(conn: Connection, owned: Sequence[tuple[str, int]], lease_s: float) -> dict[str, str | None]:
    """Renews the leases of `(job id, epoch)` pairs that still stand.

    Returns for each of those who wants it to stop, or None; a pair that is missing was fenced.
    """
    standing: dict[str, str | None] = {}
    for job_id, epoch in sorted(owned):
        kept = update(operations).where(_owned(job_id, epoch)).values(lease_until=store_now() + lease_s)
        row = conn.execute(kept.returning(operations.c.stop_requested_at, operations.c.stop_requested_by)).one_or_none()
        if row is not None:
            standing[job_id] = (row.stop_requested_by or "") if row.stop_requested_at is not None else None
    return standing


def stop_job(conn: Connection, job_id: str, by: str) -> OperationRow | None:
    """Records, once, that `by` wants the job to stop; one that nobody runs ends at once. Returns the job as it is then.

    The conversation must be locked, so that the job is not reported meanwhile.
    """
    conn.execute(
        update(operations)
        .where(
            operations.c.id == job_id,
            operations.c.status.in_(("queued", "running")),
            operations.c.stop_requested_at.is_(None),
        )
        .values(stop_requested_at=store_now(), stop_requested_by=by)
    )
    conn.execute(
        update(operations)
        .where(operations.c.id == job_id, operations.c.kind == "job", operations.c.status == "queued")
        .values(status="stopped")
    )
    return find_job(conn, job_id)


def release_job(conn: Connection, job_id: str, epoch: int) -> None:
    """Gives a job back unfinished: whoever looks next runs it again."""
    conn.execute(update(operations).where(_owned(job_id, epoch)).values(status="queued", owner=None, lease_until=None))


def save_progress(conn: Connection, job: OperationRow, progress: bytes) -> None:
    """Records how far a job has come, as JSON, for everybody who watches its conversation. Raises `Fenced`."""
    touch(conn, job.conversation_id)
    if not conn.execute(update(operations).where(_owned(job.id, job.epoch)).values(progress=progress)).rowcount:
        raise Fenced(job.id)


def save_result(
    conn: Connection,
    job_id: str,
    epoch: int,
    *,
    result: bytes | None = None,
    reason: str | None = None,
    stopped: bool = False,
) -> None:
    """Records what a job came to: `result` as JSON, or `reason` why it failed. Raises `Fenced`.

    One that was `stopped` may have either, or neither.
    """
    status = "stopped" if stopped else "done" if reason is None else "failed"
    ended = update(operations).where(_owned(job_id, epoch))
    changed = conn.execute(ended.values(status=status, result=result, reason=reason, owner=None, lease_until=None))
    if not changed.rowcount:
        raise Fenced(job_id)


def unreported(conn: Connection, *, limit: int = 100) -> list[OperationRow]:
    """Jobs that have ended and whose result is not in their conversation yet."""
    rows = conn.execute(
        select(*_COLUMNS)
        .where(operations.c.kind == "job", operations.c.resolved_at.is_(None), operations.c.status.in_(ENDED))
        .order_by(operations.c.created_at, operations.c.id)
        .limit(limit)
    )
    return [OperationRow.of(row) for row in rows]


def settle_job(conn: Connection, job_id: str, turn_id: str) -> None:
    """The job's result is in its conversation, and `turn_id` is told of it."""
    conn.execute(
        update(operations).where(operations.c.id == job_id).values(resolved_at=store_now(), next_turn_id=turn_id)
    )


def _owned(job_id: str, epoch: int) -> ColumnElement[bool]:
    return and_(operations.c.id == job_id, operations.c.epoch == epoch, operations.c.status == "running")
