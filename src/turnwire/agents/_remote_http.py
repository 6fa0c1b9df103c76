"""One streaming POST to a model or a remote agent, bounded in every phase.

Guarantee: each phase of a request ends within its bound on the given clock; closing takes at most `Bounds.close`. What
is no event stream is refused before a byte of it is read as one. An answer that is not whole is an error, whose text
holds no secret, and of a refusal's body only one short, redacted line. Proxies of the environment are ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Mapping
from typing import Any, Protocol

import httpx2
import msgspec

from ..clock import Clock, wait
from ..events import AgentEvent
from ._bounds import Bounds
from .chat_reader import ModelStreamError, error_text, redactor
from .exchange import BROKEN, QUEUED_CHUNKS, Exchange, Late
from .sse import MAX_EVENT_BYTES, SSEError, SSEEvent, SSEParser

_ERROR_BODY_BYTES = 64 * 1024
_SHORT_WORD = 8


class Reader(Protocol):
    """What an answer's events mean; `RemoteHTTP.read` drives it."""

    @property
    def taken(self) -> int:
        """How many of the events so far said something."""

    @property
    def ending(self) -> bool:
        """The peer said that its answer is over, and nothing since."""

    @property
    def finished(self) -> bool:
        """The peer said at least once that its answer is over."""

    @property
    def done(self) -> bool:
        """Nothing more of the stream counts."""

    @property
    def failure(self) -> ModelStreamError | None:
        """Why the answer failed, once the peer said so; nothing after it counts."""

    def read(self, event: SSEEvent) -> list[AgentEvent]:
        """The agent events that one server-sent event becomes. Raises `ModelStreamError` for what cannot be read."""


