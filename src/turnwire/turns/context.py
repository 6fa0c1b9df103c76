"""From the rows of a conversation to the `Turn` an agent gets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from ..events import AgentEvent
from ..files import FileStore, StoredFile
from ..store.queries.rows import Conversation, MessageRow, TurnRow
from ..turn import Inbox, InboxMessage, Outcomes, Resolution, Turn


async def build_turn(
    turn: TurnRow,
    conversation: Conversation,
    context: Sequence[MessageRow],
    asked: Sequence[MessageRow],
    files: FileStore,
    *,
    emit: Callable[[AgentEvent], Awaitable[None]],
    attach: Callable[..., Awaitable[StoredFile]],
    background: Callable[[str, Any], Awaitable[str]] | None = None,
    inbox: Inbox | None = None,
    resolutions: Sequence[Resolution] = (),
    quote: str | None = None,
    outcomes: Outcomes | None = None,
) -> Turn:
    """The turn as its agent sees it; a turn that answers again has no message of its own, so the newest one counts."""
    messages = [msgspec.json.decode(row.content) for row in context]
    questions = [msgspec.json.decode(row.content) for row in asked]
    if not questions:
        questions = [message for message in messages if message.get("role") == "user"][-1:]
    found = await files_of(questions, files)
    return Turn(
        id=turn.id,
        conversation=conversation.name,
        user=turn.asked_by or conversation.owner,
        text="\n\n".join(filter(None, map(message_text, questions))),
        messages=messages,
        files=found,
        metadata=msgspec.json.decode(turn.metadata),
        emit=emit,
        attach=attach,
        background=background,
        inbox=inbox,
        resolutions=resolutions,
        quote=quote,
        outcomes=outcomes,
    )


async def inbox_message(row: MessageRow, files: FileStore) -> InboxMessage:
    """A message that came while its turn runs, as the agent sees it."""
    message = msgspec.json.decode(row.content)
    return InboxMessage(row.message_id, message_text(message), list(await files_of([message], files)), message)


async def files_of(messages: Sequence[dict[str, Any]], files: FileStore) -> list[StoredFile]:
    """The files of ours that the messages name."""
    found = [await files.get(file_id) for file_id in _file_ids(messages)]
    return [file for file in found if file is not None]


def message_text(message: dict[str, Any]) -> str:
    """The text of a UI message."""
    return "\n".join(part["text"] for part in message.get("parts", ()) if part.get("type") == "text" and part["text"])


def _file_ids(messages: Sequence[dict[str, Any]]) -> list[str]:
    parts = [part for message in messages for part in message.get("parts", ()) if part.get("type") == "file"]
    return [part["url"].split("/")[2] for part in parts if str(part.get("url", "")).startswith("/files/")]
