"""Deliveries: which turn is shown where, driven by one process at a time.

Guarantee: only the holder of a delivery's newest epoch changes what is known of it; an intent is stored with the state
it changes, in one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ..schema import conversations, deliveries, receipts, store_now, turns
from .rows import Conversation, DeliveryRow, Fenced, ReceiptRow

_COLUMNS = DeliveryRow.columns(deliveries)
_CREATE = insert(deliveries).values(status="open", created_at=store_now())
_SAVE = (
    update(deliveries)
    .where(
        deliveries.c.id == bindparam("delivery"),
        deliveries.c.epoch == bindparam("seen_epoch"),
        deliveries.c.status == "open",
    )
    .values(state=bindparam("known"))
)
_INSERT: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_ATTEMPT = insert(receipts).values(status="attempted", attempted_at=store_now())


class Attempt(msgspec.Struct, frozen=True):
    """An act that is about to be tried, the `attempt`-th time from 0."""

    key: str
    attempt: int
    kind: str
    digest: str = ""


def show_turn(conn: Connection, conversation: Conversation, turn_id: str, *, push: bool) -> None:
    """Orders a new turn to be shown at its conversation's reply target, if it has one.

    Args:
        push: no message waits for the answer.
    """
    if conversation.target is None:
        return
    conn.execute(
        _CREATE,
        {
            "id": delivery_id(turn_id),
            "turn_id": turn_id,
            "conversation_id": conversation.id,
            "channel": conversation.channel,
            "target": conversation.target,
            "push": int(push),
        },
    )


def delivery_id(turn_id: str) -> str:
    """The name of a turn's delivery."""
    return f"dlv_{turn_id.removeprefix('turn_')}"


def aim(conn: Connection, turn_id: str, target: bytes) -> None:
    """A newer inbound is answered by this turn: shows it there, unless it is shown already."""
    conn.execute(
        update(deliveries)
        .where(deliveries.c.turn_id == turn_id, deliveries.c.state.is_(None), deliveries.c.status == "open")
        .values(target=target)
    )


def claim_deliveries(
    conn: Connection,
    channels: Sequence[str],
    owner: str,
    lease_s: float,
    *,
    limit: int,
    alone: bool,
    mine: Sequence[str] = (),
) -> list[DeliveryRow]:
    """Makes `owner` the owner of open deliveries that nobody drives, the oldest first; each epoch grows by one.

    Args:
        channels: whose deliveries can be driven here.
        alone: no other process is on the store, so that a delivery of another owner has none.
        mine: deliveries that this process drives already.
    """
    found = list(
        conn.execute(
            select(deliveries.c.id)
            .where(_free(channels, owner, alone=alone, mine=mine))
            .order_by(deliveries.c.created_at, deliveries.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        ).scalars()
    )
    if not found:
        return []
    rows = conn.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(found))
        .values(owner=owner, epoch=deliveries.c.epoch + 1, lease_until=store_now() + lease_s)
        .returning(*_COLUMNS)
    )
    return sorted((DeliveryRow.of(row) for row in rows), key=lambda row: (row.created_at, row.id))


def any_free(conn: Connection, channels: Sequence[str], owner: str, *, alone: bool, mine: Sequence[str] = ()) -> bool:
    """Whether `claim_deliveries` would find one; it only reads."""
    query = select(deliveries.c.id).where(_free(channels, owner, alone=alone, mine=mine)).limit(1)
    return conn.execute(query).first() is not None


def _free(channels: Sequence[str], owner: str, *, alone: bool, mine: Sequence[str]) -> ColumnElement[bool]:
    free: ColumnElement[bool] = or_(deliveries.c.owner.is_(None), deliveries.c.lease_until < store_now())
    if alone:
        free = or_(free, and_(deliveries.c.owner != owner, deliveries.c.owner != ""))
    return and_(
        deliveries.c.status == "open",
        deliveries.c.channel.in_(list(channels)),
        deliveries.c.id.not_in(list(mine)),
        free,
    )


def renew_deliveries(conn: Connection, owned: Sequence[tuple[str, int]], lease_s: float) -> set[str]:
    """Renews the leases of `(delivery id, epoch)` pairs; returns the ids of those that still stand."""
    return {
        own
        for own, epoch in sorted(owned)
        if conn.execute(update(deliveries).where(_owned(own, epoch)).values(lease_until=store_now() + lease_s)).rowcount
    }


