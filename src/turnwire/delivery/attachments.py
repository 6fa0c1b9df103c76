"""The files of an answer, and the sign that somebody is at work.

Guarantee: files are sent one after another, in the agent's order, each once; one whose fate is unknown is repeated only
with the platform's own key, else parked and said so. The sign goes when there is something to read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from ..clock import Clock
from ..files import FileMissing, FileStore, StoredFile
from ..store import StoreError
from .acts import OneAct, carry
from .ledger import STORE_PAUSE_S, Ledger
from .outcomes import Receipt, pause_s, refused
from .state import Item, Pending
from .surface import Desired, FileOutcome, Surface

_log = structlog.get_logger(__name__)

FILE_TRIES = 8
FILE_S = 300.0
"""How often, and for how many seconds at least, a file is tried whose sending is put off or unknown."""
UNCLEAR = "It is not known whether it arrived; it was not sent a second time."


class Attachments:
    """What a delivery shows beside the answer itself."""

    def __init__(self, ledger: Ledger, surface: Surface, *, files: FileStore, clock: Clock) -> None:
        self._ledger = ledger
        self._surface = surface
        self._files = files
        self._clock = clock
        self.not_before = 0.0
        self.held: str | None = None

    def plan(self, desired: Desired) -> tuple[Callable[[], Awaitable[None]] | None, bool]:
        """The next act, None if there is none now, and whether it is about the sign."""
        state = self._ledger.state
        visible = any(part.exists for part in state.parts)
        done = visible or desired.final or state.over is not None
        if state.sign is None:
            if not done:
                return self._greet, True
        elif done and state.sign.status in ("waiting", "confirmed"):
            return self._part, True
        waiting = next((file for file in desired.files if file.status == "waiting"), None)
        return (None if waiting is None else lambda: self._send(waiting)), False

    async def _greet(self) -> None:
        sign = self._ledger.state.sign = Item(pending=Pending("attach", f"{self._ledger.row.id}-sign"))
        await self._ledger.keep()
        receipt = await carry(self._surface.greet(self._act(sign, sign_key(self._ledger))))
        # A platform that is in trouble may show what it says it does not.
        unsure = receipt.kind == "unknown" or receipt.cause == "busy"
        sign.pending = sign.pending if unsure else None
        sign.status = "confirmed" if receipt.ok else "waiting" if unsure else "refused"
        await self._ledger.keep()

    async def _part(self) -> None:
        sign = self._ledger.state.sign
        if sign is None:
            return
        sign.tries += 1
        again = sign.pending is not None
        receipt = await carry(self._surface.part(self._act(sign, sign_key(self._ledger), again=again)))
        if receipt.ok or receipt.cause in ("gone", "rung", "barred") or sign.tries >= FILE_TRIES:
            sign.status, sign.reason, sign.pending = "refused", receipt.reason, None
        else:
            self.not_before = self._clock.monotonic() + pause_s(sign.tries, receipt)
        await self._ledger.keep()

    async def _send(self, file: FileOutcome) -> None:
        state = self._ledger.state
        item = state.items.setdefault(file.id, Item())
        hopeless = state.over or state.no_files
        if hopeless is not None:
            item.status, item.reason = ("refused", hopeless) if item.pending is None else ("parked", UNCLEAR)
            await self._ledger.keep()
            return
        try:
            stored = await self._files.get(file.id)
        except StoreError as error:
            _log.warning("a delivery waits for the store", delivery=self._ledger.row.id, error=str(error))
            self.not_before = self._clock.monotonic() + STORE_PAUSE_S
            return
        again = item.pending is not None
        pending = item.pending or Pending(
            "attach", f"{self._ledger.row.id}-a{list(state.items).index(file.id)}", file.id
        )
        item.pending, item.tries = pending, item.tries + 1
        item.since = self._clock.now() if item.since is None else item.since
        await self._ledger.attempted(pending)
        if stored is None:
            receipt = refused("content", "the file is not stored here any more")
        else:
            receipt = await carry(self._attach(self._act(item, pending.key, again=again), stored))
        self._settle(item, receipt, again=again)
        if receipt.cause in ("gone", "barred"):
            # What holds for one file there holds for all of them.
            state.no_files = receipt.reason
        await self._ledger.received(pending, receipt)
        if item.status in ("refused", "parked"):
            _log.warning("a file was not delivered", delivery=self._ledger.row.id, file=file.id, why=item.reason)

    def _settle(self, item: Item, receipt: Receipt, *, again: bool) -> None:
        if receipt.ok:
            item.status, item.pending, item.tries = "confirmed", None, 0
        elif receipt.kind == "unknown" or receipt.cause in ("busy", "stale"):
            if receipt.kind == "refused" and not again:
                item.pending = None
            if item.tries >= FILE_TRIES and self._clock.now() >= (item.since or 0.0) + FILE_S:
                clear = item.pending is None
                item.status, item.reason = ("refused", receipt.reason) if clear else ("parked", UNCLEAR)
            self.not_before = self._clock.monotonic() + pause_s(item.tries, receipt)
        elif receipt.cause == "held" and not again:
            item.pending, self.held = None, receipt.reason
        elif again:
            # That this try was refused does not tell what became of the one before.
            item.status, item.reason = "parked", UNCLEAR
        else:
            item.status, item.reason, item.pending = "refused", receipt.reason, None

    async def _attach(self, act: OneAct, file: StoredFile) -> Receipt:
        try:
            return await self._surface.attach(act, file)
        except FileMissing as error:
            return refused("content", str(error))

    def _act(self, item: Item, key: str, *, again: bool = False) -> OneAct:
        return OneAct(self._ledger, item, key, again=again, memory={})


def sign_key(ledger: Ledger) -> str:
    """The key of the sign's acts."""
    return f"{ledger.row.id}-sign"
