"""The answer on its surface: acts planned, carried out, and what their receipts mean for what comes next.

Guarantee: what is acknowledged moves only with a confirmed receipt; a rung that fails is followed by the next one,
which carries the whole answer; an act whose outcome is unknown is settled before anything is built on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from ..clock import Clock
from .acts import Broken, OneAct, carry
from .ledger import Ledger
from .outcomes import QUICK_TRIES, Receipt, pause_s, refused
from .plan import Memory, Step, next_step, shown, wake_at
from .state import Part, Pending
from .surface import Desired, Page, Rung, Surface

_log = structlog.get_logger(__name__)

MAX_NOTES = 20
NEW_PARTS = 3
"""How often a part is made anew, because the one before can be shown no more, until the next rung is taken."""
MAX_PARTS = 30
"""How many parts a delivery may have made until it no longer makes them anew."""
TOO_MANY = 100
"""Messages made for one turn after which a rung is held to be faulty: a chat must not be flooded."""
LONG_AGO = 0.0
NOTHING_LEFT = "nothing more could be shown there"


class Answer:
    """The parts of one delivery that show what the agent said."""

    def __init__(self, ledger: Ledger, surface: Surface, *, clock: Clock) -> None:
        self._ledger = ledger
        self._ladder = surface.ladder
        self._clock = clock
        self._memories: dict[str, Memory] = {}
        self._failures = 0
        self._errors = 0
        self._not_before = 0.0
        self._next_frame = 0.0
        self.held: str | None = None

    @property
    def rung(self) -> Rung:
        """The rung in use."""
        return self._ladder[min(self._ledger.state.rung, len(self._ladder) - 1)]

    def pages(self, desired: Desired) -> list[Page]:
        """What should be seen now."""
        while True:
            rung = self.rung
            try:
                return rung.render(desired, [part.facts for part in self._ledger.state.parts if self._is_sealed(part)])
            except Exception as error:  # noqa: BLE001 - the next rung shows the answer; nobody gets silence
                _log.error("a rung cannot render a turn", rung=rung.name, exc_info=error)
                if not self._step_down(f"it could not be rendered: {type(error).__name__}"):
                    return []

    def plan(self, desired: Desired) -> Step | None:
        """The next act."""
        if self._ledger.state.over is not None:
            return None
        return next_step(self._ledger.state, self.rung, self.pages(desired), desired, self._memories)

    def ready_at(self, desired: Desired) -> float:
        """When the next act may be done, on the clock's monotonic time; until then there is no need to plan one."""
        return max(self._not_before, 0.0 if desired.final else self._next_frame)

    def wake_at(self, desired: Desired) -> float | None:
        """When to look again although nothing was said, in seconds since 1970."""
        return wake_at(self._ledger.state, self.rung, desired, self._memories)

    def outcome(self, desired: Desired) -> tuple[str, str | None]:
        """How the delivery ends, when nothing is left to do."""
        state = self._ledger.state
        if state.over is not None:
            return ("partly" if any(part.exists for part in state.parts) else "failed"), state.over
        bad = [file for file in desired.files if file.status != "confirmed"]
        pages = self.pages(desired)
        if not shown(state, self.rung, pages):
            return "partly", "; ".join(state.notes[-3:]) or None
        lacks = next((page.lacks for page in pages if page.lacks), "")
        if lacks:
            return "partly", lacks
        if bad:
            return "partly", "; ".join(f"{file.name}: {file.reason or file.status}" for file in bad)
        return "shown", None

    async def do(self, newest: Callable[[], Step | None], hurry: asyncio.Event) -> None:
        """Carries the next act out, as it is once its turn has come. Raises `Fenced`."""
        step = newest()
        if step is not None and step.kind == "show":
            self._next_frame = self._clock.monotonic() + self.rung.interval_s
            if not await _unless(self.rung.slot(urgent=False), hurry):
                return
            step = newest()
        if step is None:
            return
        if step.kind == "create" and step.page is not None:
            await self._create(step.part, step.page)
        elif step.part is not None and step.kind == "withdraw":
            await self._withdraw(step.part)
        elif step.part is not None and step.page is not None:
            await {"show": self._show, "renew": self._renew, "close": self._close}[step.kind](step.part, step.page)

    def _is_sealed(self, part: Part) -> bool:
        return part.exists and part.closed and not self.rung.editable

    def _act(self, part: Part, key: str, *, again: bool = False) -> OneAct:
        return OneAct(self._ledger, part, key, again=again, memory=self._memory(part).own)

    def _memory(self, part: Part) -> Memory:
        return self._memories.setdefault(part.name, Memory())

    # Making parts

    async def _create(self, part: Part | None, page: Page) -> None:
        state, rung = self._ledger.state, self.rung
        if part is None and len(state.parts) >= TOO_MANY:
            await self._next_rung(refused("rung", f"{TOO_MANY} messages were made for one turn"))
            return
        if part is None:
            part = Part(name=f"p{state.count}", rung=rung.name, medium=rung.medium)
            state.count += 1
            state.parts.append(part)
        again = part.pending is not None
        part.maybe = part.maybe or again
        if again and not rung.repeatable:
            await self._again_marked(part)
            return
        pending = part.pending or Pending("create", self._key(part, "c"), page.digest, live=page.live)
        part.pending = pending
        # Whether it is left open was decided with the intent; a repeat must not decide otherwise.
        page = msgspec.structs.replace(page, live=pending.live)
        if not again:
            part.opened_at = self._clock.now()
        await self._ledger.attempted(pending)
        receipt = await carry(rung.create(self._act(part, pending.key, again=again), page))
        part.maybe = (part.maybe or receipt.kind == "unknown") and not receipt.unsent
        if receipt.ok:
            part.pending, part.exists = None, True
            if not again:
                self._memory(part).shown = page.digest
            if not again or not rung.editable:
                # A repeat is the message of the first try, with its content.
                part.shown, part.closed = (None, False) if pending.live else (pending.digest, True)
                state.spent = state.spent if pending.live else 0
        elif not part.maybe:
            part.pending = None
        await self._ledger.received(pending, receipt)
        await self._after(part, receipt)

    async def _again_marked(self, part: Part) -> None:
        """A copy may be visible and nothing can tell: says it once more, and that it may be a repeat."""
        state = self._ledger.state
        if state.repeat:
            await self._end("It is not known whether the answer arrived, not even when it was sent again.")
            return
        state.repeat = True
        self._note("It is not known whether the answer arrived; it was sent once more, marked as a repeat.")
        self._drop(part)
        await self._ledger.keep()

    async def _anew(self, part: Part, receipt: Receipt) -> None:
        """The part can be shown no more; another one takes its place."""
        if part.maybe and not part.exists:
            await self._again_marked(part)
            return
        state = self._ledger.state
        self._drop(part)
        state.spent += 1
        if state.spent > NEW_PARTS or state.count > MAX_PARTS:
            await self._next_rung(receipt)
        await self._ledger.keep()

    # Changing parts

    async def _show(self, part: Part, page: Page) -> None:
        receipt = await carry(self.rung.show(self._act(part, self._key(part, "f")), page))
        memory = self._memory(part)
        memory.shown = page.digest if receipt.ok else None
        if receipt.ok:
            memory.expired, self._ledger.state.spent = 0, 0
        await self._after(part, receipt, frame=True)

    async def _renew(self, part: Part, page: Page) -> None:
        receipt = await carry(self.rung.renew(self._act(part, self._key(part, "r")), page))
        if receipt.ok:
            part.opened_at = self._clock.now()
            await self._ledger.keep()
        elif receipt.kind == "refused" and receipt.cause not in ("busy", "stale", "gone", "barred"):
            self._memory(part).dead = True
            return
        await self._after(part, receipt, frame=True)

    async def _close(self, part: Part, page: Page) -> None:
        rung, before = self.rung, part.shown
        last = part.pending if part.pending is not None and part.pending.kind == "close" else None
        again = last is not None
        pending = (
            last if last is not None and not rung.editable else Pending("close", self._key(part, "e"), page.digest)
        )
        # What it shows is not known from here on, whatever it showed before.
        part.pending, part.shown = pending, None
        await self._ledger.attempted(pending)
        await rung.slot(urgent=True)
        receipt = await carry(rung.close(self._act(part, pending.key, again=again), page))
        if receipt.ok:
            part.pending, part.shown, part.closed = None, pending.digest, True
            self._ledger.state.spent = 0
        elif receipt.kind == "refused" and not again:
            part.pending, part.shown = None, before
        await self._ledger.received(pending, receipt)
        await self._after(part, receipt)

    async def _withdraw(self, part: Part) -> None:
        # From here on it stands for nothing, whatever the agent says next: it may be gone.
        self._forget(part)
        part.maybe = part.maybe or (part.pending is not None and not part.exists)
        if not part.exists and not part.maybe:
            await self._ledger.keep()
            return
        self._ledger.state.leftovers.append(part)
        pending = part.pending = Pending("withdraw", self._key(part, "w"))
        await self._ledger.attempted(pending)
        receipt = await carry(self._rung_of(part).withdraw(self._act(part, pending.key)))
        if receipt.ok or receipt.cause == "gone":
            self._forget(part)
        elif (receipt.kind == "refused" and receipt.cause != "busy") or self._is_broken(receipt):
            part.settled, part.pending = f"It could not be taken away: {receipt.reason}", None
            self._note(part.settled)
            # What nobody can name may be seen beside the answer.
            self._ledger.state.repeat = self._ledger.state.repeat or not part.exists
        await self._ledger.received(pending, receipt)
        self._pause(receipt)

    # What receipts mean

    async def _after(self, part: Part, receipt: Receipt, *, frame: bool = False) -> None:
        cause, memory = receipt.cause, self._memory(part)
        if receipt.ok:
            self._failures = self._errors = 0
        elif receipt.kind == "unknown":
            self._pause(receipt)
            if not frame and not part.exists and not self.rung.repeatable:
                await self._again_marked(part)
            elif self._is_broken(receipt):
                await self._next_rung(receipt)
        elif cause == "busy":
            self._pause(receipt)
        elif cause == "stale":
            self._pause(receipt, quick=self._failures < QUICK_TRIES)
            if self._failures > QUICK_TRIES and not frame:
                await self._next_rung(receipt)
        elif cause == "expired" and frame:
            memory.expired += 1
            memory.dead = self.rung.renew_s is None or memory.expired > QUICK_TRIES
            part.opened_at = LONG_AGO
        elif cause == "gone" or cause == "barred":
            await self._end(receipt.reason)
        elif cause == "held" and not frame:
            self._hold(receipt.reason)
        elif frame and cause != "content":
            memory.dead = True
        elif cause == "spent" or cause == "expired":
            await self._anew(part, receipt)
        else:
            await self._next_rung(receipt)

    def _is_broken(self, receipt: Receipt) -> bool:
        """Whether a rung has raised so often that nothing is to be expected of it any more."""
        self._errors = self._errors + 1 if isinstance(receipt, Broken) else 0
        return self._errors > QUICK_TRIES

    async def _next_rung(self, receipt: Receipt) -> None:
        """This rung cannot show it; the next one shows all of it."""
        self._step_down(receipt.reason)
        await self._ledger.keep()

    def _step_down(self, reason: str) -> bool:
        """Takes the next rung; False if there is none."""
        state, old = self._ledger.state, self.rung
        self._note(f"{old.name}: {reason}")
        _log.warning("a delivery takes the next rung", delivery=self._ledger.row.id, rung=old.name, why=reason)
        self._failures = self._errors = state.spent = 0
        if state.rung + 1 >= len(self._ladder):
            state.over = reason or NOTHING_LEFT
            return False
        state.rung += 1
        for memory in self._memories.values():
            memory.shown, memory.dead, memory.expired = None, False, 0
        same = self.rung.medium == old.medium
        for part in [] if same and old.withdrawable else list(state.parts):
            # A message whose making was left unknown may be seen beside what comes now.
            state.repeat = state.repeat or (part.maybe and not part.exists)
            if not (same and part.exists and part.closed):
                self._drop(part)
        return True

    def _hold(self, reason: str) -> None:
        """Nothing can be shown until somebody writes there."""
        self._note(f"{self.rung.name}: {reason}")
        self.held = reason

    async def _end(self, reason: str) -> None:
        self._ledger.state.over = reason or NOTHING_LEFT
        await self._ledger.keep()

    def _drop(self, part: Part) -> None:
        """The part does not stand for the answer any more."""
        state = self._ledger.state
        state.parts = [one for one in state.parts if one is not part]
        if not self._rung_of(part).withdrawable:
            state.repeat = state.repeat or part.exists or part.maybe
        elif part.exists or part.maybe:
            state.leftovers.append(part)

    def _forget(self, part: Part) -> None:
        state = self._ledger.state
        state.parts = [one for one in state.parts if one is not part]
        state.leftovers = [one for one in state.leftovers if one is not part]

    def _note(self, text: str) -> None:
        notes = self._ledger.state.notes
        notes.append(text)
        del notes[:-MAX_NOTES]

    def _rung_of(self, part: Part) -> Rung:
        return next((rung for rung in self._ladder if rung.name == part.rung), self.rung)

    def _pause(self, receipt: Receipt, *, quick: bool = False) -> None:
        if receipt.ok:
            self._failures = 0
            return
        self._failures += 1
        if not quick:
            self._not_before = self._clock.monotonic() + pause_s(self._failures, receipt)

    def _key(self, part: Part, kind: str) -> str:
        """The same for each repeat of one act; `tries` tells new attempts to make the part from repeats."""
        return f"{self._ledger.row.id}-{part.name}{kind}"


async def _unless(coming: Coroutine[Any, Any, None], hurry: asyncio.Event) -> bool:
    """Waits for `coming`; False, and it is given up, if there is a hurry first."""
    slot, rush = asyncio.ensure_future(coming), asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait({slot, rush}, return_when=asyncio.FIRST_COMPLETED)
        if slot.done():
            slot.result()
        return slot.done()
    finally:
        slot.cancel()
        rush.cancel()
        await asyncio.wait({slot, rush})
