"""An agent's Markdown in the dialect that cards render, line by line.

Guarantee: the lines of a text that goes on begin with the lines of the text so far, all but its last block's; so what
stands in a card that is full never changes while the text grows. No line loses a word, and none can mention anybody.

Source: the platform's page on the rich text component of cards (JSON 2.0): no HTML blocks, entities for what would be
a tag, four blanks for each level of a list, fences at the beginning of the line, links with http or https only.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias

import msgspec

from .data_images import shortened

Kind: TypeAlias = Literal["text", "row", "code", "own"]
"""`own` is Markdown that we wrote and that is shown as it is."""

_FENCE = re.compile(r"(?P<quote>(?: {0,3}>)*)(?P<blanks> *)(?P<mark>`{3,}(?=[^`]*$)|~{3,})(?P<info>.*)")
_MARKER = re.compile(r"( *)([-*+]|\d{1,9}[.)])(?: +(.*))?$")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:\s(.*))?")
_RULE = re.compile(r" {0,3}([-*_])(?: *\1){2,} *")
_DELIMITER = re.compile(r" *\|? *:?-+:? *(?:\| *:?-+:? *)*\|? *")
_UNSETTLED = re.compile(r"[-*+_=#|:.)\d\s]*|`{1,2}|~{1,2}|`{3}.*|~{3}.*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_BLANKS = 100
_HEAD_CHARS = 40
_TABLE_HEAD_CHARS = 500
"""What begins a code block or a table again on each card must leave room for it."""
_TRAILS = 64
"""Texts that grow at the same time and are not read from their beginning with each frame."""
_LANGUAGES = {
    "c++": "cpp",
    "c#": "c_sharp",
    "console": "bash",
    "cs": "c_sharp",
    "dockerfile": "docker_file",
    "golang": "go",
    "js": "javascript",
    "jsx": "javascript",
    "kt": "kotlin",
    "md": "markdown",
    "ps1": "powershell",
    "py": "python",
    "rb": "ruby",
    "rs": "rust",
    "sh": "shell",
    "text": "plain_text",
    "ts": "typescript",
    "tsx": "typescript",
    "txt": "plain_text",
    "yml": "yaml",
    "zsh": "shell",
}


class Line(msgspec.Struct, frozen=True):
    """One line of a text, which stays whole in a card if it fits in one.

    Attributes:
        raw: what the agent wrote, without what only says where the line stands.
        group: lines of one table or code block have the same number; 0 for others.
        head, tail: what opens and closes the group on each card.
        gap: a blank line stands before it.
        indent: its blanks if it belongs to a list, else -1.
        lead: how many blanks to count for it, at most.
        data: the short names in it that stand for `data:` addresses, with these.
    """

    raw: str
    kind: Kind = "text"
    group: int = 0
    head: str = ""
    tail: str = ""
    gap: bool = False
    indent: int = -1
    lead: int = 0
    data: Sequence[tuple[str, str]] = ()


class _Block(msgspec.Struct):
    """A code block or a table that is being read.

    Attributes:
        mark: what closes it.
        quotes, indent: how deep in quotes it stands, and how far to the right.
        lines: how many it has so far.
    """

    kind: Kind
    head: str
    mark: str = ""
    quotes: int = 0
    indent: int = 0
    lines: int = 0

    @property
    def lead(self) -> str:
        return "> " * self.quotes


def lines(text: str, *, going_on: bool = False) -> tuple[Sequence[Line], bool]:
    """The lines of a Markdown text, and whether it ends inside a code block.

    Args:
        going_on: more may follow; a last line of which nobody can tell yet what it is, is left out.
    """
    return _read(text, going_on=True) if going_on else _read_once(text)


# Readers of texts that go on, by the lines of them that are settled; they decide what it costs to read, and no more.
_TRAIL: OrderedDict[str, _Reader] = OrderedDict()


def _read(text: str, *, going_on: bool) -> tuple[Sequence[Line], bool]:
    settled = max((one for one in list(_TRAIL) if text.startswith(one)), key=len, default="")
    reader = _TRAIL[settled].copy() if settled else _Reader()
    rest = text[len(settled) :]
    cleaned = clean(rest)
    source = cleaned.split("\n")
    index = 0
    # The last line may go on, and so may what the one before it is.
    while index < len(source) - 2:
        index += reader.read(source[index], source[index + 1])
    if going_on and index and cleaned == rest:
        _TRAIL.pop(settled, None)
        settled += rest[: sum(len(line) + 1 for line in source[:index])]
        _TRAIL[settled] = reader.copy()
        while len(_TRAIL) > _TRAILS:
            _TRAIL.popitem(last=False)
    if going_on and _UNSETTLED.fullmatch(source[-1].lstrip(" \t>")):
        source.pop()
    while index < len(source):
        following = source[index + 1] if index + 1 < len(source) else None
        index += reader.read(source[index], following)
    return reader.end(going_on=going_on), reader.in_code


@lru_cache(maxsize=64)
def _read_once(text: str) -> tuple[Sequence[Line], bool]:
    """What was said before is shown again with each frame."""
    return _read(text, going_on=False)


def clean(text: str) -> str:
    """The text with plain line breaks and without control characters."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


