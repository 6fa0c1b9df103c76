"""Turnwire's own documentation, searchable by section.

Guarantee: what a person types is only ever searched for, never read as query syntax; a hit is shown as it was written.
"""

from __future__ import annotations

import re
import sqlite3
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

_HAN = "一-鿿㐀-䶿"
_WORDS = re.compile(f"[{_HAN}]+|[^\\W_{_HAN}]+(?:_[^\\W_{_HAN}]+)*")
_IS_HAN = re.compile(f"[{_HAN}]")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)(?:[ \t]+#+)?[ \t]*")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_STOP_WORDS = """
a about an and any are as at be but by can could do does for from get give had has have hello help hey hi how i if in
into is it its let like me mean my need no not of on or our please s should show so some t tell than thank thanks that
the their them then there these they this to us use using want was we were what when where which who why will with
would you your
"""
_STOP = frozenset(_STOP_WORDS.split())
_STOP_HAN = re.compile(
    "你好|谢谢|请问|请|为什么|什么|怎么样|怎么|怎样|如何|哪里|哪些|哪个|多少|是否|可以|能不能|能否|需要|有没有|这个|那个|一下|告诉|关于"
    "|[的了吗呢吧啊和与在是我你它有会能想要把被给从到]"
)
_ALIASES = {
    "企业微信": "wecom",
    "企微": "wecom",
    "飞书": "feishu",
    "安装": "install",
    "启动": "start",
    "运行": "run",
    "停止": "stop",
    "恢复": "resume",
    "断线": "resume",
    "配置": "configuration",
    "网页": "web",
    "卡片": "card",
    "文件": "file",
    "附件": "file",
    "模型": "model",
    "数据库": "database",
    "保证": "guarantee",
    "测试": "test",
    "命令": "command",
    "密钥": "key",
    "代理": "proxy",
}
_ALIAS = re.compile("|".join(_ALIASES))
_OTHER_LANGUAGE = 0.6
_COVERED = 1 / 3


class Section(msgspec.Struct, frozen=True):
    """The text between one heading and the next, as Markdown."""

    file: str
    page: str
    title: str
    text: str


class Hit(msgspec.Struct, frozen=True):
    """A section that a search found; a higher `score` fits better."""

    section: Section
    score: float


class DocsIndex:
    """A full-text index in memory.

    Args:
        pages: Markdown by file name.

    Raises `RuntimeError` when this Python's SQLite has no full-text search.
    """

    def __init__(self, pages: Mapping[str, str]) -> None:
        self.pages = dict(pages)
        self.sections = [section for file, text in self.pages.items() for section in split_sections(file, text)]
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        try:
            self._db.execute("CREATE VIRTUAL TABLE docs USING fts5(title, page, body, tokenize = 'porter unicode61')")
        except sqlite3.OperationalError as error:
            raise RuntimeError(f"the documentation cannot be searched: {error}; use a Python with FTS5") from error
        self._db.executemany(
            "INSERT INTO docs (rowid, title, page, body) VALUES (?, ?, ?, ?)",
            ((row, _spread(s.title), _spread(s.page), _spread(s.text)) for row, s in enumerate(self.sections)),
        )

    def search(self, words: Sequence[str], *, limit: int = 5) -> list[Hit]:
        """The sections that fit `words` best, the best first; none if there are no words worth searching for."""
        units = [unit for word in words for unit in _units(word)]
        if not units:
            return []
        chinese = is_chinese("".join(words))
        found = self._db.execute(
            "SELECT rowid, bm25(docs, 6.0, 2.0, 1.0) FROM docs WHERE docs MATCH ?", (" OR ".join(units),)
        )
        hits = []
        for row, rank in found:
            section = self.sections[row]
            same = (".zh" in section.file) == chinese
            hits.append(Hit(section, -rank if same else -rank * _OTHER_LANGUAGE))
        return sorted(hits, key=lambda hit: -hit.score)[:limit]

    def answers(self, section: Section, words: Sequence[str]) -> bool:
        """Whether enough of `words` stands in the section for it to be an answer and no chance hit."""
        units = [unit for word in words for unit in _units(word)]
        row = self.sections.index(section)
        query = "SELECT count(*) FROM docs WHERE docs MATCH ? AND rowid = ?"
        matched = sum(self._db.execute(query, (unit, row)).fetchone()[0] for unit in units)
        return bool(units) and matched / len(units) >= _COVERED


def is_chinese(text: str) -> bool:
    """Whether `text` holds Chinese characters."""
    return _IS_HAN.search(text) is not None


def question_words(text: str) -> list[str]:
    """The words of a question that are worth searching for, in order and once each."""
    found = _WORDS.findall(_STOP_HAN.sub(" ", text))
    words = list(dict.fromkeys(word for word in found if word.lower() not in _STOP))
    return [word for word in words if word.lower() != "turnwire"] or words


def split_sections(file: str, text: str) -> Iterator[Section]:
    """The sections of one page that hold text. The first top heading is the page's title, else the file's name is."""
    page = title = Path(file).stem
    body: list[str] = []
    fence = ""
    for line in text.splitlines():
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif line.strip().startswith(fence) and not line.strip(" `~"):
                fence = ""
        heading = None if fence else _HEADING.fullmatch(line)
        if heading is None:
            body.append(line)
            continue
        yield from _section(file, page, title, body)
        body = []
        title = heading[2]
        if heading[1] == "#":
            page = title
    yield from _section(file, page, title, body)


def _section(file: str, page: str, title: str, body: list[str]) -> Iterator[Section]:
    if said := "\n".join(body).strip():
        yield Section(file, page, title, said)


def load_pages(package: Path | None = None) -> dict[str, str]:
    """Turnwire's Markdown pages by file name: from the installed package, or from the checkout it runs in.

    Args:
        package: the folder of the package; our own by default.
    """
    package = package or Path(__file__).resolve().parent.parent
    packed, checkout = package / "_docs", package.parent.parent
    if packed.is_dir():
        files = {path: path.relative_to(packed).as_posix() for path in packed.rglob("*.md")}
        named = {path: name if name.startswith("README") else f"docs/{name}" for path, name in files.items()}
    elif (checkout / "pyproject.toml").is_file():
        paths = [*checkout.glob("README*.md"), *(checkout / "docs").rglob("*.md")]
        named = {path: path.relative_to(checkout).as_posix() for path in paths}
    else:
        named = {}
    return {named[path]: path.read_text(encoding="utf-8") for path in sorted(named, key=lambda path: named[path])}


def _spread(text: str) -> str:
    """`text` as the tokenizer needs it: Chinese as overlapping pairs of characters, since it has no spaces."""
    return " ".join(" ".join(_pairs(word)) if is_chinese(word) else word for word in _WORDS.findall(text))


def _pairs(word: str) -> list[str]:
    return [word[at : at + 2] for at in range(len(word) - 1)] or [word]


def _units(word: str) -> list[str]:
    """What must stand in a section for `word` to stand in it, as quoted query terms that hold nothing but letters."""
    if not is_chinese(word):
        return [f'"{word}"'] if _WORDS.fullmatch(word) else []
    units = [f'("{known}" OR "{_ALIASES[known]}")' for known in _ALIAS.findall(word)]
    for rest in _WORDS.findall(_ALIAS.sub(" ", word)):
        units += [f'"{pair}"' if len(pair) > 1 else f'"{pair}"*' for pair in _pairs(rest)]
    return units
