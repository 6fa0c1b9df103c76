"""A program at a terminal of its own, as a person sits at it."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import fcntl
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

LIMIT_S = 40.0
_START = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from turnwire.cli import main; main()"


class PtyProcess:
    """`turnwire` with arguments, at a terminal. `output` is everything it has printed."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self.output = ""
        self._master = master
        self._process = process
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = 0
        self._news = asyncio.Event()
        self._ended = False
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # Linux says this when the last program has left the terminal.
            data = b""
        if not data:
            self._ended = True
            asyncio.get_running_loop().remove_reader(self._master)
        self.output += self._decoder.decode(data, final=not data)
        self._news.set()

    async def expect(self, pattern: str) -> str:
        """Waits for a regular expression in what was not expected before; returns what came up to its end."""
        wanted = re.compile(pattern, re.S)
        try:
            async with asyncio.timeout(LIMIT_S):
                while (found := wanted.search(self.output, self._seen)) is None:
                    assert not self._ended, f"it ended without {pattern!r}: {self.output[self._seen :]!r}"
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{pattern!r} did not come: {self.output[self._seen :]!r}") from None
        passed, self._seen = self.output[self._seen : found.end()], found.end()
        return passed

    def send(self, keys: str) -> None:
        """Presses keys."""
        os.write(self._master, keys.encode())

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def terminate(self) -> None:
        """Asks the program to end, as the system does at shutdown."""
        self._process.send_signal(signal.SIGTERM)

    async def wait(self) -> int:
        """The exit code."""
        async with asyncio.timeout(LIMIT_S):
            return await self._process.wait()

    async def close(self) -> None:
        if not self._ended:
            asyncio.get_running_loop().remove_reader(self._master)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        os.close(self._master)


@contextlib.asynccontextmanager
async def at_terminal(*arguments: str, cwd: Path, rows: int = 24, columns: int = 80) -> AsyncIterator[PtyProcess]:
    """Runs `turnwire` with `arguments` at a terminal of that size."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "INPUTRC")
    }
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _START,
            *arguments,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env={**environment, "TERM": "xterm"},
            start_new_session=True,
        )
    finally:
        os.close(slave)
    terminal = PtyProcess(master, process)
    try:
        yield terminal
    finally:
        await terminal.close()
