"""Frames of the long connection: what we say, and what is said to us. Pure.

Guarantee: what is encoded here is within the platform's limits, or a `ValueError` says which one it breaks; what comes
is read without raising for anything but nonsense. Source: the platform's pages 101833 to 101838.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from ...sanitize import clean_text
from .errors import Op

Json: TypeAlias = dict[str, Any]
MediaKind: TypeAlias = Literal["file", "image", "voice", "video"]

CONTENT_BYTES = 20_480
"""Of a text in UTF-8: of a bubble, and of Markdown that is sent."""
SAFE_CONTENT_BYTES = 20_000
"""What a bubble is filled up to before another one begins."""
NAME_BYTES = 256
REQ_ID_BYTES = 256
TITLE_BYTES, DESCRIPTION_BYTES = 64, 512
CHUNK_BYTES = 512 * 1024
"""Of a piece of a file, before base64."""
THINKING = "<think></think>"
"""A first frame that shows that somebody is at work."""

SUBSCRIBE, PING = "aibot_subscribe", "ping"
RESPOND, WELCOME, UPDATE = "aibot_respond_msg", "aibot_respond_welcome_msg", "aibot_respond_update_msg"
PUSH = "aibot_send_msg"
UPLOAD_INIT, UPLOAD_CHUNK = "aibot_upload_media_init", "aibot_upload_media_chunk"
UPLOAD_FINISH = "aibot_upload_media_finish"
MESSAGE, EVENT = "aibot_msg_callback", "aibot_event_callback"
DISCONNECTED = "disconnected_event"
"""Another connection has the bot now."""

_OPS: dict[str, Op] = {
    SUBSCRIBE: "subscribe", PING: "ping", RESPOND: "reply", WELCOME: "welcome", UPDATE: "update", PUSH: "push",
    UPLOAD_INIT: "upload_init", UPLOAD_CHUNK: "upload_chunk", UPLOAD_FINISH: "upload_finish",
}  # fmt: skip
# Tabs and newlines are left, for the reader takes them within strings.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FIELD = re.compile(r"`body\.([\w.]{1,100})`")


class Unreadable(ValueError):
    """What came is no frame; the message does not repeat it."""


class Inbound(msgspec.Struct, frozen=True):
    """Something that the bot is told.

    Attributes:
        cmd: `aibot_msg_callback` or `aibot_event_callback`.
        req_id: what answers to it must name.
        body: as it came.
        at: when it came, on the clock's monotonic time; some answers are taken for 5 s only.
    """

    cmd: str
    req_id: str
    body: Json
    at: float = 0.0

    @property
    def event(self) -> str:
        """The type of an event, empty if it is none."""
        event = self.body.get("event")
        found = event.get("eventtype") if isinstance(event, dict) else None
        return found if isinstance(found, str) else ""


class Ack(msgspec.Struct, frozen=True):
    """The answer to a frame. `req_id` is None when it does not say whose it is, `code` when it has none.

    `field` is the path of the field that is complained of, as far as it is told.
    """

    req_id: str | None
    code: int | None
    body: Json
    field: str = ""


# Reading


def read(data: str | bytes, at: float = 0.0) -> Inbound | Ack:
    """The frame in a message of the socket. Raises `Unreadable`."""
    try:
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        said = json.loads(_CONTROL.sub("", text), strict=False)
    except (ValueError, RecursionError):
        raise Unreadable("it is no JSON") from None
    if not isinstance(said, dict):
        raise Unreadable("it is no JSON object")
    cmd, headers, body = said.get("cmd"), said.get("headers"), said.get("body")
    req_id = headers.get("req_id") if isinstance(headers, dict) else None
    req_id = req_id if isinstance(req_id, str) and req_id else None
    body = body if isinstance(body, dict) else {}
    if cmd in (MESSAGE, EVENT) or (isinstance(cmd, str) and cmd and "errcode" not in said):
        return Inbound(cmd, req_id or "", body, at)
    code, message = said.get("errcode"), said.get("errmsg")
    found = _FIELD.search(message) if isinstance(message, str) else None
    code = code if isinstance(code, int) and not isinstance(code, bool) else None
    return Ack(req_id, code, body, found.group(1) if found else "")


# Frames


def encode(cmd: str, req_id: str, body: Json | None) -> str:
    """The text of a frame. Raises `ValueError` for a request id that the platform does not take."""
    if not 0 < len(req_id.encode("utf-8", "replace")) <= REQ_ID_BYTES:
        raise ValueError(f"a request id has 1 to {REQ_ID_BYTES} bytes")
    frame: Json = {"cmd": cmd, "headers": {"req_id": req_id}}
    if body is not None:
        frame["body"] = body
    return msgspec.json.encode(frame).decode()


def new_req_id(kind: str) -> str:
    """A request id of our own, unlike any other."""
    return f"{kind}_{uuid.uuid4().hex}"


def op_of(cmd: str, body: Json | None) -> Op:
    """What a frame does. Raises `ValueError` for a command that there is not."""
    if cmd not in _OPS:
        raise ValueError(f"there is no command {cmd!r}")
    stream = (body or {}).get("stream")
    if cmd == RESPOND and isinstance(stream, dict):
        return "finish" if stream.get("finish") is True else "stream"
    return _OPS[cmd]


# Bodies


def subscription(bot_id: str, secret: str) -> Json:
    """Asks for everything that a bot is told."""
    return {"bot_id": bot_id, "secret": secret}


def stream(stream_id: str, content: str, *, finish: bool = False, feedback_id: str = "") -> Json:
    """One frame of a bubble: all of its text. Raises `ValueError`.

    Args:
        feedback_id: for the first frame: people are asked whether they like the answer.
    """
    content = _text(content, "a bubble")
    if finish and not content.strip():
        raise ValueError("a final frame without visible text is ignored, and the bubble looks unfinished for ever")
    if not 0 < len(stream_id.encode()) <= REQ_ID_BYTES:
        raise ValueError(f"the id of a bubble has 1 to {REQ_ID_BYTES} bytes")
    said: Json = {"id": stream_id, "finish": finish, "content": content}
    if feedback_id:
        if len(feedback_id.encode()) > REQ_ID_BYTES:
            raise ValueError(f"a feedback id has at most {REQ_ID_BYTES} bytes")
        said["feedback"] = {"id": feedback_id}
    return {"msgtype": "stream", "stream": said}


def markdown(content: str) -> Json:
    """A message of its own. Raises `ValueError`."""
    content = _text(content, "a message")
    if not content.strip():
        raise ValueError("a message needs visible text")
    return {"msgtype": "markdown", "markdown": {"content": content}}


def text(content: str) -> Json:
    """Plain text, which is taken as a welcome only. Raises `ValueError`."""
    content = _text(content, "a welcome")
    if not content.strip():
        raise ValueError("a welcome needs visible text")
    return {"msgtype": "text", "text": {"content": content}}


def media(kind: MediaKind, media_id: str, *, title: str = "", description: str = "") -> Json:
    """A file that was uploaded; title and description are for videos, and are cut to what is taken."""
    said: Json = {"media_id": media_id}
    if kind == "video" and title:
        said["title"] = clip(title, TITLE_BYTES)
    if kind == "video" and description:
        said["description"] = clip(description, DESCRIPTION_BYTES)
    return {"msgtype": kind, kind: said}


def card(template_card: Json) -> Json:
    """A card; it can be sent to one person, not into a group."""
    return {"msgtype": "template_card", "template_card": template_card}


def pushed(chat_id: str, said: Json, *, group: bool) -> Json:
    """A message that answers nothing: `said` to a person by their id, or into a group by its own, letter by letter."""
    if not chat_id:
        raise ValueError("a message that answers nothing needs a chat")
    return {"chatid": chat_id, "chat_type": 2 if group else 1, **said}


def card_update(template_card: Json, user_ids: Sequence[str] = ()) -> Json:
    """Another card in the place of the one that was clicked; it must have its `task_id`."""
    said: Json = {"response_type": "update_template_card", "template_card": template_card}
    return {**said, "userids": list(user_ids)} if user_ids else said


def upload_init(kind: MediaKind, name: str, *, size: int, chunks: int, md5: str) -> Json:
    """Announces a file."""
    name = clip_name(clean_text(name) or "file", NAME_BYTES)
    return {"type": kind, "filename": name, "total_size": size, "total_chunks": chunks, "md5": md5}


def upload_chunk(upload_id: str, index: int, data: bytes) -> Json:
    """A piece of it; the first has index 0."""
    if not 0 < len(data) <= CHUNK_BYTES:
        raise ValueError(f"a piece of a file has 1 to {CHUNK_BYTES} bytes")
    return {"upload_id": upload_id, "chunk_index": index, "base64_data": base64.b64encode(data).decode()}


def upload_finish(upload_id: str) -> Json:
    """Says that all of it was sent."""
    return {"upload_id": upload_id}


# Bytes


def size(content: str) -> int:
    """How many bytes a text takes of its limit."""
    return len(clean_text(content).encode())


def clip(content: str, limit: int) -> str:
    """As much of the beginning of a text as has at most `limit` bytes; no character is cut in two."""
    return clean_text(content).encode()[: max(limit, 0)].decode("utf-8", "ignore")


def clip_name(name: str, limit: int) -> str:
    """A file's name of at most `limit` bytes that keeps its ending."""
    if size(name) <= limit:
        return name
    stem, dot, ending = name.rpartition(".")
    if not stem or size(ending) > 16:
        return clip(name, limit)
    return clip(stem, limit - size(dot + ending)) + dot + ending


def _text(content: str, what: str) -> str:
    content = clean_text(content)
    if (found := len(content.encode())) > CONTENT_BYTES:
        raise ValueError(f"{what} takes {CONTENT_BYTES} bytes, and this text has {found}")
    return content
