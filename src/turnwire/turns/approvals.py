"""Answering approvals: the first answer starts the turn that goes on with the message.

Guarantee: an approval has one answer, however many people answer at once and however often; a later one gets what was
recorded. Once everything that a turn asked for is answered, one turn goes on with its message: created in the
transaction of the last answer.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from ..store.queries import approvals as q
from ..store.queries.conversations import get_conversation, lock_conversation, touch
from ..store.queries.deliveries import show_turn
from ..store.queries.rows import Conversation, OperationRow, TurnRow
from ..store.queries.turns import Claim, claim_next, create_turn, get_turn
from .admission import Refused


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A person's answer to one approval. `turn_id` names the turn that it may start."""

    approval: str
    channel: str
    owner: str
    approved: bool
    reason: str | None = None
    by: str
    turn_id: str


class Answered(msgspec.Struct, frozen=True):
    """What became of an answer.

    `first` says whether it counted. `turn` is the turn that goes on, None while other approvals of the same turn are
    open, or if none will.
    """

    approval: OperationRow
    first: bool
    conversation: Conversation
    turn: TurnRow | None
    claims: list[Claim] = []


def answer(conn: Connection, given: Answer, *, process: str, lease_s: float) -> Answered:
    """Records an answer. Raises `Refused`."""
    row = q.find_approval(conn, given.approval)
    conversation = get_conversation(conn, row.conversation_id) if row is not None else None
    if (
        row is None
        or conversation is None
        or (conversation.channel, conversation.owner) != (given.channel, given.owner)
    ):
        raise Refused("no_such_approval", "there is no such approval; while its turn still runs, wait for its end")
    lock_conversation(conn, conversation.id)
    if row.resolved_at is None:
        q.deny(conn, [late for late in q.expired_approvals(conn) if late.conversation_id == conversation.id], q.EXPIRED)
    row = _again(conn, row)
    if row.resolved_at is not None:
        turn = get_turn(conn, row.next_turn_id) if row.next_turn_id else None
        return Answered(row, False, conversation, turn)
    q.resolve(conn, row, approved=given.approved, reason=given.reason or None, by=given.by)
    asked = q.asked_by(conn, row.turn_id)
    turn, claims = None, list[Claim]()
    if all(one.resolved_at is not None for one in asked):
        turn, claims = _go_on(conn, asked, given.turn_id, process, lease_s)
    conversation = touch(conn, conversation.id)
    return Answered(_again(conn, row), True, conversation, turn, claims)


def _go_on(
    conn: Connection, asked: list[OperationRow], turn_id: str, process: str, lease_s: float
) -> tuple[TurnRow, list[Claim]]:
    before = get_turn(conn, asked[0].turn_id)
    if before is None:
        raise LookupError(f"the turn {asked[0].turn_id!r} of an approval is gone")
    conversation = touch(conn, before.conversation_id, turns=1)
    turn = create_turn(
        conn,
        turn_id=turn_id,
        conversation_id=conversation.id,
        number=conversation.turns - 1,
        message_id=before.message_id,
        kind="agent",
        metadata=before.metadata,
        continues=before.continues or before.id,
        asked_by=before.asked_by,
    )
    show_turn(conn, conversation, turn.id, push=False)
    q.start_next(conn, asked, turn.id)
    claimed = claim_next(conn, conversation.id, process, lease_s)
    if claimed is not None and claimed.turn.id == turn.id:
        turn = claimed.turn
    return turn, [claimed] if claimed else []


def _again(conn: Connection, row: OperationRow) -> OperationRow:
    found = q.find_approval(conn, row.id)
    return row if found is None else found
