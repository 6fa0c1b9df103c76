"""Repeating a model request that failed before anything of its answer was given.

Guarantee: a request is repeated only while nobody has seen a word of its answer, at most `Retries.attempts` times in
all, and not sooner than the provider asks. After the first word a failure stays a failure: nothing is said twice.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import msgspec
import structlog

from ..clock import Clock, sleep
from ._guard_core import Guard
from ._guard_errors import GuardError, retry_after

_log = structlog.get_logger(__name__)

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that may be another one when asked again."""

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often a request is made, and how long it may wait in between, in seconds."""

    attempts: int = 3
    first_pause: float = 0.5
    """before the second attempt; doubled for each further one, with up to half of it added at random"""
    longest_pause: float = 20.0
    """a provider that asks for more is not asked again"""


class RetryTransport(httpx2.AsyncBaseTransport):
    """Repeats requests that fail before their answer begins.

    Args:
        inner: a `GuardTransport`; it is closed with this transport.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, retries: Retries, clock: Clock) -> None:
        self._inner = inner
        self._retries = retries
        self._clock = clock

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response to `request`, of its last attempt. Raises what that attempt raised."""
        tries = _Tries(self._inner, request, self._retries, self._clock)
        response = await tries.response()
        guard = response.extensions.get("turnwire.guard")
        if response.status_code != 200 or guard is None or not isinstance(response.stream, httpx2.AsyncByteStream):
            return response
        return httpx2.Response(
            200,
            headers=response.headers,
            stream=_RepeatedStream(response.stream, guard, tries.again),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes the inner transport."""
        await self._inner.aclose()


class _Tries:
    """The attempts at one request."""

    def __init__(
        self, inner: httpx2.AsyncBaseTransport, request: httpx2.Request, retries: Retries, clock: Clock
    ) -> None:
        self._inner = inner
        self._request = request
        self._retries = retries
        self._clock = clock
        self._made = 0
        self._left = retries.attempts
        try:
            _ = request.content
        except httpx2.RequestNotRead:
            # A body that is produced while it is sent cannot be sent again.
            self._left = 1

    async def response(self) -> httpx2.Response:
        """The first response that is not worth another attempt."""
        while True:
            self._left -= 1
            self._made += 1
            try:
                response = await self._inner.handle_async_request(self._request)
            except (*_UNSENT, *_LOST) as error:
                if not await self._pause(type(error).__name__, getattr(error, "retry_after", None)):
                    raise
                continue
            if response.status_code not in PASSING:
                return response
            if not await self._pause(str(response.status_code), retry_after(response.headers), response):
                return response

    async def again(self, error: GuardError) -> httpx2.Response | None:
        """The response of a further attempt after a stream that failed, or None if there is none worth reading."""
        if error.partial or not error.retryable or not await self._pause(error.kind, error.retry_after):
            return None
        response = await self.response()
        if response.status_code == 200 and "turnwire.guard" in response.extensions:
            return response
        await response.aclose()
        return None

    async def _pause(self, why: str, asked: float | None, response: httpx2.Response | None = None) -> bool:
        """Waits before the next attempt; False if there is none."""
        if self._left <= 0 or (asked is not None and asked > self._retries.longest_pause):
            return False
        if response is not None:
            await response.aclose()
        pause = min(self._retries.first_pause * 2 ** (self._made - 1), self._retries.longest_pause)
        pause = max(pause * random.uniform(1, 1.5), asked or 0.0)  # noqa: S311 - it spreads load, it hides nothing
        _log.info("a model request is made again", why=why, attempt=self._made + 1, pause_s=round(pause, 2))
        await sleep(self._clock, pause)
        return True


class _RepeatedStream(httpx2.AsyncByteStream):
    """A guarded stream whose first bytes wait until they say something, so that another may still take its place."""

    def __init__(
        self,
        stream: httpx2.AsyncByteStream,
        guard: Guard,
        again: Callable[[GuardError], Awaitable[httpx2.Response | None]],
    ) -> None:
        self._stream = stream
        self._guard = guard
        self._again = again
        self._held: list[bytes] = []
        self._told = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                data = await self._next()
            except StopAsyncIteration:
                if self._held:
                    return self._release()
                raise
            except GuardError as error:
                if self._told or not await self._begin_again(error):
                    raise
                continue
            if self._told:
                return data
            self._held.append(data)
            if self._guard.partial or self._guard.ended:
                return self._release()

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _next(self) -> bytes:
        return await self._stream.__aiter__().__anext__()

    def _release(self) -> bytes:
        held, self._held, self._told = b"".join(self._held), [], True
        return held

    async def _begin_again(self, error: GuardError) -> bool:
        await self._stream.aclose()
        response = await self._again(error)
        if response is None or not isinstance(response.stream, httpx2.AsyncByteStream):
            return False
        self._stream, self._guard, self._held = response.stream, response.extensions["turnwire.guard"], []
        return True
