"""One serving process: the gateway behind uvicorn, from the ready line to the last drained turn.

Guarantee: `ready http://HOST:PORT` is printed once requests are accepted. SIGTERM and SIGINT refuse new work, let live
turns finish within `drain_s`, end the rest `interrupted` and return; a second signal does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import structlog
import uvicorn

from .agents.load import AgentSpec
from .channels.web.api import web_app
from .config import Config
from .gateway import Gateway

_log = structlog.get_logger(__name__)

BACKLOG = 4096
CLOSE_S = 3
_BROKEN_BODY = "ASGI callable returned without completing response."


class PortInUse(Exception):
    """The address cannot be listened on."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: stopping is the gateway's business. `up` is set once it accepts requests."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(config: Config, spec: AgentSpec, *, ready: Callable[[str], None] = print) -> None:
    """Serves until a signal comes; `ready` gets the line that says where.

    Raises `PortInUse`, `StoreError` and `StoreInUse` before anything is served.
    """
    async with serving(config, spec) as (url, stopped):
        ready(f"ready {url}")
        await stopped.wait()


@contextlib.asynccontextmanager
async def serving(config: Config, spec: AgentSpec) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that runs inside the block: its address, and the event that says a signal asked it to stop."""
    listener = _listen(config.server.host, config.server.port)
    try:
        async with _signals() as (stopped, hurry), spec as agent:
            gateway = Gateway(config, agent)
            await gateway.start()
            server = _uvicorn(gateway)
            task = asyncio.create_task(server.serve([listener]), name="turnwire-http")
            try:
                await _started(server, task)
                yield _address(listener), stopped
            finally:
                gateway.ready = False
                _log.info("draining", live_turns=len(gateway.supervisor.live), drain_s=config.turns.drain_s)
                await _stop(gateway, hurry)
                server.should_exit = True
                await asyncio.wait({task})
    finally:
        listener.close()


async def _stop(gateway: Gateway, hurry: asyncio.Event) -> None:
    stopping = asyncio.create_task(gateway.stop(hurry=hurry))
    await asyncio.shield(stopping)


async def _started(server: _Server, task: asyncio.Task[None]) -> None:
    up = asyncio.create_task(server.up.wait())
    try:
        await asyncio.wait({up, task}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        up.cancel()
    if not server.up.is_set():
        task.result()
        raise PortInUse("the HTTP server did not start; its log says why")


def _uvicorn(gateway: Gateway) -> _Server:
    logging.getLogger("uvicorn.error").addFilter(_expected)
    return _Server(
        uvicorn.Config(
            web_app(gateway),
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            backlog=BACKLOG,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=CLOSE_S,
            proxy_headers=True,
        )
    )


def _expected(record: logging.LogRecord) -> bool:
    """Broken bodies are how an unfinished turn is told to its readers; they are counted, not logged."""
    return record.getMessage() != _BROKEN_BODY


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # A client that takes nothing is ended by the kernel; closing its connection would wait for it.
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise PortInUse(
            f"[server] host = {host!r}, port = {port}: cannot listen there ({error.strerror}); "
            "stop what uses it or choose another port"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def _signals() -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """The first signal asks to stop, the second to hurry."""
    stopped, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        (hurry if stopped.is_set() else stopped).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    try:
        yield stopped, hurry
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
