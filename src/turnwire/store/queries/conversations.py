"""Conversations and their messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ..schema import ANSWER_ORD, conversations, messages, store_now, turns
from .deliveries import release_held
from .rows import Conversation, MessageRow

TITLE_CHARS = 80

_MAKE: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
_COLUMNS = Conversation.columns(conversations)
_BY_ID = select(*_COLUMNS).where(conversations.c.id == bindparam("conversation"))
_BY_NAME = select(*_COLUMNS).where(
    conversations.c.channel == bindparam("channel"),
    conversations.c.owner == bindparam("owner"),
    conversations.c.name == bindparam("name"),
)
_LOCK = _BY_ID.with_for_update(key_share=True)
# A conflict changes nothing, but locks the row that is there and returns it.
_ENSURE = {
    dialect: make(conversations)
    .values(created_at=store_now(), updated_at=store_now())
    .on_conflict_do_update(index_elements=["channel", "owner", "name"], set_={"version": conversations.c.version})
    .returning(*_COLUMNS)
    for dialect, make in _MAKE.items()
}
_TOUCH = (
    update(conversations)
    .where(conversations.c.id == bindparam("conversation"))
    .values(
        turns=conversations.c.turns + bindparam("more", type_=conversations.c.turns.type),
        version=conversations.c.version + 1,
        updated_at=store_now(),
        target=func.coalesce(bindparam("aim", type_=conversations.c.target.type), conversations.c.target),
        title=case(
            (conversations.c.title == "", bindparam("heading", type_=conversations.c.title.type)),
            else_=conversations.c.title,
        ),
    )
    .returning(*_COLUMNS)
)
_ADD_MESSAGE = insert(messages).values(
    ord=select(func.count())
    .select_from(messages)
    .where(messages.c.turn_id == bindparam("its_turn"), messages.c.ord < ANSWER_ORD)
    .scalar_subquery(),
    role="user",
    created_at=store_now(),
)
_SAVE_ANSWER = {
    dialect: (
        saved := make(messages).values(
            ord=ANSWER_ORD,
            role="assistant",
            created_at=store_now(),
            superseded_by=select(turns.c.superseded_by).where(turns.c.id == bindparam("its_turn")).scalar_subquery(),
        )
    ).on_conflict_do_update(index_elements=["turn_id", "ord"], set_={"content": saved.excluded.content})
    for dialect, make in _MAKE.items()
}
_VISIBLE = select(*MessageRow.columns(messages)).where(
    messages.c.conversation_id == bindparam("conversation"),
    messages.c.message_id == bindparam("message"),
    messages.c.superseded_by.is_(None),
)
_CONTEXT = (
    select(*MessageRow.columns(messages))
    .join(turns, turns.c.id == messages.c.turn_id)
    .where(
        messages.c.conversation_id == bindparam("conversation"),
        messages.c.superseded_by.is_(None),
        turns.c.kind == "agent",
        messages.c.turn_number
        >= select(conversations.c.history_from)
        .where(conversations.c.id == bindparam("conversation"))
        .scalar_subquery(),
        or_(
            messages.c.turn_number < bindparam("number"),
            and_(messages.c.turn_number == bindparam("number"), messages.c.ord < ANSWER_ORD),
        ),
    )
    .order_by(messages.c.turn_number, messages.c.ord)
)
_INPUT = (
    select(*MessageRow.columns(messages))
    .where(messages.c.turn_id == bindparam("turn"), messages.c.ord < ANSWER_ORD, messages.c.steer_key.is_(None))
    .order_by(messages.c.ord)
)
_STEERED = (
    select(*MessageRow.columns(messages), messages.c.steer_key)
    .where(
        messages.c.turn_id == bindparam("turn"),
        messages.c.ord > bindparam("after"),
        messages.c.ord < ANSWER_ORD,
        messages.c.steer_key.is_not(None),
        messages.c.superseded_by.is_(None),
    )
    .order_by(messages.c.ord)
)


def ensure_conversation(conn: Connection, new_id: str, channel: str, owner: str, name: str) -> Conversation:
    """The conversation of that name, made if it is new, and locked until the transaction ends."""
    named = {"id": new_id, "channel": channel, "owner": owner, "name": name}
    return Conversation.of(conn.execute(_ENSURE[conn.dialect.name], named).one())


def lock_conversation(conn: Connection, conversation_id: str) -> Conversation:
    """The conversation, locked until the transaction ends. Always taken before a lock on one of its turns."""
    return Conversation.of(conn.execute(_LOCK, {"conversation": conversation_id}).one())


def find_conversation(conn: Connection, channel: str, owner: str, name: str) -> Conversation | None:
    """The conversation of that name, or None."""
    row = conn.execute(_BY_NAME, {"channel": channel, "owner": owner, "name": name}).one_or_none()
    return Conversation.of(row) if row else None


def get_conversation(conn: Connection, conversation_id: str) -> Conversation:
    """The conversation with that id."""
    return Conversation.of(conn.execute(_BY_ID, {"conversation": conversation_id}).one())


def list_conversations(
    conn: Connection, channel: str, owner: str, *, limit: int, before: float | None = None, search: str = ""
) -> list[Conversation]:
    """The owner's conversations, the newest first, `limit` at most, older than `before` (seconds since 1970).

    With `search` only those whose title holds it, in whatever case (SQLite knows cases of ASCII letters only).
    """
    query = (
        select(*Conversation.columns(conversations))
        .where(conversations.c.channel == channel, conversations.c.owner == owner)
        .order_by(conversations.c.updated_at.desc(), conversations.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(conversations.c.updated_at < before)
    if search:
        query = query.where(conversations.c.title.icontains(search, autoescape=True))
    return [Conversation.of(row) for row in conn.execute(query)]


def touch(
    conn: Connection, conversation_id: str, *, title: str = "", turns: int = 0, target: bytes | None = None
) -> Conversation:
    """Counts one visible change of the conversation and returns it as it is then.

    `title` names it, unless it has a name already. `turns` new turns are about to be created: their numbers end below
    the `turns` of what is returned. The conversation must be locked for that. `target` is its new reply target,
    where what is held is shown now.
    """
    if target is not None:
        release_held(conn, conversation_id, target)
    change = {"conversation": conversation_id, "more": turns, "heading": title[:TITLE_CHARS], "aim": target}
    return Conversation.of(conn.execute(_TOUCH, change).one())


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


def change_message(conn: Connection, turn_id: str, order: int, content: bytes) -> None:
    """Replaces the content of a message by what it named."""
    conn.execute(update(messages).where(messages.c.turn_id == turn_id, messages.c.ord == order).values(content=content))


def add_message(
    conn: Connection,
    *,
    turn_id: str,
    conversation_id: str,
    turn_number: int,
    message_id: str,
    content: bytes,
    steer_key: str | None = None,
) -> None:
    """Adds an inbound message to a turn, after the ones it has; `steer_key` is its inbound if the turn runs."""
    conn.execute(
        _ADD_MESSAGE,
        {
            "turn_id": turn_id,
            "its_turn": turn_id,
            "conversation_id": conversation_id,
            "turn_number": turn_number,
            "message_id": message_id,
            "content": content,
            "steer_key": steer_key,
        },
    )


def steered_messages(conn: Connection, turn_id: str, after: int = -1) -> list[tuple[MessageRow, str]]:
    """The messages that came while the turn ran, behind place `after`, each with the key of its inbound."""
    found: list[Row[Any]] = list(conn.execute(_STEERED, {"turn": turn_id, "after": after}))
    return [(MessageRow.of(row), row.steer_key) for row in found]


def move_messages(conn: Connection, moved: Sequence[MessageRow], turn_id: str, number: int) -> None:
    """Makes messages that nobody read the inbound messages of another turn."""
    for place, row in enumerate(moved):
        conn.execute(
            update(messages)
            .where(messages.c.turn_id == row.turn_id, messages.c.ord == row.ord)
            .values(turn_id=turn_id, turn_number=number, ord=place, steer_key=None)
        )


def save_answer(
    conn: Connection, *, turn_id: str, conversation_id: str, turn_number: int, message_id: str, content: bytes
) -> None:
    """Saves a turn's answer as it stands now, over what was saved before; hidden if the turn is.

    The turn must be locked.
    """
    conn.execute(
        _SAVE_ANSWER[conn.dialect.name],
        {
            "turn_id": turn_id,
            "its_turn": turn_id,
            "conversation_id": conversation_id,
            "turn_number": turn_number,
            "message_id": message_id,
            "content": content,
        },
    )


def visible_message(conn: Connection, conversation_id: str, message_id: str) -> MessageRow | None:
    """The message that people see under that id."""
    row = conn.execute(_VISIBLE, {"conversation": conversation_id, "message": message_id}).one_or_none()
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
    return [MessageRow.of(row) for row in conn.execute(_CONTEXT, {"conversation": conversation_id, "number": number})]


def turn_input(conn: Connection, turn_id: str) -> list[MessageRow]:
    """The inbound messages of one turn, in order."""
    return [MessageRow.of(row) for row in conn.execute(_INPUT, {"turn": turn_id})]


def live_messages(conn: Connection, channel: str, naming: bytes) -> list[tuple[str, MessageRow]]:
    """What people wrote on a channel in turns that have not ended, as far as it holds `naming`: each message with its
    conversation, the oldest first."""
    query = (
        select(*MessageRow.columns(messages), messages.c.conversation_id)
        .join(turns, turns.c.id == messages.c.turn_id)
        .join(conversations, conversations.c.id == messages.c.conversation_id)
        .where(turns.c.status != "finished", conversations.c.channel == channel, messages.c.role == "user")
        .order_by(messages.c.created_at)
    )
    found: list[Row[Any]] = list(conn.execute(query))
    return [(row.conversation_id, MessageRow.of(row)) for row in found if naming in row.content]
