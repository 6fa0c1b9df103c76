"""Turns on a simulated WeCom without gateway and sockets, played by courier processes that die; and what people must
see of them in the end."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from turnwire.channels.wecom.connection import BotConnection
from turnwire.channels.wecom.frames import Inbound
from turnwire.channels.wecom.media import Uploader
from turnwire.channels.wecom.settings import Bot
from turnwire.channels.wecom.surface import WecomSurface, style_of
from turnwire.channels.wecom.target import Target
from turnwire.delivery.pacing import LocalPacer
from turnwire.delivery.state import State, load
from turnwire.delivery.surface import DeliveryOrder, Desired
from turnwire.sim._json import Json
from turnwire.sim._wecom_socket import Socket as ServerSocket
from turnwire.sim.wecom import Fault, MessageView, Switches, WecomSim
from turnwire.store.queries.deliveries import release_held
from turnwire.store.queries.rows import DeliveryRow
from turnwire.testing import FakeClock, MemoryStore, Stage

ROUNDS = 60
EARLY = 1_700_000_000.0
BUSINESS = ("aibot_respond_msg", "aibot_send_msg", "aibot_upload_media_init", "aibot_upload_media_chunk",
            "aibot_upload_media_finish")  # fmt: skip


class Pipe(ServerSocket):
    """A connection to the simulator that is no socket: what it says lies in a queue."""

    def __init__(self, sim: WecomSim) -> None:
        super().__init__(line=SimpleNamespace(number=len(sim.sockets.sockets) + 1), protocol=None)  # type: ignore[arg-type]
        self.line.writer = self  # type: ignore[assignment]
        self.transport = SimpleNamespace(abort=self.drop)
        self.sim = sim
        self.said: asyncio.Queue[str | None] = asyncio.Queue()
        self.broken = False
        self.mute = False
        sim.sockets.sockets.append(self)
        sim.sockets._watch(self)

    @property
    def open(self) -> bool:
        return not self.broken

    def is_closing(self) -> bool:
        return self.broken

    def reset(self) -> None:
        self.drop()

    def write(self) -> None:
        return

    def send(self, frame: Json) -> None:
        if not self.broken and not self.silent and not self.mute:
            self.said.put_nowait(json.dumps(frame, ensure_ascii=False))

    def close(self) -> None:
        self.drop()

    def drop(self) -> None:
        if not self.broken:
            self.broken = True
            self.said.put_nowait(None)
            self.sim.sockets._gone(self)


class Scene(Protocol):
    """A simulated platform, and the processes that speak to it."""

    clock: FakeClock
    sim: WecomSim
    stage: Stage
    target: Target
    calls: int

    def fate(self, number: int) -> str | None:
        """What becomes of the frame of business of that number: `crash-before`, `crash-after`, `before`, `after`."""
        ...


class Line:
    """The line of one process to the platform; nothing passes it once that process is dead."""

    def __init__(self, play: Scene) -> None:
        self._play = play
        self._process = play.stage.processes
        self._pipe = Pipe(play.sim)

    @property
    def _dead(self) -> bool:
        return self._play.stage.dead or self._play.stage.processes != self._process

    async def send(self, text: str) -> None:
        play = self._play
        if self._dead or self._pipe.broken:
            raise ConnectionResetError("the connection is gone")
        fate = None
        if json.loads(text)["cmd"] in BUSINESS:
            number, play.calls = play.calls, play.calls + 1
            fate = play.fate(number)
        if fate in (None, "crash-after", "after"):
            # What was taken is not answered any more.
            self._pipe.mute = fate is not None
            play.sim.sockets._received(self._pipe, text.encode())
        if fate is None:
            return
        for _ in range(10):
            await asyncio.sleep(0)
        if fate.startswith("crash"):
            play.stage.crash()
        self._pipe.drop()
        raise ConnectionResetError("the connection is gone")

    async def recv(self) -> str:
        text = await self._pipe.said.get()
        if text is None or self._dead:
            raise ConnectionResetError("the connection is gone")
        return text

    async def close(self) -> None:
        self._pipe.drop()

    def abort(self) -> None:
        self._pipe.drop()


async def _deaf(frame: Inbound) -> None:
    """What is said while a turn is played is nobody's business."""


