"""An `httpx2` transport that makes the streams of model providers honest, under every provider's library.

Guarantee: a guarded stream ends within a bound, and it ends without an error only after the provider's finish or end
marker. Whatever came before an error has been handed on. No error text holds a secret. Proxies of the environment are
ignored. Streams that nobody reads to their end are closed with their turn or with the client.

The wires are recognised by their requests: Anthropic Messages, OpenAI Chat Completions and Responses, and Gemini's
`streamGenerateContent` as server-sent events. Other streaming requests only get their silence bounded; requests that
ask for no stream pass as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Literal

import httpx2
import msgspec
import structlog

from ..clock import Clock, SystemClock, wait
from ._guard_core import Flag, Guard
from ._guard_errors import GuardError, Kind, Limits, guard_error
from ._guard_pump import Pump, close_all
from ._guard_retry import Retries, RetryTransport
from ._guard_wires import WireName
from .chat_reader import redactor

__all__ = [
    "Flag",
    "Guard",
    "GuardError",
    "GuardTransport",
    "Kind",
    "Limits",
    "Retries",
    "WireName",
    "closing_streams",
    "guard_error",
    "guarded_client",
    "watched_streams",
    "wire_of",
]

_PLAIN_TIMEOUT = {"connect": 10.0, "read": 600.0, "write": 60.0, "pool": 60.0}
"""Seconds for each phase of a request for which its library sets no limit."""

_TICK = 1e-6
_BROKEN = (httpx2.HTTPError, OSError)
_SECRET_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "proxy-authorization")

_log = structlog.get_logger(__name__)
_opened: contextvars.ContextVar[set[Pump] | None] = contextvars.ContextVar("guarded_streams", default=None)
_watched: contextvars.ContextVar[list[Guard] | None] = contextvars.ContextVar("watched_streams", default=None)


class _Asks(msgspec.Struct):
    """The one field of a request's body that matters here."""

    stream: object = False


_asks = msgspec.json.Decoder(_Asks)


def wire_of(request: httpx2.Request) -> WireName | Literal["other"] | None:
    """Whose stream a request asks for; `other` for a stream of an unknown kind, None for no stream."""
    path = request.url.path.rstrip("/")
    if path.endswith(":streamGenerateContent"):
        return "google" if request.url.params.get("alt") == "sse" else "other"
    if request.method == "GET":
        fetched = path.rpartition("/")[0].endswith("/responses") and request.url.params.get("stream") == "true"
        return "openai-responses" if fetched else None
    if request.method != "POST" or not _asks_for_stream(request):
        return None
    if path.endswith("/chat/completions"):
        return "openai"
    if path.endswith("/responses"):
        return "openai-responses"
    if path.endswith(("/messages", ":streamRawPredict")):
        return "anthropic"
    return "other"


def _asks_for_stream(request: httpx2.Request) -> bool:
    try:
        return _asks.decode(request.content).stream is True
    except httpx2.RequestNotRead:
        return request.headers.get("accept", "") == "text/event-stream"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


@contextlib.asynccontextmanager
async def closing_streams() -> AsyncIterator[None]:
    """Closes, on leaving, every guarded stream that was opened inside and is still open: what a turn is put into.

    Tasks that were begun inside count as inside. Takes as long as the slowest close may take, `Limits.close`.
    """
    before, opened = _opened.get(), set[Pump]()
    _opened.set(opened)
    try:
        yield
    finally:
        _opened.set(before)
        await close_all(opened)


@contextlib.contextmanager
def watched_streams() -> Iterator[list[Guard]]:
    """Gives the guards of the streams that begin inside, in their order: their `flags` tell what no library does.

    Tasks that were begun inside count as inside.
    """
    before, seen = _watched.get(), list[Guard]()
    _watched.set(seen)
    try:
        yield seen
    finally:
        _watched.set(before)