class RemoteHTTP:
    """Requests to one address.

    As an async context manager it keeps connections open between requests; without, each request has one of its own.

    Args:
        who: what is there, for people: "model" or "remote agent".
        url: what `checked_url` gave; what its user part and query hold is never shown.
        headers: sent with each request; their values are never part of an error.
        no_stream: media types that a stream of this peer never has.
        max_event_bytes: bound of one server-sent event, in bytes.

    Raises `ValueError` for an unusable proxy or header; its text holds none of them.
    """

    def __init__(
        self,
        who: str,
        url: httpx2.URL,
        *,
        headers: Mapping[str, str],
        proxy: str | None,
        clock: Clock,
        bounds: Bounds,
        no_stream: Collection[str] = ("application/json", "text/html"),
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self.url = url
        self._who = who
        self._where = f"The {who} at {url.netloc.decode('ascii', 'replace')}"
        values = [*headers.items(), *url.params.multi_items()]
        self.redact = redactor(url.password, *(_secret(name, value) for name, value in values))
        self._headers = {"accept": "text/event-stream", "accept-encoding": "identity", **_checked_headers(headers)}
        self._proxy = _checked_proxy(proxy)
        self._clock = clock
        self._bounds = bounds
        self._no_stream = no_stream
        self._max_event_bytes = max_event_bytes
        self._tls: ssl.SSLContext | None = None
        self._kept: httpx2.AsyncClient | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> RemoteHTTP:
        self._kept = self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._kept = self._kept, None
        if self._tasks:
            await self._bounded(asyncio.wait(set(self._tasks)))
        if client is not None:
            await self._bounded(client.aclose())

    @contextlib.asynccontextmanager
    async def post(self, body: bytes) -> AsyncGenerator[tuple[Exchange, httpx2.Response], None]:
        """The exchange whose head says that an event stream follows; closed on leaving.

        Raises `ModelStreamError` when nothing comes in time or what comes is no event stream.
        """
        kept = self._kept
        client = kept or self._open()
        request = client.build_request("POST", self.url, content=body, headers={"content-type": "application/json"})
        exchange = Exchange(client, request, self._clock)
        self._own(exchange.task)
        try:
            yield exchange, await self._head(exchange)
            if kept is not None:
                await exchange.drain(self._clock.monotonic() + self._bounds.drain)
        finally:
            exchange.task.cancel()
            try:
                await wait(self._clock, {exchange.task}, self._bounds.close)
            finally:
                if kept is None:
                    await self._bounded(client.aclose())

    async def read(
        self, exchange: Exchange, reader: Reader, grace: Callable[[], float]
    ) -> AsyncGenerator[AgentEvent, None]:
        """What the body says, until its reader wants no more of it or nothing more is worth waiting for.

        Args:
            grace: for how long more is worth waiting for while the reader is `ending`, in seconds; it begins anew
                whenever it changes.

        Raises `ModelStreamError` when the answer failed or did not come whole. Whatever came before has been said.
        """
        clock, bounds, parser = self._clock, self._bounds, SSEParser(self._max_event_bytes)
        heard = told = ended = clock.monotonic()
        patience: float | None = None
        overtime = 0
        try:
            while not _over(reader) and overtime <= QUEUED_CHUNKS:
                due = min(heard + bounds.idle_bytes, told + bounds.idle_events)
                if patience is not None:
                    due = ended + patience
                chunk = await exchange.take(due)
                heard = clock.monotonic()
                overtime += patience is not None and heard > due
                for event in parser.close() if chunk is None else parser.feed(chunk):
                    taken = reader.taken
                    for said in reader.read(event):
                        yield said
                    if reader.taken != taken:
                        told = clock.monotonic()
                    was, patience = patience, grace() if reader.ending else None
                    if patience != was:
                        ended = clock.monotonic()
                    if _over(reader):
                        break
                if chunk is None:
                    break
        except (Late, SSEError, ModelStreamError, *BROKEN) as error:
            if not reader.ending:
                raise self._cut(error, told) from None
        if reader.failure is not None:
            raise reader.failure
        if not reader.finished:
            raise ModelStreamError(f"The {self._who}'s stream ended before its answer was complete.")

    def tell(self, url: httpx2.URL) -> None:
        """Posts an empty JSON object to `url`, whatever becomes of it; nobody waits for that."""
        self._own(asyncio.create_task(self._tell(url)))

    async def _tell(self, url: httpx2.URL) -> None:
        client = self._open()
        try:
            await self._bounded(client.post(url, content=b"{}", headers={"content-type": "application/json"}))
        finally:
            await self._bounded(client.aclose())

    def _open(self) -> httpx2.AsyncClient:
        if self._tls is None:
            https = self.url.scheme == "https"
            self._tls = ssl.create_default_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx2.AsyncClient(
            headers=self._headers,
            verify=self._tls,
            proxy=self._proxy,
            trust_env=False,
            timeout=None,  # the clock we were given bounds everything
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _bounded(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._own(task)
        await wait(self._clock, {task}, self._bounds.close)
        task.cancel()

    def _broke(self, error: BaseException) -> str:
        return self.redact(f"{error}" or type(error).__name__)

    def _cut(self, error: Exception, told: float) -> ModelStreamError:
        """Why the stream was not read to its end; `told`: when it last said something."""
        if isinstance(error, ModelStreamError):
            return error
        if isinstance(error, SSEError):
            return ModelStreamError(f"The {self._who}'s stream cannot be read: {error}.")
        if not isinstance(error, Late):
            return ModelStreamError(
                f"The connection to the {self._who} broke before its answer was complete: {self._broke(error)}"
            )
        if self._clock.monotonic() < told + self._bounds.idle_events:
            return ModelStreamError(f"The {self._who} sent nothing for {self._bounds.idle_bytes:g} s.")
        return ModelStreamError(f"The {self._who} sent only keep-alives for {self._bounds.idle_events:g} s.")

    async def _head(self, exchange: Exchange) -> httpx2.Response:
        try:
            response = await exchange.head(self._clock.monotonic() + self._bounds.first_byte)
        except Late:
            raise ModelStreamError(f"{self._where} did not answer within {self._bounds.first_byte:g} s.") from None
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise ModelStreamError(f"{self._where} cannot be reached: {self._broke(error)}") from None
        except BROKEN as error:
            raise ModelStreamError(
                f"{self._where} closed the connection without an answer: {self._broke(error)}"
            ) from None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        status: int = response.status_code
        if status == 200 and kind not in self._no_stream:
            return response
        said = await self._error_body(exchange, kind)
        if status == 200:
            raise ModelStreamError(f"{self._where} sent {kind} instead of an event stream{said}", status=200)
        phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
        raise ModelStreamError(f"{self._where} answered {status}{phrase}{said}", status=status)

    async def _error_body(self, exchange: Exchange, kind: str) -> str:
        """What the body of a refusal says, behind a colon, or a full stop."""
        due = self._clock.monotonic() + self._bounds.error_body
        body = b""
        with contextlib.suppress(Late, *BROKEN):
            while len(body) < _ERROR_BODY_BYTES and (more := await exchange.take(due)) is not None:
                body += more
        try:
            text = error_text(msgspec.json.decode(body)) or ""
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # A page of HTML tells people nothing.
            text = body.decode("utf-8", "replace") if kind == "text/plain" else ""
        return f": {self.redact(text)}" if text.strip() else "."


def _over(reader: Reader) -> bool:
    return reader.done or reader.failure is not None


def checked_url(address: str, name: str, example: str) -> httpx2.URL:
    """`address`, if it can be asked over HTTP.

    Args:
        name: what people call this address.
        example: one that could be.

    Raises `ValueError`; its text does not hold the address.
    """
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        raise ValueError(f"{name} is no address; give one like {example}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{name} must begin with http:// or https:// and name a host, like {example}")
    return url


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ValueError("the name of a header may hold letters, digits, - and _ only")
        if not value.isascii() or not value.isprintable() or value != value.strip():
            raise ValueError(f"the header {name} holds line breaks, outer spaces or non-ASCII characters; "
                             "it cannot be sent")  # fmt: skip
    return dict(headers)


def _checked_proxy(address: str | None) -> httpx2.Proxy | None:
    if not address:
        return None
    if not address.startswith(("http://", "https://")):
        raise ValueError("proxy must begin with http:// or https://, like http://host:3128")
    return httpx2.Proxy(address)


def _secret(name: str, value: str) -> str | None:
    """What of a value must not be shown; a short word such as a version is no secret, unless it opens doors."""
    bare = value.rpartition(" ")[2]
    return bare if len(bare) >= _SHORT_WORD or name.lower() == "authorization" else None
