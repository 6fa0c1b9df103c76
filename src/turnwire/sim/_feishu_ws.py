"""The long connection: its endpoint, its websockets, and the events on them.

Guarantee: each event goes to one connection of its app, chosen by chance, in as many frames as its size asks for; only
an answer with code 200 within three seconds acknowledges it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import urlencode

from websockets.frames import Frame as WsFrame
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from ._feishu_events import Delivery, EventQueue
from ._feishu_frames import CONTROL, DATA, BadFrame, Frame, decode, encode
from ._feishu_state import App, Tenant
from ._http import Request, reset
from ._json import Json, compact, read_object
from ._serving import Line
from ._websocket import WebSocket, asked
from .faults import Faults

ENDPOINT_PATH = "/callback/ws/endpoint"
SOCKET_PATH = "/callback/ws/connect"
MAX_CONNECTIONS = 50
SERVICE_ID = 33554678
SPLIT_BYTES = 8 * 1024
BUSY, FORBIDDEN, AUTH_FAILED, INTERNAL, NO_CREDENTIAL, TOO_MANY = 1, 403, 514, 1000040343, 1000040344, 1000040350
KINDS = {
    "ws_reset": "A connection is reset without a close frame when the next event should be sent on it.",
    "ws_close": "A connection is closed with code 1000 instead of sending the next event on it.",
}


@dataclass(eq=False)
class Socket(WebSocket):
    """One websocket of an app."""

    app_id: str = ""
    sent: dict[str, Delivery] = field(default_factory=dict)

    def send(self, frame: Frame) -> None:
        """Sends one frame."""
        if self.open:
            self.protocol.send_binary(encode(frame))
            self.write()


class LongConnections:
    """The websockets of a tenant.

    Args:
        tenant: whose apps connect.
        events: what is sent.
        faults: drawn for each event that is sent, as the operation `socket`.
    """

    def __init__(self, tenant: Tenant, events: EventQueue, faults: Faults) -> None:
        self.config: Json = {"ReconnectCount": -1, "ReconnectInterval": 120, "ReconnectNonce": 30, "PingInterval": 120}
        self.split_bytes = SPLIT_BYTES
        self.pongs_carry_config = True
        self.sockets: list[Socket] = []
        self._tenant = tenant
        self._events = events
        self._faults = faults
        self._tickets: dict[str, str] = {}

    # The endpoint

    def endpoint(self, base_url: str, body: Json) -> Json:
        """Where an app may connect; the code says why not."""
        app_id, secret = body.get("AppID"), body.get("AppSecret")
        if not app_id or not secret:
            return {"code": NO_CREDENTIAL, "msg": "AppID and AppSecret are required", "data": None}
        app = self._tenant.apps.get(str(app_id))
        if app is None or app.secret != secret:
            return {"code": AUTH_FAILED, "msg": "app_id or app_secret is invalid", "data": None}
        if app.webhook:
            return {"code": FORBIDDEN, "msg": "the app receives its events by webhook", "data": None}
        if self._count(app) >= MAX_CONNECTIONS:
            return {"code": TOO_MANY, "msg": "the number of connections exceeded the limit", "data": None}
        ticket = self._tenant.make_id("ticket-")
        self._tickets[ticket] = app.app_id
        query = urlencode({"device_id": self._tenant.make_id(""), "service_id": SERVICE_ID, "ticket": ticket})
        url = f"{base_url.replace('http', 'ws', 1)}{SOCKET_PATH}?{query}"
        return {"code": 0, "msg": "", "data": {"URL": url, "ClientConfig": self.config}}

    def _count(self, app: App) -> int:
        return sum(socket.app_id == app.app_id for socket in self.sockets)

    # One connection

    async def serve(self, request: Request, line: Line) -> None:
        """Talks on a websocket until one side ends it."""
        protocol = ServerProtocol(max_size=None)
        handshake = asked(protocol, request)
        app_id = self._tickets.pop(request.query.get("ticket", ""), "")
        app = self._tenant.apps.get(app_id)
        if request.path != SOCKET_PATH or handshake is None or app is None:
            line.writer.write(_refusal(AUTH_FAILED, "the ticket is not valid", INTERNAL))
            return
        if self._count(app) >= MAX_CONNECTIONS:
            line.writer.write(_refusal(AUTH_FAILED, "the number of connections exceeded the limit", TOO_MANY))
            return
        socket = Socket(line, protocol, app_id=app_id)
        socket.accept(handshake)
        self.sockets.append(socket)
        sender = self._sender(socket)
        self._events.attach(app_id, sender)
        try:
            await self._listen(socket)
        finally:
            self._events.detach(app_id, sender)
            self.sockets.remove(socket)

    async def _listen(self, socket: Socket) -> None:
        while data := await socket.line.reader.read(64 * 1024):
            socket.protocol.receive_data(data)
            for event in socket.protocol.events_received():
                if isinstance(event, WsFrame) and event.opcode is Opcode.BINARY:
                    self._received(socket, bytes(event.data))
            socket.write()
            if socket.protocol.close_expected():
                return
            await socket.line.writer.drain()

    def _received(self, socket: Socket, data: bytes) -> None:
        try:
            frame = decode(data)
        except BadFrame:
            socket.protocol.fail(1002, "no frame of pbbp2")
            return
        if frame.method == CONTROL and frame.headers.get("type") == "ping":
            config = compact(self.config).encode() if self.pongs_carry_config else b""
            socket.send(Frame(CONTROL, {"type": "pong"}, config, service=frame.service))
        elif frame.method == DATA and (delivery := socket.sent.pop(frame.headers.get("message_id", ""), None)):
            said = read_object(frame.payload)
            self._events.ack(delivery, ok=said.get("code") == 200, answer=read_object(_unwrapped(said.get("data"))))

    # Events

    def _sender(self, socket: Socket) -> _Sender:
        return _Sender(self, socket)

    def send(self, socket: Socket, delivery: Delivery) -> None:
        """Sends an event on a connection, unless a fault ends the connection instead."""
        fault = self._faults.draw("socket", socket.app_id)
        if fault is not None and fault.kind == "ws_reset":
            reset(socket.line.writer)
            return
        if fault is not None and fault.kind == "ws_close":
            socket.close()
            return
        message_id = f"{delivery.event_id}-{len(delivery.attempts)}"
        socket.sent[message_id] = delivery
        payload = compact(delivery.body).encode("utf-8", "replace")
        pieces = [payload[at : at + self.split_bytes] for at in range(0, len(payload), self.split_bytes)]
        now = str(int(self._tenant.now() * 1000))
        for seq, piece in enumerate(pieces):
            headers = {"type": "event", "message_id": message_id, "sum": str(len(pieces)), "seq": str(seq)}
            headers |= {"trace_id": f"trace-{message_id}", "timestamp": now}
            socket.send(Frame(DATA, headers, piece, service=SERVICE_ID, seq_id=seq + 1, log_id=seq + 1))

    def reset_all(self) -> None:
        """Breaks every connection without a close frame."""
        for socket in self.sockets:
            reset(socket.line.writer)


class _Sender:
    """Sends events on one connection; a class, so that two of them are never equal."""

    def __init__(self, connections: LongConnections, socket: Socket) -> None:
        self._connections = connections
        self._socket = socket

    def __call__(self, delivery: Delivery) -> None:
        self._connections.send(self._socket, delivery)


def _refusal(status: int, msg: str, auth_code: int) -> bytes:
    headers = {"handshake-status": status, "handshake-msg": msg, "handshake-autherrcode": auth_code}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 403 Forbidden\r\n{lines}content-length: 0\r\nconnection: close\r\n\r\n".encode()


def _unwrapped(data: object) -> bytes:
    try:
        return base64.b64decode(data) if isinstance(data, str) else b""
    except ValueError:
        return b""