class OneChat:
    """The channel of whatever process runs, answering one message."""

    name = "wecom.main"
    showing = True

    def __init__(self, play: Scene, how: dict[str, Any] | None = None) -> None:
        self._play = play
        self._made: dict[int, tuple[BotConnection, Uploader, LocalPacer]] = {}
        self._bot = Bot(name="main", bot_id=play.sim.bot_id, secret=play.sim.secret, language="en", **(how or {}))

    def surface(self, order: DeliveryOrder) -> WecomSurface:
        play, bot = self._play, self._bot
        if play.stage.processes not in self._made:
            process = play.stage.processes

            async def opened() -> Line:
                if play.stage.dead or play.stage.processes != process:
                    await asyncio.get_running_loop().create_future()
                return Line(play)

            connection = BotConnection(
                bot_id=bot.bot_id, secret=bot.secret, opener=opened, clock=play.clock, on_message=_deaf, on_event=_deaf
            )
            pacer = LocalPacer(play.clock)
            connection.start()
            self._made[play.stage.processes] = connection, Uploader(connection, play.clock, pacer), pacer
        connection, uploader, pacer = self._made[play.stage.processes]
        return WecomSurface(
            connection, uploader, play.target, style_of(bot),
            clock=play.clock, pacer=pacer, life_s=bot.stream_life_s, frame_s=bot.frame_s, feedback=True,
        )  # fmt: skip

    async def close(self) -> None:
        """Ends every connection."""
        for connection, _, _ in self._made.values():
            closing = asyncio.ensure_future(connection.close())
            while not closing.done():
                await self._play.clock.advance(1.0)
            closing.result()


class Play:
    """One turn on a platform of its own.

    Args:
        dies: at which frames of business, from 0, a process dies: `before` or `after` they are taken.
        commits: at which transactions of couriers one dies.
        how: settings of the bot.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        faults: Sequence[Fault] = (),
        switches: Switches | None = None,
        dies: dict[int, str] | None = None,
        commits: frozenset[int] = frozenset(),
        how: dict[str, Any] | None = None,
    ) -> None:
        self.clock = FakeClock(EARLY, rounds=ROUNDS)
        self.sim = WecomSim(clock=self.clock, switches=switches)
        self.dies = dies or {}
        self.calls = 0
        self.held = False
        store.wipe()
        self._channel = OneChat(self, how)
        self.stage = Stage(self._channel, self.clock, store=store)
        self.stage.crash_at_commit = lambda number: number in commits
        asked = self.sim.people.say("alice", "hello")
        assert asked is not None
        self.target = Target("alice", req_id=asked.req_id, at=self.clock.now())
        self.sim.faults.add(*faults)
        self.row: DeliveryRow
        self.desired: Desired

    async def run(self, script: Sequence[Any]) -> Play:
        """Plays to the end."""
        self.stage.start()
        try:
            turn = await self.stage.begin(script)
            self.row = await self.stage.settled(turn)
            if self.row.status == "held":
                # Nobody could be told, until somebody writes again on a better day.
                self.held = True
                self.sim.faults.clear()
                asked = self.sim.people.say("alice", "and?")
                assert asked is not None
                self.target = Target("alice", req_id=asked.req_id, at=self.clock.now())
                await self.stage.store.run(release_held, self.row.conversation_id, self.target.encode())
                self.stage.poke()
                self.row = await self.stage.settled(turn)
            while not all(writer.done() for writer in self.stage._writers):
                # What nobody can be shown any more is said all the same.
                await self.clock.advance(self.clock.next_in or 0.0)
            self.desired = await self.stage.desired(turn)
        finally:
            await self.stage.close()
            await self._channel.close()
            await self.sim.sockets.close()
        return self

    def fate(self, number: int) -> str | None:
        """What becomes of the frame of that number."""
        when = self.dies.get(number)
        return None if when is None else f"crash-{when}"

    @property
    def state(self) -> State:
        """The ledger's last word."""
        return load(self.row.state)

    @property
    def answers(self) -> list[MessageView]:
        """What the bot said."""
        return self.sim.view("alice").from_bots

    @property
    def said(self) -> list[MessageView]:
        """Its bubbles and texts."""
        return [message for message in self.answers if not message.files and message.card is None]

    @property
    def files(self) -> list[str]:
        """The names of the files that can be seen, in order."""
        return [message.file.name for message in self.answers if message.file is not None]

    def faulted(self, *kinds: str) -> bool:
        """Whether a frame met such a fault."""
        return any(call.fault in kinds for call in self.sim.calls)


TOKEN = re.compile(r"⟦\d+⟧")
"""What tells one piece of an answer from every other."""


def tokens(text: str) -> list[str]:
    """The marks in a text, in order."""
    return TOKEN.findall(text)


def check_read(play: Play, wanted: list[str], *, repeat: str, corrected: str) -> None:
    """Whoever reads from the top reads every piece once, in order; what was given up is repeated once, and marked."""
    texts = [message.text for message in play.said]
    at = max((index for index, text in enumerate(texts) if text.startswith(corrected)), default=0)
    texts = texts[at:]
    mark = next((index for index, text in enumerate(texts) if repeat in text), None)
    if mark is None:
        assert tokens("\n".join(texts)) == wanted, texts
        return
    assert play.state.repeat
    before, after = tokens("\n".join(texts[:mark])), tokens("\n".join(texts[mark:]))
    found = Counter([*before, *after])
    assert set(found) >= set(wanted), texts
    ends = [
        place for place in range(len(wanted) + 1) if wanted[place:] == after[-(len(wanted) - place) or len(after) :]
    ]
    assert ends, (texts, wanted)
