"""An agent that leaves background jobs behind, and the jobs; files say how often each was run, and let it go on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import threading
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


async def stepwise(operation: Operation, folder: str) -> None:
    """Says how far it is, and again behind the gate."""
    await operation.progress(1)
    while not (Path(folder) / "gate").exists():
        await asyncio.sleep(POLL_S)
    await operation.progress(2)
    await asyncio.Event().wait()


async def careful(operation: Operation, folder: str) -> str:
    """Says what it has when it is cancelled."""
    await operation.progress("3 of 10")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    return "3 of 10"


async def deaf(operation: Operation, folder: str) -> str:
    """Goes on when it is cancelled."""
    await operation.progress("never mind")
    while not (Path(folder) / "gate").exists():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(POLL_S)
    await operation.progress("still here")
    return "too late"


def stuck(operation: Operation, folder: str) -> str:
    """A thread that looks for nothing but its gate."""
    _count(operation, folder)
    while not (Path(folder) / "gate").exists():
        threading.Event().wait(POLL_S)
    return "too late"


def patient(operation: Operation, folder: str) -> str:
    """A thread that ends when it is told to."""
    _count(operation, folder)
    operation.stopping.wait(20)
    return "left in order"


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


JOBS: dict[str, Any] = {
    job.__name__: job
    for job in (quick, blocking, gated, stepwise, careful, deaf, stuck, patient, fails, breaks, odd, huge, deadly)
}
