"""Driving an agent, whatever kind of function it is.

Guarantee: every event of the agent is handed over in order, one at a time; the agent's generator is closed when driving
ends, also when it is cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any, TypeAlias

from ..events import AgentEventError
from ..turn import Turn

Agent: TypeAlias = Callable[[Turn], Any]
"""An async generator function over a `Turn`; a generator function (run in a thread) or a coroutine function will do."""

Accept: TypeAlias = Callable[[Any], Awaitable[None]]


class AgentExit(Exception):
    """The agent tried to end the process; only its turn ends. The message names what it raised."""


async def drive(agent: Agent, turn: Turn, accept: Accept) -> None:
    """Runs `agent` on `turn` to its end, handing each event to `accept`.

    Raises what the agent raises; `AgentExit` in place of what would end the whole process.
    """
    try:
        await _drive(agent, turn, accept)
    except (SystemExit, KeyboardInterrupt) as error:
        raise AgentExit(type(error).__name__) from error


async def _drive(agent: Agent, turn: Turn, accept: Accept) -> None:
    said = agent(turn)
    if hasattr(said, "__aiter__"):
        if hasattr(said, "aclose"):
            async with aclosing(said):
                async for event in said:
                    await accept(event)
        else:
            async for event in said:
                await accept(event)
    elif inspect.isawaitable(said):
        event = await said
        if event is not None:
            await accept(event)
    elif hasattr(said, "__next__"):
        await _drive_thread(said, turn.id, accept)
    elif said is not None:
        raise AgentEventError(
            f"the agent returned {type(said).__name__}; an agent is an async generator function that yields events"
        )


async def _drive_thread(said: Iterator[Any], name: str, accept: Accept) -> None:
    """Runs a plain generator in a thread of its own, so that it cannot block anybody else.

    Nothing ends a thread from outside. Once cancelled, what it says is refused, which ends a generator that speaks
    again, and its end is awaited; cancelled once more, it is left to itself.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    over = False

    def work() -> None:
        try:
            try:
                for event in said:
                    asyncio.run_coroutine_threadsafe(_accept(event), loop).result()
            finally:
                close = getattr(said, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - carried over to the task that waits
            _tell(loop, done, error)
        else:
            _tell(loop, done, None)

    async def _accept(event: Any) -> None:
        if over:
            raise _Over
        await accept(event)

    threading.Thread(target=work, name=f"turnwire-agent-{name}", daemon=True).start()
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        over = True
        await asyncio.wait({done})
        if not done.cancelled():
            done.exception()
        raise


class _Over(Exception):
    """The agent's thread was told to end, and speaks."""


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None], error: BaseException | None) -> None:
    def settle() -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        elif isinstance(error, StopIteration):
            done.set_exception(RuntimeError("the agent raised StopIteration"))
        else:
            done.set_exception(error)

    if not loop.is_closed():
        loop.call_soon_threadsafe(settle)
