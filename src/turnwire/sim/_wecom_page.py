"""The WeCom simulator's page: its chats as people see them, in a browser.

Guarantee: what comes from bots is shown as text or as the Markdown that the platform takes; it is never run.
"""

from __future__ import annotations

from html import escape

from . import _page as page
from ._json import Json
from ._wecom_state import Chat, Platform
from ._wecom_view import CardView, FileView, MessageView, message_view, view

STYLE = """
  :root { --person: #cfe7d4; --accent: #2b7a4b; } .face { background: #b06b16; }
  .face.bot { background: #2b7a4b; }
  @media (prefers-color-scheme: dark) { :root { --person: #1f4a2e; --accent: #63c48a; --on-accent: #10281a; } }
  .bubble.md { white-space: normal; } .bubble .generating { padding: 4px 0 0; }
  .reasoning { color: var(--soft); font-size: 13px; white-space: pre-wrap; margin-bottom: 6px; }
  .vanished { opacity: .55; border-style: dashed; } .judge { display: flex; gap: 6px; margin-top: 4px; }
  .judge button { font: inherit; font-size: 12px; border: 1px solid var(--line); border-radius: 12px; cursor: pointer;
    background: var(--panel); color: var(--soft); padding: 0 8px; }
  .judge button.on { color: var(--accent); border-color: var(--accent); }
"""


def page_json(platform: Platform, chosen: str) -> Json:
    """The chats, and the messages of the chosen one as HTML."""
    chats = list(platform.chats.values())
    chat = platform.chats.get(chosen) or (chats[0] if chats else None)
    messages: list[Json] = []
    if chat is not None:
        seen = view(platform, chat)
        unseen = {each.message_id for each in seen.vanished}
        for each in sorted([*seen.messages, *seen.vanished], key=lambda one: (one.at, one.message_id)):
            html = _message(platform, each, vanished=each.message_id in unseen)
            messages += [{"id": each.message_id, "html": html}]
    listed = [_listed(platform, each) for each in chats]
    userid = chat.members[0] if chat and chat.members else "alice"
    writer = {"id": userid, "name": platform.name_of(userid)}
    return {"writer": writer, "chats": listed, "chosen": chat.key if chat else "", "messages": messages}


def _listed(platform: Platform, chat: Chat) -> Json:
    messages = view(platform, chat).messages
    last = f"{messages[-1].sender}: {messages[-1].text or '…'}".replace("\n", " ")[:80] if messages else ""
    kind, name = ("p2p", chat.name) if chat.kind == "single" else ("group", chat.name)
    if chat.kind == "single":
        name = f"{name} · {platform.name_of(chat.bots[0])}"
    return {"id": chat.key, "name": name, "kind": kind, "last": last}


def _message(platform: Platform, message: MessageView, *, vanished: bool) -> str:
    inner = _quote(platform, message) + _inside(message, " vanished" if vanished else "") + _judged(message)
    notices = "".join(f'<div class="notice bad">{escape(each)}</div>' for each in message.notices)
    if vanished:
        notices += '<div class="notice bad">acknowledged, and never shown to anybody · 已确认但不显示</div>'
    return page.message_html(message.sender, inner + notices, from_bot=message.from_bot)


def _quote(platform: Platform, message: MessageView) -> str:
    quoted = platform.messages.get(message.quote)
    if quoted is None:
        return ""
    shown = message_view(platform, quoted)
    return page.quote(shown.sender, shown.text)


def _inside(message: MessageView, more: str) -> str:
    if message.card is not None:
        return _card(message.card, message.message_id)
    files = "".join(_file(each, more) for each in message.files)
    if message.kind == "stream":
        return _stream(message) + files
    if message.kind == "markdown":
        return f'<div class="bubble md{more}">{page.markdown(message.text)}</div>'
    if message.kind in ("text", "mixed") or not files:
        return f'<div class="bubble{more}">{escape(message.text)}</div>{files}'
    return files


def _stream(message: MessageView) -> str:
    thought = f'<div class="reasoning">{escape(message.thinking)}</div>' if message.thinking else ""
    state = {
        "thinking": page.generating("thinking… · 思考中"),
        "live": page.generating("generating… · 生成中"),
        "expired": '<div class="notice bad">never finished: its time is over · 已过期</div>',
    }.get(message.state, "")
    return f'<div class="bubble md">{thought}{page.markdown(message.text)}{state}</div>'


def _file(file: FileView, more: str) -> str:
    if file.kind == "image":
        return f"<div>{page.picture(file.file_id, file.name, more)}</div>"
    return page.file_link(file.file_id, file.name, f"{file.kind} · {page.size_text(file.size)}", more)


def _card(card: CardView, message_id: str) -> str:
    title, _, rest = card.text.partition("\n")
    buttons = "".join(
        f'<button data-message="{escape(message_id)}" data-button="{escape(key)}">{escape(words)}</button>'
        for key, words in card.buttons
    )
    body = f'<div class="plain"><b>{escape(title)}</b></div><div class="plain">{escape(rest)}</div>'
    return f'<div class="card"><div class="body">{body}<div class="group columns">{buttons}</div></div></div>'


def _judged(message: MessageView) -> str:
    if message.feedback is None:
        return ""
    buttons = ""
    for judged, sign in (("good", "👍"), ("bad", "👎")):
        on = message.feedback == judged
        what = "cancel" if on else judged
        data = f'data-message="{escape(message.message_id)}" data-button="feedback:{what}"'
        buttons += f'<button class="{"on" if on else ""}" aria-label="{judged}" {data}>{sign}</button>'
    return f'<div class="judge">{buttons}</div>'
