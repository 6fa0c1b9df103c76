"""An agent that leaves background jobs behind, and the jobs; files say how often each was run, and let it go on."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from turnwire.operation import JobError, Operation
from turnwire.turn import Turn

POLL_S = 0.01


async def agent(turn: Turn) -> AsyncIterator[Any]:
    """`job KIND FOLDER` leaves a job behind; a result is told as it came."""
    if "operation" in turn.metadata:
        yield f"It says: {turn.text}"
        return
    word, _, rest = turn.text.partition(" ")
    if word != "job":
        yield f"You said: {turn.text}"
        return
    kind, _, folder = rest.partition(" ")
    job = functools.partial(JOBS[kind], folder=folder)
    yield f"Started {await turn.background(f'the {kind} one', job)}."


async def quick(operation: Operation, folder: str) -> Any:
    _count(operation, folder)
    return {"key": operation.key == operation.id, "user": operation.user, "in": operation.conversation}


def blocking(operation: Operation, folder: str) -> str:
    _count(operation, folder)
    return "from a thread"


async def gated(operation: Operation, folder: str) -> str:
    runs = _count(operation, folder)
    await operation.progress({"half": runs})
    while not (Path(folder) / "gate").exists():
        await asyncio.sleep(POLL_S)
    return f"after {operation.attempt} starts"


async def fails(operation: Operation, folder: str) -> None:
    raise JobError("The archive is locked.")


async def breaks(operation: Operation, folder: str) -> None:
    raise ValueError("secret details")


async def odd(operation: Operation, folder: str) -> Any:
    return object()


async def huge(operation: Operation, folder: str) -> Any:
    return "x" * 300_000


async def deadly(operation: Operation, folder: str) -> None:
    _count(operation, folder)
    os.kill(os.getpid(), signal.SIGKILL)


def _count(operation: Operation, folder: str) -> int:
    with (Path(folder) / "runs").open("a") as runs:
        runs.write(f"{operation.key}\n")
    return len((Path(folder) / "runs").read_text().splitlines())


JOBS: dict[str, Any] = {job.__name__: job for job in (quick, blocking, gated, fails, breaks, odd, huge, deadly)}
