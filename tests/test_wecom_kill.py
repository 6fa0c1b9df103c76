"""A real server with a bot on a simulated WeCom, really killed: after the next start, the chat is right."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.feishu_agent import BEGUN, ENDED
from tests.server_process import ServerProcess
from turnwire.channels.words import EN
from turnwire.sim.wecom import Fault, MessageView, Switches, WecomSim

pytestmark = [pytest.mark.anyio, pytest.mark.process, pytest.mark.heavy, pytest.mark.timeout(600)]

BOUND_S = 60.0


class Chat:
    """One question in a chat of its own."""

    def __init__(self, sim: WecomSim, number: int) -> None:
        self.sim = sim
        self.person = f"person{number}"
        sim.platform.user(self.person)

    def ask(self) -> None:
        self.sim.people.say(self.person, "go")

    @property
    def said(self) -> list[MessageView]:
        return self.sim.view(self.person).from_bots

    @property
    def bubbles(self) -> list[MessageView]:
        return [message for message in self.said if not message.files]

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.bubbles)

    @property
    def right(self) -> bool:
        """The answer has its end, and no bubble is being written."""
        ended = ENDED in self.text or EN.interrupted in self.text
        return ended and not any(bubble.streaming for bubble in self.bubbles)

    async def until_right(self) -> None:
        await self.sim.until(lambda: self.right)

    def check(self) -> None:
        """What must hold once nothing is left to do."""
        assert self.right, self.said
        assert len(self.bubbles) == 1
        assert self.text.count(BEGUN) == 1 or EN.interrupted in self.text
        files = [message.file.name for message in self.said if message.file]
        assert files == ["data.csv"][: len(files)]
        assert files or EN.interrupted in self.text or "data.csv" in self.text


Point: TypeAlias = Callable[[Chat], Awaitable[None]]


def fault(op: str, kind: str, nth: int = 1) -> Point:
    """A frame that is never answered; the process dies while it waits."""

    async def wait(chat: Chat) -> None:
        sim = chat.sim
        sim.faults.add(Fault(op, kind, nth=nth))
        await sim.until(lambda: any(call.op == op and call.fault == kind and call.ended_at for call in sim.calls))

    return wait


def seen(text: str) -> Point:
    """The process dies once people see that."""

    async def wait(chat: Chat) -> None:
        await chat.sim.until(lambda: text in chat.text)

    return wait


async def settled(chat: Chat) -> None:
    """The process dies when there is nothing left to do."""
    await chat.until_right()


POINTS: dict[str, Point] = {
    "the first frame is lost": fault("stream", "lost"),
    "the first frame was taken": fault("stream", "ack_lost"),
    "in the text": fault("stream", "ack_lost", nth=2),
    "in the tool": seen("look"),
    "announcing the file": fault("upload_init", "ack_lost"),
    "the file is whole": fault("upload_finish", "ack_lost"),
    "sending the file": fault("push", "lost"),
    "the file was sent": fault("push", "ack_lost"),
    "before the end": fault("finish", "lost"),
    "after the end": fault("finish", "ack_lost"),
    "all is done": settled,
}


async def test_after_kill_9_the_chat_is_right(tmp_path: Path) -> None:
    async with WecomSim(switches=Switches(latency=0.05, kick_close=0.5)) as sim:
        settings = (
            f'[channels.wecom.main]\nbot_id = "{sim.bot_id}"\nsecret = "{sim.secret}"\n'
            f'ws_url = "{sim.ws_url}"\nlanguage = "en"\n'
        )
        server = ServerProcess(tmp_path, use="python:tests.feishu_agent:agent", settings=settings)
        await server.start()
        chats = []
        try:
            for number, (name, point) in enumerate(POINTS.items()):
                chat = Chat(sim, number)
                chats.append(chat)
                try:
                    async with asyncio.timeout(BOUND_S):
                        await sim.wait_subscribed()
                        sim.clear()
                        chat.ask()
                        await point(chat)
                        await server.kill()
                        sim.faults.clear()
                        await server.start()
                        await chat.until_right()
                except TimeoutError:
                    pytest.fail(f"{name}: {chat.said} {sim.calls[-8:]} {server.log[-2000:].decode()}")
            await server.until_settled()
        finally:
            code = await server.kill(signal.SIGTERM)
        assert code == 0
        for chat in chats:
            chat.check()
    assert [status for status, _ in server.deliveries()] == ["settled"] * len(POINTS)