class GuardTransport(httpx2.AsyncBaseTransport):
    """Guards the streaming responses that come through another transport.

    A response's `extensions["turnwire.guard"]` is its `Guard`.

    Args:
        inner: what does the sending; it is closed with this transport.
    """

    def __init__(
        self, inner: httpx2.AsyncBaseTransport, *, limits: Limits | None = None, clock: Clock | None = None
    ) -> None:
        self._inner = inner
        self._limits = limits or Limits()
        self._clock = clock or SystemClock()
        self._pumps: set[Pump] = set()
        self._closing: asyncio.Task[None] | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response to `request`. Raises `GuardError` when a streaming one does not begin in time."""
        wire = wire_of(request)
        given = {phase: value for phase, value in request.extensions.get("timeout", {}).items() if value is not None}
        if wire is None:
            request.extensions = {**request.extensions, "timeout": {**_PLAIN_TIMEOUT, **given}}
            return await self._inner.handle_async_request(request)
        request.headers["accept-encoding"] = "identity"
        request.extensions = {**request.extensions, "timeout": {**_PLAIN_TIMEOUT, **given, "read": None}}
        pump = self._begin(request, decode=wire != "other")
        try:
            response = await self._head(pump)
        except BaseException:
            await pump.close()
            raise
        known = None if wire == "other" or response.status_code != 200 else wire
        guard = Guard(
            known, self._limits, now=pump.time(), redact=redactor(*_secrets(request)), headers=response.headers
        )
        if (watched := _watched.get()) is not None:
            watched.append(guard)
        headers = httpx2.Headers(response.headers)
        if known is not None:
            headers["content-type"] = "text/event-stream; charset=utf-8"
            for name in ("content-encoding", "content-length"):
                headers.pop(name, None)
        return httpx2.Response(
            response.status_code,
            headers=headers,
            stream=_GuardedStream(pump, guard, self._limits.drain),
            extensions={**response.extensions, "turnwire.guard": guard},
        )

    async def aclose(self) -> None:
        """Closes all streams and the inner transport; what takes longer than `Limits.close` is left to itself."""
        await close_all(self._pumps)
        if self._closing is None:
            self._closing = asyncio.create_task(self._inner.aclose())
        if await wait(self._clock, {self._closing}, self._limits.close):
            await self._closing
        else:
            self._closing.cancel()

    def _begin(self, request: httpx2.Request, *, decode: bool) -> Pump:
        pump = Pump(self._inner, request, self._clock, decode=decode, bound=self._limits.close)
        for owner in (self._pumps, _opened.get()):
            if owner is not None:
                owner.add(pump)
                pump.task.add_done_callback(lambda _, owner=owner: owner.discard(pump))  # type: ignore[misc]
        return pump

    async def _head(self, pump: Pump) -> httpx2.Response:
        due = pump.time() + self._limits.first_byte
        while pump.response is None:
            if pump.task.cancelled():
                raise httpx2.ReadError("the client was closed")
            if pump.task.done():
                pump.task.result()
            left = due - pump.time()
            if left <= _TICK:
                raise GuardError(f"The model did not answer within {self._limits.first_byte:g} s.", "first_byte")
            await pump.news(left)
        return pump.response


class _GuardedStream(httpx2.AsyncByteStream):
    """What a provider's library reads. Cancelling one read loses nothing; reading can be taken up again."""

    def __init__(self, pump: Pump, guard: Guard, drain: float) -> None:
        self._pump = pump
        self._guard = guard
        self._drain = drain

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        guard, pump = self._guard, self._pump
        while not guard.ended:
            taken = pump.take()
            if taken:
                out = b"".join([guard.feed(chunk, at) for at, chunk in taken])
            elif pump.task.done():
                out = self._at_the_end()
            elif (left := guard.due - pump.time()) <= _TICK:
                out = guard.timed_out(pump.time())
            else:
                await pump.news(left)
                continue
            if out:
                return out
        if guard.error is not None:
            raise guard.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        ended_well = self._guard.ended and self._guard.error is None
        if "no-finish" in self._guard.flags:
            _log.warning("a model's stream ended without saying why")
        await self._pump.close(drain=self._drain if ended_well else 0.0)

    def __del__(self) -> None:
        self._pump.abandon()

    def _at_the_end(self) -> bytes:
        task, now = self._pump.task, self._pump.time()
        if task.cancelled():
            return self._guard.broken(httpx2.ReadError("it was closed on this side"), now)
        error = task.exception()
        if error is None:
            return self._guard.eof(now)
        if isinstance(error, _BROKEN):
            return self._guard.broken(error, now)
        raise error


def guarded_client(
    *,
    proxy: str | None = None,
    limits: Limits | None = None,
    clock: Clock | None = None,
    verify: ssl.SSLContext | bool = True,
    retries: Retries | None = None,
) -> httpx2.AsyncClient:
    """A client for the providers' libraries: `AsyncOpenAI(http_client=...)` and its like.

    It keeps connections open until it is closed. Put each turn into `closing_streams`.

    Args:
        proxy: address of an HTTP proxy; those of the environment are ignored.
        verify: how servers are verified; False for not at all.
        retries: how often a request is made that fails before its answer begins; None for once. The library's own
            retries should be off then (`max_retries=0`), for it cannot know what was said already.
    """
    inner = httpx2.AsyncHTTPTransport(
        verify=verify,
        proxy=proxy,
        trust_env=False,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
    )
    transport: httpx2.AsyncBaseTransport = GuardTransport(inner, limits=limits, clock=clock)
    if retries is not None:
        transport = RetryTransport(transport, retries, clock or SystemClock())
    return httpx2.AsyncClient(
        transport=transport, trust_env=False, follow_redirects=True, timeout=httpx2.Timeout(**_PLAIN_TIMEOUT)
    )


def _secrets(request: httpx2.Request) -> list[str]:
    """What must not be seen in an error although the provider may repeat it."""
    found = [request.url.password, request.url.params.get("key", "")]
    for name in _SECRET_HEADERS:
        value = request.headers.get(name, "")
        found += [value, value.partition(" ")[2]]
    return [secret for secret in found if secret]
