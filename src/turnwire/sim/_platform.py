"""What every simulated platform is to its test: a server that is started and stopped, and calls that were noted.

Guarantee: what a test sees of calls and connections means the same on all platforms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self

from ._observer import Call, Calls
from ._serving import Serving
from .faults import Faults


class SimulatedPlatform(ABC, Generic[Call]):
    """The part of a simulator that no platform decides.

    Args:
        serving: its server.
        observer: where its calls are noted.
        faults: what goes wrong.
    """

    def __init__(self, serving: Serving, observer: Calls[Call], faults: Faults) -> None:
        self._serving = serving
        self._noted = observer
        self._faults = faults

    # Lifecycle

    async def start(self) -> None:
        """Accepts connections from when it returns. Raises `OSError` when the address is taken."""
        await self._serving.start()

    @abstractmethod
    async def stop(self) -> None:
        """Refuses connections from when it is called, and breaks those that are open. `start` begins again, at the
        same address, with the same state."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def base_url(self) -> str:
        """`http://HOST:PORT`, where its API, its files and its page are; known once it was started."""
        return self._serving.url

    # What was called

    @property
    def calls(self) -> list[Call]:
        """What came from clients, oldest first."""
        return list(self._noted.calls)

    @property
    def counts(self) -> dict[str, int]:
        """How many came of each operation."""
        return self._noted.counts()

    @property
    def connections(self) -> int:
        """How many TCP connections were opened so far."""
        return self._serving.connections

    @property
    def open_connections(self) -> int:
        """How many of them are open."""
        return self._serving.open_connections

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns once `true()` holds; it is asked again after every call that comes or ends, and every change that
        the platform tells of."""
        await self._noted.until(true)

    async def wait_calls(self, count: int, op: str = "") -> None:
        """Returns once `count` calls have come since the start, of that operation if one is named."""
        await self.until(lambda: (self.counts.get(op, 0) if op else self._noted.count) >= count)

    def clear(self) -> None:
        """Forgets faults, calls and rates; what is in chats stays."""
        self._faults.clear()
        self._noted.calls.clear()
