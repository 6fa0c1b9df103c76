"""Turns: created, claimed, kept alive, ended. Every write of a running turn names its epoch.

Locks are taken in one order on PostgreSQL: the conversation, then turns by id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, exists, func, insert, select, update

from ...sanitize import clean_text
from ..schema import chunks, conversations, messages, store_now, turns
from .conversations import lock_conversation, save_answer, touch
from .rows import TurnRow


class Fenced(Exception):
    """Somebody else owns this turn now; what was to be written is not."""


class Claim(msgspec.Struct, frozen=True):
    """The right to run one turn: nobody else can write to it until the epoch grows."""

    turn: TurnRow
    epoch: int


class Ending(msgspec.Struct, frozen=True):
    """The last write of a turn: its remaining records, its outcome and its answer, in one transaction.

    `status` is what the turn must still be: `running`, or `queued` for one that nobody ran.
    """

    turn: TurnRow
    epoch: int
    head: int
    count: int
    payload: bytes
    outcome: str
    reason: str | None
    replay: bytes
    answer: bytes
    status: str = "running"


def get_turn(conn: Connection, turn_id: str) -> TurnRow | None:
    """The turn with that id, or None."""
    row = conn.execute(select(*TurnRow.columns(turns)).where(turns.c.id == turn_id)).one_or_none()
    return TurnRow.of(row) if row else None


def lock_turn(conn: Connection, turn_id: str) -> TurnRow | None:
    """The turn with that id, locked until the transaction ends: it gets no record and no lease meanwhile.

    The conversation must be locked.
    """
    row = conn.execute(
        select(*TurnRow.columns(turns)).where(turns.c.id == turn_id).with_for_update(key_share=True)
    ).one_or_none()
    return TurnRow.of(row) if row else None


def live_turns(conn: Connection, conversation_id: str) -> list[TurnRow]:
    """The conversation's running turn, if any, and then its queued ones in order."""
    rows = conn.execute(
        select(*TurnRow.columns(turns))
        .where(turns.c.conversation_id == conversation_id, turns.c.status.in_(("running", "queued")))
        .order_by(turns.c.status.desc(), turns.c.number)
    )
    return [TurnRow.of(row) for row in rows]


def latest_turn(conn: Connection, conversation_id: str) -> TurnRow | None:
    """The conversation's newest turn."""
    row = conn.execute(
        select(*TurnRow.columns(turns))
        .where(turns.c.conversation_id == conversation_id)
        .order_by(turns.c.number.desc())
        .limit(1)
    ).one_or_none()
    return TurnRow.of(row) if row else None


def turn_of_answer(conn: Connection, conversation_id: str, message_id: str) -> TurnRow | None:
    """The turn whose answer has that id."""
    row = conn.execute(
        select(*TurnRow.columns(turns)).where(
            turns.c.conversation_id == conversation_id, turns.c.message_id == message_id
        )
    ).one_or_none()
    return TurnRow.of(row) if row else None


