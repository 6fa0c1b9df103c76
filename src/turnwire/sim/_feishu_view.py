"""What a person sees in a chat right now, as data.

Guarantee: pure functions over the tenant's state; nothing that a client was only told (codes, acknowledgements) is in
here, and nothing that a reader would see is missing.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ._feishu_checks import body_elements
from ._feishu_emoji import EMOJI
from ._feishu_state import Card, Chat, Message, Tenant
from ._feishu_texts import element_text, shown_text
from ._json import Json

GENERATING = "[生成中...]"
BlockKind = Literal["markdown", "text", "panel", "button", "image", "table", "rule", "group", "other"]


@dataclass
class Block:
    """One component of a card.

    Args:
        kind: `group` only holds others (columns, forms); `other` is a component that the page shows by its name.
        text: what it says; of a panel its title.
        element_id: its id, empty without one.
        blocks: what is in it.
        open: of a panel, whether it is unfolded.
        rows: of a table, the heads first.
        key: of an image.
        style: of a button, its type; of a component shown as `other`, its tag.
    """

    kind: BlockKind
    text: str = ""
    element_id: str = ""
    blocks: list[Block] = field(default_factory=list)
    open: bool = True
    rows: list[list[str]] = field(default_factory=list)
    key: str = ""
    style: str = ""
    disabled: bool = False


@dataclass
class CardView:
    """A card as it stands there.

    Args:
        streaming: it shows that it is being written.
        summary: what the list of chats says about it.
        text: all its words, a line for each component.
    """

    card_id: str
    title: str
    template: str
    streaming: bool
    summary: str
    text: str
    blocks: list[Block]

    def find(self, element_id: str) -> Block | None:
        """The block with that element id."""
        return next((each for each in _all(self.blocks) if each.element_id == element_id), None)


@dataclass
class FileView:
    """A file or image in a message."""

    key: str
    kind: str
    name: str
    media_type: str
    size: int


@dataclass
class MessageView:
    """One message; `gone` says how it ceased to exist, and then nothing of it is seen."""

    message_id: str
    sender: str
    from_bot: bool
    kind: str
    text: str
    at: float
    card: CardView | None = None
    file: FileView | None = None
    edited: bool = False
    gone: str = ""
    parent_id: str = ""
    thread_id: str = ""
    reactions: list[tuple[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def streaming(self) -> bool:
        """It shows a card that is being written."""
        return self.card is not None and self.card.streaming


@dataclass
class ChatView:
    """A chat with its messages, oldest first."""

    chat_id: str
    kind: str
    name: str
    dissolved: bool
    messages: list[MessageView]

    @property
    def from_bots(self) -> list[MessageView]:
        """What bots said and is still seen."""
        return [each for each in self.messages if each.from_bot and not each.gone]

    def as_json(self) -> Json:
        """All of it by the names of the fields."""
        return asdict(self)


def view(tenant: Tenant, chat: Chat) -> ChatView:
    """The chat as everybody in it sees it."""
    messages = [message_view(tenant, message) for message in tenant.in_chat(chat.chat_id) if message.gone != "deleted"]
    return ChatView(chat.chat_id, chat.kind, chat.name, chat.dissolved, messages)


def message_view(tenant: Tenant, message: Message) -> MessageView:
    """The message as everybody in its chat sees it."""
    shown = MessageView(
        message.message_id,
        tenant.name_of(message.sender),
        message.from_bot,
        message.msg_type,
        "",
        message.created,
        gone=message.gone,
        parent_id=message.parent_id,
        thread_id=message.thread_id,
    )
    if message.gone:
        return shown
    shown.edited = message.edits > 0
    shown.reactions = [(each.emoji, tenant.name_of(each.by)) for each in message.reactions]
    shown.notices = list(message.notices)
    if (card := tenant.card_of(message)) is not None:
        shown.card = card_view(tenant, card)
        shown.text = shown.card.text
        return shown
    if message.children:
        inside = [message_view(tenant, each) for each in message.children]
        shown.text = "\n".join(f"{each.sender}: {each.text}" for each in inside)
        return shown
    said = json.loads(message.content)
    key = said.get("file_key") or said.get("image_key")
    if key in tenant.uploads:
        upload = tenant.uploads[key]
        shown.file = FileView(key, upload.kind, upload.name, upload.media_type, len(upload.data))
        shown.text = upload.name
    else:
        shown.text = _post(said) if message.msg_type == "post" else _plain(tenant, str(said.get("text", "")))
    return shown


def _plain(tenant: Tenant, text: str) -> str:
    def name(found: re.Match[str]) -> str:
        return f"@{'所有人' if found[1] == 'all' else tenant.name_of(found[1])}"

    bots = [app.name for app in tenant.apps.values()]
    text = re.sub(r'<at user_id="([^"]*)">[^<]*</at>', name, text)
    return re.sub(r"@_user_1\b", f"@{bots[0]}" if bots else "@bot", text)


def _post(said: Json) -> str:
    post = next((each for each in said.values() if isinstance(each, dict)), said)
    lines = [str(post["title"])] if post.get("title") else []
    for line in post.get("content", []):
        lines += ["".join(str(each.get("text", "")) for each in line if isinstance(each, dict))]
    return "\n".join(lines)


# Cards


def card_view(tenant: Tenant, card: Card) -> CardView:
    """The card as it stands there."""
    tenant.expire(card)
    header = card.data.get("header")
    header = header if isinstance(header, dict) else {}
    title = header.get("title")
    config = card.data.get("config")
    said = config.get("summary") if isinstance(config, dict) else None
    summary = said.get("content", "") if isinstance(said, dict) else ""
    text = shown_text(card.data)
    if not summary:
        summary = GENERATING if card.streaming else text.partition("\n")[0][:80]
    return CardView(
        card.card_id,
        element_text(title) if isinstance(title, dict) else "",
        str(header.get("template", "")),
        card.streaming,
        summary,
        text,
        [block(each) for each in body_elements(card.data)],
    )


def block(element: Any) -> Block:
    """One component."""
    if not isinstance(element, dict):
        return Block("other", str(element))
    tag, name = str(element.get("tag", "")), str(element.get("element_id", ""))
    match tag:
        case "markdown" | "lark_md":
            return Block("markdown", element_text(element), name)
        case "plain_text":
            return Block("text", element_text(element), name)
        case "div":
            inner = element.get("text")
            kind: BlockKind = "markdown" if isinstance(inner, dict) and inner.get("tag") == "lark_md" else "text"
            return Block(kind, element_text(element), name)
        case "collapsible_panel":
            header = element.get("header")
            title = header.get("title") if isinstance(header, dict) else None
            words = element_text(title) if isinstance(title, dict) else ""
            return Block("panel", words, name, _blocks(element), open=element.get("expanded") is True)
        case "button":
            disabled = element.get("disabled") is True
            return Block("button", element_text(element), name, style=str(element.get("type", "")), disabled=disabled)
        case "img":
            alt = element.get("alt")
            return Block(
                "image", element_text(alt) if isinstance(alt, dict) else "", name, key=str(element.get("img_key", ""))
            )
        case "hr":
            return Block("rule", element_id=name)
        case "table":
            return Block("table", element_id=name, rows=_rows(element))
    if blocks := _blocks(element):
        return Block("group", element_id=name, blocks=blocks, style=tag)
    return Block("other", element_text(element), name, style=tag)


def _blocks(element: Json) -> list[Block]:
    found = [element.get(name) for name in ("elements", "columns", "actions")]
    return [block(each) for inner in found if isinstance(inner, list) for each in inner]


def _rows(table: Json) -> list[list[str]]:
    columns = [each for each in table.get("columns", []) if isinstance(each, dict)]
    heads = [str(each.get("display_name") or each.get("name", "")) for each in columns]
    rows = [each for each in table.get("rows", []) if isinstance(each, dict)]
    return [heads, *([str(row.get(each.get("name"), "")) for each in columns] for row in rows)]


def _all(blocks: list[Block]) -> list[Block]:
    return [each for outer in blocks for each in (outer, *_all(outer.blocks))]


def emoji(name: str) -> str:
    """A sign that resembles an emoji of the platform."""
    return EMOJI.get(name, name)
