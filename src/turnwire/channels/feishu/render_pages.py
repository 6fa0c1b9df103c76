"""Lays what a turn shows out on cards: as few as its limits allow, each filled before the next begins.

Guarantee: no page exceeds the room; the lines of all pages are the lines given, each once, in order. While the last
flow only grows, no page but the last one changes: whether something still fits depends only on what stands before it
and on a cost that never shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from . import limits
from .markdown import Line
from .render_inline import Inline, no_mentions, no_tags

Element: TypeAlias = dict[str, Any]

_FRAME = 120
"""What an element of text takes beside its lines."""
_LINE = 20
"""What a line takes beside its text: marks of a heading, blank lines, quotes of a fence around a table."""
_STEP = 256
"""Elements count in such steps, so that small changes of them move nothing."""


class Solid(msgspec.Struct, frozen=True):
    """An element that is shown as one."""

    element: Element


class Flow(msgspec.Struct, frozen=True):
    """Markdown that may go on on the next card.

    Attributes:
        open: more of it may follow, and it ends inside a code block.
        size: the platform's name of the size of the letters.
    """

    id: str
    lines: Sequence[Line]
    open: bool = False
    size: str = "normal"


Item: TypeAlias = Solid | Flow


class Room(msgspec.Struct, frozen=True):
    """What one page holds, without what stands at its end."""

    bytes: int
    elements: int
    tables: int
    base_url: str = ""


class _Placed(msgspec.Struct):
    line: Line
    as_code: bool = False


class _Run(msgspec.Struct):
    """The lines of a flow on one page."""

    flow: Flow
    lines: list[_Placed] = []


class _Page(msgspec.Struct):
    items: list[Element | _Run] = []
    bytes: int = 0
    elements: int = 0
    tables: int = 0

    def run(self, flow: Flow) -> _Run | None:
        last = self.items[-1] if self.items else None
        return last if isinstance(last, _Run) and last.flow is flow else None


def pages(items: Sequence[Item], room: Room, inline: Inline) -> list[list[Element]]:
    """The elements of each page; one without any if there are no items."""
    layout = _Layout(room)
    for item in items:
        if isinstance(item, Solid):
            layout.solid(item.element)
        else:
            for line in item.lines:
                layout.line(item, line)
    return [[_element(one, inline) for one in page.items] for page in layout.pages]


class _Layout:
    def __init__(self, room: Room) -> None:
        self._room = room
        self.pages = [_Page()]

    def solid(self, element: Element) -> None:
        size = -(-(limits.json_bytes(element) + 1) // _STEP) * _STEP
        count = limits.elements(element)
        if not self._fits(size, count):
            self.pages.append(_Page())
        page = self.pages[-1]
        page.items.append(element)
        page.bytes += size
        page.elements += count

    def line(self, flow: Flow, line: Line) -> None:
        whole = self._cost(line)
        most = self._room.bytes - _FRAME - (self._opening(line) if line.group else 0)
        if whole <= most:
            self._place(flow, line, whole)
            return
        # What fits on no page begins on a new one: where it is cut must not depend on what stands before it.
        if self.pages[-1].items:
            self.pages.append(_Page())
        for index, piece in enumerate(cut(line.raw, most - _LINE - line.lead, self._room.base_url)):
            part = msgspec.structs.replace(line, raw=piece, gap=line.gap and index == 0)
            self._place(flow, part, self._cost(part))

    def _place(self, flow: Flow, line: Line, size: int) -> None:
        page = self.pages[-1]
        run = page.run(flow)
        needed, count = self._needs(run, line, size)
        if not self._fits(needed, count):
            page, run = _Page(), None
            self.pages.append(page)
            needed, count = self._needs(run, line, size)
        page.bytes += needed
        page.elements += count
        if run is None:
            run = _Run(flow)
            page.items.append(run)
        before = run.lines[-1] if run.lines else None
        if before is not None and line.group and before.line.group == line.group:
            run.lines.append(_Placed(line, before.as_code))
            return
        table = line.kind == "row"
        as_code = table and (not line.head or page.tables >= self._room.tables)
        page.tables += table and not as_code
        run.lines.append(_Placed(line, as_code))

    def _needs(self, run: _Run | None, line: Line, size: int) -> tuple[int, int]:
        """The bytes and elements that one more line takes on a page, after the run at its end."""
        if run is None:
            return size + self._opening(line) + _FRAME, 1
        if not line.group or run.lines[-1].line.group == line.group:
            return size, 0
        return size + self._opening(line), 0

    def _fits(self, size: int, count: int) -> bool:
        page = self.pages[-1]
        if not page.items:
            return True
        return page.bytes + size <= self._room.bytes and page.elements + count <= self._room.elements

    def _cost(self, line: Line) -> int:
        return limits.cost(line.raw, self._room.base_url) + line.lead + _LINE

    def _opening(self, line: Line) -> int:
        if not line.group:
            return 0
        return limits.cost(line.head, self._room.base_url) + limits.cost(line.tail)


def cut(text: str, most: int, base_url: str) -> Iterator[str]:
    """The text in pieces that each cost at most so much, cut where it reads best."""
    while len(text) > 1 and limits.cost(text, base_url) > most:
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if limits.cost(text[:middle], base_url) <= most else (low, middle - 1)
        end = _break(text, low)
        yield text[:end].rstrip(" ")
        text = text[end:].lstrip(" ")
    yield text


def _break(text: str, most: int) -> int:
    """Where to cut before `most`: after a sentence, else a word, else anywhere."""
    least = most // 2
    for marks in ("。！？；", " ", "，、,;"):
        found = max(text.rfind(mark, least, most) for mark in marks)
        if found > 0:
            return found + 1
    return most


def _element(item: Element | _Run, inline: Inline) -> Element:
    if not isinstance(item, _Run):
        return item
    return text_element(item.flow.id, _content(item, inline), item.flow.size)


def text_element(element_id: str, content: str, size: str = "normal") -> Element:
    """An element that shows Markdown."""
    return {"tag": "markdown", "element_id": element_id, "content": content, "text_size": size}


def _content(run: _Run, inline: Inline) -> str:
    out: list[str] = []
    before: _Placed | None = None
    left = 0
    for placed in run.lines:
        line = placed.line
        same = before is not None and line.group != 0 and line.group == before.line.group
        if before is not None:
            if not same:
                out += _closing(before)
            out.append("\n\n" if _apart(before, placed, same=same) else "\n")
        if not same:
            out.append("```\n" if placed.as_code else "")
        if line.head and not same:
            out.append(_shown(placed, line.head, inline))
            out.append("\n" if line.raw or line.kind == "code" else "")
        # A list that goes on from the card before begins at the margin again.
        left = 0 if line.indent < 0 else line.indent if before is None else min(left, line.indent)
        out += [" " * max(line.indent - left, 0), _shown(placed, line.raw, inline)]
        before = placed
    if before is not None and not (run.flow.open and before.line is run.flow.lines[-1]):
        out += _closing(before)
    return "".join(out)


def _apart(before: _Placed, placed: _Placed, *, same: bool) -> bool:
    """Whether a blank line stands between two lines. Around a table it must, or they are taken for its rows."""
    if same:
        return placed.line.gap and not placed.line.tail
    return placed.line.gap or "row" in (placed.line.kind, before.line.kind)


def _closing(placed: _Placed) -> list[str]:
    return ["\n```"] if placed.as_code else [f"\n{placed.line.tail}"] if placed.line.tail else []


def _shown(placed: _Placed, raw: str, inline: Inline) -> str:
    line = placed.line
    if line.kind == "own":
        return raw
    if line.kind == "code":
        return no_mentions(no_tags(raw))
    if placed.as_code:
        return inline.as_code(raw)
    return inline(raw)
