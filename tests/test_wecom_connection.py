"""The long connection of a bot: when it is ready, when it is lost, and what then becomes of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from collections.abc import Callable

import pytest

from tests.wecom_bots import Json, Sim, subscribed
from tests.wecom_owners import Owner, owning, ready
from turnwire.channels.wecom import frames
from turnwire.channels.wecom.connection import KICKED_S, BotConnection
from turnwire.channels.wecom.inbox import WAITING
from turnwire.channels.wecom.sockets import Socket, opener
from turnwire.delivery.traces import Entry, Recorder
from turnwire.sim.wecom import Fault, Switches

pytestmark = pytest.mark.anyio


# Ready


async def test_nothing_is_sent_before_the_platform_has_taken_the_subscription() -> None:
    async with Sim() as sim:
        sim.faults.add(Fault("subscribe", "slow", seconds=3))
        async with owning(Owner(sim)) as owner:
            await sim.wait_calls(1, "subscribe")
            answer = await owner.connection.push(frames.pushed("alice", frames.markdown("too early"), group=False))
            assert (answer.receipt.kind, answer.receipt.cause) == ("refused", "busy")
            assert (owner.connection.state, owner.readied) == ("connecting", 0)
            await owner.calm()
            await owner.clock.advance(3)
            await owner.state("ready")
            assert await owner.connection.ready()
            assert (owner.readied, sim.counts) == (1, {"subscribe": 1})


async def test_a_message_is_heard_and_answered() -> None:
    async with ready() as owner:
        asked = await owner.asked("hello")
        assert owner.messages[0].body["text"] == {"content": "hello"}
        first = await owner.connection.respond(asked, frames.stream("s1", "1"), opens=True)
        assert first.receipt.ok
        assert (await owner.stream(asked, "1 2", finish=True)).receipt.ok
        assert owner.seen == ["1 2"]


async def test_an_event_is_answered_in_its_five_seconds_while_messages_wait() -> None:
    async with ready() as owner:
        owner.held.clear()
        owner.sim.people.say("alice", "slow to handle")
        owner.sim.people.enter_chat("alice")
        await owner.clock.until(lambda: bool(owner.events))
        (event,) = owner.events
        assert (event.event, owner.messages, event.at) == ("enter_chat", [], owner.clock.monotonic())
        assert (await owner.connection.welcome(event.req_id, frames.text("welcome"))).receipt.ok
        again = await owner.connection.welcome(event.req_id, frames.text("welcome"))
        assert (again.code, again.receipt.cause) == (846605, "rung")
        assert owner.seen == ["welcome"]
        owner.held.set()


async def test_a_clicked_card_is_replaced() -> None:
    card: Json = {"card_type": "button_interaction", "main_title": {"title": "Work"}, "task_id": "t1"}
    card["button_list"] = [{"text": "Stop", "style": 1, "key": "stop"}]
    async with ready() as owner:
        asked = await owner.asked()
        assert (await owner.connection.respond(asked, frames.card(card))).receipt.ok
        (shown,) = owner.sim.view("alice").from_bots
        owner.sim.people.click(shown.message_id)
        await owner.clock.until(lambda: bool(owner.events))
        new = frames.card_update({**card, "main_title": {"title": "Stopped"}})
        assert (await owner.connection.update_card(owner.events[0].req_id, new)).receipt.ok
        (shown,) = owner.sim.view("alice").from_bots
        assert shown.card is not None
        assert "Stopped" in str(shown.card)


async def test_the_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with ready() as owner:
        assert owner.connection.state == "ready"


async def test_a_trace_holds_the_frames_and_their_answers_but_no_secret() -> None:
    async with ready() as owner:
        entries: list[Entry] = []
        owner.connection.trace = Recorder(entries.append, owner.clock, secrets=[owner.sim.secret])
        asked = await owner.asked()
        assert (await owner.stream(asked, f"my secret is {owner.sim.secret}")).receipt.ok
        await owner.connection.call(frames.UPLOAD_CHUNK, frames.upload_chunk("U", 0, b"x" * 900))
        assert [entry.kind for entry in entries] == [
            "FRAME aibot_respond_msg", "confirmed", "FRAME aibot_upload_media_chunk", "refused"
        ]  # fmt: skip
        assert (entries[0].data["params"], entries[1].data["to"]) == ({"req_id": asked}, 0)
        assert owner.sim.secret not in str(entries)
        assert entries[2].data["body"]["base64_data"] == "1200 characters"


# Lost


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_every_close_is_a_loss_and_what_was_under_way_is_unknown(how: str) -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("stream", "lost"))
        sending = asyncio.ensure_future(owner.stream(asked, "1"))
        behind = asyncio.ensure_future(owner.stream(asked, "2"))
        await owner.sim.wait_calls(1, "stream")
        owner.sim.sockets.break_all(how)
        await owner.clock.until(lambda: sending.done() and behind.done())
        assert sending.result().receipt.kind == "unknown"
        # This one was never sent.
        assert behind.result().receipt.cause == "busy"
        assert (len(owner.lost), owner.connection.state) == (1, "waiting")
        await owner.clock.advance(2)
        await owner.state("ready")
        assert (await owner.stream(asked, "3")).receipt.ok
        assert (owner.seen, owner.sim.counts["stream"]) == (["3"], 2)


async def test_two_pings_without_an_answer_are_a_loss() -> None:
    async with ready(ping_timeout=0) as owner:
        owner.sim.sockets.break_all("half_open")
        await owner.clock.advance(79)
        assert (owner.connection.state, owner.lost) == ("ready", [])
        await owner.clock.advance(5)
        await owner.clock.until(lambda: owner.connection.state == "ready" and owner.sim.connections == 2)
        assert owner.lost == ["it is half-open: pings are not answered"]


async def test_one_missed_ping_is_no_loss() -> None:
    async with ready() as owner:
        owner.sim.faults.add(Fault("ping", "lost"), Fault("ping", "lost", nth=3))
        for _ in range(300):
            await owner.clock.advance(1)
            await owner.clock.settle()
        assert (owner.connection.state, owner.lost, owner.sim.connections) == ("ready", [], 1)
        assert owner.sim.counts["ping"] >= 8


async def test_pings_keep_the_connection_open() -> None:
    async with ready(ping_timeout=45) as owner:
        for _ in range(20):
            await owner.clock.advance(15)
            await owner.calm()
        assert (owner.connection.state, owner.sim.connections) == ("ready", 1)


async def test_pauses_grow_to_half_a_minute_and_shrink_only_after_a_subscription() -> None:
    async with Sim() as sim:
        begun: list[float] = []
        really = opener(sim.ws_url)

        async def opens() -> Socket:
            begun.append(sim.fake.monotonic())
            return await really()

        async with owning(Owner(sim, opens=opens)) as owner:
            sim.faults.add(Fault("subscribe", "close_before_applying", nth=1, count=7))
            while len(begun) < 8:
                await owner.calm()
                await owner.clock.until(lambda: owner.connection.state in ("waiting", "ready"))
                await owner.clock.advance(1)
            await owner.state("ready")
            pauses = [after - before for before, after in itertools.pairwise(begun)]
            for pause, least in zip(pauses, (1, 2, 4, 8, 16, 30, 30), strict=True):
                assert least <= pause <= least * 1.25 + 1
            sim.sockets.break_all("reset")
            await owner.state("waiting")
            await owner.clock.advance(2)
            await owner.state("ready")


async def test_a_platform_that_cannot_be_reached_is_asked_again_and_again() -> None:
    async with ready() as owner:
        await owner.sim.stop()
        await owner.state("waiting")
        await owner.clock.advance(100)
        assert owner.connection.state in ("connecting", "waiting")
        assert (
            "OSError" in owner.connection.reason
            or "refused" in owner.connection.reason.lower()
            or "opened" in (owner.connection.reason)
        )
        await owner.sim.start()
        for _ in range(40):
            await owner.calm()
            await owner.clock.advance(1)
        await owner.state("ready")


async def test_an_opening_that_never_ends_is_given_up() -> None:
    async with Sim() as sim:
        tries = 0
        really = opener(sim.ws_url)

        async def opens() -> Socket:
            nonlocal tries
            tries += 1
            if tries == 1:
                await asyncio.Event().wait()
            return await really()

        async with owning(Owner(sim, opens=opens)) as owner:
            await owner.clock.advance(17)
            await owner.state("ready")
            assert tries == 2


async def test_a_subscription_without_an_answer_is_made_on_another_connection() -> None:
    async with Sim() as sim:
        sim.faults.add(Fault("subscribe", "lost"))
        async with owning(Owner(sim)) as owner:
            await sim.wait_calls(1, "subscribe")
            await owner.calm()
            for _ in range(15):
                await owner.clock.advance(1)
                await owner.calm()
            await owner.state("ready")
            assert [call.connection for call in sim.calls if call.op == "subscribe"] == [1, 2]
            assert owner.lost == []


async def test_an_unsubscribed_connection_is_lost_and_not_taken_back_at_once() -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("stream", "refuse", code=846609))
        answer = await owner.stream(asked, "1")
        assert (answer.receipt.cause, answer.code) == ("busy", 846609)
        await owner.state("waiting")
        await owner.clock.advance(KICKED_S - 1)
        assert owner.sim.connections == 1
        await owner.clock.advance(2)
        await owner.state("ready")


# Kicked and denied


async def test_a_kicked_bot_hangs_up_at_once_and_does_not_kick_back() -> None:
    async with ready(kick_close=-1, ping_timeout=0) as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("stream", "lost"))
        sending = asyncio.ensure_future(owner.stream(asked, "1"))
        await owner.sim.wait_calls(1, "stream")
        async with subscribed(owner.sim) as other:
            await owner.state("kicked")
            await owner.clock.until(sending.done)
            assert sending.result().receipt.kind == "unknown"
            await owner.clock.until(lambda: owner.sim.open_connections == 1)
            assert (await owner.connection.halted(), await owner.connection.ready()) == ("kicked", False)
            assert len(owner.lost) == 1
            assert "second gateway" in owner.connection.reason
            late = await owner.stream(asked, "2")
            assert late.receipt.cause == "busy"
            for _ in range(10):
                await owner.clock.advance(60)
                await owner.calm()
            assert (owner.sim.counts["subscribe"], owner.sim.counts["stream"]) == (2, 1)
            assert not other.closed.is_set()


async def test_a_kicked_bot_is_taken_back_once_its_owner_says_so_and_not_sooner_than_in_half_a_minute() -> None:
    async with ready() as owner:
        owner.sim.sockets.break_all("kick")
        await owner.state("kicked")
        owner.connection.resume()
        assert owner.connection.state == "waiting"
        await owner.clock.advance(29)
        await owner.calm()
        assert owner.sim.connections == 1
        await owner.clock.advance(2)
        await owner.state("ready")
        assert (owner.readied, owner.sim.connections) == (2, 2)
        # Once more it is the owner's to decide.
        owner.sim.sockets.break_all("kick")
        await owner.state("kicked")
        await owner.calm()
        await owner.clock.advance(60)
        assert (owner.connection.state, owner.sim.connections) == ("kicked", 2)


async def test_who_is_told_of_the_kick_may_ask_to_go_on_at_once() -> None:
    async with Sim() as sim:
        owner = Owner(sim)
        owner.connection._on_lost = lambda reason: owner.connection.resume(after_s=5)
        async with owning(owner):
            await owner.state("ready")
            sim.sockets.break_all("kick")
            await owner.state("waiting")
            await owner.calm()
            await owner.clock.advance(5)
            await owner.state("ready")


async def test_a_wrong_secret_stops_loudly_and_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Sim() as sim, owning(Owner(sim, secret="not the secret")) as owner:
        assert await owner.connection.halted() == "denied"
        assert "compare them with the bot's page" in owner.connection.reason
        ours = [record.getMessage() for record in caplog.records if record.name != "websockets.server"]
        assert "not the secret" not in owner.connection.reason + repr(owner.connection) + "".join(ours)
        for _ in range(10):
            await owner.clock.advance(60)
            await owner.calm()
        assert sim.counts == {"subscribe": 1}
        sim.platform.bots[sim.bot_id].secret = "not the secret"
        owner.connection.resume(after_s=0)
        await owner.state("ready")
        assert owner.lost == []


# What the bot is told


async def test_a_handler_that_fails_does_not_keep_the_next_message_away() -> None:
    async with ready() as owner:
        owner.broken = True
        owner.sim.people.say("alice", "one")
        await owner.clock.until(lambda: owner.sim.platform.newest("alice@bot_sim", "bot_sim") is not None)
        await owner.calm()
        owner.broken = False
        await owner.asked("two")
        assert [each.body["text"]["content"] for each in owner.messages] == ["two"]


async def test_what_came_is_handled_after_the_connection_is_lost_and_before_it_is_closed() -> None:
    async with Sim() as sim:
        owner = Owner(sim)
        async with owning(owner):
            await owner.state("ready")
            owner.held.clear()
            owner.takes_s = 0.5
            for number in range(3):
                sim.people.say("alice", str(number))
            await owner.calm()
            sim.sockets.break_all("reset")
            await owner.state("waiting")
            assert owner.messages == []
            owner.held.set()
        assert [each.body["text"]["content"] for each in owner.messages] == ["0", "1", "2"]


async def test_who_hears_of_something_can_answer_it() -> None:
    script = Scripted()
    # It comes with the answer to the subscription, before anybody could look at that.
    script.behind = '{"cmd":"aibot_msg_callback","headers":{"req_id":"r1"},"body":{"msgid":"m1"}}'

    async def opens() -> Socket:
        return script

    async with Sim() as sim:
        owner = Owner(sim, opens=opens)
        states: list[str] = []
        owner.messages = _Noting(lambda: states.append(owner.connection.state))
        async with owning(owner):
            await owner.clock.until(lambda: bool(states))
            assert states == ["ready"]


class _Noting(list[frames.Inbound]):
    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    def append(self, frame: frames.Inbound) -> None:
        self._note()
        super().append(frame)


async def test_a_handler_that_never_ends_does_not_keep_the_connection_from_its_close() -> None:
    async with ready() as owner:
        owner.held.clear()
        owner.sim.people.say("alice", "hi")
        await owner.calm()
        begun = owner.clock.monotonic()
        closing = asyncio.ensure_future(owner.connection.close())
        while not closing.done():
            await owner.calm()
            await owner.clock.advance(0.5)
        assert owner.clock.monotonic() - begun <= 4.5


async def test_too_much_that_waits_is_lost_and_the_connection_goes_on() -> None:
    async with ready() as owner:
        owner.held.clear()
        inbox = owner.connection._inbox
        for number in range(WAITING + 5):
            inbox.put(frames.Inbound(frames.MESSAGE, f"r{number}", {}))
        assert inbox.dropped >= 4
        owner.sim.people.enter_chat("alice")
        await owner.clock.until(lambda: bool(owner.events))
        owner.held.set()
        await owner.clock.until(lambda: len(owner.messages) == WAITING + 5 - inbox.dropped)


class Scripted:
    """A socket that says what the test wants, and never closes by itself."""

    def __init__(self, *said: str | bytes) -> None:
        self.incoming: asyncio.Queue[str | bytes] = asyncio.Queue()
        for each in said:
            self.incoming.put_nowait(each)
        self.sent: list[str] = []
        self.aborted = False
        self.behind = ""

    async def send(self, text: str) -> None:
        self.sent.append(text)
        frame = json.loads(text)
        req_id = frame["headers"]["req_id"]
        if frame["cmd"] in ("aibot_subscribe", "ping"):
            self.incoming.put_nowait(f'{{"headers":{{"req_id":"{req_id}"}},"errcode":0}}')
            if self.behind:
                self.incoming.put_nowait(self.behind)

    async def recv(self) -> str | bytes:
        return await self.incoming.get()

    async def close(self) -> None:
        await asyncio.Event().wait()

    def abort(self) -> None:
        self.aborted = True


async def test_nonsense_and_control_characters_do_not_end_the_connection_and_its_close_is_bounded() -> None:
    odd = '{"cmd":"aibot_msg_callback","headers":{"req_id":"r1"},"body":{"msgid":"m\x001\x07","text":"a\nb"}}'
    script = Scripted("nonsense", "[1]", b"\xff\xfe", '{"errcode":0}', '{"cmd":"aibot_news","headers":{}}', odd)

    async def opens() -> Socket:
        return script

    async with Sim() as sim:
        owner = Owner(sim, opens=opens)
        owner.connection.start()
        await owner.state("ready")
        await owner.clock.until(lambda: bool(owner.messages))
        assert owner.messages[0].body == {"msgid": "m1", "text": "a\nb"}
        closing = asyncio.ensure_future(owner.connection.close())
        await owner.clock.advance(2)
        await owner.clock.until(closing.done)
        assert (script.aborted, owner.connection.state, owner.clock.pending) == (True, "closed", 0)
        assert [task for task in asyncio.all_tasks() if "wecom" in str(task.get_coro())] == []


async def test_a_connection_that_was_not_started_says_so() -> None:
    async with Sim(Switches()) as sim:
        connection: BotConnection = Owner(sim).connection
        answer = await connection.push({})
        assert (answer.receipt.cause, "not started" in answer.receipt.reason) == ("busy", True)
        await connection.close()
        assert await connection.ready() is False
