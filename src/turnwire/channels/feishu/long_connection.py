"""The long connection: events come over a websocket that we open, and are acknowledged on it.

Guarantee: an event is acknowledged after `handle` has returned, never before; one that failed is answered so, and the
platform sends it again. Events of one chat are handled in the order in which they came, those of different chats beside
each other. When too many wait, the next one is not taken: it is logged, not acknowledged, and the platform sends it
again. A connection that is closed, half-open or silent is replaced, with growing pauses, for ever; wrong credentials
are said loudly and tried seldom. Source: the protocol of the platform's own clients.
"""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from ...clock import Clock, sleep, wait
from .events import chat_of
from .frames import Frame, decode, encode
from .lanes import Lanes
from .wire import Wire

_log = structlog.get_logger(__name__)

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
DENIED_S = 300.0
OPEN_S = 15.0
CLOSE_S = 2.0
PING_S = 120.0
SILENCE = 2.5
"""Ping intervals without a single frame after which a connection counts as dead."""
AT_ONCE = 16
"""Chats whose events are handled at the same time: a slow look-up for one must not keep the others from the platform's
three seconds."""
WAITING_EVENTS = 1000
"""Events that may wait to be handled; the platform sends the others again."""
PARTS = 100
"""Events whose parts may be incomplete at a time."""

Handle = Callable[[dict[str, Any]], Awaitable[dict[str, Any] | None]]


