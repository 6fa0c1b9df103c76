"""Two gateways over one PostgreSQL store that have the same WeCom bot: one connection, whoever holds it; and what
becomes of the bot, its turns and their bubbles when that process dies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.feishu_nodes import Processes, _lapse, _never, _process, until
from tests.gateways import config_for
from turnwire import Turn
from turnwire.channels.wecom.channel import WecomChannel
from turnwire.channels.wecom.settings import Bot
from turnwire.clock import SystemClock
from turnwire.gateway import Gateway
from turnwire.sim.wecom import WecomSim
from turnwire.store.schema import deliveries, leases, turns

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

LEASE_S = 9
"""So long that a machine that stands still for a while loses none; who dies has its leases ended by the test."""


class Node:
    """One process."""

    def __init__(self, name: str, gateway: Gateway, channel: WecomChannel, processes: Processes) -> None:
        self.name = name
        self.gateway = gateway
        self.channel = channel
        self.dead = False
        self._processes = processes

    @property
    def has_bot(self) -> bool:
        return self.channel.connection.state == "ready"

    async def begin(self) -> None:
        async def begin() -> None:
            _process.set(self.name)
            await self.gateway.start()

        await asyncio.get_running_loop().create_task(begin())

    async def die(self) -> None:
        """The process ends, without a chance to say or store anything."""
        self.dead = True
        db: Any = self.gateway.db
        db.run = db.read = db.append = _never
        while alive := {task for task in self._processes.tasks.get(self.name, ()) if not task.done()}:
            for task in alive:
                task.cancel()
            await asyncio.sleep(0)
        await db.close()

    async def end(self) -> None:
        if not self.dead:
            hurry = asyncio.Event()
            hurry.set()
            await self.gateway.stop(hurry=hurry)


@contextlib.asynccontextmanager
async def pair(url: str, folder: Path, agent: Any) -> AsyncIterator[tuple[WecomSim, Node, Node]]:
    """The simulator, who has the bot, and who has not."""
    loop, processes = asyncio.get_running_loop(), Processes()
    factory = loop.get_task_factory()
    loop.set_task_factory(processes.make)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(loop.set_task_factory, factory)
        sim = await stack.enter_async_context(WecomSim())
        nodes = []
        for name in ("a", "b"):
            bot = Bot(name="main", bot_id=sim.bot_id, secret=sim.secret, url=sim.ws_url, language="en", frame_s=0.05)
            config = config_for(url, folder, turns__lease_s=LEASE_S, turns__drain_s=0)
            channel = WecomChannel(bot, clock=SystemClock())
            node = Node(name, Gateway(config, agent, channels=[channel]), channel, processes)
            nodes.append(node)
            stack.push_async_callback(node.end)
            await node.begin()
            await until(lambda: any(one.has_bot for one in nodes))
        yield sim, nodes[0], nodes[1]


def said(sim: WecomSim) -> list[tuple[str, str]]:
    return [(message.text, message.state) for message in sim.view("alice").from_bots]


async def test_one_process_has_the_bot_and_the_next_one_follows_it(postgres_url: str, tmp_path: Path) -> None:
    go = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield f"About {turn.text}: "
        if turn.text == "long":
            await go.wait()
        yield "said."

    async with pair(postgres_url, tmp_path, agent) as (sim, has, waits):
        assert (has.has_bot, waits.has_bot) == (True, False)
        assert waits.channel.state == "another process has the bot"
        sim.people.say("alice", "one")
        await until(lambda: said(sim) == [("About one: said.", "finished")])
        assert sim.counts["subscribe"] == 1
        sim.people.say("alice", "long")
        await until(lambda: "About long" in said(sim)[-1][0])
        await has.die()
        await waits.gateway.db.run(_lapse, has.gateway.process, [leases, turns, deliveries])
        await until(lambda: waits.has_bot)
        await until(lambda: said(sim)[-1][1] == "finished")
        # Its agent died with it; the bubble says so, and there is no second one.
        assert [state for _, state in said(sim)] == ["finished", "finished"]
        assert "interrupted" in said(sim)[-1][0]
        sim.people.say("alice", "two")
        await until(lambda: said(sim)[-1] == ("About two: said.", "finished"))


async def test_a_process_that_stops_gives_the_bot_to_the_other(postgres_url: str, tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield f"About {turn.text}."

    async with pair(postgres_url, tmp_path, agent) as (sim, has, waits):
        stopping = asyncio.ensure_future(has.end())
        await until(lambda: waits.has_bot)
        await stopping
        has.dead = True
        sim.people.say("alice", "one")
        await until(lambda: said(sim) == [("About one.", "finished")])
