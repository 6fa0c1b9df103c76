"""A simulated WeCom: its bots, their long connections and webhooks, its limits, its bad days, and what people see.

Guarantee: it keeps the state that the platform keeps and refuses what the platform refuses, with the platform's codes;
`view` shows what a person would see, whatever a client was told:

    async with WecomSim(clock=clock) as sim:
        ...  # a client with sim.ws_url, sim.bot_id and sim.secret
        sim.people.say("alice", "What is new?")
        sim.faults.add(Fault("finish", "ack_lost"))
        assert [message.text for message in sim.view("alice").from_bots] == ["Nothing."]

What the documents leave open is decided by `Switches`; what goes wrong by faults, whose kinds `KINDS` lists.
"""

from __future__ import annotations

from urllib.parse import quote

from turnwire.clock import Clock, SystemClock, sleep

from ._http import Request
from ._json import compact, read_object
from ._platform import SimulatedPlatform
from ._serving import Answer, Hang, Reset, Serving
from ._wecom_codes import Refused
from ._wecom_control import CONTROL
from ._wecom_faults import EVENT_KINDS, WecomFaults
from ._wecom_faults import KINDS as FRAME_KINDS
from ._wecom_observer import ALL_OPS as OPS
from ._wecom_observer import Call, Observer
from ._wecom_people import People, downloaded
from ._wecom_say import answer_by_url
from ._wecom_state import DOWNLOAD_LIFE_S, Bot, Callback, Change, Chat, Platform, Switches
from ._wecom_view import CardView, ChatView, MessageView, message_view, view
from ._wecom_webhook import Webhooks
from ._wecom_ws import Connections
from .faults import Fault, UnknownFault

__all__ = [
    "KINDS", "OPS", "Call", "Callback", "CardView", "Change", "ChatView", "Fault", "MessageView", "Switches",
    "UnknownFault", "WecomSim",
]  # fmt: skip

KINDS = {**FRAME_KINDS, **EVENT_KINDS}
BOT_ID, SECRET = "bot_sim", "sim-secret"
GROUP = "wr_Group"
RESPONSE_PATH = "/cgi-bin/aibot/response"


