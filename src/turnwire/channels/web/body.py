"""What a client posts, read and checked before anything is stored.

Guarantee: of the messages a client posts, only the last one, the user's, is taken; our history is the truth. A body
that is too large, no JSON, or not of the protocol's form is refused with a message that says where and what to do.
Source: the AI SDK's HTTP chat transport.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from starlette.requests import Request

from ...files import FileStore, StoredFile
from ...media import FileRefused, parse_data_url
from ...sanitize import clean_json, clean_text
from .bounds import sized
from .mounted import FILES, inward, root_of

NAME_CHARS = 200
REASON_CHARS = 1000
METADATA_BYTES = 64 * 1024
_OWN_KEYS = {"id", "messages", "message", "trigger", "messageId"}
_LINKS = ("http://", "https://")


class BadRequest(Exception):
    """The request cannot be taken; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int = 400, code: str = "bad_request") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class ApprovalAnswer(msgspec.Struct, frozen=True):
    """What a person answered to one approval."""

    id: str
    approved: bool
    reason: str | None = None


class Post(msgspec.Struct, frozen=True):
    """A checked chat request. `message` is None when an answer is to be made again.

    With `answers` it brings no message but what was answered to approvals.
    `key` names the message and its content, the same for every repeat of it; None without a message id.
    """

    conversation: str | None
    trigger: Literal["submit", "regenerate"]
    target: str | None
    message: dict[str, Any] | None
    metadata: bytes
    key: str | None = None
    answers: Sequence[ApprovalAnswer] = ()

    @property
    def text(self) -> str:
        """The message's text."""
        parts = self.message["parts"] if self.message else ()
        return "\n".join(part["text"] for part in parts if part["type"] == "text")


class Upload(msgspec.Struct, frozen=True):
    """The file in part `index` of a message: decoded and checked, not stored yet."""

    index: int
    content: bytes
    name: str | None
    media_type: str


async def read_post(request: Request, limit: int) -> Post:
    """The body as a chat request, whatever its content type says; `limit` in bytes. Raises `BadRequest`."""
    body = await _read(request, limit)
    return await sized(len(body), lambda: _parse_post(_object(body), root_of(request.scope)))


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """The body as a JSON object, whatever its content type says; `limit` in bytes. Raises `BadRequest`."""
    body = await _read(request, limit)
    return await sized(len(body), _object, body)


