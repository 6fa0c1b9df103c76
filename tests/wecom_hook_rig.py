"""Gateways on a simulated WeCom in webhook mode: without sockets, on one loop and one clock of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
from starlette.applications import Starlette

from tests.gateways import config_for
from tests.wecom_rig import Threads
from turnwire.channels.wecom.channel import WecomChannel
from turnwire.channels.wecom.settings import Bot
from turnwire.delivery.couriers import Couriers
from turnwire.delivery.pacing import LocalPacer
from turnwire.gateway import Gateway
from turnwire.sim._http import Request
from turnwire.sim._serving import Hang, Reset
from turnwire.sim.wecom import Callback, MessageView, Switches, WecomSim
from turnwire.store.queries.deliveries import list_deliveries
from turnwire.store.queries.rows import DeliveryRow
from turnwire.testing import FakeClock
from turnwire.turns.pump import Agent

KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
TOKEN = "tok"
HOST = "https://gateway.example"
PATH = "/webhooks/wecom/main"
LINKED = {"public_url": HOST, "link_key": "a key of links"}
LINK = re.compile(r"https://\S+")
STEPS = 4000
QUIET = 3


class Door(httpx2.AsyncBaseTransport):
    """Where the platform's posts arrive: at the processes that live, one after the other.

    Attributes:
        lost: how many of the next answers are lost on their way.
        cut: how many were lost.
        served: which process answered each post.
    """

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self.lost = 0
        self.cut = 0
        self.served: list[Process] = []
        self.statuses: list[int] = []
        self._turn = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        living = [process for process in self.processes if not process.dead]
        if not living:
            self.cut += 1
            raise httpx2.ConnectError("nobody listens")
        process = living[self._turn % len(living)]
        self._turn += 1
        self.served.append(process)
        response = await process.app.handle_async_request(request)
        if process.dead or self.lost:
            self.lost = max(self.lost - 1, 0)
            self.cut += 1
            raise httpx2.ReadError("reset")
        self.statuses.append(response.status_code)
        return response


class Outwards(httpx2.AsyncBaseTransport):
    """Hands posts to the simulator as if they came over the network."""

    def __init__(self, sim: WecomSim) -> None:
        self._sim = sim

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        url = request.url
        asked = Request(
            method=request.method, target=url.raw_path.decode(), path=url.path, query=dict(url.params), headers={}
        )
        try:
            answer = await self._sim._respond(asked, request.content, 1)
        except Hang:
            await asyncio.get_running_loop().create_future()
        except Reset:
            raise httpx2.ReadError("reset") from None
        return httpx2.Response(answer.status, headers=dict(answer.headers), content=answer.body, request=request)


class Process:
    """One process: its channel, and its couriers if it has any."""

    def __init__(self, rig: HookRig, number: int) -> None:
        self.dead = False
        self.channel = WecomChannel(rig.bot, clock=rig.clock, pacer=LocalPacer(rig.clock), transport=Outwards(rig.sim))
        self.app = httpx2.ASGITransport(Starlette(routes=self.channel.routes()))
        gateway = rig.gateway
        self.couriers = Couriers(
            {self.channel.name: self.channel},
            process=f"p{number}",
            db=gateway.db,
            hub=gateway.hub,
            files=gateway.files,
            clock=rig.clock,
            lease_s=1_000_000,
            alone=True,
            look=gateway.look,
            changed=gateway._tell,
        )

    async def kill(self) -> None:
        """Ends it without a chance to say or store anything."""
        self.dead = True
        posts = self.channel._posts
        assert posts is not None
        tasks = {task for _, task in self.couriers._driven.values()} | posts._tasks
        tasks |= {self.couriers._task} if self.couriers._task else set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class HookRig:
    """One gateway, one bot in webhook mode, one simulated platform."""

    def __init__(self, sim: WecomSim, gateway: Gateway, clock: FakeClock, bot: Bot, threads: Threads) -> None:
        self.sim = sim
        self.gateway = gateway
        self.clock = clock
        self.bot = bot
        self.threads = threads
        self.door = Door()
        self.client = httpx2.AsyncClient(transport=self.door, trust_env=False, timeout=None)
        self._couriers: Couriers | None = None

    @property
    def unserved(self) -> int:
        """How many posts got no answer, because it was lost or nobody lived."""
        return self.door.cut

    @property
    def process(self) -> Process:
        """The newest one."""
        return self.door.processes[-1]

    # People

    def say(self, text: str, chat: str = "alice", **more: Any) -> Callback:
        """Somebody writes; what the bot is told."""
        told = self.sim.people.say(chat, text, **more)
        assert told is not None
        return told

    def answers(self, chat: str = "alice") -> list[MessageView]:
        """What the bot has said."""
        return self.sim.view(chat).from_bots

    def texts(self, chat: str = "alice") -> list[str]:
        """The words of what it has said."""
        return [message.text for message in self.answers(chat)]

    @property
    def states(self) -> list[str]:
        """How its messages to Alice look."""
        return [message.state for message in self.answers()]

    def shows(self, text: str, chat: str = "alice") -> bool:
        """Whether the bot's words hold that text."""
        return any(text in one for one in self.texts(chat))

    async def get(self, url: str) -> httpx2.Response:
        """What a person finds behind a link."""
        task = asyncio.ensure_future(self.client.get(url))
        await self.over(task)
        return task.result()

    # Time

    async def calm(self) -> None:
        """Lets everything happen that needs no time."""
        quiet = 0
        while quiet < QUIET:
            await self.clock.settle()
            quiet = 0 if self.threads.busy else quiet + 1
            await self.clock.until(lambda: not self.threads.busy)

    async def pass_time(self, seconds: float) -> None:
        """Lets so much time pass: in small steps while a bubble is asked for, for each answer has its seconds."""
        until = self.clock.monotonic() + seconds
        await self.calm()
        while (left := until - self.clock.monotonic()) > 1e-9:
            asked = any(message.streaming for message in self.answers())
            await self.clock.advance(min(1.0 if asked else 0.5 if seconds <= 60 else 20.0, left))
            await self.calm()

    async def until(self, true: Callable[[], bool], step: float = 0.5) -> None:
        """Lets time pass until that holds."""
        for _ in range(STEPS):
            await self.calm()
            if true():
                return
            await self.clock.advance(step)
        raise AssertionError(f"this never came: {self.sim.view()}, {self.sim.calls[-10:]}")

    async def over(self, work: asyncio.Future[Any]) -> None:
        """Lets time pass until that has ended."""
        while not work.done():
            await self.calm()
            if not work.done():
                await self.clock.advance(0.25)

    async def rows(self) -> list[DeliveryRow]:
        """The deliveries, the newest first."""
        return await self.gateway.db.read(list_deliveries, limit=100)

    async def settled(self, count: int = 1, step: float = 0.5) -> list[DeliveryRow]:
        """The newest `count` deliveries once nothing more is done about any."""
        for _ in range(STEPS):
            await self.calm()
            rows = await self.rows()
            if len(rows) >= count and all(row.status == "settled" for row in rows):
                return rows[:count]
            if self._couriers is not None:
                self._couriers.poke()
            await self.clock.advance(step)
        raise AssertionError(f"not settled: {await self.rows()}, {self.sim.view()}, {self.sim.webhooks.problems}")

    # Processes

    async def start(self, *, drives: bool = True) -> Process:
        """One more process; `drives`: with couriers."""
        process = Process(self, len(self.door.processes) + 1)
        self.door.processes.append(process)
        self.gateway.channels[process.channel.name] = process.channel
        await process.channel.start(self.gateway)
        if drives:
            self._couriers = self.gateway.couriers = process.couriers
            process.couriers.start()
        return process

    async def close(self) -> None:
        """Ends every process."""
        for process in self.door.processes:
            if not process.dead:
                await process.couriers.close()
            await process.channel.close()
        await self.client.aclose()


