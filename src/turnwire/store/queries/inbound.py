"""What was delivered to us, by the name its sender gave it: the durable dedupe."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from ..schema import inbound, store_now

_FIND = select(inbound.c.turn_id).where(inbound.c.scope == bindparam("scope"), inbound.c.key == bindparam("key"))
_CLAIM = insert(inbound).values(received_at=store_now())


def find_inbound(conn: Connection, scope: str, key: str) -> str | None:
    """The turn that this inbound started or joined, or None if it is new."""
    return conn.execute(_FIND, {"scope": scope, "key": key}).scalar_one_or_none()


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
