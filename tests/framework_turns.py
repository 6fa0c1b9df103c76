"""Turns of agents of other frameworks, in a real gateway over the simulated provider."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.asgi import Client, Exchange
from tests.gateways import running
from turnwire.channels.web.api import web_app
from turnwire.sim.models import ModelSim

CITIES = [{"city": "北京"}, {"city": "Zürich"}]
STOP_S = 5.0
"""A second on an idle machine; a busy one stands still for seconds."""


@contextlib.asynccontextmanager
async def talking(agent: Any, folder: Path) -> AsyncIterator[Client]:
    """A client of a gateway that runs `agent`."""
    async with running(f"sqlite:///{folder / 'gateway.db'}", folder, agent) as gateway:
        yield Client(web_app(gateway))


async def asked(client: Client, text: str = "hi", **more: Any) -> dict[str, Any]:
    """Asks, and gives the answer as the history holds it."""
    await client.ask(text, **more).done()
    return await answer_of(client)


async def answer_of(client: Client) -> dict[str, Any]:
    """The newest message of the conversation."""
    found: dict[str, Any] = (await client.get("/api/chat/c")).json()["messages"][-1]
    return found


async def decided(client: Client, approved: bool, **more: Any) -> dict[str, Any]:
    """Answers the open approval, and gives the message that the agent went on with."""
    waiting = await answer_of(client)
    approval = next(part["approval"]["id"] for part in waiting["parts"] if part.get("state") == "approval-requested")
    turn = (await client.post(f"/api/approvals/{approval}", {"approved": approved, **more})).json()["turn"]["id"]
    await client.get(f"/api/chat/{turn}/stream?ui=7&startIndex=0")
    return await answer_of(client)


async def stopped(client: Client, sim: ModelSim | None, exchange: Exchange, seen: str) -> dict[str, Any]:
    """Stops the turn once it has said a `seen` record; nothing of it may be left upstream soon."""
    await exchange.until(lambda one: any(event["type"] == seen for event in one.events()))
    async with asyncio.timeout(STOP_S):
        await client.post("/api/chat/c/stop", {})
        await exchange.done()
        if sim is not None:
            await sim.wait_ended()
    return await answer_of(client)


def about(message: dict[str, Any]) -> dict[str, Any]:
    """What the message's metadata say of its turn."""
    found: dict[str, Any] = message["metadata"]["turnwire"]
    return found


def text(message: dict[str, Any]) -> str:
    """The text of the answer."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def thoughts(message: dict[str, Any]) -> str:
    """The reasoning of the answer."""
    return "".join(part["text"] for part in message["parts"] if part["type"] == "reasoning")


def calls(message: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Each call: its state, its input, its output or error."""
    return [
        (part["state"], part.get("input"), part.get("output", part.get("errorText")))
        for part in message["parts"]
        if "toolCallId" in part
    ]
