"""A gateway on a simulated WeCom: real sockets on this machine, one loop and one clock of the test's.

Time stands still while anything can happen without it: threads that work for the loop are waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.feishu_rig import Told, saying
from tests.gateways import config_for
from turnwire import Turn
from turnwire.channels.wecom.channel import WecomChannel
from turnwire.channels.wecom.settings import Bot
from turnwire.channels.wecom.sockets import Socket, opener
from turnwire.delivery.couriers import Couriers
from turnwire.delivery.pacing import LocalPacer
from turnwire.delivery.receipts import FileReceipts
from turnwire.gateway import Gateway
from turnwire.sim.wecom import Callback, ChatView, MessageView, Switches, WecomSim
from turnwire.store import StoreUnavailable
from turnwire.store.queries.deliveries import list_deliveries
from turnwire.store.queries.rows import DeliveryRow
from turnwire.testing import FakeClock
from turnwire.turns.pump import Agent

__all__ = ["NOT_ALLOWED", "Heard", "Line", "Told", "WecomRig", "away", "saying", "texts", "wecom"]

STEPS = 4000
QUIET = 3
NOT_ALLOWED = "You may not use this bot here; ask who runs it."


class Threads:
    """Counts what threads do for the loop."""

    def __init__(self) -> None:
        self.busy = 0
        self._loop = asyncio.get_running_loop()
        self._run = self._loop.run_in_executor

    def watch(self) -> None:
        self._loop.run_in_executor = self._counted  # type: ignore[method-assign, assignment]

    def leave(self) -> None:
        self._loop.run_in_executor = self._run  # type: ignore[method-assign]

    def _counted(self, executor: Any, job: Any, *args: Any) -> asyncio.Future[Any]:
        self.busy += 1
        running = self._run(executor, job, *args)
        running.add_done_callback(self._done)
        return running

    def _done(self, _: asyncio.Future[Any]) -> None:
        self.busy -= 1


class Line:
    """The sockets of one process. `dead` makes every frame of it the last one: nothing goes out and nothing comes.

    Attributes:
        frames: how many frames of business were sent.
        dies_before, dies_after: the process dies before, or after, its n-th frame from 0 is sent.
    """

    def __init__(self, sim: WecomSim) -> None:
        self._opener = opener(sim.ws_url)
        self.dead = False
        self.frames = 0
        self.dies_before: int | None = None
        self.dies_after: int | None = None
        self._sockets: list[Socket] = []

    async def open(self) -> Socket:
        """See `sockets.Opener`."""
        if self.dead:
            await _nothing()
        socket = await self._opener()
        self._sockets.append(socket)
        return _Watched(self, socket)

    def cut(self) -> None:
        """The process is gone, and its sockets with it."""
        self.dead = True
        for socket in self._sockets:
            socket.abort()


class _Watched:
    def __init__(self, line: Line, socket: Socket) -> None:
        self._line = line
        self._socket = socket

    async def send(self, text: str) -> None:
        line = self._line
        number = None
        if json.loads(text)["cmd"] not in ("ping", "aibot_subscribe"):
            number, line.frames = line.frames, line.frames + 1
        if line.dead or (number is not None and number == line.dies_before):
            line.dead = True
            await _nothing()
        await self._socket.send(text)
        if number is not None and number == line.dies_after:
            line.dead = True
            await _nothing()

    async def recv(self) -> str | bytes:
        said = None if self._line.dead else await self._socket.recv()
        if said is None or self._line.dead:
            await _nothing()
        assert said is not None
        return said

    async def close(self) -> None:
        if self._line.dead:
            self._socket.abort()
            return
        await self._socket.close()

    def abort(self) -> None:
        self._socket.abort()


async def _nothing() -> None:
    await asyncio.get_running_loop().create_future()


class Heard:
    """An agent that keeps what it is asked, and answers with it."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    async def agent(self, turn: Turn) -> AsyncIterator[str]:
        """To be given to the gateway."""
        self.turns.append(turn)
        yield f"Heard: {turn.text}"

    @property
    def texts(self) -> list[str]:
        """What it was asked."""
        return [turn.text for turn in self.turns]


