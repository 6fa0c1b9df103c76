"""Several gateways on one store and one simulated Feishu tenant, each a process of its own as far as a loop can hold
one: with its own connections, and with tasks that can all be ended at once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, update

from tests.feishu_rig import Straight
from tests.gateways import config_for
from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.settings import App
from turnwire.clock import SystemClock
from turnwire.gateway import Gateway
from turnwire.sim.feishu import ChatView, FeishuSim, MessageView
from turnwire.store.queries.deliveries import list_deliveries
from turnwire.store.queries.rows import DeliveryRow
from turnwire.store.schema import deliveries, turns
from turnwire.turns.pump import Agent

LIMIT_S = 30.0
_process: ContextVar[str] = ContextVar("process", default="")


class Processes:
    """Knows which task belongs to which process: whatever a process begins belongs to it."""

    def __init__(self) -> None:
        self.tasks: dict[str, set[asyncio.Task[Any]]] = {}

    def make(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        """The loop's task factory."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
        own = self.tasks.setdefault(_process.get(), set())
        own.add(task)
        task.add_done_callback(own.discard)
        return task


class Node:
    """One process."""

    def __init__(self, name: str, sim: FeishuSim, processes: Processes, gateway: Gateway, transport: Straight) -> None:
        self.name = name
        self.sim = sim
        self.gateway = gateway
        self.transport = transport
        self.dead = False
        self._processes = processes

    async def begin(self) -> None:
        """The process starts; it is connected, if it connects at all."""

        async def begin() -> None:
            _process.set(self.name)
            await self.gateway.start()

        before = self.sim.events.connections(self.sim.app_id)
        await asyncio.get_running_loop().create_task(begin())
        [channel] = self.gateway.channels.values()
        if isinstance(channel, FeishuChannel) and channel.app.mode == "websocket":
            await until(lambda: self.sim.events.connections(self.sim.app_id) > before)

    async def leave_deliveries(self) -> None:
        """What shows turns in this process ends without giving back what it shows; everything else goes on."""
        couriers = self.gateway.couriers
        tasks = {task for _, task in couriers._driven.values()} | ({couriers._task} if couriers._task else set())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def die(self) -> None:
        """The process ends, without a chance to say or store anything."""
        self.dead = self.transport.dead = True
        db: Any = self.gateway.db
        db.run = db.read = db.append = _never
        while alive := {task for task in self._processes.tasks.get(self.name, ()) if not task.done()}:
            for task in alive:
                task.cancel()
            await asyncio.sleep(0)
        await db.close()

    async def end(self) -> None:
        """The process stops, at once."""
        if not self.dead:
            hurry = asyncio.Event()
            hurry.set()
            await self.gateway.stop(hurry=hurry)


class Cluster:
    """The processes, oldest first, and what people see.

    Attributes:
        heard_by: the number of the process that hears the next events; None for each in turn.
    """

    def __init__(self, sim: FeishuSim, make: Callable[[int], Awaitable[Node]]) -> None:
        self.sim = sim
        self.nodes: list[Node] = []
        self._make = make
        self.heard_by: int | None = None
        self._turn = itertools.count()
        events: Any = sim.events
        events._random = self

    async def join(self) -> Node:
        """One more process starts."""
        self.nodes.append(await self._make(len(self.nodes)))
        return self.nodes[-1]

    def choice(self, senders: Sequence[Any]) -> Any:
        """Which connection gets an event; the simulator asks."""
        return senders[(next(self._turn) if self.heard_by is None else self.heard_by) % len(senders)]

    def view(self, chat: str = "") -> ChatView:
        """What everybody in the chat sees; Alice's own by default."""
        return self.sim.view(chat or self.sim.p2p())

    def answers(self, chat: str = "") -> list[MessageView]:
        """What the bot has said that is still to be seen."""
        return self.view(chat).from_bots

    @property
    def card(self) -> MessageView:
        """The only card that Alice sees in her own chat."""
        [card] = [message for message in self.answers() if message.card is not None]
        return card

    async def seen(self, true: Callable[[], bool]) -> None:
        """Returns once that holds for what people see."""
        try:
            async with asyncio.timeout(LIMIT_S):
                await self.sim.until(true)
        except TimeoutError:
            raise AssertionError(f"this was never seen: {self.view()}, {self.sim.calls[-10:]}") from None

    async def lapse(self, node: Node) -> None:
        """The leases run out of what a process showed and, if it is dead, of what it ran; nobody waits for that."""
        alive = next(each for each in self.nodes if not each.dead)
        await alive.gateway.db.run(_lapse, node.gateway.process, [deliveries, turns] if node.dead else [deliveries])

    async def settled(self, count: int = 1) -> list[DeliveryRow]:
        """All deliveries, once there are so many and all are settled."""
        # Asking the store all the time would slow everybody down.
        await self.seen(lambda: self._over(count))
        alive = next(node for node in self.nodes if not node.dead)
        rows: list[DeliveryRow] = []
        try:
            async with asyncio.timeout(LIMIT_S):
                while len(rows) < count or any(row.status != "settled" for row in rows):
                    rows = await alive.gateway.db.read(list_deliveries, limit=100)
        except TimeoutError:
            raise AssertionError(f"not settled: {rows}, {self.view()}, {self.sim.calls[-10:]}") from None
        return rows

    def _over(self, count: int) -> bool:
        """Whether people see so many cards, and none that is being written."""
        said = [message for chat in self.sim.tenant.chats for message in self.sim.view(chat).from_bots]
        cards = [message for message in said if message.card is not None]
        return len(cards) >= count and not any(card.streaming for card in cards)


async def until(true: Callable[[], bool]) -> None:
    """Returns once that holds."""
    async with asyncio.timeout(LIMIT_S):
        while not true():
            await asyncio.sleep(0)


def _lapse(conn: Connection, owner: str, tables: Sequence[Table]) -> None:
    for table in tables:
        conn.execute(update(table).where(table.c.owner == owner).values(lease_until=0.0))


async def _never(*_: Any, **__: Any) -> Any:
    await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def cluster(
    url: str, folder: Path, agent: Agent, *, mode: Any = "websocket", count: int = 2, **overrides: Any
) -> AsyncIterator[Cluster]:
    """So many processes with the same app, over the PostgreSQL store at `url`."""
    clock, processes = SystemClock(), Processes()
    loop = asyncio.get_running_loop()
    overrides.setdefault("turns__lease_s", 6)
    overrides.setdefault("turns__drain_s", 0)
    async with FeishuSim(clock=clock) as sim, contextlib.AsyncExitStack() as stack:
        loop.set_task_factory(processes.make)
        stack.callback(loop.set_task_factory, None)
        token = sim.tenant.apps[sim.app_id].verification_token
        app = App(name="main", app_id=sim.app_id, app_secret=sim.app_secret, base_url=sim.base_url, mode=mode,
                  verification_token=token, language="en")  # fmt: skip

        async def make(number: int) -> Node:
            transport = Straight(sim)
            gateway = Gateway(
                config_for(url, folder, **overrides),
                agent,
                channels=[FeishuChannel(app, clock=clock, transport=transport)],
            )
            node = Node(f"process {number}", sim, processes, gateway, transport)
            await node.begin()
            stack.push_async_callback(node.end)
            return node

        made = Cluster(sim, make)
        for _ in range(count):
            await made.join()
        yield made
