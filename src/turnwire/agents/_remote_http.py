"""One streaming POST to a remote agent, bounded in every phase.

Guarantee: each phase of a request ends within its bound on the given clock; closing takes at most `Bounds.close`. What
is no event stream is refused before a byte of it is read as one. Proxies of the environment are ignored. No error text
holds a secret, and of a refusal's body only one short, redacted line.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import ssl
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any

import httpx2
import msgspec

from ..clock import Clock, wait
from .chat_reader import ModelStreamError, error_text, redactor
from .exchange import BROKEN, Exchange, Late
from .remote import Bounds

_ERROR_BODY_BYTES = 64 * 1024
_NO_STREAM = ("application/json", "text/html", "text/plain")


class RemoteHTTP:
    """Requests to one address, for an agent that people know as the host of it.

    As an async context manager it keeps connections open between requests; without, each request has one of its own.

    Args:
        url: http or https; what its user part and query hold is never shown.
        headers: sent with each request; their values are never part of an error.

    Raises `ValueError` for an unusable address, proxy or header; its text holds none of them.
    """

    def __init__(
        self, url: str, *, headers: Mapping[str, str], proxy: str | None, clock: Clock, bounds: Bounds
    ) -> None:
        self.url = _checked_url(url)
        self.where = f"The remote agent at {self.url.netloc.decode('ascii', 'replace').rpartition('@')[2]}"
        values = [*headers.values(), *(value for _, value in self.url.params.multi_items())]
        self.redact = redactor(self.url.password, *map(_secret, values))
        self._headers = {"accept": "text/event-stream", "accept-encoding": "identity", **_checked_headers(headers)}
        self._proxy = _checked_proxy(proxy)
        self._clock = clock
        self._bounds = bounds
        self._tls: ssl.SSLContext | None = None
        self._kept: httpx2.AsyncClient | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> RemoteHTTP:
        self._kept = self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._kept = self._kept, None
        if self._tasks:
            await wait(self._clock, set(self._tasks), self._bounds.close)
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
            await wait(self._clock, {exchange.task}, self._bounds.close)
            if kept is None:
                await self._bounded(client.aclose())

    def tell(self, url: httpx2.URL) -> None:
        """Posts an empty JSON object to `url`, whatever becomes of it; nobody waits for that."""
        self._own(asyncio.create_task(self._tell(url)))

    async def _tell(self, url: httpx2.URL) -> None:
        client = self._open()
        try:
            await self._bounded(client.post(url, content=b"{}", headers={"content-type": "application/json"}))
        finally:
            await self._bounded(client.aclose())

    def broke(self, error: BaseException) -> str:
        """What broke, as people may read it."""
        return self.redact(f"{error}" or type(error).__name__)

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

    async def _head(self, exchange: Exchange) -> httpx2.Response:
        try:
            response = await exchange.head(self._clock.monotonic() + self._bounds.first_byte)
        except Late:
            raise ModelStreamError(f"{self.where} did not answer within {self._bounds.first_byte:g} s.") from None
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise ModelStreamError(f"{self.where} cannot be reached: {self.broke(error)}") from None
        except BROKEN as error:
            raise ModelStreamError(
                f"{self.where} closed the connection without an answer: {self.broke(error)}"
            ) from None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        status: int = response.status_code
        if status == 200 and kind not in _NO_STREAM:
            return response
        said = await self._error_body(exchange, kind)
        if status == 200:
            raise ModelStreamError(f"{self.where} sent {kind} instead of an event stream{said}", status=200)
        phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
        raise ModelStreamError(f"{self.where} answered {status}{phrase}{said}", status=status)

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


def _checked_url(address: str) -> httpx2.URL:
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        raise ValueError("the url is no address; give one like https://host/api/chat") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("the url must begin with http:// or https:// and name a host, like https://host/api/chat")
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


def _secret(value: str) -> str | None:
    """What of a value must not be shown; a short word such as a version is no secret."""
    bare = value.rpartition(" ")[2]
    return bare if len(bare) >= 8 else None
