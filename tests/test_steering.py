"""Steering: what people say while a turn runs reaches its agent or becomes the next turn; never both nor neither."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client, Exchange
from tests.gateways import running
from tests.strict_client import StrictClient
from turnwire.channels.web.api import web_app
from turnwire.events import Data, Snapshot, Step
from turnwire.gateway import Gateway
from turnwire.testing import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio


class Listener:
    """An agent that works until it is let go, then says what came meanwhile; `deaf` ones never look."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked: list[str] = []
        self.heard: list[str] = []

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.asked.append(turn.text)
        yield f"[{turn.text}]"
        if turn.text == "follow":
            async for message in turn.inbox:
                self.heard.append(message.text)
                yield f" heard {message.text}"
                if message.text == "enough":
                    return
        await self.go.wait()
        if turn.text == "work":
            for message in await turn.inbox.take():
                self.heard.append(message.text)
                yield f" heard {message.text} with {len(message.files)} files"
            assert await turn.inbox.take() == []
        if turn.text == "pretend":
            yield Data(name="steer", data={"message": "another"}, id="another")
        if turn.text == "rewrite":
            await turn.inbox.take()
            yield Snapshot("corrected")
            yield Step(retry=True)
            yield "again"


class Desk:
    def __init__(self, gateway: Gateway, agent: Listener, clock: FakeClock) -> None:
        self.gateway = gateway
        self.agent = agent
        self.clock = clock
        app = web_app(gateway)
        self.client = Client(app, {"accept": "application/json"})
        # What fetch sends by itself, and with it the stock clients of the AI SDK.
        self.stock = Client(app, {"accept": "*/*"})

    async def begun(self, text: str) -> Exchange:
        """A turn that runs, and whose agent has spoken."""
        exchange = self.client.ask(text)
        return await exchange.until(lambda one: any(event["type"] == "text-delta" for event in one.events()))

    async def history(self) -> list[tuple[str, str]]:
        shown = (await self.client.get("/api/chat/c")).json()
        return [(message["role"], said(message)) for message in shown["messages"]]

    async def idle(self) -> None:
        tab = self.client.start("GET", "/api/conversations/c/events")
        await tab.until(lambda one: bool(one.events()) and one.events()[-1]["turn"] is None)
        await tab.leave()


