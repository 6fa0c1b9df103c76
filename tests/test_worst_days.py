"""The store fails under live turns: full disks, hanging databases. What was shown is kept; every turn still ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.asgi import Client, Exchange
from tests.gateways import running
from tests.strict_client import StrictClient
from turnwire.channels.web.api import web_app
from turnwire.gateway import Gateway
from turnwire.store.queries.turns import get_turn
from turnwire.testing import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio


class Pen:
    """Writes what the test dictates."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled = asyncio.Event()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        try:
            while (word := await self.words.get()) != ".":
                yield word
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def text(exchange: Exchange) -> str:
    return "".join(event["delta"] for event in exchange.events() if event["type"] == "text-delta")


def fill_disk(conn: Connection) -> None:
    pages = conn.exec_driver_sql("PRAGMA page_count").scalar_one()
    conn.exec_driver_sql(f"PRAGMA max_page_count = {pages}")


def free_disk(conn: Connection) -> None:
    conn.exec_driver_sql("PRAGMA max_page_count = 1073741823")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0)


async def test_a_full_disk_fails_the_turn_aloud_and_keeps_what_was_shown(sqlite_url: str, tmp_path: Path) -> None:
    pen = Pen()
    clock = FakeClock()
    async with running(sqlite_url, tmp_path, pen, clock=clock) as gateway:
        client = Client(web_app(gateway))
        reader = await client.ask("go").opened()
        pen.words.put_nowait("kept ")
        await reader.until(lambda at: text(at) == "kept ")
        await gateway.db.run(fill_disk)
        pen.words.put_nowait("x" * 200_000)
        await reader.done()
        assert not reader.complete
        assert text(reader) == "kept "
        await pen.cancelled.wait()
        refused = await client.post("/api/chat", {"id": "other", "messages": [_long_message()]})
        assert (refused.status, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert refused.headers["retry-after"]
        await gateway.db.run(free_disk)
        turn_id = reader.headers["x-workflow-run-id"]

        async def ended() -> bool:
            await clock.advance(1)
            turn = await gateway.db.read(get_turn, turn_id)
            return turn is not None and turn.status == "finished"

        await until(ended)
        again = await client.get(f"/api/chat/{turn_id}/stream?ui=7&startIndex=0")
        StrictClient("7").feed_all(again.events()).end()
        assert again.numbered()[: len(reader.events())] == reader.numbered()
        assert again.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "failed"
        assert "store" in again.events()[-2]["errorText"]
        pen.words.put_nowait("works")
        pen.words.put_nowait(".")
        after = await client.ask("after").done()
        assert text(after) == "works"


def _long_message() -> dict[str, Any]:
    return {"id": "long", "role": "user", "parts": [{"type": "text", "text": "z" * 300_000}]}


async def test_an_owner_whose_store_does_not_answer_stops_itself_before_its_lease_ends(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pen = Pen()
    clock = FakeClock()
    async with running(sqlite_url, tmp_path, pen, clock=clock, turns__lease_s=15) as gateway:
        client = Client(web_app(gateway))
        reader = await client.ask("go").opened()
        pen.words.put_nowait("kept ")
        await reader.until(lambda at: text(at) == "kept ")
        answers = _hang(gateway, monkeypatch)
        began = clock.monotonic()
        while not pen.cancelled.is_set():
            await clock.advance(0.5)
            assert clock.monotonic() - began <= 15
        await clock.advance(1)
        await reader.done()
        assert not reader.complete
        answers.set()

        async def ended() -> bool:
            await clock.advance(1)
            turn = await gateway.db.read(get_turn, reader.headers["x-workflow-run-id"])
            return turn is not None and turn.status == "finished"

        await until(ended)


def _hang(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """From now on the store takes every write and does not answer, until the event is set."""
    answers = asyncio.Event()
    run = gateway.db.run

    async def hanging(query: Any, /, *args: Any, **kwargs: Any) -> Any:
        await answers.wait()
        return await run(query, *args, **kwargs)

    monkeypatch.setattr(gateway.db, "run", hanging)
    return answers


async def test_a_start_after_a_crash_runs_what_was_claimed_but_never_begun(store_url: str, tmp_path: Path) -> None:
    from turnwire.ids import new_id
    from turnwire.turns.admission import Inbound, admit

    pen = Pen()
    clock = FakeClock()
    async with running(store_url, tmp_path, pen, clock=clock) as gateway:
        turn_id = new_id("turn", clock)
        inbound = Inbound(
            channel="web",
            owner="local",
            conversation="c",
            key="k",
            message=b'{"id":"m","role":"user","parts":[{"type":"text","text":"go"}]}',
            message_id="m",
            conversation_id=new_id("conv", clock),
            turn_id=turn_id,
            answer_id=new_id("msg", clock),
        )
        # The process dies between the commit and the start: the claim is lost.
        await gateway.db.run(admit, inbound, process="dead", lease_s=-1, now=clock.now())
    for word in ("after all", "."):
        pen.words.put_nowait(word)
    async with running(store_url, tmp_path, pen, clock=clock) as gateway:
        reader = await Client(web_app(gateway)).get(f"/api/chat/{turn_id}/stream?ui=7&startIndex=0")
        StrictClient("7").feed_all(reader.events()).end()
        assert text(reader) == "after all"
