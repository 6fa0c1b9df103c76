"""The journal's writing side: one group commit for all turns of the process.

Guarantee: records get dense numbers in the order they were put, and are shown only after their commit. What one `put`
gave is committed together. An idle journal commits at once; a busy one at most every `flush_s` seconds, each turn less
often while commits take too much of the time, and adjacent deltas that wait for the same commit become one record. A
turn whose epoch or head moved on is fenced and told so; the other turns of the commit are not touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec
import structlog

from .. import chunks as c
from ..clock import Clock, wait
from ..store import Append, Database
from ..store.queries.approvals import Asked
from ..store.queries.records import join_records
from ..store.queries.rows import TurnRow
from ..store.queries.turns import Claim, Ending, Fenced, end_turn, save_history
from ..view import View, replay, taken_messages, to_message
from .hub import Hub, Topic
from .joining import join_delta, weight_of
from .pace import Pace

_log = structlog.get_logger(__name__)

FLUSH_S = 0.02
PENDING_BYTES = 1024 * 1024
PENDING_LIMIT = 2000
"""Events of one turn that may wait for a commit; the agent waits when there are more."""


class JournalError(Exception):
    """A turn's records cannot be written any more: it was fenced, or the store failed."""


class TurnFenced(JournalError):
    """Another process owns the turn now."""

    def __init__(self) -> None:
        super().__init__("another process took this turn over")


class TurnLog:
    """The pen of one claimed turn. Only its holder writes to the turn.

    `head` counts the committed records, `said_bytes` about how much was put in all. After a failure, of which
    `on_failure` is told, every call raises `JournalError`.
    """

    def __init__(self, journal: Journal, claim: Claim, topic: Topic) -> None:
        self.turn: TurnRow = claim.turn
        self.epoch = claim.epoch
        self.head = claim.turn.head
        self.topic = topic
        self.failure: JournalError | None = None
        self.on_failure: Callable[[JournalError], None] = lambda _: None
        self._journal = journal
        self._pending: list[c.AnyChunk] = []
        self._puts = 0
        self._weight = 0
        self.said_bytes = 0
        self.ending = False
        self.taken_at = float("-inf")
        self._saved: View | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def full(self) -> bool:
        """Whether the agent should wait before it says more."""
        return self._puts >= PENDING_LIMIT or self._weight >= PENDING_BYTES

    @property
    def urgent(self) -> bool:
        """Whether somebody waits for its next commit."""
        return bool(self._waiters) or self._saved is not None

    def put(self, chunks: Sequence[c.AnyChunk]) -> None:
        """Adds chunks to the next commit, all of them together. Raises `JournalError` when there will be none."""
        if self.failure is not None:
            raise self.failure
        if self.ending:
            raise JournalError("the turn has its end; it takes no more records")
        pending = self._pending
        if not pending:
            self._journal._dirty_turn(self)
        self._puts += 1
        for chunk in chunks:
            weight = weight_of(chunk)
            self._weight += weight
            self.said_bytes += weight
            if not (pending and join_delta(pending, chunk)):
                pending.append(chunk)

    def save(self, view: View) -> None:
        """Saves the answer into history with the next commit. `view` is the fold of everything put by then."""
        self._saved = view

    async def flushed(self) -> None:
        """Returns once everything put so far is committed; raises `JournalError` if it never will be."""
        if self.failure is not None:
            raise self.failure
        if self._pending:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        elif self.turn.id in self._journal._writing:
            await asyncio.shield(self._journal._written)
            if self.failure is not None:
                raise self.failure

    async def end(
        self,
        chunks: Sequence[c.AnyChunk],
        view: View,
        outcome: str,
        reason: str | None,
        next_owner: str | None,
        *,
        asked: Sequence[Asked] = (),
        keep_s: float = 0.0,
    ) -> Claim | None:
        """Commits what is pending together with the turn's last chunks, its answer, its outcome and the approvals it
        asks for, which are kept for `keep_s` seconds.

        Returns the conversation's next turn if it was claimed for `next_owner`. Raises `JournalError`.
        """
        ending = Ending(
            turn=self.turn,
            epoch=self.epoch,
            head=self.head,
            count=0,
            payload=b"",
            outcome=outcome,
            reason=reason,
            replay=join_records([c.encode(chunk) for chunk in replay(view)]),
            answer=msgspec.json.encode(to_message(view)),
            taken=taken_messages(view),
            asked=asked,
            keep_s=keep_s,
        )
        return await self._journal._end(self, chunks, ending, next_owner)

    def fail(self, failure: JournalError) -> None:
        """Nothing more of this turn can be written here; its readers must come again."""
        if self.failure is None:
            self.failure = failure
            self._pending = []
            _release(self._waiters, failure)
            self.topic.lose()
            self.on_failure(failure)

    def _take(self) -> _Taken | None:
        try:
            records = [c.encode(chunk) for chunk in self._pending]
            answer = msgspec.json.encode(to_message(self._saved)) if self._saved is not None else None
        except Exception as error:  # noqa: BLE001 - what one turn cannot write must not stop the others
            self.fail(JournalError(f"the turn's records cannot be written: {error}"))
            return None
        taken = _Taken(self, records, answer, self._waiters)
        self._pending, self._saved, self._waiters, self._puts, self._weight = [], None, [], 0, 0
        return taken


