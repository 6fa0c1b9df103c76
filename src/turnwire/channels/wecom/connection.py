"""The long connection of a WeCom AI bot: one socket, subscribed, kept alive, replaced when it is lost.

Guarantee: nothing but the subscription is sent before the platform has taken it. Whatever was under way when the
connection is lost is `unknown`. A connection that is lost, closed or half-open is replaced with growing pauses, for
ever; but never one that the platform took away (`kicked`) or refused (`denied`): then the owner decides, by `resume`.
Source: the platform's pages 101833 to 101838 and its own clients.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import structlog

from ...clock import Clock, sleep, wait
from ...delivery.outcomes import refused
from ...delivery.traces import Recorder
from . import frames
from .errors import DENIED, NOT_SUBSCRIBED, Op
from .frames import Ack, Json
from .inbox import Handle, Inbox
from .lanes import Answer, Flight, Lanes
from .sockets import BROKEN, Opener, Socket

_log = structlog.get_logger(__name__)

State: TypeAlias = Literal["connecting", "ready", "waiting", "kicked", "denied", "closed"]
"""`waiting`: lost, and connected again by itself. `kicked`: another connection has the bot. `denied`: the platform does
not take its id and secret. After the last three nothing is done until the owner says so."""
HALTED = frozenset({"kicked", "denied", "closed"})

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
KICKED_S = 30.0
"""Seconds until a bot that was taken may be taken back; also after 846609, which is the same without being told."""
OPEN_S = 15.0
ACK_S = 5.0
SUBSCRIBE_S = 10.0
UPLOAD_S = 30.0
PING_S = 30.0
PONG_S = 10.0
MISSED = 2
"""Pings in a row without an answer after which a connection is half-open."""
CLOSE_S = 2.0

NOT_TAKEN = (
    "the platform does not take this bot_id and secret (853000): compare them with the bot's page, see that the bot is "
    "set to the long connection and not to a callback URL, then reload the configuration"
)
TAKEN_AWAY = "another connection has taken the bot: see that no second gateway or program runs with this bot_id"


class BotConnection:
    """One bot's connection. `start` it, and `close` it at the end.

    Args:
        opener: opens a socket; see `sockets.opener`.
        on_message, on_event: get what the bot is told, each one at a time and in order, messages beside events; what
            they raise is logged. An event is to be answered within 5 s of its `at`.
        on_ready: called when frames can be sent, each time anew.
        on_lost: called with the reason in plain words when they no longer can; `state` says what follows.
        name: of the bot in this gateway, for the log.

    Attributes:
        state: see `State`.
        reason: why it is not ready, for people.
        trace: told of every frame of business and its answer; None for nobody.
    """

    def __init__(
        self,
        *,
        bot_id: str,
        secret: str,
        opener: Opener,
        clock: Clock,
        on_message: Handle,
        on_event: Handle,
        on_ready: Callable[[], None] = lambda: None,
        on_lost: Callable[[str], None] = lambda reason: None,
        name: str = "",
    ) -> None:
        self.bot_id = bot_id
        self.name = name or bot_id
        self.state: State = "closed"
        self.reason = "it was not started"
        self.trace: Recorder | None = None
        self._secret = secret
        self._opener = opener
        self._clock = clock
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._inbox = Inbox({frames.MESSAGE: on_message, frames.EVENT: on_event}, name=self.name)
        self._lanes: Lanes | None = None
        self._changed = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resume_s = 0.0
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"BotConnection({self.name!r}, state={self.state!r})"

    # Lifecycle

    def start(self) -> None:
        """Begins to connect."""
        self._set("connecting", "it is being opened")
        self._task = asyncio.create_task(self._forever(), name=f"wecom-socket-{self.name}")
        self._inbox.start()

    async def close(self) -> None:
        """Closes the connection; what came before is handled, for at most `CLOSE_S` seconds."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        self._set("closed", "the gateway stops")
        await self._inbox.close(self._clock, CLOSE_S)
        self._task = None

    def resume(self, *, after_s: float = KICKED_S) -> None:
        """Connects again after `after_s` seconds, if it is `kicked` or `denied`; to be called by whoever is sure to own
        the bot."""
        if self.state in ("kicked", "denied"):
            self._set("waiting", f"it is opened again after {after_s:g} s, as its owner asked")
            self._resume_s = after_s
            self._resumed.set()

    async def ready(self) -> bool:
        """Returns once frames can be sent, or False once the connection waits for its owner or is closed."""
        while self.state != "ready" and self.state not in HALTED:
            await self._changed.wait()
        return self.state == "ready"

    async def halted(self) -> State:
        """Returns once nothing is done any more until the owner says so: `kicked`, `denied` or `closed`."""
        while self.state not in HALTED:
            await self._changed.wait()
        return self.state

    # Frames

    async def respond(self, req_id: str, body: Json, *, opens: bool = False, ack_s: float = ACK_S) -> Answer:
        """A reply to a message: `frames.stream`, `markdown`, `media` or `card`, under the request id of its callback.

        Args:
            opens: it is the first frame of its bubble, which `errors` tells from later ones.
            ack_s: seconds to wait for the answer; up to `lanes.LATE_S` that keeps back no other frame with this id, and
                makes fewer final frames `unknown`.
        """
        op = frames.op_of(frames.RESPOND, body)
        op = "open" if opens and op == "stream" else op
        return await self.call(frames.RESPOND, body, req_id=req_id, op=op, ack_s=ack_s)

    async def push(self, body: Json, *, ack_s: float = ACK_S) -> Answer:
        """A message that answers nothing (`frames.pushed`). Nothing makes it safe to repeat."""
        return await self.call(frames.PUSH, body, ack_s=ack_s)

    async def welcome(self, req_id: str, body: Json) -> Answer:
        """Greets who opened the chat: `frames.text` or `card`, within 5 s of the event, once."""
        return await self.call(frames.WELCOME, body, req_id=req_id)

    async def update_card(self, req_id: str, body: Json) -> Answer:
        """Replaces the card that was clicked (`frames.card_update`), within 5 s of the event, once."""
        return await self.call(frames.UPDATE, body, req_id=req_id)

    async def call(
        self, cmd: str, body: Json, *, req_id: str = "", op: Op | None = None, ack_s: float = ACK_S
    ) -> Answer:
        """Any frame, under a request id of our own if none is given; what became of it.

        It waits for the frames before it with the same request id, up to `lanes.WAITING` of them; if more wait, and
        while the connection is not ready, it is refused as busy without being sent.
        """
        if self._lanes is None:
            return Answer(refused("busy", f"the bot is not connected: {self.reason}; it was not sent"))
        lanes, trace = self._lanes, self.trace
        number = 0 if trace is None else trace.call("FRAME", cmd, _told(body), params={"req_id": req_id})
        answer = await self._call(lanes, cmd, body, req_id=req_id, op=op, ack_s=ack_s)
        if trace is not None:
            trace.answer(number, answer.receipt, answer.code, answer.body)
        return answer

    async def idle(self, req_id: str) -> None:
        """Returns once a frame with that request id would be sent at once: for whoever wants to send the newest."""
        if self._lanes is not None:
            await self._lanes.idle(req_id)

    async def _call(
        self, lanes: Lanes, cmd: str, body: Json | None, *, req_id: str = "", op: Op | None = None, ack_s: float
    ) -> Answer:
        op = op or frames.op_of(cmd, body)
        req_id = req_id or frames.new_req_id(op)
        try:
            text = frames.encode(cmd, req_id, body)
        except ValueError as error:
            return Answer(refused("content", f"the frame cannot be sent: {error}"))
        return await lanes.call(Flight(op, req_id, text, frozenset(body or ()), ack_s))

    # Connecting

    async def _forever(self) -> None:
        while True:
            wait_s = 0.0
            self._set("connecting", "it is being opened")
            try:
                await self._connected()
            except _Halted as halted:
                self._halt(halted)
                await self._resumed.wait()
                self._resumed.clear()
                self._failures, wait_s = 0, self._resume_s
            except (*BROKEN, _Failed) as error:
                wait_s = self._failed(str(error) or type(error).__name__, getattr(error, "wait_s", 0.0))
                _log.warning("the bot's connection is lost", bot=self.name, why=self.reason)
            except Exception as error:  # noqa: BLE001 - without this the bot would hear nothing any more
                wait_s = self._failed(type(error).__name__, 0.0)
                _log.error("the bot's connection failed, and is opened again", bot=self.name, exc_info=error)
            await sleep(self._clock, wait_s)

    def _failed(self, why: str, least_s: float) -> float:
        pause = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
        self._failures += 1
        self._set("waiting", f"it is lost and will be opened again: {why}")
        return max(pause * (1.0 + random.random() / 4), least_s)  # noqa: S311

    def _halt(self, halted: _Halted) -> None:
        # Told at once when it was ready; whoever was told may have asked to go on since.
        if self.state not in ("kicked", "denied") and not self._resumed.is_set():
            self._set(halted.state, str(halted))
            _log.error("the bot's connection is not opened again by itself", bot=self.name, why=self.reason)

    async def _connected(self) -> None:
        """One connection until it is lost; raises why."""
        socket = await self._open()
        lanes = Lanes(self._clock, name=self.name)
        tasks = {
            asyncio.create_task(self._read(socket, lanes)),
            asyncio.create_task(_write(socket, lanes)),
            asyncio.create_task(self._live(lanes)),
        }
        error: BaseException = _Failed("the connection was closed")
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            errors = [found for task in done if (found := task.exception()) is not None]
            error = next((one for one in errors if isinstance(one, _Halted)), errors[0])
            raise error
        finally:
            self._lose(lanes, error)
            await _end(tasks)
            await self._hang_up(socket)

    async def _open(self) -> Socket:
        opening = asyncio.ensure_future(self._opener())
        socket: Socket | None = None
        try:
            if not await wait(self._clock, {opening}, OPEN_S):
                raise _Failed(f"no connection within {OPEN_S:g} s")
            socket = opening.result()
            return socket
        finally:
            opening.cancel()
            await asyncio.wait({opening})
            if socket is None and not opening.cancelled() and opening.exception() is None:
                opening.result().abort()

    async def _hang_up(self, socket: Socket) -> None:
        closing = asyncio.ensure_future(socket.close())
        try:
            await wait(self._clock, {closing}, CLOSE_S)
        finally:
            socket.abort()
            await _end({closing})

    def _lose(self, lanes: Lanes, error: BaseException) -> None:
        """Nothing is sent on it any more."""
        reason = str(error) if isinstance(error, (_Halted, _Failed)) else "the connection was lost"
        was_ready = self._lanes is lanes
        if was_ready:
            self._lanes = None
            if isinstance(error, _Halted):
                self._halt(error)
            else:
                self._set("waiting", reason)
        lanes.lost(reason)
        if was_ready:
            self._tell(lambda: self._on_lost(reason))

    async def _live(self, lanes: Lanes) -> None:
        """Subscribes, and asks from time to time whether anybody is there."""
        said = frames.subscription(self.bot_id, self._secret)
        answer = await self._call(lanes, frames.SUBSCRIBE, said, ack_s=SUBSCRIBE_S)
        if answer.code == DENIED:
            raise _Halted("denied", NOT_TAKEN)
        if not answer.receipt.ok:
            raise _Failed(f"the subscription failed: {answer.receipt.reason}")
        self._failures = 0
        self._lanes = lanes
        self._set("ready", "")
        _log.info("the bot is connected", bot=self.name)
        self._tell(self._on_ready)
        missed = 0
        while missed < MISSED:
            await sleep(self._clock, PING_S)
            pong = await self._call(lanes, frames.PING, None, ack_s=PONG_S)
            missed = 0 if pong.code is not None else missed + 1
        raise _Failed("it is half-open: pings are not answered")

    # What comes

    async def _read(self, socket: Socket, lanes: Lanes) -> None:
        while True:
            data = await socket.recv()
            try:
                frame = frames.read(data, self._clock.monotonic())
            except frames.Unreadable as error:
                _log.warning("a frame cannot be read", bot=self.name, why=str(error))
                continue
            if isinstance(frame, Ack):
                lanes.answered(frame)
                if frame.code == NOT_SUBSCRIBED and self._lanes is lanes:
                    raise self._losing(lanes, _Failed("the platform says that the connection has no bot", KICKED_S))
            elif frame.cmd == frames.EVENT and frame.event == frames.DISCONNECTED:
                raise self._losing(lanes, _Halted("kicked", TAKEN_AWAY))
            else:
                self._inbox.put(frame)

    def _losing(self, lanes: Lanes, error: Exception) -> Exception:
        # At once, so that nothing is sent on it while the tasks end.
        self._lose(lanes, error)
        return error

    def _tell(self, owner: Callable[[], None]) -> None:
        try:
            owner()
        except Exception as error:  # noqa: BLE001 - what is left to do with the connection must still be done
            _log.error("the owner of the bot's connection failed", bot=self.name, exc_info=error)

    def _set(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _told(body: Json) -> Json:
    """A body for a trace: of a piece of a file only its size."""
    data = body.get("base64_data")
    return {**body, "base64_data": f"{len(data)} characters"} if isinstance(data, str) else body


class _Failed(Exception):
    """The connection could not be made, or is lost; it is not opened again for `wait_s` seconds."""

    def __init__(self, why: str, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.wait_s = wait_s


class _Halted(Exception):
    """The connection is gone and must not be opened again by itself."""

    def __init__(self, state: Literal["kicked", "denied"], why: str) -> None:
        super().__init__(why)
        self.state: State = state


async def _end(tasks: Iterable[asyncio.Future[None]]) -> None:
    """Has tasks end; what they say then is of no interest."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _write(socket: Socket, lanes: Lanes) -> None:
    while True:
        flight = await lanes.next()
        await socket.send(flight.text)