class WecomRig:
    """One gateway, one bot, one simulated platform."""

    def __init__(self, sim: WecomSim, gateway: Gateway, clock: FakeClock, bot: Bot, threads: Threads) -> None:
        self.sim = sim
        self.gateway = gateway
        self.clock = clock
        self.bot = bot
        self.threads = threads
        self.couriers: Couriers | None = None
        self.line: Line
        self.channel: WecomChannel
        self._processes = 0

    # People

    def say(self, text: str, chat: str = "alice", **more: Any) -> Callback:
        """Alice writes; what the bot is told."""
        told = self.sim.people.say(chat, text, **more)
        assert told is not None
        return told

    def tell(self, body: dict[str, Any], chat: str = "") -> Callback:
        """The bot is told exactly this, beside what every message has."""
        where = self.sim.platform.chat(chat or self.sim.single())
        told = self.sim.people._callback(where, self.sim.bot_id, where.members[0], "message", "")
        told.body |= body
        where.wrote.add(self.sim.bot_id)
        self.sim.sockets.deliver(told)
        return told

    def view(self, chat: str = "alice") -> ChatView:
        """What everybody in the chat sees now."""
        return self.sim.view(chat)

    def answers(self, chat: str = "alice") -> list[MessageView]:
        """What the bot has said."""
        return self.view(chat).from_bots

    def shows(self, text: str, chat: str = "alice") -> bool:
        """Whether the bot's words in the chat hold that text."""
        return any(text in message.text for message in self.answers(chat))

    # Time

    async def calm(self) -> None:
        """Lets everything happen that needs no time: sockets and threads are waited for."""
        quiet = 0
        while quiet < QUIET:
            await self.clock.settle()
            if self.threads.busy:
                quiet = 0
                await self.clock.until(lambda: not self.threads.busy)
            else:
                quiet += 1

    async def pass_time(self, seconds: float, step: float = 0.25) -> None:
        """Lets so much time pass."""
        until = self.clock.monotonic() + seconds
        await self.calm()
        while (left := until - self.clock.monotonic()) > 1e-9:
            await self.clock.advance(min(stride(self.clock, step), left))
            await self.calm()

    async def until(self, true: Callable[[], bool], step: float = 0.25) -> None:
        """Lets time pass until that holds."""
        for _ in range(STEPS):
            await self.calm()
            if true():
                return
            if self.couriers is not None:
                self.couriers.poke()
            await self.clock.advance(stride(self.clock, step))
        raise AssertionError(f"this never came: {self.view()}, {self.sim.calls[-10:]}")

    async def settled(self, count: int = 1, step: float = 0.25) -> list[DeliveryRow]:
        """The newest `count` deliveries, all settled, however often the process dies on the way."""
        rows: list[DeliveryRow] = []
        for _ in range(STEPS):
            await self.calm()
            rows = await self.gateway.db.read(list_deliveries, limit=100)
            if len(rows) >= count and all(row.status == "settled" for row in rows):
                return rows[:count]
            if self.line.dead:
                await self.restart()
            elif self.couriers is not None:
                self.couriers.poke()
            await self.clock.advance(stride(self.clock, step))
        raise AssertionError(f"not settled: {rows}, {self.sim.calls[-10:]}, {self.view()}")

    async def unsettled(self) -> list[DeliveryRow]:
        """The deliveries that are not settled, newest first."""
        return await self.gateway.db.read(list_deliveries, limit=100, unsettled=True)

    # Processes

    async def start(self) -> None:
        """The bot's channel and its couriers as a process of their own; returns once the bot is connected."""
        gateway = self.gateway
        self._processes += 1
        self.line = Line(self.sim)
        self.channel = WecomChannel(self.bot, clock=self.clock, pacer=LocalPacer(self.clock), opened=self.line.open)
        gateway.channels[self.channel.name] = self.channel
        await self.channel.start(gateway)
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
        gateway.couriers, old = self.couriers, gateway.couriers
        await old.close()
        self.couriers.start()
        await self.until(lambda: self.channel.connection.state == "ready")

    async def kill(self) -> None:
        """Ends the channel and its couriers without a chance to say or store anything."""
        self.line.cut()
        couriers, self.couriers = self.couriers, None
        if couriers is not None:
            tasks = {task for _, task in couriers._driven.values()} | ({couriers._task} if couriers._task else set())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self.channel.connection._inbox._workers:
            worker.cancel()
        await self.over(self.channel.close())

    async def restart(self) -> None:
        """The next process, after the one before was killed."""
        await self.kill()
        await self.start()

    async def over(self, work: Any) -> Any:
        """What something comes to, while time passes."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await self.calm()
            if not task.done():
                await self.clock.advance(stride(self.clock, 0.25))
        return task.result()


@contextlib.asynccontextmanager
async def wecom(
    folder: Path,
    agent: Agent,
    *,
    switches: Switches | None = None,
    clock: FakeClock | None = None,
    bot: dict[str, Any] | None = None,
    **overrides: Any,
) -> AsyncIterator[WecomRig]:
    """A gateway whose agent answers on a simulated WeCom; `bot` changes settings of the bot."""
    clock = clock or FakeClock(rounds=30)
    overrides.setdefault("turns__lease_s", 1_000_000)
    overrides.setdefault("turns__drain_s", 0)
    config = config_for(f"sqlite:///{folder}/wecom.db", folder, **overrides)
    threads = Threads()
    threads.watch()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(threads.leave)
        sim = await stack.enter_async_context(WecomSim(clock=clock, switches=switches or Switches(interactions=0)))
        about = {"name": "main", "bot_id": sim.bot_id, "secret": sim.secret, "url": sim.ws_url}
        settings = Bot(**{**about, "language": "en", "called": "Sim bot", **(bot or {})})
        gateway = Gateway(config, agent, clock=clock, flush_s=0.0, channels=[])
        await gateway.start()
        rig = WecomRig(sim, gateway, clock, settings, threads)
        try:
            gateway.supervisor.prepare = gateway._prepare
            gateway.supervisor.receipts = FileReceipts(gateway.db, gateway.hub, clock).wait
            await rig.start()
            yield rig
        finally:
            await rig.over(gateway.stop())


def stride(clock: FakeClock, least: float) -> float:
    """How far to go before threads are waited for again: to the next timer, but `least` seconds and at most one."""
    return max(least, min(clock.next_in or least, 1.0))


def texts(rig: WecomRig, chat: str = "alice") -> list[str]:
    """What the bot has said, finished bubbles and messages alike."""
    assert not [each for each in rig.answers(chat) if each.streaming]
    return [each.text for each in rig.answers(chat)]


async def away(*_: Any, **__: Any) -> Any:
    raise StoreUnavailable("the store is away")
