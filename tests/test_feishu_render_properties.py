"""What holds for every answer that is shown as cards."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from turnwire.channels.feishu.limits import ELEMENT_ID, elements, json_bytes
from turnwire.channels.feishu.markdown import lines
from turnwire.channels.feishu.render import Card, Style, cards, document, texts
from turnwire.channels.feishu.render_inline import Inline
from turnwire.channels.feishu.render_pages import Flow, Room, pages
from turnwire.channels.feishu.render_parts import END_BYTES

from .feishu_render_turns import call, components, contents, desired, end, text, thought

SMALL = Style(byte_limit=9_000, element_limit=40)
MARKDOWN = MarkdownIt("commonmark").enable("table")
END_IDS = {"outcome", "status", "stop", "footer"}

MARKS = [
    "{}",
    "**{}**",
    "`{}`",
    "``{}",
    "[{}](https://e.org/x)",
    "[{}](/files/f)",
    "![{}](https://e.org/i.png)",
    f"![{{}}](data:image/png;base64,{'A' * 400})",
    f"[{{}}](<data:image/png;base64,{'A' * 400}> 'title')",
    "<b>{}</b>",
    "<at id=all></at>{}",
    "`<at id=all></at> {}`",
    "@_all {}",
    "a < {}&lt;",
    '"{}"',
    "\\<at>{}",
    "<https://{}.org>",
]
BLOCKS = [
    "words",
    "heading",
    "quote",
    "list",
    "steps",
    "code",
    "inner code",
    "table",
    "long",
    "dense",
    "addresses",
    "字",
    "x",
    "---",
    "===",
    "```",
]
BLOCKS += ["    code <b>", "- ", "1.", "| h1 |", "|---|", ""]
blocks = st.tuples(
    st.sampled_from(BLOCKS), st.integers(0, 30), st.sampled_from(MARKS), st.sampled_from(["\n\n", "\n", "\n\n\n"])
)
answers = st.lists(blocks, min_size=1, max_size=12).map(lambda found: Written().answer(found))


class Written:
    """Writes Markdown in which no word stands twice."""

    def __init__(self) -> None:
        self._count = 0

    def answer(self, found: list[tuple[str, int, str, str]]) -> str:
        return "".join(self._block(kind, size, mark) + gap for kind, size, mark, gap in found)

    def _words(self, count: int) -> str:
        self._count += count
        return " ".join(f"w{number}" for number in range(self._count - count, self._count))

    def _block(self, kind: str, size: int, mark: str) -> str:
        def said() -> str:
            return mark.format(self._words(1 + size % 7))

        match kind:
            case "words" | "heading" | "quote":
                return {"words": "", "heading": "## ", "quote": "> "}[kind] + said()
            case "list":
                return "\n".join(f"- {said()}" for _ in range(size))
            case "steps":
                return "\n".join(f"{'  ' * (number % 12)}1. {said()}" for number in range(size))
            case "code":
                return "\n".join(["```py", *(self._words(3) for _ in range(size)), "```"])
            case "inner code":
                return "\n".join(["- a", "  ~~~", *(f"  {self._words(3)}" for _ in range(size)), "  ~~~", "  rest"])
            case "table":
                return "\n".join(["| h1 | h2 |", "|---|---|", *(f"| {said()} | |" for _ in range(size))])
            case "dense":
                return "".join(f'<{self._words(1)}""""\\n ' for _ in range(10 * size))
            case "addresses":
                return " ".join(f"<https://{self._words(1)}.example/{'a' * 40}>" for _ in range(size))
            case "long":
                return self._words(40 * size)
            case "字" | "x":
                return kind * 100 * size
        return kind


def shown(answer: str, style: Style = SMALL, *, live: bool = False) -> list[Card]:
    ended = [] if live else end("done", model="m")
    return cards(desired(text("t", answer, closed=not live), ended), style, {})


def body(card: Card) -> list[dict[str, Any]]:
    return [one for one in card.json["body"]["elements"] if one["element_id"] not in END_IDS]


def tables(card: Card) -> int:
    return sum(token.type == "table_open" for found in contents(card.json) for token in MARKDOWN.parse(found))


def assert_within(card: Card, style: Style) -> None:
    assert json_bytes(card.json) <= style.byte_limit
    assert elements(card.json) <= style.element_limit
    assert tables(card) <= (0 if style.plain else style.table_limit)
    own = [one["element_id"] for one in components(card.json) if "element_id" in one]
    assert len(set(own)) == len(own)
    assert all(ELEMENT_ID.fullmatch(one) for one in own)
    assert all(found.strip() for found in contents(card.json))


@given(answers, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=25)
def test_no_card_exceeds_what_the_platform_takes(answer: str, plain: bool, live: bool) -> None:
    style = msgspec.structs.replace(SMALL, plain=plain)
    for card in shown(answer, style, live=live):
        assert_within(card, style)


@given(answers, st.booleans())
@settings(deadline=None, max_examples=25)
def test_every_word_is_shown_once_and_in_order(answer: str, plain: bool) -> None:
    found = shown(answer, msgspec.structs.replace(SMALL, plain=plain))
    told = "\n".join(one for card in found for one in contents(card.json) if "<font" not in one)
    assert words(told) == words(answer)
    assert told.count("字") == answer.count("字")
    assert told.count("x") >= answer.count("x" * 100)


