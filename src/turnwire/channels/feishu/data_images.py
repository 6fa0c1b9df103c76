"""Images that an answer carries inside itself (`data:`), kept out of what people read.

Guarantee: what stands for one takes as many characters while it is still being written as when it is whole, and never
fewer than what was there before; so a card that is full does not change. Inside code nothing is replaced.
"""

from __future__ import annotations

import hashlib
import re

UNFINISHED = "unfinished-image"
"""Ends the name of an image that is still being written."""
_NAME_CHARS = len(UNFINISHED)
_HOLDER = re.compile(
    r"\\[!-/:-@\[-`{-~]|(?<!`)(?P<ticks>`+)(?!`).*?[^`](?P=ticks)(?!`)"
    r"|(?P<open>!?\[[^\[\]]*\]\(\s*<?)(?P<head>data:[^\s()<>,]{0,100};base64,)(?P<payload>[^\s()<>]*)"
    r"(?P<close>>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\))?",
    re.IGNORECASE,
)
_NAMED = re.compile(r"!?\[([^\[\]]*)\]\(\s*<?data:[^\s()<>]*>?(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)", re.IGNORECASE)
_FENCE = ("```", "~~~")


def shortened(line: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A line of Markdown with a short name in the place of each such image, and these names with the whole addresses.

    One that has not come to its end has a name that stands for nothing.
    """
    if "](" not in line or "base64," not in line.lower():
        return line, ()
    found: list[tuple[str, str]] = []

    def name(one: re.Match[str]) -> str:
        if one["head"] is None:
            return one[0]
        if one["close"] is None:
            return f"{one['open']}{one['head']}{UNFINISHED})"
        own = one["head"] + hashlib.sha256(one["payload"].encode("utf-8", "surrogatepass")).hexdigest()[:_NAME_CHARS]
        found.append((own, one["head"] + one["payload"]))
        return f"{one['open']}{own}{one['close']}"

    return _HOLDER.sub(name, line), tuple(found)


def in_words(line: str, word: str) -> str:
    """A line with what such images are called in their place; `word` for one that has no name."""
    if "](" not in line or "data:" not in line.lower():
        return line
    return _NAMED.sub(lambda one: one[1] or word, shortened(line)[0])


def text_in_words(text: str, word: str) -> str:
    """A whole Markdown text, line by line as `in_words`; blocks of code stay as they are."""
    if "base64," not in text.lower():
        return text
    out: list[str] = []
    code = ""
    for line in text.split("\n"):
        mark = line.lstrip(" >")[:3]
        if mark in _FENCE and code in ("", mark):
            code = "" if code else mark
        out.append(line if code else in_words(line, word))
    return "\n".join(out)
