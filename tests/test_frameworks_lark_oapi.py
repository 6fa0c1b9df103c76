"""The official SDK against the simulated tenant: a client that we did not write takes its answers, frames, refusals.

The SDK blocks while it fetches a token, so that it gets a thread of its own.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from turnwire.sim.feishu import Fault, FeishuSim

lark: Any = pytest.importorskip("lark_oapi", reason="lark-oapi is not installed")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """The SDK leaves loops and sockets open; that must not be found in a later test."""
    yield
    gc.collect()


CARDKIT: Any = importlib.import_module("lark_oapi.api.cardkit.v1")
IM: Any = importlib.import_module("lark_oapi.api.im.v1")
LONG: Any = importlib.import_module("lark_oapi.ws.client")
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000020000000208060000007293c7d0")


def _client(sim: FeishuSim) -> Any:
    # The SDK keeps tokens per app for the whole process, whatever the address.
    sim.add_app(f"cli_{id(sim)}", "secret", "SDK bot")
    sim.people.add_bot(sim.group, f"cli_{id(sim)}")
    return lark.Client.builder().app_id(f"cli_{id(sim)}").app_secret("secret").domain(sim.base_url).timeout(5).build()


def _made(module: Any, name: str, **fields: Any) -> Any:
    builder = getattr(module, name).builder()
    for field, value in fields.items():
        builder = getattr(builder, field)(value)
    return builder.build()


def _body(module: Any, name: str, path: dict[str, Any], **fields: Any) -> Any:
    return _made(module, name, **path, request_body=_made(module, f"{name}Body", **fields))


def _card(text: str, *, streaming: bool) -> str:
    elements = [{"tag": "markdown", "element_id": "md", "content": text}]
    return json.dumps({"schema": "2.0", "config": {"streaming_mode": streaming}, "body": {"elements": elements}})


def _turn(client: Any, asked: str) -> str:
    """A card's whole life; the id of its message."""
    cards, elements = client.cardkit.v1.card, client.cardkit.v1.card_element
    made = cards.create(_body(CARDKIT, "CreateCardRequest", {}, type="card_json", data=_card("...", streaming=True)))
    assert made.success(), made.msg
    card = {"card_id": made.data.card_id}
    content = json.dumps({"type": "card", "data": card})
    sent = client.im.v1.message.reply(
        _body(IM, "ReplyMessageRequest", {"message_id": asked}, msg_type="interactive", content=content, uuid="turn-1")
    )
    assert sent.success(), sent.msg
    for sequence, text in enumerate(["Hel", "Hello"], 1):
        path = {**card, "element_id": "md"}
        assert elements.content(
            _body(CARDKIT, "ContentCardElementRequest", path, content=text, sequence=sequence)
        ).success()
    late = elements.content(_body(CARDKIT, "ContentCardElementRequest", path, content="late", sequence=2))
    assert (late.code, late.raw.status_code) == (300317, 400)
    actions = json.dumps(
        [{"action": "add_elements", "params": {"type": "append", "elements": [{"tag": "hr", "element_id": "line"}]}}]
    )
    assert cards.batch_update(_body(CARDKIT, "BatchUpdateCardRequest", card, actions=actions, sequence=3)).success()
    gone = _body(CARDKIT, "DeleteCardElementRequest", {**card, "element_id": "line"}, sequence=4)
    assert elements.delete(gone).success()
    new = _made(CARDKIT, "Card", type="card_json", data=_card("Hello world", streaming=False))
    assert cards.update(_body(CARDKIT, "UpdateCardRequest", card, card=new, sequence=5)).success()
    settings = json.dumps({"config": {"streaming_mode": False, "summary": {"content": "Hello"}}})
    assert cards.settings(_body(CARDKIT, "SettingsCardRequest", card, settings=settings, sequence=6)).success()
    assert late.get_log_id()
    return str(sent.data.message_id)


async def test_the_sdk_streams_a_card() -> None:
    async with FeishuSim() as sim:
        client = _client(sim)
        asked = sim.people.say(sim.group, "hi", mention=f"cli_{id(sim)}")
        message = sim.message(await asyncio.to_thread(_turn, client, asked))
        assert (message.text, message.streaming, message.parent_id) == ("Hello world", False, asked)
        assert message.card is not None
        assert message.card.summary == "Hello"


