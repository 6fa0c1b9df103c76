"""A real server with an app on a simulated tenant, really killed: after the next start, the chat is right."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.feishu_agent import BEGUN, ENDED
from tests.server_process import ServerProcess
from turnwire.clock import SystemClock
from turnwire.sim._clock import JumpingClock
from turnwire.sim.feishu import ApiCall, Fault, FeishuSim, MessageView, Switches

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.heavy, pytest.mark.timeout(600)]

BOUND_S = 60.0
INTERRUPTED = "interrupted"
REDELIVERY_S = 16.0


class Chat:
    """One question in a chat of its own."""

    def __init__(self, sim: FeishuSim, number: int) -> None:
        self.sim = sim
        self.id = sim.add_chat(f"oc_{number}", members=["ou_alice"], bots=[sim.app_id]).chat_id
        self.asked = ""

    def ask(self) -> None:
        self.asked = self.sim.people.say(self.id, "go")

    @property
    def calls(self) -> list[ApiCall]:
        """Those about the newest question: nothing else happens meanwhile."""
        return self.sim.calls

    @property
    def cards(self) -> list[MessageView]:
        return [message for message in self.sim.view(self.id).from_bots if message.card is not None]

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.cards)

    @property
    def right(self) -> bool:
        """One finished card, and nobody types."""
        ended = ENDED in self.text or INTERRUPTED in self.text
        return ended and not any(card.streaming for card in self.cards) and not self.sim.message(self.asked).reactions

    async def until_right(self) -> None:
        await self.sim.until(lambda: self.right)

    def check(self) -> None:
        """What must hold once nothing is left to do."""
        assert self.right, self.sim.view(self.id)
        assert len(self.cards) == 1
        assert self.text.count(BEGUN) == 1 or INTERRUPTED in self.text
        others = [message for message in self.sim.view(self.id).from_bots if message.card is None]
        assert [message.file.name for message in others if message.file] == ["data.csv"][: len(others)]
        assert len(others) == 1 or INTERRUPTED in self.text


Point: TypeAlias = Callable[[Chat], Awaitable[None]]


def fault(op: str, kind: str, nth: int = 1) -> Point:
    """A call that is never answered; the process dies while it waits."""

    async def wait(chat: Chat) -> None:
        chat.sim.faults.add(Fault(op, kind, nth=nth))
        await chat.sim.until(lambda: any(call.op == op and call.fault == kind and call.ended_at for call in chat.calls))

    return wait


def seen(text: str) -> Point:
    """The process dies once people see that."""

    async def wait(chat: Chat) -> None:
        await chat.sim.until(lambda: text in chat.text)

    return wait


async def closing(chat: Chat) -> None:
    """The process dies while the card's last content is on its way."""
    await chat.sim.until(
        lambda: any(call.op == "update" and '"streaming_mode":false' in call.body["card"]["data"]
                    for call in chat.calls if call.body is not None)
    )  # fmt: skip


async def settled(chat: Chat) -> None:
    """The process dies when there is nothing left to do."""
    await chat.until_right()


AFTER, BEFORE = "timeout_after_applying", "timeout_before_applying"
POINTS: dict[str, Point] = {
    "start": fault("react", AFTER),
    "making the card": fault("create", AFTER),
    "sending the card": fault("reply", BEFORE),
    "the card was sent": fault("reply", AFTER),
    "in the text": fault("content", AFTER, nth=2),
    "in the tool": seen("look"),
    "uploading the file": fault("upload_file", AFTER),
    "the file was sent": fault("reply", AFTER, nth=2),
    "before the close": closing,
    "after the close": fault("settings", AFTER),
    "all is done": settled,
}


async def test_after_kill_9_the_chat_is_right(tmp_path: Path) -> None:
    clock = JumpingClock(SystemClock())
    async with FeishuSim(clock=clock, switches=Switches(latency=0.05)) as sim:
        settings = (
            f'[channels.feishu.main]\napp_id = "{sim.app_id}"\napp_secret = "{sim.app_secret}"\n'
            f'base_url = "{sim.base_url}"\nlanguage = "en"\n'
        )
        server = ServerProcess(tmp_path, use="python:tests.feishu_agent:agent", settings=settings)
        await server.start()
        chats = []
        try:
            for number, (name, point) in enumerate(POINTS.items()):
                chat = Chat(sim, number)
                chats.append(chat)
                sim.clear()
                chat.ask()
                try:
                    async with asyncio.timeout(BOUND_S):
                        await point(chat)
                        await server.kill()
                        sim.faults.clear()
                        await server.start()
                        clock.jump(REDELIVERY_S)
                        sim.events.wake()
                        await chat.until_right()
                except TimeoutError:
                    pytest.fail(f"{name}: {sim.view(chat.id)} {sim.calls[-8:]} {server.log[-2000:].decode()}")
            await server.until_settled()
        finally:
            code = await server.kill(signal.SIGTERM)
        assert code == 0
        for chat in chats:
            chat.check()
        assert sim.hopeless == []
    assert server.deliveries() == [("settled", "shown")] * len(POINTS)
