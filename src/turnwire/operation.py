"""Background jobs: what a turn leaves behind to be done after it has ended.

Guarantee: a job runs at least once, however often the process that runs it dies; each run gets the same `key`. What a
job is, is stored by name, so it is refused at once if another process could not find it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ._checks import plain_json
from .events import JSON, AgentEventError

NAME_CHARS = 200
PROGRESS_BYTES = 16 * 1024


class JobError(Exception):
    """A background job failed in a way people may read, or is none that can be run."""


class Work(msgspec.Struct, frozen=True):
    """What a job does: an importable function and its arguments, as they are stored."""

    call: str
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


class Operation:
    """One run of a background job, as its function gets it.

    Attributes:
        id: names the job for ever.
        key: the same in every run of this job; give it to services that take an idempotency key.
        attempt: how often it was started, this run included; above 1 an earlier run was cut off.
        name: what people read.
        conversation, user: where its result will be said, and who asked.
        stopping: set when a person wants the job to stop, a moment before its function is cancelled; one that runs in
            a thread cannot be cancelled and has to look itself.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        attempt: int,
        name: str,
        conversation: str,
        user: str,
        progress: Callable[[JSON], Awaitable[None]],
    ) -> None:
        self.id = self.key = id
        self.attempt = attempt
        self.name = name
        self.conversation = conversation
        self.user = user
        self.stopping = threading.Event()
        self._progress = progress

    async def progress(self, value: JSON) -> None:
        """Says how far the job has come, as a short text or any JSON value of 16 KiB at most; people see the newest.

        Raises `JobError` for what cannot be shown.
        """
        await self._progress(value)


def work_of(job: Any) -> Work:
    """What is stored of a job: a module's function, or `functools.partial` of one with JSON arguments.

    Raises `JobError` for what another process could not find and call again.
    """
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    function = job
    if isinstance(job, functools.partial):
        function, args, kwargs = job.func, job.args, job.keywords
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    remedy = "give a function at the top of a module, or functools.partial of one"
    if not callable(function) or not module or not name:
        raise JobError(f"a background job must be a function, not {type(function).__name__}; {remedy}")
    if "<" in name or module == "__main__":
        raise JobError(f"the background job {name} of {module} could not be found again after a restart; {remedy}")
    try:
        if find(f"{module}:{name}") is not function:
            raise JobError(f"{module}:{name} is another function than the background job that was given; {remedy}")
        return Work(
            f"{module}:{name}",
            plain_json(list(args), "the arguments of a background job"),
            plain_json(dict(kwargs), "the arguments of a background job"),
        )
    except AgentEventError as error:
        raise JobError(str(error)) from None


def find(call: str) -> Callable[..., Any]:
    """The function of a job. Raises `JobError`."""
    module, _, name = call.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise JobError(f"the background job {call} cannot be found: {error}") from None
    if not callable(found):
        raise JobError(f"the background job {call} is no function")
    return found  # type: ignore[no-any-return]


def takes_thread(function: Callable[..., Any]) -> bool:
    """Whether the function blocks, so that it is run in a thread."""
    return not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - its kind is asked, not whether there is one
    )
