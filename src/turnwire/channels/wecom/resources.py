"""The files of messages: fetched at once, for their addresses hold for five minutes, and kept before an agent reads.

Guarantee: a turn begins with every file that could be had, stored here; for each of the others its message says which
and why not. Until then the message holds the file's address and key sealed, so that a crash loses nothing and nobody
reads them. What waits is bounded, in number and in time.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection

from ...clock import Clock, wait
from ...media import FileRefused, safe_name
from ...store import StoreError
from ...store.queries.conversations import (
    change_message,
    live_messages,
    lock_conversation,
    read_context,
    steered_messages,
    turn_input,
    visible_message,
)
from ...store.queries.rows import MessageRow, TurnRow
from .downloads import Downloads
from .events import Medium
from .settings import Bot

if TYPE_CHECKING:
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)

RESOURCE: Final = "wecom-resource:"
AT_ONCE = 8
AHEAD = 200
"""Messages whose files are fetched, or wait for it, before their turns begin; those beyond are fetched then."""
WAIT_S = 150.0
"""Seconds that a turn waits for the files of its messages."""
_MARK: Final = f'"{RESOURCE}'.encode()
_NONCE = 12
_DECLARED: Final = {"image": "image/png", "video": "video/mp4", "file": "application/octet-stream"}
NOT_IN_TIME: Final = "it did not come in time"

_Found = Mapping[str, dict[str, Any]]


class Resources:
    """Fetches for the turns of one bot.

    Args:
        downloads: where files come from, if not from the network.
    """

    def __init__(self, bot: Bot, clock: Clock, *, downloads: Downloads | None = None) -> None:
        self._clock = clock
        self._aes_key = bot.aes_key
        self._seal = AESGCM(hashlib.sha256(f"files of {bot.bot_id} {bot.secret} {bot.aes_key}".encode()).digest())
        self._downloads = downloads or Downloads(clock, proxy=bot.proxy)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: dict[tuple[str, str], asyncio.Task[dict[str, str]]] = {}
        self.gateway: Gateway

    async def close(self) -> None:
        """Ends what is being fetched; what was not is still named by its message."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._downloads.close()

    def parts(self, media: Sequence[Medium]) -> list[dict[str, Any]]:
        """Parts of a UI message that name files which are still to be fetched."""
        found: list[dict[str, Any]] = []
        for number, medium in enumerate(media, 1):
            nonce = os.urandom(_NONCE)
            sealed = nonce + self._seal.encrypt(nonce, msgspec.json.encode(medium), None)
            url = RESOURCE + base64.urlsafe_b64encode(sealed).decode()
            name = f"quoted {medium.kind}" if medium.quoted else medium.kind
            name = f"{name} {number}" if len(media) > 1 else name
            found.append({"type": "file", "mediaType": _DECLARED[medium.kind], "filename": name, "url": url})
        return found

    def begin(self, conversation_id: str, message: Mapping[str, Any]) -> None:
        """Fetches what a message names, without anybody waiting for it."""
        if not _named(message):
            return
        if len(self._tasks) < AHEAD:
            self._task(conversation_id, message)
        else:
            _log.warning("too many files wait to be fetched; these are when their turn begins", message=message["id"])

    async def resume(self, channel: str) -> None:
        """Begins to fetch what a process before this one could not. Raises `StoreError`."""
        for conversation_id, row in await self.gateway.db.read(live_messages, channel, _MARK):
            self.begin(conversation_id, msgspec.json.decode(row.content))

    async def prepare(self, turn: TurnRow, *, steered: bool) -> str | None:
        """Returns once the turn's messages name only what is stored here; gives the text that they quote.

        It waits `WAIT_S` seconds at most. Raises `StoreError`.

        Args:
            steered: the messages that came while the turn runs are meant.
        """
        db, why = self.gateway.db, dict[str, str]()
        deadline = self._clock.monotonic() + WAIT_S
        # The first time those that were begun before may end; what they could not get is tried once more.
        for last in (False, False, True):
            waiting = await db.read(_waiting, turn, steered=steered)
            if not waiting:
                break
            if last:
                await self._give_up(turn, waiting, why)
                break
            tasks = {self._task(turn.conversation_id, message) for message in waiting}
            for task in await self._ended(tasks, deadline):
                why |= task.result()
        return None if steered else await db.read(_quotes, turn)

    async def _give_up(self, turn: TurnRow, messages: list[dict[str, Any]], why: Mapping[str, str]) -> None:
        for message in messages:
            _log.warning("files of a message could not be fetched", turn=turn.id, message=message["id"])
            missing = {part["url"]: _missing(part, why.get(part["url"], NOT_IN_TIME)) for part in _named(message)}
            await self._replace(turn.conversation_id, str(message["id"]), missing)

    # Fetching

    def _task(self, conversation_id: str, message: Mapping[str, Any]) -> asyncio.Task[dict[str, str]]:
        """What fetches the files of that message; one at a time does."""
        key = (conversation_id, str(message["id"]))
        if key not in self._tasks:
            work = self._fetch(conversation_id, message)
            task = self._tasks[key] = asyncio.create_task(work, name=f"wecom-files-{message['id']}")
            task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return self._tasks[key]

    async def _ended(
        self, tasks: set[asyncio.Task[dict[str, str]]], deadline: float
    ) -> set[asyncio.Task[dict[str, str]]]:
        left = set(tasks)
        while left and (seconds := deadline - self._clock.monotonic()) > 0:
            await wait(self._clock, set(left), seconds)
            left = {task for task in left if not task.done()}
        return tasks - left

    async def _fetch(self, conversation_id: str, message: Mapping[str, Any]) -> dict[str, str]:
        """Fetches and stores what can be had; returns why the rest could not, by its address. Raises nothing."""
        own = message.get("metadata", {}).get("turnwire", {})
        found: dict[str, dict[str, Any]] = {}
        why: dict[str, str] = {}

        async def one(part: dict[str, Any]) -> None:
            url = part["url"]
            try:
                async with self._slots:
                    replaced = await self._one(part, conversation_id, str(own.get("from") or ""))
                if isinstance(replaced, dict):
                    found[url] = replaced
                else:
                    why[url] = replaced
            except Exception as error:  # noqa: BLE001 - the others are fetched, and this one is tried again
                _log.error("a file of a message could not be kept", message=message["id"], exc_info=error)
                why[url] = "it could not be stored here"

        await asyncio.gather(*map(one, _named(message)))
        try:
            if found:
                await self._replace(conversation_id, str(message["id"]), found)
        except StoreError as error:
            _log.warning("files were fetched, and cannot be kept", message=message["id"], error=str(error))
            why |= dict.fromkeys(found, "it could not be stored here")
        return why

    async def _one(self, part: dict[str, Any], conversation_id: str, owner: str) -> dict[str, Any] | str:
        """What takes the place of a part; or why there is nothing yet."""
        medium = self._opened(part["url"])
        if medium is None:
            return _missing(part, "its address cannot be read any more")
        limit = self.gateway.files.max_bytes
        got = await self._downloads.fetch(medium.url, medium.aes_key or self._aes_key, limit=limit)
        if not got.receipt.ok:
            if got.receipt.cause == "busy":
                return got.receipt.reason
            _log.info("a file of a message cannot be had", kind=medium.kind, why=got.receipt.reason)
            return _missing(part, got.receipt.reason, got.name)
        declared = _DECLARED[medium.kind]
        try:
            file = await self.gateway.files.put(
                got.content, owner=owner, conversation_id=conversation_id, name=got.name or None, media_type=declared
            )
        except FileRefused as error:
            return _missing(part, str(error), got.name)
        stored = {"type": "file", "mediaType": file.media_type, "filename": file.name, "url": file.url}
        return {**stored, "quoted": True} if medium.quoted else stored

    def _opened(self, url: str) -> Medium | None:
        try:
            sealed = base64.urlsafe_b64decode(url.removeprefix(RESOURCE))
            return msgspec.json.decode(self._seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], None), type=Medium)
        except (binascii.Error, ValueError, InvalidTag):
            return None

    async def _replace(self, conversation_id: str, message_id: str, found: _Found) -> None:
        unused = await self.gateway.db.run(_replace, conversation_id, message_id, found)
        await self.gateway.files.discard([part["url"].split("/")[2] for part in unused if "url" in part])


