"""The agent that the configuration describes, on pydantic-ai: a provider's model, tools and MCP servers.

Guarantee: no client built here obeys the environment's proxies, every phase of a request has a time limit, and clients
and MCP servers end with the process. A tool that fails is told to the model, without the text of its exception. An MCP
server that cannot be reached costs its own tools only, and people and the model are told.

This module needs `turnwire[pydantic-ai]`, and `turnwire[google]` for Google's models.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx2
import structlog
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import FunctionToolset, RunContext
from pydantic_ai.exceptions import (
    AgentRunError,
    ApprovalRequired,
    CallDeferred,
    ModelRetry,
    ToolFailed,
    ToolFailedError,
    ToolRetryError,
    UserError,
)
from pydantic_ai.models import Model
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from ..clock import Clock, SystemClock
from ..events import AgentEvent, Text
from ..turn import Turn
from ._mcp_server import MCPServer
from .guard import Retries, closing_streams, guarded_client

if TYPE_CHECKING:
    from . import Agent
    from ._mcp_tools import MCPTools

TIMEOUT = httpx2.Timeout(connect=10.0, read=300.0, write=60.0, pool=60.0)
"""Of one request, in seconds; `read` is the longest silence."""

TURN_WAIT_S = 8.0
"""How long a turn waits for an MCP server that is connected again."""

CLOSE_S = 5.0

_log = structlog.get_logger(__name__)
_MEANT = (AgentRunError, ApprovalRequired, CallDeferred, ModelRetry, ToolFailed, ToolFailedError, ToolRetryError)


class MCPServerError(Exception):
    """An MCP server of the configuration cannot be used; the text names it."""


class Runtime:
    """A configured agent and what it keeps open. Enter it before the first turn.

    Args:
        kind: `openai`, `openai-responses`, `anthropic` or `google`.
        model: the model's name as the provider knows it.
        tools: functions that the model may call.
        servers: MCP servers by name; they are started with this object and end with it.

    Raises `ImportError` when the provider's library is not installed, `MCPServerError` for a server's program that is
    not there, and `ValueError` for an unusable tool.
    """

    def __init__(
        self,
        kind: str,
        model: str,
        *,
        api_key: str,
        base_url: str | None = None,
        instructions: str | None = None,
        proxy: str | None = None,
        tools: Sequence[Callable[..., Any]] = (),
        servers: Mapping[str, MCPServer] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._client = guarded_client(proxy=proxy, clock=clock, retries=Retries())
        self._clock = clock or SystemClock()
        self._servers: dict[str, MCPTools] = {}
        self._taken: list[str] = []
        toolsets: list[AbstractToolset[Any]] = []
        if tools:
            try:
                functions = FunctionToolset[Any](list(tools))
                self._taken += functions.tools
                toolsets.append(_Careful(functions))
            except (UserError, TypeError, ValueError) as error:
                raise ValueError(f"a tool cannot be offered to a model: {error}") from None
        for name, server in (servers or {}).items():
            self._servers[name] = self._tools_of(name, server, proxy)
            toolsets.append(self._servers[name])
        self.agent: PydanticAgent[None, str] = PydanticAgent(
            _model(kind, model, api_key, base_url, self._client), instructions=instructions, toolsets=toolsets
        )
        self.agent.instructions(self._missing)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Runtime:
        """Starts the MCP servers; one that does not answer is logged and tried again by every turn."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(_close, self._client)
            stack.push_async_callback(self._stop_servers)
            for problem in await self._check(None):
                _log.warning(problem)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def with_servers(self, agent: Agent) -> Agent:
        """`agent`, which first connects what was lost and says what cannot be used, and leaves no stream open."""

        async def run_turn(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
            for problem in await self._check(TURN_WAIT_S):
                yield Text(f"*{problem}*\n\n")
            async with closing_streams(), contextlib.aclosing(agent(turn)) as events:
                async for event in events:
                    yield event

        return run_turn

    async def _check(self, seconds: float | None) -> list[str]:
        """What people should know about servers that cannot be used."""
        problems = await asyncio.gather(*(server.open(seconds) for server in self._servers.values()))
        return [
            f"The tools of {name} cannot be used now: its MCP server cannot be reached ({problem})."
            for name, problem in zip(self._servers, problems, strict=True)
            if problem
        ]

    async def _stop_servers(self) -> None:
        await asyncio.gather(*(server.close() for server in self._servers.values()))

    def _missing(self) -> str | None:
        """What the model is told about servers that cannot be used."""
        names = ", ".join(name for name, server in self._servers.items() if not server.connected)
        return f"These tool servers cannot be reached now, and their tools are missing: {names}." if names else None

    def _tools_of(self, name: str, server: MCPServer, proxy: str | None) -> MCPTools:
        from ._mcp_tools import MCPTools

        if server.command and shutil.which(server.command, path=server.env.get("PATH")) is None:
            raise MCPServerError(
                f"[agent.mcp.{name}] command = {server.command!r}: there is no such program; install it, or write its "
                "whole path"
            )

        def client() -> httpx2.AsyncClient:
            # The protocol's library follows redirects within the server's origin itself.
            return _client(proxy, headers=server.headers)

        before = list(self._servers.values())

        def taken() -> set[str]:
            return {*self._taken, *(tool for other in before for tool in other.names)}

        return MCPTools(name, server, client=client, taken=taken, clock=self._clock)


class _Careful(WrapperToolset[Any]):
    """Tools whose failure the model is told about, so that it can go on; what an exception says may be secret."""

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        try:
            return await super().call_tool(name, tool_args, ctx, tool)
        except _MEANT:
            raise
        except Exception as error:  # noqa: BLE001 - a tool is anybody's code
            _log.warning("a tool failed", tool=name, error=type(error).__name__, exc_info=True)
            raise ToolFailed(f"The tool {name} failed ({type(error).__name__}).") from None


def _model(kind: str, name: str, api_key: str, base_url: str | None, client: httpx2.AsyncClient) -> Model[Any]:
    # One provider's library is enough for its models; each takes a while to import.
    if kind == "anthropic":
        from anthropic import AsyncAnthropic
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        # What is repeated, and when, is decided below the libraries.
        anthropic = AsyncAnthropic(api_key=api_key, base_url=base_url, http_client=client, max_retries=0)
        return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=anthropic))
    if kind == "google":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        return GoogleModel(name, provider=GoogleProvider(api_key=api_key, base_url=base_url, http_client=client))
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    openai = AsyncOpenAI(api_key=api_key, base_url=base_url, http_client=client, max_retries=0)
    provider = OpenAIProvider(openai_client=openai)
    return (
        OpenAIChatModel(name, provider=provider) if kind == "openai" else OpenAIResponsesModel(name, provider=provider)
    )


def _client(proxy: str | None, *, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        trust_env=False,
        proxy=proxy,
        headers=headers,
        timeout=TIMEOUT,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        event_hooks={"request": [_limit]},
    )


async def _limit(request: httpx2.Request) -> None:
    """Providers' libraries send limits of their own; Google's makes all phases as long as the longest."""
    request.extensions["timeout"] = TIMEOUT.as_dict()


async def _close(client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(CLOSE_S):
        await client.aclose()
