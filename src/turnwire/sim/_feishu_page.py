"""The Feishu simulator's page: its chats as people see them, in a browser.

Guarantee: what comes from clients is shown as text or as the Markdown that the platform takes; it is never run.
"""

from __future__ import annotations

import re
from html import escape

from . import _page as page
from ._feishu_people import FAILED_CLICKS
from ._feishu_state import Chat, Tenant
from ._feishu_view import Block, CardView, MessageView, emoji, message_view, view
from ._json import Json

_COLOURS = {"blue", "wathet", "turquoise", "green", "yellow", "orange", "red", "carmine", "violet", "purple", "indigo",
            "grey"}  # fmt: skip


def page_json(tenant: Tenant, chosen: str) -> Json:
    """The chats, and the messages of the chosen one as HTML."""
    chats = list(tenant.chats.values())
    chat = tenant.chats.get(chosen) or (chats[0] if chats else None)
    shown = view(tenant, chat).messages if chat else []
    messages = [{"id": each.message_id, "html": _message(tenant, each)} for each in shown]
    listed = [{"id": each.chat_id, "name": each.name, "kind": each.kind, "last": _last(tenant, each)} for each in chats]
    open_id = next(iter(chat.members), "ou_alice") if chat else "ou_alice"
    writer = {"id": open_id, "name": tenant.name_of(open_id)}
    return {"writer": writer, "chats": listed, "chosen": chat.chat_id if chat else "", "messages": messages}


def _last(tenant: Tenant, chat: Chat) -> str:
    messages = view(tenant, chat).messages
    if not messages:
        return ""
    last = messages[-1]
    return f"{last.sender}: {last.card.summary if last.card else last.text}".replace("\n", " ")[:80]


def _message(tenant: Tenant, message: MessageView) -> str:
    inner = _gone(message) if message.gone else f"{_quote(tenant, message)}{_inside(tenant, message)}{_under(message)}"
    return page.message_html(message.sender, inner, from_bot=message.from_bot)


def _gone(message: MessageView) -> str:
    return f'<div class="gone">{escape(message.sender)} recalled a message · 撤回了一条消息</div>'


def _quote(tenant: Tenant, message: MessageView) -> str:
    parent = tenant.messages.get(message.parent_id)
    if parent is None:
        return ""
    shown = message_view(tenant, parent)
    words = "recalled" if shown.gone else shown.text.replace("\n", " ")
    thread = ' · <span class="thread">topic</span>' if message.thread_id else ""
    return page.quote(shown.sender, words, thread)


def _inside(tenant: Tenant, message: MessageView) -> str:
    if message.card is not None:
        return _card(tenant, message.card, message.message_id)
    if message.file is not None and message.file.kind == "image":
        return page.picture(message.file.key, message.file.name)
    if message.file is not None:
        return page.file_link(message.file.key, message.file.name, page.size_text(message.file.size))
    edited = '<small class="edited">edited · 已编辑</small>' if message.edited else ""
    return f'<div class="bubble">{escape(message.text)}{edited}</div>'


def _under(message: MessageView) -> str:
    reactions = "".join(
        f'<span class="reaction" title="{escape(name)}">{escape(emoji(name))} {escape(who)}</span>'
        for name, who in message.reactions
    )
    notices = "".join(_notice(each) for each in message.notices[-3:])
    return (f'<div class="reactions">{reactions}</div>' if reactions else "") + notices


def _notice(text: str) -> str:
    """A toast, or why a click failed."""
    if text in FAILED_CLICKS:
        return f'<div class="notice bad">{text}: {FAILED_CLICKS[text]}</div>'
    return f'<div class="notice">{escape(text)}</div>'


# Cards


def _card(tenant: Tenant, card: CardView, message_id: str) -> str:
    colour = card.template if card.template in _COLOURS else "plain"
    head = f'<div class="head {colour}">{escape(card.title)}</div>' if card.title else ""
    state = page.generating("generating… · 生成中") if card.streaming else ""
    body = "".join(_block(tenant, each, message_id) for each in card.blocks)
    live = " live" if card.streaming else ""
    return f'<div class="card{live}">{head}<div class="body">{body}</div>{state}</div>'


def _block(tenant: Tenant, block: Block, message_id: str) -> str:
    inner = "".join(_block(tenant, each, message_id) for each in block.blocks)
    match block.kind:
        case "markdown":
            return f'<div class="md">{markdown(tenant, block.text)}</div>'
        case "text":
            return f'<div class="plain">{escape(block.text)}</div>'
        case "panel":
            opened = " open" if block.open else ""
            return (
                f"<details{opened}><summary>{markdown_line(tenant, block.text)}</summary><div>{inner}</div></details>"
            )
        case "button":
            style = re.sub(r"[^a-z_]", "", block.style)
            off = " disabled" if block.disabled else ""
            named = escape(block.element_id or block.text)
            data = f'data-message="{escape(message_id)}" data-button="{named}"'
            return f'<button class="{style}" {data}{off}>{escape(block.text)}</button>'
        case "image":
            return f'<img src="/_sim/files/{escape(block.key)}" alt="{escape(block.text)}">'
        case "rule":
            return "<hr>"
        case "table":
            return _table(block.rows)
        case "group":
            return f'<div class="group {"columns" if block.style == "column_set" else ""}">{inner}</div>'
    return f'<div class="other">[{escape(block.style)}] {escape(block.text)}</div>'


def _table(rows: list[list[str]]) -> str:
    lines = []
    for place, row in enumerate(rows):
        tag = "td" if place else "th"
        lines += ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def markdown(tenant: Tenant, text: str) -> str:
    """Markdown as HTML, with the platform's own marks for colours and people."""
    return _marks(tenant, re.sub(r'src="(img_[^"]+)"', r'src="/_sim/files/\1"', page.markdown(text)))


def markdown_line(tenant: Tenant, text: str) -> str:
    """Markdown within one line."""
    return _marks(tenant, page.markdown_line(text))


def _marks(tenant: Tenant, html: str) -> str:
    def person(found: re.Match[str]) -> str:
        name = "所有人" if found[1] == "all" else tenant.name_of(found[1])
        return f'<span class="at">@{escape(name)}</span>'

    html = re.sub(r"&lt;at (?:id|user_id)=(?:&quot;|')?([\w-]+)(?:&quot;|')?&gt;.*?&lt;/at&gt;", person, html)
    colour = r"&lt;font color=(?:&quot;|')?(\w+)(?:&quot;|')?&gt;(.*?)&lt;/font&gt;"
    return re.sub(colour, r'<span class="c-\1">\2</span>', html)
