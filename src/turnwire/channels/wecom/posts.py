"""One bot in webhook mode: its routes, what answers them, and the surfaces of its deliveries.

Guarantee: every post is answered in the seconds that the platform gives, sealed; a message that was stored begins its
bubble at once, and one that was not is told so. Any process can answer for any bubble.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import structlog
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ...clock import Clock, wait
from ...delivery.pacing import Pacer
from ...delivery.surface import DeliveryOrder
from ...delivery.traces import Recorder
from ...store import StoreError
from ...store.queries.conversations import find_conversation, touch
from ...store.queries.deliveries import delivery_id
from ..web.downloads import send_file
from . import frames
from .address import Address
from .crypto import Envelope
from .events import Clicked, read_event, without_secrets
from .frames import Json
from .heard import Heard, stream_of
from .hook_pages import ANSWERS, FILES
from .hook_surface import HookSurface
from .links import Links
from .polls import Polls, Said
from .reception import Reception
from .settings import Bot
from .surface import FEEDBACK, style_of
from .target import Target, read_target
from .webhook import BODY_BYTES, Post, Refusal, bubble, open_challenge, open_post, seal_answer

if TYPE_CHECKING:
    from ...gateway import Gateway

T = TypeVar("T")

_log = structlog.get_logger(__name__)

ANSWER_S = 4.0
"""Seconds in which a post is answered; the platform waits for five."""
NOTE = "note"
_GUARDS: Mapping[str, str] = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cache-control": "private, no-store",
    "referrer-policy": "no-referrer",
}


class Posts:
    """What is posted to one bot.

    Args:
        reception: takes messages and events.
        transport: carries answers by address, if it is not the network.
        trace: told of every message and event, of every answer but the steps of bubbles, and of every post by address;
            None for nobody.

    Raises `BadCipher` for a key that is none.
    """

    def __init__(
        self,
        bot: Bot,
        channel: str,
        reception: Reception,
        *,
        clock: Clock,
        pacer: Pacer,
        transport: httpx2.AsyncBaseTransport | None = None,
        trace: Recorder | None = None,
    ) -> None:
        self._bot = bot
        self._channel = channel
        self._reception = reception
        self._clock = clock
        self._pacer = pacer
        self._envelope = Envelope(bot.token, bot.aes_key)
        self._path = f"/webhooks/wecom/{bot.name}"
        linked = bot.public_url and bot.link_key
        self._links = Links(f"{bot.public_url.rstrip('/')}{self._path}", bot.link_key) if linked else None
        self._address = Address(clock, proxy=bot.proxy, transport=transport)
        self._trace = self._address.trace = trace
        self._style = style_of(bot)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._gateway: Gateway | None = None
        self._heard: Heard
        self._polls: Polls

    @property
    def state(self) -> str:
        """How the bot hears of things, for people."""
        return "listening for webhooks" if self._reception.listening else "not listening"

    def start(self, gateway: Gateway) -> None:
        """Begins to answer."""
        self._heard = Heard(gateway.db, self._clock)
        self._polls = Polls(
            self._channel,
            self._style,
            db=gateway.db,
            files=gateway.files,
            heard=self._heard,
            links=self._links,
            clock=self._clock,
        )
        self._gateway = gateway

    async def close(self) -> None:
        """Ends what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._address.close()

    def surface(self, order: DeliveryOrder) -> HookSurface:
        """Where one turn is shown. Raises `ValueError`."""
        if self._gateway is None:
            raise RuntimeError("the channel has not been started")
        return HookSurface(
            order,
            read_target(order.target),
            self._style,
            db=self._gateway.db,
            heard=self._heard,
            address=self._address,
            links=self._links,
            pacer=self._pacer,
            clock=self._clock,
        )

    def routes(self) -> list[BaseRoute]:
        """Where the platform posts to, and what links lead to."""
        found: list[BaseRoute] = [Route(self._path, self._called, methods=["GET", "POST"])]
        if self._links is not None:
            found.append(Route(f"{self._path}/{FILES}/{{own}}/{{name}}", _Raw(self._file), methods=["GET"]))
            found.append(Route(f"{self._path}/{ANSWERS}/{{own}}/{{name}}", self._whole, methods=["GET"]))
        return found

    # Posts

    async def _called(self, request: Request) -> Response:
        try:
            if request.method != "POST":
                return PlainTextResponse(open_challenge(self._envelope, request.query_params))
            body = await _body(request)
            if body is None:
                return Response(status_code=413)
            post = open_post(self._envelope, request.query_params, body)
        except Refusal as refusal:
            _log.warning("a webhook call was refused", channel=self._channel, why=str(refusal))
            return Response(status_code=403)
        if self._gateway is None:
            return Response(status_code=503)
        said = await (self._polled(post.stream) if post.stream is not None else self._told(post))
        self._record(said)
        return Response(said and seal_answer(self._envelope, said, post, self._clock.now()), media_type="text/plain")

    async def _polled(self, stream: str) -> Json:
        said = await self._in_time(self._polls.answer(stream))
        return bubble(stream, said or self._polls.last(stream))

    async def _told(self, post: Post) -> Json | None:
        """What is answered to a message or event. It goes on if it is too late for that."""
        if self._trace is not None:
            self._trace.event(str(post.body.get("msgtype") or ""), without_secrets(post.body))
        return await self._in_time(self._taken(post))

    def _record(self, said: Json | None) -> None:
        """Whether the platform got it is not known; if not, it asks again."""
        if self._trace is None or not said or not said.get("stream", {}).get("finish", True):
            return
        kind = str(said.get("msgtype") or said.get("response_type"))
        self._trace.call("ANSWER", kind, without_secrets(said))

    async def _taken(self, post: Post) -> Json | None:
        await self._aim(post)
        taken = await self._reception.take_body(post.body, req_id=post.message)
        if post.body.get("msgtype") == "event":
            if taken.card is not None:
                return frames.card_update(taken.card, [taken.card_for] if taken.card_for else [])
            return frames.text(taken.text) if taken.text else None
        if taken.admission is None:
            return bubble(stream_of(NOTE, post.message), Said(taken.text, finish=True)) if taken.text else None
        stream = stream_of(delivery_id(taken.admission.turn.id), post.message)
        begun = self._polls.begun
        if taken.admission.kind == "duplicate":
            try:
                begun = await self._polls.answer(stream, polled=False)
            except StoreError as error:
                _log.warning("a message came again while the store is away", channel=self._channel, error=str(error))
        return bubble(stream, begun, feedback_id=f"{FEEDBACK}{stream}" if self._bot.feedback else "")

    async def _aim(self, post: Post) -> None:
        """A click comes with an address of its own: what follows from it is answered there."""
        event, url = read_event(post.body), post.body.get("response_url")
        if self._gateway is None or not isinstance(event, Clicked) or not event.chat or not isinstance(url, str):
            return
        group = event.chat != event.user
        target = Target(event.chat, group=group, req_id=post.message, at=self._clock.now(), url=url)
        try:
            await self._gateway.db.run(_aim, self._channel, event.chat, target.encode())
        except StoreError as error:
            _log.warning("what follows from a click may have to wait", channel=self._channel, error=str(error))

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` comes to, None if that is not known in time; it goes on then."""
        task = asyncio.create_task(work, name=f"wecom-post-{self._bot.name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if not await wait(self._clock, {task}, ANSWER_S):
            _log.warning("a post could not be answered in time", channel=self._channel)
            return None
        return None if task.cancelled() or task.exception() is not None else task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a post could not be answered", channel=self._channel, exc_info=error)

    # Links

    async def _file(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer = self._closed(FILES, request)
        if answer is None and self._gateway is not None:
            file = await self._gateway.files.get(request.path_params["own"])
            if file is not None:
                await send_file(file, scope, receive, send)
                return
        await (answer or _gone())(scope, receive, send)

    async def _whole(self, request: Request) -> Response:
        answer = self._closed(ANSWERS, request)
        if answer is not None:
            return answer
        text = await self._polls.whole(request.path_params["own"])
        return _gone() if text is None else PlainTextResponse(text, headers=dict(_GUARDS))

    def _closed(self, kind: str, request: Request) -> Response | None:
        """What is answered to a link that does not hold, None if it does."""
        asked, own = request.query_params, request.path_params["own"]
        until, signature = asked.get("until", ""), asked.get("signature", "")
        if self._links is None or self._gateway is None:
            return _gone()
        if not self._links.opens(kind, own, until=until, signature=signature, now=self._clock.now()):
            return PlainTextResponse("This link is not valid, or not any more.\n", 403, headers=dict(_GUARDS))
        return None


def _aim(conn: Connection, channel: str, chat: str, target: bytes) -> None:
    found = find_conversation(conn, channel, chat, chat)
    if found is not None:
        touch(conn, found.id, target=target)


class _Raw:
    """A route whose handler sends its answer itself."""

    def __init__(self, handler: ASGIApp) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope, receive, send)


def _gone() -> Response:
    return PlainTextResponse("There is nothing here any more.\n", 404, headers=dict(_GUARDS))


async def _body(request: Request) -> bytes | None:
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > BODY_BYTES:
            return None
    return bytes(found)