def said(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def checked(exchange: Exchange) -> dict[str, Any]:
    return StrictClient("7").feed_all(exchange.events()).end()


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(url: str | None = None, **overrides: Any) -> AsyncIterator[Desk]:
        agent, clock, at = Listener(), FakeClock(), url or f"sqlite:///{tmp_path / 'turnwire.db'}"
        async with running(at, tmp_path, agent, clock=clock, turns__policy="steer", **overrides) as gateway:
            yield Desk(gateway, agent, clock)

    return open_desk


async def test_a_message_reaches_the_agent_that_runs(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = await at.begun("work")
        more = await at.client.ask("and Oslo").done()
        assert (more.status, more.json()["turn"]) == (202, first.headers["x-workflow-run-id"])
        assert await at.history() == [("user", "work"), ("user", "and Oslo")]
        at.agent.go.set()
        message = checked(await first.done())
        assert said(message) == "[work] heard and Oslo with 0 files"
        steered = [part for part in message["parts"] if part["type"] == "data-steer"]
        assert [part["data"]["message"] for part in steered] == [part["id"] for part in steered]
        await at.idle()
        assert await at.history() == [("user", "work"), ("user", "and Oslo"), ("assistant", said(message))]
        assert at.agent.asked == ["work"]


async def test_a_stock_client_reads_the_turn_that_took_its_message(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = await at.begun("work")
        more = await at.stock.ask("and Oslo").opened()
        assert (more.status, more.headers["x-workflow-run-id"]) == (200, first.headers["x-workflow-run-id"])
        assert more.events() == []
        again = await at.stock.ask("and Oslo").opened()
        at.agent.go.set()
        message = checked(await first.done())
        for reader in (more, again):
            assert checked(await reader.done()) == message
            assert reader.numbered() == first.numbered()


async def test_a_stock_client_reads_on_as_soon_as_its_message_is_taken(desk: Any) -> None:
    async with desk() as at:
        first = await at.begun("follow")
        more = await at.stock.ask("left").opened()
        await more.until(lambda one: "heard left" in one.body.decode())
        await at.client.ask("enough").done()
        assert checked(await more.done()) == checked(await first.done())


async def test_a_stock_client_reads_the_next_turn_when_nobody_took_its_message(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = await at.begun("deaf")
        readers = [await at.stock.ask("unheard").opened() for _ in range(2)]
        at.agent.go.set()
        assert said(checked(await first.done())) == "[deaf]"
        for reader in readers:
            assert said(checked(await reader.done())) == "[unheard]"


async def test_a_stock_client_hears_that_the_server_lives_and_ends_without_it(desk: Any) -> None:
    async with desk() as at:
        await at.begun("deaf")
        more = await at.stock.ask("unheard").opened()
        async with asyncio.timeout(20):
            while more.body.count(b":\n\n") < 3:
                await at.clock.advance(10)
    await more.done()
    assert not more.complete


async def test_what_nobody_took_becomes_the_next_turn(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = await at.begun("deaf")
        for text in ("one", "two"):
            assert (await at.client.ask(text).done()).status == 202
        at.agent.go.set()
        checked(await first.done())
        await at.idle()
        assert at.agent.asked == ["deaf", "one\n\ntwo"]
        assert await at.history() == [
            ("user", "deaf"), ("assistant", "[deaf]"), ("user", "one"), ("user", "two"),
            ("assistant", "[one\n\ntwo]"),
        ]  # fmt: skip
        again = await at.client.ask("two").done()
        assert said(checked(again)) == "[one\n\ntwo]"


async def test_an_agent_can_wait_for_what_is_said(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = await at.begun("follow")
        await at.client.ask("left").done()
        await first.until(lambda one: "heard left" in one.body.decode())
        await at.client.ask("enough").done()
        assert said(checked(await first.done())) == "[follow] heard left heard enough"
        await at.idle()
        assert at.agent.asked == ["follow"]


async def test_a_repeat_of_a_message_is_not_heard_twice(desk: Any) -> None:
    async with desk() as at:
        first = await at.begun("work")
        assert (await at.client.ask("once").done()).status == 202
        repeat = await at.client.ask("once").opened()
        assert repeat.headers["x-workflow-run-id"] == first.headers["x-workflow-run-id"]
        at.agent.go.set()
        await first.done()
        assert at.agent.heard == ["once"]
        await at.idle()
        assert at.agent.asked == ["work"]


async def test_a_rewrite_forgets_nothing_that_was_taken(desk: Any) -> None:
    async with desk() as at:
        first = await at.begun("rewrite")
        await at.client.ask("hint").done()
        at.agent.go.set()
        message = checked(await first.done())
        assert [part["type"] for part in message["parts"]].count("data-steer") == 1
        await at.idle()
        assert at.agent.asked == ["rewrite"]


async def test_an_agent_cannot_pretend_to_have_taken_a_message(desk: Any) -> None:
    async with desk() as at:
        first = await at.begun("pretend")
        await at.client.ask("heard by nobody").done()
        at.agent.go.set()
        await first.done()
        await at.idle()
        assert at.agent.asked == ["pretend", "heard by nobody"]


async def test_after_a_stop_what_was_said_is_answered(desk: Any) -> None:
    async with desk() as at:
        first = await at.begun("deaf")
        await at.client.ask("next").done()
        await at.client.start("POST", "/api/chat/c/stop").done()
        late = at.client.ask("later")
        await at.clock.advance(1)
        await first.done()
        at.agent.go.set()
        await late.done()
        await at.idle()
        assert sorted(at.agent.asked[1:]) == ["later", "next"]


async def test_a_killed_turn_hands_on_what_it_did_not_take(store_url: str, desk: Any, tmp_path: Path) -> None:
    async with desk(url=store_url) as at:
        await at.begun("deaf")
        await at.client.ask("unheard").done()
    async with desk(url=store_url) as at:
        at.agent.go.set()
        await at.idle()
        assert at.agent.asked == ["unheard"]
        roles = [role for role, _ in await at.history()]
        assert roles == ["user", "assistant", "user", "assistant"]


async def test_an_edit_drops_what_came_meanwhile(desk: Any) -> None:
    async with desk() as at:
        await at.begun("deaf")
        await at.client.ask("gone").done()
        first = (await at.client.get("/api/chat/c")).json()["messages"][0]["id"]
        edited = at.client.ask("better", message=first, messageId=first)
        await at.clock.advance(1)
        at.agent.go.set()
        await edited.done()
        await at.idle()
        assert at.agent.asked == ["deaf", "better"]
        assert [text for role, text in await at.history() if role == "user"] == ["better"]


async def test_too_much_is_refused(desk: Any) -> None:
    async with desk() as at:
        await at.begun("deaf")
        for index in range(32):
            assert (await at.client.ask(f"more {index}").done()).status == 202
        refused = await at.client.ask("one too many").done()
        assert (refused.status, refused.json()["error"]["code"]) == (409, "queue_full")