@contextlib.asynccontextmanager
async def hooked(
    folder: Path,
    agent: Agent,
    *,
    switches: Switches | None = None,
    clock: FakeClock | None = None,
    bot: dict[str, Any] | None = None,
    **overrides: Any,
) -> AsyncIterator[HookRig]:
    """A gateway whose agent answers on a simulated WeCom that posts to it; `bot` changes settings of the bot."""
    clock = clock or FakeClock(rounds=30)
    overrides.setdefault("turns__lease_s", 1_000_000)
    overrides.setdefault("turns__drain_s", 0)
    overrides.setdefault("turns__idle_timeout_s", 1_000_000)
    config = config_for(f"sqlite:///{folder}/hook.db", folder, **overrides)
    threads = Threads()
    threads.watch()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(threads.leave)
        sim = await stack.enter_async_context(WecomSim(clock=clock, switches=switches or Switches()))
        about = {"name": "main", "bot_id": sim.bot_id, "mode": "webhook", "token": TOKEN, "aes_key": KEY}
        settings = Bot(**{**about, "language": "en", "called": "Sim bot", **(bot or {})})
        gateway = Gateway(config, agent, clock=clock, flush_s=0.0, channels=[])
        await gateway.start()
        rig = HookRig(sim, gateway, clock, settings, threads)
        sim.webhooks._client = rig.client
        try:
            gateway.supervisor.prepare = gateway._prepare
            await rig.start()
            connecting = asyncio.ensure_future(sim.use_webhook(HOST + PATH, TOKEN, KEY))
            await rig.over(connecting)
            assert connecting.result()
            yield rig
        finally:
            await rig.over(asyncio.ensure_future(sim.webhooks.close()))
            await rig.over(asyncio.ensure_future(rig.close()))
            await rig.over(asyncio.ensure_future(gateway.stop()))


def right(rig: HookRig) -> None:
    """The platform took everything that it was answered."""
    assert set(rig.sim.webhooks.problems) <= {"post: no answer in time", "poll: no answer in time"}
    assert len(rig.sim.webhooks.problems) <= rig.unserved
    assert set(rig.door.statuses) <= {200, 403}
