"""Real MCP servers for tests: one over HTTP in this process, and one to be started as a child."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server import MCPServer as Server

from turnwire.agents._mcp_server import MCPServer

# Written by hand: it starts in no time, speaks the handshake of older servers, and can misbehave.
STDIO = """
import json, os, pathlib, signal, sys, threading

here = pathlib.Path(__file__).parent
manner = (here / "manner").read_text()
with open(here / "pids", "a") as pids:
    print(os.getpid(), file=pids)
if manner == "absent":
    raise SystemExit(3)
if manner == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if manner in ("mute", "deaf"):
    threading.Event().wait()

def tool(name, arguments):
    if name == "double" and arguments["number"] < 0:
        return {"isError": True, "content": [{"type": "text", "text": "no " + os.environ.get("TOKEN", "")}]}
    if name == "die":
        os._exit(1)
    if name == "block":
        (here / "blocked").write_text("")
        open(here / "go").read()
    text = f"{2 * arguments.get('number', 0)} {os.environ.get('UNIT', '')}"
    return {"content": [{"type": "text", "text": text}]}

def answer(method, given):
    if method == "initialize":
        version = given["protocolVersion"]
        about = {"name": "numbers", "version": "1"}
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        number = {"type": "object", "properties": {"number": {"type": "integer"}}}
        return {"tools": [{"name": name, "inputSchema": number} for name in ("double", "die", "block")]}
    if method == "tools/call":
        return tool(given["name"], given.get("arguments") or {})

for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        result = answer(asked["method"], asked.get("params"))
        said = {"error": {"code": -32601, "message": "unknown"}} if result is None else {"result": result}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
"""


class Child:
    """A server to be started as a process; `manner` says how it misbehaves from its next start on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "server.py").write_text(STDIO)
        os.mkfifo(folder / "go")
        self.manner("")

    def manner(self, manner: str) -> None:
        (self._folder / "manner").write_text(manner)

    def server(self, **env: str) -> MCPServer:
        return MCPServer(command=sys.executable, args=["-S", "-E", str(self._folder / "server.py")], env=env)

    @property
    def blocked(self) -> bool:
        """Whether the tool `block` was called; it waits for `go`."""
        return (self._folder / "blocked").exists()

    def go(self) -> None:
        (self._folder / "go").write_text("")

    @property
    def pids(self) -> list[int]:
        """The processes that were ever started, oldest first."""
        pids = self._folder / "pids"
        return [int(line) for line in pids.read_text().split()] if pids.exists() else []

    def left(self) -> list[int]:
        """Those that are still there."""
        return [pid for pid in self.pids if Path(f"/proc/{pid}").exists()]


class Web:
    """A server over HTTP: what was asked of it, and a way to take it down and bring it up at the same address."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/mcp"
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.key = ""
        self.moved_to = ""
        self.called = asyncio.Event()
        self._running: tuple[uvicorn.Server, asyncio.Task[None]] | None = None

    async def up(self) -> None:
        inner = self._app()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                self.requests.append((scope["path"], headers))
                if self.moved_to and self.moved_to != f"http://{headers['host']}{scope['path']}":
                    location = [(b"location", self.moved_to.encode())]
                    await send({"type": "http.response.start", "status": 307, "headers": location})
                    await send({"type": "http.response.body"})
                    return
                if self.key and headers.get("authorization") != self.key:
                    said = json.dumps({"error": f"bad authorization {headers.get('authorization')}"}).encode()
                    await send({"type": "http.response.start", "status": 401, "headers": []})
                    await send({"type": "http.response.body", "body": said})
                    return
            await inner(scope, receive, send)

        config = uvicorn.Config(app, host="127.0.0.1", port=self._port, log_config=None, timeout_graceful_shutdown=0)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        self._running = server, task
        while not server.started:
            await asyncio.sleep(0)

    async def down(self) -> None:
        if self._running is not None:
            server, task = self._running
            self._running = None
            server.should_exit = server.force_exit = True
            await task

    def _app(self) -> Any:
        server = Server("numbers", log_level="CRITICAL")

        @server.tool()
        def double(number: int) -> str:
            """Twice a number."""
            if number < 0:
                raise ValueError("negative")
            return f"{2 * number} apples"

        @server.tool()
        async def hang() -> str:
            """Never answers."""
            self.called.set()
            await asyncio.Event().wait()
            return ""

        return server.streamable_http_app()


@contextlib.asynccontextmanager
async def web() -> AsyncIterator[Web]:
    """A server over HTTP that is up; it is taken down at the end."""
    server = Web()
    await server.up()
    try:
        yield server
    finally:
        await server.down()


def kill(pid: int) -> None:
    os.kill(pid, 9)
