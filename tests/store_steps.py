"""Steps that store tests are made of: messages admitted, turns spoken and ended, and what must hold of every store."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from turnwire import chunks as c
from turnwire.framer import Framer, Outcome
from turnwire.store import Append, Database
from turnwire.store.queries.conversations import lock_conversation, read_context, read_messages
from turnwire.store.queries.records import join_records, read_all, read_replay
from turnwire.store.queries.rows import TurnRow
from turnwire.store.queries.turns import Claim, Ending, answer_of, end_turn, get_turn
from turnwire.store.schema import ANSWER_ORD, conversations, inbound, messages, metadata, store_clock, turns
from turnwire.turns.admission import Admission, Inbound, Policy, Refused, admit
from turnwire.turns.commands import parse_command
from turnwire.turns.endings import end_abandoned, start_metadata, stop_turn
from turnwire.view import fold, replay, to_message

NOW = 1_700_000_000.0
LEASE_S = 15.0

_numbers = itertools.count(1)


def fresh(kind: str) -> str:
    """A name that no test had before."""
    return f"{kind}_{next(_numbers):06d}"


def said(
    text: str = "hello",
    *,
    id: str | None = None,  # noqa: A002 - the field's own name
    edits: str | None = None,
    conversation: str = "chat",
    policy: Policy = "queue",
) -> Inbound:
    """A person's message, as the web channel hands it over; `edits` names the message it takes the place of."""
    message_id = id or fresh("msg")
    content = json.dumps({"id": message_id, "role": "user", "parts": [{"type": "text", "text": text}]}).encode()
    return Inbound(
        channel="web",
        owner="ann",
        conversation=conversation,
        key=f"{message_id}:{hashlib.sha256(content).hexdigest()[:8]}",
        message=content,
        message_id=message_id,
        title=text,
        target=edits,
        command=parse_command(text),
        policy=policy,
        conversation_id=fresh("conv"),
        turn_id=fresh("turn"),
        answer_id=fresh("answer"),
    )


def again(target: str | None = None, *, conversation: str = "chat", policy: Policy = "queue") -> Inbound:
    """The wish for another answer; `target` names the answer or the message that is answered again."""
    return Inbound(
        channel="web",
        owner="ann",
        conversation=conversation,
        key=fresh("once"),
        message=None,
        message_id="",
        trigger="regenerate",
        target=target,
        policy=policy,
        conversation_id=fresh("conv"),
        turn_id=fresh("turn"),
        answer_id=fresh("answer"),
    )


async def take(db: Database, wish: Inbound, *, process: str = "p1") -> Admission:
    """Admits one inbound."""
    return await db.run(admit, wish, process=process, lease_s=LEASE_S, now=NOW)


async def begin(db: Database, text: str = "hello", *, conversation: str = "chat") -> Pen:
    """A message in an idle conversation, and the pen for its turn."""
    admission = await take(db, said(text, conversation=conversation))
    (claim,) = admission.claims
    return Pen(db, claim)


