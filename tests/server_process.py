"""A real `turnwire serve`, started, talked to over sockets, and killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2

from tests.asgi import question
from tests.strict_client import parse_sse
from turnwire.testing import FakeClock

START_S = 60.0
ROOT = Path(__file__).parent.parent


class ServerProcess:
    """One server process over a store in `folder`; it can be killed and started again on the same store."""

    def __init__(self, folder: Path, use: str = "python:tests.process_agent:agent", settings: str = "") -> None:
        self.folder = folder
        self.config = folder / "turnwire.toml"
        self.config.write_text(
            f'[server]\nport = 0\n[store]\nurl = "sqlite:///{folder}/turnwire.db"\ndurability = "process"\n'
            f'[agent]\nuse = "{use}"\n{settings}'
        )
        self.url = ""
        self._process: asyncio.subprocess.Process | None = None
        self._drains: list[asyncio.Task[Any]] = []
        self.log = b""

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    def deliveries(self) -> list[tuple[str, str | None]]:
        """Status and outcome of each delivery in the store."""
        with contextlib.closing(sqlite3.connect(f"file:{self.folder}/turnwire.db?mode=ro", uri=True)) as store:
            return store.execute("SELECT status, outcome FROM deliveries").fetchall()

    async def until_settled(self) -> None:
        """Returns once no delivery is open: what people see may be right before that is stored."""
        await FakeClock().until(lambda: all(status != "open" for status, _ in self.deliveries()), limit=START_S)

    async def start(self) -> None:
        """Starts the process and waits for its ready line."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("TURNWIRE_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "turnwire", "serve", "--config", str(self.config),
            cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._drains = [asyncio.create_task(self._drain(self._process.stderr))]
        async with asyncio.timeout(START_S):
            while True:
                line = await self._process.stdout.readline()
                assert line, f"the server ended: {self.log.decode()}"
                if line.startswith(b"ready "):
                    break
        self._drains.append(asyncio.create_task(self._drain(self._process.stdout)))
        self.url = line.decode().split()[1]

    async def _drain(self, stream: asyncio.StreamReader) -> None:
        while block := await stream.read(65536):
            self.log += block

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends the signal and waits for the end; returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = await self.process.wait()
        await asyncio.gather(*self._drains)
        return code

    def client(self) -> httpx2.AsyncClient:
        """A client of the process that runs now."""
        limits = httpx2.Limits(max_connections=100)
        return httpx2.AsyncClient(base_url=self.url, trust_env=False, timeout=60, limits=limits)


@contextlib.asynccontextmanager
async def served(folder: Path, **options: Any) -> AsyncIterator[ServerProcess]:
    """A started server, killed at the end."""
    server = ServerProcess(folder, **options)
    await server.start()
    try:
        yield server
    finally:
        if server.process.returncode is None:
            await server.kill()


class Reader:
    """Reads one turn over sockets, keeping every record it was shown under its number."""

    def __init__(self, chat: str, text: str) -> None:
        self.chat = chat
        self.text = text
        self.turn: str | None = None
        self.records: dict[int, str] = {}
        self.whole = False
        self.news = asyncio.Event()

    @property
    def cursor(self) -> int:
        """The number of the next record."""
        return len(self.records)

    async def post(self, client: httpx2.AsyncClient) -> None:
        """Asks, and reads until the end or a cut."""
        body = question(self.text, chat=self.chat)
        await self._read(client.stream("POST", "/api/chat?ui=7", json=body))

    async def resume(self, client: httpx2.AsyncClient) -> None:
        """Reads on from the cursor until the end or a cut."""
        await self._read(client.stream("GET", f"/api/chat/{self.turn}/stream?ui=7&startIndex={self.cursor}"))

    async def _read(self, opening: contextlib.AbstractAsyncContextManager[httpx2.Response]) -> None:
        buffer = b""
        try:
            async with opening as response:
                assert response.status_code == 200, await response.aread()
                self.turn = response.headers["x-workflow-run-id"]
                self.news.set()
                async for block in response.aiter_raw():
                    buffer += block
                    end = buffer.rfind(b"\n\n") + 2
                    if end > 1:
                        self._take(buffer[:end])
                        buffer = buffer[end:]
                self.whole = True
        except httpx2.TransportError:
            return

    def _take(self, body: bytes) -> None:
        for number, data in parse_sse(body, complete=False):
            if data == "[DONE]":
                continue
            assert number is not None
            assert int(number) == self.cursor, f"record {number} came, {self.cursor} was due"
            self.records[int(number)] = data
        self.news.set()
