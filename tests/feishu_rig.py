"""A gateway on a simulated Feishu tenant, without sockets: all on one loop and one clock of the test's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2

from tests.gateways import config_for
from turnwire import Turn
from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.settings import App
from turnwire.clock import sleep
from turnwire.delivery.couriers import Couriers
from turnwire.gateway import Gateway
from turnwire.sim._feishu_events import Delivery
from turnwire.sim._http import Request
from turnwire.sim._serving import Hang, Reset
from turnwire.sim.feishu import ChatView, FeishuSim, MessageView, Switches
from turnwire.store.queries.deliveries import list_deliveries
from turnwire.store.queries.rows import DeliveryRow
from turnwire.testing import FakeClock
from turnwire.turns.pump import Agent

STEPS = 4000


class Straight(httpx2.AsyncBaseTransport):
    """Hands requests to the simulator as if they came over the network.

    `dead` makes every call of this process the last one: nothing goes out and nothing comes back.
    """

    def __init__(self, sim: FeishuSim) -> None:
        self.sim = sim
        self.dead = False
        self.calls = 0
        # The process dies before, or after, its n-th call from 0 is applied.
        self.dies_before: int | None = None
        self.dies_after: int | None = None
        self.waiting = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        number, self.calls = self.calls, self.calls + 1
        if self.dead or number == self.dies_before:
            self.dead = True
            await self._nothing()
        split = httpx2.URL(request.url)
        asked = Request(
            method=request.method,
            target=split.raw_path.decode(),
            path=split.path,
            query=dict(split.params),
            headers={name.lower(): value for name, value in request.headers.items()},
        )
        try:
            answer = await self.sim._respond(asked, request.content, 1)
        except Hang:
            await self._nothing()
        except Reset:
            raise httpx2.ReadError("reset") from None
        if number == self.dies_after:
            self.dead = True
            await self._nothing()
        headers = {"content-type": answer.media_type, **answer.headers}
        return httpx2.Response(answer.status, headers=headers, content=answer.body, request=request)

    async def _nothing(self) -> Any:
        self.waiting += 1
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.waiting -= 1


class FeishuRig:
    """One gateway, one app, one tenant."""

    def __init__(self, sim: FeishuSim, gateway: Gateway, clock: FakeClock, app: App) -> None:
        self.sim = sim
        self.gateway = gateway
        self.clock = clock
        self.app = app
        self.transport = Straight(sim)
        self.channel = FeishuChannel(app, clock=clock, transport=self.transport)
        self.couriers: Couriers | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._processes = 0
        sim.events.attach(sim.app_id, self._event)

    # People

    def say(self, text: str, chat: str = "", **more: Any) -> str:
        """Alice writes; returns the message's id."""
        return self.sim.people.say(chat or self.chat, text, **more)

    @property
    def chat(self) -> str:
        """Alice's own chat with the bot."""
        return self.sim.p2p()

    def view(self, chat: str = "") -> ChatView:
        """What everybody in the chat sees now."""
        return self.sim.view(chat or self.chat)

    def answers(self, chat: str = "") -> list[MessageView]:
        """What the bot has said that is still to be seen."""
        return [message for message in self.view(chat).messages if message.from_bot and not message.gone]

    def shows(self, text: str, chat: str = "") -> bool:
        """Whether the bot's words in the chat hold that text."""
        return any(text in message.text for message in self.answers(chat))

    @property
    def card(self) -> MessageView:
        """The only card that the bot has sent."""
        [card] = [message for message in self.answers() if message.card is not None]
        return card

    # Time

    async def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Lets so much time pass; nothing that can happen without time waits for it."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            await self.clock.advance(min(step, until - self.clock.monotonic()))

    async def until(self, true: Callable[[], bool], step: float = 0.25) -> None:
        """Lets time pass until that holds."""
        for _ in range(STEPS):
            if true():
                return
            if self.couriers is not None:
                self.couriers.poke()
            await self.clock.advance(step)
        raise AssertionError(f"this never came: {self.view()}")

    async def settled(self, count: int = 1, step: float = 0.25) -> list[DeliveryRow]:
        """The newest `count` deliveries, all settled, however often the process dies on the way."""
        for _ in range(STEPS):
            rows = await self.gateway.db.read(list_deliveries, limit=100)
            if len(rows) >= count and all(row.status == "settled" for row in rows):
                return rows[:count]
            if self.transport.dead:
                await self.restart()
            elif self.couriers is not None:
                self.couriers.poke()
            await self.clock.advance(step)
        raise AssertionError(f"not settled: {rows}, {self.sim.calls[-10:]}, {self.view()}")

    # Processes

    def start(self) -> None:
        """Couriers as a process of their own."""
        gateway = self.gateway
        self._processes += 1
        self.couriers = Couriers(
            {self.channel.name: self.channel},
            process=f"p{self._processes}",
            db=gateway.db,
            hub=gateway.hub,
            files=gateway.files,
            clock=self.clock,
            lease_s=1_000_000,
            alone=True,
            look=gateway.look,
            changed=gateway._tell,
        )
        self.couriers.start()

    async def kill(self) -> None:
        """Ends the couriers without a chance to say or store anything."""
        couriers, self.couriers = self.couriers, None
        if couriers is None:
            return
        tasks = {task for _, task in couriers._driven.values()} | ({couriers._task} if couriers._task else set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def restart(self) -> None:
        """The next process, after the one before was killed."""
        await self.kill()
        await self.channel.close()
        self.transport = Straight(self.sim)
        self.channel = FeishuChannel(self.app, clock=self.clock, transport=self.transport)
        self._listen()
        self.start()

    def _listen(self) -> None:
        self.channel._reception.gateway = self.channel._resources.gateway = self.gateway
        self.gateway.channels[self.channel.name] = self.channel

    def _event(self, delivery: Delivery) -> None:
        task = asyncio.ensure_future(self._take(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, delivery: Delivery) -> None:
        try:
            answer = await self.channel.take(delivery.body)
        except Exception:
            self.sim.events.ack(delivery, ok=False)
        else:
            self.sim.events.ack(delivery, ok=True, answer=answer)

    async def close(self) -> None:
        """Ends everything."""
        self.sim.events.close()
        for task in list(self._tasks):
            task.cancel()
        await self.kill()
        await self.channel.close()


@contextlib.asynccontextmanager
async def feishu(
    folder: Path,
    agent: Agent,
    *,
    switches: Switches | None = None,
    clock: FakeClock | None = None,
    app: dict[str, Any] | None = None,
    **overrides: Any,
) -> AsyncIterator[FeishuRig]:
    """A gateway whose agent answers on a simulated tenant; `app` changes settings of the app."""
    clock = clock or FakeClock(rounds=30)
    sim = FeishuSim(clock=clock, switches=switches)
    settings = App(
        **{
            "name": "main",
            "app_id": sim.app_id,
            "app_secret": sim.app_secret,
            "base_url": "http://127.0.0.1:1",
            "language": "en",
            **(app or {}),
        }
    )
    overrides.setdefault("turns__lease_s", 1_000_000)
    overrides.setdefault("turns__drain_s", 0)
    config = config_for(f"sqlite:///{folder}/feishu.db", folder, **overrides)
    gateway = Gateway(config, agent, clock=clock, flush_s=0.0, channels=[])
    async with gateway:
        rig = FeishuRig(sim, gateway, clock, settings)
        rig._listen()
        gateway.supervisor.prepare = gateway._prepare
        gateway.supervisor.receipts = _receipts(gateway)
        rig.start()
        try:
            yield rig
        finally:
            await rig.close()


class Told:
    """An agent that says what the test says, when it says it."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[Any] = asyncio.Queue()

    def say(self, *pieces: Any) -> None:
        """The next events."""
        for piece in pieces:
            self._pieces.put_nowait(piece)

    def end(self) -> None:
        """The agent has nothing more to say in this turn."""
        self._pieces.put_nowait(None)

    async def agent(self, turn: Turn) -> AsyncIterator[Any]:
        """To be given to the gateway."""
        while (piece := await self._pieces.get()) is not None:
            yield piece


def _receipts(gateway: Gateway) -> Any:
    from turnwire.delivery.receipts import FileReceipts

    return FileReceipts(gateway.db, gateway.hub, gateway.clock).wait


def saying(*said: Any, clock: FakeClock | None = None) -> Agent:
    """An agent that says this; a number is a pause in seconds, a function gets the turn."""

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        for one in said:
            if isinstance(one, (int, float)) and clock is not None:
                await sleep(clock, one)
            elif callable(one):
                await one(turn)
            else:
                yield one

    return agent