def _named(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parts that name a file which is still to be fetched."""
    parts = message.get("parts")
    return [
        part
        for part in (parts if isinstance(parts, list) else ())
        if part.get("type") == "file" and str(part.get("url")).startswith(RESOURCE)
    ]


def _missing(part: Mapping[str, Any], why: str, name: str = "") -> dict[str, Any]:
    what = f"{part.get('filename') or 'file'} {safe_name(name)}" if name else part.get("filename") or "file"
    return {"type": "text", "text": f"[the {what} could not be fetched: {why}]"}


def _rows(conn: Connection, turn: TurnRow, *, steered: bool) -> list[MessageRow]:
    if steered:
        return [row for row, _ in steered_messages(conn, turn.id)]
    return turn_input(conn, turn.continues or turn.id)


def _waiting(conn: Connection, turn: TurnRow, *, steered: bool) -> list[dict[str, Any]]:
    """The messages that the agent will see and that name a file which is still to be fetched."""
    rows = _rows(conn, turn, steered=steered)
    if not steered:
        # A turn that ended before its files came leaves its message to the turns after it.
        rows += read_context(conn, turn.conversation_id, turn.number)
    found = [msgspec.json.decode(row.content) for row in rows if _MARK in row.content]
    return list({message["id"]: message for message in found if _named(message)}.values())


def _quotes(conn: Connection, turn: TurnRow) -> str | None:
    said = []
    for row in _rows(conn, turn, steered=False):
        own = msgspec.json.decode(row.content).get("metadata", {}).get("turnwire", {})
        said.append(own.get("quote") or "")
    return "\n\n".join(filter(None, said)) or None


def _replace(conn: Connection, conversation_id: str, message_id: str, found: _Found) -> list[dict[str, Any]]:
    """Puts what was found in the place of what named it; returns what was found in vain, for somebody else was first.

    A message that steered a turn which did not read it has moved to the next one, so it is looked up by its name.
    """
    lock_conversation(conn, conversation_id)
    row = visible_message(conn, conversation_id, message_id)
    if row is None:
        return list(found.values())
    message = msgspec.json.decode(row.content)
    left = dict(found)
    quoted: list[str] = []
    parts = []
    for part in message.get("parts", []):
        part = dict(left.pop(str(part.get("url")), part))
        if part.pop("quoted", False):
            quoted.append(f"[{part['filename']}]")
        parts.append(part)
    message["parts"] = parts
    if quoted:
        own = message.setdefault("metadata", {}).setdefault("turnwire", {})
        own["quote"] = "\n".join(filter(None, [own.get("quote"), *quoted]))
    change_message(conn, row.turn_id, row.ord, msgspec.json.encode(message))
    return list(left.values())
