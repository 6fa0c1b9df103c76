"""Approvals: a turn waits for a person, the first answer goes on with the same message, everywhere and once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client, Exchange
from tests.gateways import running
from tests.strict_client import StrictClient, comparable
from turnwire.channels.web.api import web_app
from turnwire.events import Data, ToolCall, ToolError, ToolResult
from turnwire.gateway import Gateway
from turnwire.store.queries.approvals import asked_by
from turnwire.testing import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio


class Shop:
    """An agent that buys what it is asked for, if it may; `seen` are the turns it got."""

    def __init__(self) -> None:
        self.seen: list[Turn] = []
        self.paid: list[Any] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.seen.append(turn)
        if turn.resume is None:
            async for event in self._ask(turn):
                yield event
            return
        for resolution in turn.resolutions:
            if resolution.approved:
                self.paid.append(resolution.call.input)
                yield ToolResult(id=resolution.call.id, output={"paid": resolution.call.input})
        await self.goes_on.wait()
        yield Data(name="cart", data="closed", id="cart")
        if turn.text == "twice" and turn.resume.call.id == "pay-1":
            yield ToolCall(id="pay-2", name="pay", input=2, needs_approval=True)
            return
        yield "Bought." if any(one.approved for one in turn.resolutions) else f"Not bought: {turn.resume.reason}."

    async def _ask(self, turn: Turn) -> AsyncIterator[Any]:
        yield "Let me see. "
        if turn.text == "broken":
            yield ToolCall(id="pay-1", name="pay", input=1, needs_approval=True)
            raise RuntimeError
        if turn.text == "plain":
            yield "Hello."
            return
        yield Data(name="cart", data="open", id="cart")
        yield ToolCall(id="look", name="look", input={})
        yield ToolResult(id="look", output=3)
        yield ToolCall(id="pay-1", name="pay", input={"eur": 5}, title="Pay", needs_approval=True, state=["basket", 1])
        if turn.text == "both":
            yield ToolCall(id="pay-2", name="pay", input={"eur": 7}, needs_approval=True)
            yield ToolCall(id="never", name="look", input={})


class Desk:
    def __init__(self, gateway: Gateway, shop: Shop, clock: FakeClock) -> None:
        self.gateway = gateway
        self.clock = clock
        self.shop = shop
        self.client = Client(web_app(gateway))
        self.held: dict[str, Any] | None = None

    async def asked(self, text: str = "buy", **more: Any) -> str:
        """Asks, reads to the end, and returns the id of the first approval asked for."""
        exchange = await self.client.ask(text, **more).done()
        self.held = StrictClient("7").feed_all(exchange.events()).end()
        assert outcome(self.held) == "waiting"
        return str(next(event["approvalId"] for event in exchange.events() if event["type"] == "tool-approval-request"))

    async def answer(self, approval: str, approved: bool = True, **more: Any) -> Exchange:
        body = json.dumps({"approved": approved, **more}).encode()
        return await self.client.start("POST", f"/api/approvals/{approval}", body=body).done()

    async def stream(self, turn: str, version: Any = "7", message: Any = None) -> dict[str, Any]:
        """What a reader shows that holds `message` and then reads the turn's records."""
        exchange = await self.client.get(f"/api/chat/{turn}/stream?ui={version}&startIndex=0")
        return StrictClient(version, message or self.held).feed_all(exchange.events()).end()

    async def history(self, chat: str = "c") -> list[dict[str, Any]]:
        shown = (await self.client.get(f"/api/chat/{chat}")).json()
        return list(shown["messages"])


