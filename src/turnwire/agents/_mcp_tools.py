"""The tools of one MCP server, which may come and go while the gateway runs.

Guarantee: a server that was lost is connected or started again when the next turn begins; until then its tools are not
offered, and a call that was under way fails alone and is never sent twice. Starting, asking and stopping are bounded in
time, and after `close` no process that was started here is left. What a server answers in place of a result is told
without the secrets that it was given.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Callable, Collection
from typing import Any

import httpx2
import structlog
from fastmcp.client.transports import StdioTransport
from mcp_types import Tool
from pydantic_ai import RunContext
from pydantic_ai.exceptions import ModelRetry, ToolFailed
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool

from ..clock import Clock, wait
from ._mcp_server import MCPServer

START_S = 30.0
"""The longest start of a server, in seconds; a package runner may have to download it."""

ASK_S = 5.0
"""The longest wait for the list of tools of a server that is connected."""

STOP_S = 15.0
"""The longest end; a process that neither closes nor obeys a signal is killed before."""

_log = structlog.get_logger(__name__)


class _Link(MCPToolset[Any]):
    """One connection, with the tools that the server named when it was last asked."""

    def __init__(self, name: str, server: MCPServer, client: httpx2.AsyncClient | None) -> None:
        self.process: StdioTransport | None = None
        if server.command:
            self.process = StdioTransport(
                server.command, list(server.args), env=dict(server.env) or None, keep_alive=False
            )
        super().__init__(
            self.process or server.url,
            id=name,
            tool_error_behavior="failed",
            init_timeout=START_S,
            http_client=client,
        )
        self.http_client = client
        self.refused = 0
        if client is not None:
            client.event_hooks.setdefault("response", []).append(self._note)
        self.calls = 0
        self.ended = asyncio.Event()
        self.listed: list[Tool] = []

    async def ask(self) -> None:
        self.listed = list(await self.client.list_tools())

    async def list_tools(self) -> list[Tool]:
        return self.listed

    def cause(self, error: Exception) -> str:
        """What went wrong; an HTTP status is more than the library tells."""
        return f"HTTP {self.refused}" if self.refused else cause(error)

    async def _note(self, response: httpx2.Response) -> None:
        self.refused = response.status_code if response.status_code >= 400 else 0


class MCPTools(AbstractToolset[Any]):
    """The tools of a configured server.

    Args:
        name: the server's name in the configuration.
        client: makes a client for one connection to the server's `url`.
        taken: tool names that others have; a tool with such a name is offered as `SERVER_TOOL`.
    """

    def __init__(
        self,
        name: str,
        server: MCPServer,
        *,
        client: Callable[[], httpx2.AsyncClient],
        taken: Callable[[], Collection[str]],
        clock: Clock,
    ) -> None:
        self._name = name
        self._taken = taken
        self._server = server
        self._client = client
        self._clock = clock
        self._link: _Link | None = None
        self._own_names: dict[str, str] = {}
        self._held: dict[_Link, asyncio.Task[None]] = {}
        self._opening: asyncio.Task[str | None] | None = None
        self._closed = False
        given = [*server.headers.values(), *server.env.values()]
        words = {word for value in given for word in (value, *value.split())}
        self._secrets = sorted((word for word in words if len(word) >= 6), key=len, reverse=True)

    @property
    def id(self) -> str:
        return self._name

    @property
    def connected(self) -> bool:
        return self._link is not None

    @property
    def names(self) -> list[str]:
        """The tools under the names that they are offered by."""
        return [self._offered(tool.name) for tool in self._link.listed] if self._link is not None else []

    async def open(self, seconds: float | None) -> str | None:
        """Makes sure that the server answers, and asks it for its tools; what is wrong, for people, or None.

        After `seconds`, if any, it says that the server has not answered yet; the attempt goes on.
        """
        if self._closed:
            return "it was stopped"
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(), name=f"mcp-{self._name}")
        opening = self._opening
        if not await wait(self._clock, {opening}, seconds):
            return "it has not answered yet"
        return "it is being stopped" if opening.cancelled() else opening.result()

    async def close(self) -> None:
        """Ends every connection and process of this server, for good."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        self._link = None
        await asyncio.gather(*(self._end(link) for link in list(self._held)))

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        if self._link is None:
            return {}
        offered: dict[str, ToolsetTool[Any]] = {}
        for name, tool in (await self._link.get_tools(ctx)).items():
            shown = self._offered(name)
            definition = dataclasses.replace(tool.tool_def, name=shown)
            self._own_names[shown] = name
            offered[shown] = dataclasses.replace(tool, toolset=self, tool_def=definition)
        return offered

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        link = self._link
        if link is None:
            raise ToolFailed(f"The MCP server {self._name} cannot be reached now.")
        link.calls += 1
        try:
            return await link.call_tool(self._own_names[name], tool_args, ctx, tool)
        except (ToolFailed, ModelRetry) as error:
            # A model that is asked to try again too often ends the turn; this one may go on without the tool.
            raise ToolFailed(self._hidden(error.message)) from None
        except Exception as error:  # noqa: BLE001 - the libraries raise whatever broke the connection
            _log.warning("a call of an MCP tool broke", server=self._name, tool=name, error=cause(error))
            raise ToolFailed(
                f"The MCP server {self._name} broke during the call ({cause(error)}); what it did is not known."
            ) from None
        finally:
            link.calls -= 1

    async def _open(self) -> str | None:
        if self._link is not None:
            if await self._answers(self._link):
                return None
            lost, self._link = self._link, None
            _log.warning("an MCP server was lost and is connected again", server=self._name)
            if lost in self._held:
                await self._end(lost)
        link = _Link(self._name, self._server, None if self._server.command else self._client())
        started: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        holding = asyncio.create_task(self._hold(link, started), name=f"mcp-{self._name}-connection")
        holding.add_done_callback(lambda _: self._held.pop(link))
        self._held[link] = holding
        if not await wait(self._clock, {started}, START_S):
            await self._end(link)
            return "it did not answer in time"
        problem = started.result()
        if problem is None:
            self._link = link
        return problem

    async def _hold(self, link: _Link, started: asyncio.Future[str | None]) -> None:
        """One connection from its start to its end, in one task, as its cancel scopes want."""
        problem: str | None = "it was stopped"
        try:
            async with link:
                await link.ask()
                started.set_result(None)
                await link.ended.wait()
        except Exception as error:  # noqa: BLE001 - the libraries raise whatever broke the connection
            problem = link.cause(error)
        finally:
            # The library gives up on a stubborn process before the process is gone.
            if link.process is not None:
                await link.process.disconnect()  # type: ignore[no-untyped-call]
            if link.http_client is not None:
                await link.http_client.aclose()
            if not started.done():
                started.set_result(problem)

    async def _answers(self, link: _Link) -> bool:
        asking = asyncio.create_task(link.ask(), name=f"mcp-{self._name}-tools")
        try:
            if await wait(self._clock, {asking}, ASK_S):
                return not asking.cancelled() and asking.exception() is None
        finally:
            asking.cancel()
            await asyncio.wait({asking})
        # A server that works on a call may have no time for others, and its call must not be lost.
        return link.calls > 0

    async def _end(self, link: _Link) -> None:
        """Ends a connection; one that is still being made, or that does not end, is cancelled."""
        holding = self._held[link]
        if link is self._link or link.is_running:
            link.ended.set()
            if await wait(self._clock, {holding}, STOP_S):
                return
        holding.cancel()
        if not await wait(self._clock, {holding}, STOP_S):
            _log.error("an MCP server did not stop", server=self._name)

    def _offered(self, name: str) -> str:
        return name if name not in self._taken() else re.sub(r"[^A-Za-z0-9_-]", "_", f"{self._name}_{name}")

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def cause(error: BaseException) -> str:
    """The kind of failure, without its text, which may hold a secret."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        else:
            return type(error).__name__
