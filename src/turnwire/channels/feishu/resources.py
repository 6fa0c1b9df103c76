"""What a message only names, fetched before the agent is called: files, what was quoted, what was forwarded.

Guarantee: a turn begins with every file that could be had, stored here; for each of the others its message says why
not. What was fetched is not fetched again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog

from ...clock import sleep
from ...delivery.outcomes import pause_s
from ...media import FileRefused
from ...store import StoreError
from ...store.queries.conversations import change_message, steered_messages, turn_input
from ...store.queries.rows import TurnRow
from .events import FORWARDED, RESOURCE, read_content
from .people import People
from .wire import Wire

if TYPE_CHECKING:
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)

RESOURCE_BYTES = 100 * 1024 * 1024
"""What the platform gives out at most."""
TRIES = 3
FORWARDED_ITEMS = 100


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
            text, parts = await self._forwarded(url.removeprefix(FORWARDED))
            # What was forwarded inside of that is named, and not fetched: nobody knows how deep it goes.
            files = [each for each in parts if not str(each.get("url")).startswith(FORWARDED)]
            return [{"type": "text", "text": text}, *[one for each in files for one in await self._fetched(each, turn)]]
        if not url.startswith(RESOURCE):
            return [part]
        split = urlsplit(url.removeprefix(RESOURCE))
        message, _, key = split.path.partition("/")
        kind = parse_qs(split.query).get("type", ["file"])[0]
        name = str(part.get("filename") or "file")
        why = "it could not be fetched"
        for tried in range(1, TRIES + 1):
            receipt, content, found = await self._wire.download(
                f"/im/v1/messages/{message}/resources/{key}", params={"type": kind}, limit=RESOURCE_BYTES
            )
            if receipt.ok:
                return [await self._stored(part, turn, name, content, found)]
            why = receipt.reason
            if (receipt.kind == "refused" and receipt.cause != "busy") or tried == TRIES:
                break
            await sleep(self.gateway.clock, pause_s(tried, receipt))
        _log.warning("a file of a message could not be fetched", turn=turn.id, name=name, why=why)
        return [{"type": "text", "text": f"[the attached file {name} could not be fetched: {why}]"}]

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

    async def _forwarded(self, message: str) -> tuple[str, list[dict[str, Any]]]:
        """Forwarded messages as one text, and their files."""
        items = await self._items(message)
        lines, parts = [], list[dict[str, Any]]()
        for item in [one for one in items if one.get("message_id") != message][:FORWARDED_ITEMS]:
            text, more = _content(item)
            sender = item.get("sender")
            own = str(sender.get("id") or "") if isinstance(sender, dict) else ""
            name = await self._people.name(own) if own.startswith("ou_") else own
            lines.append(f"{name}: {text or ', '.join(str(part.get('filename')) for part in more)}")
            parts += more
        return "\n".join(lines) or "[the forwarded messages could not be read]", parts

    async def _quote(self, message: str) -> str | None:
        items = await self._items(message)
        text = "\n".join(
            text or ", ".join(str(part.get("filename")) for part in parts) for text, parts in map(_content, items)
        )
        return text.strip() or None

    async def _items(self, message: str) -> list[dict[str, Any]]:
        answer = await self._wire.call("get", "GET", f"/im/v1/messages/{message}")
        items = answer.data.get("items")
        if not answer.receipt.ok or not isinstance(items, list):
            _log.info("a message could not be read", message=message, why=answer.receipt.reason)
            return []
        return [item for item in items if isinstance(item, dict)]


def _content(item: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    body = item.get("body")
    content = body.get("content") if isinstance(body, dict) else ""
    return read_content(str(item.get("message_id") or ""), str(item.get("msg_type") or ""), str(content or ""))
