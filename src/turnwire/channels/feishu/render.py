"""What a turn looks like on Feishu: as cards, as text messages, as a Markdown file. Pure.

Guarantee: every way shows the whole answer, and how it ended; no card exceeds what the platform takes; while an answer
grows, only its last card changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ...delivery.surface import Desired
from .. import facts
from . import limits
from .data_images import text_in_words
from .markdown import clean
from .render_inline import Inline, bare, no_mentions, no_tags
from .render_inline import images as embedded
from .render_pages import Element, Room, cut, pages
from .render_parts import END_BYTES, END_ELEMENTS, Body, Style, so_far

__all__ = ["Card", "Style", "cards", "document", "revision", "texts", "wanted_images"]

SUMMARY_CHARS = 80
_CARD_FRAME = 1_200
"""What a card takes without its elements."""
_TEXT_MARGIN = 10_000
_PRINT = {"print_frequency_ms": {"default": 30}, "print_step": {"default": 2}, "print_strategy": "fast"}
"""How clients type a text out that streams: quickly, and never behind what was sent."""


class Card(msgspec.Struct, frozen=True):
    """One card.

    Attributes:
        json: it, by the platform's schema 2.0.
        summary: what the list of chats says of it.
        text_id, text: the element whose text is growing, if it has one, and what that shows now.
    """

    json: dict[str, Any]
    summary: str
    text_id: str | None = None
    text: str = ""

    def blank(self) -> dict[str, Any]:
        """The card without the growing text: equal for two cards that differ in that alone."""
        if self.text_id is None:
            return self.json
        return {**self.json, "body": {"elements": _without(self.json["body"]["elements"], self.text_id)}}


def cards(desired: Desired, style: Style, images: Mapping[str, str]) -> list[Card]:
    """The cards that show a turn now, at least one.

    Args:
        images: keys of uploaded images by their addresses, as `render_inline.images` gives them first; others are
            shown as links, or by what they are called.
    """
    words = style.words
    inline = Inline({} if style.plain else images, base_url=style.base_url, word=words.image)
    body = Body(desired, style, inline)
    room = Room(
        bytes=style.byte_limit - _CARD_FRAME - END_BYTES,
        elements=style.element_limit - END_ELEMENTS,
        tables=0 if style.plain else style.table_limit,
        base_url=style.base_url,
    )
    found = pages(list(body.items()), room, inline)
    found[-1] = [*found[-1], *body.end()]
    out = []
    for index, elements in enumerate(found):
        last = index == len(found) - 1
        live_id = body.live_id if last else None
        text = _text_of(elements, live_id) if live_id is not None else None
        summary = body.under_way if last and not desired.final else _summary(elements)
        card = _json(elements, summary, live=last and not desired.final)
        out.append(Card(card, summary, live_id if text is not None else None, text or ""))
    return out


def revision(desired: Desired) -> tuple[Any, ...]:
    """Equal for two states of one view that look the same as cards, whatever time it is."""
    view = desired.view
    told = (desired.turn_id, desired.ended, desired.final, desired.repeat, so_far(desired))
    return (*told, view.count, view.inherited, tuple(desired.files), dict(desired.verdicts))


def wanted_images(desired: Desired) -> list[str]:
    """The addresses of the images that the answer embeds and that could be uploaded, each once."""
    found = [address for text in facts.said(desired) for _, address in embedded(text)]
    known = ("http://", "https://", "/files/", "data:image/")
    return list(dict.fromkeys(address for address in found if address.lower().startswith(known)))


def texts(desired: Desired, style: Style) -> list[str]:
    """The turn as text messages."""
    whole = no_mentions(no_tags(text_in_words("\n\n".join(_told(desired, style)), style.words.image)))
    most = limits.TEXT_BYTES - _TEXT_MARGIN
    out: list[str] = []
    held: list[str] = []
    used = 0
    for line in whole.split("\n"):
        for piece in cut(line, most - 2, ""):
            size = limits.json_bytes(piece)
            if held and used + size > most:
                out.append("\n".join(held).strip("\n"))
                held, used = [], 0
            held.append(piece)
            used += size
    return [*out, "\n".join(held).strip("\n")]


def document(desired: Desired, style: Style) -> tuple[bytes, str, str]:
    """The turn as a Markdown file: its content, its name, and what to say about it."""
    words = style.words
    content = "\n\n".join(_told(desired, style)) + "\n"
    return content.encode("utf-8", "replace"), words.document, words.document_notice.format(name=words.document)


def _told(desired: Desired, style: Style) -> Iterator[str]:
    """Everything that is said, as Markdown."""
    words = style.words
    if desired.repeat:
        yield f"⚠️ {words.repeat}"
    for text in facts.said(desired):
        yield clean(text).strip("\n")
    for tool in facts.asking(desired):
        verdict = facts.verdict_of(desired, tool)
        if verdict is not None and verdict.approved is None:
            yield f"✋ {words.may_run} {tool.title or tool.name} {facts.brief(tool.input)}".rstrip()
    missing = [f"⚠️ {line}" for line in facts.missing_files(desired.files, words)]
    if missing:
        yield "\n".join(missing)
    sources = [f"- {title}: {address}" if title != address else f"- {title}" for title, address in facts.links(desired)]
    if sources:
        yield "\n".join([f"{words.sources}:", *sources])
    told = facts.outcome_words(desired, words) if desired.ended else None
    if told is not None:
        yield f"{told} {facts.reason(desired)}".rstrip()


def _json(elements: list[Element], summary: str, *, live: bool) -> dict[str, Any]:
    config: dict[str, Any] = {"update_multi": True, "streaming_mode": live, "summary": {"content": summary}}
    if live:
        config["streaming_config"] = _PRINT
    return {"schema": "2.0", "config": config, "body": {"elements": elements}}


def _summary(elements: list[Element]) -> str:
    """The beginning of the last text of a card."""
    shown = [one for one in elements if one["tag"] == "markdown"]
    chosen = [one for one in shown if one["element_id"].startswith("text_")][-1:] or shown[:1]
    content: str = chosen[0]["content"] if chosen else ""
    return no_tags(limits.clip(bare(content[: 8 * SUMMARY_CHARS]), SUMMARY_CHARS))


def _text_of(elements: list[Element], element_id: str) -> str | None:
    for one in elements:
        if one.get("element_id") == element_id:
            content: str = one["content"]
            return content
        inner = _text_of(one.get("elements", []), element_id)
        if inner is not None:
            return inner
    return None


def _without(elements: list[Element], element_id: str) -> list[Element]:
    out = []
    for one in elements:
        if one.get("element_id") == element_id:
            one = {**one, "content": ""}
        elif "elements" in one:
            one = {**one, "elements": _without(one["elements"], element_id)}
        out.append(one)
    return out
