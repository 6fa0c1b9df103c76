"""The agent of the benches, and the one ticker that paces all its turns.

Guarantee: the same agent runs behind the gateway, behind the bare server and into nothing, so that its own cost can be
taken off.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, Protocol

import msgspec

from turnwire.events import Data, Reasoning, ToolCall, ToolResult

MARK = "~"
"""Stands once in every delta, so that readers count deltas without parsing."""
WORD = f"token{MARK} "
SLOTS = 10
"""Parts of a period over which the turns are spread: real models do not speak in step."""


class Ask(msgspec.Struct, omit_defaults=True):
    """What a question asks the agent for; it is the question's text, as JSON.

    Attributes:
        do: `paced` says `count` deltas, `rate` a second; `stamp` says what the monotonic clock shows, in ns; `long`
            says `count` deltas at once, around tools, and ends when `gate` opens; `open` opens `gate`.
        think_s: seconds before the first event.
        gate: a name; `paced` waits for it to open before it says anything.
    """

    do: Literal["paced", "stamp", "long", "open"]
    count: int = 1_000_000
    rate: float = 20.0
    think_s: float = 0.0
    gate: str = ""

    @property
    def text(self) -> str:
        return msgspec.json.encode(self).decode()


class Asked(Protocol):
    """What the agent needs of a turn."""

    @property
    def text(self) -> str: ...


class Ticker:
    """One timer for all turns of a rate: ringing a slot lets the turns in it say one delta each."""

    def __init__(self, rate: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._step = 1.0 / rate / SLOTS
        self._begun = self._loop.time()
        self._rung = 0
        self._joined = 0
        self._waiting: list[list[asyncio.Future[None]]] = [[] for _ in range(SLOTS)]
        self._ring()

    def join(self) -> int:
        """The slot of one more turn."""
        self._joined += 1
        return self._joined % SLOTS

    def tick(self, slot: int) -> asyncio.Future[None]:
        """Done when the slot rings next."""
        future = self._loop.create_future()
        self._waiting[slot].append(future)
        return future

    def _ring(self) -> None:
        slot = self._rung % SLOTS
        waiting, self._waiting[slot] = self._waiting[slot], []
        for future in waiting:
            if not future.done():
                future.set_result(None)
        self._rung += 1
        self._loop.call_at(self._begun + self._rung * self._step, self._ring)


@functools.cache
def ticker(rate: float) -> Ticker:
    """The process's ticker of that rate."""
    return Ticker(rate)


@functools.cache
def gate(name: str) -> asyncio.Event:
    """The process's gate of that name."""
    return asyncio.Event()


async def agent(turn: Asked) -> AsyncIterator[Any]:
    """Does what the question asks for; see `Ask`."""
    ask = msgspec.json.decode(turn.text, type=Ask)
    if ask.think_s:
        await asyncio.sleep(ask.think_s)
    if ask.do == "open":
        gate(ask.gate).set()
    elif ask.do == "stamp":
        yield f"{time.monotonic_ns()}{MARK}"
    elif ask.do == "long":
        for event in _long(ask.count):
            yield event
        await gate(ask.gate).wait()
    else:
        if ask.gate:
            await gate(ask.gate).wait()
        pace = ticker(ask.rate)
        slot = pace.join()
        yield WORD
        for _ in range(ask.count - 1):
            await pace.tick(slot)
            yield WORD


def _long(count: int) -> Iterator[Any]:
    """Reasoning, then text around two tool calls. What is transient between deltas keeps each a record of its own."""
    yield Reasoning("thinking it over")
    for index in range(count):
        if index in (count // 3, 2 * count // 3):
            yield ToolCall(id=f"call-{index}", name="search", input={"at": index})
            yield ToolResult(id=f"call-{index}", output={"hits": index})
        yield WORD
        yield Data(name="beat", data=index, transient=True)
