"""Gateways for tests: real ones, over a real store, with an agent and a clock of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from turnwire.clock import Clock
from turnwire.config import Config, load_config
from turnwire.gateway import Gateway
from turnwire.journal.writer import FLUSH_S
from turnwire.store import open_database
from turnwire.turns.pump import Agent


@functools.cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory(prefix="turnwire-template-") as folder:
        path = Path(folder) / "template.db"

        async def make() -> None:
            await (await open_database(f"sqlite:///{path}")).close()

        # A loop of its own, for this is called from within others.
        thread = threading.Thread(target=lambda: asyncio.run(make()))
        thread.start()
        thread.join()
        return path.read_bytes()


def fill(url: str) -> None:
    """Makes the SQLite file that `url` names, if there is none: a copy of an empty store, for migrating takes long."""
    path = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and path.parent.is_dir() and not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(_migrated())


def config_for(url: str, folder: Path, **overrides: Any) -> Config:
    """A configuration over the store at `url`; `overrides` are `section__key=value`."""
    fill(url)
    sections: dict[str, Any] = {"store": {"url": url, "files": str(folder / "files"), "durability": "process"}}
    for name, value in overrides.items():
        *path, key = name.split("__")
        section = sections
        for part in path:
            section = section.setdefault(part, {})
        section[key] = value
    return load_config(env={}, overrides=sections)


@contextlib.asynccontextmanager
async def running(
    url: str, folder: Path, agent: Agent, *, clock: Clock | None = None, **overrides: Any
) -> AsyncIterator[Gateway]:
    """A started gateway, stopped at the end without waiting for its turns.

    With a clock of the test's own, every commit is made at once: time stands still while the store works.
    """
    overrides.setdefault("turns__drain_s", 0)
    if clock is not None:
        # An hour of the test's clock passes before the store has answered once; no lease must end by that.
        overrides.setdefault("turns__lease_s", 1_000_000)
    flush_s = 0.0 if clock is not None else FLUSH_S
    async with Gateway(config_for(url, folder, **overrides), agent, clock=clock, flush_s=flush_s) as gateway:
        yield gateway
