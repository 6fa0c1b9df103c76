"""Turns on a simulated WeCom in webhook mode without a gateway, played by processes that die: the platform asks, and
they answer it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import httpx2

from tests.wecom_hook_rig import HOST, KEY, LINKED, PATH, TOKEN, Outwards
from turnwire.channels.wecom.crypto import Envelope
from turnwire.channels.wecom.frames import Json
from turnwire.channels.wecom.heard import stream_of
from turnwire.channels.wecom.hook_surface import HookSurface
from turnwire.channels.wecom.posts import Posts
from turnwire.channels.wecom.reception import Reception
from turnwire.channels.wecom.settings import Bot
from turnwire.channels.wecom.target import Target
from turnwire.channels.wecom.webhook import Post, bubble, open_challenge, open_post, seal_answer
from turnwire.delivery.pacing import LocalPacer
from turnwire.delivery.surface import DeliveryOrder
from turnwire.sim.wecom import Fault as SimFault
from turnwire.sim.wecom import Switches, WecomSim
from turnwire.testing import Crash, FakeClock, MemoryStore, Question, Stage
from turnwire.testing.surfaces import Fault, Seen

REFUSALS: Mapping[Fault, SimFault] = {
    "busy": SimFault("response_url", "refuse", code=846601),
    "content": SimFault("response_url", "refuse", code=40201),
}
NAME = "wecom.main"


class Process:
    """What one process has of the bot; it has nothing any more once it is dead."""

    def __init__(self, platform: HookPlatform) -> None:
        self._stage = platform.stage
        self._number = platform.stage.processes
        clock = platform.clock
        db = MemoryStore(self._stage.store.engine, self._live)
        about: dict[str, Any] = {"mode": "webhook", "token": TOKEN, "aes_key": KEY, "language": "en", **LINKED}
        bot = Bot(name="main", **about)
        self.posts = Posts(
            bot, NAME, Reception(bot, NAME, clock), clock=clock, pacer=LocalPacer(clock), transport=Line(platform, self)
        )
        gateway: Any = SimpleNamespace(db=db, files=self._stage.files(db))
        self.posts.start(gateway)

    @property
    def dead(self) -> bool:
        """Whether it has died."""
        return self._stage.dead or self._stage.processes != self._number

    def _live(self) -> None:
        if self.dead:
            raise Crash


class Line(httpx2.AsyncBaseTransport):
    """The line of one process to the platform, for answers by address."""

    def __init__(self, platform: HookPlatform, process: Process) -> None:
        self._platform = platform
        self._process = process
        self._network = Outwards(platform.sim)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        platform = self._platform
        if self._process.dead:
            raise Crash
        fault = platform.next_fault()
        if fault == "crash-before":
            raise platform.stage.crash()
        if fault == "before":
            raise httpx2.ReadError("reset")
        if fault is not None and fault in REFUSALS:
            platform.sim.faults.add(dataclasses.replace(REFUSALS[fault]))
        response = await self._network.handle_async_request(request)
        if fault == "crash-after":
            raise platform.stage.crash()
        if fault == "after":
            raise httpx2.ReadError("reset")
        return response


class Door(httpx2.AsyncBaseTransport):
    """Where the platform's posts arrive: at the process that lives.

    What goes wrong with an answer: it is lost `before` or `after` the process has done what it does for it. A process
    that dies after that has answered the message, for otherwise nothing would ever be asked; of a bubble that is asked
    for, its word is lost.
    """

    def __init__(self, platform: HookPlatform) -> None:
        self._platform = platform
        self._envelope = Envelope(TOKEN, KEY)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        query = dict(request.url.params)
        if request.method == "GET":
            return httpx2.Response(200, content=open_challenge(self._envelope, query))
        post = open_post(self._envelope, query, await request.aread())
        said = await self._said(post)
        sealed = seal_answer(self._envelope, said, post, self._platform.clock.now())
        return httpx2.Response(200, content=sealed, request=request)

    async def _said(self, post: Post) -> Json:
        platform = self._platform
        # A message is answered once its turn is stored.
        order = await platform.ordered
        if platform.stage.dead:
            raise httpx2.ConnectError("nobody listens")
        process, fault = platform.process, platform.next_fault()
        if fault in ("before", "crash-before"):
            self._lose(fault)
        if post.stream is None:
            said = bubble(stream_of(order.id, post.message), process.posts._polls.begun)
        else:
            said = await process.posts._polled(post.stream)
        if fault == "crash-after" and post.stream is None:
            platform.stage.crash()
        elif fault in ("after", "crash-after") or process.dead:
            self._lose(fault)
        return said

    def _lose(self, fault: Fault | None) -> None:
        if fault is not None and fault.startswith("crash"):
            self._platform.stage.crash()
        raise httpx2.ReadError("reset")


class HookPlatform:
    """A chat in which somebody has asked a bot in webhook mode, as the suite wants it.

    Every answer to the platform is a call, and every post by address.

    Attributes:
        ordered: the delivery, once a process was asked for its surface.
    """

    stage: Stage
    name = NAME
    showing = True

    def __init__(self, clock: FakeClock, switches: Switches | None = None) -> None:
        self.clock = clock
        self.faults: Mapping[int, Fault] = {}
        self.calls = 0
        self.channel = self
        self.sim = WecomSim(clock=clock, switches=switches)
        self.ordered: asyncio.Future[DeliveryOrder] = asyncio.get_running_loop().create_future()
        self.question = Question()
        self._processes: dict[int, Process] = {}

    async def open(self) -> None:
        """Begins: somebody asks, and the platform waits for the answer."""
        self.sim.webhooks._client = httpx2.AsyncClient(transport=Door(self), trust_env=False, timeout=None)
        assert await self.sim.use_webhook(HOST + PATH, TOKEN, KEY)
        told = self.sim.people.say("alice", "hello")
        assert told is not None
        own, url = told.body["msgid"], told.body["response_url"]
        self.question = Question(own, Target("alice", req_id=own, at=self.clock.now(), url=url).encode())

    async def close(self) -> None:
        """Ends what is still on its way."""
        await self.sim.webhooks.close()
        for process in self._processes.values():
            await process.posts.close()

    @property
    def process(self) -> Process:
        """What the process that lives has."""
        number = self.stage.processes
        if number not in self._processes:
            self._processes[number] = Process(self)
        return self._processes[number]

    def next_fault(self) -> Fault | None:
        """Counts a call; what goes wrong with it."""
        number, self.calls = self.calls, self.calls + 1
        return self.faults.get(number)

    def surface(self, order: DeliveryOrder) -> HookSurface:
        """Where the turn is shown, by whatever process runs."""
        if not self.ordered.done():
            self.ordered.set_result(order)
        return self.process.posts.surface(order)

    def idle(self) -> bool:
        return True

    @property
    def asking(self) -> bool:
        """Whether the platform still asks for a bubble."""
        return any(message.streaming for message in self.sim.view("alice").from_bots)

    def seen(self) -> Seen:
        """What Alice sees; a bubble that was not finished in time looks as if somebody still wrote it."""
        said = self.sim.view("alice").from_bots
        return Seen(
            texts=[message.text for message in said],
            files=[file.name for message in said for file in message.files],
            live=any(message.state not in ("", "finished") for message in said),
        )
