"""Who owns a bot's connection in tests: it keeps what it is told, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from tests.wecom_bots import Sim
from turnwire.channels.wecom import frames
from turnwire.channels.wecom.connection import BotConnection
from turnwire.channels.wecom.frames import Inbound
from turnwire.channels.wecom.lanes import Answer
from turnwire.channels.wecom.sockets import Opener, opener
from turnwire.clock import sleep
from turnwire.sim.wecom import Switches

T = TypeVar("T")


class Owner:
    """One connection and what its owner was told.

    Attributes:
        held: messages are handled only while it is set.
        broken: handlers raise.
        takes_s: how long a message takes to be handled.
    """

    def __init__(self, sim: Sim, *, secret: str = "", opens: Opener | None = None) -> None:
        self.sim = sim
        self.clock = sim.fake
        self.messages: list[Inbound] = []
        self.events: list[Inbound] = []
        self.lost: list[str] = []
        self.readied = 0
        self.broken = False
        self.takes_s = 0.0
        self.held = asyncio.Event()
        self.held.set()
        self.connection = BotConnection(
            bot_id=sim.bot_id,
            secret=secret or sim.secret,
            opener=opens or opener(sim.ws_url),
            clock=sim.fake,
            on_message=self._message,
            on_event=self._event,
            on_ready=self._ready,
            on_lost=self.lost.append,
            name="main",
        )

    def _ready(self) -> None:
        self.readied += 1

    async def _message(self, frame: Inbound) -> None:
        await self.held.wait()
        if self.takes_s:
            await sleep(self.clock, self.takes_s)
        if self.broken:
            raise RuntimeError("the store is away")
        self.messages.append(frame)

    async def _event(self, frame: Inbound) -> None:
        self.events.append(frame)

    async def state(self, *states: str) -> None:
        """Returns once the connection is in one of these states, with time standing still."""
        await self.clock.until(lambda: self.connection.state in states)

    async def asked(self, text: str = "hi", chat: str = "alice") -> str:
        """The request id of a message that somebody writes and the owner hears."""
        told = self.sim.people.say(chat, text)
        assert told is not None
        await self.clock.until(lambda: any(each.req_id == told.req_id for each in self.messages))
        return told.req_id

    async def stream(self, req_id: str, text: str, *, finish: bool = False, sid: str = "s1") -> Answer:
        """One frame of a bubble."""
        return await self.connection.respond(req_id, frames.stream(sid, text, finish=finish))

    async def after(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """What `work` comes to, when the clock moves once everything that needs no time has happened."""
        task = asyncio.ensure_future(work)
        await self.calm()
        await self.clock.advance(seconds)
        await self.clock.until(task.done)
        return task.result()

    async def calm(self) -> None:
        """Lets sockets carry what they can, with time standing still."""
        for _ in range(5):
            await self.clock.settle()

    @property
    def seen(self) -> list[str]:
        """What alice sees of the bot."""
        return [each.text for each in self.sim.view("alice").from_bots]


@contextlib.asynccontextmanager
async def owning(owner: Owner) -> AsyncIterator[Owner]:
    """Its connection, started."""
    owner.connection.start()
    try:
        yield owner
    finally:
        closing = asyncio.ensure_future(owner.connection.close())
        while not closing.done():
            await owner.calm()
            await owner.clock.advance(1)
        closing.result()


@contextlib.asynccontextmanager
async def ready(**switches: Any) -> AsyncIterator[Owner]:
    """A simulator, and a connection that is ready."""
    async with Sim(Switches(**switches)) as sim, owning(Owner(sim)) as owner:
        await owner.state("ready")
        yield owner
