"""What an outward act came to, and when it is tried again.

Guarantee: an act is `confirmed` only by the platform's own word; whatever leaves that open is `unknown`, and is never
taken for success or for failure.
"""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["confirmed", "refused", "unknown"]

Cause: TypeAlias = Literal["busy", "stale", "expired", "content", "rung", "spent", "gone", "barred", "held"]
"""Why an act was refused, which decides what follows:

`busy`: not now, and nothing was applied; the same again after a pause.
`stale`: its number came too late; the newest content again with a higher one.
`expired`: what streams has been closed by its lifetime; opened once more, or left for the final frame.
`content`: this content is not taken; the next rung shows it more plainly.
`rung`: this way of showing is not open to us; the next rung.
`spent`: what was to be shown can be shown no more; a new one, if no copy of it can be visible.
`gone`: people took the message away; nothing is sent again.
`barred`: nothing can be said there at all; an operator has to look.
`held`: nothing can be said there until somebody writes again; the answer waits for that, driven by nobody.
"""


class Receipt(msgspec.Struct, frozen=True):
    """The result of one outward act.

    `reason` may be read by people. `wait_s` is how many seconds the platform asks to be left alone. `unsent` says of a
    refused `create` that no try of it, this one or an earlier, can have made anything visible.
    """

    kind: Kind
    cause: Cause | None = None
    reason: str = ""
    wait_s: float | None = None
    unsent: bool = False

    @property
    def ok(self) -> bool:
        return self.kind == "confirmed"


CONFIRMED = Receipt("confirmed")


def refused(cause: Cause, reason: str, wait_s: float | None = None) -> Receipt:
    """The platform said no, and nothing was applied."""
    return Receipt("refused", cause, reason, wait_s)


def unknown(reason: str) -> Receipt:
    """Nobody knows whether it was applied."""
    return Receipt("unknown", None, reason)


PAUSES_S = (0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0)
QUICK_TRIES = 3
"""How often content that was refused for its number is sent again before another rung is taken."""


def pause_s(tries: int, receipt: Receipt | None = None) -> float:
    """Seconds to wait after the `tries`-th failure in a row, from 1; a tenth is chance, so that many do not agree."""
    asked = receipt.wait_s if receipt is not None and receipt.wait_s is not None else 0.0
    own = PAUSES_S[min(tries, len(PAUSES_S)) - 1]
    return max(asked, own) * (1.0 + random.random() / 10)  # noqa: S311
