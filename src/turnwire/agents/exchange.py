"""One HTTP exchange whose body can be waited for with a bound."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import httpx2

from ..clock import Clock, Handle

BROKEN = (httpx2.HTTPError, OSError)
"""What a broken exchange raises."""

QUEUED_CHUNKS = 64
"""Pieces of a body that wait for their reader, of at most 64 kB each; then the peer has to wait."""

_TICK = 1e-6


class Late(Exception):
    """A bound has passed."""


class Exchange:
    """One HTTP exchange, read by a task of its own, so that a bound can pass without cutting a read in two."""

    def __init__(self, client: httpx2.AsyncClient, request: httpx2.Request, clock: Clock) -> None:
        self._clock = clock
        self._response: httpx2.Response | None = None
        self._chunks: deque[bytes] = deque()
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: Handle | None = None
        self._timer_due = 0.0
        self.task = asyncio.create_task(self._run(client, request))
        self.task.add_done_callback(lambda _: self._wake())

    async def head(self, due: float) -> httpx2.Response:
        """The response without its body.

        Raises `Late` at `due` (monotonic seconds), and what the exchange ended with if it broke.
        """
        while self._response is None:
            if self.task.done():
                await self.task
            await self._wait(due)
        return self._response

    async def take(self, due: float) -> bytes | None:
        """The next bytes of the body, None at its end; raises as `head` does.

        Bytes that have already come are given even after `due`.
        """
        while not self._chunks:
            if self.task.done():
                await self.task
                return None
            await self._wait(due)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return self._chunks.popleft()

    async def drain(self, due: float) -> None:
        """Lets the body end, until `due`; its bytes are dropped."""
        with contextlib.suppress(Late, *BROKEN):
            while await self.take(due) is not None:
                pass

    async def _run(self, client: httpx2.AsyncClient, request: httpx2.Request) -> None:
        response = await client.send(request, stream=True)
        try:
            self._response = response
            self._wake()
            async for chunk in response.aiter_bytes():
                while len(self._chunks) >= QUEUED_CHUNKS:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                self._chunks.append(chunk)
                self._wake()
        finally:
            await response.aclose()

    async def _wait(self, due: float) -> None:
        """Until there is news. One timer serves many waits: when it fires too early, the caller simply waits again."""
        left = due - self._clock.monotonic()
        if left <= _TICK:
            raise Late
        if self._timer is None or self._timer_due > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_due = self._clock.call_later(left, self._fire), due
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def _fire(self) -> None:
        self._timer = None
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        if self.task.done() and self._timer is not None:
            self._timer.cancel()
            self._timer = None