class Pen:
    """Writes one claimed turn straight into the store, as its owner would."""

    def __init__(self, db: Database, claim: Claim) -> None:
        self.turn = claim.turn
        self.epoch = claim.epoch
        self.head = claim.turn.head
        self.framer = Framer(claim.turn.message_id, start_metadata(claim.turn, NOW))
        self._db = db

    @property
    def run(self) -> tuple[str, int]:
        return self.turn.id, self.epoch

    def records(self, chunks: Sequence[c.AnyChunk]) -> Append:
        """The next run of records."""
        payload = join_records([c.encode(chunk) for chunk in chunks])
        return Append(self.turn.id, self.epoch, self.head, len(chunks), payload)

    async def write(self, chunks: Sequence[c.AnyChunk]) -> bool:
        """Appends chunks; False if the turn is somebody else's."""
        if not chunks:
            return True
        fenced = await self._db.append([self.records(chunks)])
        if self.turn.id in fenced:
            return False
        self.head += len(chunks)
        return True

    async def say(self, *events: Any) -> Pen:
        """Starts the turn if it has not begun, and says `events`."""
        chunks = [] if self.framer.view.count else self.framer.start()
        for what in events:
            chunks += self.framer.feed(what)
        assert await self.write(chunks)
        return self

    def ending(self, outcome: Outcome = "done", reason: str | None = None) -> Ending:
        """The turn's last write."""
        chunks = [] if self.framer.view.count else self.framer.start()
        told = {"turnwire": {"turn": self.turn.id, "outcome": outcome}}
        chunks += self.framer.finish(outcome, reason=reason, metadata=told)
        view = self.framer.view
        return Ending(
            turn=self.turn,
            epoch=self.epoch,
            head=self.head,
            count=len(chunks),
            payload=join_records([c.encode(chunk) for chunk in chunks]),
            outcome=outcome,
            reason=reason,
            replay=join_records([c.encode(chunk) for chunk in replay(view)]),
            answer=json.dumps(to_message(view)).encode(),
        )

    async def end(self, outcome: Outcome = "done", *, next_owner: str | None = "p1") -> Claim | None:
        """Ends the turn; returns the claim of the next one."""
        return await self._db.run(end_turn, self.ending(outcome), next_owner=next_owner, lease_s=LEASE_S)


async def answer(db: Database, text: str, *, conversation: str = "chat", reply: str = "sure") -> TurnRow:
    """A message and its whole answer, in an idle conversation."""
    pen = await begin(db, text, conversation=conversation)
    await (await pen.say(reply)).end()
    return await turn_of(db, pen.turn.id)


async def turn_of(db: Database, turn_id: str) -> TurnRow:
    """The turn as it stands."""
    turn = await db.read(get_turn, turn_id)
    assert turn is not None
    return turn


async def stop(db: Database, turn: TurnRow, by: str = "ann") -> TurnRow:
    """What the gateway does when a person stops a turn."""

    def query(conn: Connection) -> TurnRow:
        lock_conversation(conn, turn.conversation_id)
        return stop_turn(conn, turn, by, now=NOW)

    return await db.run(query)


def abandon(
    turn: TurnRow, *, owner: str = "p2", heir: str | None = "p2", ask_lease: bool = True, **more: Any
) -> Callable[[Connection], list[Claim]]:
    """What a reaper does with a turn that it found, as a query."""

    def query(conn: Connection) -> list[Claim]:
        lock_conversation(conn, turn.conversation_id)
        return end_abandoned(
            conn, turn, now=NOW, owner=owner, lease_s=LEASE_S, next_owner=heir, ask_lease=ask_lease, **more
        )

    return query


async def reap(db: Database, turn: TurnRow, **how: Any) -> list[Claim]:
    """Does with a turn what a reaper does; the arguments are those of `abandon`."""
    return await db.run(abandon(turn, **how))


async def pass_time(db: Database, seconds: float) -> None:
    """Moves the store's clock."""
    await db.run(
        lambda conn: conn.execute(update(store_clock).values(offset_s=store_clock.c.offset_s + seconds)).rowcount
    )


async def written(db: Database, turn_id: str) -> list[c.AnyChunk]:
    """The turn's records."""
    return [c.decode(record) for record in await db.read(read_all, turn_id)]


async def seen(db: Database, conversation_id: str) -> list[tuple[str, str]]:
    """What people see of a conversation: role and text, in order."""
    return [(row.role, text_of(row.content)) for row in await db.read(read_messages, conversation_id)]


def text_of(content: bytes) -> str:
    """The text of a stored message."""
    return "".join(part["text"] for part in json.loads(content)["parts"] if part["type"] == "text")


async def everything(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""

    def query(conn: Connection) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: [tuple(row) for row in conn.execute(select(table).order_by(*table.primary_key.columns))]
            for table in metadata.sorted_tables
        }

    return await db.read(query)


async def check(db: Database) -> list[TurnRow]:
    """Asserts what must hold of any store at any time; returns its turns."""
    return await db.read(_check)


