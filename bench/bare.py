"""The same agent and the same bytes without a gateway: what benches compare with and take off.

`/say` streams an agent of its own to each reader through Starlette's `StreamingResponse`; `/fan` sends one paced frame
to all readers of a slot, once its gate is open; `/nothing` runs agents whose words nobody takes.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from turnwire.chunks import TextDelta, encode

from .agents import WORD, Ask, agent, gate, ticker

BACKLOG = 4096
_draining: set[asyncio.Task[None]] = set()


def frame(number: int, text: str) -> bytes:
    """One delta as the gateway sends it."""
    return b"id: %d\ndata: %b\n\n" % (number, encode(TextDelta("t1", text)))


def _ask(request: Request) -> Ask:
    return msgspec.json.decode(request.query_params["ask"], type=Ask)


async def say(request: Request) -> Response:
    ask = _ask(request)

    async def body() -> AsyncIterator[bytes]:
        number = 0
        async for event in agent(ask):
            yield frame(number, event)
            number += 1

    return StreamingResponse(body(), media_type="text/event-stream")


async def fan(request: Request) -> Response:
    ask, slot = _ask(request), int(request.query_params["slot"])
    pace = ticker(ask.rate)

    async def body() -> AsyncIterator[bytes]:
        yield b":\n\n"
        if ask.gate:
            await gate(ask.gate).wait()
        data = frame(1000, WORD)
        while True:
            await pace.tick(slot)
            yield data

    return StreamingResponse(body(), media_type="text/event-stream")


async def nothing(request: Request) -> Response:
    ask = _ask(request)

    async def drain() -> None:
        async for _ in agent(ask):
            pass

    for _ in range(int(request.query_params["turns"])):
        _draining.add(asyncio.create_task(drain()))
    return PlainTextResponse("started")


ROUTES = [Route("/say", say), Route("/fan", fan), Route("/nothing", nothing)]


async def serve(app: Starlette) -> None:
    """Serves an app as `turnwire.server` does, until it is killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        backlog=BACKLOG,
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await serving


if __name__ == "__main__":
    uvloop.run(serve(Starlette(routes=ROUTES)))
