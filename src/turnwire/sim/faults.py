"""Faults of a simulated platform: which calls go wrong, and how.

Guarantee: the same faults, the same seed and the same calls give the same outcome; a fault that has been used up never
comes again. What a kind of fault means is decided by the simulator that draws it.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


class UnknownFault(ValueError):
    """A kind of fault that the simulator does not know."""


@dataclass
class Fault:
    """One thing that goes wrong.

    Args:
        op: the operation, or a pattern of them (`*_element`, `*`).
        kind: what happens; the simulator lists its kinds.
        nth: the first call that is concerned, counted from when the fault was added; 1 is the next one.
        count: how many calls are concerned; 0 for all that follow.
        probability: how likely it is for each of them, from 0 to 1.
        target: only calls that name this card, message or chat.
        code: the business code, for kinds that answer with one.
        seconds: how long, for kinds that last.
    """

    op: str
    kind: str
    nth: int = 1
    count: int = 1
    probability: float = 1.0
    target: str = ""
    code: int = 0
    seconds: float = 0.0
    seen: int = field(default=0, init=False)
    used: int = field(default=0, init=False)

    @property
    def over(self) -> bool:
        """It will concern no further call."""
        return bool(self.count) and self.seen >= self.nth + self.count - 1

    def concerns(self, op: str, targets: Collection[str]) -> bool:
        """Whether a call of this operation and of these objects is one that it counts."""
        return fnmatchcase(op, self.op) and (not self.target or self.target in targets)


class Faults:
    """The faults of one simulator.

    Args:
        kinds: the kinds that it knows.
        seed: decides what is drawn for faults with a probability.
    """

    def __init__(self, kinds: Collection[str], *, seed: int = 0) -> None:
        self.kinds = kinds
        self.pending: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311 - faults must be repeatable, not secret

    def add(self, *faults: Fault) -> None:
        """Adds faults behind those that wait. Raises `UnknownFault`, and then adds none of them."""
        for fault in faults:
            if fault.kind not in self.kinds:
                raise UnknownFault(f"there is no fault {fault.kind!r}; there are {', '.join(sorted(self.kinds))}")
            if fault.nth < 1 or fault.count < 0 or not 0 <= fault.probability <= 1:
                raise ValueError(f"fault {fault.kind}: nth is 1 or more, count 0 or more, probability from 0 to 1")
        self.pending.extend(faults)

    def clear(self) -> None:
        """Forgets all faults."""
        self.pending.clear()

    def reseed(self, seed: int) -> None:
        """Draws as if the simulator had been made with this seed."""
        self._random.seed(seed)

    def draw(self, op: str, *targets: str) -> Fault | None:
        """The fault of a call: the first that concerns it and is drawn. Every fault that concerns it counts it."""
        drawn: Fault | None = None
        for fault in self.pending:
            if not fault.concerns(op, targets):
                continue
            fault.seen += 1
            if fault.seen < fault.nth or drawn is not None:
                continue
            if fault.probability >= 1 or self._random.random() < fault.probability:
                fault.used += 1
                drawn = fault
        self.pending = [fault for fault in self.pending if not fault.over]
        return drawn
