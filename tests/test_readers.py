"""Readers that come and go at random while turns are written: each sees every record once, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client
from tests.gateways import running
from tests.strict_client import StrictClient
from turnwire.channels.web.api import web_app
from turnwire.events import Reasoning, Snapshot, ToolCall, ToolResult
from turnwire.journal import hub
from turnwire.turn import Turn

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

READERS = 12


async def talk(turn: Turn) -> AsyncIterator[Any]:
    chance = random.Random(turn.text)
    for index in range(600):
        match chance.randrange(12):
            case 0:
                yield Reasoning(f"hm {index} ")
            case 1:
                yield ToolCall(id=f"t{index}", name="tool", input=index)
                yield ToolResult(id=f"t{index}", output=index)
            case 2 if chance.random() < 0.2:
                yield Snapshot(f"said again {index} ")
            case _:
                yield f"{index} "
        if chance.random() < 0.7:
            await asyncio.sleep(0)


class Wanderer:
    """Reads turn after turn, leaving after a random number of records and coming back with its cursor."""

    def __init__(self, client: Client, seed: int) -> None:
        self.client = client
        self.chance = random.Random(seed)
        self.cuts = 0

    async def read(self, turn_id: str) -> list[dict[str, Any]]:
        seen: list[dict[str, Any]] = []
        while not seen or seen[-1]["type"] != "finish":
            by_id = bool(seen) and self.chance.random() < 0.5
            target = f"/api/chat/{turn_id}/stream?ui=7" + ("" if by_id else f"&startIndex={len(seen)}")
            headers = {"last-event-id": str(len(seen) - 1)} if by_id else {}
            wanted = self.chance.choice([1, 1, 2, 5, 30])
            reader = self.client.start("GET", target, headers=headers)
            while reader.body.count(b"\nid: ") < wanted and not reader.task.done():
                await reader.more()
            await reader.leave()
            self.cuts += 1
            for number, record in reader.numbered():
                assert number == len(seen)
                seen.append(record)
        return seen


@pytest.mark.parametrize("cuts", [500, pytest.param(10_000, marks=pytest.mark.heavy)])
async def test_cuts_at_random_lose_repeat_and_reorder_nothing(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cuts: int
) -> None:
    # A tail this short makes readers fall behind it all the time, so that both sources are used.
    monkeypatch.setattr(hub, "TAIL_RECORDS", 40)
    async with running(sqlite_url, tmp_path, talk) as gateway:
        client = Client(web_app(gateway))
        wanderers = [Wanderer(client, seed) for seed in range(READERS)]
        turn = 0
        while sum(wanderer.cuts for wanderer in wanderers) < cuts:
            posted = client.ask(f"question {turn}", chat=f"chat {turn % 3}")
            await posted.opened()
            turn_id = posted.headers["x-workflow-run-id"]
            read = await asyncio.gather(*(wanderer.read(turn_id) for wanderer in wanderers))
            whole = (await posted.done()).events()
            StrictClient("7").feed_all(whole).end()
            for seen in read:
                assert seen == whole
            turn += 1
