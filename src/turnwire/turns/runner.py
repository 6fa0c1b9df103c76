"""One turn, run by its owner from the claim to the last write.

Guarantee: the agent is called only after the turn's first record is committed; whatever it does (fails, stalls, ignores
cancellation, stops half-way), the turn gets exactly one end, written by a task that no cancellation reaches. Nothing is
written once the turn is lost to another owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec
import structlog
from sqlalchemy import Connection

from ..chunks import ToolApprovalResponse
from ..clock import Clock, wait
from ..events import JSON, AgentEvent, AgentEventError, Data, File, ToolCall, ToolError, ToolResult
from ..files import FileStore, StoredFile
from ..framer import Framer, Outcome
from ..journal import Journal, JournalError
from ..media import FileRefused
from ..store import Database, StoreError
from ..store.queries.approvals import Asked
from ..store.queries.conversations import get_conversation, read_context, steered_messages, turn_input
from ..store.queries.rows import Conversation, MessageRow, TurnRow
from ..store.queries.turns import Claim, Fenced
from ..turn import AgentError, DeliveryOutcome, Inbox, InboxMessage, PendingCall, Resolution, Turn
from ..view import STEER, ToolPart, View
from .context import build_turn, inbox_message
from .continuation import read_answers, read_base
from .endings import finish_metadata, start_metadata
from .pump import Agent, AgentExit, drive

_log = structlog.get_logger(__name__)

STOP_GRACE_S = 0.25
"""Seconds an agent has to end by itself once it is told to stop."""
CANCEL_GRACE_S = 0.5
"""Seconds a cancelled agent has before its task is abandoned."""
PIECE_CHARS = 64 * 1024
"""Text beyond this becomes several records, so that no write is too large to be told to a reader."""
BREATHE_EVERY = 64
"""Events after which an agent that never waits lets the rest of the process run."""


Background: TypeAlias = Callable[[TurnRow, int, str, Any], Awaitable[str]]
"""Leaves a job of a turn under that epoch behind, and returns its id."""


Prepare: TypeAlias = Callable[[TurnRow, bool], Awaitable[str | None]]
"""Fetches what a turn's messages only name, and returns what they reply to; True for those that came while it runs."""


Receipts: TypeAlias = Callable[[TurnRow, str, float | None], Awaitable[Mapping[str, DeliveryOutcome]]]
"""What became of a file of a turn on each surface, at the latest after so many seconds."""


class Limits(msgspec.Struct, frozen=True):
    """Deadlines in seconds, and the size of an answer in bytes; 0 is none. Approvals expire after theirs."""

    idle_timeout_s: float = 300.0
    tool_timeout_s: float = 0.0
    max_turn_s: float = 0.0
    max_answer_bytes: int = 0
    approval_timeout_s: float = 0.0


class TurnOver(Exception):
    """The turn has ended for this agent; what it still says is not kept."""


