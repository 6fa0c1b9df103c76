"""A simulator's page: chats as people see them, in a browser.

Guarantee: what comes from clients is shown as text or as Markdown without HTML; it is never run.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

_MARKDOWN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").enable("strikethrough")


def page(platform: str, style: str = "") -> bytes:
    """The page; it asks for `page.json` again and again.

    Args:
        platform: what is simulated, as its title says it.
        style: CSS that goes over the page's own.
    """
    html = (Path(__file__).parent / "_page.html").read_text(encoding="utf-8")
    return html.replace("%PLATFORM%", escape(platform)).replace("</style>", f"{style}</style>").encode()


def message_html(sender: str, inner: str, *, from_bot: bool) -> str:
    """A message: who wrote it, and the HTML of what is seen of it."""
    side, mark = ("bot", "<i>bot</i>") if from_bot else ("person", "")
    who = f'<div class="who">{escape(sender)}{mark}</div>'
    return f'<div class="face {side}">{escape(sender[:1])}</div><div class="said">{who}{inner}</div>'


def quote(sender: str, words: str, more: str = "") -> str:
    """What a message answers, in one line; `more` is HTML behind it."""
    return f'<div class="quote">↩ {escape(sender)}: {escape(words[:60])}{more}</div>'


def picture(key: str, name: str, more: str = "") -> str:
    """An image that was sent; `more` is a further class."""
    return f'<img class="picture{more}" src="/_sim/files/{escape(key)}" alt="{escape(name)}">'


def file_link(key: str, name: str, about: str, more: str = "") -> str:
    """A file that was sent, with a line about it; `more` is a further class."""
    shown = f"<b>{escape(name)}</b><small>{escape(about)}</small>"
    return f'<a class="file{more}" href="/_sim/files/{escape(key)}" download="{escape(name)}">{shown}</a>'


def size_text(size: int) -> str:
    """A number of bytes, for people."""
    return f"{size} B" if size < 1024 else f"{size / 1024:.1f} KB" if size < 1024**2 else f"{size / 1024**2:.1f} MB"


def generating(words: str) -> str:
    """Moving dots: an answer is under way."""
    return f'<div class="generating"><span></span><span></span><span></span> {words}</div>'


def markdown(text: str) -> str:
    """Markdown as HTML; wide tables can be scrolled."""
    html = str(_MARKDOWN.render(text))
    return html.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")


def markdown_line(text: str) -> str:
    """Markdown within one line, as HTML."""
    return str(_MARKDOWN.renderInline(text))
