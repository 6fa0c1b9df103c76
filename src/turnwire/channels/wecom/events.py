"""What a bot of WeCom is told: messages and events as they come, read without I/O.

Guarantee: whatever comes becomes one of these or None; no content makes reading fail. Source: the platform's pages
101834 and 101835 on messages and events of AI bots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from ...sanitize import clean_text
from .links import unsigned

MediumKind: TypeAlias = Literal["image", "file", "video"]
_MEDIA: Final[Mapping[str, MediumKind]] = {"image": "image", "file": "file", "video": "video"}
_HIDDEN: Final = frozenset({"url", "aeskey", "response_url"})
_GOOD: Final[Mapping[int, bool | None]] = {1: True, 2: False, 3: None}


class Medium(msgspec.Struct, frozen=True):
    """A file of a message: where it can be had for five minutes, and the key to it.

    Attributes:
        aes_key: empty in webhook mode, where all files have the bot's.
        quoted: it belongs to the message that is quoted.
    """

    kind: MediumKind
    url: str
    aes_key: str = ""
    quoted: bool = False

    def __repr__(self) -> str:
        return f"Medium({self.kind!r}, quoted={self.quoted!r})"


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A message to the bot.

    Attributes:
        chat: the person's id, or the group's, letter by letter.
        quote: the text that it quotes.
        url: where one answer to it can be posted; whoever has it can answer.
    """

    id: str
    chat: str
    group: bool
    sender: str
    bot: bool
    text: str
    quote: str
    media: Sequence[Medium]
    url: str

    def __repr__(self) -> str:
        return f"Said({self.id!r})"


class Entered(msgspec.Struct, frozen=True):
    """Somebody opened their chat with the bot, for the first time that day."""

    user: str


class Clicked(msgspec.Struct, frozen=True):
    """A button of a card."""

    user: str
    chat: str
    key: str
    task: str


class Judged(msgspec.Struct, frozen=True):
    """What somebody thinks of an answer; `good` is None when they take it back."""

    user: str
    chat: str
    about: str
    good: bool | None
    content: str
    reasons: Sequence[int]


Event: TypeAlias = Entered | Clicked | Judged


def read_message(body: Mapping[str, Any], *, req_id: str, unreadable: str, called: str = "") -> Said | None:
    """The message of a callback; None for one that names no chat.

    Args:
        req_id: names the message if it has no id of its own.
        unreadable: stands for a message of a kind that is not known.
        called: what the bot is called in groups; see `without_mention`.
    """
    group, chat, sender = _place(body)
    own = _text(body.get("msgid")) or req_id
    if not chat or not own:
        return None
    text, media = _content(body, unreadable)
    quote, quoted = "", list[Medium]()
    if isinstance(body.get("quote"), dict):
        quote, quoted = _content(body["quote"], unreadable, quoted=True)
    if group:
        rest = without_mention(text, called)
        # Who says nothing but the bot's name is answered all the same.
        text = rest if rest or media or quote or quoted else text
    return Said(
        id=own,
        chat=chat,
        group=group,
        sender=sender,
        bot=sender == _text(body.get("aibotid")),
        text=text.strip(),
        quote=quote.strip(),
        media=[*media, *quoted],
        url=_text(body.get("response_url")),
    )


def read_event(body: Mapping[str, Any]) -> Event | None:
    """The event of a callback; None for one that means nothing to us."""
    event = _dict(body.get("event"))
    kind = _text(event.get("eventtype"))
    about = _dict(event.get(kind))
    _, chat, user = _place(body)
    if kind == "enter_chat" and user:
        return Entered(user)
    if kind == "template_card_event":
        return Clicked(user, chat, _text(about.get("event_key")), _text(about.get("task_id")))
    judged = about.get("type")
    if kind == "feedback_event" and isinstance(judged, int) and judged in _GOOD:
        reasons = about.get("inaccurate_reason_list")
        return Judged(
            user,
            chat,
            _text(about.get("id")),
            _GOOD[judged],
            clean_text(_text(about.get("content"))),
            [one for one in reasons if isinstance(one, int)] if isinstance(reasons, list) else [],
        )
    return None


def without_mention(text: str, called: str = "") -> str:
    """A group's text without the mention of the bot at its beginning or end, which only addresses it.

    Args:
        called: the bot's name there; if it is not known, or not found, whatever is mentioned first is taken for the
            bot, up to the first blank.
    """
    text = text.strip()
    found = re.search(rf"@{re.escape(called)}(?=\s|$)", text) if called else None
    if found is None:
        return text.partition(text.split(None, 1)[0])[2].strip() if text.startswith("@") else text
    if found.start() == 0:
        return text[found.end() :].strip()
    return text[: found.start()].strip() if found.end() == len(text) else text


def without_secrets(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body for a trace: what opens something and keys are left out, and of pictures all but their size."""
    return {name: "***" if name in _HIDDEN else _shown(value, name) for name, value in body.items()}


def _shown(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return without_secrets(value)
    if isinstance(value, str):
        return f"{len(value)} characters" if name == "base64" else unsigned(value)
    return [_shown(one) for one in value] if isinstance(value, list) else value


def _place(body: Mapping[str, Any]) -> tuple[bool, str, str]:
    """Whether it is a group, the chat, and who acted."""
    sender, chat = _text(_dict(body.get("from")).get("userid")), _text(body.get("chatid"))
    group = body.get("chattype") == "group" or (body.get("chattype") != "single" and bool(chat))
    return group, chat if group else sender, sender


def _content(said: Mapping[str, Any], unreadable: str, *, quoted: bool = False) -> tuple[str, list[Medium]]:
    """The text of a message, or of a piece of one, and its files."""
    kind = _text(said.get("msgtype"))
    about = _dict(said.get(kind))
    if kind in ("text", "voice", "markdown"):
        return clean_text(_text(about.get("content"))), []
    if kind in _MEDIA:
        return "", [Medium(_MEDIA[kind], _text(about.get("url")), _text(about.get("aeskey")), quoted)]
    if kind != "mixed":
        return unreadable, []
    items = about.get("msg_item")
    pieces = [
        _content(one, unreadable, quoted=quoted)
        for one in (items if isinstance(items, list) else ())
        if isinstance(one, dict) and one.get("msgtype") != "mixed"
    ]
    return "\n".join(text for text, _ in pieces if text), [one for _, media in pieces for one in media]


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
