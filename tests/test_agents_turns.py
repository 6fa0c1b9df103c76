"""Whole turns in a gateway of the agents that need no second environment: what people see, stop, and come back to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client
from tests.framework_turns import about, asked, calls, decided, stopped, talking, text, thoughts
from tests.test_agents_remote_ui import behind
from turnwire import AgentError, Reasoning, ToolCall, ToolError, ToolResult, Turn, Usage
from turnwire.agents.load import load_agent
from turnwire.agents.remote import openai_chat_agent
from turnwire.channels.web.api import web_app
from turnwire.sim.models import LEAKED_KEY, TEXT, ModelSim

pytestmark = pytest.mark.anyio

# No turn's time is spent on it.
importlib.import_module("pydantic_ai.models.openai")

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE = {"type": "file", "url": "data:image/png;base64," + base64.b64encode(PNG).decode(), "mediaType": "image/png"}


@contextlib.asynccontextmanager
async def over(kind: str, sim: ModelSim, folder: Path) -> AsyncIterator[Any]:
    """A client of a gateway whose agent is pydantic-ai, or the chat client, over the simulated provider."""
    async with contextlib.AsyncExitStack() as stack:
        if kind == "pydantic-ai":
            agent = await stack.enter_async_context(
                load_agent("openai:m", base_url=sim.base_url("O"), api_key="any", env={})
            )
        else:
            agent = openai_chat_agent(sim.base_url("O"), "m", "any")
        yield await stack.enter_async_context(talking(agent, folder))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("pydantic-ai", marks=pytest.mark.shows("pydantic-ai", "text", "reasoning", "usage")),
        pytest.param("chat", marks=pytest.mark.shows("OpenAI-compatible chat", "text", "reasoning", "usage")),
    ],
)
async def test_text_thoughts_and_counts(kind: str, tmp_path: Path) -> None:
    async with ModelSim(default="thinking") as sim, over(kind, sim, tmp_path) as client:
        message = await asked(client)
    assert (text(message), thoughts(message)) == (TEXT, "Let me think.")
    assert (about(message)["outcome"], about(message)["usage"]["totalTokens"]) == ("done", 42)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("pydantic-ai", marks=pytest.mark.shows("pydantic-ai", "stop")),
        pytest.param("chat", marks=pytest.mark.shows("OpenAI-compatible chat", "stop")),
    ],
)
async def test_a_turn_that_is_stopped_keeps_its_text_and_leaves_nothing_upstream(kind: str, tmp_path: Path) -> None:
    async with ModelSim(default="stall_after_2") as sim, over(kind, sim, tmp_path) as client:
        message = await stopped(client, sim, client.ask("hi"), "text-delta")
        assert (about(message)["outcome"], text(message)[:7]) == ("stopped", "Hello, ")
        assert [seen.ended for seen in sim.requests] == ["client_closed"]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("pydantic-ai", marks=pytest.mark.shows("pydantic-ai", "errors")),
        pytest.param("chat", marks=pytest.mark.shows("OpenAI-compatible chat", "errors")),
    ],
)
async def test_a_turn_that_fails_says_why_and_keeps_what_was_said(kind: str, tmp_path: Path) -> None:
    async with ModelSim() as sim, over(kind, sim, tmp_path) as client:
        for number, (scenario, why) in enumerate({"clean_eof_mid": "ended before", "error_mid": "overloaded"}.items()):
            sim.plan([scenario])
            message = await asked(client, f"{number}")
            assert (about(message)["outcome"], text(message)) == ("failed", "Hello, wörld "), scenario
            assert why in about(message)["reason"]
            assert LEAKED_KEY not in json.dumps(message)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("pydantic-ai", marks=pytest.mark.shows("pydantic-ai", "resume")),
        pytest.param("chat", marks=pytest.mark.shows("OpenAI-compatible chat", "resume")),
    ],
)
async def test_the_next_question_comes_with_what_was_said(kind: str, tmp_path: Path) -> None:
    async with ModelSim() as sim, over(kind, sim, tmp_path) as client:
        await asked(client, "How is Oslo?")
        await asked(client, "Sure?")
        sent = (sim.requests[1].body or {})["messages"]
    assert [each["role"] for each in sent] == ["user", "assistant", "user"]
    for message, words in zip(sent, ["How is Oslo?", TEXT, "Sure?"], strict=True):
        assert words in json.dumps(message["content"], ensure_ascii=False)


@pytest.mark.shows("AI SDK stream", "resume")
async def test_the_next_question_goes_on_in_the_conversation_of_the_other_turnwire(tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield " ".join(part["text"] for message in turn.messages for part in message["parts"] if "text" in part) + "!"

    async with behind(tmp_path, agent) as (_, outer):
        client = Client(web_app(outer))
        await asked(client, "one")
        assert text(await asked(client, "two")) == "one one! two!"


@pytest.mark.shows("pydantic-ai", "files")
async def test_a_picture_goes_to_the_model_and_to_a_chat_server_only_its_name(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "See?"}, {**PICTURE, "filename": "a.png"}]
    question = [{"id": "m1", "role": "user", "parts": parts}]
    for kind in ("pydantic-ai", "chat"):
        (tmp_path / kind).mkdir()
        async with ModelSim() as sim, over(kind, sim, tmp_path / kind) as client:
            assert text(await asked(client, messages=question)) == TEXT
            sent = json.dumps(sim.requests[0].body)
        assert (PICTURE["url"] in sent) is (kind == "pydantic-ai")
        assert kind == "pydantic-ai" or "[attached file: a.png, image/png]" in sent


@pytest.mark.shows("plain generator", "text", "reasoning", "tools", "parallel tools", "files", "usage")
async def test_what_a_plain_generator_says_is_what_people_see(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        got.extend([await file.read() for file in turn.files])
        yield Reasoning("Two at once.")
        for own in ("a", "b"):
            yield ToolCall(id=own, name="look", input={"word": own})
        yield ToolError(id="b", error="not found")
        yield ToolResult(id="a", output=1)
        await turn.attach(b"1,2\n", name="numbers.csv", media_type="text/csv")
        yield "Done."
        yield Usage(input_tokens=30, output_tokens=12, total_tokens=42, model="m")

    async with talking(agent, tmp_path) as client:
        parts = [{"type": "text", "text": "See?"}, PICTURE]
        message = await asked(client, messages=[{"id": "m1", "role": "user", "parts": parts}])
        (file,) = [part for part in message["parts"] if part["type"] == "file"]
        assert (await client.get(file["url"])).body == b"1,2\n"
    assert got == [PNG]
    assert (text(message), thoughts(message)) == ("Done.", "Two at once.")
    assert calls(message) == [("output-available", {"word": "a"}, 1), ("output-error", {"word": "b"}, "not found")]
    assert (about(message)["outcome"], about(message)["usage"]["totalTokens"]) == ("done", 42)


@pytest.mark.shows("plain generator", "stop", "errors", "resume")
async def test_a_plain_generator_is_stopped_fails_in_its_own_words_and_knows_what_was_said(tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield f"{len(turn.messages)} messages. "
        if turn.text == "wait":
            await asyncio.Event().wait()
        if turn.text == "fail":
            raise AgentError("The calendar is closed.")

    async with talking(agent, tmp_path) as client:
        message = await stopped(client, None, client.ask("wait"), "text-delta")
        assert (about(message)["outcome"], text(message)) == ("stopped", "1 messages. ")
        message = await asked(client, "fail")
        assert (about(message)["outcome"], about(message)["reason"]) == ("failed", "The calendar is closed.")
        assert text(message) == "3 messages. "
        assert text(await asked(client, "more")) == "5 messages. "


@pytest.mark.shows("plain generator", "approvals")
@pytest.mark.parametrize("approved", [True, False])
async def test_a_plain_generator_goes_on_after_a_person_answered(approved: bool, tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if turn.resume is None:
            yield ToolCall(id="d", name="delete", input={"draft": 7}, needs_approval=True)
        elif turn.resume.approved:
            yield ToolResult(id="d", output="gone")
        else:
            yield f"It stays: {turn.resume.reason}"

    async with talking(agent, tmp_path) as client:
        assert about(await asked(client))["outcome"] == "waiting"
        message = await decided(client, approved, reason="not now")
    assert about(message)["outcome"] == "done"
    assert [state for state, *_ in calls(message)] == ["output-available" if approved else "output-denied"]
    assert text(message) == ("" if approved else "It stays: not now")
