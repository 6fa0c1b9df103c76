"""The long connection: frames in, answers by request id, one valid connection per bot.

Guarantee: answers to frames with the same request id come in the order of the frames; a bot's newest subscribed
connection gets all that the bot is told, and the one before it is told so and closed.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from websockets.frames import Frame as WsFrame
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from turnwire.clock import Handle, sleep

from . import _wecom_say as say
from . import _wecom_uploads as uploads
from ._http import Request
from ._json import Json, read_object
from ._serving import Line
from ._websocket import asked
from ._wecom_codes import Refused, invalid
from ._wecom_faults import KICKS, UNTAKEN, change_state, refusal
from ._wecom_observer import Call, Observer, op_of
from ._wecom_socket import Job, Socket
from ._wecom_state import Callback, Platform
from .faults import Faults

MAX_FRAME = 4 * 1024 * 1024
REPLIES = {"reply", "stream", "finish", "welcome", "update"}
_NO_PATH = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Connections:
    """The long connections of all bots.

    Args:
        platform: what they talk about.
        faults: drawn for each frame, and for each thing that a bot is told.
        observer: notes the frames.
    """

    def __init__(self, platform: Platform, faults: Faults, observer: Observer) -> None:
        self.sockets: list[Socket] = []
        self._platform = platform
        self._faults = faults
        self._observer = observer
        self._newest: dict[str, Socket] = {}
        self._chunks: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[Handle] = []

    def subscribed(self, bot_id: str) -> bool:
        """Whether a connection has the bot."""
        return bot_id in self._newest

    # One connection

    async def serve(self, request: Request, line: Line) -> None:
        """Talks on a websocket until one side ends it."""
        protocol = ServerProtocol(max_size=MAX_FRAME)
        handshake = asked(protocol, request)
        if handshake is None or request.path not in ("", "/"):
            line.writer.write(_NO_PATH)
            return
        socket = Socket(line, protocol)
        socket.accept(handshake)
        self.sockets.append(socket)
        self._watch(socket)
        try:
            await self._listen(socket)
        finally:
            self._gone(socket)

    async def _listen(self, socket: Socket) -> None:
        while data := await socket.line.reader.read(256 * 1024):
            socket.protocol.receive_data(data)
            for event in socket.protocol.events_received():
                if isinstance(event, WsFrame) and event.opcode in (Opcode.TEXT, Opcode.CONT):
                    socket.text += bytes(event.data)
                    if event.fin:
                        text, socket.text = socket.text, b""
                        self._received(socket, text)
            socket.write()
            if socket.protocol.close_expected():
                return
            await socket.line.writer.drain()

    def _gone(self, socket: Socket) -> None:
        self.sockets.remove(socket)
        for handle in (socket.watch, socket.closing):
            if handle is not None:
                handle.cancel()
        self._leave(socket)
        self._observer.changed()

    def _leave(self, socket: Socket) -> None:
        if self._newest.get(socket.bot_id) is socket:
            del self._newest[socket.bot_id]

    def _watch(self, socket: Socket) -> None:
        """Closes the connection when no ping has come for too long."""
        if socket.watch is not None:
            socket.watch.cancel()
            socket.watch = None
        if seconds := self._platform.switches.ping_timeout:
            socket.watch = self._platform.clock.call_later(seconds, socket.drop)

    # Frames

    def _received(self, socket: Socket, text: bytes) -> None:
        if socket.silent:
            return
        frame = read_object(text)
        cmd, headers, body = frame.get("cmd"), frame.get("headers"), frame.get("body", {})
        req_id = headers.get("req_id") if isinstance(headers, dict) else None
        if not isinstance(cmd, str) or not isinstance(req_id, str) or not 0 < len(req_id.encode()) <= 256:
            said = "invalid frame: an object with cmd and headers.req_id of 1 to 256 bytes"
            socket.send({"errcode": 40058, "errmsg": said})
            return
        body = body if isinstance(body, dict) else {}
        op, now = op_of(cmd, body), self._platform.now()
        call = self._observer.begin(op, now, socket.line.number, req_id, body)
        call.overlapping = socket.unanswered[req_id]
        socket.unanswered[req_id] += 1
        fault = self._faults.draw(op, *self._targets(socket, call))
        call.fault = fault.kind if fault else ""
        job = Job(socket, call, fault, socket.last.get(req_id), asyncio.Event(), self._crowded(call))
        socket.last[req_id] = job.done
        self._spawn(job)

    def _crowded(self, call: Call) -> bool:
        upload = self._platform.uploads.get(call.target) if call.op == "upload_chunk" else None
        if call.op == "upload_chunk":
            self._chunks[call.target] += 1
        return upload is not None and self._chunks[call.target] > uploads.parallel(upload)

    def _targets(self, socket: Socket, call: Call) -> set[str]:
        callback = self._platform.callbacks.get(call.req_id)
        about = {callback.chat, callback.user, callback.about} if callback else set()
        return {call.target, call.req_id, socket.bot_id, *about}

    def _spawn(self, job: Job) -> None:
        task = asyncio.get_running_loop().create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, job: Job) -> None:
        code: int | None = None
        try:
            if job.before is not None:
                await job.before.wait()
            answer = await self._answered(job)
            if answer is not None:
                code = int(answer["errcode"])
                job.socket.send(answer)
        finally:
            self._release(job)
            self._observer.end(job.call, self._platform.now(), code)
        if job.call.op == "subscribe" and code == 0:
            self._catch_up(job.socket)

    async def _answered(self, job: Job) -> Json | None:
        """What the sender learns; None for nothing."""
        switches, clock, kind = self._platform.switches, self._platform.clock, job.kind
        half = (switches.chunk_latency if job.call.op == "upload_chunk" else switches.latency) / 2
        if half:
            await sleep(clock, half)
        if kind in UNTAKEN:
            self._broken(job.socket, kind)
            return None
        if kind in KICKS:
            self.kick(job.socket, close=kind == "kick")
        if job.fault is not None:
            change_state(self._platform, job.fault, job.call.req_id)
            if kind == "slow":
                await sleep(clock, job.fault.seconds)
        answer = self._applied(job)
        if kind in ("reset_after_applying", "close_after_applying", "ack_lost"):
            self._broken(job.socket, kind)
            return None
        if job.fault is not None and kind in ("refuse_after_applying", "orphan_after_applying"):
            answer = self._refused(job, refusal(job.fault))
        if job.fault is not None and kind == "ack_late":
            self._release(job)
            await sleep(clock, job.fault.seconds or 6.0)
        if half:
            await sleep(clock, half)
        return answer

    def _release(self, job: Job) -> None:
        """The next frame with this request id may be dealt with."""
        if job.done.is_set():
            return
        job.done.set()
        call, socket = job.call, job.socket
        socket.unanswered[call.req_id] -= 1
        if not socket.unanswered[call.req_id]:
            del socket.unanswered[call.req_id], socket.last[call.req_id]
        if call.op == "upload_chunk":
            self._chunks[call.target] -= 1

    def _broken(self, socket: Socket, kind: str) -> None:
        if kind.startswith("reset"):
            socket.reset()
        elif kind.startswith("close"):
            socket.close()
        elif kind == "half_open":
            self.silence(socket)

    # What frames do

    def _applied(self, job: Job) -> Json:
        call, fault = job.call, job.fault
        try:
            if fault is not None and job.kind in ("refuse", "orphan"):
                raise refusal(fault)
            if job.kind == "drop":
                return _answer(call.req_id)
            if call.overlapping and call.op in REPLIES and self._platform.switches.race == "conflict":
                raise Refused(6000)
            if job.crowded:
                raise Refused(-1)
            data = self._done(job.socket, call)
        except Refused as refused:
            return self._refused(job, refused)
        call.applied = True
        return _answer(call.req_id, data)

    def _refused(self, job: Job, refused: Refused) -> Json:
        answer = {"errcode": refused.code, "errmsg": refused.msg}
        return answer if refused.orphan else {"headers": {"req_id": job.call.req_id}, **answer}

    def _done(self, socket: Socket, call: Call) -> Json | None:
        platform = self._platform
        if call.op == "subscribe" and socket.state != "kicked":
            self._subscribe(socket, call.body)
            return None
        if call.op == "ping":
            self._watch(socket)
            return None
        if socket.state != "subscribed":
            raise Refused(846609)
        bot = platform.bots[socket.bot_id]
        match call.op:
            case "reply" | "stream" | "finish":
                say.respond(platform, bot, call.req_id, call.body)
            case "welcome":
                say.welcome(platform, bot, call.req_id, call.body)
            case "update":
                say.update_card(platform, bot, call.req_id, call.body)
            case "push":
                say.push(platform, bot, call.body)
            case "upload_init":
                return uploads.begin(platform, bot, call.body)
            case "upload_chunk":
                uploads.chunk(platform, bot, call.body)
            case "upload_finish":
                return uploads.finish(platform, bot, call.body)
            case _:
                raise invalid("cmd", "there is no such command")
        return None

    def _subscribe(self, socket: Socket, body: Json) -> None:
        bot = self._platform.bots.get(str(body.get("bot_id", "")))
        if bot is None or bot.secret != body.get("secret") or bot.webhook is not None:
            raise Refused(853000)
        if socket not in self.sockets:
            # A connection that has gone meanwhile takes the bot from nobody.
            return
        old = self._newest.get(bot.bot_id)
        if old is not None and old is not socket:
            self.kick(old)
        self._leave(socket)
        socket.bot_id, socket.state = bot.bot_id, "subscribed"
        self._newest[bot.bot_id] = socket
        self._watch(socket)

    # What others do to connections

    def kick(self, socket: Socket, *, close: bool = True) -> None:
        """Another connection has the bot: this one is told, takes no more business, and is closed later."""
        self._leave(socket)
        if socket.state != "subscribed":
            return
        socket.state = "kicked"
        body: Json = {"msgid": self._platform.make_id("id_"), "create_time": int(self._platform.now())}
        body |= {"aibotid": socket.bot_id, "msgtype": "event", "event": {"eventtype": "disconnected_event"}}
        headers = {"req_id": self._platform.make_id("req_")}
        socket.send({"cmd": "aibot_event_callback", "headers": headers, "body": body})
        seconds = self._platform.switches.kick_close
        if close and seconds >= 0:
            socket.closing = self._platform.clock.call_later(seconds, socket.drop)

    def silence(self, socket: Socket) -> None:
        """The connection stays open, and nothing comes out of it any more."""
        socket.silent = True
        for handle in (socket.watch, socket.closing):
            if handle is not None:
                handle.cancel()

    def of(self, bot_id: str) -> list[Socket]:
        """The connections of a bot, or all of them."""
        return [each for each in self.sockets if not bot_id or each.bot_id == bot_id]

    def break_all(self, how: str, bot_id: str = "") -> int:
        """Has connections `reset`, `close`, `kick` or `half_open`; how many there were. Raises `ValueError`."""
        ways: dict[str, Callable[[Socket], None]] = {
            "reset": Socket.reset,
            "close": Socket.close,
            "kick": self.kick,
            "half_open": self.silence,
        }
        if how not in ways:
            raise ValueError(f"how: must be one of {', '.join(ways)}")
        found = self.of(bot_id)
        for socket in found:
            ways[how](socket)
        return len(found)

    # What bots are told

    def deliver(self, callback: Callback) -> None:
        """Tells a bot, unless a fault decides otherwise."""
        fault = self._faults.draw("callback", callback.bot_id, callback.chat, callback.user, callback.kind)
        kind = fault.kind if fault else ""
        if fault is not None and kind == "delay":
            self._timers.append(self._platform.clock.call_later(fault.seconds, lambda: self._tell(callback)))
            return
        if kind in ("reset", "close") and (socket := self._newest.get(callback.bot_id)):
            self._broken(socket, kind)
            return
        if kind != "lose":
            self._tell(callback)
        if kind == "duplicate":
            self._tell(again(self._platform, callback))

    def _tell(self, callback: Callback) -> None:
        socket = self._newest.get(callback.bot_id)
        if socket is None or not socket.open:
            return
        callback.delivered = not socket.silent
        cmd = "aibot_msg_callback" if callback.kind == "message" else "aibot_event_callback"
        socket.send({"cmd": cmd, "headers": {"req_id": callback.req_id}, "body": callback.body})

    def _catch_up(self, socket: Socket) -> None:
        if self._platform.switches.gap == "deliver" and self._newest.get(socket.bot_id) is socket:
            for callback in list(self._platform.callbacks.values()):
                if callback.bot_id == socket.bot_id and callback.kind == "message" and not callback.delivered:
                    self._tell(callback)

    async def close(self) -> None:
        """Ends what is under way."""
        for handle in self._timers:
            handle.cancel()
        self._timers.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def again(platform: Platform, callback: Callback) -> Callback:
    """The same once more: with its msgid, under another request id."""
    twin = replace(callback, req_id=platform.make_id("req_"), streams={}, body=json.loads(json.dumps(callback.body)))
    platform.callbacks[twin.req_id] = twin
    return twin


def _answer(req_id: str, data: Json | None = None) -> Json:
    answer: Json = {"headers": {"req_id": req_id}, "errcode": 0, "errmsg": "ok"}
    return answer | ({"body": data} if data else {})
