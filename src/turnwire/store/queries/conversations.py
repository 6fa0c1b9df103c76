"""Conversations and their messages."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ..schema import ANSWER_ORD, conversations, messages, store_now, turns
from .rows import Conversation, MessageRow

TITLE_CHARS = 80


def ensure_conversation(conn: Connection, new_id: str, channel: str, owner: str, name: str) -> Conversation:
    """The conversation of that name, made if it is new, and locked until the transaction ends."""
    make = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    conn.execute(
        make(conversations)
        .values(id=new_id, channel=channel, owner=owner, name=name, created_at=store_now(), updated_at=store_now())
        .on_conflict_do_nothing()
    )
    row = conn.execute(
        select(*Conversation.columns(conversations))
        .where(conversations.c.channel == channel, conversations.c.owner == owner, conversations.c.name == name)
        .with_for_update(key_share=True)
    ).one()
    return Conversation.of(row)


def lock_conversation(conn: Connection, conversation_id: str) -> Conversation:
    """The conversation, locked until the transaction ends. Always taken before a lock on one of its turns."""
    row = conn.execute(
        select(*Conversation.columns(conversations))
        .where(conversations.c.id == conversation_id)
        .with_for_update(key_share=True)
    ).one()
    return Conversation.of(row)


def find_conversation(conn: Connection, channel: str, owner: str, name: str) -> Conversation | None:
    """The conversation of that name, or None."""
    row = conn.execute(
        select(*Conversation.columns(conversations)).where(
            conversations.c.channel == channel, conversations.c.owner == owner, conversations.c.name == name
        )
    ).one_or_none()
    return Conversation.of(row) if row else None


def get_conversation(conn: Connection, conversation_id: str) -> Conversation:
    """The conversation with that id."""
    row = conn.execute(select(*Conversation.columns(conversations)).where(conversations.c.id == conversation_id)).one()
    return Conversation.of(row)


def list_conversations(
    conn: Connection, channel: str, owner: str, *, limit: int, before: float | None = None
) -> list[Conversation]:
    """The owner's conversations, the newest first, `limit` at most, older than `before` (seconds since 1970)."""
    query = (
        select(*Conversation.columns(conversations))
        .where(conversations.c.channel == channel, conversations.c.owner == owner)
        .order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(conversations.c.updated_at < before)
    return [Conversation.of(row) for row in conn.execute(query)]


def touch(conn: Connection, conversation_id: str) -> None:
    """Counts one visible change of the conversation."""
    conn.execute(
        update(conversations)
        .where(conversations.c.id == conversation_id)
        .values(version=conversations.c.version + 1, updated_at=store_now())
    )


def take_number(conn: Connection, conversation: Conversation) -> int:
    """The number of the conversation's next turn. The conversation must be locked."""
    conn.execute(
        update(conversations).where(conversations.c.id == conversation.id).values(turns=conversations.c.turns + 1)
    )
    return conversation.turns


def set_title(conn: Connection, conversation_id: str, title: str) -> None:
    """Names the conversation after its first message, once."""
    conn.execute(
        update(conversations)
        .where(conversations.c.id == conversation_id, conversations.c.title == "")
        .values(title=title[:TITLE_CHARS])
    )


def set_history_start(conn: Connection, conversation_id: str) -> None:
    """Agents are told nothing of what came before the newest `/new` that people see."""
    newest = select(func.max(turns.c.number)).where(
        turns.c.conversation_id == conversation_id, turns.c.kind == "new", turns.c.superseded_by.is_(None)
    )
    conn.execute(
        update(conversations)
        .where(conversations.c.id == conversation_id)
        .values(history_from=func.coalesce(newest.scalar_subquery(), 0))
    )


def add_message(
    conn: Connection, *, turn_id: str, conversation_id: str, turn_number: int, message_id: str, content: bytes
) -> None:
    """Adds an inbound message to a turn, after the ones it has."""
    taken = conn.execute(
        select(func.count()).select_from(messages).where(messages.c.turn_id == turn_id, messages.c.ord < ANSWER_ORD)
    ).scalar_one()
    conn.execute(
        insert(messages).values(
            turn_id=turn_id,
            ord=taken,
            conversation_id=conversation_id,
            turn_number=turn_number,
            message_id=message_id,
            role="user",
            content=content,
            created_at=store_now(),
        )
    )


def save_answer(
    conn: Connection,
    *,
    turn_id: str,
    conversation_id: str,
    turn_number: int,
    message_id: str,
    content: bytes,
    superseded_by: str | None,
) -> None:
    """Saves a turn's answer as it stands now, over what was saved before."""
    make = postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert
    conn.execute(
        make(messages)
        .values(
            turn_id=turn_id,
            ord=ANSWER_ORD,
            conversation_id=conversation_id,
            turn_number=turn_number,
            message_id=message_id,
            role="assistant",
            content=content,
            superseded_by=superseded_by,
            created_at=store_now(),
        )
        .on_conflict_do_update(index_elements=["turn_id", "ord"], set_={"content": content})
    )


def visible_message(conn: Connection, conversation_id: str, message_id: str) -> MessageRow | None:
    """The message that people see under that id."""
    row = conn.execute(
        select(*MessageRow.columns(messages)).where(
            messages.c.conversation_id == conversation_id,
            messages.c.message_id == message_id,
            messages.c.superseded_by.is_(None),
        )
    ).one_or_none()
    return MessageRow.of(row) if row else None


def last_answer(conn: Connection, conversation_id: str) -> MessageRow | None:
    """The newest answer of an agent that people see."""
    row = conn.execute(
        select(*MessageRow.columns(messages))
        .join(turns, turns.c.id == messages.c.turn_id)
        .where(
            messages.c.conversation_id == conversation_id,
            messages.c.role == "assistant",
            messages.c.superseded_by.is_(None),
            turns.c.kind == "agent",
        )
        .order_by(messages.c.turn_number.desc())
        .limit(1)
    ).one_or_none()
    return MessageRow.of(row) if row else None


def supersede_from(conn: Connection, conversation_id: str, number: int, order: int, by: str) -> None:
    """Hides every message from place (`number`, `order`) on: the turn `by` stands in their stead. They are kept."""
    # The turns first: an answer that is being saved now is then either here to be hidden, or learns that it is.
    conn.execute(
        update(turns)
        .where(turns.c.conversation_id == conversation_id, turns.c.number >= number, turns.c.id != by)
        .where(turns.c.superseded_by.is_(None))
        .values(superseded_by=by)
    )
    conn.execute(
        update(messages)
        .where(
            messages.c.conversation_id == conversation_id,
            messages.c.superseded_by.is_(None),
            or_(messages.c.turn_number > number, and_(messages.c.turn_number == number, messages.c.ord >= order)),
        )
        .values(superseded_by=by)
    )
    set_history_start(conn, conversation_id)


def read_messages(conn: Connection, conversation_id: str, *, skip_turns: Sequence[str] = ()) -> list[MessageRow]:
    """What people see of a conversation, in order; answers of `skip_turns` are left out."""
    query = (
        select(*MessageRow.columns(messages))
        .where(messages.c.conversation_id == conversation_id, messages.c.superseded_by.is_(None))
        .order_by(messages.c.turn_number, messages.c.ord)
    )
    if skip_turns:
        query = query.where(or_(messages.c.role == "user", messages.c.turn_id.not_in(skip_turns)))
    return [MessageRow.of(row) for row in conn.execute(query)]


def read_context(conn: Connection, conversation_id: str, number: int) -> list[MessageRow]:
    """What the agent of turn `number` is told: visible messages up to its own, without commands and their answers."""
    since = select(conversations.c.history_from).where(conversations.c.id == conversation_id).scalar_subquery()
    return [
        MessageRow.of(row)
        for row in conn.execute(
            select(*MessageRow.columns(messages))
            .join(turns, turns.c.id == messages.c.turn_id)
            .where(
                messages.c.conversation_id == conversation_id,
                messages.c.superseded_by.is_(None),
                turns.c.kind == "agent",
                messages.c.turn_number >= since,
                or_(
                    messages.c.turn_number < number,
                    and_(messages.c.turn_number == number, messages.c.ord < ANSWER_ORD),
                ),
            )
            .order_by(messages.c.turn_number, messages.c.ord)
        )
    ]


def turn_input(conn: Connection, turn_id: str) -> list[MessageRow]:
    """The inbound messages of one turn, in order."""
    return [
        MessageRow.of(row)
        for row in conn.execute(
            select(*MessageRow.columns(messages))
            .where(messages.c.turn_id == turn_id, messages.c.ord < ANSWER_ORD)
            .order_by(messages.c.ord)
        )
    ]
