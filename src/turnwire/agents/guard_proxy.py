"""The guard in front of a program that brings its own HTTP client: a way to one provider on a loopback port.

Guarantee: what the program reads is what `guard.py` lets through, so no stream hangs and none ends early unnoticed: a
stream that fails ends with the provider's own form of an error. Keys pass through and are kept nowhere; nothing but the
one provider can be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import httpx2
import msgspec
import structlog
import uvicorn
from starlette.types import Receive, Scope, Send

from ..clock import Clock
from .guard import GuardError, Limits, guarded_client

_log = structlog.get_logger(__name__)

MAX_BODY_BYTES = 64 * 1024 * 1024
CLOSE_S = 2
_HOP = frozenset(
    b"connection keep-alive proxy-authorization te trailer transfer-encoding upgrade host content-length "
    b"accept-encoding expect".split()
)
_ERROR = b"event: error\ndata: %b\n\n"


class GuardProxy:
    """A guarded way to the provider at `upstream`, for the Claude Code CLI and its like.

    It has an address, and answers, inside `async with`.

    Args:
        upstream: the provider's address, such as `https://api.anthropic.com`.
        proxy: address of an HTTP proxy on the way to the provider.

    Raises `ValueError` for an address that is none.
    """

    def __init__(
        self, upstream: str, *, proxy: str | None = None, limits: Limits | None = None, clock: Clock | None = None
    ) -> None:
        url = httpx2.URL(upstream)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{upstream!r} is no address of a provider; write https://HOST")
        self._upstream = upstream.rstrip("/")
        self._client = guarded_client(proxy=proxy, limits=limits, clock=clock)
        self._listener: socket.socket | None = None
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_S,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it answers. Raises `RuntimeError` before it is entered."""
        if self._listener is None:
            raise RuntimeError("the guard's proxy has no address yet; enter it first")
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._task = asyncio.create_task(self._server.serve([self._listener]), name="turnwire-guard-proxy")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task})
        if self._listener is not None:
            self._listener.close()
        await self._client.aclose()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request: sent on as it is; closed upstream as soon as the program goes away."""
        body = await _body(receive)
        if body is None:
            await _answer(send, 413, "The request is too large.")
            return
        passing = asyncio.create_task(self._pass(scope, body, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({passing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.wait({passing, leaving})
        if not passing.cancelled() and (failure := passing.exception()) is not None:
            raise failure

    async def _pass(self, scope: Scope, body: bytes, send: Send) -> None:
        target = scope["raw_path"].decode() + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
        request = self._client.build_request(
            scope["method"], self._upstream + target, headers=_passed(scope["headers"]), content=body
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.HTTPError as error:
            _log.warning("a provider could not be reached", error=type(error).__name__)
            await _answer(send, 502, str(error) if isinstance(error, GuardError) else "The model cannot be reached.")
            return
        async with contextlib.aclosing(response):
            headers = [*_passed(response.headers.raw), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            try:
                async for piece in response.aiter_raw():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except GuardError as error:
                await send({"type": "http.response.body", "body": _ERROR % _error(str(error)), "more_body": True})
            await send({"type": "http.response.body", "body": b""})


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Signals are the gateway's."""
        yield


async def _body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _answer(send: Send, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _error(message)})


def _error(message: str) -> bytes:
    """An error as Anthropic's API tells one."""
    return msgspec.json.encode({"type": "error", "error": {"type": "api_error", "message": message}})


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers that are for the other end."""
    return [(name, value) for name, value in headers if name.lower() not in _HOP]
