"""A journal on a store that can be slow or fail at will, and the writers of its turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tests.store_steps import (
    LEASE_S,
    Pen,
    begin,
)
from turnwire import chunks as c
from turnwire.framer import Framer
from turnwire.journal import Hub, Journal, Topic, TurnLog
from turnwire.store import Append, Database
from turnwire.store.queries.turns import Claim
from turnwire.testing import FakeClock

FLUSH_S = 0.02


class Watched:
    """A store that shows what is asked of it, and that can be slow or fail at will."""

    def __init__(self, db: Database) -> None:
        self.batches: list[list[Append]] = []
        self.failure: Exception | None = None
        self.fails: Callable[..., Any] | None = None
        self.asked = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._db = db

    async def append(self, batch: Sequence[Append]) -> set[str]:
        self.batches.append(list(batch))
        self.asked.set()
        await self.may_go_on.wait()
        if self.failure is not None and self.fails is None:
            raise self.failure
        return await self._db.append(batch)

    async def run(self, query: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.failure is not None and self.fails is query:
            raise self.failure
        return await self._db.run(query, *args, **kwargs)

    async def read(self, query: Any, /, *args: Any, **kwargs: Any) -> Any:
        return await self._db.read(query, *args, **kwargs)

    async def close(self) -> None:
        await self._db.close()

    def hold(self) -> None:
        """Appends wait from now on."""
        self.may_go_on.clear()
        self.asked.clear()


class Desk:
    """A journal with everything around it."""

    def __init__(self, database: Database, *, rounds: int = 50) -> None:
        self.clock = FakeClock(rounds=rounds)
        self.hub = Hub()
        self.db = Watched(database)
        self.told: list[tuple[str, int, int, bool]] = []
        self.journal = Journal(
            self.db,
            self.hub,
            self.clock,
            flush_s=FLUSH_S,
            lease_s=LEASE_S,
            committed=lambda turn, first, records, ended: self.told.append((turn, first, len(records), ended)),
        )

    async def turn(self, name: str = "chat") -> Writer:
        """A running turn of a conversation of its own, its start committed."""
        return Writer(self, (await begin(self.db, conversation=name)))

    async def pause(self) -> None:
        """Long enough that the next commit is made at once."""
        await self.clock.advance(1.0)

    @property
    def commits(self) -> int:
        return len(self.db.batches)


class Writer:
    """A turn's log and the framer that feeds it."""

    def __init__(self, desk: Desk, pen: Pen) -> None:
        self.log: TurnLog = desk.journal.open(Claim(pen.turn, pen.epoch))
        self.topic: Topic = self.log.topic
        self.id = pen.turn.id
        self.framer: Framer = pen.framer
        self.put: list[c.AnyChunk] = []

    def start(self) -> None:
        self._put(self.framer.start())

    def say(self, *events: Any) -> None:
        for event in events:
            self._put(self.framer.feed(event))

    def _put(self, chunks: list[c.AnyChunk]) -> None:
        self.log.put(chunks)
        self.put += chunks

    async def end(self, outcome: Any = "done", reason: str | None = None, heir: str | None = None) -> Claim | None:
        told = {"turnwire": {"turn": self.id, "outcome": outcome}}
        chunks = self.framer.finish(outcome, reason=reason, metadata=told)
        self.put += chunks
        return await self.log.end(chunks, self.framer.view, outcome, reason, heir)


def texts(records: Sequence[bytes]) -> list[str]:
    return [chunk.delta for chunk in map(c.decode, records) if isinstance(chunk, c.TextDelta)]
