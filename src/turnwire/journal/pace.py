"""How often a busy process commits. Pure.

Guarantee: a turn that was quiet is not paused; a turn that talks on is paused for `LONGEST_S` at most between two of
its commits, however slow the store is.
"""

from __future__ import annotations

import math

SHARE = 0.25
"""The part of its time that the journal may keep the store busy before turns are committed less often."""
LONGEST_S = 0.25
WINDOW_S = 1.0


class Pace:
    """The pause between two commits of one turn: `flush_s`, and more while commits take too much of the time.

    Admissions, ends of turns and readers need the store and the processor too, and people do not see whether text comes
    20 or 5 times a second.

    Args:
        flush_s: seconds between two commits of an unburdened process; with 0 nothing is ever paused.
    """

    def __init__(self, flush_s: float) -> None:
        self.pause_s = flush_s
        self._flush_s = flush_s
        self._busy_s = 0.0
        self._took_s = 0.0
        self._at = -math.inf

    def took(self, at: float, seconds: float) -> None:
        """Learns that a commit, begun at the monotonic time `at`, took that long."""
        gap = min(at - self._at, WINDOW_S)
        self._at = at
        self._took_s = seconds
        self._busy_s = self._busy_s * math.exp(-gap / WINDOW_S) + min(seconds, WINDOW_S)
        if self._flush_s:
            change = (self._busy_s / (SHARE * WINDOW_S)) ** (gap / WINDOW_S)
            self.pause_s = max(self._flush_s, min(self.pause_s * change, LONGEST_S))

    def most(self, waiting: int) -> int:
        """How many of `waiting` turns to commit now, so that their commits spread over the pause."""
        if self.pause_s <= self._flush_s:
            return waiting
        # A store that is slow whatever it is given gets fewer and larger commits.
        every_s = max(self._flush_s, self._took_s)
        return min(waiting, max(1, math.ceil(waiting * every_s / self.pause_s)))
