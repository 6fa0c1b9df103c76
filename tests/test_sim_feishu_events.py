"""Events of the simulated tenant: their bodies, when they come again, and both ways in which they travel."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.feishu_calls import Calls, calling, card, markdown
from turnwire.sim._feishu_events import Delivery
from turnwire.sim._feishu_frames import CONTROL, DATA, BadFrame, Frame, decode, encode
from turnwire.sim._feishu_webhook import encrypt, signature
from turnwire.sim.feishu import Fault

pytestmark = pytest.mark.anyio

PING = "0800100018f681801020002a0c0a0474797065120470696e67"
EVENT = (
    "08011002180720012a0d0a047479706512056576656e742a100a0a6d6573736167655f696412026d312a080a0373756d1201312a080a0373"
    "65711201302a0e0a0874726163655f69641202743142107b22736368656d61223a22322e30227d"
)


class Ear:
    """A transport inside the test; acknowledges what it is told to."""

    def __init__(self, calls: Calls, *, ok: bool = True, answer: Any = None) -> None:
        self.heard: list[Delivery] = []
        self.at: list[float] = []
        self.ok = ok
        self.answer = answer
        self.calls = calls
        self.started = calls.clock.now()
        calls.sim.events.attach(calls.sim.app_id, self)

    def __call__(self, delivery: Delivery) -> None:
        self.heard.append(delivery)
        self.at.append(self.calls.clock.now() - self.started)
        self.calls.sim.events.ack(delivery, ok=self.ok, answer=self.answer)

    @property
    def types(self) -> list[str]:
        return [each.event_type for each in self.heard]

    @property
    def texts(self) -> list[str]:
        return [json.loads(each.body["event"]["message"]["content"])["text"] for each in self.heard]


# What is said


async def test_a_message_is_told_to_the_bots_that_it_is_for() -> None:
    async with calling() as calls:
        ear, people = Ear(calls), calls.sim.people
        people.say(calls.sim.group, "not for bots", mention=False)
        first = people.say(calls.sim.group, "你好")
        second = people.say(calls.sim.app_id, "alone", user="ou_bob", reply_to="")
        third = people.say(calls.sim.group, "again", reply_to=first)
        assert ear.types == ["im.message.receive_v1"] * 3
        header, event = ear.heard[0].body["header"], ear.heard[0].body["event"]
        assert (header["app_id"], header["create_time"]) == (calls.sim.app_id, "1700000000000")
        message = event["message"]
        assert (message["message_id"], message["chat_type"]) == (first, "group")
        assert json.loads(message["content"]) == {"text": "@_user_1 你好"}
        assert message["mentions"][0]["id"]["open_id"] == "ou_bot_cli_sim"
        assert event["sender"]["sender_id"]["open_id"] == "ou_alice"
        alone, reply = ear.heard[1].body["event"]["message"], ear.heard[2].body["event"]["message"]
        assert (alone["message_id"], alone["chat_type"], "mentions" in alone) == (second, "p2p", False)
        assert (reply["message_id"], reply["parent_id"], reply["root_id"]) == (third, first, first)
        assert calls.sim.view(calls.sim.group).messages[1].text == "@Sim bot 你好"


async def test_what_else_people_do_is_told_too() -> None:
    async with calling() as calls:
        ear, sim = Ear(calls), calls.sim
        asked = sim.people.say(sim.group, "a")
        sim.people.react(asked, "OK")
        sim.people.recall(asked)
        sim.people.remove_bot(sim.group, sim.app_id)
        sim.people.say(sim.group, "nobody hears this")
        sim.people.add_bot(sim.group, sim.app_id)
        sim.people.dissolve(sim.group)
        assert ear.types[1:] == [
            "im.message.reaction.created_v1",
            "im.message.recalled_v1",
            "im.chat.member.bot.deleted_v1",
            "im.chat.member.bot.added_v1",
            "im.chat.disbanded_v1",
        ]
        with pytest.raises(ValueError, match="there is no chat"):
            sim.people.say("oc_none", "x")
        with pytest.raises(ValueError, match="is not in"):
            sim.people.say(sim.p2p(), "x", user="ou_bob")


# When it comes again


async def test_an_event_comes_again_four_times_until_it_is_acknowledged() -> None:
    async with calling() as calls:
        ear = Ear(calls, ok=False)
        calls.sim.people.say(calls.sim.group, "a")
        await calls.clock.advance(12 * 3600)
        assert ear.at == [0, 15, 315, 3915, 25515]
        assert ear.heard[0].state == "over"
        calls.sim.people.say(calls.sim.group, "b")
        ear.ok = True
        await calls.clock.advance(15)
        assert (ear.texts[-1], ear.heard[-1].state) == ("@_user_1 b", "acked")
        assert calls.clock.pending == 0


async def test_an_event_waits_for_somebody_who_takes_it() -> None:
    async with calling() as calls:
        calls.sim.people.say(calls.sim.group, "a")
        await calls.clock.advance(60)
        ear = Ear(calls)
        assert ear.texts == ["@_user_1 a"]


async def test_a_tenant_that_was_down_still_owes_its_events() -> None:
    async with calling() as calls:
        ear = Ear(calls, ok=False)
        calls.sim.people.say(calls.sim.group, "a")
        calls.sim.faults.add(Fault("event", "delay", seconds=60))
        calls.sim.people.say(calls.sim.group, "b")
        address = calls.sim.base_url
        await calls.sim.stop()
        assert calls.clock.pending == 0
        await calls.clock.advance(10)
        ear.ok = True
        await calls.sim.start()
        assert calls.sim.base_url == address
        await calls.clock.advance(60)
        assert (ear.texts, ear.at) == (["@_user_1 a", "@_user_1 a", "@_user_1 b"], [0, 15, 60])


async def test_events_come_twice_late_or_in_another_order() -> None:
    async with calling() as calls:
        ear, sim = Ear(calls), calls.sim

        def say(*texts: str) -> list[str]:
            ear.heard.clear()
            for text in texts:
                sim.people.say(sim.group, text)
            return [text.removeprefix("@_user_1 ") for text in ear.texts]

        sim.faults.add(Fault("event", "duplicate"))
        assert say("a", "b") == ["a", "a", "b"]
        assert ear.heard[0].event_id == ear.heard[1].event_id
        sim.faults.add(Fault("event", "reorder"))
        assert say("a", "b") == ["b", "a"]
        sim.faults.add(Fault("event", "delay", seconds=6 * 3600))
        assert say("a", "b") == ["b"]
        await calls.clock.advance(6 * 3600)
        assert ear.texts[-1] == "@_user_1 a"
        sim.faults.add(Fault("event", "lost_ack"))
        assert say("a") == ["a"]
        await calls.clock.advance(15)
        assert ear.texts == ["@_user_1 a"] * 2
        await calls.clock.advance(12 * 3600)
        assert len(ear.heard) == 2


# Clicks


def _button(**more: Any) -> Any:
    callback = {"type": "callback", "value": {"do": "stop"}}
    words = {"tag": "plain_text", "content": "Stop"}
    return {"tag": "button", "element_id": "stop", "text": words, "behaviors": [callback], **more}


async def test_a_click_locks_the_card_until_it_is_answered() -> None:
    async with calling() as calls:
        ear = Ear(calls, ok=False)
        card_id, message_id = await calls.streaming(markdown("..."), _button())
        click = calls.sim.people.click(message_id, "Stop")
        event = ear.heard[0].body["event"]
        assert event["action"]["value"] == {"do": "stop"}
        assert event["context"] == {"open_message_id": message_id, "open_chat_id": calls.sim.group}
        assert len(ear.heard[0].body["header"]["create_time"]) == 16
        assert (await calls.content(card_id, "x")).code == 200810
        calls.sim.events.ack(click, ok=True, answer={"toast": {"type": "info", "content": "Stopping"}})
        assert (await calls.content(card_id, "x")).code == 0
        assert calls.sim.message(message_id).notices == ["Stopping"]
        calls.sim.people.click(message_id)
        await calls.clock.advance(3)
        assert (await calls.content(card_id, "y")).code == 0
        assert calls.sim.message(message_id).notices[-1] == "200341"
        await calls.clock.advance(3600)
        assert len(ear.heard) == 2
        with pytest.raises(ValueError, match="no button"):
            calls.sim.people.click(message_id, "Start")


async def test_a_clicks_answer_may_change_the_card_but_not_while_it_is_written() -> None:
    async with calling() as calls:
        new = {"card": {"type": "raw", "data": card(markdown("answered"))}}
        Ear(calls, answer=new)
        card_id, message_id = await calls.streaming(markdown("..."), _button())
        calls.sim.people.click(message_id)
        assert calls.sim.message(message_id).streaming
        assert (await calls.settings(card_id, {"streaming_mode": False})).code == 0
        calls.sim.people.click(message_id)
        assert calls.sim.message(message_id).text == "answered"


async def test_a_click_without_anybody_to_hear_it_tells_the_person() -> None:
    async with calling() as calls:
        _, message_id = await calls.streaming(_button())
        assert calls.sim.people.click(message_id).state == "over"
        assert calls.sim.message(message_id).notices == ["200340"]


async def test_a_clicks_token_changes_the_card_twice_within_half_an_hour() -> None:
    async with calling() as calls:
        ear = Ear(calls)
        card_id, message_id = await calls.streaming(markdown("..."), _button())
        await calls.settings(card_id, {"streaming_mode": False})

        async def update(text: str) -> int:
            body = {"token": ear.heard[-1].body["event"]["token"], "card": card(markdown(text), _button())}
            return (await calls("POST", "/interactive/v1/card/update", body)).code

        calls.sim.people.click(message_id)
        assert [await update(text) for text in "abc"] == [0, 0, 10002]
        assert calls.sim.message(message_id).text == "b\nStop"
        calls.sim.people.click(message_id)
        await calls.clock.advance(1800)
        assert await update("late") == 10002


# The long connection


def test_frames_are_those_of_the_platform() -> None:
    ping = Frame(CONTROL, {"type": "ping"}, service=33554678)
    assert encode(ping).hex() == PING
    headers = {"type": "event", "message_id": "m1", "sum": "1", "seq": "0", "trace_id": "t1"}
    event = Frame(DATA, headers, b'{"schema":"2.0"}', service=7, seq_id=1, log_id=2)
    assert encode(event).hex() == EVENT
    assert [decode(bytes.fromhex(each)) for each in (PING, EVENT)] == [ping, event]
    for bad in ("08", "0800ff", "2a05", "2080808080808080808080808001"):
        with pytest.raises(BadFrame):
            decode(bytes.fromhex(bad))


async def _endpoint(calls: Calls, **more: str) -> Any:
    said = {"AppID": calls.sim.app_id, "AppSecret": calls.sim.app_secret, **more}
    return (await calls.http.post("/callback/ws/endpoint", json=said)).json()


@asynccontextmanager
async def _connected(calls: Calls) -> AsyncIterator[ClientConnection]:
    url = (await _endpoint(calls))["data"]["URL"]
    async with connect(url, proxy=None, compression=None) as socket:
        yield socket


async def _event(socket: ClientConnection) -> Frame:
    """The next event, whole."""
    parts: list[Frame] = []
    while not parts or len(parts) < int(parts[0].headers["sum"]):
        data = await socket.recv()
        assert isinstance(data, bytes)
        parts.append(decode(data))
    assert [each.headers["seq"] for each in parts] == [str(number) for number in range(len(parts))]
    parts[0].payload = b"".join(each.payload for each in parts)
    return parts[0]


async def _ack(socket: ClientConnection, frame: Frame, code: int, data: Any = None) -> None:
    frame.headers["biz_rt"] = "1"
    said = {"code": code, **({"data": base64.b64encode(json.dumps(data).encode()).decode()} if data else {})}
    frame.payload = json.dumps(said).encode()
    await socket.send(encode(frame))


async def test_the_endpoint_says_where_to_connect_or_why_not() -> None:
    async with calling() as calls:
        said = await _endpoint(calls)
        assert said["code"] == 0
        assert said["data"]["URL"].startswith("ws://127.0.0.1:")
        assert "device_id=" in said["data"]["URL"]
        assert f"service_id={33554678}" in said["data"]["URL"]
        assert said["data"]["ClientConfig"]["PingInterval"] == 120
        assert (await _endpoint(calls, AppSecret="wrong"))["code"] == 514
        assert (await _endpoint(calls, AppID=""))["code"] == 1000040344
        for code in (1, 1000040350):
            calls.sim.faults.add(Fault("endpoint", "refuse", code=code))
            assert (await _endpoint(calls))["code"] == code
        with pytest.raises(InvalidStatus) as refused:
            await connect(said["data"]["URL"] + "x", proxy=None)
        assert refused.value.response.headers["handshake-status"] == "514"


async def test_events_travel_in_pieces_and_are_acknowledged_by_200_only() -> None:
    async with calling() as calls:
        calls.sim.sockets.split_bytes = 100
        async with _connected(calls) as socket:
            await socket.send(bytes.fromhex(PING))
            pong = decode(await socket.recv())  # type: ignore[arg-type]
            assert (pong.headers["type"], json.loads(pong.payload)["ReconnectNonce"]) == ("pong", 30)
            calls.sim.people.say(calls.sim.group, "长" * 100)
            delivery = calls.sim.events.deliveries[0]
            frame = await _event(socket)
            assert int(frame.headers["sum"]) > 5
            assert json.loads(frame.payload) == delivery.body
            await _ack(socket, frame, 500)
            await _settled(calls, socket)
            assert delivery.state == "sent"
            await calls.clock.advance(15)
            await _ack(socket, await _event(socket), 200, {"toast": {"content": "ok"}})
            await calls.clock.until(lambda: delivery.state == "acked")
            assert delivery.answer == {"toast": {"content": "ok"}}


async def _settled(calls: Calls, socket: ClientConnection) -> None:
    """Returns once the simulator has read what was sent: it has answered a ping behind it."""
    await socket.send(bytes.fromhex(PING))
    await socket.recv()


async def test_each_event_goes_to_one_connection_and_a_broken_one_loses_none() -> None:
    async with calling() as calls, _connected(calls) as one, _connected(calls) as other:
        await calls.clock.until(lambda: len(calls.sim.sockets.sockets) == 2)
        heard: list[str] = []

        async def listen(socket: ClientConnection, name: str) -> None:
            while True:
                frame = await _event(socket)
                heard.append(name)
                await _ack(socket, frame, 200)

        tasks = [asyncio.create_task(listen(one, "one")), asyncio.create_task(listen(other, "other"))]
        for number in range(20):
            calls.sim.people.say(calls.sim.group, str(number))
        await calls.clock.until(lambda: all(each.state == "acked" for each in calls.sim.events.deliveries))
        assert len(heard) == 20
        assert set(heard) == {"one", "other"}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        calls.sim.faults.add(Fault("socket", "ws_reset"))
        calls.sim.people.say(calls.sim.group, "lost")
        await calls.clock.until(lambda: len(calls.sim.sockets.sockets) == 1)
        await calls.clock.advance(15)
        left = one if calls.sim.sockets.sockets[0].line.number == _number(calls, one) else other
        assert "lost" in json.loads((await _event(left)).payload)["event"]["message"]["content"]
        calls.sim.sockets.reset_all()
        with pytest.raises(ConnectionClosed):
            await left.recv()


def _number(calls: Calls, socket: ClientConnection) -> int:
    """Which of the simulator's connections a socket is."""
    port = socket.local_address[1]
    found = [each for each in calls.sim.sockets.sockets if each.line.writer.get_extra_info("peername")[1] == port]
    return found[0].line.number if found else 0


