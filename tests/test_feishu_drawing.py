"""Cards that are drawn again and again while a turn goes on: cheaply, and as if for the first time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwire import chunks as c
from turnwire.channels.feishu import markdown
from turnwire.channels.feishu.cards import Drawing, pages_of
from turnwire.channels.feishu.images import Images
from turnwire.channels.feishu.markdown import Line, lines
from turnwire.channels.feishu.render import Card, Style, cards
from turnwire.delivery.surface import Desired, FileOutcome, Page, Verdict
from turnwire.testing import FakeClock
from turnwire.view import fold

from .feishu_render_turns import STARTED, call, desired, end, text
from .test_feishu_render_properties import answers

STYLE = Style()
FILE = FileOutcome("f1", "a.txt", "text/plain", 3)


def read_for_the_first_time(said: str) -> tuple[Sequence[Line], bool]:
    """What lines a text has that goes on, whatever was read before."""
    kept = dict(markdown._TRAIL)
    markdown._TRAIL.clear()
    try:
        return lines(said, going_on=True)
    finally:
        markdown._TRAIL.clear()
        markdown._TRAIL.update(kept)


@given(answers, st.sampled_from(["\n", "\r\n", "\r", "\x07\n"]), st.data())
@settings(deadline=None, max_examples=40)
def test_a_text_that_grows_is_read_as_if_for_the_first_time(answer: str, ending: str, data: st.DataObject) -> None:
    answer = answer.replace("\n", ending)
    other = answer[: len(answer) // 2] + "\n| a | b |\n|---|\n```\nelse\n" + answer[len(answer) // 2 :]
    for _ in range(12):
        size = data.draw(st.integers(1, len(other)))
        said = data.draw(st.sampled_from([answer, other]))[:size]
        assert lines(said, going_on=True) == read_for_the_first_time(said)


def test_each_piece_of_a_text_is_read_as_if_for_the_first_time() -> None:
    said = (
        "Intro\n\n1. first\n   ```py\n   x = 1\n\n   y\n   ```\n   still first\n    deep\n2. second\n\n"
        "a | b\n-|-\n1 | 2\n3 | 4\n\n> quoted\n> ~~~\n> code\nout\n\n- a\n\n"
        "  | h | i |\n  |---|---|\n  | 1 | 2 |\n      more of a\n\nEnd | of\n"
    )
    for size in range(1, len(said)):
        assert lines(said[:size], going_on=True) == read_for_the_first_time(said[:size]), said[:size]


def test_only_what_is_new_of_a_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    reading = markdown._Reader.read

    def noted(self: Any, line: str, following: str | None) -> int:
        read.append(line)
        return reading(self, line, following)

    monkeypatch.setattr(markdown._Reader, "read", noted)
    answer = "".join(f"- item {number} of what was only read here\n" for number in range(300))
    lines(answer[:-200], going_on=True)
    assert len(read) > 290
    for size in range(-199, 0, 20):
        read.clear()
        lines(answer[:size], going_on=True)
        assert 0 < len(read) < 10
    read.clear()
    lines(f"{answer}The end.")
    assert len(read) < 10


def test_so_many_texts_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markdown, "_TRAILS", 5)
    for number in range(40):
        for size in (1, 2, 3):
            lines(f"{number}\n" * 10 * size, going_on=True)
    assert len(markdown._TRAIL) == 5
    assert all(one in f"{number}\n" * 30 for one, number in zip(markdown._TRAIL, range(35, 40), strict=True))


def same(found: list[Page], fresh: list[Page]) -> None:
    assert [(page.digest, page.live, page.content) for page in found] == [
        (page.digest, page.live, page.content) for page in fresh
    ]


CHANGES: list[Callable[[Desired], Desired]] = [
    lambda one: msgspec.structs.replace(one, now=one.now + 7.0),
    lambda one: msgspec.structs.replace(one, now=STARTED),
    lambda one: msgspec.structs.replace(one, ended=not one.ended),
    lambda one: msgspec.structs.replace(one, final=not one.final),
    lambda one: msgspec.structs.replace(one, repeat=not one.repeat),
    lambda one: msgspec.structs.replace(one, started_at=0.0),
    lambda one: msgspec.structs.replace(one, files=[FILE]),
    lambda one: msgspec.structs.replace(one, files=[msgspec.structs.replace(FILE, status="refused", reason="full")]),
    lambda one: msgspec.structs.replace(one, verdicts={"ap": Verdict(True, by="Ann")}),
    lambda one: msgspec.structs.replace(one, turn_id="turn_2"),
    lambda one: msgspec.structs.replace(one, view=desired(text("t", "Another view"), end("done")).view),
]
SAID: list[list[c.AnyChunk]] = [
    text("t", "Hello\n\n| a |\n|---|\n", closed=False),
    [c.TextDelta("t", "| b |\n"), c.TextEnd("t")],
    [*call("1", "pay", {"eur": 5}), c.ToolApprovalRequest("ap", "1")],
    [c.ToolOutputAvailable("1", "paid")],
    end("done", model="m-1"),
]


@given(st.lists(st.sampled_from([*CHANGES, None]), max_size=25))
@settings(deadline=None, max_examples=60)
def test_pages_are_those_that_would_be_drawn_now(steps: list[Callable[[Desired], Desired] | None]) -> None:
    drawing, said = Drawing(STYLE), iter(SAID)
    one = desired(seconds=6.0)
    view = one.view
    for step in steps:
        if step is None:
            # A view grows in its place.
            fold(next(said, []), view)
        one = step(one) if step is not None else msgspec.structs.replace(one, view=view)
        if drawing.pages(one):
            same(drawing.pages(one), pages_of(one, STYLE, {}))


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_pages_are_others_after_each_change(change: Callable[[Desired], Desired], ended: bool) -> None:
    asked = [*call("1", "pay", {"eur": 5}), c.ToolApprovalRequest("ap", "1")]
    one = desired(text("t", "Hello"), asked, end("waiting") if ended else [], seconds=21.0)
    drawing = Drawing(STYLE)
    same(drawing.pages(one), pages_of(one, STYLE, {}))
    same(drawing.pages(change(one)), pages_of(change(one), STYLE, {}))


def test_another_view_of_as_many_records_is_drawn_anew() -> None:
    drawing = Drawing(STYLE)
    for said in ("one", "two"):
        assert said in str(drawing.pages(desired(text("t", said), end("done")))[0].content.json)


def test_pages_are_drawn_once_for_each_state(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Desired] = []

    def noted(one: Desired, *how: Any) -> list[Card]:
        drawn.append(one)
        return cards(one, *how)

    monkeypatch.setattr("turnwire.channels.feishu.cards.cards", noted)
    drawing = Drawing(STYLE)
    one = desired(text("t", "Hello", closed=False), seconds=21.0)
    for passed in (0.0, 0.3, 8.9, 9.1):
        drawing.pages(msgspec.structs.replace(one, now=one.now + passed))
    # What a card tells of the time changes every ten seconds.
    assert len(drawn) == 2
    fold([c.TextDelta("t", " world")], one.view)
    assert "world" in str(drawing.pages(one)[0].content.json)
    assert len(drawn) == 3


def test_a_page_shows_an_image_as_soon_as_it_is_there() -> None:
    images = Images(None, None, "conv", FakeClock())  # type: ignore[arg-type]
    drawing = Drawing(STYLE, images)
    one = desired(text("t", "![a](data:image/png;base64,QUJDREVGR0hJSktMTU5PUA==)"), end("done"))
    assert drawing.pages(one)[0].content.json["body"]["elements"][0]["content"] == "a"
    [name] = images._waiting
    images.keys[name] = "img_1"
    assert drawing.pages(one)[0].content.json["body"]["elements"][0]["content"] == "![a](img_1)"


def test_nothing_is_drawn_before_the_turn_has_begun() -> None:
    drawing = Drawing(STYLE)
    silent = msgspec.structs.replace(desired(seconds=1.0), view=fold([c.Start("m")]))
    assert drawing.pages(silent) == []
    later = msgspec.structs.replace(silent, now=STARTED + 6.0)
    assert len(drawing.pages(later)) == 1
    assert drawing.pages(silent) == []
