"""A real server, really killed: what was shown is kept, every turn ends once, nobody is stuck."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.server_process import Reader, ServerProcess, served
from tests.strict_client import StrictClient, comparable

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.timeout(600)]

CHATS = 3
QUEUED = 2


async def one_kill(server: ServerProcess, chance: random.Random, tag: str) -> list[Reader]:
    """Asks several questions, some of which queue, kills the server somewhere, starts it again; returns the readers."""
    readers = [
        Reader(f"{tag}-{chat}", f"{tag} {chat} {place} {chance.randrange(20, 160)}")
        for chat in range(CHATS)
        for place in range(QUEUED)
    ]
    limit = chance.randrange(1, 500)
    async with server.client() as client, asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.post(client))
            await asyncio.wait_for(reader.news.wait(), 30)
        while sum(reader.cursor for reader in readers) < limit and not all(reader.whole for reader in readers):
            for reader in readers:
                reader.news.clear()
            waits = [asyncio.ensure_future(reader.news.wait()) for reader in readers]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=30)
            for wait in waits:
                wait.cancel()
        await server.kill()
    await server.start()
    return readers


async def check(server: ServerProcess, readers: list[Reader]) -> None:
    """Every reader resumes where it was cut and ends with exactly the journal; the conversations work."""
    async with server.client() as client:
        seen = {reader.text: dict(reader.records) for reader in readers}
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                if not reader.whole:
                    group.create_task(reader.resume(client))
        for reader in readers:
            assert reader.whole
            journal = (await client.get(f"/api/chat/{reader.turn}/stream?ui=7&startIndex=0")).text
            records = [line[6:] for line in journal.split("\n") if line.startswith("data: {")]
            assert [reader.records[number] for number in range(reader.cursor)] == records
            assert all(records[number] == data for number, data in seen[reader.text].items())
            events = [json.loads(record) for record in records]
            strict = StrictClient("7").feed_all(events)
            strict.end()
            shown = (await client.get(f"/api/chat/{reader.chat}")).json()
            assert shown["turn"] is None
            stored = [message for message in shown["messages"] if message["id"] == strict.message()["id"]]
            assert len(stored) == 1
            assert comparable(stored[0]) == comparable(strict.message())
        for chat in {reader.chat for reader in readers}:
            after = Reader(chat, "still there 1")
            await after.post(client)
            assert after.whole


def check_store(folder: Path) -> None:
    """Nothing is left running or queued, and every turn's last record, and no other, is its finish."""
    with sqlite3.connect(f"file:{folder}/turnwire.db?mode=ro", uri=True) as store:
        assert store.execute("SELECT count(*) FROM turns WHERE status != 'finished'").fetchone() == (0,)
        for turn_id, head in store.execute("SELECT id, head FROM turns").fetchall():
            rows = store.execute(
                "SELECT first_seq, count, payload FROM chunks WHERE turn_id = ? ORDER BY first_seq", (turn_id,)
            ).fetchall()
            records = [record for _, _, payload in rows for record in payload.split(b"\n")]
            assert sum(count for _, count, _ in rows) == len(records) == head
            kinds = [json.loads(record)["type"] for record in records]
            assert kinds.count("finish") == 1
            assert kinds[-1] == "finish"
            assert kinds.count("error") + kinds.count("abort") <= 1


async def kills(folder: Path, seed: int, times: int) -> None:
    chance = random.Random(seed)
    async with served(folder) as server:
        for turn in range(times):
            readers = await one_kill(server, chance, f"s{seed}-{turn}")
            await check(server, readers)
    check_store(folder)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.heavy)])
async def test_after_kill_9_every_turn_has_one_end_and_nothing_shown_is_missing(tmp_path: Path, seed: int) -> None:
    await kills(tmp_path, seed, times=3 if seed == 0 else 10)


@pytest.mark.heavy
async def test_fifty_restarts_lose_repeat_and_reorder_nothing(tmp_path: Path) -> None:
    await kills(tmp_path, random.randrange(2**32), times=50)


@pytest.mark.heavy
async def test_a_second_server_on_the_same_file_is_refused_by_name(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        second = ServerProcess(tmp_path)
        with pytest.raises(AssertionError, match=f"is served by process {server.process.pid}"):
            await second.start()
        assert await second.process.wait() == 2


@pytest.mark.heavy
async def test_sigterm_lets_a_short_turn_finish_and_exits_0(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        reader = Reader("c", "a short one 60")
        async with server.client() as client, asyncio.TaskGroup() as group:
            group.create_task(reader.post(client))
            await asyncio.wait_for(reader.news.wait(), 30)
            assert await server.kill(signal.SIGTERM) == 0
        assert reader.whole
        assert json.loads(reader.records[reader.cursor - 1])["messageMetadata"]["turnwire"]["outcome"] == "done"


async def test_sigterm_ends_a_long_turn_interrupted_after_the_drain_time(tmp_path: Path) -> None:
    async with served(tmp_path, settings="[turns]\ndrain_s = 0\n") as server:
        reader = Reader("c", "a long one 100000")
        async with server.client() as client, asyncio.TaskGroup() as group:
            group.create_task(reader.post(client))
            await asyncio.wait_for(reader.news.wait(), 30)
            assert await server.kill(signal.SIGTERM) == 0
        assert reader.whole
        assert json.loads(reader.records[reader.cursor - 1])["messageMetadata"]["turnwire"]["outcome"] == "interrupted"
        check_store(tmp_path)
