"""What an agent says on a stage, and how it gets into the journal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import Connection, update

from ..chunks import AnyChunk, encode
from ..clock import sleep
from ..events import AgentEventError, File
from ..framer import Framer, Outcome
from ..journal import Hub
from ..store.queries.approvals import Asked
from ..store.queries.records import join_records, write_records
from ..store.queries.turns import Claim, Ending, end_turn
from ..store.schema import turns
from ..turn import PendingCall
from ..turns.endings import start_metadata
from ..view import ToolPart, replay, to_message
from .clock import FakeClock
from .memory import MemoryStore

FOR_EVER_S = 1e9
KeptFile: TypeAlias = tuple[str, str, int]


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


class Writer:
    """Says a script into the journal, as a runner does.

    Args:
        claim: the turn that it answers.
        store: where the journal is.
        hub: where readers of the turn are told of each record.
        clock: what a `Pause` waits for.
        keep: stores a file of that name for a conversation; returns its id, address and size.
    """

    def __init__(
        self, claim: Claim, store: MemoryStore, hub: Hub, clock: FakeClock, keep: Callable[[str, str], KeptFile]
    ) -> None:
        self._claim = claim
        self._store = store
        self._hub = hub
        self._clock = clock
        self._keep = keep
        self._head = claim.turn.head
        self._framer = Framer(claim.turn.message_id, start_metadata(claim.turn, clock.now()))

    async def run(self, script: Sequence[Any]) -> None:
        """Says agent events, `Pause`, `Attach` and `End`, and gives the turn its end."""
        await self._write(self._framer.start())
        end = End("done")
        for one in script:
            if isinstance(one, Pause):
                await sleep(self._clock, one.seconds)
            elif isinstance(one, End):
                end = one
            elif isinstance(one, Attach):
                own, url, size = self._keep(one.name, self._claim.turn.conversation_id)
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
        await self._store.run(_append, self._claim.turn.id, self._head, [encode(chunk) for chunk in chunks])
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
        await self._store.run(end_turn, ending, next_owner=None, lease_s=FOR_EVER_S)
        self._head += len(chunks)
        self._tell(ended=True)

    def _tell(self, *, ended: bool) -> None:
        topic = self._hub.find(self._claim.turn.id)
        if topic is not None:
            topic.advance(self._head, ended=ended)


def _append(conn: Connection, turn_id: str, head: int, records: Sequence[bytes]) -> None:
    conn.execute(update(turns).where(turns.c.id == turn_id).values(head=head + len(records)))
    write_records(conn, turn_id, head, records)
