"""What the Claude Code CLI is asked: the session it goes on with, and what that session does not know yet.

Guarantee: the model learns every message of the conversation once, either from its session or as text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..events import Data
from ..files import FileMissing
from .chat_reader import dicts

if TYPE_CHECKING:
    from ..turn import Turn

SESSION = "claude-session"
"""The data part of an answer that names the CLI's session."""

INLINE_CHARS = 200_000
"""Of a text file, so many characters are put into the question."""

_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_TEXTUAL = ("text/", "application/json", "application/xml", "application/yaml", "application/javascript")


class Known(NamedTuple):
    """A session, the newest message of it that counts, and how many messages of the conversation it has."""

    session: str | None
    at: str | None
    messages: int


def session_part(session: str, at: str) -> Data:
    """What an answer remembers: the session that has it, and the message there at which it ended."""
    return Data(name=SESSION, data={"session": session, "at": at}, id=SESSION)


def known(messages: list[dict[str, Any]]) -> Known:
    """The session to go on with: that of the newest answer that remembers one.

    An answer whose process was killed, or whose call still waits for a person, remembers none: what its session holds
    is not certain.
    """
    for index in range(len(messages) - 1, -1, -1):
        for part in dicts(messages[index].get("parts")):
            about = part.get("data")
            if part.get("type") == f"data-{SESSION}" and isinstance(about, dict):
                session, at = about.get("session"), about.get("at")
                if isinstance(session, str) and isinstance(at, str):
                    return Known(session, at, index + 1)
    return Known(None, None, 0)


def earlier(turn: Turn) -> list[dict[str, Any]]:
    """The conversation without the question that this turn answers."""
    messages = list(turn.messages)
    while messages and messages[-1].get("role") == "user":
        messages.pop()
    return messages


async def question(turn: Turn, untold: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The content of the message to the CLI: what it was not told yet, the question, and its files."""
    blocks = [_text(told)] if (told := _told(untold)) else []
    if turn.quote:
        blocks.append(_text("\n".join(f"> {line}" for line in str(turn.quote).splitlines())))
    for file in turn.files:
        media_type = file.media_type.partition(";")[0].strip().lower()
        named = f"[attached file: {file.name}, {media_type}]"
        try:
            blocks.append(_file(named, media_type, await file.read()))
        except FileMissing:
            blocks.append(_text(named))
    if turn.text.strip() or not blocks:
        blocks.append(_text(turn.text.strip() or "(an empty message)"))
    return blocks


def _file(named: str, media_type: str, content: bytes) -> dict[str, Any]:
    if media_type in _IMAGES or media_type == "application/pdf":
        data = base64.b64encode(content).decode()
        kind = "image" if media_type in _IMAGES else "document"
        return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}
    if media_type.startswith(_TEXTUAL):
        text = content.decode("utf-8", "replace")
        cut = f" (its first {INLINE_CHARS} characters)" if len(text) > INLINE_CHARS else ""
        return _text(f"{named}{cut}\n{text[:INLINE_CHARS]}")
    return _text(named)


def _told(messages: Iterable[Mapping[str, Any]]) -> str:
    said = []
    for message in messages:
        text = "\n\n".join(filter(None, map(_said, dicts(message.get("parts")))))
        if text:
            said.append(f"{'Assistant' if message.get('role') == 'assistant' else 'User'}: {text}")
    if not said:
        return ""
    return "\n\n".join(["The conversation before, as text:", *said, "The newest message of the user follows."])


def _said(part: Mapping[str, Any]) -> str:
    kind = str(part.get("type") or "")
    if kind == "text":
        return str(part.get("text") or "").strip()
    if kind == "file":
        return f"[attached file: {part.get('filename') or 'without a name'}, {part.get('mediaType')}]"
    if kind == "dynamic-tool" or kind.startswith("tool-"):
        name = part.get("toolName") or kind.removeprefix("tool-")
        answer = part.get("output") if part.get("state") == "output-available" else part.get("errorText")
        return f"[called {name}: {str(answer if answer is not None else 'no result')[:1000]}]"
    return ""


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
