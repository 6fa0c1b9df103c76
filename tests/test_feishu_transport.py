"""How events come: the long connection over real sockets, and posts to the webhook."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog
from starlette.applications import Starlette

from tests.feishu_rig import FeishuRig, feishu, saying
from turnwire.channels.feishu.events import chat_of
from turnwire.channels.feishu.frames import Frame, encode
from turnwire.channels.feishu.long_connection import LongConnection
from turnwire.channels.feishu.wire import Wire
from turnwire.delivery.pacing import LocalPacer
from turnwire.sim._feishu_events import Delivery
from turnwire.sim.feishu import Fault, FeishuSim
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


class Listener:
    """One connection of an app, and what it heard."""

    def __init__(self, sim: FeishuSim, clock: FakeClock, secret: str = "") -> None:
        self.wire = Wire(
            app_id=sim.app_id, app_secret=secret or sim.app_secret, base_url=sim.base_url, clock=clock,
            pacer=LocalPacer(clock),
        )  # fmt: skip
        self.heard: list[str] = []
        self.busy: list[str] = []
        self.cancelled: list[str] = []
        self.slow: dict[str, asyncio.Event] = {}
        self.failures = 0
        self.answer: dict[str, Any] | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.socket = LongConnection(self.wire, self._handle, clock, name="main")
        self.socket.start()

    async def _handle(self, event: dict[str, Any]) -> dict[str, Any] | None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the store is away")
        own = event["header"]["event_id"]
        self.busy.append(own)
        try:
            await self.slow.get(chat_of(event), self.held).wait()
        except asyncio.CancelledError:
            self.cancelled.append(own)
            raise
        finally:
            self.busy.remove(own)
        self.heard.append(own)
        return self.answer

    def stall(self, *chats: str) -> None:
        """Lets what is asked in those chats take its time, until `go_on`."""
        self.slow |= {chat: asyncio.Event() for chat in chats}

    def go_on(self) -> None:
        for gate in self.slow.values():
            gate.set()

    async def close(self) -> None:
        await self.socket.close()
        await self.wire.close()


@contextlib.asynccontextmanager
async def connected(clock: FakeClock) -> AsyncIterator[tuple[FeishuSim, Listener]]:
    async with FeishuSim(clock=clock) as sim:
        listener = Listener(sim, clock)
        try:
            await clock.until(lambda: listener.socket.state == "connected" and len(sim.sockets.sockets) == 1)
            yield sim, listener
        finally:
            closing = asyncio.ensure_future(listener.close())
            await clock.until(closing.done)


async def acked(clock: FakeClock, *events: Delivery) -> None:
    await clock.until(lambda: all(event.state == "acked" for event in events))


async def test_events_come_on_the_connection_and_are_acknowledged(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        sim.people.say(sim.p2p(), "one")
        sim.people.say(sim.p2p(), "two " * 8000)
        await acked(clock, *sim.events.deliveries)
        assert listener.heard == [event.event_id for event in sim.events.deliveries]
        assert [len(event.attempts) for event in sim.events.deliveries] == [1, 1]


async def test_an_event_is_acknowledged_only_after_it_was_taken(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        listener.held.clear()
        sim.people.say(sim.p2p(), "one")
        [event] = sim.events.deliveries
        await clock.settle()
        assert event.state == "sent"
        listener.held.set()
        await acked(clock, event)


async def test_an_event_that_could_not_be_taken_comes_again(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        listener.failures = 1
        sim.people.say(sim.p2p(), "one")
        [event] = sim.events.deliveries
        await clock.until(lambda: listener.failures == 0)
        await clock.advance(16.0)
        await acked(clock, event)
        assert len(event.attempts) == 2
        assert listener.heard == [event.event_id]


async def test_a_click_is_answered_on_the_connection(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        listener.answer = {"toast": {"type": "info", "content": "Stopping…"}}
        event = sim.people._emit(sim.app_id, "card.action.trigger", {})
        await acked(clock, event)
        assert event.answer == listener.answer


async def test_a_chat_that_is_slow_delays_no_other_and_keeps_its_own_order(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        slow, quick = sim.p2p(), sim.group
        listener.stall(slow)
        asked = sim.people.say(slow, "one")
        sim.people.say(quick, "two")
        sim.people.say(slow, "three")
        sim.people.recall(asked)
        card = {"operator": {"open_id": "ou_alice"}, "context": {"open_chat_id": slow}, "action": {"value": {}}}
        sim.people._emit(sim.app_id, "card.action.trigger", card)
        sim.people.say(quick, "four")
        sim.people._emit(sim.app_id, "contact.user.updated_v3", {})
        first, two, three, recalled, click, four, other = sim.events.deliveries
        await acked(clock, two, four, other)
        # Neither the platform's three seconds nor its next try has come for those.
        assert {len(event.attempts) for event in (two, four, other)} == {1}
        assert [event.state for event in (first, three, recalled, click)] == ["sent"] * 4
        assert listener.busy == [first.event_id]
        listener.go_on()
        await acked(clock, first, three, recalled, click)
        own = [one for one in listener.heard if one not in (two.event_id, four.event_id, other.event_id)]
        assert own == [event.event_id for event in (first, three, recalled, click)]


async def test_a_chat_whose_event_fails_goes_on_with_the_next_one(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        listener.failures = 1
        sim.people.say(sim.p2p(), "one")
        sim.people.say(sim.p2p(), "two")
        first, second = sim.events.deliveries
        await acked(clock, second)
        assert (first.state, listener.heard) == ("sent", [second.event_id])


async def test_so_many_chats_are_served_at_once_and_a_busy_one_gives_way(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.channels.feishu.long_connection.AT_ONCE", 2)
    async with connected(clock) as (sim, listener):
        chats = [sim.p2p(f"ou_{number}") for number in range(4)]
        listener.stall(*chats)
        for number in (0, 0, 1, 2, 3):
            sim.people.say(chats[number], "hi", user=f"ou_{number}")
        first, again, *others = sim.events.deliveries
        await clock.until(lambda: len(listener.busy) == 2)
        await clock.settle()
        assert listener.busy == [first.event_id, others[0].event_id]
        listener.slow[chats[0]].set()
        await acked(clock, first)
        await clock.settle()
        assert listener.busy == [others[0].event_id, others[1].event_id]
        assert again.state == "sent"
        listener.go_on()
        await acked(clock, again, *others)


async def test_an_event_is_refused_while_too_many_wait_and_comes_again(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.channels.feishu.long_connection.WAITING_EVENTS", 2)
    async with connected(clock) as (sim, listener):
        listener.held.clear()
        sim.people.say(sim.p2p(), "one")
        await clock.until(lambda: len(listener.busy) == 1)
        for text in ("two", "three", "four"):
            sim.people.say(sim.p2p(), text)
        *taken, refused = sim.events.deliveries
        sim.people.say(sim.group, "of another chat")
        other = sim.events.deliveries[-1]
        with structlog.testing.capture_logs() as logs:
            await clock.until(lambda: len(logs) == 2)
        assert {log["event"] for log in logs} == {
            "too many events wait; one is not taken, and the platform sends it again"
        }
        listener.held.set()
        await acked(clock, *taken)
        assert [event.state for event in (refused, other)] == ["sent", "sent"]
        await clock.advance(16.0)
        await acked(clock, refused, other)
        assert listener.heard[:3] == [event.event_id for event in taken]
        assert {len(event.attempts) for event in (refused, other)} == {2}


async def test_the_parts_of_an_event_may_come_in_any_order_and_between_others(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        [socket] = sim.sockets.sockets
        listener.stall("oc_1")

        def part(own: str, number: int, total: int, payload: bytes) -> None:
            headers = {"type": "event", "message_id": own, "sum": str(total), "seq": str(number)}
            socket.protocol.send_binary(encode(Frame(method=1, headers=headers, payload=payload)))
            socket.write()

        def event(own: str) -> bytes:
            return json.dumps({"header": {"event_id": own}, "event": {"chat_id": "oc_1"}}).encode()

        halves = event("split")[:20], event("split")[20:]
        part("s", 1, 2, halves[1])
        part("a", 0, 1, event("before"))
        part("s", 0, 2, halves[0])
        part("b", 0, 1, event("after"))
        await clock.until(lambda: listener.busy == ["before"])
        listener.go_on()
        await clock.until(lambda: len(listener.heard) == 3)
        assert listener.heard == ["before", "split", "after"]


async def test_what_is_under_way_when_the_connection_is_closed_is_cancelled_and_not_acknowledged(
    clock: FakeClock,
) -> None:
    async with connected(clock) as (sim, listener):
        listener.held.clear()
        for chat in (sim.p2p(), sim.group, sim.p2p()):
            sim.people.say(chat, "hi")
        first, second, third = sim.events.deliveries
        await clock.until(lambda: len(listener.busy) == 2)
        closing = asyncio.ensure_future(listener.socket.close())
        await clock.until(closing.done)
        assert sorted(listener.cancelled) == sorted([first.event_id, second.event_id])
        listener.held.set()
        await clock.until(lambda: not sim.sockets.sockets)
        assert [event.state for event in (first, second, third)] == ["sent"] * 3
        assert listener.heard == []


@pytest.mark.parametrize("kind", ["ws_reset", "ws_close"])
async def test_a_connection_that_is_lost_is_replaced(clock: FakeClock, kind: str) -> None:
    async with connected(clock) as (sim, listener):
        sim.people.say(sim.p2p(), "one")
        await acked(clock, *sim.events.deliveries)
        sim.faults.add(Fault("socket", kind))
        sim.people.say(sim.p2p(), "two")
        first, event = sim.events.deliveries
        await clock.until(lambda: not sim.sockets.sockets)
        await clock.until(lambda: listener.socket.state != "connected" or kind == "ws_close")
        await clock.advance(3.0)
        await clock.until(lambda: bool(sim.sockets.sockets))
        await clock.advance(15.0)
        await acked(clock, event)
        assert listener.heard == [first.event_id, event.event_id]


async def test_a_connection_on_which_nothing_is_heard_is_replaced(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected(clock) as (sim, listener):
        [first] = sim.sockets.sockets
        for _ in range(4):
            # Pongs are heard, and what they say about the interval is believed.
            sim.sockets.config = {"PingInterval": 50}
            await clock.advance(120.0)
            await asyncio.to_thread(lambda: None)
        assert sim.sockets.sockets == [first]
        monkeypatch.setattr(sim.sockets, "_received", lambda *_: None)
        await clock.advance(150.0)
        await clock.until(lambda: first not in sim.sockets.sockets)
        await clock.advance(5.0)
        await clock.until(lambda: bool(sim.sockets.sockets))
        assert listener.socket.state == "connected"


async def test_bytes_that_are_no_frame_or_no_event_do_no_harm(clock: FakeClock) -> None:
    async with connected(clock) as (sim, listener):
        [socket] = sim.sockets.sockets
        for data in (b"\xff\xff", b"", bytes.fromhex("080110021807200142015b")):
            socket.protocol.send_binary(data)
            socket.write()
        socket.protocol.send_text(b"words")
        socket.write()
        sim.people.say(sim.p2p(), "one")
        await acked(clock, *sim.events.deliveries)
        assert sim.sockets.sockets == [socket]
        assert len(listener.heard) == 1


async def test_a_wrong_secret_is_said_and_tried_seldom(clock: FakeClock) -> None:
    async with FeishuSim(clock=clock) as sim:
        listener = Listener(sim, clock, secret="wrong")
        await clock.until(lambda: "refuses" in listener.socket.state)
        assert "app_id and app_secret" in listener.socket.state
        assert "wrong" not in listener.socket.state
        await clock.advance(280.0)
        assert sim.counts["endpoint"] == 1
        sim.tenant.apps[sim.app_id].secret = "wrong"
        await clock.advance(30.0)
        await clock.until(lambda: listener.socket.state == "connected")
        await listener.close()


async def test_too_many_connections_are_said_and_tried_again(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FeishuSim(clock=clock) as sim:
        monkeypatch.setattr("turnwire.sim._feishu_ws.MAX_CONNECTIONS", 0)
        listener = Listener(sim, clock)
        await clock.until(lambda: "too many" in listener.socket.state)
        monkeypatch.setattr("turnwire.sim._feishu_ws.MAX_CONNECTIONS", 50)
        await clock.advance(5.0)
        await clock.until(lambda: listener.socket.state == "connected")
        await listener.close()


async def test_a_platform_that_is_away_is_tried_with_growing_pauses(clock: FakeClock) -> None:
    async with FeishuSim(clock=clock) as sim:
        sim.faults.add(Fault("endpoint", "bad_gateway", count=4))
        listener = Listener(sim, clock)
        times: list[float] = []
        for number in range(1, 6):
            await clock.until(lambda: sim.counts.get("endpoint", 0) >= number)  # noqa: B023 - awaited at once
            times.append(clock.monotonic())
            if number < 5:
                await clock.until(lambda: listener.socket.state != "connecting")
                while clock.next_in is not None and sim.counts["endpoint"] == number:
                    await clock.advance(min(clock.next_in, 1.0) or 0.1)
        await clock.until(lambda: listener.socket.state == "connected")
        pauses = [later - before for before, later in itertools.pairwise(times)]
        assert pauses[0] <= 3.0
        assert pauses[-1] >= 10.0
        await listener.close()


# The webhook


class Door:
    """The gateway's webhook, reached without sockets."""

    def __init__(self, rig: FeishuRig) -> None:
        transport = httpx2.ASGITransport(Starlette(routes=rig.channel.routes()))
        self.client = httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None)
        self.url = "http://gateway.example/webhooks/feishu/main"
        self.statuses: list[int] = []
        self.client.event_hooks["response"] = [self._note]
        rig.sim.events.detach(rig.sim.app_id, rig._event)
        rig.sim.webhooks._client = self.client

    async def _note(self, response: httpx2.Response) -> None:
        self.statuses.append(response.status_code)


