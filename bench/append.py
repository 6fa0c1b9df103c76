"""Appending to the journal's store: `Database.append` against plain `executemany` of the same rows.

Source of the budget: 20 chunks in one transaction, fenced, on SQLite.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop

from turnwire.chunks import TextDelta, encode
from turnwire.store import Append, Database, open_database
from turnwire.store.database import Durability
from turnwire.store.queries.records import join_records
from turnwire.turns.admission import Inbound, admit

from .agents import WORD
from .report import Row, median

NAME = "append"
BUDGET_US = 15.0
BATCH = 20
ROUNDS = 7
RECORD = encode(TextDelta("t1", WORD))
SHAPES = {"20 turns × 1 chunk": (BATCH, 1), "1 turn × 20 chunks": (1, BATCH)}


def run(quick: bool) -> list[Row]:
    """Both shapes of a batch of 20, with both durabilities."""
    batches = 40 if quick else 400
    durabilities: tuple[Durability, ...] = ("process", "full")
    with tempfile.TemporaryDirectory(prefix="turnwire-bench-") as folder:
        return [
            uvloop.run(_measure(Path(folder), durability, shape, batches))
            for durability in durabilities
            for shape in SHAPES
        ]


async def _measure(folder: Path, durability: Durability, shape: str, batches: int) -> Row:
    turns, chunks = SHAPES[shape]
    stem = f"{durability}-{turns}"
    db = await open_database(f"sqlite:///{folder}/{stem}.db", durability=durability)
    plain = _plain(folder / f"{stem}-plain.db", durability)
    ours, theirs, walls = [], [], []
    try:
        stands = [await _begin(db, number) for number in range(turns)]
        payload = join_records([RECORD] * chunks)
        # By turns, so that what else the machine does falls on both.
        for rnd in range(ROUNDS):
            heads = [rnd * batches * chunks + index * chunks for index in range(batches)]
            before, began = time.process_time(), time.perf_counter()
            for head in heads:
                fenced = await db.append([Append(turn, epoch, head, chunks, payload) for turn, epoch in stands])
                assert not fenced
            ours.append(time.process_time() - before)
            walls.append(time.perf_counter() - began)
            before = time.process_time()
            for head in heads:
                _insert(plain, [(turn, head, chunks, payload) for turn, _ in stands])
            theirs.append(time.process_time() - before)
    finally:
        plain.close()
        await db.close()
    each = 1e6 / (batches * BATCH)
    return Row(
        path=f"append, {shape}, {durability}",
        value=median(ours) * each,
        unit="µs/chunk",
        budget=BUDGET_US,
        baseline=median(theirs) * each,
        about=f"median of {ROUNDS} rounds of {batches} commits, {median(walls) / batches * 1e3:.2f} ms each",
        where=[
            f"executemany and commit {median(theirs) * each:.1f} µs; the rest is one fenced UPDATE per turn and the "
            "way to the writer thread and back, once per commit"
        ],
    )


async def _begin(db: Database, number: int) -> tuple[str, int]:
    """A running turn: its id and epoch."""
    inbound = Inbound(
        channel="web",
        owner="bench",
        conversation=f"chat-{number}",
        key=f"key-{number}",
        message=b"{}",
        message_id=f"m-{number}",
        conversation_id=f"conv_{number:08}",
        turn_id=f"turn_{number:026}",
        answer_id=f"msg_{number:08}",
    )
    admission = await db.run(admit, inbound, process="bench", lease_s=3600.0, now=time.time())
    (claim,) = admission.claims
    return claim.turn.id, claim.epoch


def _plain(path: Path, durability: Durability) -> sqlite3.Connection:
    raw = sqlite3.connect(path, isolation_level=None)
    level = "FULL" if durability == "full" else "NORMAL"
    for pragma in ("journal_mode = WAL", f"synchronous = {level}", "wal_autocheckpoint = 4000"):
        raw.execute(f"PRAGMA {pragma}")
    raw.execute(
        "CREATE TABLE chunks (turn_id TEXT, first_seq BIGINT, count INTEGER, payload BLOB, "
        "PRIMARY KEY (turn_id, first_seq))"
    )
    return raw


def _insert(raw: sqlite3.Connection, rows: Sequence[tuple[str, int, int, bytes]]) -> None:
    raw.execute("BEGIN IMMEDIATE")
    raw.executemany("INSERT INTO chunks VALUES (?, ?, ?, ?)", rows)
    raw.execute("COMMIT")