class _Reader:
    """Reads line by line, so that later lines cannot change what earlier ones are."""

    def __init__(self) -> None:
        self._out: list[Line] = []
        self._block: _Block | None = None
        self._groups = 0
        self._gap = False
        # The lists around the line: where the marker stands, and how wide it is.
        self._lists: list[tuple[int, int]] = []
        # A block moved to the margin has ended a list; what still belongs to its item moves with it.
        self._moved = False

    @property
    def in_code(self) -> bool:
        return self._block is not None and self._block.kind == "code"

    def copy(self) -> _Reader:
        """Another reader that has read the same."""
        other = _Reader()
        other._out, other._lists = list(self._out), list(self._lists)
        other._block = msgspec.structs.replace(self._block) if self._block is not None else None
        other._groups, other._gap, other._moved = self._groups, self._gap, self._moved
        return other

    def read(self, line: str, following: str | None) -> int:
        """Takes a line, or two that belong together; returns how many."""
        block = self._block
        if block is not None and block.kind == "code" and self._code(block, line):
            return 1
        if not line.strip():
            self._end_block()
            self._gap = bool(self._out)
            return 1
        if self._fence(line):
            return 1
        if block is not None and block is self._block and "|" in line:
            self._put(line.strip(), "row")
            return 1
        self._end_block()
        if following is not None and _is_table(line, following):
            self._table(line, following)
            return 2
        self._plain(line)
        return 1

    def end(self, *, going_on: bool) -> Sequence[Line]:
        """All lines."""
        block = self._block
        if block is not None and not block.lines and not (going_on and block.kind == "code"):
            self._put("", block.kind)
        return self._out

    def _fence(self, line: str) -> bool:
        """Opens a code block if the line does."""
        found = _FENCE.fullmatch(line) if "```" in line or "~~~" in line else None
        if found is None:
            return False
        quotes, blanks = found["quote"].count(">"), len(found["blanks"])
        if len(found["mark"]) + quotes > _HEAD_CHARS or (
            not quotes and blanks >= 4 and not self._lists and not self._moved
        ):
            return False
        word = (found["info"].split() or [""])[0][:_HEAD_CHARS]
        head = "> " * quotes + found["mark"] + _LANGUAGES.get(word.lower(), word)
        self._open(_Block("code", head, found["mark"], quotes, blanks))
        return True

    def _table(self, line: str, following: str) -> None:
        heads = (shortened(line.strip())[0], following.strip())
        indent = min(len(_spaces(line)) - len(line.lstrip()), _BLANKS)
        if sum(map(len, heads)) <= _TABLE_HEAD_CHARS:
            self._open(_Block("row", "\n".join(heads), indent=indent))
            return
        # One that cannot stand on each card has none, and is shown as code.
        self._open(_Block("row", "", indent=indent))
        for head in heads:
            self._put(head, "row")

    def _open(self, block: _Block) -> None:
        self._end_block()
        self._groups += 1
        self._block = block
        if self._lists:
            self._lists, self._moved = [], True

    def _end_block(self) -> None:
        if self._block is not None and not self._block.lines:
            self._put("", self._block.kind)
        self._block = None

    def _code(self, block: _Block, line: str) -> bool:
        """Takes a line of the open code block; False if the block has ended before it."""
        for _ in range(block.quotes):
            if not line.lstrip().startswith(">"):
                self._end_block()
                return False
            line = line.lstrip()[1:]
        line = line.removeprefix(" ") if block.quotes else line
        closing = line.strip()
        if len(closing) >= len(block.mark) and set(closing) == {block.mark[0]}:
            self._end_block()
            return True
        own = len(line) - len(line.lstrip(" "))
        self._put(block.lead + line[min(own, block.indent) :], "code")
        return True

    def _put(self, raw: str, kind: Kind, *, indent: int = -1, lead: int = 0) -> None:
        gap, self._gap = self._gap and bool(self._out), False
        block = self._block
        raw, data = (raw, ()) if kind == "code" else shortened(raw)
        if block is None:
            group = self._groups if kind == "code" else 0
            self._out.append(Line(raw, kind, group, gap=gap, indent=indent, lead=lead, data=data))
            return
        # The head of a table was a line of a list before, and counted for as much.
        lead = 2 * block.indent if kind == "row" and not block.lines else 0
        block.lines += 1
        tail = block.lead + block.mark
        self._out.append(Line(raw, kind, self._groups, block.head, tail, gap, lead=lead, data=data))

    def _plain(self, line: str) -> None:
        if _RULE.fullmatch(line):
            self._lists, self._moved, self._gap = [], False, True
            self._put("---", "text")
            self._gap = True
            return
        if (heading := _HEADING.fullmatch(line)) is not None:
            self._lists, self._moved = [], False
            said = (heading[2] or "").strip()
            bare = said.rstrip("#")
            said = bare.rstrip() if not bare or bare[-1].isspace() else said
            # The largest headings of a card are far larger than its text.
            self._put(f"{'#' * min(len(heading[1]) + 3, 6)} {said}".rstrip(), "text")
            return
        line = _spaces(line)
        blanks = len(line) - len(line.lstrip(" "))
        if (item := _MARKER.fullmatch(line)) is not None and (blanks < 4 or self._lists or self._moved):
            self._leave(blanks)
            self._lists.append((blanks, len(item[2]) + 1))
            self._item(line[blanks:], 4 * (len(self._lists) - 1), blanks)
            return
        self._continued(line, blanks)

    def _continued(self, line: str, blanks: int) -> None:
        if self._lists and blanks >= 2:
            self._leave(blanks)
            if self._lists:
                indent = 4 * (len(self._lists) - 1) + min(self._lists[-1][1], 4)
                self._item(line[blanks:], indent, blanks)
                return
        if blanks < 2 and (self._gap or not self._lists):
            self._lists = []
            self._moved = self._moved and blanks > 0
        after_code = bool(self._out) and self._out[-1].kind == "code" and not self._out[-1].tail
        if blanks >= 4 and not self._lists and not self._moved and (self._gap or not self._out or after_code):
            self._groups += not after_code
            self._put(line, "code")
            return
        self._put(line[blanks:] if blanks >= 4 or self._moved else line, "text")

    def _item(self, raw: str, indent: int, blanks: int) -> None:
        self._put(raw, "text", indent=min(indent, _BLANKS), lead=2 * min(blanks, _BLANKS))

    def _leave(self, blanks: int) -> None:
        """Closes the lists that a line so far to the left cannot belong to."""
        while self._lists and blanks < self._lists[-1][0] + 2:
            self._lists.pop()


def _spaces(line: str) -> str:
    """The line with its leading tabs as blanks."""
    rest = line.lstrip(" \t")
    return line[: len(line) - len(rest)].expandtabs(4) + rest


def _is_table(line: str, following: str) -> bool:
    if "|" not in line or "|" not in following or not _DELIMITER.fullmatch(following):
        return False
    return _cells(line) == _cells(following)


def _cells(row: str) -> int:
    row = row.strip().removeprefix("|")
    return len(re.findall(r"(?<!\\)\|", row.removesuffix("|"))) + 1
