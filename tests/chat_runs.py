"""Reading a stream of the chat client against the fake provider, with time in the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from tests.fake_provider import Fake, fake_provider
from turnwire.agents.chat_reader import ModelStreamError
from turnwire.agents.remote import OpenAIChat
from turnwire.events import AgentEvent, Reasoning, Usage
from turnwire.testing.clock import FakeClock

KEY = "sk-test-0123456789abcdef"
HELLO = [{"role": "user", "content": "hi"}]


class Run:
    """A stream being read: what it said so far, and how it ended."""

    def __init__(self, stream: AsyncGenerator[AgentEvent, None]) -> None:
        self.events: list[AgentEvent] = []
        self.error: ModelStreamError | None = None
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[AgentEvent, None]) -> None:
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    self.events.append(event)
        except ModelStreamError as error:
            self.error = error

    @property
    def text(self) -> str:
        return "".join(event for event in self.events if isinstance(event, str))

    @property
    def usages(self) -> list[Usage]:
        return [event for event in self.events if isinstance(event, Usage)]

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Reasoning))


@asynccontextmanager
async def running(
    name: Any, clock: FakeClock, *, keep: bool = False, **options: Any
) -> AsyncIterator[tuple[Fake, Run]]:
    async with fake_provider(name, clock) as fake:
        chat = OpenAIChat(fake.base_url, "fake-1", api_key=KEY, clock=clock, **options)
        if keep:
            await chat.__aenter__()
        run = Run(chat.stream(HELLO))
        try:
            yield fake, run
        finally:
            run.task.cancel()
            await asyncio.wait({run.task})
            await chat.__aexit__()


async def quiet(clock: FakeClock, fake: Fake) -> None:
    """Until the server has nothing to say without time passing, and the client has read it."""
    await clock.until(fake.idle.is_set)
    await clock.settle()


async def ended(clock: FakeClock, run: Run) -> None:
    await clock.until(run.task.done)
    await run.task


async def advance_to_end(clock: FakeClock, fake: Fake, run: Run, *, step: float, limit: float) -> float:
    """Moves time until the stream has ended; returns how much that took."""
    passed = 0.0
    await clock.until(lambda: fake.idle.is_set() or run.task.done())
    await clock.settle()
    while not run.task.done() and passed < limit:
        await clock.advance(step)
        passed += step
        await clock.settle()
    await ended(clock, run)
    return passed
