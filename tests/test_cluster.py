"""Two gateways over one PostgreSQL store, with and without a relay: any process serves, stops and takes over."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import job_agent
from tests.asgi import Client, Exchange
from tests.gateways import running
from tests.strict_client import StrictClient
from turnwire.channels.web.api import web_app
from turnwire.gateway import Gateway
from turnwire.store.queries.jobs import find_job
from turnwire.store.queries.turns import get_turn
from turnwire.turn import Turn

LONG_S = 600
"""A lease under which nothing is learned from its renewal within a test."""

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]


class Node:
    """One process's gateway and a client of it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.client = Client(web_app(gateway))


class Pen:
    """An agent that writes what the test dictates, whichever process runs it."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str] = asyncio.Queue()
        self.runs: list[str] = []

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.runs.append(turn.text)
        while (word := await self.words.get()) != ".":
            yield word + " "


@pytest.fixture
def lease(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Without a relay an owner learns at its next renewal; with one it must not need that."""
    return {"turns__lease_s": LONG_S if "no relay" not in request.node.callspec.id else 3}


@pytest.fixture(params=["relay", "no relay"])
def nodes(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Callable[..., Any]:
    relay = {"relay__url": request.getfixturevalue("redis_url")} if request.param == "relay" else {}

    @asynccontextmanager
    async def open_nodes(agent: Any, **overrides: Any) -> AsyncIterator[list[Node]]:
        async with AsyncExitStack() as stack:
            yield [
                Node(await stack.enter_async_context(running(postgres_url, tmp_path, agent, **relay, **overrides)))
                for _ in range(2)
            ]

    return open_nodes


class Listener:
    """An agent that waits for what is said, and says it."""

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        yield "[listening]"
        async for message in turn.inbox:
            yield f" heard {message.text}"
            return


async def leaves_a_job(turn: Turn) -> AsyncIterator[Any]:
    yield await turn.background("the gated one", functools.partial(job_agent.gated, folder=turn.text))


def text(exchange: Exchange) -> str:
    return "".join(event["delta"] for event in exchange.events() if event["type"] == "text-delta")


def checked(exchange: Exchange) -> Exchange:
    assert exchange.complete
    StrictClient("7").feed_all(exchange.events()).end()
    return exchange


async def test_a_reader_at_any_process_sees_every_record(nodes: Any) -> None:
    pen = Pen()
    async with nodes(pen) as (one, two):
        writer = await one.client.ask("go").opened()
        turn_id = writer.headers["x-workflow-run-id"]
        pen.words.put_nowait("first")
        await writer.until(lambda at: text(at) == "first ")
        raw = two.client.start("GET", f"/api/chat/{turn_id}/stream?ui=7&startIndex=0")
        folded = two.client.start("GET", "/api/chat/c/stream?ui=7")
        for word in ("second", "third"):
            pen.words.put_nowait(word)
            await raw.until(lambda at, word=word: text(at).endswith(word + " "))
        pen.words.put_nowait(".")
        for reader in (writer, raw, folded):
            checked(await reader.done())
            assert text(reader) == "first second third "
        assert raw.numbered() == writer.numbered()
        assert pen.runs == ["go"]


async def test_the_same_post_to_both_processes_is_one_turn(nodes: Any) -> None:
    pen = Pen()
    async with nodes(pen) as (one, two):
        readers = [node.client.ask("go") for node in (one, two, one, two)]
        for reader in readers:
            await reader.opened()
        pen.words.put_nowait("once")
        pen.words.put_nowait(".")
        for reader in readers:
            checked(await reader.done())
            assert text(reader) == "once "
        assert len({reader.headers["x-workflow-run-id"] for reader in readers}) == 1
        assert pen.runs == ["go"]


async def test_a_stop_given_to_another_process_reaches_the_owner(nodes: Any) -> None:
    async with nodes(Pen(), turns__lease_s=3) as (one, two):
        writer = await one.client.ask("go").opened()
        stopped = await two.client.post("/api/chat/c/stop")
        assert stopped.json()["status"] == "stopping"
        checked(await writer.done())
        assert writer.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "stopped"


async def test_a_message_given_to_another_process_reaches_the_agent(nodes: Any, lease: dict[str, Any]) -> None:
    async with nodes(Listener(), turns__policy="steer", **lease) as (one, two):
        writer = await one.client.ask("go").opened()
        await writer.until(lambda at: text(at) == "[listening]")
        reader = await two.client.ask("and Oslo").opened()
        for exchange in (writer, reader):
            checked(await exchange.done())
            assert text(exchange) == "[listening] heard and Oslo"


async def test_a_job_is_stopped_from_another_process(nodes: Any, lease: dict[str, Any], tmp_path: Path) -> None:
    async with nodes(leaves_a_job, **lease) as (one, two):
        asked = await one.client.ask(str(tmp_path)).done()
        tab = one.client.start("GET", "/api/conversations/c/events")
        await tab.until(lambda at: any(job.get("progress") for event in at.events() for job in event["jobs"]))
        job = tab.events()[-1]["jobs"][0]["id"]
        row = await one.gateway.db.read(find_job, job)
        assert row is not None
        (other,) = [node for node in (one, two) if node.gateway.process != row.owner]
        stopped = await other.client.post(f"/api/chat/c/jobs/{job}/stop")
        assert (stopped.status, stopped.json()["status"]) == (202, "stopping")
        await tab.until(lambda at: at.events()[-1]["jobs"] == [] and at.events()[-1]["last"]["outcome"] == "stopped")
        await tab.leave()
        assert text(asked) == job


async def test_a_queued_turn_is_read_anywhere_and_runs_after_the_first(nodes: Any) -> None:
    pen = Pen()
    async with nodes(pen) as (one, two):
        first = await one.client.ask("first").opened()
        second = await two.client.ask("second").opened()
        for word in ("a", ".", "b", "."):
            pen.words.put_nowait(word)
        checked(await first.done())
        checked(await second.done())
        assert (text(first), text(second)) == ("a ", "b ")


async def test_every_tab_sees_turns_of_other_processes(nodes: Any) -> None:
    pen = Pen()
    async with nodes(pen) as (one, two):
        for word in ("a", ".", "b", "."):
            pen.words.put_nowait(word)
        await one.client.ask("first").done()
        tab = await two.client.start("GET", "/api/conversations/c/events").records(1)
        second = await one.client.ask("second").done()
        turn_id = second.headers["x-workflow-run-id"]
        await tab.until(lambda at: (at.events()[-1]["last"] or {}).get("id") == turn_id)
        await tab.leave()


async def test_a_lost_process_is_taken_over_and_its_late_words_are_fenced(nodes: Any) -> None:
    pen = Pen()
    async with nodes(pen, turns__lease_s=3) as (one, two):
        writer = await one.client.ask("go").opened()
        turn_id = writer.headers["x-workflow-run-id"]
        pen.words.put_nowait("before")
        await writer.until(lambda at: text(at) == "before ")
        waiting = await one.client.ask("next").opened()
        # The owner hangs: it renews nothing, but its agent goes on.
        one.gateway.supervisor._renewer.cancel()
        reader = two.client.start("GET", f"/api/chat/{turn_id}/stream?ui=7&startIndex=0")
        checked(await reader.done())
        end = reader.events()[-1]["messageMetadata"]["turnwire"]
        assert end["outcome"] == "interrupted"
        pen.words.put_nowait("late")
        await writer.done()
        assert "late" not in text(writer)
        for word in ("after", "."):
            pen.words.put_nowait(word)
        turn = await two.gateway.db.read(get_turn, turn_id)
        assert turn is not None
        assert turn.head == len(reader.events())
        second = two.client.start("GET", f"/api/chat/{waiting.headers['x-workflow-run-id']}/stream?ui=7&startIndex=0")
        checked(await second.done())
        assert second.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "done"
        await waiting.leave()
