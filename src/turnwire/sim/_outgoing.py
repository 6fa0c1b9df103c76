"""What a simulated platform asks of its clients' addresses: HTTP requests with a deadline, and the tasks behind them.

Guarantee: a request ends in time on the platform's clock; once closed, none is under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import httpx2

from turnwire.clock import Clock, wait


class Outgoing:
    """Sends requests.

    Args:
        clock: when they are too late.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._client: httpx2.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str], seconds: float
    ) -> httpx2.Response | None:
        """The answer to a request, None for none within `seconds`, and for an address where nobody can be."""
        if self._client is None:
            self._client = httpx2.AsyncClient(trust_env=False, timeout=None)
        asking = asyncio.ensure_future(self._client.request(method, url, content=content, headers=headers))
        try:
            return asking.result() if await wait(self._clock, {asking}, seconds) else None
        except (httpx2.HTTPError, httpx2.InvalidURL):
            return None
        finally:
            asking.cancel()
            await asyncio.wait({asking})

    async def close(self) -> None:
        """Ends what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None
