"""The records of turns: reading, replaying, trimming. Appending is `Database.append` and `end_turn`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from ..schema import chunks, inbound, store_now, turns

PAGE_ROWS = 512
PAGE_BYTES = 256 * 1024


class Trimmed(Exception):
    """The records are past their retention; only the fold is left."""


def join_records(payloads: Sequence[bytes]) -> bytes:
    """Consecutive records as one payload."""
    return b"\n".join(payloads)


def read_records(
    conn: Connection, turn_id: str, first: int, *, rows: int = PAGE_ROWS, page_bytes: int = PAGE_BYTES
) -> list[bytes]:
    """The records from `first` on, in order, about a page of them; empty at the head.

    Raises `Trimmed` when they are no longer kept.
    """
    # The row that holds `first`, found by its key: a reader near the head must not cost what the whole turn costs.
    start = select(func.max(chunks.c.first_seq)).where(chunks.c.turn_id == turn_id, chunks.c.first_seq <= first)
    found = conn.execute(
        select(chunks.c.first_seq, chunks.c.payload)
        .where(
            chunks.c.turn_id == turn_id,
            chunks.c.first_seq >= start.scalar_subquery(),
            chunks.c.first_seq + chunks.c.count > first,
        )
        .order_by(chunks.c.first_seq)
        .limit(rows)
        .execution_options(yield_per=16)
    )
    records: list[bytes] = []
    begins, size = first, 0
    for row in found:
        if not records:
            begins = row.first_seq
        records += row.payload.split(b"\n")
        size += len(row.payload)
        if size >= page_bytes:
            break
    found.close()
    if not records:
        trimmed = conn.execute(select(turns.c.trimmed_at).where(turns.c.id == turn_id)).scalar_one_or_none()
        if trimmed is not None:
            raise Trimmed(turn_id)
        return []
    return records[first - begins :]


def read_all(conn: Connection, turn_id: str) -> list[bytes]:
    """All records of a turn."""
    rows = conn.execute(select(chunks.c.payload).where(chunks.c.turn_id == turn_id).order_by(chunks.c.first_seq))
    return [record for payload in rows.scalars() for record in payload.split(b"\n")]


def read_replay(conn: Connection, turn_id: str) -> list[bytes]:
    """The shortest stream that shows a finished turn; empty while it is not finished."""
    payload = conn.execute(select(turns.c.replay).where(turns.c.id == turn_id)).scalar_one_or_none()
    return payload.split(b"\n") if payload else []


def write_records(conn: Connection, turn_id: str, first: int, records: Sequence[bytes]) -> None:
    """Stores a run of records; the caller has moved the head in this transaction."""
    conn.execute(
        insert(chunks).values(turn_id=turn_id, first_seq=first, count=len(records), payload=join_records(records))
    )


def trim(conn: Connection, retention_s: float, *, limit: int = 200) -> int:
    """Drops the records of turns that ended more than `retention_s` seconds ago; returns how many turns."""
    old = list(
        conn.execute(
            select(turns.c.id)
            .where(turns.c.trimmed_at.is_(None), turns.c.ended_at < store_now() - retention_s)
            .limit(limit)
            # What another process trims, or an edit hides, is left for the next time: trimming waits for nobody.
            .with_for_update(key_share=True, skip_locked=True)
        ).scalars()
    )
    if old:
        conn.execute(delete(chunks).where(chunks.c.turn_id.in_(old)))
        conn.execute(update(turns).where(turns.c.id.in_(old)).values(trimmed_at=store_now()))
    return len(old)


def forget_inbound(conn: Connection, age_s: float) -> int:
    """Drops dedupe keys older than `age_s` seconds; returns how many."""
    return conn.execute(delete(inbound).where(inbound.c.received_at < store_now() - age_s)).rowcount