def _check(conn: Connection) -> list[TurnRow]:
    found = [TurnRow.of(row) for row in conn.execute(select(*TurnRow.columns(turns)).order_by(turns.c.id))]
    for turn in found:
        _check_turn(conn, turn)
    numbers, running = defaultdict(list), Counter[str]()
    for turn in found:
        numbers[turn.conversation_id].append(turn.number)
        running[turn.conversation_id] += turn.status == "running"
    for row in conn.execute(select(conversations)):
        assert sorted(numbers[row.id]) == list(range(row.turns)), "turns are numbered densely"
        assert running[row.id] <= 1, "one turn runs at a time"
    shown = Counter(
        tuple(row)
        for row in conn.execute(
            select(messages.c.conversation_id, messages.c.message_id).where(messages.c.superseded_by.is_(None))
        )
    )
    assert not [key for key, count in shown.items() if count > 1], "one visible message per id"
    visible = select(messages.c.turn_id).where(messages.c.superseded_by.is_(None), messages.c.ord == ANSWER_ORD)
    hidden = {turn.id for turn in found if turn.superseded_by is not None}
    assert not hidden & set(conn.scalars(visible)), "the answer of a turn that was replaced is hidden"
    assert set(conn.scalars(select(inbound.c.turn_id))) <= {turn.id for turn in found}
    return found


def _check_turn(conn: Connection, turn: TurnRow) -> None:
    if turn.trimmed_at is not None:
        assert turn.status == "finished"
        return
    check_rows(conn, turn)
    records = [c.decode(record) for record in read_all(conn, turn.id)]
    kinds = [type(record) for record in records]
    assert turn.status in ("queued", "running", "finished")
    if turn.status != "finished":
        assert c.Finish not in kinds, "only a finished turn has its finish"
        assert turn.status == "running" or turn.head == 0
        return
    assert kinds.count(c.Finish) == 1, "exactly one finish"
    assert kinds[-1] is c.Finish, "the finish is the last record"
    before = {"stopped": c.Abort, "failed": c.Error, "interrupted": c.Error}.get(turn.outcome or "")
    assert before is None or kinds[-2] is before
    assert kinds.count(c.Abort) + kinds.count(c.Error) == (before is not None)
    view = fold(records)
    assert view.outcome == turn.outcome
    kept = json.loads(answer_of(conn, turn.id) or b"null")
    assert kept == to_message(view), f"the history of {turn.id} is not the fold of its journal"
    assert [c.decode(record) for record in read_replay(conn, turn.id)] == replay(view)


def check_rows(conn: Connection, turn: TurnRow) -> None:
    """Asserts that the turn's records are dense from 0 to its head."""
    table = metadata.tables["chunks"]
    expected = 0
    for row in conn.execute(select(table).where(table.c.turn_id == turn.id).order_by(table.c.first_seq)):
        assert row.first_seq == expected, "seq is dense"
        count = row._mapping["count"]
        assert count == len(row.payload.split(b"\n"))
        expected += count
    assert turn.head == expected, "the head counts the records"


async def busy(db: Database, *, waiting: int = 0) -> tuple[Pen, list[TurnRow]]:
    """A conversation with a running turn that has said something, and turns that wait behind it."""
    pen = await (await begin(db, "first")).say("so far")
    return pen, [(await take(db, said(f"waiting {number}"))).turn for number in range(waiting)]


async def told(db: Database, turn: TurnRow) -> list[str]:
    """What the agent of a turn is told, in order."""
    return [text_of(row.content) for row in await db.read(read_context, turn.conversation_id, turn.number)]


async def refused(db: Database, wish: Inbound) -> Refused:
    """The refusal of an inbound; asserts that it left nothing behind."""
    before = await everything(db)
    with pytest.raises(Refused) as caught:
        await take(db, wish)
    assert await everything(db) == before
    return caught.value


async def end(db: Database, claim: Claim, reply: str = "sure") -> Claim | None:
    """Answers and ends a claimed turn; returns the next."""
    pen = Pen(db, claim)
    await pen.say(reply)
    return await pen.end()
