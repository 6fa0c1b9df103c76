"""What clients asked of a simulated platform, for tests that look at more than what is seen in a chat.

Guarantee: calls are kept in the order in which they came, the latest hundred thousand; who waits in `until` looks again
after every change.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

MAX_CALLS = 100_000


class Noted(Protocol):
    """A call; platforms differ in what there is to know of one."""

    @property
    def op(self) -> str:
        """The operation."""


Call = TypeVar("Call", bound=Noted)


@dataclass
class Watched:
    """What changes, and can be waited for."""

    _waiters: list[asyncio.Future[None]] = field(default_factory=list, init=False, repr=False)

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns once `true()` holds; it is asked again after every change."""
        while not true():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def changed(self) -> None:
        """Has everybody look again who waits in `until`."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


@dataclass
class Calls(Watched, Generic[Call]):
    """All calls of one simulator; `count` also counts those that are no longer kept."""

    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=MAX_CALLS))
    count: int = 0

    def note(self, call: Call) -> Call:
        """A call that came; it is the `count`th from now on."""
        self.count += 1
        self.calls.append(call)
        self.changed()
        return call

    def counts(self) -> dict[str, int]:
        """How many calls there were of each operation."""
        return dict(Counter(call.op for call in self.calls))