def words(told: str) -> list[str]:
    """The words, addresses that stand twice counted once."""
    return re.findall(r"w\d+", re.sub(r"\[(https?://[^\]]*)\]\(\1\)", r"<\1>", told))


def sealed(found: list[Card], count: int) -> list[list[dict[str, Any]]]:
    return [body(card) for card in found[:count]]


@given(answers, st.data())
@settings(deadline=None, max_examples=50)
def test_while_the_answer_grows_only_the_last_card_changes(answer: str, data: st.DataObject) -> None:
    sizes = sorted(data.draw(st.lists(st.integers(1, len(answer)), min_size=1, max_size=12)))
    steps = [shown(answer[:size], live=True) for size in [*sizes, len(answer)]] + [shown(answer)]
    for before, after in pairwise(steps):
        assert sealed(after, len(before) - 1) == sealed(before, len(before) - 1)


def test_a_line_that_outgrows_its_card_stays_where_it_begins() -> None:
    answer = f"{'字' * 300}\n\n{'长' * 700}。{'长' * 900}"
    steps = [shown(answer[:size], live=True) for size in range(250, len(answer), 50)] + [shown(answer)]
    for before, after in pairwise(steps):
        assert sealed(after, len(before) - 1) == sealed(before, len(before) - 1)
    assert len(steps[-1]) == 3


def test_a_line_that_becomes_the_head_of_a_table_does_not_go_back_to_the_card_before() -> None:
    for size in range(3_320, 3_440):
        answer = f"{'x' * size}\n\n- item\n{' ' * 12}a | b\n-|-\n"
        before, after = shown(answer[:-4], live=True), shown(answer, live=True)
        assert sealed(after, len(before) - 1) == sealed(before, len(before) - 1)


@example("\n".join(f"{'  ' * depth}- w{depth}" for depth in range(40)), 3)
@given(answers, st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_a_page_takes_no_more_than_its_room(answer: str, table_limit: int) -> None:
    room = Room(bytes=2_500, elements=5, tables=table_limit)
    for page in pages([Flow("t", lines(answer)[0])], room, Inline({}, base_url="", word="image")):
        assert json_bytes(page) <= room.bytes + 2


def test_so_many_elements_stand_on_a_card_and_no_more() -> None:
    records = [text(f"t{number}", f"w{number}") for number in range(200)]
    found = cards(desired(*records, end("done")), Style(element_limit=100), {})
    assert [len(body(card)) for card in found] == [90, 90, 20]
    assert words("\n".join(one for card in found for one in contents(card.json))) == [f"w{n}" for n in range(200)]


@given(answers)
@settings(deadline=None, max_examples=20)
def test_nothing_mentions_anybody_and_nothing_is_a_tag(answer: str) -> None:
    told = "".join(found for card in shown(answer) for found in contents(card.json))
    told += "".join(texts(desired(text("t", answer), end("done")), SMALL))
    assert not re.search(r"<(?=/?at\b)|@_all", told)
    for card in shown(answer):
        for found in contents(card.json):
            html = {
                token.content
                for block in MARKDOWN.parse(found)
                for token in block.children or ()
                if token.type == "html_inline"
            }
            assert html <= {"<font color='grey'>", "</font>"}


@given(st.lists(st.sampled_from(["text", "thought", "done", "failed", "open"]), min_size=1, max_size=60), st.booleans())
@settings(deadline=None, max_examples=15)
def test_many_steps_stay_within_the_limits(steps: list[str], live: bool) -> None:
    records = []
    for number, step in enumerate(steps):
        own = f"p{number}"
        if step in ("text", "thought"):
            records.append(text(own, f"s{number} | a <b> " * 60) if step == "text" else thought(own, "| 字 <b> " * 900))
        else:
            gave = {"r": ["<x>" * 900] * 9} if step == "done" else None
            failed = "no *luck* " * 90 if step == "failed" else None
            records.append(call(own, "tool_" * 30, {"q": "`*" * 400}, gave=gave, failed=failed))
    turn = desired(*records, [] if live else end("failed", "~" * 5000, model="|" * 300), seconds=75)
    found = cards(turn, SMALL, {})
    for card in found:
        assert_within(card, SMALL)
        assert all(json_bytes(one) < 1_800 for one in body(card) if one["element_id"].startswith("think_"))
    assert json_bytes([one for one in found[-1].json["body"]["elements"] if one["element_id"] in END_IDS]) <= END_BYTES
    told = "\n".join(one["content"] for card in found for one in body(card) if one["element_id"].startswith("text_"))
    spoken = [number for number, step in enumerate(steps) if step == "text"]
    assert list(dict.fromkeys(re.findall(r"s(\d+) ", told))) == [str(number) for number in spoken]


@given(answers)
@settings(deadline=None, max_examples=15)
def test_texts_and_files_hold_the_whole_answer(answer: str) -> None:
    turn = desired(text("t", answer), end("failed", "no more credit"))
    content, name, notice = document(turn, SMALL)
    for told in ("\n".join(texts(turn, SMALL)), content.decode()):
        assert words(told) == words(answer)
        assert "This answer failed. no more credit" in told
    assert name in notice
