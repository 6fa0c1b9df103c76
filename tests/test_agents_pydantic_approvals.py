"""pydantic-ai's tools that need an approval: asked in one turn, run in the next, through a real gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, DeferredToolRequests
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from tests.gateways import running
from tests.test_approvals import Desk, Shop, calls, outcome, said
from turnwire.agents.pydantic_ai import pydantic_agent
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


class Office:
    """An agent whose model calls tools once, then tells what came of them; `sent` is what the tools did."""

    def __init__(self, *asked: str) -> None:
        self.sent: list[str] = []
        self.seen: list[list[ModelMessage]] = []
        self.asked = asked
        model = FunctionModel(stream_function=self._speak)
        self.agent = Agent(model, output_type=[str, DeferredToolRequests])
        self.agent.tool_plain(requires_approval=True)(self.send)
        self.agent.tool_plain(self.look)

    def send(self, to: str) -> str:
        """Sends."""
        self.sent.append(to)
        return f"sent to {to}"

    def look(self) -> str:
        """Looks."""
        return "seen"

    async def _speak(self, messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        self.seen.append(list(messages))
        if any(isinstance(message, ModelResponse) for message in messages):
            returned = [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]
            yield "; ".join(f"{part.tool_name}: {part.model_response_str()}" for part in returned)
            return
        yield "One moment. "
        for index, name in enumerate(self.asked):
            arguments = "{}" if name == "look" else json.dumps({"to": name})
            tool = "look" if name == "look" else "send"
            yield {index + 1: DeltaToolCall(tool, arguments, tool_call_id=f"call-{index}")}


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(office: Office) -> AsyncIterator[Desk]:
        clock, url = FakeClock(), f"sqlite:///{tmp_path / 'turnwire.db'}"
        async with running(url, tmp_path, pydantic_agent(office.agent), clock=clock) as gateway:
            yield Desk(gateway, Shop(), clock)

    return open_desk


@pytest.mark.shows("pydantic-ai", "approvals")
async def test_an_allowed_tool_is_run_by_the_turn_that_goes_on(desk: Any) -> None:
    office = Office("ann", "look")
    async with desk(office) as at:
        approval = await at.asked()
        assert calls(at.held) == {"call-0": "approval-requested", "call-1": "output-available"}
        assert office.sent == []
        answered = (await at.answer(approval)).json()
        message = await at.stream(answered["turn"]["id"])
        assert (outcome(message), office.sent) == ("done", ["ann"])
        assert calls(message) == {"call-0": "output-available", "call-1": "output-available"}
        assert said(message).startswith("One moment. ")
        assert "send: sent to ann" in said(message)
        assert "look: seen" in said(message)
        assert len(office.seen) == 2


async def test_the_model_learns_what_was_denied_and_why(desk: Any) -> None:
    office = Office("ann", "bob")
    async with desk(office) as at:
        first = await at.asked()
        await at.answer(first, False, reason="she is away")
        answered = (await at.answer(first.removesuffix("1") + "2")).json()
        message = await at.stream(answered["turn"]["id"])
        assert office.sent == ["bob"]
        assert calls(message) == {"call-0": "output-denied", "call-1": "output-available"}
        assert "send: she is away" in said(message)
        assert "send: sent to bob" in said(message)


async def test_the_next_question_knows_both(desk: Any) -> None:
    office = Office("ann")
    async with desk(office) as at:
        answered = (await at.answer(await at.asked())).json()
        await at.stream(answered["turn"]["id"])
        await at.client.ask("and then?").done()
        asked, _, returned = office.seen[-1][:3]
        assert "and then?" in str(office.seen[-1][-1])
        assert "sent to ann" in str(returned)
        assert "buy" in str(asked)
