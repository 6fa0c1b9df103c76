"""What the agents of real server processes say: long enough to be killed in the middle, and checkable afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from turnwire.events import Reasoning, Snapshot, ToolCall, ToolResult
from turnwire.turn import Turn

PACE_S = 0.004
"""A real process has a real clock; this is how fast its model types."""


async def agent(turn: Turn) -> AsyncIterator[Any]:
    """Says as many words as the question's last word asks for, around tools, files and a rewrite."""
    count = int(turn.text.split()[-1])
    yield Reasoning("thinking about it")
    for index in range(count):
        if index % 40 == 10:
            yield ToolCall(id=f"call-{index}", name="look", input={"at": index})
            await asyncio.sleep(PACE_S)
            yield ToolResult(id=f"call-{index}", output={"seen": index})
        if index % 60 == 30:
            await turn.attach(f"note {index}".encode(), name=f"note-{index}.txt")
        if index % 100 == 70:
            yield Snapshot(f"corrected at {index}. ")
        yield f"w{index} "
        await asyncio.sleep(PACE_S)