async def test_an_event_on_a_connection_that_is_being_closed_comes_again_as_on_a_broken_one() -> None:
    async with calling() as calls, _connected(calls) as socket:
        await _settled(calls, socket)
        calls.sim.faults.add(Fault("socket", "ws_close"), Fault("socket", "ws_close", nth=2))
        for text in ("closes", "is late", "is later"):
            calls.sim.people.say(calls.sim.group, text)
        await socket.wait_closed()
        assert socket.close_code == 1000
        async with _connected(calls) as other:
            await _settled(calls, other)
            await calls.clock.advance(15)
            said = [json.loads((await _event(other)).payload)["event"]["message"]["content"] for _ in range(3)]
            assert [json.loads(each)["text"] for each in said] == [
                "@_user_1 closes",
                "@_user_1 is late",
                "@_user_1 is later",
            ]


async def test_a_client_may_close_at_once_behind_a_ping() -> None:
    async with calling() as calls, _connected(calls) as socket:
        await _settled(calls, socket)
        socket.protocol.send_binary(bytes.fromhex(PING))
        socket.protocol.send_close(1000)
        socket.transport.write(b"".join(socket.protocol.data_to_send()))
        await socket.wait_closed()
        assert socket.protocol.close_code == 1000
        await calls.clock.until(lambda: calls.sim.sockets.sockets == [])


