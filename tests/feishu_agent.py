"""What an agent of a real server process says in a Feishu chat: text, a tool call, a file, more text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from turnwire.clock import SystemClock, sleep
from turnwire.events import ToolCall, ToolResult
from turnwire.turn import Turn

PACE_S = 0.05
"""A real process has a real clock; this is how fast its model types."""
BEGUN, ENDED = "Word 0 ", "That is all."


async def agent(turn: Turn) -> AsyncIterator[Any]:
    """Speaks for about two seconds."""
    for number in range(12):
        yield f"Word {number} "
        await sleep(SystemClock(), PACE_S)
    yield ToolCall(id="look", name="look", input={})
    await sleep(SystemClock(), 8 * PACE_S)
    yield ToolResult(id="look", output="seen")
    await turn.attach(b"a,b\n1,2\n", name="data.csv")
    for number in range(12, 24):
        yield f"word {number} "
        await sleep(SystemClock(), PACE_S)
    yield ENDED
