"""Transports that tests write themselves, under a guard on the test's clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx2
import pytest

from tests.fake_provider import delta, finish, sse, usage
from turnwire.agents.guard import GuardTransport, Limits
from turnwire.testing.clock import FakeClock

URL = "http://provider.test/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
WHOLE = [sse(delta("Hello, ")), sse(delta("wörld")), sse(finish()), sse(usage()), DONE]
KEY = "secret-key-without-a-prefix"


class Body(httpx2.AsyncByteStream):
    """A response's body whose pieces come from a generator; it remembers how it was treated."""

    def __init__(self, pieces: AsyncIterator[bytes], release: asyncio.Event) -> None:
        self.read = 0
        self.closed = False
        self.close_asked = False
        self._pieces = pieces
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._pieces:
            self.read += 1
            yield piece

    async def aclose(self) -> None:
        self.close_asked = True
        await self._release.wait()
        self.closed = True


class Inner(httpx2.AsyncBaseTransport):
    """Answers every request with the same kind of body. A stuck one does not close before its `release` is set."""

    def __init__(self, pieces: Callable[[], AsyncIterator[bytes]], **options: Any) -> None:
        self.bodies: list[Body] = []
        self.requests: list[httpx2.Request] = []
        self.closed = False
        self._pieces = pieces
        self.release = asyncio.Event()
        if not options.pop("stuck", False):
            self.release.set()
        self._status = options.pop("status", 200)
        self._headers = options

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        body = Body(self._pieces(), self.release)
        self.bodies.append(body)
        headers = {name.replace("_", "-"): value for name, value in self._headers.items()}
        return httpx2.Response(self._status, headers=headers, stream=body)

    async def aclose(self) -> None:
        self.closed = True
        await self.release.wait()


async def at_once(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def then_silence(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    await asyncio.Event().wait()


def client_of(inner: httpx2.AsyncBaseTransport, clock: FakeClock, **limits: Any) -> httpx2.AsyncClient:
    transport = GuardTransport(inner, clock=clock, limits=Limits(**limits))
    return httpx2.AsyncClient(transport=transport, trust_env=False)


def ask(client: httpx2.AsyncClient, **more: Any) -> Any:
    """A request for a chat-completions stream."""
    return client.stream("POST", URL, json={"stream": True}, headers={"authorization": f"Bearer {KEY}"}, **more)


async def open_(client: httpx2.AsyncClient) -> httpx2.Response:
    return await client.send(client.build_request("POST", URL, json={"stream": True}), stream=True)


async def passes(clock: FakeClock, work: Awaitable[Any], seconds: float) -> Any:
    """What `work` gives, which takes exactly so long."""
    begun, ended = clock.monotonic(), []
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda _: ended.append(clock.monotonic()))
    while not task.done():
        await clock.settle()
        if not task.done():
            await clock.advance(0.05)
            assert clock.monotonic() - begun < seconds + 1
    assert ended == [pytest.approx(begun + seconds, abs=1e-6)]
    return await task
