"""What Feishu takes: sizes and counts of cards, messages and files, and how to stay below them.

Source: the platform's pages on cards (JSON 2.0), `cardkit-v1/card/create`, `im-v1/message/create`, `im-v1/file/create`
and `im-v1/image/create`; the number of tables is what its own plugin for agents allows itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from ..facts import clip as clip

CARD_BYTES = 30_000
"""Of a card's JSON in UTF-8, after the platform has compiled it, which adds to it."""
CARD_ELEMENTS = 200
CARD_TABLES = 3
ELEMENT_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,19}")
TEXT_BYTES = 150_000
"""Of the content of a text message, which is JSON in a string."""
FILE_BYTES = 30 * 2**20
IMAGE_BYTES = 10 * 2**20

LINES = 4096
LINE_CHARS = 2000
"""What so many lines of at most so many characters become is remembered: each frame of an answer shows them again."""

_AUTOLINK = re.compile(r"<https?://[^<>\s]*")
_IMAGE_MARK = 120
_TAG_MARK = 4
_MENTION_MARK = 3


def json_bytes(value: object) -> int:
    """How many bytes `value` has as JSON in UTF-8."""
    return len(msgspec.json.encode(value))


def cost(text: str, base_url: str = "") -> int:
    """At most how many bytes a piece of the agent's Markdown takes in a card.

    Guarantee: it only grows when the text grows at its end, whatever the text then means; so what once did not fit
    never fits again.
    """
    return _remembered_cost(text, base_url) if len(text) <= LINE_CHARS else _cost(text, base_url)


@lru_cache(maxsize=LINES)
def _remembered_cost(text: str, base_url: str) -> int:
    return _cost(text, base_url)


def _cost(text: str, base_url: str) -> int:
    size = len(text.encode("utf-8", "surrogatepass"))
    size += text.count('"') + text.count("\\") + text.count("\n") + 5 * text.count("\t")
    if "<" in text:
        size += _TAG_MARK * text.count("<") + sum(len(found[0].encode()) for found in _AUTOLINK.finditer(text))
    if "@_" in text:
        size += _MENTION_MARK * text.count("@_")
    if "![" in text:
        size += _IMAGE_MARK * text.count("![")
    if base_url and "(/" in text:
        size += len(base_url.encode()) * text.count("(/")
    return size


def elements(value: Any) -> int:
    """How many elements and components a piece of card JSON holds; counts what might be counted."""
    if isinstance(value, Mapping):
        return ("tag" in value) + sum(elements(one) for one in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(elements(one) for one in value)
    return 0
