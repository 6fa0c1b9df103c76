"""What a platform has to offer so that a courier can show turns on it.

A channel gives a `Surface` for each delivery. Its rungs say how a turn looks there (`render`, pure) and carry acts out;
the courier decides which act comes when, and keeps the receipts. `turnwire.testing` has the tests that each one must
pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from ..events import JSON
from ..files import StoredFile
from ..view import View
from .outcomes import Receipt

FileStatus: TypeAlias = Literal["waiting", "confirmed", "refused", "parked"]


class FileOutcome(msgspec.Struct, frozen=True):
    """A file of the answer, in the order in which the agent gave them, and what became of it here."""

    id: str
    name: str
    media_type: str
    size: int
    status: FileStatus = "waiting"
    reason: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """What was answered to an approval: None while nobody did."""

    approved: bool | None
    by: str = ""
    reason: str | None = None


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What people should see of a turn now.

    Attributes:
        turn_id: the turn.
        view: the fold of its journal; parts before `view.inherited` stand in the surfaces of earlier turns.
        ended: the turn has its end.
        final: nothing will change any more by itself: the turn has its end and every file its outcome.
        files: its files.
        verdicts: what was answered to its approvals, by their ids.
        repeat: an earlier copy may be visible; the content says so.
        started_at, now: seconds since 1970, for durations of what is under way.
    """

    turn_id: str
    view: View
    ended: bool
    final: bool
    files: Sequence[FileOutcome] = ()
    verdicts: Mapping[str, Verdict] = {}
    repeat: bool = False
    started_at: float = 0.0
    now: float = 0.0


class Page(msgspec.Struct, frozen=True):
    """What one part of a surface should show.

    Attributes:
        digest: equal for equal contents.
        content: what the rung's acts need; nobody else looks into it.
        live: it is shown as still being made.
        lacks: why it does not say all of the answer, if so; operators are told.
    """

    digest: str
    content: Any
    live: bool = False
    lacks: str = ""


class Act(Protocol):
    """One outward act on one part, as the courier hands it to a rung."""

    @property
    def key(self) -> str:
        """Names the act for the platform's own idempotency: the same for each repeat of it; at most 50 characters."""
        ...

    @property
    def again(self) -> bool:
        """Whether an earlier try has left it unknown if this was applied."""
        ...

    @property
    def facts(self) -> Mapping[str, JSON]:
        """What was learned of this part, also by processes before us."""
        ...

    @property
    def memory(self) -> dict[str, Any]:
        """What this process remembers of the part; gone after a crash."""
        ...

    async def learn(self, **facts: JSON) -> None:
        """Keeps what was learned of this part: returns once it is stored."""
        ...

    async def number(self) -> int:
        """The part's next wire number: from 1, only growing, never used twice, also across crashes."""
        ...


class Rung(Protocol):
    """One way of showing a turn. Acts never raise for what a platform or network does; they return receipts.

    Attributes:
        name: for receipts and operators.
        medium: rungs of one medium can go on with each other's parts.
        live: whether it shows the turn while it runs.
        editable: whether a part that was closed can be given other content.
        repeatable: whether `create` with the same key cannot make a second visible copy.
        withdrawable: whether parts can be taken away, or changed by other rungs of the medium. If not, one that has to
            be given up makes what follows a repeat that says so, and one that was closed stays for every rung.
        interval_s: seconds between two intermediate frames, at least.
        renew_s: seconds after which what streams has to be renewed, None if it lives for ever or cannot be.
        seal_s: seconds after which what streams is closed as it is and the rest goes on in another part, None if it
            need not be.
        tick_s: seconds after which a running turn looks different even if nothing was said, None if it does not.
    """

    name: str
    medium: str
    live: bool
    editable: bool
    repeatable: bool
    withdrawable: bool
    interval_s: float
    renew_s: float | None
    seal_s: float | None
    tick_s: float | None

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The parts that should be seen, in order; none while there is nothing to show. Pure.

        Args:
            sealed: the facts of the parts that can no longer be changed; they stay the first ones.
        """
        ...

    async def slot(self, *, urgent: bool) -> None:
        """Waits until the platform's limits allow one more frame; an urgent one does not wait behind the others."""
        ...

    async def create(self, act: Act, page: Page) -> Receipt:
        """Makes a new visible part. Not idempotent: the courier has stored the intent."""
        ...

    async def show(self, act: Act, page: Page) -> Receipt:
        """An intermediate frame of a part that is open."""
        ...

    async def close(self, act: Act, page: Page) -> Receipt:
        """The whole content of a part that will not change by itself any more, not depending on what it showed."""
        ...

    async def renew(self, act: Act, page: Page) -> Receipt:
        """Lets what streams live longer."""
        ...

    async def withdraw(self, act: Act) -> Receipt:
        """Takes a part away that should no longer be seen."""
        ...


class Surface(Protocol):
    """One place where one turn is shown.

    Attributes:
        ladder: the rungs, from best to plainest.
    """

    ladder: Sequence[Rung]

    async def attach(self, act: Act, file: StoredFile) -> Receipt:
        """Sends one file. Not idempotent: the courier has stored the intent."""
        ...

    async def greet(self, act: Act) -> Receipt:
        """Shows, before there is anything to read, that somebody is at work. Confirmed if there is no such sign."""
        ...

    async def part(self, act: Act) -> Receipt:
        """Takes that sign away."""
        ...


class DeliveryOrder(msgspec.Struct, frozen=True):
    """Which turn goes where: `target` is the channel's own JSON; with `push` no message waits for it."""

    id: str
    turn_id: str
    conversation_id: str
    channel: str
    target: bytes
    push: bool


class Courierable(Protocol):
    """A channel as couriers see it."""

    name: str

    @property
    def showing(self) -> bool:
        """Whether this process can act on its surfaces now; another one may, where only one can at a time."""
        ...

    def surface(self, order: DeliveryOrder) -> Surface:
        """The surface of one delivery. Raises `ValueError` for a target that it cannot read."""
        ...


OpenFile: TypeAlias = Callable[[str], Awaitable[StoredFile | None]]
