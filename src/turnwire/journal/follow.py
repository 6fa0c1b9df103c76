"""Looking after topics whose writer is in another process, or not there yet.

Guarantee: a reader sees what any process committed within `every_s()` seconds, with or without a relay; the store is
asked once for all topics, and only while somebody reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ..clock import Clock, wait
from ..store import Database, StoreError
from ..store.queries.turns import heads, versions
from .hub import Hub

_log = structlog.get_logger(__name__)

CONVERSATION = "conversation:"
"""Prefix of the topics that tell of a conversation's changes; their head is its version."""


class Follower:
    """Asks the store how far the followed topics have come.

    Args:
        every_s: how many seconds the next look may wait; a relay makes long ones enough, while it works.
    """

    def __init__(self, db: Database, hub: Hub, clock: Clock, *, every_s: Callable[[], float]) -> None:
        self._db = db
        self._hub = hub
        self._clock = clock
        self._every_s = every_s
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts looking."""
        self._task = asyncio.create_task(self._forever(), name="turnwire-follower")

    def poke(self) -> None:
        """Something changed elsewhere: look now."""
        self._poked.set()

    async def close(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def look(self) -> None:
        """One look at everything that is followed."""
        followed = {topic.key: topic for topic in self._hub.followed()}
        turns = [key for key in followed if not key.startswith(CONVERSATION)]
        if turns:
            for turn_id, (head, status) in (await self._db.read(heads, turns)).items():
                followed[turn_id].advance(head, ended=status == "finished")
        conversations = [key.removeprefix(CONVERSATION) for key in followed if key.startswith(CONVERSATION)]
        if conversations:
            for conversation_id, version in (await self._db.read(versions, conversations)).items():
                followed[CONVERSATION + conversation_id].advance(version, ended=False)

    async def _forever(self) -> None:
        while True:
            poked = asyncio.ensure_future(self._poked.wait())
            try:
                await wait(self._clock, {poked}, self._every_s())
            finally:
                poked.cancel()
            self._poked.clear()
            try:
                await self.look()
            except StoreError as error:
                _log.warning("followed turns could not be looked up", error=str(error))
            except Exception as error:  # noqa: BLE001 - readers of other processes' turns depend on it
                _log.error("the follower failed, and goes on", exc_info=error)
