"""Turns on a simulated Feishu tenant without gateway and sockets, played by courier processes that die; and what people
must see of them in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx2
import msgspec

from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.render import Style, cards, document, texts
from turnwire.channels.feishu.settings import App
from turnwire.channels.feishu.surface import FeishuSurface
from turnwire.channels.feishu.target import Target
from turnwire.delivery.state import State, load
from turnwire.delivery.surface import DeliveryOrder, Desired
from turnwire.sim._feishu_checks import body_elements
from turnwire.sim._feishu_view import block
from turnwire.sim._http import Request
from turnwire.sim._serving import Hang, Reset
from turnwire.sim.feishu import Fault, FeishuSim, MessageView, Switches
from turnwire.store.queries.rows import DeliveryRow
from turnwire.testing import FakeClock, MemoryStore, Stage

ROUNDS = 40
EARLY, LATE = 1_700_000_000.0, 4_100_000_000.0
"""What time it is: the store has the machine's clock, so a turn seems just begun, or long under way."""
FOOTER = ("model", "time", "tokens")
STYLE = Style(language="en", footer=FOOTER)
PLAIN = msgspec.structs.replace(STYLE, plain=True)
DOCUMENT = STYLE.words.document
Shown = list[Any]
"""What one message shows: its kind, and its blocks or its text."""


class Line(httpx2.AsyncBaseTransport):
    """The line of one process to the tenant; nothing passes it once that process is dead."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._process = play.stage.processes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        play = self._play
        number = play.calls
        play.calls += 1
        if play.stage.dead or play.stage.processes != self._process:
            raise play.stage.crash()
        if play.dies.get(number) == "before":
            raise play.stage.crash()
        url = httpx2.URL(request.url)
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, url.raw_path.decode(), url.path, dict(url.params), headers)
        try:
            answer = await play.sim._respond(asked, request.content, 1)
        except Hang:
            never: asyncio.Future[httpx2.Response] = asyncio.get_running_loop().create_future()
            return await never
        except Reset:
            raise httpx2.ReadError("reset") from None
        if play.dies.get(number) == "after":
            raise play.stage.crash()
        shown = {"content-type": answer.media_type, **answer.headers}
        return httpx2.Response(answer.status, headers=shown, content=answer.body, request=request)


class OneChat:
    """The channel of whatever process runs, answering one message."""

    name = "feishu.main"
    showing = True

    def __init__(self, play: Play) -> None:
        self._play = play
        self._made: dict[int, FeishuChannel] = {}

    def surface(self, order: DeliveryOrder) -> FeishuSurface:
        play = self._play
        channel = self._made.get(play.stage.processes)
        if channel is None:
            app = App(name="main", app_id=play.sim.app_id, app_secret=play.sim.app_secret,
                      base_url="http://127.0.0.1:1", language="en", footer=FOOTER)  # fmt: skip
            channel = FeishuChannel(app, clock=play.clock, transport=Line(play))
            # No turn here embeds an image.
            gateway: Any = SimpleNamespace(files=None)
            channel._resources.gateway = gateway
            self._made[play.stage.processes] = channel
        return channel.surface(msgspec.structs.replace(order, target=Target(play.chat, play.asked).encode()))

    async def close(self) -> None:
        """Ends what is still on its way."""
        for channel in self._made.values():
            tasks = list(channel.wire._tasks)
            await channel.close()
            await asyncio.gather(*tasks, return_exceptions=True)


class Play:
    """One turn on a tenant of its own.

    Args:
        dies: at which outward calls, from 0, a process dies: `before` or `after` they are applied.
        commits: at which transactions of couriers one dies.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        faults: Sequence[Fault] = (),
        switches: Switches | None = None,
        dies: dict[int, str] | None = None,
        commits: frozenset[int] = frozenset(),
        now: float = EARLY,
    ) -> None:
        self.clock = FakeClock(now, rounds=ROUNDS)
        self.sim = FeishuSim(clock=self.clock, switches=switches)
        self.dies = dies or {}
        self.calls = 0
        store.wipe()
        self._channel = OneChat(self)
        self.stage = Stage(self._channel, self.clock, store=store)
        self.stage.crash_at_commit = lambda number: number in commits
        self.chat = self.sim.p2p()
        self.sim.events.attach(self.sim.app_id, lambda delivery: self.sim.events.ack(delivery, ok=True))
        self.asked = self.sim.people.say(self.chat, "hello")
        self.sim.faults.add(*faults)
        self.row: DeliveryRow
        self.desired: Desired

    async def run(self, script: Sequence[Any]) -> Play:
        """Plays to the end."""
        self.stage.start()
        try:
            turn = await self.stage.begin(script)
            self.row = await self.stage.settled(turn)
            while not all(writer.done() for writer in self.stage._writers):
                # What nobody can be shown any more is said all the same.
                await self.clock.advance(self.clock.next_in or 0.0)
            self.desired = await self.stage.desired(turn)
        finally:
            await self.stage.close()
            await self._channel.close()
        return self

    @property
    def state(self) -> State:
        """The ledger's last word."""
        return load(self.row.state)

    @property
    def answers(self) -> list[MessageView]:
        """What the bot said that is still to be seen."""
        return [message for message in self.sim.view(self.chat).messages if message.from_bot and not message.gone]

    @property
    def files(self) -> list[MessageView]:
        """The files that the agent gave, as far as they are to be seen."""
        return [message for message in self.answers if message.file is not None and message.file.name != DOCUMENT]

    @property
    def said(self) -> list[MessageView]:
        """The other messages."""
        return [message for message in self.answers if message.file is None or message.file.name == DOCUMENT]

    def faulted(self, *kinds: str) -> bool:
        """Whether a call met such a fault."""
        return any(call.fault in kinds for call in self.sim.calls)


def shown(message: MessageView) -> Shown:
    """What people see of a message."""
    if message.card is not None:
        return ["card", message.card.summary, message.card.blocks]
    return ["file", message.file.name] if message.file is not None else [message.kind, message.text]


def expected(desired: Desired, rung: int) -> list[Shown]:
    """What people must see of a turn that is shown by that rung of the ladder."""
    if rung == 3:
        return [["text", text] for text in texts(desired, PLAIN)]
    if rung == 4:
        _, name, notice = document(desired, PLAIN)
        return [["text", notice], ["file", name]]
    found = cards(desired, STYLE if rung == 0 else PLAIN, {})
    return [["card", card.summary, [block(one) for one in body_elements(card.json)]] for card in found]
