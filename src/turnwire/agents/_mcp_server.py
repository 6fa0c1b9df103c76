"""What the configuration says about one MCP server."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class MCPServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server to start as a process (`command`), or one to be reached (`url`); the repr shows no secret.

    `env` is added to a minimal environment of the process, `headers` to every request.
    """

    command: str = ""
    args: Sequence[str] = ()
    env: Mapping[str, str] = {}
    url: str = ""
    headers: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"MCPServer({self.command or self.url.partition('?')[0]!r})"

    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        if bool(self.command) == bool(self.url):
            return "must have either command (a process to start) or url (a server to reach); set exactly one of them"
        if self.command and self.headers:
            return "has headers, which only a url takes; a command takes env"
        if self.url and (self.args or self.env):
            return "has args or env, which only a command takes; a url takes headers"
        if self.url and not self.url.startswith(("http://", "https://")):
            return "url must begin with http:// or https://"
        for name in self.headers:
            if not _HEADER.fullmatch(name):
                return f"has a header named {name!r}, which no server takes; write one like authorization"
        for name in self.env:
            if not name or "=" in name or "\0" in name:
                return f"has a variable named {name!r}, which no process takes; write one like API_KEY"
        return None
