"""Turns: created, claimed, kept alive, ended. Every write of a running turn names its epoch.

Locks are taken in one order on PostgreSQL: the conversation, then turns by id.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, bindparam, case, exists, func, insert, select, update

from ...sanitize import clean_text
from ..schema import chunks, conversations, messages, store_now, turns
from .approvals import SUPERSEDED, Asked, ask, deny_open, reports_job
from .conversations import lock_conversation, move_messages, save_answer, steered_messages, touch
from .deliveries import show_turn
from .inbound import move_inbound
from .rows import Fenced as Fenced
from .rows import TurnRow

_COLUMNS = TurnRow.columns(turns)
_GET = select(*_COLUMNS).where(turns.c.id == bindparam("turn"))
_LOCK = _GET.with_for_update(key_share=True)
_LIVE = (
    select(*_COLUMNS)
    .where(turns.c.conversation_id == bindparam("conversation"), turns.c.status.in_(("running", "queued")))
    .order_by(turns.c.status.desc(), turns.c.number)
)
_OF_ANSWER = select(*_COLUMNS).where(
    turns.c.conversation_id == bindparam("conversation"),
    turns.c.message_id == bindparam("message"),
    turns.c.continues.is_(None),
)
_CREATE = insert(turns).values(status="queued", created_at=store_now()).returning(*_COLUMNS)
_CLAIM = (
    update(turns)
    .where(
        turns.c.id == bindparam("turn"), turns.c.epoch == bindparam("seen_epoch"), turns.c.status == bindparam("seen")
    )
    .values(
        status="running",
        epoch=turns.c.epoch + 1,
        owner=bindparam("new_owner"),
        lease_until=store_now() + bindparam("lease_s", type_=turns.c.lease_until.type),
        started_at=func.coalesce(turns.c.started_at, store_now()),
    )
    .returning(*_COLUMNS)
)
_ADD_RUN = insert(chunks)
_END = (
    update(turns)
    .where(
        turns.c.id == bindparam("turn"),
        turns.c.epoch == bindparam("seen_epoch"),
        turns.c.head == bindparam("seen_head"),
        turns.c.status == bindparam("seen"),
    )
    .values(
        head=turns.c.head + bindparam("more", type_=turns.c.head.type),
        epoch=turns.c.epoch + case((turns.c.status == "queued", 1), else_=0),
        status="finished",
        started_at=func.coalesce(turns.c.started_at, store_now()),
        outcome=bindparam("how"),
        reason=bindparam("why"),
        replay=bindparam("fold"),
        lease_until=None,
        ended_at=store_now(),
    )
    .returning(turns.c.steered)
)
_STEER = update(turns).where(turns.c.id == bindparam("turn")).values(steered=turns.c.steered + 1)


class Claim(msgspec.Struct, frozen=True):
    """The right to run one turn: nobody else can write to it until the epoch grows."""

    turn: TurnRow
    epoch: int


class Ending(msgspec.Struct, frozen=True):
    """The last write of a turn: its remaining records, its outcome and its answer, in one transaction.

    `status` is what the turn must still be: `running`, or `queued` for one that nobody ran.
    `taken` are the messages that its agent took while it ran; the others become the next turn. `asked` are the
    approvals that it waits for, for `keep_s` seconds.
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
    taken: Sequence[str] = ()
    asked: Sequence[Asked] = ()
    keep_s: float = 0.0


def get_turn(conn: Connection, turn_id: str) -> TurnRow | None:
    """The turn with that id, or None."""
    row = conn.execute(_GET, {"turn": turn_id}).one_or_none()
    return TurnRow.of(row) if row else None


def lock_turn(conn: Connection, turn_id: str) -> TurnRow | None:
    """The turn with that id, locked until the transaction ends: it gets no record and no lease meanwhile.

    The conversation must be locked.
    """
    row = conn.execute(_LOCK, {"turn": turn_id}).one_or_none()
    return TurnRow.of(row) if row else None


def live_turns(conn: Connection, conversation_id: str) -> list[TurnRow]:
    """The conversation's running turn, if any, and then its queued ones in order."""
    return [TurnRow.of(row) for row in conn.execute(_LIVE, {"conversation": conversation_id})]


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
    row = conn.execute(_OF_ANSWER, {"conversation": conversation_id, "message": message_id}).one_or_none()
    return TurnRow.of(row) if row else None


def list_turns(conn: Connection, *, limit: int, status: str | None = None) -> list[TurnRow]:
    """The newest turns of all conversations."""
    query = select(*TurnRow.columns(turns)).order_by(turns.c.created_at.desc(), turns.c.id.desc()).limit(limit)
    if status is not None:
        query = query.where(turns.c.status == status)
    return [TurnRow.of(row) for row in conn.execute(query)]


