"""How events come: the long connection over real sockets, and posts to the webhook."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette

from tests.feishu_rig import FeishuRig, feishu, saying
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
        await self.held.wait()
        self.heard.append(event["header"]["event_id"])
        return self.answer

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