async def test_who_resumes_before_the_first_record_reads_it_from_there(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        approval = await at.asked()
        claims: list[Any] = []
        run, at.gateway.supervisor.run = at.gateway.supervisor.run, claims.append
        turn = (await at.answer(approval)).json()["turn"]
        assert (turn["status"], turn["cursor"]) == ("running", 0)
        reader = await at.client.start("GET", f"/api/chat/{turn['id']}/stream?ui=7").opened()
        at.gateway.supervisor.run = run
        run(claims[0])
        await reader.done()
        assert [number for number, _ in reader.numbered()] == list(range(len(reader.events())))
        message = StrictClient("7", at.held).feed_all(reader.events()).end()
        assert comparable(message) == comparable((await at.history())[-1])


def outcome(message: dict[str, Any]) -> str:
    return str(message["metadata"]["turnwire"]["outcome"])


def calls(message: dict[str, Any]) -> dict[str, str]:
    return {part["toolCallId"]: part["state"] for part in message["parts"] if "toolCallId" in part}


def said(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(url: str | None = None, **overrides: Any) -> AsyncIterator[Desk]:
        at, shop, clock = url or f"sqlite:///{tmp_path / 'turnwire.db'}", Shop(), FakeClock()
        async with running(at, tmp_path, shop, clock=clock, **overrides) as gateway:
            yield Desk(gateway, shop, clock)

    return open_desk


async def test_the_answer_goes_on_with_the_same_message(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        approval = await at.asked()
        (_, waiting) = await at.history()
        assert comparable(waiting) == comparable(at.held)
        assert calls(waiting) == {"look": "output-available", "pay-1": "approval-requested"}
        answered = (await at.answer(approval, reason="go ahead")).json()
        assert (answered["approved"], answered["first"], answered["by"]) == (True, True, "local")
        message = await at.stream(answered["turn"]["id"])
        (_, settled) = await at.history()
        assert comparable(message) == comparable(settled)
        assert (settled["id"], outcome(settled)) == (waiting["id"], "done")
        assert calls(settled) == {"look": "output-available", "pay-1": "output-available"}
        assert said(settled) == "Let me see. Bought."
        (_, again) = at.shop.seen
        assert (again.resume.approval_id, again.resume.reason, again.resume.by) == (approval, "go ahead", "local")
        assert (again.resume.call.title, again.resume.state) == ("Pay", ["basket", 1])
        assert again.text == "buy"
        assert calls(again.messages[-1])["pay-1"] == "approval-responded"
        assert at.shop.paid == [{"eur": 5}]


async def test_a_denied_call_is_closed_and_the_agent_learns_why(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        answered = (await at.answer(await at.asked(), False, reason="too dear")).json()
        message = await at.stream(answered["turn"]["id"])
        assert calls(message)["pay-1"] == "output-denied"
        assert said(message) == "Let me see. Not bought: too dear."
        assert comparable(message) == comparable((await at.history())[1])
        assert at.shop.paid == []


async def test_the_first_answer_counts_however_many_come_at_once(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        approval = await at.asked()
        answers = [(await one).json() for one in [at.answer(approval, index == 3) for index in range(6)]]
        assert [one["first"] for one in answers] == [True] + [False] * 5
        crowd = await asyncio.gather(*[at.answer(approval, True) for _ in range(4)])
        assert {one.json()["approved"] for one in crowd} == {False}
        assert len({one["turn"]["id"] for one in answers} | {one.json()["turn"]["id"] for one in crowd}) == 1
        await at.stream(answers[0]["turn"]["id"])
        assert len(at.shop.seen) == 2


async def test_several_requests_are_all_answered_before_the_turn_goes_on(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = await at.asked("both")
        assert calls(at.held) == {
            "look": "output-available",
            "pay-1": "approval-requested",
            "pay-2": "approval-requested",
            "never": "output-error",
        }
        second = first.removesuffix("1") + "2"
        assert (await at.answer(second, False, reason="no")).json()["turn"] is None
        assert calls((await at.history())[1])["pay-2"] == "approval-responded"
        answered = (await at.answer(first)).json()
        message = await at.stream(answered["turn"]["id"])
        assert calls(message) | {"never": ""} == {
            "look": "output-available", "pay-1": "output-available", "pay-2": "output-denied", "never": "",
        }  # fmt: skip
        assert [one.call.id for one in at.shop.seen[1].resolutions] == ["pay-1", "pay-2"]


async def test_a_turn_that_goes_on_may_ask_again(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        first = (await at.answer(await at.asked("twice"))).json()
        at.held = await at.stream(first["turn"]["id"])
        assert (outcome(at.held), calls(at.held)["pay-2"]) == ("waiting", "approval-requested")
        (row,) = await at.gateway.db.read(asked_by, first["turn"]["id"])
        second = (await at.answer(row.id)).json()
        message = await at.stream(second["turn"]["id"])
        assert said(message) == "Let me see. Bought."
        assert comparable(message) == comparable((await at.history())[1])
        assert at.shop.paid == [{"eur": 5}, 2]
        (_, shown) = await at.history()
        assert [part["data"] for part in shown["parts"] if part["type"] == "data-cart"] == ["closed"]


async def test_a_new_message_denies_what_is_open(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        approval = await at.asked()
        await at.client.ask("plain").done()
        (_, before, _, after) = await at.history()
        assert calls(before)["pay-1"] == "output-denied"
        assert next(part for part in before["parts"] if "approval" in part)["approval"]["reason"] == "superseded"
        assert said(after) == "Let me see. Hello."
        late = (await at.answer(approval)).json()
        assert (late["first"], late["approved"], late["reason"], late["turn"]) == (False, False, "superseded", None)
        assert at.shop.paid == []


async def test_a_message_that_waited_denies_what_the_turn_asks(desk: Any) -> None:
    async with desk() as at:
        at.shop.goes_on.clear()
        answered = (await at.answer(await at.asked("twice"))).json()
        queued = await at.client.ask("plain").opened()
        at.shop.goes_on.set()
        at.held = await at.stream(answered["turn"]["id"])
        await queued.done()
        assert calls((await at.history())[1])["pay-2"] == "output-denied"


async def test_stop_denies_what_is_open(desk: Any) -> None:
    async with desk() as at:
        approval = await at.asked()
        await at.client.ask("/stop").done()
        assert calls((await at.history())[1])["pay-1"] == "output-denied"
        assert (await at.answer(approval)).json()["turn"] is None


async def test_an_approval_that_nobody_answers_expires(store_url: str, desk: Any) -> None:
    async with desk(url=store_url, turns__approval_timeout_s=0.001) as at:
        approval = await at.asked()
        await at.gateway._reaper.sweep()
        while calls((await at.history())[1])["pay-1"] != "output-denied":
            await at.gateway._reaper.sweep()
        late = (await at.answer(approval)).json()
        assert (late["first"], late["reason"], late["turn"]) == (False, "expired", None)


async def test_a_turn_that_fails_asks_for_nothing(desk: Any) -> None:
    async with desk() as at:
        exchange = await at.client.ask("broken").done()
        message = StrictClient("7").feed_all(exchange.events()).end()
        assert (outcome(message), calls(message)) == ("failed", {"pay-1": "output-error"})
        approval = next(part for part in message["parts"] if "approval" in part)["approval"]["id"]
        refused = await at.answer(approval)
        assert (refused.status, refused.json()["error"]["code"]) == (404, "no_such_approval")


async def test_a_reader_without_a_cursor_goes_on_from_history(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        at.shop.goes_on.clear()
        approval = await at.asked()
        await at.answer(approval)
        shown = (await at.client.get("/api/chat/c")).json()
        assert shown["turn"]["status"] == "running"
        assert calls(shown["messages"][-1])["pay-1"] == "approval-responded"
        for late in (False, True):
            reader = at.client.start("GET", "/api/chat/c/stream?ui=7")
            await reader.until(lambda one: any(event["type"] == "tool-output-available" for event in one.events()))
            client = StrictClient("7", shown["messages"][-1])
            client.feed_all(reader.events())
            assert said(client.message()) == "Let me see. "
            if late:
                at.shop.goes_on.set()
                whole = StrictClient("7", shown["messages"][-1]).feed_all((await reader.done()).events()).end()
            else:
                await reader.leave()
        assert comparable(whole) == comparable((await at.history())[1])


async def test_a_turn_that_goes_on_can_be_stopped(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        at.shop.goes_on.clear()
        answered = (await at.answer(await at.asked())).json()
        await at.client.start("GET", f"/api/chat/{answered['turn']['id']}/stream?ui=7&startIndex=0").records(4)
        await at.client.start("POST", "/api/chat/c/stop").done()
        await at.clock.advance(1)
        message = await at.stream(answered["turn"]["id"])
        assert (outcome(message), said(message)) == ("stopped", "Let me see. ")
        assert comparable(message) == comparable((await at.history())[1])


async def test_a_new_answer_takes_the_place_of_the_whole_message(desk: Any) -> None:
    async with desk() as at:
        answered = (await at.answer(await at.asked())).json()
        await at.stream(answered["turn"]["id"])
        body = json.dumps({"id": "c", "trigger": "regenerate-message", "messageId": at.held["id"]}).encode()
        again = await at.client.start("POST", "/api/chat?ui=7", body=body).done()
        (_, message) = await at.history()
        assert message["id"] == again.events()[0]["messageId"] != at.held["id"]
        assert outcome(message) == "waiting"


async def test_a_chat_that_posts_its_answers_gets_the_turn_that_goes_on(desk: Any) -> None:
    async with desk() as at:
        approval = await at.asked()
        held = at.held
        part = next(part for part in held["parts"] if "approval" in part)
        part |= {"state": "approval-responded", "approval": {"id": approval, "approved": True, "reason": "fine"}}
        body = json.dumps({"id": "c", "messageId": held["id"], "messages": [held]}).encode()
        posts = [await at.client.start("POST", "/api/chat?ui=6", body=body).done() for _ in range(2)]
        assert posts[0].headers["x-workflow-run-id"] == posts[1].headers["x-workflow-run-id"]
        for post in posts:
            message = StrictClient("6", held).feed_all(post.events()).end()
            assert said(message) == "Let me see. Bought."
        assert at.shop.seen[1].resume.reason == "fine"


async def test_a_post_that_leaves_a_request_open_is_told_so(desk: Any) -> None:
    async with desk() as at:
        approval = await at.asked("both")
        part = next(part for part in at.held["parts"] if "approval" in part)
        part |= {"state": "approval-responded", "approval": {"id": approval, "approved": True}}
        body = json.dumps({"id": "c", "messages": [at.held]}).encode()
        refused = await at.client.start("POST", "/api/chat?ui=6", body=body).done()
        assert (refused.status, refused.json()["error"]["code"]) == (409, "not_going_on")


@pytest.mark.parametrize("body", [b"{}", b'{"approved": "yes"}', b'{"approved": true, "reason": 5}', b"[", b"[]"])
async def test_an_answer_that_says_nothing_is_refused(desk: Any, body: bytes) -> None:
    async with desk() as at:
        approval = await at.asked()
        refused = await at.client.start("POST", f"/api/approvals/{approval}", body=body).done()
        assert (refused.status, refused.json()["error"]["code"]) == (400, "bad_request")
        assert calls((await at.history())[1])["pay-1"] == "approval-requested"


async def test_nobody_answers_for_somebody_else(desk: Any) -> None:
    async with desk(channels__web__auth="header", channels__web__header="x-who") as at:
        ann, bob = (Client(web_app(at.gateway), {"x-who": name}) for name in ("ann", "bob"))
        at.client = ann
        approval = await at.asked()
        at.client = bob
        assert (await at.answer(approval)).status == 404
        at.client = ann
        assert (await at.answer(approval)).json()["by"] == "ann"


async def test_an_approval_outlives_the_process(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        approval = await at.asked()
        held = at.held
    async with desk(url=store_url) as at:
        at.held = held
        answered = (await at.answer(approval)).json()
        message = await at.stream(answered["turn"]["id"])
        assert said(message) == "Let me see. Bought."
        assert at.shop.seen[0].resume.state == ["basket", 1]


async def test_a_tool_that_fails_after_it_was_allowed_says_so(tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if turn.resume is None:
            yield ToolCall(id="a", name="pay", input=1, needs_approval=True)
        else:
            yield ToolError(id="a", error="the bank is closed")

    clock = FakeClock()
    async with running(f"sqlite:///{tmp_path / 'turnwire.db'}", tmp_path, agent, clock=clock) as gateway:
        at = Desk(gateway, Shop(), clock)
        answered = (await at.answer(await at.asked())).json()
        message = await at.stream(answered["turn"]["id"])
        assert calls(message) == {"a": "output-error"}
