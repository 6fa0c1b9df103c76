"""One run of the Claude Code CLI, from its start to its certain end.

Guarantee: `close` interrupts the CLI before it is told to end, waits for neither for long, and leaves no process
behind, also when whoever waits for it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import structlog

from ..clock import Clock, wait

INTERRUPT_S = 0.25
"""Seconds the CLI has to end its answer once it is interrupted; then it is killed."""
CLOSE_S = 2.0
"""Seconds a CLI that has answered gets to write its session down and exit; then it is killed."""

_log = structlog.get_logger(__name__)


class ClaudeSession:
    """A `ClaudeSDKClient`, owned by one turn."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._process: Any = None
        self._connecting: asyncio.Task[Any] | None = None
        self._interrupting: asyncio.Task[Any] | None = None
        self._answering = False

    async def connect(self) -> None:
        """Starts the CLI. Raises what the SDK raises."""
        self._connecting = asyncio.create_task(self._client.connect(), name="claude-connect")
        await asyncio.shield(self._connecting)
        self._look()

    async def ask(self, content: list[dict[str, Any]]) -> None:
        """Sends one message of the user, word for word: the CLI reads no files and runs no commands that it names."""

        async def messages() -> AsyncIterator[dict[str, Any]]:
            said = {"role": "user", "content": content}
            yield {"type": "user", "message": said, "parent_tool_use_id": None, "client_composed": True}

        await self._client.query(messages())

    async def messages(self) -> AsyncGenerator[Any, None]:
        """What the CLI says until its result. Raises what the SDK raises."""
        self._answering = True
        async with aclosing(self._client.receive_response()) as said:
            async for message in said:
                if _ends(message):
                    self._answering = False
                yield message
        self._answering = False

    async def interrupt_when(self, stopping: asyncio.Event) -> None:
        """Interrupts the CLI once a person wants the turn to stop."""
        await stopping.wait()
        await asyncio.wait({self._interrupt()})

    async def close(self) -> None:
        """Ends the CLI, and takes `INTERRUPT_S` and twice `CLOSE_S` at most; killed at once when it is cancelled."""
        try:
            await self._close()
        finally:
            self._kill()

    async def _close(self) -> None:
        self._look()
        connecting = self._connecting
        if connecting is None:
            return
        if not connecting.done():
            # Nothing was asked yet, so nothing is lost.
            self._kill()
            connecting.cancel()
            await wait(self._clock, {connecting}, CLOSE_S)
        if connecting.done():
            _look_at(connecting)
        if self._answering and self._alive():
            await self._end_answer()
        leaving = asyncio.create_task(self._client.disconnect(), name="claude-disconnect")
        if not await wait(self._clock, {leaving}, CLOSE_S):
            _log.warning("Claude Code does not exit; it is killed")
            self._kill()
            await wait(self._clock, {leaving}, CLOSE_S)
        if leaving.done():
            _look_at(leaving)

    async def _end_answer(self) -> None:
        """Interrupts, and reads on meanwhile: the SDK hears the CLI only while somebody listens."""
        reading = asyncio.create_task(self._drain(), name="claude-drain")
        ended = self._interrupt()
        if not await wait(self._clock, {reading}, INTERRUPT_S):
            self._kill()
        for task in (reading, ended):
            task.cancel()
        await wait(self._clock, {reading}, INTERRUPT_S)
        for task in (reading, ended):
            if task.done():
                _look_at(task)

    async def _drain(self) -> None:
        async with aclosing(self._client.receive_response()) as said:
            async for message in said:
                if _ends(message):
                    return

    def _interrupt(self) -> asyncio.Task[Any]:
        if self._interrupting is None:
            self._interrupting = asyncio.create_task(self._client.interrupt(), name="claude-interrupt")
        return self._interrupting

    def _look(self) -> None:
        """Remembers the process: the SDK forgets it before it is surely gone."""
        transport = getattr(self._client, "_transport", None)
        self._process = getattr(transport, "_process", None) or self._process

    def _alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def _kill(self) -> None:
        self._look()
        if self._alive():
            try:
                self._process.kill()
            except ProcessLookupError:
                return


def _ends(message: Any) -> bool:
    return hasattr(message, "is_error") and hasattr(message, "num_turns")


def _look_at(task: asyncio.Task[Any]) -> None:
    """Takes a task's failure, which the turn's end does not depend on."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("Claude Code failed while it was ended", error=type(error).__name__)
