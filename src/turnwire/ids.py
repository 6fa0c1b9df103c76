"""Names for new things: sortable by time, unguessable, and telling what they name."""

from __future__ import annotations

import secrets

from .clock import Clock


def new_id(kind: str, clock: Clock) -> str:
    """A fresh id such as `turn_0193…`: milliseconds since 1970 and 80 random bits, in hexadecimal."""
    return f"{kind}_{int(clock.now() * 1000):011x}{secrets.token_hex(10)}"
