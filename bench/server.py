"""Real processes under measurement, and what the system says they used.

Guarantee: processor time is that of the whole server process, all threads, user and system, and of nothing else; the
process is dead when its block is left.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
USE = "python:bench.agents:agent"


class Process:
    """A server process that has said where it listens."""

    def __init__(self, args: Sequence[str], log: Path) -> None:
        env = {key: value for key, value in os.environ.items() if not key.startswith("TURNWIRE_")}
        with log.open("wb") as errors:
            self._popen = subprocess.Popen(
                [sys.executable, *args], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors
            )
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline().decode()
        if not line.startswith("ready "):
            self.kill()
            raise RuntimeError(f"the server did not start:\n{log.read_text()}")
        host, _, port = line.split()[1].removeprefix("http://").rpartition(":")
        self.address = (host, int(port))
        self.pid = self._popen.pid
        # How Linux names the processor clock of another process: see clock_getcpuclockid(3).
        self._clock = (~self.pid << 3) | 2

    def cpu_s(self) -> float:
        """Seconds of processor time used so far."""
        return time.clock_gettime(self._clock)

    def loop_s(self) -> float:
        """The same for the first thread alone, which runs the event loop."""
        stat = Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text()
        return int(stat.split()[0]) / 1e9

    def system_s(self) -> float:
        """The part of it that the kernel used, in steps of 10 ms."""
        stat = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return int(stat[12]) / os.sysconf("SC_CLK_TCK")

    def rss_kb(self, *, peak: bool = False) -> int:
        """Kilobytes (1024 bytes) of memory held now, or the most that was held so far."""
        name = "VmHWM:" if peak else "VmRSS:"
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()


@contextlib.contextmanager
def turnwire() -> Iterator[Process]:
    """`turnwire serve` with the benches' agent, over a fresh SQLite store, everything else as it is by default."""
    with tempfile.TemporaryDirectory(prefix="turnwire-bench-") as name:
        folder = Path(name)
        config = folder / "turnwire.toml"
        config.write_text(
            f'[server]\nport = 0\n[store]\nurl = "sqlite:///{folder}/turnwire.db"\n[agent]\nuse = "{USE}"\n'
        )
        args = ["-m", "turnwire", "serve", "--config", str(config), "--log-level", "warning"]
        with _running(args, folder / "log") as process:
            yield process


@contextlib.contextmanager
def bare() -> Iterator[Process]:
    """The server without a gateway; see `bench.bare`."""
    with (
        tempfile.TemporaryDirectory(prefix="turnwire-bench-") as name,
        _running(["-m", "bench.bare"], Path(name) / "log") as process,
    ):
        yield process


@contextlib.contextmanager
def _running(args: Sequence[str], log: Path) -> Iterator[Process]:
    process = Process(args, log)
    try:
        yield process
    finally:
        process.kill()


def allow_files(count: int) -> int:
    """Raises the limit of open files for this process and its children; returns how many of `count` there can be."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = count + 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return min(count, hard - 200)
