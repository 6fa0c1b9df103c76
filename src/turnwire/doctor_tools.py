"""What `turnwire doctor` says of MCP servers; each is started or asked, and stopped again.

This module needs `turnwire[pydantic-ai]`.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Mapping

import httpx2

from .agents._mcp_server import MCPServer
from .agents._mcp_tools import START_S, MCPTools
from .clock import Clock
from .doctor import Finding
from .log import mask

TIMEOUT = httpx2.Timeout(10.0, read=START_S)
_REFUSED = {
    "HTTP 401": "it takes no request without a valid key: correct {section} headers",
    "HTTP 403": "its key may not do this: correct {section} headers, or ask who runs the server",
    "HTTP 404": "there is no MCP server at this address: correct {section} url, whose path is often /mcp",
    "HTTP 405": "there is no MCP server at this address: correct {section} url, whose path is often /mcp",
    "HTTP 429": "it has too much to do: try again later",
}


async def look_at_servers(servers: Mapping[str, MCPServer], proxy: str | None, clock: Clock) -> list[Finding]:
    """Whether each server answers and which tools it has; if not: which one, why, and what to do."""
    return list(await asyncio.gather(*(_look(name, server, proxy, clock) for name, server in servers.items())))


async def _look(name: str, server: MCPServer, proxy: str | None, clock: Clock) -> Finding:
    def client() -> httpx2.AsyncClient:
        return httpx2.AsyncClient(trust_env=False, proxy=proxy, headers=server.headers, timeout=TIMEOUT)

    tools = MCPTools(name, server, client=client, taken=lambda: (), clock=clock)
    try:
        problem = await tools.open(None)
        names = tools.names
    finally:
        await tools.close()
    if problem is None:
        return Finding("ok", "agent", f"the MCP server {name} offers {', '.join(names) or 'no tools'}")
    what = f"the MCP server {name} {_failed(server)} ({problem}); its tools are missing"
    return Finding("warning", "agent", what, remedy(f"[agent.mcp.{name}]", server, problem))


def _failed(server: MCPServer) -> str:
    if server.command:
        return f"cannot be started with `{mask(shlex.join([server.command, *server.args]))}`"
    return f"cannot be reached at {_shown(server.url)}"


def remedy(section: str, server: MCPServer, problem: str) -> str:
    """What to do about a server that does not answer.

    Args:
        section: where the configuration says it.
        problem: what `MCPTools.open` said.
    """
    if server.command:
        slow = "; a package runner may still be downloading it" if "in time" in problem else ""
        return f"run that command in a terminal to see what it says{slow}; then correct {section} command, args or env"
    if problem in _REFUSED:
        return _REFUSED[problem].format(section=section)
    if problem.startswith("HTTP 5"):
        return "the server itself failed: look at its log"
    return f"start the server, or correct {section} url; if only a proxy leads there, set [network] proxy"


def _shown(url: str) -> str:
    """The address without what may be a key: its user part and its query."""
    return re.sub(r"(?<=//)[^/?#]*@", "***@", url.partition("?")[0])
