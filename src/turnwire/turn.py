"""What an agent gets: the turn it answers.

Guarantee: what an agent reads here is what people see in the conversation; what it attaches is stored and journalled
before the call returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from .events import JSON, AgentEvent
from .operation import JobError

if TYPE_CHECKING:
    from .files import StoredFile

DeliveryOutcome: TypeAlias = Literal["confirmed", "refused", "unknown", "pending"]
Outcomes: TypeAlias = Callable[[str, "float | None"], Awaitable[Mapping[str, DeliveryOutcome]]]
"""What became of a file, by its id, once nothing of it is pending or so many seconds have passed."""


class AgentError(Exception):
    """An agent failed in a way people may read: the message becomes the turn's reason, word for word."""


class SentFile:
    """A file of the answer, stored and journalled."""

    def __init__(self, file: StoredFile, outcomes: Outcomes | None = None) -> None:
        self.id = file.id
        self.name = file.name
        self.url = file.url
        self.media_type = file.media_type
        self.size = file.size
        self._outcomes = outcomes

    async def delivered(self, timeout: float | None = None) -> Mapping[str, DeliveryOutcome]:
        """What became of the file, by surface; never raises when `timeout` (seconds) passes.

        Only surfaces that keep receipts are named. The web page reads the journal and keeps none.
        """
        return {} if self._outcomes is None else await self._outcomes(self.id, timeout)


class PendingCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call that a person was asked to allow."""

    id: str
    name: str
    input: JSON = None
    title: str | None = None
    dynamic: bool = False


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """What a person answered to a `ToolCall` with `needs_approval`.

    `state` is what that call carried for this moment; `by` is who answered. After `approved`, answer the call: yield a
    `ToolResult` or a `ToolError` with the id of `call`. A call that was denied is closed already.
    """

    approval_id: str
    approved: bool
    reason: str | None
    call: PendingCall
    state: JSON = None
    by: str = ""


class InboxMessage(msgspec.Struct, frozen=True):
    """A message that came while the turn runs: its id, its text, its files, and all of it as a UI message."""

    id: str
    text: str
    files: list[Any]
    message: dict[str, Any]


class Inbox:
    """What people say while the turn runs, with `policy = "steer"`.

    A message that is taken belongs to this turn, and the journal says so; what nobody took becomes the next turn.
    """

    def __init__(self, take: Callable[[], Awaitable[list[InboxMessage]]], news: asyncio.Event) -> None:
        self._take = take
        self._news = news
        self._waiting: list[InboxMessage] = []

    async def take(self) -> list[InboxMessage]:
        """What has come since the last time, without waiting."""
        waiting, self._waiting = self._waiting, []
        return waiting + (await self._take() if self._news.is_set() else [])

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> InboxMessage:
        """The next message, however long it takes to come."""
        while not self._waiting:
            await self._news.wait()
            self._waiting = await self._take()
        return self._waiting.pop(0)


async def _nothing() -> list[InboxMessage]:
    return []


class Turn:
    """One run of an agent.

    Attributes:
        id: names the turn for ever.
        conversation: the conversation's name, as its client or channel gave it.
        user: who asked.
        text: what they asked, as text; several messages are joined by a blank line.
        quote: what they replied to, or None.
        messages: the conversation as UI messages, the newest question last.
        files: what they sent along: `name`, `media_type`, `size`, `path`, `await read()`.
        metadata: what the client sent along, unchecked.
        resume: what a person answered to the approval that the turn before asked for; this turn goes on with its
            message. None in other turns.
        resolutions: all such answers, `resume` first; there are several when several calls asked.
        inbox: what people say while the turn runs, with `policy = "steer"`.
        stopping: set when a person wants this turn to stop; the agent is cancelled shortly after.
    """

    def __init__(
        self,
        *,
        id: str,  # noqa: A002
        conversation: str,
        user: str,
        text: str,
        messages: list[dict[str, Any]],
        files: list[StoredFile],
        metadata: dict[str, Any],
        emit: Callable[[AgentEvent], Awaitable[None]],
        attach: Callable[..., Awaitable[StoredFile]],
        background: Callable[[str, Any], Awaitable[str]] | None = None,
        inbox: Inbox | None = None,
        quote: str | None = None,
        resolutions: Sequence[Resolution] = (),
        outcomes: Outcomes | None = None,
    ) -> None:
        self.id = id
        self.conversation = conversation
        self.user = user
        self.text = text
        self.quote = quote
        self.messages = messages
        self.files = files
        self.metadata = metadata
        self.resolutions = tuple(resolutions)
        self.resume = self.resolutions[0] if self.resolutions else None
        self.inbox = inbox if inbox is not None else Inbox(_nothing, asyncio.Event())
        self.stopping = asyncio.Event()
        self._emit = emit
        self._attach = attach
        self._background = background
        self._outcomes = outcomes

    async def background(self, name: str, job: Any) -> str:
        """Leaves a job behind that goes on after this turn; returns its operation id once it is stored.

        When the job ends, what it returns (any JSON value) becomes a message of the conversation and starts a turn. It
        runs at least once: after a crash it is run again, with the same `operation.key`.

        Args:
            name: what people read of it.
            job: a function at the top of a module, `async def job(operation, ...)`, or `functools.partial` of one with
                JSON arguments; a plain function is run in a thread.

        Raises `JobError` for what could not be found and run again after a restart.
        """
        if self._background is None:
            raise JobError("this turn was not made by a gateway; it can leave nothing behind")
        return await self._background(name, job)

    async def emit(self, event: AgentEvent) -> None:
        """Says something from outside the generator, as frameworks with callbacks need; the same as yielding it.

        Raises `AgentEventError` for what is no agent event.
        """
        await self._emit(event)

    async def attach(
        self,
        source: str | Path | bytes | AsyncIterator[bytes],
        *,
        name: str | None = None,
        media_type: str | None = None,
    ) -> SentFile:
        """Adds a file to the answer; returns once it is stored and journalled.

        Args:
            source: a path, or the content itself.
            name: what people see; by default the path's last part.
            media_type: such as `application/pdf`; by default found from content and name.

        Raises `FileRefused` when it cannot be read or is too large.
        """
        if isinstance(source, str):
            source = Path(source)
        return SentFile(await self._attach(source, name=name, media_type=media_type), self._outcomes)
