"""What a client of our HTTP API sends and reads.

Guarantee: a record is given once and in order, or the stream is cut; nothing is skipped silently.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from .agents.exchange import Exchange
from .agents.sse import SSEError, SSEEvent, SSEParser
from .clock import Clock

SILENCE_S = 30.0
"""A stream without a byte for so long is dead: the server sends a comment every 10 s."""


class ChatError(Exception):
    """The server refused; `status` is the HTTP status and `code` its word for programs."""

    def __init__(self, message: str, *, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(ChatError):
    """The server could not be reached; what it had accepted goes on there."""


class Cut(Exception):
    """The connection is gone, or the server cannot serve now: worth another attempt."""


async def numbered(
    exchange: Exchange, clock: Clock, cursor: int | None
) -> AsyncGenerator[tuple[int | None, dict[str, Any]], None]:
    """The records of one body that are not known yet, with their numbers.

    A replay's records have no numbers until its last one, which stands for all of them; they are held back until it
    comes, so that a replay is taken whole or not at all. Raises `Cut` for a body that goes wrong.
    """
    held: list[dict[str, Any]] = []
    parser = SSEParser()
    while (data := await exchange.take(clock.monotonic() + SILENCE_S)) is not None:
        for event in _parsed(parser, data):
            if event.data == "[DONE]":
                continue
            record = _record(event)
            if not event.id:
                held.append(record)
                continue
            number = int(event.id)
            if cursor is not None and number > cursor:
                raise Cut(f"record {cursor} is missing")
            if cursor is None or number == cursor:
                for one in held:
                    yield None, one
                held.clear()
                cursor = number + 1
                yield number, record


async def states(exchange: Exchange, clock: Clock) -> AsyncGenerator[dict[str, Any], None]:
    """The states that a conversation's stream tells. Raises as `numbered` does."""
    parser = SSEParser()
    while (data := await exchange.take(clock.monotonic() + SILENCE_S)) is not None:
        for event in _parsed(parser, data):
            state = msgspec.json.decode(event.data)
            if isinstance(state, dict):
                yield state


def _parsed(parser: SSEParser, data: bytes) -> Iterator[SSEEvent]:
    try:
        yield from parser.feed(data)
    except SSEError as error:
        raise ChatError(f"the server's stream cannot be read: {error}") from None


def _record(event: SSEEvent) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(event.data)
    except msgspec.DecodeError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ChatError(f"the server's stream cannot be read: {event.data!r:.80} is no record")
    if event.id and not event.id.isdecimal():
        raise ChatError(f"the server's stream cannot be read: {event.id!r:.20} is no record's number")
    return record


async def read_body(exchange: Exchange, clock: Clock) -> bytes:
    """The whole body of an exchange."""
    body = b""
    while (data := await exchange.take(clock.monotonic() + SILENCE_S)) is not None:
        body += data
    return body


def post_body(conversation: str, message_id: str, text: str, files: Sequence[Path]) -> bytes:
    """The body of `POST /api/chat`. Raises `ChatError` for a file that cannot be read."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for path in files:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ChatError(f"{path} cannot be read: {error.strerror}") from None
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
        parts.append({"type": "file", "mediaType": media_type, "filename": path.name, "url": url})
    message = {"id": message_id, "role": "user", "parts": parts}
    return msgspec.json.encode({"id": conversation, "messages": [message]})


def checked_url(base_url: str) -> str:
    """A server's address without a slash at its end. Raises `ValueError` without repeating it."""
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError("the server's address must be like http://127.0.0.1:8787")
    return base_url.rstrip("/")


def segment(name: str) -> str:
    """The name of a conversation or turn as a part of a path. Raises `ChatError` for one that none can have."""
    if not name or "/" in name or name in (".", ".."):
        raise ChatError(f"{name!r:.80} is no name of a conversation: it must not be empty or hold a slash", status=400)
    return quote(name, safe="")


def sendable(value: str, what: str) -> str:
    """`value` if it can stand in a header. Raises `ValueError`, which names `what` only."""
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"{what} holds a line break or a character outside ASCII; check what was copied")
    return value
