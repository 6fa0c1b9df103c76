"""What clients asked of the simulated platform, for tests that look at more than what is seen in a chat.

Guarantee: every call is noted once its answer is known, in order, with what was true of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ._feishu_codes import STREAM_OVER, TERMINAL
from ._json import Json
from ._observer import Calls


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
class Observer(Calls[ApiCall]):
    """All calls, and what is known to be hopeless."""

    _over: set[str] = field(default_factory=set)
    _open: Counter[str] = field(default_factory=Counter)

    def begin(self, op: str, at: float, connection: int, target: str, body: Json | None) -> ApiCall:
        """A call that came."""
        call = ApiCall(self.count + 1, op, at, connection, target, body)
        call.after_terminal = target in self._over or (op == "content" and f"stream:{target}" in self._over)
        call.overlapping = self._open[target] if target else 0
        self._open[target] += 1
        return self.note(call)

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
