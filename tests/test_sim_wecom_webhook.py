"""Webhook mode of the simulated WeCom: challenge, sealed messages, polled streams, answers that are not taken."""

from __future__ import annotations

import contextlib
import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.wecom_bots import PNG, Json, Sim, card, connected, http, subscribed
from turnwire.sim._http import Request
from turnwire.sim._serving import Answer, Hang, Serving
from turnwire.sim._wecom_crypto import decrypt, seal, signature, unseal
from turnwire.sim.wecom import Fault, Switches

pytestmark = pytest.mark.anyio

KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
TOKEN = "tok"


class Hook:
    """An address that answers as it is told to: a body, None for none, an empty one for nothing to say."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.heard: list[Json] = []
        self.answers: Callable[[Json], Json | None] = lambda _: {}
        self.echo: Callable[[str], str] = lambda text: text
        self.spoil: Callable[[Json], Json] = lambda body: body
        self.serving = Serving("127.0.0.1", 0, self._respond, self._upgrade)

    async def _upgrade(self, *_: Any) -> None:
        raise AssertionError("nobody asks for a websocket")

    async def _respond(self, request: Request, raw: bytes, _: int) -> Answer:
        query = request.query
        sealed = query["echostr"] if request.method == "GET" else json.loads(raw)["encrypt"]
        assert query["msg_signature"] == signature(TOKEN, query["timestamp"], query["nonce"], sealed)
        text = unseal(KEY, sealed)
        if request.method == "GET":
            return Answer(200, self.echo(text).encode(), media_type="text/plain")
        self.heard.append(json.loads(text))
        said = self.answers(self.heard[-1])
        if said is None:
            raise Hang
        if not said:
            return Answer(200, b"")
        sealed, stamp = seal(KEY, json.dumps(said)), 1_700_000_000
        body = {"encrypt": sealed, "timestamp": stamp, "nonce": query["nonce"]}
        body["msgsignature"] = signature(TOKEN, str(stamp), query["nonce"], sealed)
        return Answer(200, json.dumps(self.spoil(body)).encode())

    async def over(self, count: int) -> None:
        """Returns once so many requests were answered, or given up."""
        ops = ("post", "poll")
        await self.sim.until(lambda: sum(each.op in ops and bool(each.ended_at) for each in self.sim.calls) >= count)


@contextlib.asynccontextmanager
async def listening(sim: Sim) -> AsyncIterator[Hook]:
    """An address that the simulator does not know yet."""
    hook = Hook(sim)
    await hook.serving.start()
    try:
        yield hook
    finally:
        await hook.serving.stop()


@contextlib.asynccontextmanager
async def hooked(**switches: Any) -> AsyncIterator[Hook]:
    """A simulator whose bot is in webhook mode."""
    async with Sim(Switches(**switches)) as sim, listening(sim) as hook:
        assert await sim.use_webhook(f"{hook.serving.url}/hook?a=b", TOKEN, KEY)
        yield hook


def _stream(text: str, *, finish: bool = False, sid: str = "S", **more: Any) -> Json:
    return {"msgtype": "stream", "stream": {"id": sid, "finish": finish, "content": text, **more}}


async def test_the_address_must_answer_the_challenge() -> None:
    async with Sim() as sim, listening(sim) as hook, subscribed(sim) as bot, connected(sim) as other:
        hook.echo = lambda text: f'"{text}"'
        assert not await sim.use_webhook(hook.serving.url, TOKEN, KEY)
        assert not await sim.use_webhook("http://127.0.0.1:9/", TOKEN, KEY)
        with pytest.raises(ValueError, match="43 letters"):
            await sim.use_webhook(hook.serving.url, TOKEN, "short")
        with pytest.raises(ValueError, match="there is no bot 'none'"):
            await sim.use_webhook(hook.serving.url, TOKEN, KEY, bot_id="none")
        assert await bot.push("nobody", content="x") == 93006
        hook.echo = lambda text: text
        assert await sim.use_webhook(hook.serving.url, TOKEN, KEY)
        assert (await bot.told.get())["body"]["event"] == {"eventtype": "disconnected_event"}
        assert await other.subscribe() == 853000


async def test_a_stream_is_asked_for_until_it_is_finished() -> None:
    async with hooked() as hook:
        texts = iter(["1", "12", "123"])
        hook.answers = lambda said: _stream(text := next(texts), finish=text == "123")
        hook.sim.people.say("alice", "count")
        await hook.over(1)
        assert [(each.text, each.state) for each in hook.sim.view("alice").from_bots] == [("1", "live")]
        for count in (2, 3):
            await hook.sim.fake.advance(1)
            await hook.over(count)
        assert [(each.text, each.state) for each in hook.sim.view("alice").from_bots] == [("123", "finished")]
        await hook.sim.fake.advance(10)
        first, *polls = hook.heard
        assert (first["text"], first["msgtype"], first["from"]) == ({"content": "count"}, "text", {"userid": "alice"})
        assert "aeskey" not in first
        assert [(each["msgtype"], each["stream"]) for each in polls] == [("stream", {"id": "S"})] * 2
        assert len({each["msgid"] for each in hook.heard}) == 3
        assert hook.sim.webhooks.problems == []


async def test_a_stream_ends_six_minutes_after_the_message() -> None:
    async with hooked(poll_interval=60) as hook:
        hook.answers = lambda _: _stream("going on")
        hook.sim.people.say("alice", "x")
        await hook.over(1)
        for count in range(2, 7):
            await hook.sim.fake.advance(60)
            await hook.over(count)
        await hook.sim.fake.advance(600)
        assert len(hook.heard) == 6
        assert [each.state for each in hook.sim.view("alice").from_bots] == ["expired"]


async def test_pictures_come_with_the_final_frame() -> None:
    async with hooked() as hook:
        item = {"msgtype": "image", "image": {"base64": b64encode(PNG).decode(), "md5": hashlib.md5(PNG).hexdigest()}}
        hook.answers = lambda _: _stream("look", finish=True, msg_item=[item])
        hook.sim.people.say("alice", "x")
        await hook.over(1)
        (message,) = hook.sim.view("alice").from_bots
        assert [(each.kind, each.size) for each in message.files] == [("image", len(PNG))]


async def test_files_are_sealed_with_the_key_of_the_webhook() -> None:
    async with hooked() as hook, http(hook.sim) as client:
        hook.sim.people.send_file("alice", "a.txt", b"numbers")
        await hook.over(1)
        (said,) = hook.heard
        assert list(said["file"]) == ["url"]
        assert decrypt(KEY, (await client.get(said["file"]["url"])).content) == b"numbers"


async def test_events_are_answered_at_once() -> None:
    async with hooked() as hook:
        hook.answers = lambda _: {"msgtype": "text", "text": {"content": "Welcome"}}
        hook.sim.people.enter_chat("alice")
        await hook.over(1)
        hook.answers = lambda _: {"msgtype": "template_card", "template_card": card()}
        hook.sim.people.say("alice", "x")
        await hook.over(2)
        welcome, shown = hook.sim.view("alice").from_bots
        new = {"response_type": "update_template_card", "template_card": card("t1", "again")}
        hook.answers = lambda _: new
        hook.sim.people.click(shown.message_id)
        await hook.over(3)
        changed = hook.sim.message(shown.message_id).card
        assert changed is not None
        assert (welcome.text, changed.buttons) == ("Welcome", [("again", "AGAIN")])


async def test_answers_that_are_wrong_are_not_shown() -> None:
    async with hooked() as hook:
        hook.answers = lambda _: _stream("x", finish=True)
        spoiled: list[tuple[Json, str]] = [
            ({"nonce": "other"}, "post: the nonce is not that of the request"),
            ({"msgsignature": "0"}, "post: the signature is wrong"),
            ({"timestamp": "1700000000"}, "post: an answer has encrypt"),
            ({"encrypt": 5}, "post: an answer has encrypt"),
        ]
        for count, (change, problem) in enumerate(spoiled, 1):
            hook.spoil = lambda body, change=change: {**body, **change}  # type: ignore[misc]
            hook.sim.people.say("alice", "x")
            await hook.over(count)
            assert hook.sim.webhooks.problems[-1].startswith(problem)
        hook.spoil = lambda body: body
        hook.answers = lambda _: {"msgtype": "markdown", "markdown": {"content": "x"}}
        hook.sim.people.say("alice", "x")
        await hook.over(5)
        assert hook.sim.webhooks.problems[-1].startswith("40008")
        assert hook.sim.view("alice").from_bots == []


async def test_no_answer_in_time_is_none_and_a_poll_goes_on() -> None:
    async with hooked() as hook:
        hook.answers = lambda said: _stream("1") if said["msgtype"] == "text" else None
        hook.sim.people.say("alice", "x")
        await hook.over(1)
        await hook.sim.fake.advance(1)
        await hook.sim.until(lambda: hook.sim.counts.get("poll") == 1)
        await hook.sim.fake.advance(5)
        await hook.over(2)
        assert hook.sim.webhooks.problems == ["poll: no answer in time"]
        hook.answers = lambda _: _stream("other", sid="T")
        await hook.sim.fake.advance(1)
        await hook.over(3)
        assert hook.sim.webhooks.problems[-1] == "asked for the stream S, the answer is about 'T'"
        hook.answers = lambda _: _stream("2", finish=True)
        await hook.sim.fake.advance(1)
        await hook.over(4)
        assert [each.text for each in hook.sim.view("alice").from_bots] == ["2"]


@pytest.mark.parametrize(("kind", "heard"), [("duplicate", 2), ("lose", 0), ("delay", 1)])
async def test_a_request_may_come_twice_late_or_never(kind: str, heard: int) -> None:
    async with hooked() as hook:
        hook.sim.faults.add(Fault("post", kind, seconds=3))
        hook.sim.people.say("alice", "x")
        await hook.sim.fake.settle()
        assert not (kind == "delay" and hook.heard)
        await hook.sim.fake.advance(3)
        await hook.over(heard)
        assert len(hook.heard) == heard
        assert len({each["msgid"] for each in hook.heard}) == min(heard, 1)


async def test_a_poll_may_be_lost_and_stopping_ends_all_of_them() -> None:
    async with hooked() as hook:
        hook.answers = lambda _: _stream("1")
        hook.sim.faults.add(Fault("poll", "lose"))
        hook.sim.people.say("alice", "x")
        await hook.over(1)
        await hook.sim.fake.advance(1)
        await hook.sim.fake.settle()
        assert len(hook.heard) == 1
        await hook.sim.fake.advance(1)
        await hook.over(2)
        await hook.sim.stop()
        await hook.sim.fake.advance(10)
        assert len(hook.heard) == 2
