"""The loop that drives one surface from what is acknowledged to what its turn says.

Guarantee: one act at a time on the answer, and one beside it on its files; the newest view wins, and the end of a turn
overtakes frames that wait. Settled means: everything is seen as the turn says, or it is recorded why not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from ..chunks import FileChunk
from ..clock import Clock, sleep, wait
from ..files import FileStore
from ..store import Database, StoreError
from ..store.queries.rows import DeliveryRow
from ..view import OtherPart, View
from .answer import Answer
from .attachments import Attachments
from .circumstances import Circumstances, read_circumstances
from .ledger import STORE_PAUSE_S, Ledger
from .order import Place
from .plan import Step
from .replica import Replica
from .state import State
from .surface import Desired, FileOutcome, Surface

_log = structlog.get_logger(__name__)

T = TypeVar("T")

SIGN_S = 0.5
"""Seconds that the answer waits at most for the sign beside it, so that a turn needs one connection."""


class Courier:
    """Drives one claimed delivery.

    Args:
        row: the delivery as it was claimed.
        surface: where it is shown.
        changed: called after each act that people or agents can tell.
    """

    def __init__(
        self,
        row: DeliveryRow,
        surface: Surface,
        *,
        db: Database,
        files: FileStore,
        replica: Replica,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._row = row
        self._db = db
        self._replica = replica
        self._clock = clock
        self._changed = changed
        self._ledger = Ledger(row, db=db, clock=clock)
        self._answer = Answer(self._ledger, surface, clock=clock)
        self._attachments = Attachments(self._ledger, surface, files=files, clock=clock)
        self._about = Circumstances()
        self._place = Place(row, db=db, clock=clock)
        # Set once no frame may be waited for any more.
        self._hurry = asyncio.Event()
        self._acting: asyncio.Task[None] | None = None
        self._beside: asyncio.Task[None] | None = None
        self._signing_until = 0.0

    async def run(self) -> str:
        """Works until the delivery is settled or held; returns its outcome, or `held`.

        Raises `Fenced` when somebody else drives it, `Lost` when this process no longer can.
        """
        await self._insist(self._replica.open)
        await self._look_around()
        try:
            while True:
                await self._work()
                if (held := self._held) is not None:
                    await self._ledger.hold(held)
                    self._changed()
                    return "held"
                outcome, reason = self._answer.outcome(self.desired())
                if await self._ledger.settle(outcome, reason, revision=self._about.revision):
                    self._changed()
                    return outcome
                await self._look_around()
        finally:
            await self._let_go()
            self._replica.close()

    def desired(self) -> Desired:
        """What people should see now."""
        return desired_of(self._row.turn_id, self._replica.view, self._ledger.state, self._about, now=self._clock.now())

    async def _work(self) -> None:
        """Acts until there is nothing left to do."""
        while True:
            await self._insist(self._replica.catch_up)
            await self._insist(self._place.look)
            desired = self.desired()
            if desired.final:
                self._hurry.set()
            if self._held is not None:
                await self._let_go_on()
                return
            waits: list[float] = []
            if self._beside is None:
                job, signing = self._attachments.plan(desired)
                free = self._acting is None if signing else job is None or self._due_in(self._place.wait_s(), waits)
                if job is not None and free and self._due(self._attachments.not_before, waits):
                    self._beside = asyncio.create_task(_run(job), name=f"beside-{self._row.id}")
                    self._signing_until = self._clock.monotonic() + SIGN_S if signing else 0.0
            signed_at = self._signing_until if self._beside is not None else 0.0
            if self._acting is None and self._due(max(self._answer.ready_at(desired), signed_at), waits):
                step = self._answer.plan(desired)
                if step is not None and (step.kind != "create" or self._due_in(self._place.wait_s(), waits)):
                    acting = self._answer.do(self._newest, self._hurry)
                    self._acting = asyncio.create_task(acting, name=f"act-{self._row.id}")
                elif self._beside is None and not waits and (desired.final or self._ledger.state.over is not None):
                    return
                elif (wake := self._answer.wake_at(desired)) is not None:
                    waits.append(wake - self._clock.now())
            await self._wait(min(waits, default=None))

    def _newest(self) -> Step | None:
        """The next act by what is known now, without waiting."""
        return self._answer.plan(self.desired())

    def _due(self, at: float, waits: list[float]) -> bool:
        return self._due_in(at - self._clock.monotonic(), waits)

    def _due_in(self, left: float, waits: list[float]) -> bool:
        if left > 0:
            waits.append(left)
        return left <= 0

    async def _wait(self, seconds: float | None) -> None:
        """Waits for an act to end, for more of the turn, or for `seconds` to pass."""
        acts = {task for task in (self._acting, self._beside) if task is not None}
        news = asyncio.ensure_future(self._replica.changed())
        try:
            await wait(self._clock, {*acts, news}, seconds)
        finally:
            news.cancel()
        for task in acts:
            if task.done():
                self._acting = None if task is self._acting else self._acting
                self._beside = None if task is self._beside else self._beside
                task.result()
                self._changed()

    @property
    def _held(self) -> str | None:
        """Why nothing can be shown until somebody writes there, if so."""
        return self._answer.held if self._answer.held is not None else self._attachments.held

    async def _let_go_on(self) -> None:
        """Lets what is under way end."""
        while (acts := {task for task in (self._acting, self._beside) if task is not None}) != set():
            await asyncio.wait(acts)
            for task in acts:
                task.result()
            self._acting = self._beside = None

    async def _let_go(self) -> None:
        acts = {task for task in (self._acting, self._beside) if task is not None}
        for task in acts:
            task.cancel()
        if acts:
            await asyncio.wait(acts)

    async def _look_around(self) -> None:
        self._about = await self._insist(lambda: self._db.read(read_circumstances, self._row.id, self._row.turn_id))

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except StoreError as error:
                _log.warning("a delivery waits for the store", delivery=self._row.id, error=str(error))
                await sleep(self._clock, STORE_PAUSE_S)


def desired_of(turn_id: str, view: View, state: State, about: Circumstances, *, now: float) -> Desired:
    """What people should see of a turn by what its journal and the ledger of its delivery say. Pure."""
    files = [
        FileOutcome(own, name, kind, size, state.items[own].status, state.items[own].reason)
        if own in state.items
        else FileOutcome(own, name, kind, size)
        for own, name, kind, size in named_files(view)
    ]
    ended = view.finish is not None
    return Desired(
        turn_id=turn_id,
        view=view,
        ended=ended,
        final=ended and all(file.status != "waiting" for file in files),
        files=files,
        verdicts=about.verdicts,
        repeat=state.repeat,
        started_at=about.started_at,
        now=now,
    )


async def _run(job: Callable[[], Awaitable[None]]) -> None:
    await job()


def named_files(view: View) -> list[tuple[str, str, str, int]]:
    """The files of ours that an answer holds, in order: id, name, type and size."""
    found: dict[str, tuple[str, str, str, int]] = {}
    for part in view.parts[view.inherited :]:
        if isinstance(part, OtherPart) and isinstance(part.chunk, FileChunk):
            about: dict[str, Any] = (part.chunk.provider_metadata or {}).get("turnwire") or {}
            own, name, size = about.get("file"), about.get("name"), about.get("size")
            if isinstance(own, str):
                size = size if isinstance(size, int) else 0
                found[own] = (own, str(name or own), part.chunk.media_type, size)
    return list(found.values())