class LongConnection:
    """Keeps one connection of an app open and hands its events on, those of one chat one after another.

    Attributes:
        state: for people: `connecting`, `connected`, or why not.
    """

    def __init__(self, wire: Wire, handle: Handle, clock: Clock, *, name: str, proxy: str = "") -> None:
        self._wire = wire
        self._handle = handle
        self._clock = clock
        self._name = name
        self._proxy = proxy
        self.state = "connecting"
        self._ping_s = PING_S
        self._service = 0
        self._heard = 0.0
        self._parts: dict[str, dict[int, bytes]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to connect."""
        self._task = asyncio.create_task(self._forever(), name=f"feishu-socket-{self._name}")

    async def close(self) -> None:
        """Closes the connection; what is not acknowledged comes again, here or elsewhere."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _forever(self) -> None:
        failures = 0
        while True:
            wait_s: float | None = None
            try:
                heard = await self._connected()
                failures = 0 if heard else failures + 1
            except _Denied as denied:
                self.state, wait_s = str(denied), DENIED_S
                _log.error("the long connection is refused", app=self._name, why=self.state)
            except (OSError, TimeoutError, WebSocketException, _Failed) as error:
                failures += 1
                self.state = f"not connected: {str(error) or type(error).__name__}"
                _log.warning("the long connection is lost", app=self._name, why=self.state)
            except Exception as error:  # noqa: BLE001 - without this the bot would hear nothing any more
                failures += 1
                self.state = "not connected"
                _log.error("the long connection failed, and is opened again", app=self._name, exc_info=error)
            pause = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
            await sleep(self._clock, wait_s or pause * (0.5 + random.random() / 2))  # noqa: S311

    async def _connected(self) -> bool:
        """One connection until it is lost; whether anything was heard on it."""
        url = await self._endpoint()
        self._service = int(parse_qs(urlsplit(url).query).get("service_id", ["0"])[0] or 0)
        opening = asyncio.ensure_future(_open(url, self._proxy))
        try:
            if not await wait(self._clock, {opening}, OPEN_S):
                raise _Failed(f"no connection within {OPEN_S:g} s")
            socket = opening.result()
        finally:
            opening.cancel()
        self.state, self._heard = "connected", self._clock.monotonic()
        _log.info("the long connection is open", app=self._name)
        begun = self._heard
        lanes = Lanes(AT_ONCE, WAITING_EVENTS)
        tasks = {
            asyncio.create_task(self._read(socket, lanes)),
            asyncio.create_task(lanes.run()),
            asyncio.create_task(self._ping(socket)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            return self._heard > begun
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            closing = asyncio.ensure_future(socket.close())
            await wait(self._clock, {closing}, CLOSE_S)
            closing.cancel()
            socket.transport.abort()

    async def _endpoint(self) -> str:
        answer = await self._wire.endpoint()
        if answer.code == 0:
            self._configure(answer.data.get("ClientConfig"))
            url = answer.data.get("URL")
            if isinstance(url, str) and url:
                return url
            raise _Failed("the platform named no address for the long connection")
        if answer.code in (403, 514, 1000040344):
            raise _Denied(f"the platform refuses this app_id and app_secret ({answer.code})")
        if answer.code == 1000040350:
            raise _Failed("the app has too many long connections; each process of a gateway needs one, of 50")
        raise _Failed(answer.receipt.reason or "no address for the long connection")

    def _configure(self, given: Any) -> None:
        interval = given.get("PingInterval") if isinstance(given, dict) else None
        if isinstance(interval, (int, float)) and interval > 0:
            self._ping_s = float(interval)

    async def _read(self, socket: ClientConnection, lanes: Lanes) -> None:
        async for data in socket:
            self._heard = self._clock.monotonic()
            if isinstance(data, str):
                continue
            try:
                frame = decode(data)
            except (ValueError, UnicodeDecodeError) as error:
                _log.warning("a frame of the long connection cannot be read", app=self._name, error=str(error))
                continue
            if frame.method == 0:
                self._control(frame)
            elif (payload := self._whole(frame)) is not None:
                self._offer(socket, lanes, frame, payload)
        raise _Failed("the platform closed it")

    def _control(self, frame: Frame) -> None:
        if frame.headers.get("type") == "pong" and frame.payload:
            try:
                self._configure(msgspec.json.decode(frame.payload))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return

    async def _ping(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(encode(Frame(service=self._service, headers={"type": "ping"})))
            await sleep(self._clock, self._ping_s)
            if self._clock.monotonic() - self._heard > self._ping_s * SILENCE:
                raise _Failed("nothing was heard for too long")

    def _offer(self, socket: ClientConnection, lanes: Lanes, frame: Frame, payload: bytes) -> None:
        """Lets an event be handled after those of its chat that came before."""
        try:
            event = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            event = None
        lane = chat_of(event) if isinstance(event, dict) else ""
        if not lanes.offer(lane, partial(self._take, socket, frame, event, self._heard)):
            _log.warning("too many events wait; one is not taken, and the platform sends it again", app=self._name)

    async def _take(self, socket: ClientConnection, frame: Frame, event: Any, at: float) -> None:
        answer = await self._answer(event)
        took = int((self._clock.monotonic() - at) * 1000)
        headers = {**frame.headers, "biz_rt": str(took)}
        said = msgspec.json.encode(answer)
        await socket.send(encode(msgspec.structs.replace(frame, headers=headers, payload=said)))

    async def _answer(self, event: Any) -> dict[str, Any]:
        try:
            said = await self._handle(event) if isinstance(event, dict) else None
        except Exception as error:  # noqa: BLE001 - the platform is told, and delivers it again
            _log.warning("an event could not be taken; the platform sends it again", app=self._name, exc_info=error)
            return {"code": 500}
        if said is None:
            return {"code": 200}
        return {"code": 200, "data": base64.b64encode(msgspec.json.encode(said)).decode()}

    def _whole(self, frame: Frame) -> bytes | None:
        """The event, once all its parts are there."""
        total, own = _int(frame.headers.get("sum"), 1), frame.headers.get("message_id", "")
        if total <= 1:
            return frame.payload
        parts = self._parts.setdefault(own, {})
        parts[_int(frame.headers.get("seq"), 0)] = frame.payload
        if len(parts) < total:
            while len(self._parts) > PARTS:
                del self._parts[next(iter(self._parts))]
            return None
        del self._parts[own]
        return b"".join(parts[index] for index in sorted(parts))


class _Failed(Exception):
    """The connection could not be made, or is lost."""


class _Denied(Exception):
    """The platform does not know us."""


async def _open(url: str, proxy: str) -> ClientConnection:
    return await connect(
        url, proxy=proxy or None, open_timeout=None, ping_interval=None, close_timeout=None, max_size=16 * 1024 * 1024
    )


def _int(value: str | None, default: int) -> int:
    try:
        return int(value or default)
    except ValueError:
        return default
