"""What clients asked of the simulated platform, for tests that look at more than what is seen in a chat.

Guarantee: every call is noted once its answer is known, in order, with what was true of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ._feishu_codes import STREAM_OVER, TERMINAL
from ._json import Json

MAX_CALLS = 100_000


@dataclass
class ApiCall:
    """One call.

    Args:
        number: counts the calls from 1.
        op: the operation.
        at, ended_at: when it came and when it was answered, in seconds of the clock's wall time.
        connection: counts the connections from 1.
        target: the card, message or chat that it was about.
        body: its JSON; None for a form.
        status: of HTTP; 0 while it is not answered, and for one that never is.
        code: the business code of the answer; -1 for none.
        applied: whether the tenant changed as asked.
        fault: the kind of fault that it met.
        after_terminal: an earlier answer had already said that there is no point in it.
        overlapping: how many calls about the same target were under way when it came.
    """

    number: int
    op: str
    at: float
    connection: int
    target: str
    body: Json | None = None
    ended_at: float | None = None
    status: int = 0
    code: int = -1
    applied: bool = False
    fault: str = ""
    after_terminal: bool = False
    overlapping: int = 0


@dataclass
class Observer:
    """All calls, and what is known to be hopeless."""

    calls: deque[ApiCall] = field(default_factory=lambda: deque(maxlen=MAX_CALLS))
    count: int = 0
    _over: set[str] = field(default_factory=set)
    _open: Counter[str] = field(default_factory=Counter)
    _waiters: list[asyncio.Future[None]] = field(default_factory=list)

    def begin(self, op: str, at: float, connection: int, target: str, body: Json | None) -> ApiCall:
        """A call that came."""
        self.count += 1
        call = ApiCall(self.count, op, at, connection, target, body)
        call.after_terminal = target in self._over or (op == "content" and f"stream:{target}" in self._over)
        call.overlapping = self._open[target] if target else 0
        self._open[target] += 1
        self.calls.append(call)
        self.changed()
        return call

    def end(self, call: ApiCall, at: float, status: int = 0, code: int = -1) -> None:
        """Its answer, or that there is none."""
        call.ended_at, call.status, call.code = at, status, code
        self._open[call.target] -= 1
        if code in TERMINAL and call.target:
            self._over.add(call.target)
        elif code in STREAM_OVER and call.target:
            self._over.add(f"stream:{call.target}")
        self.changed()

    def opened(self, card_id: str) -> None:
        """A card's streaming mode was turned on: a stream of text makes sense again."""
        self._over.discard(f"stream:{card_id}")

    def counts(self) -> dict[str, int]:
        """How many calls there were of each operation."""
        return dict(Counter(call.op for call in self.calls))

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns once `true()` holds; it is asked again after every call that comes or ends."""
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
