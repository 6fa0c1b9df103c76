"""Where a Markdown text may be cut so that each piece can be read by itself. Pure.

Guarantee: the pieces put together are the text; no piece exceeds its bytes; no character is cut in two. A code block or
a table that is cut is closed in the one piece and opened again in the next.
"""

from __future__ import annotations

import re

import msgspec

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_DELIMITER = re.compile(r" *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *")
_HEAD_BYTES = 500
"""A table whose head is longer goes on without it."""
_INFO_CHARS = 40
_MARK_CHARS = 20
_SHARE = 0.5
"""A piece is not made smaller than that share of what it could hold for the sake of a better place to cut."""
_SENTENCE = re.compile(r"[。！？；]|[.!?;](?=\s)")
_JOINED = frozenset("\u200d\ufe0e\ufe0f\u20e3\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
"""What belongs to the character before it: joiners, variants and shades of emoji."""


class Inside(msgspec.Struct, frozen=True):
    """What a place in a text stands in: how a piece that ends there is closed, and how one that begins there opens."""

    closing: str = ""
    opening: str = ""


NOWHERE = Inside()


def inside(text: str, place: int) -> Inside:
    """What a place stands in; a row of a table that is cut in two is not opened again."""
    fence: re.Match[str] | None = None
    table = ""
    before = ""
    for line in text[:place].split("\n")[:-1]:
        if fence is not None:
            found = _FENCE.fullmatch(line)
            if found and found[1].startswith(fence[1][0]) and len(found[1]) >= len(fence[1]) and not found[2].strip():
                fence = None
            continue
        found = _FENCE.fullmatch(line)
        if found and not (found[1][0] == "`" and "`" in found[2]):
            fence, table = found, ""
        elif table:
            table = table if "|" in line else ""
        elif "|" in before and "-" in line and _DELIMITER.fullmatch(line):
            table = f"{before}\n{line}\n"
        before = line
    if fence is not None:
        mark = fence[1][:_MARK_CHARS]
        return Inside(f"\n{mark}", f"{mark}{fence[2][:_INFO_CHARS]}\n")
    if (
        table
        and text[place - 1 : place] == "\n"
        and place < len(text)
        and "|" in text[place:].split("\n", 1)[0]
        and len(table.encode()) <= _HEAD_BYTES
    ):
        return Inside("", table)
    return NOWHERE


def cut(text: str, start: int, room: int) -> int:
    """The place up to which a piece that begins at `start` may go, so that it has at most `room` bytes as it is shown.

    At least one character is in it, whatever the room.
    """
    room -= len(inside(text, start).opening.encode())
    most = _fitting(text, start, room)
    if most >= len(text):
        return len(text)
    place = _place(text, start, most)
    # What closes a code block takes room too.
    return _place(text, start, _fitting(text, start, room - _MARK_CHARS - 1)) if inside(text, place).closing else place


def resting_place(text: str, start: int) -> int:
    """The last place where what was said so far can be left for a while: after a block, a line or a sentence."""
    least = start + int((len(text) - start) * _SHARE)
    found = _between_blocks(text, least, len(text)) or _between_lines(text, least, len(text))
    return found or _within(text, start, least, len(text), whole=True)


def shown(text: str, start: int, end: int) -> str:
    """A piece as it can be read by itself."""
    closing = inside(text, end).closing if end < len(text) else ""
    return f"{inside(text, start).opening}{text[start:end].strip(chr(10))}{closing}"


def _place(text: str, start: int, most: int) -> int:
    least = start + int((most - start) * _SHARE)
    return _between_blocks(text, least, most) or _between_lines(text, least, most) or _within(text, start, least, most)


def _fitting(text: str, start: int, room: int) -> int:
    """As far as the text has at most `room` bytes, or one character."""
    piece = text[start : start + max(room, 1)].encode("utf-8", "surrogatepass")[: max(room, 0)]
    end = start + max(len(piece.decode("utf-8", "ignore")), 1)
    while end < len(text) and end > start + 1 and (text[end] in _JOINED or text[end - 1] == "\u200d"):
        end -= 1
    return end


def _between_blocks(text: str, least: int, most: int) -> int:
    """After the last blank line that stands in no code block, 0 if there is none."""
    place = text.rfind("\n\n", least, most)
    while place >= 0:
        after = place + 2
        if after <= most and inside(text, after) is NOWHERE:
            return after
        place = text.rfind("\n\n", least, place + 1)
    return 0


def _between_lines(text: str, least: int, most: int) -> int:
    return text.rfind("\n", least, most) + 1


def _within(text: str, start: int, least: int, most: int, *, whole: bool = False) -> int:
    """In a line that is too long: after a sentence or a word, else anywhere; with `whole` at its end rather."""
    ends = [found.end() for found in _SENTENCE.finditer(text, least, most)]
    blank = text.rfind(" ", least, most) + 1
    place = ends[-1] if ends else blank
    if place <= start:
        place = most
    return most if whole and not ends else place