@contextlib.asynccontextmanager
async def by_webhook(folder: Path, clock: FakeClock, *, key: str = "", token: str = "") -> AsyncIterator[Any]:
    app = {"mode": "webhook", "encrypt_key": key, "verification_token": token}
    async with feishu(folder, saying("Hello."), clock=clock, app=app) as rig:
        theirs = rig.sim.tenant.apps[rig.sim.app_id]
        theirs.encrypt_key, theirs.verification_token = key, token
        door = Door(rig)
        await rig.channel.start(rig.gateway)
        try:
            yield rig, door
        finally:
            await rig.sim.webhooks.close()


@pytest.mark.parametrize(("key", "token"), [("", "vt"), ("ek", "vt"), ("ek", "")])
async def test_events_come_as_posts(tmp_path: Path, clock: FakeClock, key: str, token: str) -> None:
    async with by_webhook(tmp_path, clock, key=key, token=token) as (rig, door):
        assert await rig.sim.webhooks.connect(rig.sim.app_id, door.url)
        rig.say("hi")
        await clock.until(lambda: rig.sim.events.deliveries[0].state == "acked")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert "Hello." in rig.card.text
        assert set(door.statuses) == {200}


async def test_posts_of_somebody_else_are_refused(tmp_path: Path, clock: FakeClock) -> None:
    async with by_webhook(tmp_path, clock, key="ek", token="vt") as (rig, door):
        theirs = rig.sim.tenant.apps[rig.sim.app_id]
        assert await rig.sim.webhooks.connect(rig.sim.app_id, door.url)
        for name, wrong in (("verification_token", "other"), ("encrypt_key", "other"), ("encrypt_key", "")):
            right = getattr(theirs, name)
            setattr(theirs, name, wrong)
            before = len(door.statuses)
            rig.say("hi")
            await clock.until(lambda: len(door.statuses) > before)  # noqa: B023 - awaited at once
            setattr(theirs, name, right)
            assert door.statuses[-1] == 403
        said = (await door.client.post(door.url, content=b"{}")).json()["error"]
        assert "not encrypted" in said
        assert "ek" not in said.replace("encrypt_key", "")
        rig.sim.events.close()
        assert rig.view().messages
        assert rig.answers() == []


async def test_a_post_that_could_not_be_taken_comes_again(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with by_webhook(tmp_path, clock, token="vt") as (rig, door):
        assert await rig.sim.webhooks.connect(rig.sim.app_id, door.url)
        monkeypatch.setattr(rig.channel, "_listening", False)
        rig.say("hi")
        await clock.until(lambda: door.statuses[-1] == 503)
        monkeypatch.setattr(rig.channel, "_listening", True)
        [event] = rig.sim.events.deliveries
        await clock.advance(16.0)
        await clock.until(lambda: event.state == "acked")
        await rig.settled()
        assert len(rig.answers()) == 1


async def test_a_post_that_is_too_large_is_refused(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.channels.feishu.channel.BODY_BYTES", 100)
    async with by_webhook(tmp_path, clock, token="vt") as (_, door):
        assert (await door.client.post(door.url, content=b"x" * 101)).status_code == 413