def release_delivery(conn: Connection, own: str, epoch: int) -> None:
    """Gives an unsettled delivery back: whoever looks next goes on with it."""
    conn.execute(update(deliveries).where(_owned(own, epoch)).values(owner=None, lease_until=None))


def put_off(conn: Connection, own: str, epoch: int, seconds: float) -> None:
    """Nobody takes the delivery for that long; the lease of a courier that failed stands for that."""
    conn.execute(update(deliveries).where(_owned(own, epoch)).values(lease_until=store_now() + seconds, owner=""))


def save_state(conn: Connection, own: str, epoch: int, state: bytes, attempt: Attempt | None = None) -> None:
    """Keeps what is known, and with it the intent to act. Raises `Fenced`."""
    if not conn.execute(_SAVE, {"delivery": own, "seen_epoch": epoch, "known": state}).rowcount:
        raise Fenced(own)
    if attempt is not None:
        conn.execute(_ATTEMPT, {"delivery_id": own, **msgspec.structs.asdict(attempt)})


def next_attempt(conn: Connection, own: str, key: str) -> int:
    """How often the act of that key was tried."""
    return len(
        conn.execute(select(receipts.c.attempt).where(receipts.c.delivery_id == own, receipts.c.key == key)).all()
    )


def save_receipt(
    conn: Connection, own: str, epoch: int, state: bytes, attempt: Attempt, status: str, reason: str
) -> None:
    """Keeps what an act came to, and what is known since. Raises `Fenced`."""
    save_state(conn, own, epoch, state)
    conn.execute(
        update(receipts)
        .where(receipts.c.delivery_id == own, receipts.c.key == attempt.key, receipts.c.attempt == attempt.attempt)
        .values(status=status, reason=reason, received_at=store_now())
    )


def note_asked(conn: Connection, own: str, key: str, kind: str) -> None:
    """Keeps, once, that the platform asked for what `key` names; whoever answers it may, and needs no epoch."""
    note = {"delivery_id": own, "key": key, "attempt": 0, "kind": kind, "digest": "", "status": "confirmed"}
    conn.execute(
        _INSERT[conn.dialect.name](receipts)
        .values(**note, attempted_at=store_now(), received_at=store_now())
        .on_conflict_do_nothing(index_elements=["delivery_id", "key", "attempt"])
    )


def was_asked(conn: Connection, own: str, key: str) -> bool:
    """Whether `note_asked` was called for that."""
    query = select(receipts.c.attempt).where(receipts.c.delivery_id == own, receipts.c.key == key)
    return conn.execute(query.limit(1)).first() is not None


def states_at(conn: Connection, row: DeliveryRow) -> list[bytes | None]:
    """What is known of the other deliveries that were aimed at the same message."""
    query = select(deliveries.c.state).where(
        deliveries.c.conversation_id == row.conversation_id,
        deliveries.c.target == row.target,
        deliveries.c.id != row.id,
    )
    return list(conn.execute(query).scalars())


def settle_delivery(
    conn: Connection, own: str, epoch: int, state: bytes, outcome: str, reason: str | None, *, revision: int
) -> bool:
    """Nothing more is to be done; False, and nothing is written, if what is to be shown changed since `revision`.

    Raises `Fenced`.
    """
    save_state(conn, own, epoch, state)
    changed = conn.execute(
        update(deliveries)
        .where(_owned(own, epoch), deliveries.c.revision == revision)
        .values(
            status="settled",
            state=state,
            outcome=outcome,
            reason=reason,
            owner=None,
            lease_until=None,
            settled_at=store_now(),
        )
    )
    return bool(changed.rowcount)


def hold_delivery(conn: Connection, row: DeliveryRow, state: bytes, reason: str) -> None:
    """Nothing can be shown there until somebody writes again: nobody drives the delivery until then.

    If somebody has, it is free to be shown at that message. Raises `Fenced`.
    """
    newest = lock_target(conn, row.conversation_id)
    save_state(conn, row.id, row.epoch, state)
    change: dict[str, Any] = {"status": "held", "reason": reason}
    if newest is not None and newest != row.target:
        change = {"target": newest, "push": 0}
    conn.execute(
        update(deliveries).where(_owned(row.id, row.epoch)).values(state=state, owner=None, lease_until=None, **change)
    )