async def _read(request: Request, limit: int) -> bytes:
    too_large = BadRequest(f"the body is larger than {limit} bytes", status=413, code="too_large")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise too_large
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _object(body: bytes) -> dict[str, Any]:
    value = _decode(body or b"{}")
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object with `messages`")
    return value


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except msgspec.DecodeError as error:
        try:
            # Half a surrogate pair, which a JavaScript client may send, is refused by msgspec only.
            return json.loads(body, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise BadRequest(f"the body is no JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(name)


def read_answer(approval: str, body: Mapping[str, Any]) -> ApprovalAnswer:
    """An answer to the approval of that id. Raises `BadRequest`."""
    approved, reason = body.get("approved"), body.get("reason")
    if not isinstance(approved, bool):
        raise BadRequest("approved must be true or false")
    if reason is not None and not isinstance(reason, str):
        raise BadRequest("reason must be a text")
    return ApprovalAnswer(clean_text(approval), approved, clean_text(reason)[:REASON_CHARS] if reason else None)


def _answers(body: Mapping[str, Any]) -> list[ApprovalAnswer]:
    """What the named message, or else the last, says was answered to its approvals, if it is an answer of ours.

    Source: `addToolApprovalResponse` of the AI SDK, which marks the parts and posts the chat again; since version 7
    also those of an earlier message.
    """
    messages = body.get("messages")
    known = [one for one in messages if isinstance(one, dict)] if isinstance(messages, list) else []
    named = [one for one in known if one.get("id") == body.get("messageId") is not None]
    meant = (named or known)[-1:]
    if not meant or meant[0].get("role") != "assistant" or not isinstance(meant[0].get("parts"), list):
        return []
    marked = [
        part for part in meant[0]["parts"] if isinstance(part, dict) and part.get("state") == "approval-responded"
    ]
    about = [part.get("approval") for part in marked]
    return [read_answer(str(one.get("id")), one) for one in about if isinstance(one, dict)]


def _parse_post(body: Mapping[str, Any], root: str) -> Post:
    trigger = body.get("trigger", "submit-message")
    if trigger not in ("submit-message", "regenerate-message"):
        raise BadRequest(f"trigger {trigger!r:.40} is unknown; use submit-message or regenerate-message")
    target = body.get("messageId")
    if target is not None:
        target = checked_name(target, "messageId")
    conversation = body.get("id")
    if conversation is not None:
        conversation = conversation_name(conversation)
    try:
        extra = msgspec.json.encode(clean_json({key: body[key] for key in body if key not in _OWN_KEYS}))
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the body's own fields cannot be kept: {error}") from None
    if len(extra) > METADATA_BYTES:
        raise BadRequest(f"the body's own fields are larger than {METADATA_BYTES} bytes", status=413, code="too_large")
    if trigger == "regenerate-message":
        if conversation is None:
            raise BadRequest("id: name the conversation whose answer is to be made again")
        return Post(conversation, "regenerate", target, None, extra)
    if answers := _answers(body):
        return Post(conversation, "submit", None, None, extra, None, answers)
    message = _message(body, root)
    return Post(conversation, "submit", target, message, extra, _key(message))


def _key(message: dict[str, Any]) -> str | None:
    if "id" not in message:
        return None
    digest = hashlib.sha256(msgspec.json.encode(message, order="deterministic")).hexdigest()
    return f"{message['id']}:{digest[:24]}"


def conversation_name(value: object) -> str:
    """A conversation's name as a client may choose it. Raises `BadRequest`."""
    name = checked_name(value, "id")
    if name.startswith("turn_"):
        raise BadRequest("id: names that begin with 'turn_' are for turns; choose another")
    if "/" in name:
        raise BadRequest("id: a conversation's name stands in addresses and cannot hold a slash")
    return name


def checked_name(value: object, what: str) -> str:
    """A short printable string. Raises `BadRequest`."""
    if not isinstance(value, str) or not value or len(value) > NAME_CHARS:
        raise BadRequest(f"{what} must be a string of 1 to {NAME_CHARS} characters")
    if not value.isprintable() or clean_text(value) != value:
        raise BadRequest(f"{what} holds a control character or broken text")
    return value


def _message(body: Mapping[str, Any], root: str) -> dict[str, Any]:
    messages = body.get("messages")
    message = messages[-1] if isinstance(messages, list) and messages else body.get("message")
    if not isinstance(message, dict):
        raise BadRequest("messages must be a list whose last entry is the user's message")
    if message.get("role", "user") != "user":
        raise BadRequest("the last of messages must be the user's; answers are kept here")
    clean: dict[str, Any] = {"role": "user", "parts": _parts(message, root)}
    if message.get("id") is not None:
        clean["id"] = checked_name(message["id"], "the message's id")
    if isinstance(message.get("metadata"), dict):
        try:
            clean["metadata"] = clean_json(message["metadata"])
        except (TypeError, ValueError, RecursionError) as error:
            raise BadRequest(f"the message's metadata cannot be kept: {error}") from None
    return clean


def _parts(message: Mapping[str, Any], root: str) -> list[dict[str, Any]]:
    parts = message.get("parts")
    if parts is None and isinstance(message.get("content"), str):
        parts = [{"type": "text", "text": message["content"]}]
    if not isinstance(parts, list) or not parts:
        raise BadRequest("the message has no parts")
    clean = []
    for index, part in enumerate(parts):
        where = f"part {index} of the message"
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise BadRequest(f"{where} must be an object with a type")
        try:
            kept = clean_json(part)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadRequest(f"{where} cannot be kept: {error}") from None
        if not isinstance(kept.get("type"), str):
            raise BadRequest(f"{where} must be an object with a type")
        if kept["type"] == "text" and not isinstance(kept.get("text"), str):
            raise BadRequest(f"{where} has no text")
        if kept["type"] == "file":
            if not isinstance(kept.get("url"), str):
                raise BadRequest(f"{where} has no url")
            kept["url"] = inward(kept["url"], root)
        clean.append(kept)
    if not any(part["type"] == "file" or (part["type"] == "text" and part["text"].strip()) for part in clean):
        raise BadRequest("the message is empty; say something or attach a file")
    return clean


async def check_files(message: dict[str, Any], files: FileStore, owner: str) -> tuple[dict[str, Any], list[Upload]]:
    """The message with its known files looked up, and its inline ones decoded; nothing is stored.

    Raises `BadRequest` for a file that cannot be taken.
    """
    parts, uploads = [], []
    for index, part in enumerate(message["parts"]):
        try:
            checked = await _checked(index, part, files, owner) if part["type"] == "file" else part
        except FileRefused as error:
            raise BadRequest(f"part {index} of the message: {error}", code="file_refused") from None
        if isinstance(checked, Upload):
            uploads.append(checked)
        parts.append(part if isinstance(checked, Upload) else checked)
    return {**message, "parts": parts}, uploads


async def store_files(
    message: dict[str, Any], uploads: Sequence[Upload], files: FileStore, owner: str
) -> tuple[dict[str, Any], list[str]]:
    """The message with its inline files stored and named by address, and their ids; all are stored, or none."""
    parts, stored = list(message["parts"]), []
    try:
        for upload in uploads:
            file = await files.put(upload.content, owner=owner, name=upload.name, media_type=upload.media_type)
            stored.append(file.id)
            parts[upload.index] = _part(file)
    except BaseException:
        await files.discard(stored)
        raise
    return {**message, "parts": parts}, stored


async def _checked(index: int, part: dict[str, Any], files: FileStore, owner: str) -> dict[str, Any] | Upload:
    url: str = part["url"]
    if url[:5].lower() == "data:":
        # A large one takes a while to decode.
        media_type, content = await asyncio.to_thread(parse_data_url, url, max_bytes=files.max_bytes)
        name, declared = part.get("filename"), part.get("mediaType")
        return Upload(
            index,
            content,
            name if isinstance(name, str) else None,
            declared if isinstance(declared, str) and declared else media_type,
        )
    if url.startswith(FILES):
        known = await files.get(url.split("/")[2])
        if known is None or known.owner != owner:
            raise FileRefused(f"there is no file {url!r:.120} of yours")
        return _part(known)
    if not url.startswith(_LINKS):
        raise FileRefused("a file's url must be a data:, http: or https: address or one of ours")
    return part


def _part(file: StoredFile) -> dict[str, Any]:
    return {"type": "file", "url": file.url, "mediaType": file.media_type, "filename": file.name}
