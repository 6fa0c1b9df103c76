"""What Feishu and Lark tell us: events as they come, read without I/O.

Guarantee: whatever a tenant sends becomes one of these events or None; no content makes reading fail. Names stand where
people were mentioned. Source: the pages of `im.message.receive_v1`, `card.action.trigger` and message contents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import msgspec

from ...sanitize import clean_text

RESOURCE: Final = "feishu-resource:"
"""Addresses of files that are still to be fetched: `feishu-resource:MESSAGE/KEY?type=image`."""
FORWARDED: Final = "feishu-forwarded:"
_MEDIA: Final[Mapping[str, tuple[str, str, str]]] = {
    "image": ("image_key", "image", "image/png"),
    "file": ("file_key", "file", "application/octet-stream"),
    "audio": ("file_key", "file", "audio/ogg"),
    "media": ("file_key", "file", "video/mp4"),
    "sticker": ("file_key", "", ""),
}
_NAMES: Final = {"image": "image.png", "audio": "voice.ogg", "media": "video.mp4"}


class Mention(msgspec.Struct, frozen=True):
    """Somebody who was named with @."""

    key: str
    open_id: str
    name: str
    bot: bool


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A message in a chat of the bot."""

    id: str
    chat: str
    group: bool
    sender: str
    person: bool
    created_at: float
    topic: str
    root: str
    parent: str
    text: str
    parts: Sequence[dict[str, Any]]
    mentions: Sequence[Mention]


class Recalled(msgspec.Struct, frozen=True):
    """A message was taken back."""

    message: str
    chat: str


class Clicked(msgspec.Struct, frozen=True):
    """A button of a card of ours."""

    operator: str
    chat: str
    message: str
    value: Mapping[str, Any]


Event: TypeAlias = Received | Recalled | Clicked


def read_event(event: Mapping[str, Any]) -> tuple[str, Event | None]:
    """The event's type and what it means; None for one that means nothing to us."""
    header = _dict(event.get("header"))
    kind, about = _text(header.get("event_type")), _dict(event.get("event"))
    if kind == "im.message.receive_v1":
        return kind, _received(about)
    if kind == "im.message.recalled_v1":
        message = _text(about.get("message_id"))
        return kind, Recalled(message, _text(about.get("chat_id"))) if message else None
    if kind == "card.action.trigger":
        context, operator = _dict(about.get("context")), _dict(about.get("operator"))
        value = _dict(about.get("action")).get("value")
        return kind, Clicked(
            _text(operator.get("open_id")),
            _text(context.get("open_chat_id")),
            _text(context.get("open_message_id")),
            value if isinstance(value, dict) else {},
        )
    return kind, None


def chat_of(event: Mapping[str, Any]) -> str:
    """The chat that an event says it belongs to, "" if it names none."""
    about = _dict(event.get("event"))
    places = (_dict(about.get("message")).get("chat_id"), _dict(about.get("context")).get("open_chat_id"))
    named = (*places, about.get("chat_id"), about.get("open_chat_id"))
    return next((one for one in map(_text, named) if one), "")


def _received(about: Mapping[str, Any]) -> Received | None:
    message, sender = _dict(about.get("message")), _dict(about.get("sender"))
    own, chat = _text(message.get("message_id")), _text(message.get("chat_id"))
    if not own or not chat:
        return None
    mentions = read_mentions(message.get("mentions"))
    kind = _text(message.get("message_type"))
    text, parts = read_content(own, kind, _text(message.get("content")), mentions)
    return Received(
        id=own,
        chat=chat,
        group=message.get("chat_type") != "p2p",
        sender=_text(_dict(sender.get("sender_id")).get("open_id")),
        person=sender.get("sender_type") == "user",
        created_at=_seconds(message.get("create_time")),
        topic=_text(message.get("thread_id")),
        root=_text(message.get("root_id")),
        parent=_text(message.get("parent_id")),
        text=text,
        parts=parts,
        mentions=mentions,
    )


def read_mentions(said: Any) -> list[Mention]:
    """Who is mentioned: in events an id is an object of several, in messages that are read it is one."""
    return [
        Mention(
            _text(one.get("key")),
            _text(one.get("id")) or _text(_dict(one.get("id")).get("open_id")),
            clean_text(_text(one.get("name"))),
            one.get("mentioned_type") == "bot",
        )
        for one in _dicts(said)
    ]


