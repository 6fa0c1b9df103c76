"""One AI bot of WeCom as a channel of the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import msgspec
import structlog
from starlette.routing import BaseRoute

from ...clock import Clock
from ...delivery.pacing import LocalPacer, Pacer
from ...delivery.surface import DeliveryOrder, Surface
from ...delivery.traces import Recorder, TraceFolder
from ...leases import Leased
from ...store.queries.rows import TurnRow
from .. import Holder, nobody
from .connection import HALTED, BotConnection
from .events import without_secrets
from .frames import Inbound
from .media import Uploader
from .posts import Posts
from .reception import Reception
from .settings import Bot, lease_of
from .sockets import Opener, opener
from .surface import WecomSurface, style_of
from .target import read_target

if TYPE_CHECKING:
    from ...doctor import Finding
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)

CALM_S = 600.0
"""Seconds that a connection has to hold until a bot that was taken away is taken back once more."""


class WecomChannel:
    """Takes what one bot is told, and shows turns in its chats.

    One process of all that share the store has the bot's connection, which is held under a lease; its deliveries are
    driven there. A bot in webhook mode has no connection, and all processes serve it alike.

    Args:
        pacer: keeps messages under the platform's limits; shared by what shares the bot.
        opened: opens the socket, if it is not the network.
        transport: carries answers by address in webhook mode, if it is not the network.

    Raises `BadCipher` for a bot in webhook mode whose key is none.
    """

    def __init__(
        self,
        bot: Bot,
        *,
        clock: Clock,
        pacer: Pacer | None = None,
        opened: Opener | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = f"wecom.{bot.name}"
        self.bot = bot
        self._clock = clock
        self._opened = opened or opener(bot.url, bot.proxy)
        self._pacer = pacer or LocalPacer(clock)
        self._reception = Reception(bot, self.name, clock)
        self.connection = BotConnection(
            bot_id=bot.bot_id,
            secret=bot.secret,
            opener=self._opened,
            clock=clock,
            on_message=self._told,
            on_event=self._told,
            on_ready=self._ready,
            name=self.name,
        )
        trace: Recorder | None = None
        if bot.trace:
            secrets = (bot.secret, bot.bot_id, bot.token, bot.aes_key, bot.link_key)
            trace = Recorder(TraceFolder(Path(bot.trace), self.name, clock), clock, secrets=secrets)
        self.connection.trace = trace
        self._posts: Posts | None = None
        if bot.mode == "webhook":
            self._posts = Posts(
                bot, self.name, self._reception, clock=clock, pacer=self._pacer, transport=transport, trace=trace
            )
        self._uploader = Uploader(self.connection, clock, self._pacer)
        self._gateway: Gateway | None = None
        self._lease: Leased | None = None
        self._listening = False

    @property
    def state(self) -> str:
        """How the bot hears of things, for people."""
        if self._posts is not None:
            return self._posts.state
        if self._lease is not None and not self._lease.held:
            return "another process has the bot"
        return self.connection.state if self.connection.state == "ready" else self.connection.reason

    @property
    def showing(self) -> bool:
        """Only the process that has the connection can act; in webhook mode every one can."""
        if self._posts is not None:
            return True
        return self._lease is not None and self._lease.held and self.connection.state not in HALTED

    async def start(self, gateway: Gateway) -> None:
        """Begins to ask for the bot."""
        self._gateway = self._reception.gateway = gateway
        self._listening = True
        if self._posts is not None:
            self._posts.start(gateway)
            self._reception.start()
            return
        self._reception.connection = self.connection
        self._reception.start()
        self._lease = Leased(
            lease_of(self.bot),
            process=gateway.process,
            db=gateway.db,
            clock=self._clock,
            lease_s=gateway.config.turns.lease_s,
            alone=gateway.config.store.url.startswith("sqlite"),
            work=self._hold,
        )
        self._lease.start()

    async def stop_listening(self) -> None:
        """Takes nothing more in: who writes is asked to try again, for the platform does not send anything twice."""
        self._listening = False
        self._reception.listening = False

    async def close(self) -> None:
        """Gives the bot back."""
        if self._lease is not None:
            await self._lease.close()
        if self._posts is not None:
            await self._posts.close()
        await self._reception.close()

    def routes(self) -> list[BaseRoute]:
        """Where the platform posts to, in webhook mode, and what links of ours lead to."""
        return [] if self._posts is None else self._posts.routes()

    def surface(self, order: DeliveryOrder) -> Surface:
        """Where one turn is shown. Raises `ValueError`."""
        if self._posts is not None:
            return self._posts.surface(order)
        target = read_target(order.target)
        if order.push:
            target = msgspec.structs.replace(target, push=True)
        return WecomSurface(
            self.connection,
            self._uploader,
            target,
            style_of(self.bot),
            clock=self._clock,
            pacer=self._pacer,
            life_s=self.bot.stream_life_s,
            frame_s=self.bot.frame_s,
            feedback=self.bot.feedback,
        )

    async def prepare(self, turn: TurnRow, *, steered: bool = False) -> str | None:
        """Waits for what the turn's messages name and is being fetched; returns what they reply to."""
        return await self._reception.prepare(turn, steered=steered)

    def check(self, holder: Holder = nobody) -> AsyncIterator[Finding]:
        """What a person should know about the bot's set-up."""
        from .check import check

        return check(self.bot, self._clock, opened=self._opened, holder=holder)

    async def _hold(self) -> None:
        """Keeps the connection while the bot is ours; one that was taken away is taken back once, not again and
        again."""
        self._reception.resume()
        self.connection.start()
        try:
            taken_back = -CALM_S
            while True:
                state = await self.connection.halted()
                now = self._clock.monotonic()
                if state == "kicked" and now - taken_back >= CALM_S:
                    taken_back = now
                    self.connection.resume()
                    continue
                _log.error("the bot stays silent until the gateway is started again", bot=self.name, why=self.state)
                await asyncio.get_running_loop().create_future()
        finally:
            await self.connection.close()

    async def _told(self, frame: Inbound) -> None:
        if self.connection.trace is not None:
            self.connection.trace.event(
                frame.event or str(frame.body.get("msgtype") or ""), without_secrets(frame.body)
            )
        await self._reception.take(frame)

    def _ready(self) -> None:
        if self._gateway is not None:
            self._gateway.couriers.poke()