def list_turns(conn: Connection, *, limit: int, status: str | None = None) -> list[TurnRow]:
    """The newest turns of all conversations."""
    query = select(*TurnRow.columns(turns)).order_by(turns.c.created_at.desc(), turns.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(turns.c.status == status)
    return [TurnRow.of(row) for row in conn.execute(query)]


def create_turn(
    conn: Connection, *, turn_id: str, conversation_id: str, number: int, message_id: str, kind: str, metadata: bytes
) -> TurnRow:
    """A new turn, `queued`. The conversation must be locked."""
    conn.execute(
        insert(turns).values(
            id=turn_id,
            conversation_id=conversation_id,
            number=number,
            message_id=message_id,
            kind=kind,
            status="queued",
            metadata=metadata,
            created_at=store_now(),
        )
    )
    turn = get_turn(conn, turn_id)
    if turn is None:
        raise LookupError(turn_id)
    return turn


def claim(conn: Connection, turn: TurnRow, owner: str, lease_s: float) -> Claim:
    """Makes `owner` the owner of a queued turn, or of one whose owner is gone; the epoch grows by one.

    Raises `Fenced` if the turn moved on since `turn` was read, or has its end.
    """
    if turn.status == "finished":
        raise Fenced(turn.id)
    changed = conn.execute(
        update(turns)
        .where(turns.c.id == turn.id, turns.c.epoch == turn.epoch, turns.c.status == turn.status)
        .values(
            status="running",
            epoch=turns.c.epoch + 1,
            owner=owner,
            lease_until=store_now() + lease_s,
            started_at=func.coalesce(turns.c.started_at, store_now()),
        )
    )
    if changed.rowcount != 1:
        raise Fenced(turn.id)
    mine = get_turn(conn, turn.id)
    if mine is None:
        raise LookupError(turn.id)
    return Claim(mine, mine.epoch)


def claim_next(conn: Connection, conversation_id: str, owner: str, lease_s: float) -> Claim | None:
    """Claims the conversation's oldest queued turn unless one runs. The conversation must be locked."""
    waiting = live_turns(conn, conversation_id)
    if not waiting or waiting[0].status == "running":
        return None
    claimed = claim(conn, waiting[0], owner, lease_s)
    touch(conn, conversation_id)
    return claimed


def renew(conn: Connection, owned: Sequence[tuple[str, int]], lease_s: float) -> dict[str, str | None]:
    """Renews the leases of `(turn id, epoch)` pairs that still stand.

    Returns for each of those who asked for it to stop, or None; a pair that is missing was fenced.
    """
    epochs = dict(owned)
    rows = conn.execute(
        select(turns.c.id, turns.c.epoch, turns.c.stop_requested_at, turns.c.stop_requested_by)
        .where(turns.c.id.in_(list(epochs)), turns.c.status == "running")
        .order_by(turns.c.id)
        .with_for_update(key_share=True)
    ).all()
    standing = [row for row in rows if epochs[row.id] == row.epoch]
    if standing:
        conn.execute(
            update(turns).where(turns.c.id.in_([row.id for row in standing])).values(lease_until=store_now() + lease_s)
        )
    return {row.id: (row.stop_requested_by or "") if row.stop_requested_at is not None else None for row in standing}


def set_stop(conn: Connection, turn_id: str, by: str) -> None:
    """Records, once, that a person wants the turn to stop. Needs no epoch."""
    conn.execute(
        update(turns)
        .where(turns.c.id == turn_id, turns.c.status != "finished", turns.c.stop_requested_at.is_(None))
        .values(stop_requested_at=store_now(), stop_requested_by=by)
    )


def end_turn(conn: Connection, ending: Ending, *, next_owner: str | None, lease_s: float) -> Claim | None:
    """Ends a turn with its last records, its answer and its outcome, all or nothing.

    With `next_owner`, the conversation's next queued turn is claimed in the same transaction and returned.
    Raises `Fenced` when the turn is no longer at exactly this epoch and head.
    """
    turn = ending.turn
    lock_conversation(conn, turn.conversation_id)
    changed = conn.execute(
        update(turns)
        .where(
            turns.c.id == turn.id,
            turns.c.epoch == ending.epoch,
            turns.c.head == ending.head,
            turns.c.status == ending.status,
        )
        .values(
            head=turns.c.head + ending.count,
            epoch=turns.c.epoch + (1 if ending.status == "queued" else 0),
            status="finished",
            started_at=func.coalesce(turns.c.started_at, store_now()),
            outcome=ending.outcome,
            # It may be the message of any exception; PostgreSQL takes no NUL, neither takes half a character.
            reason=None if ending.reason is None else clean_text(ending.reason),
            replay=ending.replay,
            lease_until=None,
            ended_at=store_now(),
        )
    )
    if changed.rowcount != 1:
        raise Fenced(turn.id)
    conn.execute(
        insert(chunks).values(turn_id=turn.id, first_seq=ending.head, count=ending.count, payload=ending.payload)
    )
    save_turn_answer(conn, turn, ending.answer)
    touch(conn, turn.conversation_id)
    return claim_next(conn, turn.conversation_id, next_owner, lease_s) if next_owner else None


def save_turn_answer(conn: Connection, turn: TurnRow, content: bytes) -> None:
    """Saves what the turn has answered so far into history."""
    hidden = conn.execute(select(turns.c.superseded_by).where(turns.c.id == turn.id)).scalar_one()
    save_answer(
        conn,
        turn_id=turn.id,
        conversation_id=turn.conversation_id,
        turn_number=turn.number,
        message_id=turn.message_id,
        content=content,
        superseded_by=hidden,
    )


def save_history(conn: Connection, answers: Sequence[tuple[TurnRow, int, bytes]]) -> None:
    """Saves the answers of running turns as `(turn, epoch, content)`; a fenced one is left out."""
    for turn, epoch, content in sorted(answers, key=lambda answer: answer[0].id):
        stands = conn.execute(
            select(turns.c.id)
            .where(turns.c.id == turn.id, turns.c.epoch == epoch, turns.c.status == "running")
            .with_for_update(key_share=True)
        ).one_or_none()
        if stands is not None:
            save_turn_answer(conn, turn, content)


def expired(conn: Connection, *, spare: Sequence[str] = (), limit: int = 100) -> list[TurnRow]:
    """Running turns whose lease has ended, except those in `spare`."""
    rows = conn.execute(
        select(*TurnRow.columns(turns))
        .where(turns.c.status == "running", turns.c.lease_until < store_now(), turns.c.id.not_in(spare))
        .order_by(turns.c.lease_until)
        .limit(limit)
    )
    return [TurnRow.of(row) for row in rows]


def running(conn: Connection) -> list[TurnRow]:
    """All running turns."""
    return [TurnRow.of(row) for row in conn.execute(select(*TurnRow.columns(turns)).where(turns.c.status == "running"))]


def lease_ended(conn: Connection, turn_id: str, epoch: int) -> bool:
    """Whether the turn still runs under `epoch` with a lease that has ended."""
    return (
        conn.execute(
            select(turns.c.id).where(
                turns.c.id == turn_id,
                turns.c.epoch == epoch,
                turns.c.status == "running",
                turns.c.lease_until < store_now(),
            )
        ).one_or_none()
        is not None
    )


def stranded(conn: Connection, *, limit: int = 100) -> list[str]:
    """Conversations that have a queued turn and none running: somebody must take the next."""
    other = turns.alias()
    rows = conn.execute(
        select(turns.c.conversation_id)
        .where(
            turns.c.status == "queued",
            ~exists().where(other.c.conversation_id == turns.c.conversation_id, other.c.status == "running"),
        )
        .distinct()
        .limit(limit)
    )
    return list(rows.scalars())


def heads(conn: Connection, turn_ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """How far each turn has come: `(head, status)`."""
    rows = conn.execute(select(turns.c.id, turns.c.head, turns.c.status).where(turns.c.id.in_(turn_ids)))
    return {row.id: (row.head, row.status) for row in rows}


def versions(conn: Connection, conversation_ids: Sequence[str]) -> dict[str, int]:
    """The change counter of each conversation."""
    rows = conn.execute(
        select(conversations.c.id, conversations.c.version).where(conversations.c.id.in_(conversation_ids))
    )
    return {row.id: row.version for row in rows}


def answer_of(conn: Connection, turn_id: str) -> bytes | None:
    """The saved answer of a turn, hidden or not."""
    return conn.execute(
        select(messages.c.content).where(messages.c.turn_id == turn_id, messages.c.role == "assistant")
    ).scalar_one_or_none()
