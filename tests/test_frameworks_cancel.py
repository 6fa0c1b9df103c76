"""Cancelling turns of the frameworks: nothing is left of one within a second, no process of the CLI either."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cancelling import (
    ARGUMENTS,
    PHASES,
    SEEN,
    SILENT,
    STALL,
    TEXT,
    THOUGHTS,
    WAYS,
    Desk,
    asks,
    cancel,
    of_sim,
    provider,
    stored_once,
)
from tests.framework_turns import STOP_S
from tests.gateways import running
from turnwire.agents.claude import claude_agent
from turnwire.agents.guard import guarded_client
from turnwire.agents.guard_proxy import GuardProxy
from turnwire.agents.langgraph import langgraph_agent
from turnwire.agents.openai_agents import openai_agent
from turnwire.sim.models import ModelSim
from turnwire.testing.clock import FakeClock

claude: Any = pytest.importorskip("claude_agent_sdk")
agents: Any = pytest.importorskip("agents")
openai: Any = pytest.importorskip("openai")
chats: Any = pytest.importorskip("langchain_openai")
graphs: Any = pytest.importorskip("langchain.agents")
tooling: Any = importlib.import_module("langchain_core.tools")

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks, pytest.mark.timeout(60)]

KEY = "sk-test-key-0123456789"
MODEL = "claude-sonnet-4-5"
_TLS = ssl.create_default_context()


async def get_weather(city: str) -> str:
    """The weather in a city; nobody ever learns it."""
    await asyncio.Event().wait()
    return city


@asynccontextmanager
async def provided(clock: FakeClock) -> AsyncIterator[tuple[ModelSim, Any]]:
    async with provider(clock) as sim, guarded_client(clock=clock, verify=_TLS) as http:
        yield sim, http


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wire", ["O", "R"])
async def test_nothing_is_left_of_a_turn_of_openai_agents(wire: Any, way: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with provided(clock) as (sim, http):
        client = openai.AsyncOpenAI(base_url=sim.base_url(wire), api_key=KEY, http_client=http)
        kind = agents.OpenAIResponsesModel if wire == "R" else agents.OpenAIChatCompletionsModel
        tool = agents.function_tool(get_weather)
        own = agents.Agent(name="Weather", model=kind("m", client), tools=[tool])
        agent = openai_agent(own, run_config=agents.RunConfig(tracing_disabled=True))
        await cancel(agent, of_sim(sim), tmp_path, clock, WAYS[way])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wire", ["O", "R"])
async def test_nothing_is_left_of_a_turn_of_langgraph(wire: Any, way: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with provided(clock) as (sim, http):
        chat = chats.ChatOpenAI(
            model="m", base_url=sim.base_url(wire), api_key=KEY, http_async_client=http,
            use_responses_api=wire == "R", stream_usage=True,
        )  # fmt: skip
        agent = langgraph_agent(graphs.create_agent(chat, [tooling.tool("get_weather")(get_weather)]))
        # LangChain drops the thoughts of Chat Completions.
        phases = tuple(phase for phase in PHASES if (wire, phase) != ("O", THOUGHTS))
        await cancel(agent, of_sim(sim), tmp_path, clock, WAYS[way], phases)


def children() -> set[int]:
    """The CLIs that this process started and that are not gone, dead ones that nobody waited for too."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
            if name == "claude" and int(rest.split()[1]) == os.getpid():
                found.add(int(entry.parent.name))
    return found


@pytest.fixture
def no_process_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the machine reaches the CLI, and none of it is left."""
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE"))]:
        monkeypatch.delenv(name)
    yield
    assert children() == set()


def claude_over(guard: GuardProxy, folder: Path) -> Any:
    def options(_turn: Any) -> Any:
        weather = claude.tool("get_weather", "The weather of a city.", {"city": str})(_never)
        return claude.ClaudeAgentOptions(
            tools=[],
            setting_sources=[],
            cwd=str(folder),
            mcp_servers={"wx": claude.create_sdk_mcp_server("wx", tools=[weather])},
            allowed_tools=["mcp__wx__get_weather"],
            env={"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1"},
        )

    return claude_agent(options, model=MODEL, api_key=KEY, base_url=guard.url, config_dir=folder / "claude")


async def _never(_arguments: dict[str, Any]) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


CLAUDE_WAYS = ["a person's stop", "a stop with nobody reading", "a shutdown"]
"""Those that need no clock of the test's own: the CLI's time cannot be moved."""


@pytest.mark.usefixtures("no_process_stays")
@pytest.mark.parametrize("way", CLAUDE_WAYS)
@pytest.mark.parametrize("phase", [SILENT, THOUGHTS, TEXT, ARGUMENTS, STALL])
async def test_nothing_is_left_of_a_turn_of_the_claude_cli(phase: str, way: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 't.db'}"
    async with provider() as sim, GuardProxy(sim.url) as guard:
        context = running(url, tmp_path, claude_over(guard, tmp_path))
        at = Desk(await context.__aenter__(), context, FakeClock())
        try:
            reader = at.client.ask(asks(phase), chat=phase)
            at.readers = {phase: reader}
            await reader.until(lambda one: SEEN.get(phase, "start") in {event["type"] for event in one.events()})
            await sim.wait_requests(1)
            await sim.wait_idle()
            assert len(children()) == 1
            ended = asyncio.ensure_future(_over(at, sim))
            async with asyncio.timeout(STOP_S):
                await WAYS[way].act(at)
                await ended
        finally:
            at.leave()
            await at.leaving[0]
        await stored_once(url, at, WAYS[way].outcome)


async def _over(at: Desk, sim: ModelSim) -> None:
    """Returns once nothing is left of the turn."""
    while at.left() or children() or any(seen.ended == "open" for seen in sim.requests):
        await asyncio.sleep(0)
