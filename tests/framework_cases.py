"""Agents of every framework over one simulated provider, for the cases in which the provider misbehaves."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.asgi import Client, Exchange
from tests.gateways import running
from turnwire.agents.claude import claude_agent
from turnwire.agents.guard import Limits, guarded_client
from turnwire.agents.guard_proxy import GuardProxy
from turnwire.agents.langgraph import langgraph_agent
from turnwire.agents.openai_agents import openai_agent
from turnwire.channels.web.api import web_app
from turnwire.clock import Clock
from turnwire.sim.models import ModelSim

LIMITS = Limits(first_byte=1.0, idle_bytes=0.4, idle_events=0.8)


class Tools:
    """Two tools; `ran` is what they were run with."""

    def __init__(self) -> None:
        self.ran: list[dict[str, Any]] = []

    async def get_weather(self, city: str) -> str:
        """The weather in a city."""
        self.ran.append({"city": city})
        return f"clear over {city}"

    async def now(self) -> str:
        """The time."""
        self.ran.append({})
        return "noon"


class Desk:
    """A gateway with one agent, and the provider behind it; each case is a conversation of its own."""

    def __init__(self, client: Client, sim: ModelSim, tools: Tools) -> None:
        self.client = client
        self.sim = sim
        self.tools = tools
        self._asked = 0

    async def ask(self, *plan: str, **more: Any) -> tuple[dict[str, Any], Exchange]:
        """The answer as the history holds it, when the provider goes by `plan` and is well afterwards."""
        self.sim.clear()
        self.sim.plan(plan)
        self.tools.ran.clear()
        self._asked += 1
        exchange = await self.client.ask("hi", chat=f"case-{self._asked}", message=f"m-{self._asked}", **more).done()
        found = (await self.client.get(f"/api/chat/case-{self._asked}")).json()["messages"]
        return found[-1], exchange

    @property
    def went(self) -> list[str]:
        """What the requests to the provider got."""
        return [seen.scenario for seen in self.sim.requests]


@contextlib.asynccontextmanager
async def desk(framework: str, wire: str, folder: Path, *, guarded: bool = True) -> AsyncIterator[Desk]:
    """A desk of `openai-agents` or `langgraph`, with or without a guard under its SDK."""
    tools = Tools()
    make = _openai if framework == "openai-agents" else _langgraph
    client = guarded_client(limits=LIMITS) if guarded else httpx2.AsyncClient(trust_env=False)
    async with ModelSim(retry_after=0.001) as sim, client as http:
        agent = make(sim, wire, http, tools)
        async with running(f"sqlite:///{folder / 'gateway.db'}", folder, agent) as gateway:
            yield Desk(Client(web_app(gateway)), sim, tools)


def _openai(sim: ModelSim, wire: str, http: Any, tools: Tools) -> Any:
    sdk: Any = importlib.import_module("agents")
    client = importlib.import_module("openai").AsyncOpenAI(
        base_url=sim.base_url("R" if wire == "R" else "O"), api_key="any", http_client=http
    )
    model = (sdk.OpenAIResponsesModel if wire == "R" else sdk.OpenAIChatCompletionsModel)("m", client)
    functions = [sdk.function_tool(tools.get_weather), sdk.function_tool(tools.now)]
    agent = sdk.Agent(name="Weather", instructions="Be brief.", model=model, tools=functions)
    return openai_agent(agent, run_config=sdk.RunConfig(tracing_disabled=True))


def _langgraph(sim: ModelSim, wire: str, http: Any, tools: Tools) -> Any:
    model = importlib.import_module("langchain_openai").ChatOpenAI(
        model="m",
        base_url=sim.base_url("R" if wire == "R" else "O"),
        api_key="any",
        http_async_client=http,
        use_responses_api=wire == "R",
        stream_usage=True,
    )
    tool = importlib.import_module("langchain_core.tools").tool
    graph = importlib.import_module("langchain.agents").create_agent(model, [tool(tools.get_weather), tool(tools.now)])
    return langgraph_agent(graph)


@contextlib.asynccontextmanager
async def claude_desk(
    folder: Path, retries: int = 2, *, guarded: bool = True, clock: Clock | None = None
) -> AsyncIterator[Desk]:
    """A desk of the Claude Agent SDK, whose CLI repeats a request `retries` times; `clock` is the gateway's."""
    sdk: Any = importlib.import_module("claude_agent_sdk")
    tools = Tools()

    def answered(function: Any, name: str, about: str, schema: dict[str, Any]) -> Any:
        async def call(arguments: dict[str, Any]) -> dict[str, Any]:
            return {"content": [{"type": "text", "text": await function(**arguments)}]}

        return sdk.tool(name, about, schema)(call)

    server = sdk.create_sdk_mcp_server(
        "wx",
        tools=[
            answered(tools.get_weather, "get_weather", "The weather in a city.", {"city": str}),
            answered(tools.now, "now", "The time.", {}),
        ],
    )
    async with ModelSim(retry_after=0.001) as sim, GuardProxy(sim.url, limits=LIMITS) as guard:
        options = sdk.ClaudeAgentOptions(
            tools=[],
            setting_sources=[],
            cwd=str(folder),
            mcp_servers={"wx": server},
            allowed_tools=["mcp__wx__get_weather", "mcp__wx__now"],
            env={"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1", "CLAUDE_CODE_MAX_RETRIES": str(retries)},
        )
        agent = claude_agent(
            options,
            model="claude-sonnet-4-5",
            api_key="any",
            base_url=guard.url if guarded else sim.url,
            config_dir=folder / "claude",
        )
        async with running(f"sqlite:///{folder / 'gateway.db'}", folder, agent, clock=clock) as gateway:
            yield Desk(Client(web_app(gateway)), sim, tools)


@contextlib.contextmanager
def no_settings_of_the_machine() -> Iterator[None]:
    """No key, address or option of the machine reaches a library or the CLI, and its proxies lead nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE", "OPENAI_"))]:
            patch.delenv(name)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        yield
