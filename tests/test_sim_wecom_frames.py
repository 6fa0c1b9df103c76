"""The simulated WeCom's long connections: who is heard, in which order answers come, who is kicked, what is lost."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.wecom_bots import Json, Sim, clock_of, connected, subscribed, talking
from turnwire.sim.wecom import Fault, Switches

pytestmark = pytest.mark.anyio


def _stream(text: str) -> Json:
    return {"msgtype": "stream", "stream": {"id": "s", "finish": False, "content": text}}


async def test_only_what_is_subscribed_does_business() -> None:
    async with Sim() as sim, connected(sim) as bot:
        assert await bot.push("alice", content="x") == 846609
        assert (await bot.ping())["errmsg"] == "ok"
        for secret in ("wrong", ""):
            assert (await bot.answer("aibot_subscribe", {"bot_id": sim.bot_id, "secret": secret}))["errcode"] == 853000
        assert (await bot.answer("aibot_subscribe", {}))["errmsg"] == "invalid bot_id or secret"
        assert await bot.push("alice", content="x") == 846609
        assert not bot.closed.is_set()
        answer = await bot.answer("aibot_subscribe", {"bot_id": sim.bot_id, "secret": sim.secret, "scene": 1}, "sub")
        assert answer == {"headers": {"req_id": "sub"}, "errcode": 0, "errmsg": "ok"}
        assert await bot.subscribe() == 0
        assert bot.told.empty()
        assert sim.counts["subscribe"] == 5


async def test_what_is_no_frame_is_refused_without_a_request_id() -> None:
    async with talking() as bot:
        long = json.dumps({"cmd": "ping", "headers": {"req_id": "x" * 257}})
        bare = ("no json", "[]", "{}", '{"cmd": "ping"}', '{"headers": {"req_id": "a"}}')
        for text in (*bare, '{"cmd": "ping", "headers": {"req_id": ""}}', long):
            await bot.ws.send(text)
        await bot.ping()
        assert [frame["errcode"] for frame in bot.orphans] == [40058] * 7


async def test_the_newest_connection_has_the_bot() -> None:
    async with talking() as old, subscribed(old.sim) as new:
        sim, clock = old.sim, clock_of(old)
        told = await old.told.get()
        assert (told["cmd"], told["body"]["event"]) == ("aibot_event_callback", {"eventtype": "disconnected_event"})
        assert "from" not in told["body"]
        said = sim.people.say("alice", "for the newest")
        assert said is not None
        assert (await new.told.get())["headers"]["req_id"] == said.req_id
        assert (await old.ping())["errcode"] == 0
        assert await old.stream(said.req_id, "x") == 846609
        assert await old.subscribe() == 846609
        assert old.told.empty()
        await clock.advance(2)
        await old.closed.wait()
        assert (old.ws.close_code, sim.open_connections) == (1006, 1)
        assert await new.stream(said.req_id, "x") == 0
        sim.switches.kick_close = -1
        async with subscribed(sim):
            await clock.advance(3600)
            assert (await new.ping())["errcode"] == 0


async def test_a_connection_without_pings_is_closed() -> None:
    async with Sim(Switches()) as sim, subscribed(sim) as bot:
        await clock_of(bot).advance(119)
        await bot.ping()
        await clock_of(bot).advance(119)
        assert await bot.push("nobody", content="x") == 93006
        sim.observer.calls.clear()
        await clock_of(bot).advance(121)
        await bot.closed.wait()
        assert not sim.sockets.subscribed(sim.bot_id)
    async with Sim(Switches()) as sim, connected(sim) as bot:
        await bot.ws.ping()
        await clock_of(bot).advance(120)
        await bot.closed.wait()


async def test_two_frames_at_once_on_one_request_id_conflict() -> None:
    async with talking() as bot:
        clock = clock_of(bot)
        bot.sim.switches.latency = 0.25
        asked = bot.sim.people.say("alice", "hi")
        assert asked is not None
        first = asyncio.create_task(bot.answer("aibot_respond_msg", _stream("1"), asked.req_id))
        second = asyncio.create_task(bot.answer("aibot_respond_msg", _stream("2"), asked.req_id))
        await bot.sim.wait_calls(2, "stream")
        await clock.advance(0.125)
        assert bot.sim.view("alice").from_bots[0].text == "1"
        assert not first.done()
        await clock.advance(0.125)
        assert (await first)["errcode"] == 0
        await clock.advance(0.25)
        assert (await second)["errcode"] == 6000
        assert [call.overlapping for call in bot.sim.calls if call.op == "stream"] == [0, 1]
        bot.sim.switches.race = "queue"
        tasks = [asyncio.create_task(bot.answer("aibot_respond_msg", _stream(t), asked.req_id)) for t in "34"]
        await bot.sim.wait_calls(4, "stream")
        await clock.advance(0.25)
        assert (bot.sim.view("alice").from_bots[0].text, tasks[1].done()) == ("3", False)
        await clock.advance(0.25)
        assert [(await task)["errcode"] for task in tasks] == [0, 0]
        assert bot.sim.view("alice").from_bots[0].text == "4"


async def test_what_is_said_while_nobody_is_connected_is_lost() -> None:
    async with Sim() as sim:
        lost = sim.people.say("alice", "lost")
        assert lost is not None
        async with subscribed(sim) as bot:
            asked = await bot.asked("heard")
            assert sim.view("alice").messages[0].text == "lost"
            assert sim.platform.callbacks[asked].delivered
            assert not lost.delivered
            assert await bot.stream(lost.req_id, "late") == 0
        await sim.until(lambda: not sim.sockets.subscribed(sim.bot_id))
        sim.switches.gap = "deliver"
        sim.people.say("alice", "waits")
        async with subscribed(sim) as bot:
            told = [(await bot.told.get())["body"]["text"]["content"] for _ in range(2)]
            assert told == ["lost", "waits"]
            await bot.ping()
            assert bot.told.empty()


async def test_what_is_said_on_a_connection_that_is_being_closed_waits_as_after_a_broken_one() -> None:
    async with talking() as bot:
        bot.sim.switches.gap = "deliver"
        for _ in range(2):
            assert bot.sim.sockets.break_all("close") == 1
        late = bot.sim.people.say("alice", "late")
        assert late is not None
        assert not late.delivered
        await bot.closed.wait()
        assert bot.ws.close_code == 1000
        async with subscribed(bot.sim) as other:
            assert (await other.told.get())["body"]["text"]["content"] == "late"


async def test_a_simulator_that_begins_again_has_its_chats() -> None:
    async with Sim() as sim:
        async with subscribed(sim) as bot:
            asked = await bot.asked()
            await sim.stop()
            await bot.closed.wait()
        await sim.start()
        async with subscribed(sim) as bot:
            assert await bot.stream(asked, "again", finish=True) == 0
        assert sim.view("alice").from_bots[0].text == "again"


async def test_nothing_is_left_behind_when_it_stops() -> None:
    async with Sim(Switches(latency=10)) as sim, connected(sim) as bot:
        await bot.send("ping", {})
        sim.faults.add(Fault("callback", "delay", seconds=60))
        sim.people.say("alice", "hi")
        await sim.wait_calls(1, "ping")
        await sim.fake.settle()
        assert sim.fake.pending == 3
        await sim.stop()
        assert sim.fake.pending == 0


async def test_other_paths_are_no_long_connection() -> None:
    async with Sim() as sim:
        with pytest.raises(InvalidStatus, match="404"):
            await connect(f"{sim.ws_url}/other", proxy=None)