class WecomSim(SimulatedPlatform[Call]):
    """The simulator; use it as an async context manager, or `start` and `stop` it.

    It begins with one bot (`bot_id`, `secret`), one person (`alice`) and one group with both (`group`).

    Args:
        host, port: where it listens; port 0 lets the system choose.
        clock: all time: limits, lifetimes, polls.
        switches: what the documents leave open.
        seed: decides faults with a probability.
        bot_id, secret: of the bot that it begins with.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
        switches: Switches | None = None,
        seed: int = 0,
        bot_id: str = BOT_ID,
        secret: str = SECRET,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.bot_id, self.secret, self.group = bot_id, secret, GROUP
        self.platform = Platform(self.clock, switches or Switches())
        self.faults = WecomFaults(KINDS, seed=seed)
        self.observer = Observer()
        self.sockets = Connections(self.platform, self.faults, self.observer)
        self.webhooks = Webhooks(self.platform, self.faults, self.observer)
        self.people = People(self.platform, self._deliver, lambda: self.base_url)
        serving = Serving(host, port, self._respond, self.sockets.serve)
        super().__init__(serving, self.observer, self.faults)
        self.add_bot(bot_id, secret, "Sim bot")
        self.platform.single(bot_id, "alice")
        self.add_group(GROUP, "Sim group", members=["alice"], bots=[bot_id])

    # Lifecycle

    async def stop(self) -> None:
        """Refuses connections from when it is called, and breaks those that are open. `start` begins again, at the
        same address, with the same state."""
        await self._serving.stop()
        await self.webhooks.close()
        await self.sockets.close()

    @property
    def ws_url(self) -> str:
        """`ws://HOST:PORT`, what clients take for `wss://openws.work.weixin.qq.com`."""
        return self.base_url.replace("http", "ws", 1)

    # What there is

    @property
    def switches(self) -> Switches:
        """What the documents leave open; may be changed at any time."""
        return self.platform.switches

    def add_bot(self, bot_id: str, secret: str, name: str = "") -> None:
        """One more bot, which is in no chat yet."""
        self.platform.bots[bot_id] = Bot(bot_id, secret, name or bot_id)

    def add_group(self, chat_id: str, name: str = "", *, members: list[str], bots: list[str]) -> Chat:
        """One more group. Raises `ValueError` when the id is taken."""
        if chat_id in self.platform.chats:
            raise ValueError(f"there is a chat {chat_id!r} already")
        for each in members:
            self.platform.user(each)
        chat = Chat(chat_id, "group", name or chat_id, list(members), list(bots))
        self.platform.chats[chat_id] = chat
        return chat

    def single(self, user: str = "alice", bot_id: str = "") -> str:
        """The key of what one person and one bot say to each other, which is made if there is none."""
        return self.platform.single(bot_id or self.bot_id, user).key

    async def use_webhook(self, url: str, token: str, aes_key: str, *, bot_id: str = "") -> bool:
        """Switches a bot to webhook mode, once its address has answered the challenge; whether it has. Its long
        connections are kicked."""
        if not await self.webhooks.connect(bot_id or self.bot_id, url, token, aes_key):
            return False
        self.sockets.break_all("kick", bot_id or self.bot_id)
        return True

    # What is seen

    def view(self, chat: str = "alice") -> ChatView:
        """What everybody in a chat sees now: a group by its id, a person's own chat with the first bot by the person's
        id, other chats by their key. Raises `ValueError`."""
        return view(self.platform, self.platform.chat(chat))

    def message(self, message_id: str) -> MessageView:
        """One message as it is seen now. Raises `KeyError`."""
        return message_view(self.platform, self.platform.messages[message_id])

    def changes(self, message_id: str) -> list[Change]:
        """What was seen in a bubble over time. Raises `KeyError`."""
        stream = self.platform.messages[message_id].stream
        return list(stream.changes) if stream else []

    # What was called

    @property
    def hopeless(self) -> list[Call]:
        """Those that an earlier answer had made pointless."""
        return [call for call in self.observer.calls if call.hopeless]

    async def wait_subscribed(self, bot_id: str = "") -> None:
        """Returns once a connection has the bot."""
        await self.until(lambda: self.sockets.subscribed(bot_id or self.bot_id))

    def clear(self) -> None:
        """Forgets faults, calls and rates; chats stay."""
        super().clear()
        self.platform.clear_rates()

    # Requests

    def _deliver(self, callback: Callback) -> None:
        if self.platform.bots[callback.bot_id].webhook is not None:
            self.webhooks.deliver(callback)
        else:
            self.sockets.deliver(callback)

    async def _respond(self, request: Request, raw: bytes, connection: int) -> Answer:
        if request.path.startswith("/_sim"):
            return await CONTROL.answer(self, request, raw)
        file_id = request.path.removeprefix("/media/")
        if request.method == "POST" and request.path == RESPONSE_PATH:
            op, req_id = "response_url", request.query.get("response_code", "")
        elif request.method == "GET" and file_id != request.path:
            op, req_id = "download", file_id
        else:
            return _plain(404, "there is nothing here")
        body = read_object(raw)
        call = self.observer.begin(op, self.clock.now(), connection, req_id, body)
        fault = self.faults.draw(op, req_id)
        call.fault = fault.kind if fault else ""
        code: int | None = None
        try:
            answer = await self._treated(call, fault, request)
            code = answer.code
            return answer
        finally:
            self.observer.end(call, self.clock.now(), code)

    async def _treated(self, call: Call, fault: Fault | None, request: Request) -> Answer:
        kind = fault.kind if fault else ""
        if kind == "lost":
            raise Hang
        if kind in ("reset_before_applying", "close_before_applying"):
            raise Reset
        if fault is not None and kind == "refuse":
            status = fault.code if 400 <= fault.code < 600 else 200
            return Answer(status, compact({"errcode": fault.code, "errmsg": "refused"}).encode(), fault.code)
        if fault is not None and kind == "slow":
            await sleep(self.clock, fault.seconds)
        answer = self._download(call, request) if call.op == "download" else self._by_url(call)
        if kind == "ack_lost":
            raise Hang
        if kind in ("reset_after_applying", "close_after_applying"):
            raise Reset
        return answer

    def _download(self, call: Call, request: Request) -> Answer:
        """A file that a person sent, within five minutes of the message."""
        file = self.platform.files.get(call.req_id)
        if file is None or file.owner or self.clock.now() - file.created >= DOWNLOAD_LIFE_S:
            return _plain(403, "the address is unknown or has expired")
        call.applied = True
        data = downloaded(self.platform, file, request.query.get("bot", ""))
        name = quote(file.name, safe="")
        headers = {"Content-Disposition": f"attachment; filename=\"{name}\"; filename*=UTF-8''{name}"}
        return Answer(200, data, media_type="application/octet-stream", headers=headers)

    def _by_url(self, call: Call) -> Answer:
        try:
            answer_by_url(self.platform, call.req_id, call.body)
        except Refused as refused:
            return Answer(200, compact({"errcode": refused.code, "errmsg": refused.msg}).encode(), refused.code)
        call.applied = True
        return Answer(200, compact({"errcode": 0, "errmsg": "ok"}).encode())


def _plain(status: int, text: str) -> Answer:
    return Answer(status, text.encode(), status, media_type="text/plain")
