"""Inbounds found by the name that their platform gave them, on both databases."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import Connection, text

from tests.store_steps import fresh, said, take
from turnwire.store import Database
from turnwire.store.queries.inbound import _BY_KEY, find_owned
from turnwire.turns.admission import Inbound

pytestmark = pytest.mark.anyio


def asked(key: str, *, channel: str = "board", owner: str = "chat", room: str = "chat/1") -> Inbound:
    """A message that came to a room of an owner."""
    return msgspec.structs.replace(
        said("hello", conversation=room), channel=channel, owner=owner, key=key, message_id=fresh("msg")
    )


async def test_an_inbound_is_found_in_whatever_conversation_of_its_owner_it_came_to(database: Database) -> None:
    turns = {}
    for room in ("chat", "chat/1", "chat/2"):
        turns[room] = (await take(database, asked(f"key of {room}", room=room))).turn.id
    for room, turn in turns.items():
        assert await database.read(find_owned, "board", "chat", f"key of {room}") == turn
    assert await database.read(find_owned, "board", "chat", "key of another") is None


async def test_an_inbound_of_somebody_else_is_not_found_by_its_name(database: Database) -> None:
    own = await take(database, asked("key"))
    other = await take(database, asked("key", owner="other"))
    await take(database, asked("key", channel="elsewhere"))
    assert await database.read(find_owned, "board", "chat", "key") == own.turn.id
    assert await database.read(find_owned, "board", "other", "key") == other.turn.id
    assert await database.read(find_owned, "board", "nobody", "key") is None
    assert await database.read(find_owned, "other", "chat", "key") is None


async def test_how_long_it_takes_to_find_one_does_not_depend_on_how_many_conversations_there_are(
    database: Database,
) -> None:
    plans: list[str] = []

    def explained(conn: Connection) -> None:
        query = _BY_KEY.params(key="key")
        sql = query.compile(dialect=conn.dialect, compile_kwargs={"literal_binds": True})
        if conn.dialect.name == "sqlite":
            plans.extend(str(row[3]) for row in conn.execute(text(f"EXPLAIN QUERY PLAN {sql}")))
        else:
            # A table of a few rows is read as a whole, if it may be.
            conn.execute(text("SET LOCAL enable_seqscan = off"))
            plans.extend(str(row[0]) for row in conn.execute(text(f"EXPLAIN {sql}")))

    await take(database, asked("key"))
    await database.run(explained)
    assert any("inbound_key" in line for line in plans)
    assert not any(line.startswith("SCAN") or "Seq Scan" in line for line in plans)
