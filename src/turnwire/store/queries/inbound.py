"""What was delivered to us, by the name its sender gave it: the durable dedupe."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from ..schema import conversations, inbound, store_now

_FIND = select(inbound.c.turn_id).where(inbound.c.scope == bindparam("scope"), inbound.c.key == bindparam("key"))
# Whose it is, is compared here: a planner without statistics would begin with all conversations of the owner.
_BY_KEY = (
    select(inbound.c.turn_id, conversations.c.channel, conversations.c.owner)
    .join(conversations, conversations.c.id == inbound.c.scope)
    .where(inbound.c.key == bindparam("key"))
    .order_by(inbound.c.received_at.desc())
)
_CLAIM = insert(inbound).values(received_at=store_now())


def find_inbound(conn: Connection, scope: str, key: str) -> str | None:
    """The turn that this inbound started or joined, or None if it is new."""
    return conn.execute(_FIND, {"scope": scope, "key": key}).scalar_one_or_none()


def find_owned(conn: Connection, channel: str, owner: str, key: str) -> str | None:
    """The turn that this inbound started or joined in whatever conversation of the owner, or None if there is none."""
    rows = conn.execute(_BY_KEY, {"key": key})
    return next((row.turn_id for row in rows if (row.channel, row.owner) == (channel, owner)), None)


def claim_inbound(conn: Connection, scope: str, key: str, turn_id: str) -> None:
    """Ties a new inbound to its turn. Its scope must be locked (the conversation is)."""
    conn.execute(_CLAIM, {"scope": scope, "key": key, "turn_id": turn_id})


def move_inbound(conn: Connection, scope: str, key: str, turn_id: str) -> None:
    """Ties a known inbound to another turn: its sender asked for it again, on purpose."""
    conn.execute(
        update(inbound)
        .where(inbound.c.scope == scope, inbound.c.key == key)
        .values(turn_id=turn_id, received_at=store_now())
    )
