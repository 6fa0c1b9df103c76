"""What the bot is told, between the reader of its connection and whoever handles it.

Guarantee: the reader never waits. Messages and events are handled in order, each kind by itself, so that an event with
its five seconds does not stand behind messages. One that cannot be handled is logged, and the next one still is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from ...clock import Clock, wait
from .frames import Inbound

_log = structlog.get_logger(__name__)

WAITING = 1000
"""Messages and events that may wait, each; the platform does not repeat what comes beyond, so it is lost, and said
loudly."""

Handle: TypeAlias = Callable[[Inbound], Awaitable[None]]


class Inbox:
    """One bot's.

    Args:
        handles: by the command of the frames.
        name: of the bot, for the log.

    Attributes:
        dropped: how much was lost because too much waited.
    """

    def __init__(self, handles: Mapping[str, Handle], *, name: str) -> None:
        self.dropped = 0
        self._handles = handles
        self._name = name
        self._queues: dict[str, asyncio.Queue[Inbound]] = {cmd: asyncio.Queue(WAITING) for cmd in handles}
        self._workers: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begins to handle."""
        self._workers = {
            asyncio.create_task(self._work(cmd), name=f"wecom-{cmd}-{self._name}") for cmd in self._handles
        }

    def put(self, frame: Inbound) -> None:
        """Takes what came."""
        queue = self._queues.get(frame.cmd)
        if queue is None:
            _log.info("a frame is of an unknown kind", bot=self._name, cmd=frame.cmd[:64])
        elif queue.full():
            self.dropped += 1
            _log.error("what the bot was told is lost: too much waits to be handled", bot=self._name, cmd=frame.cmd)
        else:
            queue.put_nowait(frame)

    async def close(self, clock: Clock, seconds: float) -> None:
        """Handles what came, for at most so many seconds."""
        handled = asyncio.create_task(self._handled())
        try:
            await wait(clock, {handled}, seconds)
        finally:
            ending = {handled, *self._workers}
            for task in ending:
                task.cancel()
            await asyncio.wait(ending)
            self._workers.clear()

    async def _handled(self) -> None:
        for queue in self._queues.values():
            await queue.join()

    async def _work(self, cmd: str) -> None:
        queue, handle = self._queues[cmd], self._handles[cmd]
        while True:
            frame = await queue.get()
            try:
                await handle(frame)
            except Exception as error:  # noqa: BLE001 - the next one must still be handled
                _log.error("what the bot was told could not be handled", bot=self._name, cmd=cmd, exc_info=error)
            finally:
                queue.task_done()