def create_turn(
    conn: Connection,
    *,
    turn_id: str,
    conversation_id: str,
    number: int,
    message_id: str,
    kind: str,
    metadata: bytes,
    continues: str | None = None,
    asked_by: str | None = None,
) -> TurnRow:
    """A new turn, `queued`; it goes on with the message of the turn `continues`. The conversation must be locked."""
    row = conn.execute(
        _CREATE,
        {
            "id": turn_id,
            "conversation_id": conversation_id,
            "number": number,
            "message_id": message_id,
            "kind": kind,
            "metadata": metadata,
            "continues": continues,
            "asked_by": asked_by,
        },
    ).one()
    return TurnRow.of(row)


def claim(conn: Connection, turn: TurnRow, owner: str, lease_s: float) -> Claim:
    """Makes `owner` the owner of a queued turn, or of one whose owner is gone; the epoch grows by one.

    Raises `Fenced` if the turn moved on since `turn` was read, or has its end.
    """
    if turn.status == "finished":
        raise Fenced(turn.id)
    seen = {"turn": turn.id, "seen_epoch": turn.epoch, "seen": turn.status, "new_owner": owner, "lease_s": lease_s}
    row = conn.execute(_CLAIM, seen).one_or_none()
    if row is None:
        raise Fenced(turn.id)
    mine = TurnRow.of(row)
    return Claim(mine, mine.epoch)


def claim_next(conn: Connection, conversation_id: str, owner: str, lease_s: float) -> Claim | None:
    """Claims the conversation's oldest queued turn unless one runs.

    The conversation must be locked; its change is the caller's to count.
    """
    waiting = live_turns(conn, conversation_id)
    if not waiting or waiting[0].status == "running":
        return None
    return claim(conn, waiting[0], owner, lease_s)


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
    ended = conn.execute(
        _END,
        {
            "turn": turn.id,
            "seen_epoch": ending.epoch,
            "seen_head": ending.head,
            "seen": ending.status,
            "more": ending.count,
            "how": ending.outcome,
            # It may be the message of any exception; PostgreSQL takes no NUL, neither takes half a character.
            "why": None if ending.reason is None else clean_text(ending.reason),
            "fold": ending.replay,
        },
    ).one_or_none()
    if ended is None:
        raise Fenced(turn.id)
    run = {"turn_id": turn.id, "first_seq": ending.head, "count": ending.count, "payload": ending.payload}
    conn.execute(_ADD_RUN, run)
    save_turn_answer(conn, turn, ending.answer)
    if ended.steered:
        _hand_on(conn, turn, ending.taken)
    if ending.asked:
        ask(conn, turn, ending.asked, ending.keep_s)
        if any(not reports_job(conn, live.id) for live in live_turns(conn, turn.conversation_id)):
            # Somebody has said more already; that is not held up by a question.
            deny_open(conn, turn.conversation_id, SUPERSEDED)
    touch(conn, turn.conversation_id)
    return claim_next(conn, turn.conversation_id, next_owner, lease_s) if next_owner else None


def steer(conn: Connection, turn_id: str) -> None:
    """Counts one more message that came while the turn runs. The conversation must be locked."""
    conn.execute(_STEER, {"turn": turn_id})


def _hand_on(conn: Connection, turn: TurnRow, taken: Sequence[str]) -> None:
    """Makes what came while the turn ran, and was not taken, the conversation's next turn."""
    left = [(row, key) for row, key in steered_messages(conn, turn.id) if row.message_id not in taken]
    if not left:
        return
    conversation = touch(conn, turn.conversation_id, turns=1)
    # A turn ends once, so these names are new.
    following = create_turn(
        conn,
        turn_id=f"{turn.id}s",
        conversation_id=turn.conversation_id,
        number=conversation.turns - 1,
        message_id=f"{turn.message_id}s",
        kind="agent",
        metadata=turn.metadata,
        asked_by=turn.asked_by,
    )
    show_turn(conn, conversation, following.id, push=False)
    move_messages(conn, [row for row, _ in left], following.id, following.number)
    for _, key in left:
        move_inbound(conn, turn.conversation_id, key, following.id)


def save_turn_answer(conn: Connection, turn: TurnRow, content: bytes) -> None:
    """Saves what the turn has answered so far into history, where its message stands. The turn must be locked."""
    save_answer(
        conn,
        turn_id=turn.continues or turn.id,
        conversation_id=turn.conversation_id,
        turn_number=turn.number,
        message_id=turn.message_id,
        content=content,
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
