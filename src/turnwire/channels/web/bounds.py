"""What one user, and one large request, may cost the others.

Guarantee: a user has at most so many event streams open, and so many turns running, in this process; one more is
refused before anything is kept. What is counted is given back however its holder ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from .auth import Denied

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 256 * 1024
"""Work on more bytes than this is done in a thread; for less, the thread would cost more."""


async def sized(size: int, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`job(*args)`, in a thread when it works on a large `size` of bytes."""
    if size > LARGE_BYTES:
        return await asyncio.to_thread(job, *args, **kwargs)
    return job(*args, **kwargs)


class OpenStreams:
    """The event streams of each user; `limit` of them may be open, 0 for any number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, user: str) -> Iterator[None]:
        """One stream of `user`, open inside the block. Raises `Denied`."""
        if self._limit and self._open[user] >= self._limit:
            raise Denied(429, "too_many_streams", f"{self._limit} event streams of yours are open; close one")
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            if not self._open[user]:
                del self._open[user]


class RunningTurns:
    """The conversations of each user that have a turn running here; `limit` of them may, 0 for any number.

    Args:
        runs: whether the conversation of that id has a turn running in this process.
    """

    def __init__(self, limit: int, runs: Callable[[str], bool]) -> None:
        self._limit = limit
        self._runs = runs
        self._known: dict[str, dict[str, str]] = {}
        self._entering: dict[str, Counter[str]] = {}

    def full(self, user: str, conversation: str) -> bool:
        """Whether a turn in that conversation would be one too many; one that waits behind another never is."""
        if not self._limit:
            return False
        busy = self._busy(user).keys() | self._entering.get(user, Counter()).keys()
        return conversation not in busy and len(busy) >= self._limit

    @contextmanager
    def enter(self, user: str, conversation: str) -> Iterator[None]:
        """Keeps the place of a turn while it is admitted. Raises `Denied`."""
        if self.full(user, conversation):
            raise Denied(429, "too_many_turns", f"{self._limit} turns of yours are running; wait for one or stop one")
        entering = self._entering.setdefault(user, Counter())
        entering[conversation] += 1
        try:
            yield
        finally:
            entering[conversation] -= 1
            if not entering[conversation]:
                del entering[conversation]
            if not entering:
                self._entering.pop(user, None)

    def admitted(self, user: str, conversation: str, conversation_id: str) -> None:
        """A turn of that conversation was admitted; it counts as long as one runs there."""
        if self._limit:
            self._known.setdefault(user, {})[conversation] = conversation_id

    def sweep(self) -> None:
        """Forgets users who have nothing running."""
        for user in list(self._known):
            self._busy(user)

    def _busy(self, user: str) -> dict[str, str]:
        busy = {name: one for name, one in self._known.get(user, {}).items() if self._runs(one)}
        if busy:
            self._known[user] = busy
        else:
            self._known.pop(user, None)
        return busy