async def test_the_sdk_uploads_sends_and_reads_files() -> None:
    def work() -> bytes:
        image = _body(IM, "CreateImageRequest", {}, image_type="message", image=io.BytesIO(PNG))
        shown = client.im.v1.image.create(image)
        assert shown.success(), shown.msg
        file = _body(IM, "CreateFileRequest", {}, file_type="stream", file_name="报告.txt", file=io.BytesIO(b"numbers"))
        made = client.im.v1.file.create(file)
        assert made.success(), made.msg
        content = json.dumps({"file_key": made.data.file_key})
        said = {"receive_id": sim.group, "msg_type": "file", "content": content, "uuid": "file-1"}
        sent = client.im.v1.message.create(_body(IM, "CreateMessageRequest", {"receive_id_type": "chat_id"}, **said))
        assert sent.success(), sent.msg
        emoji = _made(IM, "Emoji", emoji_type="Typing")
        path = {"message_id": sent.data.message_id}
        assert client.im.v1.message_reaction.create(
            _body(IM, "CreateMessageReactionRequest", path, reaction_type=emoji)
        ).success()
        got = client.im.v1.message_resource.get(
            _made(IM, "GetMessageResourceRequest", **path, file_key=made.data.file_key, type="file")
        )
        assert got.success(), got.msg
        return bytes(got.file.read())

    async with FeishuSim() as sim:
        client = _client(sim)
        assert await asyncio.to_thread(work) == b"numbers"
        (message,) = sim.view(sim.group).from_bots
        assert message.file is not None
        assert (message.file.name, message.file.size) == ("报告.txt", 7)
        assert message.reactions == [("Typing", "SDK bot")]


class _Listener:
    """The SDK's long connection in its own thread and loop, which the SDK keeps in a global."""

    def __init__(self, sim: FeishuSim, handler: Any) -> None:
        self.loop = asyncio.new_event_loop()
        if not LONG.loop.is_running():
            # The SDK made it when it was imported; nobody else closes it.
            LONG.loop.close()
        LONG.loop = self.loop
        app = sim.tenant.apps[f"cli_{id(sim)}"]
        self.client = lark.ws.Client(app.app_id, app.secret, event_handler=handler, domain=sim.base_url)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.client.start()
        except RuntimeError:
            return  # stopped
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)


@pytest.mark.filterwarnings("ignore")
async def test_the_sdk_takes_events_and_answers_clicks_on_its_long_connection() -> None:
    heard: list[str] = []

    def on_message(event: Any) -> None:
        heard.append(json.loads(event.event.message.content)["text"])

    def on_click(event: Any) -> Any:
        model = importlib.import_module("lark_oapi.event.callback.model.p2_card_action_trigger")
        return model.P2CardActionTriggerResponse({"toast": {"type": "info", "content": event.event.action.value["do"]}})

    handler = (
        lark.EventDispatcherHandler.builder("", "")
        .register_p2_im_message_receive_v1(on_message)
        .register_p2_card_action_trigger(on_click)
        .build()
    )
    async with FeishuSim() as sim:
        client = _client(sim)
        app_id = f"cli_{id(sim)}"
        sim.sockets.split_bytes = 100
        listener = _Listener(sim, handler)
        try:
            sim.people.say(sim.group, "多 " * 200, mention=app_id)
            said = sim.events.deliveries[-1]
            while said.state != "acked":
                await asyncio.sleep(0)
            assert heard == ["@_user_1 " + "多 " * 200]
            card = {"schema": "2.0", "body": {"elements": [_button("Stop", {"do": "stopping"})]}}
            fields = {"receive_id": sim.group, "msg_type": "interactive", "content": json.dumps(card)}
            request = _body(IM, "CreateMessageRequest", {"receive_id_type": "chat_id"}, **fields)
            sent = await asyncio.to_thread(client.im.v1.message.create, request)
            click = sim.people.click(sent.data.message_id, "Stop")
            while click.state != "acked":
                await asyncio.sleep(0)
            assert sim.message(sent.data.message_id).notices == ["stopping"]
        finally:
            listener.stop()


def _button(words: str, value: dict[str, str]) -> dict[str, Any]:
    behaviors = [{"type": "callback", "value": value}]
    return {"tag": "button", "text": {"tag": "plain_text", "content": words}, "behaviors": behaviors}


async def test_the_sdk_understands_the_limits() -> None:
    async with FeishuSim() as sim:
        client = _client(sim)
        sim.faults.add(Fault("send", "refuse", code=99991400, seconds=7))
        fields = {"receive_id": sim.group, "msg_type": "text", "content": json.dumps({"text": "hi"})}
        request = _body(IM, "CreateMessageRequest", {"receive_id_type": "chat_id"}, **fields)
        refused = await asyncio.to_thread(client.im.v1.message.create, request)
        assert (refused.code, refused.raw.status_code) == (99991400, 429)
        assert refused.raw.headers["x-ogw-ratelimit-reset"] == "7"
        assert (await asyncio.to_thread(client.im.v1.message.create, request)).success()
        assert len(sim.view(sim.group).from_bots) == 1
