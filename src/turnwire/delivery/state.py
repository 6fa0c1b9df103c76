"""What is known of one delivery, as the ledger keeps it.

A part's `shown` moves only with a confirmed receipt. `pending` is an act that was attempted and has no receipt yet:
after a crash its outcome is unknown.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from ..events import JSON

PendingKind: TypeAlias = Literal["create", "close", "withdraw", "attach"]


class Pending(msgspec.Struct, frozen=True):
    """An act without a receipt, as it was first tried; `live` is what it would have left behind."""

    kind: PendingKind
    key: str
    digest: str = ""
    live: bool = False


class Part(msgspec.Struct, kw_only=True):
    """One message of ours on the surface.

    Attributes:
        name: its own within the delivery, never used twice.
        rung: name of the rung that made it.
        medium: that rung's.
        facts: its identity and whatever else the rung learned.
        exists: it was confirmed to be visible.
        maybe: a try to make it was left unknown.
        shown: digest of what it was last confirmed to show as a whole; None if that is not known.
        closed: it was confirmed not to be "generating" any more.
        opened_at: when its streaming life began, seconds since 1970.
        numbers: wire numbers up to this one may have been used.
        tries: how often its making was begun anew.
        settled: nothing more can be done about it.
    """

    name: str
    rung: str
    medium: str
    facts: dict[str, JSON] = {}
    pending: Pending | None = None
    exists: bool = False
    maybe: bool = False
    shown: str | None = None
    closed: bool = False
    opened_at: float | None = None
    numbers: int = 0
    tries: int = 0
    settled: str | None = None


class Item(msgspec.Struct, kw_only=True):
    """One file, and what became of it. `since` is when it was first tried, seconds since 1970."""

    status: Literal["waiting", "confirmed", "refused", "parked"] = "waiting"
    reason: str = ""
    facts: dict[str, JSON] = {}
    pending: Pending | None = None
    tries: int = 0
    since: float | None = None


class State(msgspec.Struct, kw_only=True):
    """A delivery.

    Attributes:
        rung: index of the rung in use.
        parts: what shows the turn, in order.
        leftovers: parts of rungs that were given up; they are taken away once the turn is shown otherwise.
        items: the files, by id.
        sign: what shows that somebody is at work; None if it was never begun.
        repeat: an earlier copy of the answer may be visible.
        over: why nothing more is sent, if so.
        no_files: why no file can be sent there any more, if so; the answer itself still has to end.
        count: parts made so far, for their names.
        spent: parts in a row that could be shown no more before they showed anything new.
        notes: why rungs were given up, for operators.
    """

    rung: int = 0
    parts: list[Part] = []
    leftovers: list[Part] = []
    items: dict[str, Item] = {}
    sign: Item | None = None
    repeat: bool = False
    over: str | None = None
    no_files: str | None = None
    count: int = 0
    spent: int = 0
    notes: list[str] = []


def load(payload: bytes | None) -> State:
    """The state of a delivery that was saved, or of a new one."""
    return msgspec.json.decode(payload, type=State) if payload else State()


def dump(state: State) -> bytes:
    """The state as the ledger keeps it."""
    return msgspec.json.encode(state)
