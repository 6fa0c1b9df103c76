"""A websocket of a simulated platform: its handshake, and what can be written on it.

Guarantee: nothing is written to a connection that is closed or being closed: to its sender that is a lost connection.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request as WsRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from ._http import Request, reset
from ._serving import Line


def asked(protocol: ServerProtocol, request: Request) -> WsRequest | None:
    """The handshake that a request asks for, None for none that can be understood."""
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    protocol.receive_data(f"{request.method} {request.target} HTTP/1.1\r\n{head}\r\n".encode())
    return next((each for each in protocol.events_received() if isinstance(each, WsRequest)), None)


@dataclass(eq=False)
class WebSocket:
    """One connection. While it is `silent`, nothing comes out of it."""

    line: Line
    protocol: ServerProtocol
    silent: bool = False

    @property
    def open(self) -> bool:
        """Neither side has begun to close it."""
        return not self.line.writer.is_closing() and self.protocol.state is State.OPEN

    def accept(self, asked: WsRequest) -> None:
        """Answers the handshake."""
        with contextlib.suppress(InvalidHandshake):
            self.protocol.send_response(self.protocol.accept(asked))
        self.write()

    def write(self) -> None:
        """Hands on what the protocol wants to say."""
        for data in self.protocol.data_to_send():
            if data and not self.silent and not self.line.writer.is_closing():
                self.line.writer.write(data)

    def reset(self) -> None:
        """Ends the connection with an RST."""
        reset(self.line.writer)

    def close(self) -> None:
        """Closes as one who is done."""
        if self.open:
            self.protocol.send_close(1000)
            self.write()