def lock_target(conn: Connection, conversation_id: str) -> bytes | None:
    """The reply target of a conversation, which stays so until the transaction ends."""
    query = select(conversations.c.target).where(conversations.c.id == conversation_id)
    target: bytes | None = conn.execute(query.with_for_update(key_share=True)).scalar_one()
    return target


def release_held(conn: Connection, conversation_id: str, target: bytes) -> None:
    """Somebody has written in the conversation: what is held there is shown at that message."""
    conn.execute(
        update(deliveries)
        .where(deliveries.c.conversation_id == conversation_id, deliveries.c.status == "held")
        .values(status="open", reason=None, target=target, push=0, revision=deliveries.c.revision + 1)
    )


def save_feedback(conn: Connection, own: str, feedback: bytes) -> bool:
    """Keeps what a person thought of an answer; the newest counts. False if there is no such delivery."""
    return bool(conn.execute(update(deliveries).where(deliveries.c.id == own).values(feedback=feedback)).rowcount)


def reopen(conn: Connection, turn_ids: Sequence[str]) -> None:
    """What deliveries have to show has changed otherwise than by the journal: an approval was answered."""
    conn.execute(
        update(deliveries)
        .where(deliveries.c.turn_id.in_(list(turn_ids)))
        .values(status="open", outcome=None, reason=None, settled_at=None, revision=deliveries.c.revision + 1)
    )


def find_delivery(conn: Connection, own: str) -> DeliveryRow | None:
    """The delivery of that id, or None."""
    row = conn.execute(select(*_COLUMNS).where(deliveries.c.id == own)).one_or_none()
    return DeliveryRow.of(row) if row else None


def deliveries_of(conn: Connection, turn_id: str) -> list[DeliveryRow]:
    """Where a turn is shown."""
    rows = conn.execute(select(*_COLUMNS).where(deliveries.c.turn_id == turn_id).order_by(deliveries.c.channel))
    return [DeliveryRow.of(row) for row in rows]


def earlier_states(conn: Connection, row: DeliveryRow) -> list[bytes | None]:
    """What is known of the open deliveries, on the same channel, of earlier turns of a conversation."""
    own = select(turns.c.number).where(turns.c.id == row.turn_id).scalar_subquery()
    query = (
        select(deliveries.c.state)
        .join(turns, turns.c.id == deliveries.c.turn_id)
        .where(
            deliveries.c.status == "open",
            deliveries.c.channel == row.channel,
            deliveries.c.conversation_id == row.conversation_id,
            turns.c.number < own,
        )
    )
    return list(conn.execute(query).scalars())


def list_deliveries(conn: Connection, *, limit: int, unsettled: bool = False) -> list[DeliveryRow]:
    """The newest deliveries of all channels; with `unsettled`, those that are open, held or not wholly shown."""
    query = select(*_COLUMNS).order_by(deliveries.c.created_at.desc(), deliveries.c.id.desc()).limit(limit)
    if unsettled:
        query = query.where(or_(deliveries.c.status != "settled", deliveries.c.outcome != "shown"))
    return [DeliveryRow.of(row) for row in conn.execute(query)]


def forget_receipts(conn: Connection, age_s: float, *, limit: int = 200) -> int:
    """Removes the receipts of deliveries that were wholly shown and whose receipts are older than `age_s` seconds.

    Of `limit` deliveries at most; returns how many receipts there were.
    """
    old = (
        select(receipts.c.delivery_id)
        .join(deliveries, deliveries.c.id == receipts.c.delivery_id)
        .where(receipts.c.attempted_at < store_now() - age_s)
        .where(deliveries.c.status == "settled", deliveries.c.outcome == "shown")
        .distinct()
        .limit(limit)
    )
    chosen = list(conn.execute(old).scalars())
    return conn.execute(delete(receipts).where(receipts.c.delivery_id.in_(chosen))).rowcount if chosen else 0


def receipts_of(conn: Connection, own: str) -> list[ReceiptRow]:
    """Every receipt of a delivery, in the order of the attempts."""
    query = select(*ReceiptRow.columns(receipts)).where(receipts.c.delivery_id == own)
    return [
        ReceiptRow.of(row)
        for row in conn.execute(query.order_by(receipts.c.attempted_at, receipts.c.key, receipts.c.attempt))
    ]


def _owned(own: str, epoch: int) -> ColumnElement[bool]:
    return and_(deliveries.c.id == own, deliveries.c.epoch == epoch, deliveries.c.status == "open")
