"""Bad days of the simulated WeCom: what is applied, what is answered, and what becomes of connections and callbacks."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.wecom_bots import Bot, Json, clock_of, http, subscribed, talking
from turnwire.sim.wecom import KINDS, OPS, Fault, UnknownFault

pytestmark = pytest.mark.anyio


async def _sent(bot: Bot, req_id: str, text: str) -> None:
    body = {"msgtype": "stream", "stream": {"id": "s1", "finish": False, "content": text}}
    await bot.send("aibot_respond_msg", body, req_id)


def _text(bot: Bot) -> str:
    return "".join(each.text for each in bot.sim.view("alice").from_bots)


@pytest.mark.parametrize(
    ("kind", "code", "applied"),
    [
        ("refuse", 40201, False),
        ("refuse_after_applying", 846605, True),
        ("drop", 0, False),
    ],
)
async def test_an_answer_says_one_thing_and_the_chat_another(kind: str, code: int, applied: bool) -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("stream", kind, nth=2, code=code))
        assert await bot.stream(asked, "1") == 0
        assert await bot.stream(asked, "2") == code
        assert _text(bot) == ("2" if applied else "1")
        assert [(each.fault, each.code) for each in bot.sim.calls if each.op == "stream"] == [("", 0), (kind, code)]


@pytest.mark.parametrize(("kind", "applied"), [("orphan", False), ("orphan_after_applying", True)])
async def test_an_error_may_come_without_its_request_id(kind: str, applied: bool) -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("finish", kind))
        assert await bot.stream(asked, "x", finish=True) == -40058
        assert _text(bot) == ("x" if applied else "")


@pytest.mark.parametrize(("kind", "applied"), [("lost", False), ("ack_lost", True)])
async def test_an_answer_may_never_come(kind: str, applied: bool) -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("stream", kind))
        await _sent(bot, asked, "1")
        await bot.ping()
        assert asked not in bot.acks
        assert _text(bot) == ("1" if applied else "")
        assert await bot.stream(asked, "2") == 0
        assert [each.code for each in bot.sim.calls if each.op == "stream"] == [None, 0]


async def test_a_late_answer_comes_while_the_next_frame_is_taken() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("stream", "ack_late"))
        await _sent(bot, asked, "1")
        await bot.ping()
        assert (_text(bot), asked in bot.acks) == ("1", False)
        await clock_of(bot).advance(5)
        assert await bot.stream(asked, "2") == 0
        await clock_of(bot).advance(1)
        await bot.ping()
        assert len(bot.acks[asked]) == 2


async def test_a_slow_frame_is_taken_later() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("stream", "slow", seconds=8))
        await _sent(bot, asked, "1")
        await bot.ping()
        assert _text(bot) == ""
        await clock_of(bot).advance(8)
        assert _text(bot) == "1"


@pytest.mark.parametrize(
    ("kind", "applied", "code"),
    [
        ("reset_before_applying", False, 1006),
        ("reset_after_applying", True, 1006),
        ("close_before_applying", False, 1000),
        ("close_after_applying", True, 1000),
    ],
)
async def test_a_connection_may_break_around_a_frame(kind: str, applied: bool, code: int) -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("stream", kind))
        await _sent(bot, asked, "1")
        await bot.closed.wait()
        assert bot.ws.close_code == code
        assert (_text(bot), asked in bot.acks) == ("1" if applied else "", False)
        async with subscribed(bot.sim) as again:
            assert await again.stream(asked, "2") == 0


async def test_a_half_open_connection_is_silent_and_not_closed() -> None:
    async with talking(ping_timeout=120) as bot:
        bot.sim.faults.add(Fault("ping", "half_open"))
        await bot.send("ping", {})
        await bot.sim.until(lambda: any(call.fault and call.ended_at for call in bot.sim.calls))
        said = bot.sim.people.say("alice", "unheard")
        assert said is not None
        await clock_of(bot).advance(3600)
        assert (bot.closed.is_set(), bot.told.empty(), said.delivered) == (False, True, False)
        await _sent(bot, said.req_id, "unread")
        async with subscribed(bot.sim) as again:
            assert await again.asked("heard")
            assert (bot.told.empty(), "stream" in bot.sim.counts) == (True, False)


@pytest.mark.parametrize("kind", ["kick", "kick_without_close"])
async def test_another_client_may_take_the_bot(kind: str) -> None:
    async with talking() as bot:
        asked = await bot.asked()
        bot.sim.faults.add(Fault("stream", kind))
        assert await bot.stream(asked, "1") == 846609
        assert (await bot.told.get())["body"]["event"] == {"eventtype": "disconnected_event"}
        await clock_of(bot).advance(600)
        if kind == "kick":
            await bot.closed.wait()
            assert bot.ws.close_code == 1006
        else:
            assert await bot.stream(asked, "1") == 846609


@pytest.mark.parametrize(("kind", "code"), [("expire_stream", 846608), ("expire_req_id", 846604)])
async def test_time_may_be_over_early(kind: str, code: int) -> None:
    async with talking() as bot:
        asked = await bot.asked()
        await bot.stream(asked, "1")
        bot.sim.faults.add(Fault("finish", kind))
        assert await bot.stream(asked, "1.", finish=True) == code
        assert await bot.stream(asked, "1.", finish=True) == code
        assert [call.hopeless for call in bot.sim.calls if call.op == "finish"] == [False, True]


async def test_a_subscription_may_be_refused_once() -> None:
    async with talking() as bot, subscribed(bot.sim) as other:
        bot.sim.faults.add(Fault("subscribe", "refuse", code=45009))
        assert [await other.subscribe(), await other.subscribe()] == [45009, 0]


@pytest.mark.parametrize(("kind", "heard"), [("duplicate", 2), ("lose", 0), ("delay", 1)])
async def test_a_message_may_come_twice_late_or_never(kind: str, heard: int) -> None:
    async with talking() as bot:
        bot.sim.faults.add(Fault("callback", kind, seconds=30))
        bot.sim.people.say("alice", "hi")
        await bot.ping()
        assert bot.told.qsize() == (0 if kind == "delay" else heard)
        await clock_of(bot).advance(30)
        await bot.ping()
        told = [bot.told.get_nowait() for _ in range(bot.told.qsize())]
        assert len(told) == heard
        assert len({frame["body"]["msgid"] for frame in told}) == min(heard, 1)
        assert len({frame["headers"]["req_id"] for frame in told}) == heard
        for frame in told:
            assert await bot.stream(frame["headers"]["req_id"], "x") == 0


@pytest.mark.parametrize(("kind", "code"), [("reset", 1006), ("close", 1000)])
async def test_a_connection_may_break_instead_of_carrying_a_message(kind: str, code: int) -> None:
    async with talking() as bot:
        bot.sim.faults.add(Fault("callback", kind))
        bot.sim.people.say("alice", "lost")
        await bot.closed.wait()
        assert (bot.ws.close_code, bot.told.empty()) == (code, True)


async def test_addresses_go_wrong_too() -> None:
    async with talking() as bot, http(bot.sim) as client:
        told = bot.sim.people.send_file("alice", "a.txt", b"x")
        assert told is not None
        faults = bot.sim.faults
        faults.add(Fault("download", "refuse", code=503), Fault("download", "reset_before_applying", nth=2))
        assert (await client.get(told.body["file"]["url"])).status_code == 503
        with pytest.raises(httpx2.HTTPError):
            await client.get(told.body["file"]["url"])
        faults.clear()
        faults.add(Fault("response_url", "ack_lost"))
        body: Json = {"msgtype": "markdown", "markdown": {"content": "once"}}
        unanswered = asyncio.create_task(client.post(told.body["response_url"], json=body))
        await bot.sim.until(lambda: any(call.applied for call in bot.sim.calls if call.op == "response_url"))
        unanswered.cancel()
        assert _text(bot) == "once"
        faults.add(Fault("response_url", "slow", seconds=3))
        slow = asyncio.create_task(client.post(told.body["response_url"], json=body))
        await bot.sim.wait_calls(2, "response_url")
        await clock_of(bot).advance(3)
        assert (await slow).json()["errcode"] == 60140


async def test_faults_can_be_aimed() -> None:
    async with talking() as bot:
        sim = bot.sim
        mine, group = await bot.asked(), await bot.asked("hi", sim.group)
        sim.faults.add(Fault("stream", "refuse", code=1, target=sim.group))
        assert [await bot.stream(mine, "x"), await bot.stream(group, "x")] == [0, 1]
        sim.faults.add(Fault("stream", "refuse", code=2, target="s9"))
        assert [await bot.stream(mine, "x"), await bot.stream(mine, "x", sid="s9")] == [0, 2]
        with pytest.raises(UnknownFault, match="there is no fault 'worse'"):
            sim.faults.add(Fault("*", "worse"))
        sim.faults.add(Fault("*", "refuse", count=0, code=3))
        sim.clear()
        assert await bot.stream(mine, "y") == 0
        assert {"kick", "duplicate"} <= KINDS.keys()
        assert "finish" in OPS


async def test_all_connections_can_be_broken() -> None:
    for how, code in (("reset", 1006), ("close", 1000), ("kick", 1006)):
        async with talking() as bot:
            assert bot.sim.sockets.break_all(how) == 1
            await clock_of(bot).advance(2)
            await bot.closed.wait()
            assert bot.ws.close_code == code
    async with talking() as bot:
        assert bot.sim.sockets.break_all("half_open", "none") == 0
        assert bot.sim.sockets.break_all("half_open", bot.sim.bot_id) == 1
        bot.sim.people.say("alice", "x")
        await clock_of(bot).advance(1)
        assert bot.told.empty()
        with pytest.raises(ValueError, match="how: must be one of"):
            bot.sim.sockets.break_all("none")


async def test_a_fault_concerns_what_it_has_a_meaning_for() -> None:
    async with talking() as bot:
        faults = bot.sim.faults
        for op, kind in (("stream", "duplicate"), ("callback", "ack_lost"), ("poll", "delay"), ("download", "kick")):
            with pytest.raises(ValueError, match=f"fault {kind}: no operation is like '{op}'"):
                faults.add(Fault(op, kind))
        either = "[cs]*"
        faults.add(Fault(either, "refuse", code=1), Fault(either, "duplicate"), Fault(either, "refuse", nth=2, code=2))
        asked = await bot.asked()
        await bot.ping()
        assert bot.told.qsize() == 1
        assert [await bot.stream(asked, text) for text in "123"] == [1, 2, 0]
        assert faults.pending == []
