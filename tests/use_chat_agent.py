"""What the agent says to the pages of tests/test_use_chat.py: the scenarios of the other clients, and a long answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from tests import client_agent
from turnwire.turn import Turn

LENGTHY = "so much to say, " * 1000


async def agent(turn: Turn) -> AsyncIterator[Any]:
    """Plays the scenario that the question names; `lengthy` says much and then waits to be stopped."""
    if turn.text != "lengthy":
        async for event in client_agent.agent(turn):
            yield event
        return
    yield LENGTHY
    await asyncio.Event().wait()