async def test_an_app_has_fifty_connections() -> None:
    async with calling() as calls, _connected(calls) as socket:
        await _settled(calls, socket)
        url = (await _endpoint(calls))["data"]["URL"]
        calls.sim.sockets.sockets.extend(calls.sim.sockets.sockets * 49)
        assert (await _endpoint(calls))["code"] == 1000040350
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, proxy=None)
        assert refused.value.response.headers["handshake-autherrcode"] == "1000040350"
        del calls.sim.sockets.sockets[1:]


# Webhooks


class Hook:
    """A server that is sent events."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.key = ""
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:-2]]
            headers = {name.lower(): value for name, _, value in lines}
            body = await reader.readexactly(int(headers["content-length"]))
            self.bodies.append(body)
            self.headers.append(headers)
            answer = json.dumps({"challenge": self.read(body).get("challenge")}).encode()
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (self.status, len(answer)) + answer)

    def read(self, body: bytes) -> Any:
        said = json.loads(body)
        return json.loads(_decrypted(self.key, said["encrypt"])) if self.key else said


def _decrypted(key: str, text: str) -> bytes:
    raw = base64.b64decode(text)
    worker = Cipher(algorithms.AES(hashlib.sha256(key.encode()).digest()), modes.CBC(raw[:16])).decryptor()
    padded = worker.update(raw[16:]) + worker.finalize()
    return padded[: -padded[-1]]


@asynccontextmanager
async def _hook() -> AsyncIterator[Hook]:
    hook = Hook()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await hook.serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield hook
    server.close()


def test_encryption_and_signature_are_those_of_the_platform() -> None:
    assert _decrypted("test key", "P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk=") == b"hello world"
    iv = bytes(range(16))
    text = '{"type":"url_verification","challenge":"c1","token":"vt"}'
    assert encrypt("ek_test", text, iv) == (
        "AAECAwQFBgcICQoLDA0OD0C3IHVnD7+FdlVcp1aCmC4zD6V9moTqPEczTo3dQLn08B/3OAEosazv6MLabOJUbLs4gwvD5bXQy6lNpUpAgmg="
    )
    signed = "7438790b31b0351d61b3fade04f4f6abf3d4e68d9fbe979088248900646f200b"
    assert signature("1700000000", "n0nce", "ek_test", b'{"schema":"2.0"}') == signed


@pytest.mark.parametrize("key", ["", "ek_test"])
async def test_webhooks_are_verified_signed_and_sent_again(key: str) -> None:
    async with _hook() as hook, calling() as calls:
        app = calls.sim.tenant.apps[calls.sim.app_id]
        app.encrypt_key, hook.key, app.verification_token = key, key, "vt"
        assert await calls.sim.webhooks.connect(app.app_id, hook.url)
        assert (await _endpoint(calls))["code"] == 403
        hook.status = 500
        calls.sim.people.say(calls.sim.group, "a")
        delivery = calls.sim.events.deliveries[0]
        await calls.clock.until(lambda: len(hook.bodies) == 2)
        hook.status = 200
        await calls.clock.advance(15)
        await calls.clock.until(lambda: delivery.state == "acked")
        assert [hook.read(body) for body in hook.bodies[1:]] == [delivery.body] * 2
        assert delivery.body["header"]["token"] == "vt"
        for headers, body in zip(hook.headers, hook.bodies, strict=True):
            signed = [headers.get(f"x-lark-{name}", "") for name in ("request-timestamp", "request-nonce", "signature")]
            assert signed[2] == (signature(signed[0], signed[1], key, body) if key else "")


async def test_a_webhook_that_does_not_answer_the_challenge_gets_no_events() -> None:
    async with _hook() as hook, calling() as calls:
        hook.status = 404
        assert not await calls.sim.webhooks.connect(calls.sim.app_id, hook.url)
        calls.sim.people.say(calls.sim.group, "a")
        assert calls.sim.events.deliveries[0].state == "waiting"
        assert not await calls.sim.webhooks.connect(calls.sim.app_id, "http://127.0.0.1:1/none")
