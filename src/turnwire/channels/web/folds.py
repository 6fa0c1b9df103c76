"""Folded replays for clients without a cursor, kept between requests.

Guarantee: the replay of a turn up to its head is what `view.replay` says of all records so far; a finished turn's is
read as it was stored at its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from sqlalchemy import Connection

from ... import chunks as c
from ...journal import Hub
from ...store import Database
from ...store.queries.records import read_all, read_records, read_replay
from ...store.queries.rows import TurnRow
from ...view import View, fold, replay

KEPT = 128


class Folds:
    """The views of turns that clients resumed lately; bounded, the least used goes first."""

    def __init__(self, db: Database, hub: Hub) -> None:
        self._db = db
        self._hub = hub
        self._views: OrderedDict[str, View] = OrderedDict()

    async def replay(self, turn: TurnRow) -> tuple[list[bytes], int]:
        """The shortest stream that shows `turn` so far, and the cursor of what follows it."""
        if turn.status == "finished":
            self._views.pop(turn.id, None)
            return await self._db.read(read_replay, turn.id), turn.head
        view = await self._view(turn)
        return [c.encode(chunk) for chunk in replay(view)], view.count

    async def _view(self, turn: TurnRow) -> View:
        view = self._views.pop(turn.id, None)
        if view is None:
            view = await self._db.read(_fold_all, turn.id)
        elif view.count < turn.head:
            topic = self._hub.find(turn.id)
            if topic is not None and topic.holds(view.count):
                fresh: Sequence[bytes] = topic.records(view.count)
            else:
                fresh = await self._db.read(read_records, turn.id, view.count, rows=1_000_000, page_bytes=1 << 62)
            fold(map(c.decode, fresh), view)
        self._views[turn.id] = view
        while len(self._views) > KEPT:
            self._views.popitem(last=False)
        return view


def _fold_all(conn: Connection, turn_id: str) -> View:
    return fold(map(c.decode, read_all(conn, turn_id)))
