"""Many processes at one store: whatever they do at once, nothing fails but what may, and every turn is whole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import Connection

from tests.store_gates import connected
from tests.store_steps import LEASE_S, Pen, again, check, reap, said, stop, take
from turnwire.store import Database, open_database
from turnwire.store.queries.conversations import lock_conversation, read_context, read_messages
from turnwire.store.queries.records import Trimmed, read_records, trim
from turnwire.store.queries.rows import TurnRow
from turnwire.store.queries.turns import Claim, Fenced, claim_next, list_turns, renew, running, save_history, stranded
from turnwire.turns.admission import Inbound, Policy, Refused

pytestmark = pytest.mark.anyio

CONVERSATIONS = [f"c{number}" for number in range(20)]
WORKERS = 8
ACTS = 45
POLICIES: list[Policy] = ["queue", "queue", "collect", "interrupt", "reject"]


@pytest.fixture
async def processes(store_url: str) -> AsyncIterator[list[Database]]:
    """The same store, opened by several processes where it can be."""
    opened = [await open_database(store_url) for _ in range(3 if store_url.startswith("postgresql") else 1)]
    try:
        yield opened
    finally:
        for database in opened:
            await database.close()


class Worker:
    """One part of a process: admits, writes, renews and ends turns, and reaps those of others."""

    def __init__(self, db: Database, name: str, seed: int) -> None:
        self.db = db
        self.name = name
        self.random = random.Random(f"{name} {seed}")
        self.pens: dict[str, Pen] = {}
        self.messages: list[tuple[str, str]] = []
        self.answers: list[tuple[str, str]] = []

    async def work(self) -> None:
        acts = [self.admit] * 5 + [self.append] * 5 + [self.end] * 3
        acts += [self.renew, self.stop, self.save, self.reap, self.read, self.trim]
        for _ in range(ACTS):
            try:
                await self.random.choice(acts)()
            except (Fenced, Refused, Trimmed):
                continue

    def own(self, claims: list[Claim]) -> None:
        self.pens |= {claim.turn.id: Pen(self.db, claim) for claim in claims}

    def some(self) -> list[Pen]:
        """A few of the turns that it believes to own."""
        return self.random.sample(list(self.pens.values()), min(len(self.pens), self.random.randint(1, 6)))

    async def admit(self) -> None:
        wish = self._wish()
        admission = await take(self.db, wish, process=self.name)
        self.own(admission.claims)
        self.answers.append((wish.conversation, admission.turn.message_id))
        if wish.message is not None:
            self.messages.append((wish.conversation, wish.message_id))

    def _wish(self) -> Inbound:
        conversation, policy = self.random.choice(CONVERSATIONS), self.random.choice(POLICIES)
        kind = self.random.random()
        if kind < 0.1 and self.messages:
            conversation, message = self.random.choice(self.messages)
            return said(f"edited {kind}", id=message, edits=message, conversation=conversation, policy=policy)
        if kind < 0.2 and self.answers:
            conversation, answer = self.random.choice(self.answers)
            return again(self.random.choice([answer, None]), conversation=conversation, policy=policy)
        if kind < 0.25:
            return said(self.random.choice(["/stop", "/new", "/help"]), conversation=conversation)
        return said("hello", conversation=conversation, policy=policy)

    async def append(self) -> None:
        batch = {}
        for pen in self.some():
            chunks = pen.framer.feed("more ") if pen.framer.view.count else pen.framer.start()
            batch[pen.turn.id] = pen, pen.records(chunks), len(chunks)
        fenced = await self.db.append([run for _, run, _ in batch.values()])
        for turn_id, (pen, _, count) in batch.items():
            pen.head += count
            if turn_id in fenced:
                del self.pens[turn_id]

    async def end(self) -> None:
        for pen in self.some()[:1]:
            del self.pens[pen.turn.id]
            following = await pen.end(self.random.choice(["done", "stopped", "failed"]), next_owner=self.name)
            self.own([following] if following else [])

    async def renew(self) -> None:
        owned = dict(self.pens)
        standing = await self.db.run(renew, [pen.run for pen in owned.values()], LEASE_S)
        for turn_id in owned.keys() - standing.keys():
            self.pens.pop(turn_id, None)

    async def save(self) -> None:
        await self.db.run(save_history, [(pen.turn, pen.epoch, b'{"id":"x","parts":[]}') for pen in self.some()])

    async def stop(self) -> None:
        for turn in await self._any_turn():
            await stop(self.db, turn, self.name)

    async def reap(self) -> None:
        for turn in await self._any_turn():
            self.own(await reap(self.db, turn, owner=self.name, heir=self.name, ask_lease=False))

    async def _any_turn(self) -> list[TurnRow]:
        live = await self.db.read(running)
        return [self.random.choice(live)] if live else []

    async def trim(self) -> None:
        await self.db.run(trim, 0.0, limit=5)

    async def read(self) -> None:
        for turn in await self._any_turn():
            await self.db.read(read_messages, turn.conversation_id)
            await self.db.read(read_context, turn.conversation_id, turn.number)
            await self.db.read(read_records, turn.id, 0)


async def settle(db: Database) -> None:
    """Ends what runs and runs what waits, until nothing is left."""

    def take_next(conn: Connection, conversation_id: str) -> Claim | None:
        lock_conversation(conn, conversation_id)
        return claim_next(conn, conversation_id, "last", LEASE_S)

    while True:
        live, waiting = await db.read(running), await db.read(stranded)
        if not live and not waiting:
            return
        for turn in live:
            await reap(db, turn, owner="last", heir=None, ask_lease=False)
        for conversation_id in waiting:
            assert await db.run(take_next, conversation_id) is not None


@pytest.mark.parametrize("seed", [1])
async def test_nothing_that_happens_at_once_breaks_a_turn(processes: list[Database], store_url: str, seed: int) -> None:
    workers = [Worker(processes[number % len(processes)], f"p{number}", seed) for number in range(WORKERS)]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.work())
    db = processes[0]
    turns = await check(db)
    assert {turn.status for turn in turns} == {"queued", "running", "finished"}
    await settle(db)
    turns = await check(db)
    assert {turn.status for turn in turns} == {"finished"}
    assert len(await db.read(list_turns, limit=10_000, status="finished")) == len(turns) > 50
    await check_deadlocks(processes, store_url)


async def check_deadlocks(processes: list[Database], url: str) -> None:
    """Asserts that PostgreSQL never had to give a transaction up: locks are taken in one order."""
    if not url.startswith("postgresql"):
        return
    for database in processes:
        await database.close()
    async with connected(url) as server:
        # A session counts what happened to it when it ends.
        others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while await server.fetchval(others):
            await asyncio.sleep(0)
        assert await server.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0
        assert (
            await server.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()") > 300
        )
