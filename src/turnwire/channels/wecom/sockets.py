"""The socket under the long connection.

Guarantee: proxies of the environment are ignored; nothing is kept alive or timed here, the connection does that on its
own clock.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

URL = "wss://openws.work.weixin.qq.com"
MESSAGE_BYTES = 16 * 1024 * 1024
# The library's own traces hold whole frames, and so the secret.
_QUIET = logging.getLogger(f"{__name__}.quiet")
_QUIET.setLevel(logging.INFO)
BROKEN = (OSError, EOFError, TimeoutError, WebSocketException)
"""What a socket raises when it cannot be opened, or is no more."""


class Socket(Protocol):
    """Messages of text in both directions; `send` and `recv` raise one of `BROKEN` once it is closed, however."""

    async def send(self, text: str) -> None: ...

    async def recv(self) -> str | bytes: ...

    async def close(self) -> None:
        """Closes as one who is done; may take for ever."""
        ...

    def abort(self) -> None:
        """Closes now."""
        ...


Opener: TypeAlias = Callable[[], Awaitable[Socket]]


class _WebSocket:
    """A socket of the network."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, text: str) -> None:
        await self._connection.send(text)

    async def recv(self) -> str | bytes:
        return await self._connection.recv()

    async def close(self) -> None:
        await self._connection.close()

    def abort(self) -> None:
        self._connection.transport.abort()


def opener(url: str = URL, proxy: str = "") -> Opener:
    """Opens websockets to `url`, through the HTTP proxy at that address if there is one."""

    async def opened() -> Socket:
        connection = await connect(
            url,
            proxy=proxy or None,
            open_timeout=None,
            ping_interval=None,
            close_timeout=None,
            compression=None,
            logger=_QUIET,
            max_size=MESSAGE_BYTES,
        )
        return _WebSocket(connection)

    return opened
