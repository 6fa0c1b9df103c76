"""Approvals: what turns asked people to allow, and what was answered.

Guarantee: an approval is answered once; the message that shows the request says so from that transaction on. The
conversation must be locked for every change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, insert, select, update

from ..schema import ANSWER_ORD, messages, operations, store_now, turns
from .deliveries import reopen
from .rows import OperationRow, TurnRow

SUPERSEDED = "superseded"
EXPIRED = "expired"

_COLUMNS = OperationRow.columns(operations)
_OPEN = (
    select(*_COLUMNS)
    .where(
        operations.c.conversation_id == bindparam("conversation"),
        operations.c.kind == "approval",
        operations.c.resolved_at.is_(None),
    )
    .order_by(operations.c.id)
)


class Asked(msgspec.Struct, frozen=True):
    """One approval to be asked for: its id, the tool's name, the call as JSON, and what the agent wants back."""

    id: str
    name: str
    call: bytes
    state: bytes | None = None


def ask(conn: Connection, turn: TurnRow, asked: Sequence[Asked], keep_s: float) -> None:
    """Opens the approvals that a turn asks for; they expire after `keep_s` seconds, or never if that is 0."""
    for one in asked:
        conn.execute(
            insert(operations).values(
                id=one.id,
                kind="approval",
                conversation_id=turn.conversation_id,
                turn_id=turn.id,
                status="open",
                name=one.name,
                input=one.call,
                state=one.state,
                created_at=store_now(),
                expires_at=store_now() + keep_s if keep_s else None,
            )
        )


def find_approval(conn: Connection, approval_id: str) -> OperationRow | None:
    """The approval of that id, or None."""
    query = select(*_COLUMNS).where(operations.c.id == approval_id, operations.c.kind == "approval")
    row = conn.execute(query).one_or_none()
    return OperationRow.of(row) if row else None


def asked_by(conn: Connection, turn_id: str) -> list[OperationRow]:
    """The approvals that a turn asked for, in order."""
    query = select(*_COLUMNS).where(operations.c.turn_id == turn_id, operations.c.kind == "approval")
    return [OperationRow.of(row) for row in conn.execute(query.order_by(operations.c.id))]


def open_approvals(conn: Connection, conversation_id: str) -> list[OperationRow]:
    """The conversation's approvals that nobody has answered."""
    return [OperationRow.of(row) for row in conn.execute(_OPEN, {"conversation": conversation_id})]


def expired_approvals(conn: Connection, *, limit: int = 100) -> list[OperationRow]:
    """Approvals whose time to be answered is over."""
    query = (
        select(*_COLUMNS)
        .where(operations.c.resolved_at.is_(None), operations.c.expires_at < store_now())
        .order_by(operations.c.expires_at)
        .limit(limit)
    )
    return [OperationRow.of(row) for row in conn.execute(query)]


def resolve(conn: Connection, row: OperationRow, *, approved: bool, reason: str | None, by: str) -> None:
    """Records a person's answer; the tool call it is about is still to be answered."""
    _settle(conn, [row], approved=approved, reason=reason, by=by)
    _show(conn, row, approved=approved, reason=reason, state="approval-responded")


def deny_open(conn: Connection, conversation_id: str, reason: str) -> list[OperationRow]:
    """Denies every open approval of the conversation for good; returns them."""
    found = open_approvals(conn, conversation_id)
    deny(conn, found, reason)
    return found


def deny(conn: Connection, rows: Sequence[OperationRow], reason: str) -> None:
    """Denies open approvals for good: no turn goes on with them, their calls were never made."""
    if not rows:
        return
    _settle(conn, rows, approved=False, reason=reason, by="")
    for turn_id in sorted({row.turn_id for row in rows}):
        for row in asked_by(conn, turn_id):
            if row.next_turn_id is None:
                # One that was allowed, while its turn waited for others that now are denied, is not run either.
                _show(conn, row, approved=False, reason=row.reason or reason, state="output-denied")


def _settle(conn: Connection, rows: Sequence[OperationRow], *, approved: bool, reason: str | None, by: str) -> None:
    conn.execute(
        update(operations)
        .where(operations.c.id.in_([row.id for row in rows]), operations.c.resolved_at.is_(None))
        .values(status="resolved", approved=int(approved), reason=reason, resolved_by=by, resolved_at=store_now())
    )
    # The surface that asks shows what was answered.
    reopen(conn, sorted({row.turn_id for row in rows}))


def start_next(conn: Connection, rows: Sequence[OperationRow], turn_id: str) -> None:
    """Ties answered approvals to the turn that goes on with them."""
    chosen = operations.c.id.in_([row.id for row in rows])
    conn.execute(update(operations).where(chosen).values(next_turn_id=turn_id))


def reports_job(conn: Connection, turn_id: str) -> bool:
    """Whether a turn was started by a background job, not by a person."""
    query = select(operations.c.id).where(operations.c.next_turn_id == turn_id, operations.c.kind == "job")
    return conn.execute(query).first() is not None


def earlier_turns(conn: Connection, turn: TurnRow) -> list[TurnRow]:
    """The turns whose message `turn` goes on with, in order."""
    if turn.continues is None:
        return []
    rows = conn.execute(
        select(*TurnRow.columns(turns))
        .where((turns.c.id == turn.continues) | (turns.c.continues == turn.continues), turns.c.number < turn.number)
        .order_by(turns.c.number)
    )
    return [TurnRow.of(row) for row in rows]


def answered_for(conn: Connection, turn: TurnRow) -> list[OperationRow]:
    """The answered approvals that `turn` goes on with, in order."""
    query = select(*_COLUMNS).where(operations.c.next_turn_id == turn.id, operations.c.kind == "approval")
    return [OperationRow.of(row) for row in conn.execute(query.order_by(operations.c.id))]


def _show(conn: Connection, row: OperationRow, *, approved: bool, reason: str | None, state: str) -> None:
    """Writes an answer into the message that shows the request."""

    def mark(part: dict[str, Any]) -> None:
        part["state"] = state
        part["approval"] = {"id": row.id, "approved": approved} | ({"reason": reason} if reason else {})

    _change_part(conn, row, mark)


def _change_part(conn: Connection, row: OperationRow, change: Callable[[dict[str, Any]], None]) -> None:
    own = turns.alias()
    root = select(turns.c.id).where(turns.c.id == row.turn_id, turns.c.continues.is_(None))
    continued = select(own.c.continues).where(own.c.id == row.turn_id, own.c.continues.is_not(None))
    place = messages.c.turn_id.in_(root.union(continued)) & (messages.c.ord == ANSWER_ORD)
    content = conn.execute(select(messages.c.content).where(place)).scalar_one_or_none()
    if content is None:
        return
    message = msgspec.json.decode(content)
    for part in message.get("parts", ()):
        if isinstance(part.get("approval"), dict) and part["approval"].get("id") == row.id:
            change(part)
    conn.execute(update(messages).where(place).values(content=msgspec.json.encode(message)))
