"""Turns on surfaces without a gateway: a store in memory, a clock that a test moves, and courier processes that die.

Guarantee: nothing runs in a thread and no time passes by itself, so that the same turn with the same faults is always
the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection

from ..chunks import decode
from ..delivery.courier import named_files
from ..delivery.couriers import Couriers
from ..delivery.state import Item, State, load
from ..delivery.surface import Courierable, Desired, FileOutcome, Verdict
from ..files import FileStore, StoredFile
from ..journal import Hub
from ..store import StoreUnavailable
from ..store.queries.approvals import asked_by, resolve
from ..store.queries.conversations import lock_conversation
from ..store.queries.deliveries import deliveries_of
from ..store.queries.files import add_file
from ..store.queries.records import read_replay
from ..store.queries.rows import DeliveryRow
from ..store.queries.turns import get_turn
from ..turns.admission import Inbound, admit
from ..turns.continuation import read_base
from ..view import View, fold
from .clock import FakeClock
from .memory import MemoryStore
from .script import FOR_EVER_S, KeptFile, Writer

PATIENCE = 2000
"""How many timers may run until what is waited for has to hold."""


class Crash(asyncio.CancelledError):
    """The process died: raise it from an outward call, after `Stage.crash()`."""


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

_numbers = itertools.count(1)


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
            self._writers.append(
                asyncio.create_task(Writer(claim, self.store, self.hub, self.clock, self.keep_file).run(script))
            )
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

    def keep_file(self, name: str, conversation_id: str) -> KeptFile:
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


def _whole(conn: Connection, turn_id: str) -> View:
    turn = get_turn(conn, turn_id)
    if turn is None:
        raise LookupError(f"there is no turn {turn_id!r}")
    return fold(map(decode, read_replay(conn, turn_id)), read_base(conn, turn))
