"""A weather agent that needs no key and no network; the tutorial builds it.

It thinks aloud, calls a tool, answers word by word and attaches a file. The forecasts are made up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from turnwire import AgentEvent, Reasoning, ToolCall, ToolResult, Turn

PAUSE_S = 0.2
FORECASTS = {
    "lisbon": {"Monday": "sunny, 24 degrees", "Tuesday": "windy, 21 degrees", "Wednesday": "sunny, 25 degrees"},
    "oslo": {"Monday": "snow, -3 degrees", "Tuesday": "clear, -7 degrees", "Wednesday": "fog, -1 degrees"},
}


async def agent(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Answers a question about the weather in one of the places it knows."""
    yield Reasoning("The question must name a place I have a forecast for.")
    place = next((name for name in FORECASTS if name in turn.text.lower()), None)
    if place is None:
        yield f"I know the weather in {' and '.join(name.title() for name in FORECASTS)}. Which one do you want?"
        return

    yield ToolCall(id="call-1", name="forecast", input={"place": place})
    days = await forecast(place)
    yield ToolResult(id="call-1", output=days)

    for day, weather in days.items():
        for word in f"{day}: {weather}.".split():
            yield f"{word} "
            await asyncio.sleep(PAUSE_S)

    table = "day,weather\n" + "".join(f'{day},"{weather}"\n' for day, weather in days.items())
    sent = await turn.attach(table.encode(), name=f"{place}.csv", media_type="text/csv")
    yield f"The table is in {sent.name}."


async def forecast(place: str) -> dict[str, str]:
    """The tool: the weather of the next days."""
    await asyncio.sleep(PAUSE_S)
    return FORECASTS[place]
