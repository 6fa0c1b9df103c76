"""Turns on surfaces without a gateway: a store in memory, a clock that a test moves, and courier processes that die.

Guarantee: nothing runs in a thread and no time passes by itself, so that the same turn with the same faults is always
the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, insert, update
from sqlalchemy.pool import StaticPool

from ..chunks import AnyChunk, decode, encode
from ..clock import sleep
from ..delivery.courier import named_files
from ..delivery.couriers import Couriers
from ..delivery.state import Item, State, load
from ..delivery.surface import Courierable, Desired, FileOutcome, Verdict
from ..events import AgentEventError, File
from ..files import FileStore, StoredFile
from ..framer import Framer, Outcome
from ..journal import Hub
from ..store import Append, StoreError, StoreUnavailable
from ..store.database import Query
from ..store.queries.approvals import Asked, asked_by, resolve
from ..store.queries.conversations import lock_conversation
from ..store.queries.deliveries import deliveries_of
from ..store.queries.files import add_file
from ..store.queries.records import join_records, read_replay, write_records
from ..store.queries.rows import DeliveryRow
from ..store.queries.turns import Claim, Ending, end_turn, get_turn
from ..store.schema import metadata, store_clock, turns
from ..turn import PendingCall
from ..turns.admission import Inbound, admit
from ..turns.continuation import read_base
from ..turns.endings import start_metadata
from ..view import ToolPart, View, fold, replay, to_message
from .clock import FakeClock

P = ParamSpec("P")
T = TypeVar("T")

FOR_EVER_S = 1e9
PATIENCE = 2000
"""How many timers may run until what is waited for has to hold."""


class Crash(asyncio.CancelledError):
    """The process died: raise it from an outward call, after `Stage.crash()`."""


class Pause(msgspec.Struct, frozen=True):
    """The agent says nothing for so many seconds."""

    seconds: float


class Attach(msgspec.Struct, frozen=True):
    """The agent gives a file of that name, whose content is its name."""

    name: str


class End(msgspec.Struct, frozen=True):
    """The turn ends like this, instead of `done`."""

    outcome: Outcome
    reason: str | None = None


class Question(msgspec.Struct, frozen=True):
    """The message that a turn answers, as its platform names it.

    Attributes:
        key: its id there; one of the stage's own if that is empty.
        target: where it is answered, in the channel's own JSON: what `surface` gets as `order.target`.
    """

    key: str = ""
    target: bytes = b"{}"


UNNAMED = Question()
"""A message whose id and place are of no interest."""

_EMPTY: list[bytes] = []
_numbers = itertools.count(1)


class MemoryStore:
    """A `Database` in memory, used in the loop's own thread.

    Args:
        before: called before each transaction; what it raises is raised.
    """

    def __init__(self, engine: Engine | None = None, before: Callable[[], None] | None = None) -> None:
        self.engine = engine or _engine()
        self._raw = _raw(self.engine)
        self._before = before

    def wipe(self) -> None:
        """Makes it empty again, which is faster than another one."""
        self._raw.deserialize(_EMPTY[0])

    def is_settled(self, turn_id: str) -> bool:
        """Whether the turn's delivery is settled or held; asked often, so past every layer."""
        query = "SELECT status FROM deliveries WHERE turn_id = ?"
        return self._raw.execute(query, (turn_id,)).fetchall() in ([("settled",)], [("held",)])

    async def run(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.run`."""
        await asyncio.sleep(0)
        if self._before is not None:
            self._before()
        with self.engine.begin() as connection:
            return query(connection, *args, **kwargs)

    async def read(self, query: Query[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """See `Database.read`."""
        return await self.run(query, *args, **kwargs)

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """Turns are written by `Script` here."""
        raise StoreError("the store of a stage takes no appends")

    async def close(self) -> None:
        """Lets the memory go."""
        self.engine.dispose()


def _engine() -> Engine:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connect(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        metadata.create_all(connection)
        connection.execute(insert(store_clock).values(id=1, offset_s=0.0))
    if not _EMPTY:
        _EMPTY.append(_raw(engine).serialize())
    return engine


def _raw(engine: Engine) -> sqlite3.Connection:
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        if not isinstance(raw, sqlite3.Connection):
            raise TypeError("a stage keeps everything in SQLite's memory")
        return raw


class Stage:
    """A store, a clock, and one courier process after the other.

    Args:
        channel: whose surfaces are driven.
        clock: the clock of everything.
        store: where everything is kept, one of its own by default; one that was given is wiped.
        alone: no other process is on the store, so that what another one owned is free.
        idle: whether no outward call is under way; for platforms that are reached through sockets or threads.

    Attributes:
        processes: how many courier processes have begun; the newest one lives unless the stage is `dead`.
    """

    def __init__(
        self,
        channel: Courierable,
        clock: FakeClock,
        *,
        store: MemoryStore | None = None,
        alone: bool = True,
        idle: Callable[[], bool] = lambda: True,
    ) -> None:
        self.channel = channel
        self.clock = clock
        if store is not None:
            store.wipe()
        self._owns = store is None
        self.store = store or MemoryStore()
        self.hub = Hub()
        self.commits = 0
        self.processes = 0
        self.outage = False
        self.crash_at_commit: Callable[[int], bool] = lambda _: False
        self._alone = alone
        self._idle = idle
        self._couriers: Couriers | None = None
        self._dead = False
        self._writers: list[asyncio.Task[None]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="turnwire-stage-")
        self._root = Path(self._folder.name)

    @property
    def dead(self) -> bool:
        """Whether the process has died and no other has begun."""
        return self._dead

    def crash(self) -> Crash:
        """The process dies now: nothing of it reaches store or platform any more. Raise what is returned."""
        self._dead = True
        return Crash()

    def start(self) -> None:
        """A process that drives deliveries begins."""
        self._dead = False
        self.processes += 1
        own = MemoryStore(self.store.engine, self._before_commit)
        self._couriers = Couriers(
            {self.channel.name: self.channel},
            process=f"p{self.processes}",
            db=own,
            hub=self.hub,
            files=self.files(own),
            clock=self.clock,
            lease_s=FOR_EVER_S,
            alone=self._alone,
            look=lambda: None,
            changed=lambda _: None,
        )
        self._couriers.start()

    def files(self, db: MemoryStore) -> FileStore:
        """The files of its turns, for a process that sees the store like this; they are read without threads."""
        return _Files(self._root, db)

    async def kill(self) -> None:
        """The process ends without a chance to say or store anything."""
        self._dead = True
        couriers, self._couriers = self._couriers, None
        if couriers is not None:
            # It tries to give its deliveries back, which the dead cannot.
            with contextlib.suppress(Crash):
                await couriers.close()

    async def close(self) -> None:
        """Ends everything."""
        await self.kill()
        for writer in self._writers:
            writer.cancel()
        if self._writers:
            await asyncio.wait(self._writers)
        self._folder.cleanup()
        if self._owns:
            await self.store.close()

    async def begin(
        self, script: Sequence[Any], *, conversation: str = "", channel: str = "", question: Question = UNNAMED
    ) -> str:
        """A question whose answer is `script`: agent events, `Pause`, `Attach`, `End`; returns the turn's id.

        Args:
            question: for platforms that know it by a name.
        """
        number = next(_numbers)
        message = {"id": f"msg_{number}", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
        inbound = Inbound(
            channel=channel or self.channel.name,
            owner="",
            conversation=conversation or f"room_{number}",
            key=question.key or f"k{number}",
            message=msgspec.json.encode(message),
            message_id=f"msg_{number}",
            reply_to=question.target,
            user="ann",
            conversation_id=f"conv_{number}",
            turn_id=f"turn_{number}",
            answer_id=f"answer_{number}",
        )
        admission = await self.store.run(admit, inbound, process="writer", lease_s=FOR_EVER_S, now=self.clock.now())
        for claim in admission.claims:
            self._writers.append(asyncio.create_task(_Writer(self, claim).run(script)))
        self.poke()
        return admission.turn.id

    def poke(self) -> None:
        """Lets the process look for deliveries."""
        if self._couriers is not None:
            self._couriers.poke()

    async def answer(self, turn_id: str, *, approved: bool, by: str = "bob") -> None:
        """A person answers the approvals that a turn asked for."""

        def query(conn: Connection) -> None:
            for row in asked_by(conn, turn_id):
                lock_conversation(conn, row.conversation_id)
                resolve(conn, row, approved=approved, reason=None, by=by)

        await self.store.run(query)
        self.poke()

    async def row(self, turn_id: str) -> DeliveryRow:
        """The delivery of a turn."""
        [row] = await self.store.run(deliveries_of, turn_id)
        return row

    async def settled(self, turn_id: str) -> DeliveryRow:
        """The delivery of a turn once it is settled or held, however often its process dies on the way."""
        if await self.comes(lambda: self.store.is_settled(turn_id)):
            return await self.row(turn_id)
        raise AssertionError(f"the delivery did not settle: {load((await self.row(turn_id)).state)}")

    async def comes(self, true: Callable[[], bool]) -> bool:
        """Lets time pass until that holds while a process lives; one that died is followed by another.

        False if it does not hold when no timer is left, or after very many of them.
        """
        for _ in range(PATIENCE):
            await self.clock.settle()
            await self.clock.until(self._idle)
            for writer in self._writers:
                if writer.done():
                    writer.result()
            if self._dead:
                await self.kill()
                self.start()
            elif true():
                return True
            elif (left := self.clock.next_in) is not None:
                await self.clock.advance(left)
            else:
                break
        return False

    async def ended(self) -> None:
        """Every turn has its end; a delivery that can show nothing more is settled before that."""
        while not all(writer.done() for writer in self._writers):
            await self.clock.advance(self.clock.next_in or 0.0)

    async def desired(self, turn_id: str) -> Desired:
        """What a settled delivery should show."""
        row = await self.row(turn_id)
        state: State = load(row.state)
        view = await self.store.run(_whole, turn_id)
        files = []
        for own, name, kind, size in named_files(view):
            item = state.items.get(own, Item())
            files.append(FileOutcome(own, name, kind, size, item.status, item.reason))
        verdicts = {
            one.id: Verdict(None if one.approved is None else bool(one.approved), one.resolved_by or "", one.reason)
            for one in await self.store.run(asked_by, turn_id)
        }
        return Desired(
            turn_id=turn_id,
            view=view,
            ended=True,
            final=True,
            files=files,
            verdicts=verdicts,
            repeat=state.repeat,
            now=self.clock.now(),
        )

    def _before_commit(self) -> None:
        if self._dead:
            raise Crash
        if self.outage:
            raise StoreUnavailable("the store is away")
        self.commits += 1
        if self.crash_at_commit(self.commits - 1):
            raise self.crash()

    def keep_file(self, name: str, conversation_id: str) -> tuple[str, str, int]:
        """A file of that name on disk; returns its id, address and size."""
        content = name.encode()
        sha256 = hashlib.sha256(content).hexdigest()
        place = self._root / sha256[:2] / sha256
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        own = f"file_{next(_numbers)}"
        with self.store.engine.begin() as conn:
            add_file(
                conn,
                own,
                owner="",
                conversation_id=conversation_id,
                sha256=sha256,
                name=name,
                media_type="text/plain",
                size=len(content),
            )
        return own, f"/files/{own}/{name}", len(content)


class _File(StoredFile, frozen=True):
    """A file that is read in the loop's own thread: while a thread reads it, a clock that is moved would run away."""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self.path.read_bytes()


class _Files(FileStore):
    async def get(self, file_id: str) -> StoredFile | None:
        found = await super().get(file_id)
        return None if found is None else _File(**msgspec.structs.asdict(found))


class _Writer:
    """Says a script into the journal, as a runner does."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self._stage = stage
        self._claim = claim
        self._head = claim.turn.head
        self._framer = Framer(claim.turn.message_id, start_metadata(claim.turn, stage.clock.now()))

    async def run(self, script: Sequence[Any]) -> None:
        await self._write(self._framer.start())
        end = End("done")
        for one in script:
            if isinstance(one, Pause):
                await sleep(self._stage.clock, one.seconds)
            elif isinstance(one, End):
                end = one
            elif isinstance(one, Attach):
                own, url, size = self._stage.keep_file(one.name, self._claim.turn.conversation_id)
                about = {"turnwire": {"file": own, "name": one.name, "size": size}}
                await self._write(self._framer.feed(File(url=url, media_type="text/plain", metadata=about)))
            else:
                try:
                    await self._write(self._framer.feed(one))
                except AgentEventError as error:
                    end = End("failed", str(error))
                    break
        asks = self._framer.asks and end.outcome == "done"
        await self._end("waiting" if asks else end.outcome, end.reason)

    async def _write(self, chunks: list[AnyChunk]) -> None:
        if not chunks:
            return
        store, head = self._stage.store, self._head
        await store.run(_append, self._claim.turn.id, head, [encode(chunk) for chunk in chunks])
        self._head += len(chunks)
        self._tell(ended=False)

    async def _end(self, outcome: Outcome, reason: str | None) -> None:
        turn = self._claim.turn
        told = {"turnwire": {"turn": turn.id, "outcome": outcome} | ({"reason": reason} if reason else {})}
        chunks = self._framer.finish(outcome, reason=reason, metadata=told)
        view = self._framer.view
        asked = [
            Asked(part.approval.id, part.name, msgspec.json.encode(PendingCall(part.id, part.name)))
            for part in view.parts
            if isinstance(part, ToolPart) and part.asks and part.approval is not None
        ]
        ending = Ending(
            turn=turn,
            epoch=self._claim.epoch,
            head=self._head,
            count=len(chunks),
            payload=join_records([encode(chunk) for chunk in chunks]),
            outcome=outcome,
            reason=reason,
            replay=join_records([encode(chunk) for chunk in replay(view)]),
            answer=msgspec.json.encode(to_message(view)),
            asked=asked,
        )
        await self._stage.store.run(end_turn, ending, next_owner=None, lease_s=FOR_EVER_S)
        self._head += len(chunks)
        self._tell(ended=True)

    def _tell(self, *, ended: bool) -> None:
        topic = self._stage.hub.find(self._claim.turn.id)
        if topic is not None:
            topic.advance(self._head, ended=ended)


def _append(conn: Connection, turn_id: str, head: int, records: Sequence[bytes]) -> None:
    conn.execute(update(turns).where(turns.c.id == turn_id).values(head=head + len(records)))
    write_records(conn, turn_id, head, records)


def _whole(conn: Connection, turn_id: str) -> View:
    turn = get_turn(conn, turn_id)
    if turn is None:
        raise LookupError(f"there is no turn {turn_id!r}")
    return fold(map(decode, read_replay(conn, turn_id)), read_base(conn, turn))
