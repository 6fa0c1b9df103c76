"""What a bot may say: the bodies of replies and pushes, checked.

Guarantee: a body that is taken has every field that its kind needs, within its limits. A type that does not fit the
place is 40008; a field that is missing or wrong is 40058, which comes without the request's id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ._json import Json
from ._wecom_codes import Refused, invalid, missing

MAX_CONTENT = 20480
MEDIA = ("file", "image", "voice", "video")
REPLIES = ("stream", "template_card", "markdown", *MEDIA)
PUSHES = ("markdown", "template_card", *MEDIA)
WELCOMES = ("text", "template_card")
CARDS = ("text_notice", "news_notice", "button_interaction", "vote_interaction", "multiple_interaction")
CLICKED = CARDS[2:]


@dataclass
class Content:
    """What is said; which fields matter depends on `kind`."""

    kind: str
    text: str = ""
    stream_id: str = ""
    finish: bool = False
    feedback_id: str = ""
    media_id: str = ""
    title: str = ""
    card: Json | None = None
    images: list[bytes] = field(default_factory=list)


def content(body: Json, kinds: Collection[str]) -> Content:
    """What a body says. Raises `Refused`."""
    kind = text(body, "msgtype")
    if kind not in kinds:
        hint = ", ".join(kinds)
        raise Refused(40008, f"invalid message type, hint: [{hint}], from ip: 127.0.0.1")
    match kind:
        case "stream":
            return _stream(inner(body, "stream"))
        case "stream_with_template_card":
            said = _stream(inner(body, "stream"))
            said.card = card(inner(body, "template_card")) if "template_card" in body else None
            return said
        case "template_card":
            value = inner(body, kind)
            return Content(kind, card=card(value), feedback_id=_feedback(value, kind))
        case "markdown" | "text":
            value = inner(body, kind)
            words = _words(value, kind)
            if not words.strip():
                raise invalid(f"{kind}.content", "empty")
            return Content(kind, words, feedback_id=_feedback(value, kind))
    value = inner(body, kind)
    media_id, title = text(value, "media_id", f"{kind}."), str(value.get("title") or "")
    if len(title.encode()) > 64 or len(str(value.get("description") or "").encode()) > 512:
        raise invalid(kind, "title may have 64 bytes, description 512")
    return Content(kind, media_id=media_id, title=title)


def _stream(value: Json) -> Content:
    stream_id, finish = text(value, "id", "stream."), value.get("finish", False)
    if not isinstance(finish, bool):
        raise invalid("stream.finish", "must be true or false")
    words = _words(value, "stream") if finish or "content" in value else ""
    images = [_image(each) for each in value.get("msg_item") or []] if finish else []
    if len(images) > 10:
        raise invalid("stream.msg_item", "at most 10")
    feedback = _feedback(value, "stream")
    return Content("stream", words, stream_id=stream_id, finish=finish, feedback_id=feedback, images=images)


def _image(item: Any) -> bytes:
    """An image within the text. The long connection takes any nonsense here, and shows nothing of it."""
    said = item.get("image") if isinstance(item, dict) else None
    try:
        data = base64.b64decode(said["base64"]) if isinstance(said, dict) else b""
    except (KeyError, TypeError, ValueError):
        return b""
    return data if isinstance(said, dict) and hashlib.md5(data).hexdigest() == said.get("md5") else b""  # noqa: S324


def _words(value: Json, kind: str) -> str:
    words = value.get("content")
    if words is None:
        raise missing(f"{kind}.content")
    if not isinstance(words, str):
        raise invalid(f"{kind}.content", "must be a string")
    if len(words.encode("utf-8", "replace")) > MAX_CONTENT:
        raise invalid(f"{kind}.content", f"longer than {MAX_CONTENT} bytes")
    return words


def _feedback(value: Json, kind: str) -> str:
    said = value.get("feedback")
    if said is None:
        return ""
    if not isinstance(said, dict) or not isinstance(said.get("id"), str):
        raise missing(f"{kind}.feedback.id")
    if len(said["id"].encode()) > 256:
        raise invalid(f"{kind}.feedback.id", "longer than 256 bytes")
    return str(said["id"])


def card(value: Json) -> Json:
    """A template card. Raises `Refused`."""
    kind = text(value, "card_type", "template_card.")
    if kind not in CARDS:
        raise invalid("template_card.card_type", f"must be one of {', '.join(CARDS)}")
    if kind in CLICKED and not (isinstance(value.get("task_id"), str) and 0 < len(value["task_id"].encode()) <= 128):
        raise invalid("template_card.task_id", "must have 1 to 128 bytes")
    buttons = value.get("button_list", [])
    if not isinstance(buttons, list) or len(buttons) > 6 or (kind == "button_interaction" and not buttons):
        raise Refused(40016)
    for each in buttons:
        if not isinstance(each, dict) or not each.get("text") or not each.get("key"):
            raise missing("template_card.button_list.key")
    return value


def inner(body: Json, name: str) -> Json:
    """An object in a body. Raises `Refused`."""
    value = body.get(name)
    if value is None:
        raise missing(name)
    if not isinstance(value, dict):
        raise invalid(name, "must be an object")
    return value


def text(body: Json, name: str, where: str = "") -> str:
    """A string in a body that is not empty. Raises `Refused`."""
    value = body.get(name)
    if value is None or value == "":
        raise missing(where + name)
    if not isinstance(value, str):
        raise invalid(where + name, "must be a string")
    return value


def number(body: Json, name: str, least: int, most: int) -> int:
    """A whole number in a body. Raises `Refused`."""
    value = body.get(name)
    if value is None:
        raise missing(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(name, f"must be a number from {least} to {most}")
    return value


def unpacked(value: str, name: str) -> bytes:
    """The bytes of a string of base64. Raises `Refused`."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(name, "is not base64") from None
