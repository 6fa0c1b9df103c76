"""What a message only names, fetched before the agent is called: files, what was quoted, what was forwarded.

Guarantee: a turn begins with every file that could be had, stored here; for each of the others its message says why
not. What was fetched is not fetched again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog

from ...clock import sleep
from ...delivery.outcomes import Receipt, pause_s
from ...media import FileRefused
from ...store import StoreError
from ...store.queries.conversations import change_message, steered_messages, turn_input
from ...store.queries.rows import TurnRow
from .events import FORWARDED, RESOURCE
from .forwarded import FORWARD, MESSAGES, UNREADABLE, Told, read_item, transcript, unfold
from .people import People
from .wire import Wire

if TYPE_CHECKING:
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)

RESOURCE_BYTES = 100 * 1024 * 1024
"""What the platform gives out at most."""
TRIES = 3
FORWARDED_FILES = 20
NAMES = 30
"""People among those who wrote forwarded messages whose names are asked for; the others go by their ids."""


class Resources:
    """Fetches for the turns of one app."""

    def __init__(self, wire: Wire, people: People) -> None:
        self._wire = wire
        self._people = people
        self.gateway: Gateway

    async def prepare(self, turn: TurnRow, *, steered: bool = False) -> str | None:
        """Fetches what the turn's messages name, or those that came while it runs; returns the text they reply to."""
        db = self.gateway.db
        if steered:
            rows = [row for row, _ in await db.read(steered_messages, turn.id)]
        else:
            rows = await db.read(turn_input, turn.continues or turn.id)
        for row in rows:
            message = msgspec.json.decode(row.content)
            parts = message.get("parts", [])
            fetched = [one for part in parts for one in await self._fetched(part, turn)]
            if fetched != parts:
                message["parts"] = fetched
                await self.gateway.db.run(change_message, row.turn_id, row.ord, msgspec.json.encode(message))
        if steered:
            return None
        about = msgspec.json.decode(turn.metadata).get("feishu")
        parent = about.get("parent") if isinstance(about, dict) else None
        return await self._quote(parent) if isinstance(parent, str) and parent else None

    async def _fetched(self, part: dict[str, Any], turn: TurnRow) -> list[dict[str, Any]]:
        url = part.get("url")
        if not isinstance(url, str):
            return [part]
        if url.startswith(FORWARDED):
            return await self._forwarded(url.removeprefix(FORWARDED), turn)
        return [(await self._file(part, turn, url))[0]] if url.startswith(RESOURCE) else [part]

    async def _file(self, part: dict[str, Any], turn: TurnRow, url: str) -> tuple[dict[str, Any], Receipt]:
        """A file that is kept here now, or what is said in its place, and what came of asking for it."""
        split = urlsplit(url.removeprefix(RESOURCE))
        message, _, key = split.path.partition("/")
        kind = parse_qs(split.query).get("type", ["file"])[0]
        name = str(part.get("filename") or "file")
        for tried in range(1, TRIES + 1):
            receipt, content, found = await self._wire.download(
                f"/im/v1/messages/{message}/resources/{key}", params={"type": kind}, limit=RESOURCE_BYTES
            )
            if receipt.ok:
                return await self._stored(part, turn, name, content, found), receipt
            if (receipt.kind == "refused" and receipt.cause != "busy") or tried == TRIES:
                break
            await sleep(self.gateway.clock, pause_s(tried, receipt))
        _log.warning("a file of a message could not be fetched", turn=turn.id, name=name, why=receipt.reason)
        return _note(f"the attached file {name} could not be fetched: {receipt.reason}"), receipt

    async def _stored(
        self, part: dict[str, Any], turn: TurnRow, name: str, content: bytes, found: str
    ) -> dict[str, Any]:
        sort = str(part.get("mediaType") or "")
        if found and found != "application/octet-stream":
            sort = found
        try:
            file = await self.gateway.files.put(
                content, owner=turn.asked_by or "", conversation_id=turn.conversation_id, name=name, media_type=sort
            )
        except (FileRefused, StoreError) as error:
            return {"type": "text", "text": f"[the attached file {name} could not be kept: {error}]"}
        return {"type": "file", "mediaType": file.media_type, "filename": file.name, "url": file.url}

    async def _forwarded(self, message: str, turn: TurnRow) -> list[dict[str, Any]]:
        """Forwarded messages as one text, and their files as far as the platform gives them out."""
        items, why = await self._items(message)
        told = unfold(message, items)
        if not told:
            return [{"type": "text", "text": f"[{UNREADABLE}{f': {why}' if why else ''}]"}]
        parts: list[dict[str, Any]] = [{"type": "text", "text": await self._transcript(told)}]
        files = [file for one in told[:MESSAGES] for file in one.files]
        for number, file in enumerate(files[:FORWARDED_FILES]):
            fetched, receipt = await self._file(file, turn, str(file["url"]))
            if receipt.cause in ("rung", "barred"):
                # What does not work for one works for none; each is named where it was sent.
                return [*parts, _left(len(files) - number, receipt.reason)]
            parts.append(fetched)
        more = len(files) - FORWARDED_FILES
        return [*parts, *([_left(more, f"{FORWARDED_FILES} are fetched at most")] if more > 0 else [])]

    async def _transcript(self, told: Sequence[Told]) -> str:
        people = list(dict.fromkeys(one.sender for one in told if one.person and one.sender.startswith("ou_")))[:NAMES]
        names = await asyncio.gather(*(self._people.name(one) for one in people))
        return transcript(told, dict(zip(people, names, strict=True)))

    async def _quote(self, message: str) -> str | None:
        items, _ = await self._items(message)
        if any(item.get("msg_type") == FORWARD and item.get("message_id") == message for item in items):
            told = unfold(message, items)
            return await self._transcript(told) if told else f"[{UNREADABLE}]"
        text = "\n".join(
            text or ", ".join(str(part.get("filename")) for part in parts) for text, parts in map(read_item, items)
        )
        return text.strip() or None

    async def _items(self, message: str) -> tuple[list[dict[str, Any]], str]:
        """A message, with what is inside of it; why not, if it cannot be read."""
        for tried in range(1, TRIES + 1):
            answer = await self._wire.call("get", "GET", f"/im/v1/messages/{message}")
            receipt, items = answer.receipt, answer.data.get("items")
            if receipt.ok:
                return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else [], ""
            if (receipt.kind == "refused" and receipt.cause != "busy") or tried == TRIES:
                break
            await sleep(self.gateway.clock, pause_s(tried, receipt))
        _log.info("a message could not be read", message=message, why=receipt.reason)
        return [], receipt.reason


def _note(text: str) -> dict[str, Any]:
    return {"type": "text", "text": f"[{text}]"}


def _left(count: int, why: str) -> dict[str, Any]:
    return _note(f"{count} {'file' if count == 1 else 'files'} of these messages could not be fetched: {why}")
