"""HTTP requests of one bot, beside its long connection.

Guarantee: proxies of the environment are ignored; closing is bounded. Whoever asks bounds each request by the clock.
"""

from __future__ import annotations

import asyncio
import ssl

import httpx2

from ...clock import Clock, wait

CLOSE_S = 2.0
LOST = (httpx2.RequestError, httpx2.StreamError, ssl.SSLError, OSError)


class Requests:
    """Keeps the connections.

    Args:
        proxy: address of an HTTP proxy.
        transport: carries the requests, if it is not the network.
    """

    def __init__(self, clock: Clock, *, proxy: str = "", transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._clock = clock
        self._proxy = proxy
        self._transport = transport
        self._http: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        """Closes the connections."""
        http, self._http = self._http, None
        if http is not None:
            closing = asyncio.ensure_future(http.aclose())
            await wait(self._clock, {closing}, CLOSE_S)
            closing.cancel()

    def client(self) -> httpx2.AsyncClient:
        """Made when it is first needed."""
        if self._http is None:
            self._http = httpx2.AsyncClient(
                verify=ssl.create_default_context() if self._transport is None else True,
                proxy=self._proxy or None,
                transport=self._transport,
                trust_env=False,
                timeout=None,  # the clock we were given bounds everything
                limits=httpx2.Limits(max_connections=20, max_keepalive_connections=5, keepalive_expiry=60.0),
            )
        return self._http
