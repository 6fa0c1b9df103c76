"""One app of Feishu or Lark as a channel of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...clock import Clock
from ...delivery.pacing import LocalPacer, Pacer
from ...delivery.surface import DeliveryOrder
from ...delivery.traces import Recorder, TraceFolder
from ...store.queries.rows import TurnRow
from .. import Holder, nobody
from .images import Images
from .long_connection import LongConnection
from .people import People
from .reception import Reception
from .render import Style
from .resources import Resources
from .settings import App
from .surface import FeishuSurface
from .target import Target, read_target
from .webhook import BODY_BYTES, Refusal, open_post
from .wire import Wire

if TYPE_CHECKING:
    from ...doctor import Finding
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)


class FeishuChannel:
    """Takes the messages of one app, and shows turns in its chats.

    Args:
        pacer: keeps calls under the platform's limits; shared by what shares the app.
        transport: carries the requests, if it is not the network.
    """

    def __init__(
        self,
        app: App,
        *,
        clock: Clock,
        pacer: Pacer | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.name = f"feishu.{app.name}"
        self.app = app
        self._clock = clock
        self.wire = Wire(
            app_id=app.app_id,
            app_secret=app.app_secret,
            base_url=app.base_url,
            clock=clock,
            pacer=pacer or LocalPacer(clock),
            proxy=app.proxy,
            transport=transport,
        )
        if app.trace:
            secrets = (app.app_secret, app.app_id, app.verification_token, app.encrypt_key)
            self.wire.trace = Recorder(TraceFolder(Path(app.trace), self.name, clock), clock, secrets=secrets)
        self._people = People(self.wire, clock)
        self._reception = Reception(app, self.name, self._people, clock)
        self._resources = Resources(self.wire, self._people)
        self._socket: LongConnection | None = None
        self._listening = False

    @property
    def state(self) -> str:
        """How the app hears of events, for people."""
        if self.app.mode == "webhook":
            return "listening for webhooks" if self._listening else "not listening"
        return self._socket.state if self._socket is not None else "not connected"

    @property
    def showing(self) -> bool:
        """Any process can act on its surfaces."""
        return True

    async def start(self, gateway: Gateway) -> None:
        """Begins to listen."""
        self._reception.gateway = self._resources.gateway = gateway
        self._listening = True
        self._people.begin()
        if self.app.mode == "websocket":
            self._socket = LongConnection(self.wire, self.take, self._clock, name=self.name, proxy=self.app.proxy)
            self._socket.start()

    async def stop_listening(self) -> None:
        """Takes no more events; the platform delivers them again."""
        self._listening = False
        if self._socket is not None:
            await self._socket.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self.wire.close()

    async def take(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Takes one event, however it came; returns what the platform is to be answered, if anything."""
        if self.wire.trace is not None:
            header = event.get("header")
            kind = header.get("event_type") if isinstance(header, dict) else event.get("type")
            self.wire.trace.event(str(kind or ""), event)
        return await self._reception.take(event)

    def routes(self) -> list[BaseRoute]:
        """Where the platform posts events to, in webhook mode."""
        if self.app.mode != "webhook":
            return []
        return [Route(f"/webhooks/feishu/{self.app.name}", self._webhook, methods=["POST"])]

    def surface(self, order: DeliveryOrder) -> FeishuSurface:
        """Where one turn is shown. Raises `ValueError`."""
        target = read_target(order.target)
        if order.push:
            target = Target(target.chat, target.message if target.topic else "", topic=target.topic, push=True)
        style = Style(language=self.app.language, footer=tuple(self.app.footer), base_url=self.app.public_url)
        files = self._resources.gateway.files
        return FeishuSurface(
            self.wire,
            target,
            style,
            msgspec.structs.replace(style, plain=True),
            images=Images(self.wire, files, order.conversation_id, self._clock, public_url=self.app.public_url),
            stream_life_s=self.app.stream_life_s,
        )

    async def prepare(self, turn: TurnRow, *, steered: bool = False) -> str | None:
        """Fetches what the turn's messages only name; returns what they reply to."""
        return await self._resources.prepare(turn, steered=steered)

    def check(self, holder: Holder = nobody) -> AsyncIterator[Finding]:
        """What a person should know about the app's set-up; the channel has not to be started. An app may have many
        connections, so nobody has to be asked."""
        from .check import check

        return check(self.app, self.wire, self._clock)

    async def _webhook(self, request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return JSONResponse({"error": "the body is too large"}, 413)
        try:
            event, challenge = open_post(
                body,
                request.headers,
                encrypt_key=self.app.encrypt_key,
                verification_token=self.app.verification_token,
            )
        except Refusal as refusal:
            _log.warning("a webhook call was refused", channel=self.name, why=str(refusal))
            return JSONResponse({"error": str(refusal)}, 403)
        if challenge:
            return JSONResponse({"challenge": event.get("challenge")})
        if not self._listening:
            return JSONResponse({"error": "this server is stopping"}, 503)
        try:
            said: dict[str, Any] | None = await self.take(event)
        except Exception as error:  # noqa: BLE001 - the platform is told, and delivers it again
            _log.warning("an event could not be taken; the platform sends it again", channel=self.name, exc_info=error)
            return JSONResponse({"error": "try again"}, 503)
        return JSONResponse(said or {})


async def _body(request: Request) -> bytes | None:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > BODY_BYTES:
            return None
    return bytes(found)
