"""A plain bot of the simulated WeCom: frames without retries or rules of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import httpx2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from turnwire.sim.wecom import Switches, WecomSim
from turnwire.testing import FakeClock

Json = dict[str, Any]
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000020000000208060000007293c7d0")


class Bot:
    """One connection of a bot."""

    def __init__(self, sim: WecomSim, ws: ClientConnection) -> None:
        self.sim = sim
        self.ws = ws
        self.told: asyncio.Queue[Json] = asyncio.Queue()
        self.orphans: list[Json] = []
        self.acks: dict[str, list[Json]] = {}
        self.closed: asyncio.Event = asyncio.Event()
        self._waiting: dict[str, list[asyncio.Future[Json]]] = {}
        self._numbers = count(1)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self.ws:
                frame = json.loads(text)
                req_id = frame.get("headers", {}).get("req_id")
                if "cmd" in frame:
                    self.told.put_nowait(frame)
                elif req_id is None:
                    self.orphans.append(frame)
                else:
                    self.acks.setdefault(req_id, []).append(frame)
                    if waiting := self._waiting.get(req_id):
                        waiting.pop(0).set_result(frame)
        self.closed.set()

    async def send(self, cmd: str, body: Json, req_id: str = "") -> str:
        """Sends a frame; its request id."""
        req_id = req_id or f"own_{id(self)}_{next(self._numbers)}"
        await self.ws.send(json.dumps({"cmd": cmd, "headers": {"req_id": req_id}, "body": body}))
        return req_id

    async def answer(self, cmd: str, body: Json, req_id: str = "") -> Json:
        """Sends a frame and gives its answer."""
        req_id = req_id or f"own_{id(self)}_{next(self._numbers)}"
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(req_id, []).append(future)
        await self.send(cmd, body, req_id)
        return await future

    async def code(self, cmd: str, body: Json, req_id: str = "") -> int:
        """Sends a frame; the code of its answer, as a negative one if it came without its request id."""
        orphans, before = len(self.orphans), len(self.acks.get(req_id, []))
        req_id = await self.send(cmd, body, req_id)
        await self.ping()
        if len(self.orphans) > orphans:
            return -int(self.orphans[-1]["errcode"])
        assert len(self.acks.get(req_id, [])) > before, "there is no answer"
        return int(self.acks[req_id][-1]["errcode"])

    async def ping(self) -> Json:
        """Its answer comes behind those of all frames that take no time."""
        return await self.answer("ping", {})

    async def subscribe(self, bot_id: str = "", secret: str = "") -> int:
        """The code of the answer."""
        said = {"bot_id": bot_id or self.sim.bot_id, "secret": secret or self.sim.secret}
        return int((await self.answer("aibot_subscribe", said))["errcode"])

    async def stream(self, req_id: str, text: str, *, finish: bool = False, sid: str = "s1", **more: Any) -> int:
        """A frame of a stream; the code of its answer."""
        stream = {"id": sid, "finish": finish, "content": text, **more}
        return await self.code("aibot_respond_msg", {"msgtype": "stream", "stream": stream}, req_id)

    async def reply(self, req_id: str, kind: str, **said: Any) -> int:
        """Another reply; the code of its answer."""
        return await self.code("aibot_respond_msg", {"msgtype": kind, kind: said}, req_id)

    async def push(self, chatid: str, kind: str = "markdown", chat_type: int = 0, **said: Any) -> int:
        """A push; the code of its answer."""
        body = {"chatid": chatid, "chat_type": chat_type, "msgtype": kind, kind: said}
        return await self.code("aibot_send_msg", body)

    async def upload(self, data: bytes, kind: str = "file", name: str = "a.bin", chunk: int = 512 * 1024) -> str:
        """The media id of a file that was uploaded whole."""
        pieces = [data[at : at + chunk] for at in range(0, len(data), chunk)]
        said = {"type": kind, "filename": name, "total_size": len(data), "total_chunks": len(pieces)}
        made = await self.answer("aibot_upload_media_init", {**said, "md5": hashlib.md5(data).hexdigest()})
        upload_id = made["body"]["upload_id"]
        for index, piece in enumerate(pieces):
            body = {"upload_id": upload_id, "chunk_index": index, "base64_data": base64.b64encode(piece).decode()}
            assert (await self.answer("aibot_upload_media_chunk", body))["errcode"] == 0
        done = await self.answer("aibot_upload_media_finish", {"upload_id": upload_id})
        return str(done["body"]["media_id"])

    async def asked(self, text: str = "hi", chat: str = "alice", **more: Any) -> str:
        """The request id of a message that somebody writes."""
        said = self.sim.people.say(chat, text, **more)
        assert said is not None
        while (await self.told.get())["headers"]["req_id"] != said.req_id:
            continue
        return said.req_id

    async def close(self) -> None:
        """Hangs up."""
        await self.ws.close()
        await self._task


@contextlib.asynccontextmanager
async def connected(sim: WecomSim) -> AsyncIterator[Bot]:
    """A connection that has not subscribed."""
    async with connect(sim.ws_url, proxy=None, ping_interval=None, close_timeout=1, max_size=None) as ws:
        bot = Bot(sim, ws)
        try:
            yield bot
        finally:
            await bot.close()


@contextlib.asynccontextmanager
async def subscribed(sim: WecomSim) -> AsyncIterator[Bot]:
    """A connection that has the first bot."""
    async with connected(sim) as bot:
        assert await bot.subscribe() == 0
        yield bot


class Sim(WecomSim):
    """A simulator on a clock that a test moves."""

    def __init__(self, switches: Switches | None = None, **more: Any) -> None:
        self.fake = FakeClock()
        super().__init__(clock=self.fake, switches=switches or Switches(ping_timeout=0), **more)


@contextlib.asynccontextmanager
async def talking(**switches: Any) -> AsyncIterator[Bot]:
    """A simulator on a clock that stands still, and a bot that has subscribed; connections need no pings."""
    async with Sim(Switches(**{"ping_timeout": 0, **switches})) as sim, subscribed(sim) as bot:
        yield bot


def clock_of(bot: Bot) -> FakeClock:
    """The clock of its simulator."""
    assert isinstance(bot.sim.clock, FakeClock)
    return bot.sim.clock


def http(sim: WecomSim) -> httpx2.AsyncClient:
    """A client of its addresses."""
    return httpx2.AsyncClient(base_url=sim.base_url, trust_env=False, verify=False, timeout=10)


def card(task: str = "t1", *keys: str) -> Json:
    """A template card with buttons."""
    buttons = [{"text": key.upper(), "style": 1, "key": key} for key in keys or ("stop",)]
    title = {"title": "Working", "desc": "step 1"}
    return {"card_type": "button_interaction", "main_title": title, "task_id": task, "button_list": buttons}