def read_content(
    message: str, kind: str, content: str, mentions: Sequence[Mention] = ()
) -> tuple[str, list[dict[str, Any]]]:
    """The text of a message, and its files as parts of a UI message whose addresses are still to be fetched."""
    try:
        said = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        said = {}
    said = _dict(said)
    if kind == "text":
        return _named(_text(said.get("text")), mentions), []
    if kind == "post":
        return _post(message, said, mentions)
    if kind == "merge_forward":
        return "", [_part(f"{FORWARDED}{message}", "text/plain", "forwarded messages")]
    if kind == "interactive":
        return _flat(said), []
    if kind == "sticker":
        return "[sticker]", []
    if kind in _MEDIA:
        name, sort, media = _MEDIA[kind]
        key = _text(said.get(name))
        if key:
            file = clean_text(_text(said.get("file_name"))) or _NAMES.get(kind, "file")
            return "", [_part(_address(message, key, sort), media, file)]
    return f"[a message of the kind {clean_text(kind) or 'unknown'}]", []


def _post(message: str, said: Mapping[str, Any], mentions: Sequence[Mention]) -> tuple[str, list[dict[str, Any]]]:
    """A rich text as Markdown."""
    if "content" not in said:
        # Sent with languages: any one of them is the message.
        said = next((one for one in map(_dict, said.values()) if "content" in one), {})
    lines, parts = [], list[dict[str, Any]]()
    title = clean_text(_text(said.get("title")))
    if title:
        lines.append(f"**{title}**")
    rows = said.get("content")
    for row in rows if isinstance(rows, list) else ():
        line = ""
        for one in _dicts(row):
            line += _span(message, one, mentions, parts)
        lines.append(line)
    return "\n".join(lines).strip(), parts


def _span(message: str, one: Mapping[str, Any], mentions: Sequence[Mention], parts: list[dict[str, Any]]) -> str:
    tag, text = one.get("tag"), _text(one.get("text"))
    if tag == "a":
        return f"[{clean_text(text)}]({_text(one.get('href'))})"
    if tag == "at":
        key, name = _text(one.get("user_id")), _text(one.get("user_name"))
        found = next((mention.name for mention in mentions if key in (mention.key, mention.open_id)), name)
        return f"@{clean_text(found or key)}"
    if tag == "img":
        key = _text(one.get("image_key"))
        parts.append(_part(_address(message, key, "image"), "image/png", "image.png"))
        return ""
    if tag == "media":
        key = _text(one.get("file_key"))
        parts.append(_part(_address(message, key, "file"), "video/mp4", "video.mp4"))
        return ""
    if tag == "code_block":
        return f"\n```{_text(one.get('language')).lower()}\n{clean_text(text)}\n```\n"
    if tag == "hr":
        return "\n---\n"
    if tag == "emotion":
        return f":{_text(one.get('emoji_type'))}:"
    return _named(text, mentions)


def _named(text: str, mentions: Sequence[Mention]) -> str:
    # `@_user_1` is the beginning of `@_user_10`.
    for mention in sorted(mentions, key=lambda one: -len(one.key)):
        if mention.key:
            text = text.replace(mention.key, f"@{mention.name}")
    return clean_text(text.replace("@_all", "@all"))


def _flat(value: Any) -> str:
    """The texts in a card that somebody sent, one a line."""
    found: list[str] = []
    left = [value]
    while left and len(found) < 200:
        one = left.pop(0)
        if isinstance(one, dict):
            found += [clean_text(one[key]) for key in ("text", "content", "title") if isinstance(one.get(key), str)]
            left = [child for child in one.values() if isinstance(child, (dict, list))] + left
        elif isinstance(one, list):
            left = list(one) + left
    return "\n".join(found)


def without_bot(text: str, mentions: Sequence[Mention], bot: str) -> str:
    """The text without the mention of the bot itself at its ends, which only addresses it."""
    for mention in mentions:
        if mention.open_id == bot and mention.name:
            name = f"@{mention.name}"
            text = text.strip()
            text = text.removeprefix(name).strip() if text.startswith(name) else text.removesuffix(name).strip()
    return text.strip()


def _address(message: str, key: str, sort: str) -> str:
    return f"{RESOURCE}{quote(message, safe='')}/{quote(key, safe='')}?type={sort}"


def _part(url: str, media_type: str, name: str) -> dict[str, Any]:
    return {"type": "file", "mediaType": media_type, "filename": name, "url": url}


def _seconds(milliseconds: Any) -> float:
    try:
        return float(milliseconds) / 1000.0
    except (TypeError, ValueError):
        return 0.0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
