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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
USE = "python:bench.agents:agent"
# Settings of the environment that would steer a server, or send it to its provider through a proxy.
STEERS = ("TURNWIRE_", "NODE_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


class Process:
    """A server process that has said where it listens."""

    def __init__(self, argv: Sequence[str | Path], log: Path, env: Mapping[str, str]) -> None:
        known = {key: value for key, value in os.environ.items() if not key.startswith(STEERS)}
        with log.open("wb") as errors:
            self._popen = subprocess.Popen(argv, cwd=ROOT, env={**known, **env}, stdout=subprocess.PIPE, stderr=errors)
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline().decode()
        if not line.startswith("ready "):
            self.kill()
            raise RuntimeError(f"the server did not start:\n{log.read_text()}")
        self.url = line.split()[1]
        host, _, port = self.url.removeprefix("http://").rpartition(":")
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
def turnwire(use: str = USE, base_url: str = "") -> Iterator[Process]:
    """`turnwire serve` over a fresh SQLite store, everything else as it is by default.

    Args:
        use, base_url: the agent's settings; by default it is that of the benches.
    """
    with tempfile.TemporaryDirectory(prefix="turnwire-bench-") as name:
        folder = Path(name)
        config = folder / "turnwire.toml"
        config.write_text(
            f'[server]\nport = 0\n[store]\nurl = "sqlite:///{folder}/turnwire.db"\n[agent]\nuse = "{use}"\n'
            f'base_url = "{base_url}"\n'
        )
        with running("-m", "turnwire", "serve", "--config", config, "--log-level", "warning") as process:
            yield process


@contextlib.contextmanager
def bare() -> Iterator[Process]:
    """The server without a gateway; see `bench.bare`."""
    with running("-m", "bench.bare") as process:
        yield process


@contextlib.contextmanager
def provider(count: int, rate: float) -> Iterator[Process]:
    """A provider of models whose answers are `count` deltas, `rate` a second; see `bench.provider`."""
    with running("-m", "bench.provider", str(count), str(rate)) as process:
        yield process


@contextlib.contextmanager
def running(
    *args: str | Path, program: str | Path = sys.executable, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A server process that prints `ready` and its address; by default a Python one."""
    with tempfile.TemporaryDirectory(prefix="turnwire-bench-") as name:
        process = Process([program, *args], Path(name) / "log", env or {})
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
