"""Which act brings a surface closer to what its turn says: pure, so that every case can be tried without a loop.

Guarantee: an act that might make a second visible copy is planned only while no first one can be visible, or where the
platform's own key keeps it from doing so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from .state import Part, State
from .surface import Desired, Page, Rung

StepKind: TypeAlias = Literal["create", "show", "close", "renew", "withdraw"]


class Step(msgspec.Struct, frozen=True):
    """The next act: on `part`, or on a new one if that is None."""

    kind: StepKind
    part: Part | None = None
    page: Page | None = None


class Memory(msgspec.Struct):
    """What this process knows of a part beyond the ledger.

    Attributes:
        shown: digest of the last frame that was confirmed.
        dead: frames are not taken any more; the final one will be.
        expired: how often in a row frames were refused because its life had ended.
        own: the rung's.
    """

    shown: str | None = None
    dead: bool = False
    expired: int = 0
    own: dict[str, object] = {}


def next_step(
    state: State, rung: Rung, pages: Sequence[Page], desired: Desired, memories: Mapping[str, Memory]
) -> Step | None:
    """The act to do now, None if there is none before something changes."""
    if state.over is not None or (not rung.live and not desired.final):
        return None
    for index, page in enumerate(pages):
        if index >= len(state.parts):
            return Step("create", None, page)
        step = _for_part(state.parts[index], rung, page, desired, memories, last=index == len(pages) - 1)
        if step is not None:
            return step
    if pages or desired.final:
        for part in reversed(state.parts[len(pages) :]):
            if part.settled is not None:
                continue
            if pages and rung.repeatable and _is_unsure(part):
                # The same again tells its name, without which it cannot be taken away.
                return Step("create", part, pages[-1])
            return Step("withdraw", part)
    for part in state.leftovers:
        # What is being taken away may be gone already, so that nothing can be said in it any more.
        leaves = part.pending is not None and part.pending.kind == "withdraw"
        if part.settled is None and (desired.final or leaves):
            return Step("withdraw", part)
    return None


def _is_unsure(part: Part) -> bool:
    """Whether it is not known if the part was made."""
    return not part.exists and part.pending is not None and part.pending.kind == "create"


def _for_part(
    part: Part, rung: Rung, page: Page, desired: Desired, memories: Mapping[str, Memory], *, last: bool
) -> Step | None:
    if part.settled is not None:
        return None
    if not part.exists:
        return Step("create", part, page)
    live = last and not desired.final
    if not live:
        if part.closed and (part.shown == page.digest or not rung.editable):
            return None
        return Step("close", part, page)
    memory = memories.get(part.name, Memory())
    if part.closed or memory.dead:
        return None
    if rung.seal_s is not None and part.opened_at is not None and desired.now >= part.opened_at + rung.seal_s:
        return Step("close", part, msgspec.structs.replace(page, live=False))
    if rung.renew_s is not None and part.opened_at is not None and desired.now >= part.opened_at + rung.renew_s:
        return Step("renew", part, page)
    return Step("show", part, page) if memory.shown != page.digest else None


def shown(state: State, rung: Rung, pages: Sequence[Page]) -> bool:
    """Whether everything is seen as it should be at the end."""
    parts = state.parts
    same = len(parts) == len(pages) and all(
        part.settled is None and part.exists and part.closed and (part.shown == page.digest or not rung.editable)
        for part, page in zip(parts, pages, strict=True)
    )
    return same and not any(part.exists and part.settled is not None for part in state.leftovers)


def wake_at(state: State, rung: Rung, desired: Desired, memories: Mapping[str, Memory]) -> float | None:
    """When a running turn has to be looked at again even if nothing is said, in seconds since 1970."""
    if desired.final or state.over is not None or not rung.live:
        return None
    due = [desired.now + rung.tick_s] if rung.tick_s is not None else []
    for part in state.parts[-1:]:
        if part.settled is not None or part.closed or memories.get(part.name, Memory()).dead:
            return None
        due += [
            part.opened_at + seconds
            for seconds in (rung.renew_s, rung.seal_s)
            if seconds is not None and part.opened_at is not None and part.opened_at + seconds > desired.now
        ]
    return min(due, default=None)