class TurnRun:
    """The run of one claimed turn in this process.

    `abandoned` is set when the agent ignored cancellation: its task is left behind, fenced off.
    """

    def __init__(
        self,
        claim: Claim,
        agent: Agent,
        *,
        db: Database,
        journal: Journal,
        files: FileStore,
        clock: Clock,
        limits: Limits,
        background: Background | None = None,
        prepare: Prepare | None = None,
        receipts: Receipts | None = None,
    ) -> None:
        self.turn = claim.turn
        self.log = journal.open(claim)
        # An agent that waits for something else must not go on for a turn that nobody can store.
        self.log.on_failure = lambda failure: self.interrupt(str(failure))
        self.renewed_at = clock.monotonic()
        self.pump: asyncio.Task[None] | None = None
        self.abandoned = False
        self.outcome: Outcome | None = None
        self._agent = agent
        self._db = db
        self._files = files
        self._clock = clock
        self._limits = limits
        self._leave = background
        self._fetch = prepare
        self._receipts = receipts
        # Looked into once at first: messages may have come before the agent began.
        self._news = asyncio.Event()
        self._news.set()
        self._read_to = -1
        self._started_at = clock.now()
        self._framer = Framer(claim.turn.message_id, start_metadata(claim.turn, self._started_at))
        self._api: Turn | None = None
        self._closed = False
        self._stop: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._changed = asyncio.Event()
        self._events = 0
        self._last_event = clock.monotonic()
        self._held = False
        self._tools_since: dict[str, float] = {}
        self._resolutions: list[Resolution] = []
        # What the agent wants back with the answer to an approval, by its own id of the call.
        self._states: dict[str, JSON] = {}

    def look_into_inbox(self) -> None:
        """Something may have come for the agent."""
        self._news.set()

    def request_stop(self, by: str) -> None:
        """A person wants this turn to stop."""
        if not self._stop.done():
            self._stop.set_result(by)

    def interrupt(self, why: str) -> None:
        """The process wants this turn to end now: it drains, or cannot keep its lease."""
        if not self._lost.done():
            self._lost.set_result(why)

    async def run(self) -> tuple[Outcome, str | None]:
        """Runs the agent; returns how the turn ends and why. Raises `JournalError` when it cannot be written."""
        try:
            if self.turn.continues is not None:
                await self._go_on()
            self.log.put(self._framer.start())
            await self.log.flushed()
            return await self._supervise()
        finally:
            self._closed = True

    async def end(self, outcome: Outcome, reason: str | None, next_owner: str | None) -> Claim | None:
        """The last write. Returns the next turn of the conversation if `next_owner` got it."""
        self._closed = True
        metadata = finish_metadata(
            self.turn, outcome, reason, self._framer, started_at=self._started_at, ended_at=self._clock.now()
        )
        chunks = self._framer.finish(outcome, reason=reason, metadata=metadata)
        view, asked = self._framer.view, self._asked() if outcome == "waiting" else []
        keep_s = self._limits.approval_timeout_s
        claimed = await self.log.end(chunks, view, outcome, reason, next_owner, asked=asked, keep_s=keep_s)
        self.outcome = outcome
        return claimed

    async def _go_on(self) -> None:
        """Begins with the message of the turns before, and with what people answered them."""
        try:
            base, answers = await self._db.read(_read_beginning, self.turn)
        except StoreError as error:
            raise JournalError(f"what this turn goes on with could not be read: {error}") from error
        self._resolutions = [resolution for _, resolution in answers]
        said = [answer for answer, _ in answers]
        metadata = start_metadata(self.turn, self._started_at)
        self._framer = Framer(self.turn.message_id, metadata, base=base, answers=said)

    def _asked(self) -> list[Asked]:
        """The approvals that the turn waits for."""
        calls = [part for part in self._framer.view.parts if isinstance(part, ToolPart) and part.asks]
        states = {self._framer.wire_id(own): state for own, state in self._states.items()}
        return [
            Asked(
                id=part.approval.id,
                name=part.name,
                call=msgspec.json.encode(PendingCall(part.id, part.name, part.input, part.title, bool(part.dynamic))),
                state=msgspec.json.encode(states[part.id]) if part.id in states else None,
            )
            for part in calls
            if part.approval is not None
        ]

    async def _supervise(self) -> tuple[Outcome, str | None]:
        if self._stop.done():
            return ("stopped", None)
        self._api = await self._prepare()
        if self._lost.done():
            return ("interrupted", self._lost.result())
        if self._stop.done():
            return ("stopped", None)
        started = self._last_event = self._clock.monotonic()
        pump = self.pump = asyncio.create_task(
            drive(self._agent, self._api, self._accept), name=f"agent-{self.turn.id}"
        )
        changed: asyncio.Task[bool] | None = None
        try:
            while True:
                if changed is None or changed.done():
                    self._changed.clear()
                    changed = asyncio.create_task(self._changed.wait())
                late, in_s = self._deadline(started)
                if late is not None:
                    await self._cut(pump)
                    return ("failed", late)
                await wait(self._clock, {pump, self._stop, self._lost, changed}, in_s)
                if pump.done():
                    return self._result(pump)
                if self._stop.done():
                    self._api.stopping.set()
                    await wait(self._clock, {pump}, STOP_GRACE_S)
                    await self._cut(pump)
                    return ("stopped", None)
                if self._lost.done():
                    await self._cut(pump)
                    return ("interrupted", self._lost.result())
        finally:
            if changed is not None:
                changed.cancel()
            if not pump.done() and not self.abandoned:
                pump.cancel()

    async def _prepare(self) -> Turn:
        quote = await self._fetched(steered=False)
        rows, asked, conversation = await self._db.read(_read_input, self.turn)
        return await build_turn(
            self.turn,
            conversation,
            rows,
            asked,
            self._files,
            emit=self._accept,
            attach=self._attach,
            background=self._background if self._leave else None,
            inbox=Inbox(self._take_inbox, self._news),
            resolutions=self._resolutions,
            quote=quote,
            outcomes=partial(self._receipts, self.turn) if self._receipts is not None else None,
        )

    async def _fetched(self, *, steered: bool) -> str | None:
        """Fetches what the turn's messages only name, unless the turn has to end; returns what they reply to."""
        if self._fetch is None:
            return None
        fetching = asyncio.ensure_future(self._fetch(self.turn, steered))
        try:
            await wait(self._clock, {fetching, self._stop, self._lost}, None)
            return fetching.result() if fetching.done() else None
        finally:
            fetching.cancel()

    def _result(self, pump: asyncio.Task[None]) -> tuple[Outcome, str | None]:
        if self.log.failure is not None:
            raise self.log.failure
        if pump.cancelled():
            return ("failed", "The agent was cancelled from within.")
        error = pump.exception()
        if error is None:
            return ("waiting" if self._framer.asks else "done", None)
        if isinstance(error, JournalError):
            raise error
        if isinstance(error, (AgentError, AgentEventError, FileRefused)):
            _log.warning("agent failed", turn=self.turn.id, error=str(error))
            return ("failed", str(error) or type(error).__name__)
        _log.error("agent failed", turn=self.turn.id, exc_info=error)
        kind = str(error) if isinstance(error, AgentExit) else type(error).__name__
        return ("failed", f"The agent failed ({kind}).")

    async def _cut(self, pump: asyncio.Task[None]) -> None:
        """Ends the agent: cancelled if it still runs, left behind if it ignores that."""
        if not pump.done():
            pump.cancel()
            await wait(self._clock, {pump}, CANCEL_GRACE_S)
        self._closed = True
        if not pump.done():
            self.abandoned = True
            _log.warning("agent ignores cancellation; its task is abandoned", turn=self.turn.id)
        elif not pump.cancelled() and (error := pump.exception()) is not None and not isinstance(error, TurnOver):
            _log.info("agent failed while it was stopped", turn=self.turn.id, error=type(error).__name__)

    async def _accept(self, event: AgentEvent) -> None:
        """Takes one event of the agent into the journal."""
        if self._closed:
            raise TurnOver(f"turn {self.turn.id} has ended")
        if type(event) is str and len(event) > PIECE_CHARS:
            for start in range(0, len(event), PIECE_CHARS):
                await self._accept(event[start : start + PIECE_CHARS])
            return
        chunks = self._framer.feed(event)
        self._last_event = self._clock.monotonic()
        if chunks:
            self.log.put(chunks)
            if 0 < self._limits.max_answer_bytes < self.log.said_bytes:
                # History, replays and readers hold a whole answer in memory; one without end would end the process.
                raise AgentError(f"The answer grew beyond {self._limits.max_answer_bytes} bytes.")
        if type(event) is not str:
            self._note(event)
        self._events += 1
        if self.log.full:
            self._held = True
            try:
                await self.log.flushed()
            finally:
                self._held = False
                self._last_event = self._clock.monotonic()
        elif self._events % BREATHE_EVERY == 0:
            await asyncio.sleep(0)

    def _note(self, event: AgentEvent) -> None:
        if isinstance(event, ToolCall) and event.needs_approval:
            # From here on a person takes the time, not the tool.
            self._tools_since.pop(event.id, None)
            if event.state is not None:
                self._states[event.id] = event.state
            self._changed.set()
        elif isinstance(event, ToolCall):
            self._tools_since.setdefault(event.id, self._last_event)
            self._changed.set()
        elif isinstance(event, (ToolResult, ToolError)):
            if not (isinstance(event, ToolResult) and event.preliminary):
                self._tools_since.pop(event.id, None)
            if self.turn.continues is None:
                # A message that goes on stays in history as it was until its turn has ended.
                self.log.save(self._framer.view)
            self._changed.set()
        if not self._framer.open_tools:
            self._tools_since.clear()

    def _deadline(self, started: float) -> tuple[str | None, float | None]:
        """What is overdue, if anything, and else in how many seconds to look again."""
        now = self._clock.monotonic()
        limits = self._limits
        due: list[tuple[float, str]] = []
        if limits.max_turn_s:
            due.append((started + limits.max_turn_s, f"The turn took longer than {limits.max_turn_s:g} s."))
        if limits.tool_timeout_s and self._tools_since:
            oldest = min(self._tools_since.values())
            due.append((oldest + limits.tool_timeout_s, f"A tool took longer than {limits.tool_timeout_s:g} s."))
        if limits.idle_timeout_s:
            owes = not self._held and not self._tools_since
            silent = f"The agent said nothing for {limits.idle_timeout_s:g} s."
            due.append(((self._last_event if owes else now) + limits.idle_timeout_s, silent))
        if not due:
            return None, None
        at, why = min(due)
        return (why, 0.0) if at <= now else (None, at - now)

    async def _take_inbox(self) -> list[InboxMessage]:
        """Hands new messages to the agent; the journal says so first."""
        if self._closed:
            raise TurnOver(f"turn {self.turn.id} has ended")
        self._news.clear()
        taken = []
        if await self._db.read(steered_messages, self.turn.id, self._read_to):
            await self._fetched(steered=True)
        for row, _ in await self._db.read(steered_messages, self.turn.id, self._read_to):
            await self._accept(
                Data(name=STEER.removeprefix("data-"), data={"message": row.message_id}, id=row.message_id)
            )
            self._read_to = row.ord
            taken.append(await inbox_message(row, self._files))
        if taken:
            await self.log.flushed()
        return taken

    async def _background(self, name: str, job: Any) -> str:
        if self._closed or self._leave is None:
            raise TurnOver(f"turn {self.turn.id} has ended")
        try:
            return await self._leave(self.turn, self.log.epoch, name, job)
        except Fenced:
            raise TurnOver(f"turn {self.turn.id} has ended") from None

    async def _attach(self, source: Any, *, name: str | None, media_type: str | None) -> StoredFile:
        file = await self._files.put(
            source,
            owner=self._api.user if self._api else "",
            conversation_id=self.turn.conversation_id,
            name=name,
            media_type=media_type,
        )
        about = {"turnwire": {"file": file.id, "name": file.name, "size": file.size}}
        await self._accept(File(url=file.url, media_type=file.media_type, metadata=about))
        await self.log.flushed()
        return file


def _read_beginning(conn: Connection, turn: TurnRow) -> tuple[View, list[tuple[ToolApprovalResponse, Resolution]]]:
    return read_base(conn, turn), read_answers(conn, turn)


def _read_input(conn: Connection, turn: TurnRow) -> tuple[list[MessageRow], list[MessageRow], Conversation]:
    return (
        read_context(conn, turn.conversation_id, turn.number),
        turn_input(conn, turn.continues or turn.id),
        get_conversation(conn, turn.conversation_id),
    )
