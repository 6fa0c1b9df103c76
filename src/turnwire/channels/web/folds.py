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
from ...turns.continuation import read_base
from ...view import View, fold, replay
from .bounds import sized

KEPT = 128
KEPT_BYTES = 32 * 1024 * 1024
"""Records that the views which are kept were folded from, in bytes; a view takes a few times less or more than that."""


class Folds:
    """The views of turns that clients resumed lately; bounded in number and in size, the least used goes first."""

    def __init__(self, db: Database, hub: Hub, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._db = db
        self._hub = hub
        self._kept_bytes = kept_bytes
        self._views: OrderedDict[str, tuple[View, int]] = OrderedDict()
        self._bytes = 0

    @property
    def kept(self) -> tuple[int, int]:
        """How many views are kept, and from how many bytes they were folded."""
        return len(self._views), self._bytes

    async def replay(self, turn: TurnRow) -> tuple[list[bytes], int]:
        """The shortest stream that shows `turn` so far, and the cursor of what follows it."""
        # Nobody else finds the view while a thread may work on it.
        kept = self._take(turn.id)
        if turn.status == "finished":
            return await self._db.read(read_replay, turn.id), turn.head
        if kept is None:
            view, size = await self._db.read(_fold_all, turn)
        else:
            view, size = kept
            if view.count < turn.head:
                fresh = await self._since(turn.id, view.count)
                more = sum(map(len, fresh))
                await sized(more, _fold, fresh, view)
                size += more
        if not view.count:
            # A turn that goes on with a message has a view before its first record; nothing of it is to be resumed.
            return [], 0
        records = await sized(size, _encode, view)
        self._keep(turn.id, view, size)
        return records, view.count

    async def _since(self, turn_id: str, first: int) -> Sequence[bytes]:
        topic = self._hub.find(turn_id)
        if topic is not None and topic.holds(first):
            return topic.records(first)
        return await self._db.read(read_records, turn_id, first, rows=1_000_000, page_bytes=1 << 62)

    def _take(self, turn_id: str) -> tuple[View, int] | None:
        kept = self._views.pop(turn_id, None)
        if kept is not None:
            self._bytes -= kept[1]
        return kept

    def _keep(self, turn_id: str, view: View, size: int) -> None:
        self._take(turn_id)
        self._views[turn_id] = view, size
        self._bytes += size
        while len(self._views) > KEPT or self._bytes > self._kept_bytes:
            self._take(next(iter(self._views)))


def _fold(records: Sequence[bytes], view: View | None = None) -> View:
    return fold(map(c.decode, records), view)


def _encode(view: View) -> list[bytes]:
    return [c.encode(chunk) for chunk in replay(view)]


def _fold_all(conn: Connection, turn: TurnRow) -> tuple[View, int]:
    records = read_all(conn, turn.id)
    return _fold(records, read_base(conn, turn)), sum(map(len, records))
