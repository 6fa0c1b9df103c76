"""How often Feishu lets an app do something.

Guarantee: a call that is refused does not count; no time window of the limit's length ever holds more calls.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from ._feishu_codes import Refused

APP_PER_S, APP_PER_MIN = 50, 1000
CARD_PER_S = 10
CHAT_PER_S = 5
MESSAGE_PER_S = 5


class Limit(NamedTuple):
    """At most `most` calls of this key within `seconds`; more are refused with `code`."""

    key: str
    most: int
    seconds: float
    code: int


def app_limits(app_id: str, op: str) -> list[Limit]:
    """The limits of one endpoint for one app."""
    return [
        Limit(f"app:{app_id}:{op}:s", APP_PER_S, 1.0, 99991400),
        Limit(f"app:{app_id}:{op}:min", APP_PER_MIN, 60.0, 99991400),
    ]


class Rates:
    """Sliding windows over calls."""

    def __init__(self) -> None:
        self._calls: dict[str, deque[float]] = {}

    def take(self, now: float, *limits: Limit) -> None:
        """Counts a call against all the limits, or against none and raises `Refused`."""
        for limit in limits:
            calls = self._calls.setdefault(limit.key, deque())
            while calls and now - calls[0] >= limit.seconds - 1e-6:
                calls.popleft()
            if len(calls) >= limit.most:
                raise refusal(limit.code, limit.most, calls[0] + limit.seconds - now)
        for limit in limits:
            self._calls[limit.key].append(now)

    def clear(self) -> None:
        """Forgets all calls."""
        self._calls.clear()


def refusal(code: int, most: int, seconds: float) -> Refused:
    """The refusal of a call that came too soon: that of the gateway says when to come again."""
    if code != 99991400:
        return Refused(code)
    reset = str(max(1, math.ceil(seconds)))
    return Refused(code, status=429, headers={"x-ogw-ratelimit-limit": str(most), "x-ogw-ratelimit-reset": reset})
