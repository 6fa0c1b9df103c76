"""The official SDK against the simulated WeCom: a client that we did not write takes its frames, answers, refusals.

The SDK always passes a TLS context, also for `ws://`, and obeys the environment's proxies; the tests take both away.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.wecom_bots import PNG, card
from turnwire.sim.wecom import Fault, Switches, WecomSim

with warnings.catch_warnings():
    # It imports a module of websockets that is deprecated.
    warnings.simplefilter("ignore")
    aibot: Any = pytest.importorskip("aibot", reason="wecom-aibot-python-sdk is not installed")
    WS: Any = importlib.import_module("aibot.ws")

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks]


class Client:
    """The SDK's client, and all that it emits."""

    def __init__(self, sim: WecomSim, secret: str = "", **options: Any) -> None:
        said = {"bot_id": sim.bot_id, "secret": secret or sim.secret, "ws_url": sim.ws_url, **options}
        self.sdk = aibot.WSClient(aibot.WSClientOptions(**said))
        self.emitted: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        for name in ("authenticated", "disconnected", "reconnecting", "error", "message", "event"):
            self.sdk.on(name, self._listener(name))

    def _listener(self, name: str) -> Any:
        return lambda *args: self.emitted.put_nowait((name, args[0] if args else None))

    async def next(self, name: str) -> Any:
        """What comes with the next of that name."""
        while True:
            got, value = await self.emitted.get()
            if got == name:
                return value

    async def upload(self, data: bytes, name: str) -> str:
        """A file by the SDK's private way, which takes any command."""
        send = self.sdk._ws_manager.send_reply
        said = {"type": "file", "filename": name, "total_size": len(data), "total_chunks": 1}
        init = await send("up_1", {**said, "md5": hashlib.md5(data).hexdigest()}, "aibot_upload_media_init")
        upload = {"upload_id": init["body"]["upload_id"]}
        chunk = {**upload, "chunk_index": 0, "base64_data": base64.b64encode(data).decode()}
        await send("up_2", chunk, "aibot_upload_media_chunk")
        return str((await send("up_3", upload, "aibot_upload_media_finish"))["body"]["media_id"])


@contextlib.asynccontextmanager
async def _talking(
    monkeypatch: pytest.MonkeyPatch, switches: Switches | None = None, **options: Any
) -> AsyncIterator[tuple[WecomSim, Client]]:
    monkeypatch.setattr(WS, "_SSL_CONTEXT", None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    async with WecomSim(switches=switches) as sim:
        client = Client(sim, **options)
        await client.sdk.connect()
        try:
            yield sim, client
        finally:
            client.sdk.disconnect()
            await sim.until(lambda: not sim.sockets.sockets)


async def test_the_sdk_streams_an_answer_with_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch) as (sim, client):
        await client.next("authenticated")
        sim.people.say("alice", "make a report")
        frame = await client.next("message")
        assert frame["body"]["text"]["content"] == "make a report"
        sdk = client.sdk
        await sdk.reply_stream(frame, "S1", "<think></think>", feedback={"id": "f1"})
        await sdk.reply_stream(frame, "S1", "Working on it")
        media_id = await client.upload(b"numbers", "报告.txt")
        await sdk.send_message("alice", {"chat_type": 1, "msgtype": "file", "file": {"media_id": media_id}})
        await sdk.reply_template_card(frame, card())
        await sdk.reply_stream(frame, "S1", "Done.", finish=True)
        await sdk.reply(frame, {"msgtype": "file", "file": {"media_id": media_id}})
        seen = sim.view("alice")
        assert [(each.kind, each.text.partition("\n")[0]) for each in seen.from_bots] == [
            ("stream", "Done."), ("file", "报告.txt"), ("template_card", "Working"),
        ]  # fmt: skip
        assert (seen.from_bots[0].state, seen.from_bots[0].feedback) == ("finished", "")
        assert [each.kind for each in seen.vanished] == ["file"]
        assert max(call.overlapping for call in sim.calls) == 0


async def test_the_sdk_hears_of_events_and_answers_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch) as (sim, client):
        await client.next("authenticated")
        sim.people.enter_chat("alice")
        frame = await client.next("event")
        await client.sdk.reply_welcome(frame, {"msgtype": "text", "text": {"content": "Welcome"}})
        sim.people.say("alice", "hi")
        await client.sdk.reply_template_card(await client.next("message"), card())
        _, _, shown = sim.view("alice").messages
        sim.people.click(shown.message_id, "stop")
        frame = await client.next("event")
        assert frame["body"]["event"]["template_card_event"]["event_key"] == "stop"
        await client.sdk.update_template_card(frame, card("t1", "again"))
        changed = sim.message(shown.message_id).card
        assert changed is not None
        assert changed.buttons == [("again", "AGAIN")]


async def test_the_sdk_decrypts_what_people_send(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch) as (sim, client):
        await client.next("authenticated")
        sim.people.send_file("alice", "图 1.png", PNG, kind="image")
        image = (await client.next("message"))["body"]["image"]
        assert await client.sdk.download_file(image["url"], image["aeskey"]) == (PNG, "图 1.png")


async def test_the_sdk_takes_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch) as (sim, client):
        await client.next("authenticated")
        with pytest.raises(RuntimeError, match="errcode=93006, errmsg=invalid chatid"):
            await client.sdk.send_message("nobody", {"msgtype": "markdown", "markdown": {"content": "x"}})
        sim.people.say("alice", "hi")
        frame = await client.next("message")
        with pytest.raises(RuntimeError, match="errcode=40008"):
            await client.sdk.reply(frame, {"msgtype": "text", "text": {"content": "x"}})
        sim.faults.add(Fault("finish", "expire_stream"))
        await client.sdk.reply_stream(frame, "S1", "x")
        with pytest.raises(RuntimeError, match=r"errcode=846608, .*expired \(>10 minutes\)"):
            await client.sdk.reply_stream(frame, "S1", "x.", finish=True)
        client.sdk._ws_manager._reply_ack_timeout = 0.05
        with pytest.raises(TimeoutError):
            await client.sdk.reply(frame, {"msgtype": "image", "image": {"url": "x"}})
        assert sim.calls[-1].code == 40058


async def test_the_sdk_is_told_of_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch, secret="wrong") as (sim, client):
        assert "853000" in str(await client.next("error"))
        assert client.sdk.is_connected
        assert not sim.sockets.subscribed(sim.bot_id)


async def test_the_sdk_comes_back_after_a_reset_and_not_after_a_clean_close(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch, reconnect_interval=1) as (sim, client):
        await client.next("authenticated")
        sim.sockets.break_all("reset")
        await client.next("disconnected")
        await sim.wait_subscribed()
        await client.next("authenticated")
        sim.sockets.break_all("close")
        await sim.until(lambda: not sim.sockets.sockets)
        assert not client.sdk.is_connected
        assert sim.connections == 2


async def test_two_clients_of_one_bot_kick_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _talking(monkeypatch, Switches(kick_close=0), reconnect_interval=1) as (sim, client):
        await client.next("authenticated")
        other = Client(sim, reconnect_interval=1)
        await other.sdk.connect()
        assert (await client.next("event"))["body"]["event"]["eventtype"] == "disconnected_event"
        assert (await other.next("event"))["body"]["event"]["eventtype"] == "disconnected_event"
        assert sim.counts["subscribe"] >= 3
        other.sdk.disconnect()
