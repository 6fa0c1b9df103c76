"""What a turn says, followed in the journal as any reader does.

Guarantee: the view holds committed records only, in order; it needs nothing of the process that runs the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy import Connection

from ..chunks import decode
from ..journal import Hub, Topic
from ..store import Database
from ..store.queries.records import Trimmed, read_records, read_replay
from ..store.queries.rows import TurnRow
from ..store.queries.turns import get_turn
from ..turns.continuation import read_base
from ..view import View, fold


class Lost(Exception):
    """This process no longer serves the turn."""


class Replica:
    """The view of one turn, kept up with its journal. Use as a context manager."""

    def __init__(self, turn_id: str, *, db: Database, hub: Hub, look: Callable[[], None]) -> None:
        self.turn_id = turn_id
        self.view = View()
        self._db = db
        self._hub = hub
        self._look = look
        self._topic: Topic | None = None
        self._seen = -1

    @property
    def ended(self) -> bool:
        """Whether the turn has its end."""
        return self.view.finish is not None

    async def open(self) -> None:
        """Reads what is there. Raises `StoreError`."""
        turn, self.view = await self._db.read(_beginning, self.turn_id)
        self._topic = self._hub.join(self.turn_id, turn.head)
        self._topic.advance(turn.head, ended=turn.status == "finished")
        if turn.status != "finished" and not self._hub.writes(self.turn_id):
            self._look()
        await self.catch_up()

    def close(self) -> None:
        """Stops following."""
        if self._topic is not None:
            self._hub.leave(self._topic)
            self._topic = None

    async def catch_up(self) -> None:
        """Folds in what was committed since. Raises `StoreError`, and `Lost`."""
        topic = self._topic
        if topic is None:
            return
        while self.view.count < topic.head and not self.ended:
            cursor = self.view.count
            if topic.holds(cursor):
                records = topic.records(cursor)
            else:
                try:
                    records = await self._db.read(read_records, self.turn_id, cursor)
                except Trimmed:
                    _, self.view = await self._db.read(_beginning, self.turn_id)
                    records = await self._db.read(read_replay, self.turn_id)
            if not records:
                break
            fold(map(decode, records), self.view)
        self._seen = topic.changes
        if topic.lost and not self.ended:
            raise Lost(self.turn_id)

    async def changed(self) -> None:
        """Waits for more records; for ever once the turn has its end."""
        topic = self._topic
        if topic is None or self.ended:
            await asyncio.get_running_loop().create_future()
        elif topic.changes == self._seen:
            await topic.changed()


def _beginning(conn: Connection, turn_id: str) -> tuple[TurnRow, View]:
    turn = get_turn(conn, turn_id)
    if turn is None:
        raise LookupError(f"the turn {turn_id!r} of a delivery is gone")
    return turn, read_base(conn, turn)
