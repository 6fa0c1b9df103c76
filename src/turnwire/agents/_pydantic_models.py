"""The agent that the configuration describes, on pydantic-ai: a provider's model, tools and MCP servers.

Guarantee: no client built here obeys the environment's proxies, every phase of a request has a time limit, and clients
and MCP servers end with the process. A tool that fails is told to the model, without the text of its exception.

This module needs `turnwire[pydantic-ai]`, and `turnwire[google]` for Google's models.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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

from ._mcp_server import MCPServer

TIMEOUT = httpx2.Timeout(connect=10.0, read=300.0, write=60.0, pool=60.0)
"""Of one request, in seconds; `read` is the longest silence."""

MCP_START_S = 30.0
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

    Raises `ImportError` when the provider's library is not installed, and `ValueError` for an unusable tool.
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
    ) -> None:
        self._client = _client(proxy)
        self._mcp_clients: list[httpx2.AsyncClient] = []
        self._servers: dict[str, AbstractToolset[Any]] = {}
        toolsets: list[AbstractToolset[Any]] = []
        if tools:
            try:
                toolsets.append(_Careful(FunctionToolset(list(tools))))
            except (UserError, TypeError, ValueError) as error:
                raise ValueError(f"a tool cannot be offered to a model: {error}") from None
        for name, server in (servers or {}).items():
            self._servers[name] = self._mcp(name, server, proxy)
            toolsets.append(_Careful(self._servers[name]))
        self.agent: PydanticAgent[None, str] = PydanticAgent(
            _model(kind, model, api_key, base_url, self._client), instructions=instructions, toolsets=toolsets
        )
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Runtime:
        """Connects to the MCP servers. Raises `MCPServerError` for one that does not answer."""
        async with contextlib.AsyncExitStack() as stack:
            for client in (self._client, *self._mcp_clients):
                stack.push_async_callback(_close, client)
            for name, toolset in self._servers.items():
                try:
                    await stack.enter_async_context(toolset)
                except Exception as error:
                    raise MCPServerError(
                        f"[agent.mcp.{name}]: the MCP server cannot be used ({_cause(error)}); "
                        "check its command or its url, and that it can be reached from this machine"
                    ) from error
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _mcp(self, name: str, server: MCPServer, proxy: str | None) -> AbstractToolset[Any]:
        from fastmcp.client.transports import StdioTransport
        from pydantic_ai.mcp import MCPToolset

        if server.command:
            transport = StdioTransport(
                server.command, list(server.args), env=dict(server.env) or None, keep_alive=False
            )
            return MCPToolset[Any](transport, id=name, tool_error_behavior="failed", init_timeout=MCP_START_S)
        client = _client(proxy, headers=server.headers, follow_redirects=True)
        self._mcp_clients.append(client)
        return MCPToolset[Any](
            server.url, id=name, tool_error_behavior="failed", init_timeout=MCP_START_S, http_client=client
        )


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
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        return AnthropicModel(name, provider=AnthropicProvider(api_key=api_key, base_url=base_url, http_client=client))
    if kind == "google":
        from pydantic_ai.models.google import GoogleModel
        from pydantic_ai.providers.google import GoogleProvider

        return GoogleModel(name, provider=GoogleProvider(api_key=api_key, base_url=base_url, http_client=client))
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(api_key=api_key, base_url=base_url, http_client=client)
    return (
        OpenAIChatModel(name, provider=provider) if kind == "openai" else OpenAIResponsesModel(name, provider=provider)
    )


def _client(
    proxy: str | None, *, headers: Mapping[str, str] | None = None, follow_redirects: bool = False
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        trust_env=False,
        proxy=proxy,
        headers=headers,
        timeout=TIMEOUT,
        follow_redirects=follow_redirects,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        event_hooks={"request": [_limit]},
    )


async def _limit(request: httpx2.Request) -> None:
    """Providers' libraries send limits of their own; Google's makes all phases as long as the longest."""
    request.extensions["timeout"] = TIMEOUT.as_dict()


async def _close(client: httpx2.AsyncClient) -> None:
    async with asyncio.timeout(CLOSE_S):
        await client.aclose()


def _cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return type(error).__name__