class _Taken(NamedTuple):
    """What one commit took of one turn."""

    log: TurnLog
    records: list[bytes]
    answer: bytes | None
    waiters: list[asyncio.Future[None]]

    def fail(self, failure: JournalError) -> None:
        _release(self.waiters, failure)
        self.log.fail(failure)


class Journal:
    """All turns that this process writes.

    Args:
        flush_s: seconds between two commits of a busy process.
        lease_s: seconds of lease that a turn claimed at the end of another gets.
        committed: called after each commit with `(turn id, first seq, records, ended)`, for other processes.
    """

    def __init__(
        self,
        db: Database,
        hub: Hub,
        clock: Clock,
        *,
        flush_s: float = FLUSH_S,
        lease_s: float = 15.0,
        committed: Callable[[str, int, Sequence[bytes], bool], None] | None = None,
    ) -> None:
        self._db = db
        self._hub = hub
        self._clock = clock
        self._flush_s = flush_s
        self._pace = Pace(flush_s)
        self._lease_s = lease_s
        self._committed = committed
        self._dirty: dict[str, TurnLog] = {}
        self._writing: set[str] = set()
        self._written: asyncio.Future[None]
        self._wake = asyncio.Event()
        self._last_flush = float("-inf")
        self._closing: asyncio.Future[None]
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts committing."""
        self._closing = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(), name="turnwire-journal")

    async def close(self) -> None:
        """Commits what is pending and stops."""
        if self._task is not None:
            if not self._closing.done():
                self._closing.set_result(None)
            self._wake.set()
            await self._task

    def open(self, claim: Claim) -> TurnLog:
        """The pen for a claimed turn."""
        return TurnLog(self, claim, self._hub.open(claim.turn.id, claim.turn.head))

    def release(self, log: TurnLog) -> None:
        """The turn is over for this process."""
        self._dirty.pop(log.turn.id, None)
        self._hub.close(log.turn.id)

    def _dirty_turn(self, log: TurnLog) -> None:
        self._dirty[log.turn.id] = log
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            if not self._dirty:
                if self._closing.done():
                    return
                self._wake.clear()
                continue
            due = self._last_flush + self._flush_s - self._clock.monotonic()
            if due > 0:
                await wait(self._clock, {self._closing}, due)
            await self._flush()

    async def _flush(self) -> None:
        now = self._clock.monotonic()
        logs = self._due(now)
        if logs or self._dirty:
            self._last_flush = now
        if not logs:
            return
        self._writing = {log.turn.id for log in logs}
        self._written = asyncio.get_running_loop().create_future()
        try:
            await self._write([taken for log in logs if (taken := log._take()) is not None])
        finally:
            self._writing = set()
            self._written.set_result(None)
            self._pace.took(now, self._clock.monotonic() - now)

    def _due(self, now: float) -> list[TurnLog]:
        """Which turns to commit now; the others stay dirty."""
        pause_s, closing = self._pace.pause_s, self._closing.done()
        most = self._pace.most(len(self._dirty))
        due: list[TurnLog] = []
        ready: list[TurnLog] = []
        later: dict[str, TurnLog] = {}
        for name, log in self._dirty.items():
            if not log._pending or log.ending or log.failure is not None:
                continue
            if closing or log.urgent or pause_s <= self._flush_s:
                due.append(log)
            elif now - log.taken_at >= pause_s:
                ready.append(log)
            else:
                later[name] = log
        # Who was quiet the longest comes first: a first word does not wait for those who talk on.
        ready.sort(key=attrgetter("taken_at"))
        self._dirty = {log.turn.id: log for log in ready[most:]} | later
        due += ready[:most]
        for log in due:
            # A turn's beginning is no talk yet.
            if log.head:
                log.taken_at = now
        return due

    async def _write(self, taken: list[_Taken]) -> None:
        batch = [
            Append(one.log.turn.id, one.log.epoch, one.log.head, len(one.records), join_records(one.records))
            for one in taken
        ]
        try:
            fenced = await self._db.append(batch)
        except Exception as error:  # noqa: BLE001 - whatever it was, these turns are not stored and must say so
            _log.error("append failed", turns=len(batch), error=str(error))
            for one in taken:
                one.fail(JournalError(f"the turn could not be stored: {error}"))
            return
        saves = []
        for one in taken:
            if one.log.turn.id in fenced:
                one.fail(TurnFenced())
                continue
            self._show(one.log, one.records, ended=False)
            if one.answer is not None:
                saves.append((one.log.turn, one.log.epoch, one.answer))
            _release(one.waiters)
        if saves:
            await self._save(saves, taken)

    async def _save(self, saves: list[tuple[TurnRow, int, bytes]], taken: list[_Taken]) -> None:
        try:
            await self._db.run(save_history, saves)
        except Exception as error:  # noqa: BLE001 - whatever it was, the other turns' commits must go on
            _log.error("answers could not be saved", turns=len(saves), error=str(error))
            for one in taken:
                if one.answer is not None:
                    one.fail(JournalError(f"the turn's history could not be stored: {error}"))

    def _show(self, log: TurnLog, records: Sequence[bytes], *, ended: bool) -> None:
        first = log.head
        log.head += len(records)
        log.topic.publish(first, records, ended=ended)
        if self._committed is not None:
            self._committed(log.turn.id, first, records, ended)

    async def _end(
        self,
        log: TurnLog,
        chunks: Sequence[c.AnyChunk],
        ending: Ending,
        next_owner: str | None,
    ) -> Claim | None:
        log.ending = True
        while log.turn.id in self._writing:
            await asyncio.shield(self._written)
        if log.failure is not None:
            raise log.failure
        records = [c.encode(chunk) for chunk in (*log._pending, *chunks)]
        ending = msgspec.structs.replace(ending, head=log.head, count=len(records), payload=join_records(records))
        try:
            claimed = await self._db.run(end_turn, ending, next_owner=next_owner, lease_s=self._lease_s)
        except Fenced:
            log.fail(TurnFenced())
            raise TurnFenced from None
        except Exception as error:
            # Whatever it was, the turn has no end yet: who is told so can write another one.
            failure = JournalError(f"the turn's end could not be stored: {error}")
            log.fail(failure)
            raise failure from error
        log._pending = []
        self._show(log, records, ended=True)
        _release(log._waiters)
        return claimed


def _release(waiters: list[asyncio.Future[None]], failure: JournalError | None = None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
    waiters.clear()
