"""What happens in a conversation while nothing is being answered here: background jobs, their reports, other tabs.

Guarantee: what is told is the newest state; states in between may be skipped, messages are not.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from .client import ChatClient, ChatError
from .terminal_view import job_line, turn_metadata

_GOING_ON = ("queued", "running")


class News:
    """Follows one conversation from its first message on; `changed` is set whenever its state is another one.

    Args:
        conversation: its name.
    """

    def __init__(self, client: ChatClient, conversation: str) -> None:
        self.state: dict[str, Any] = {}
        self.changed = asyncio.Event()
        self._client = client
        self._conversation = conversation
        self._task: asyncio.Task[None] | None = None
        self._jobs: dict[str, str] = {}
        self._seen: dict[str, str] = {}

    def start(self) -> None:
        """Follows, again if the connection was given up; the conversation must exist."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stops following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def job_lines(self) -> list[str]:
        """What is new about the background jobs."""
        lines = {job["id"]: job_line(job) for job in self.state.get("jobs", ()) if job.get("status") in _GOING_ON}
        fresh = [line for job, line in lines.items() if self._jobs.get(job) != line]
        self._jobs = lines
        return fresh

    @property
    def quiet(self) -> bool:
        """Whether no turn runs, so that every message that is there is whole."""
        return bool(self.state) and self.state.get("turn") is None

    def seen(self, message: dict[str, Any]) -> bool:
        """Whether this message was shown as it stands now; from now on it was."""
        own = turn_metadata(message)
        stands = f"{own.get('turn')} {own.get('outcome')}"
        before = self._seen.get(message["id"])
        self._seen[message["id"]] = stands
        return before == stands

    async def _follow(self) -> None:
        # Without news the chat works as well; its own requests say what is wrong.
        with contextlib.suppress(ChatError):
            async with contextlib.aclosing(self._client.states(self._conversation)) as states:
                async for state in states:
                    if state != self.state:
                        self.state = state
                        self.changed.set()
