"""Pieces of Markdown that each can be read by themselves."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.channels.wecom.cut import cut, inside, resting_place, shown

CODE = "Before.\n\n```python\n" + "\n".join(f"line_{n} = {n}" for n in range(40)) + "\n```\n\nAfter."
TABLE = "| a | b |\n| - | - |\n" + "\n".join(f"| {n} | value |" for n in range(40)) + "\n\nAfter."


def pieces(text: str, room: int) -> list[str]:
    """What is shown of a text in pieces of so many bytes."""
    out, start = [], 0
    while start < len(text):
        end = cut(text, start, room)
        assert end > start
        out.append(shown(text, start, end))
        start = end
    return out


def test_a_text_that_fits_is_one_piece() -> None:
    assert pieces("Hello.\n\nYou.", 100) == ["Hello.\n\nYou."]


def test_a_text_is_cut_between_blocks() -> None:
    assert pieces("One. " * 8 + "\n\n" + "Two. " * 8, 60) == ["One. " * 8, "Two. " * 8]


def test_a_block_is_cut_between_lines_then_sentences_then_words() -> None:
    assert pieces("\n".join(["a line of it"] * 6), 50) == ["\n".join(["a line of it"] * 3)] * 2
    assert pieces("甲乙丙丁。戊己庚辛。壬癸。", 36) == ["甲乙丙丁。戊己庚辛。", "壬癸。"]
    assert all(piece.endswith(" ") for piece in pieces("word " * 30, 60)[:-1])


def test_a_code_block_is_closed_and_opened_again() -> None:
    found = pieces(CODE, 200)
    assert len(found) > 2
    for piece in found:
        assert len(re.findall(r"^```", piece, re.MULTILINE)) % 2 == 0
    assert found[1].startswith("```python\n")
    lines = [line for piece in found for line in piece.split("\n") if line.startswith("line_")]
    assert lines == [f"line_{n} = {n}" for n in range(40)]


def test_a_line_of_code_that_fits_nowhere_stays_code() -> None:
    for piece in pieces("```\n" + "x" * 500 + "\n```", 120):
        assert piece.startswith("```")
        assert piece.endswith("```")


def test_a_table_has_its_head_on_each_piece() -> None:
    found = pieces(TABLE, 200)
    assert len(found) > 2
    for piece in found[:-1]:
        assert piece.startswith("| a | b |\n| - | - |\n| ")
    rows = [line for piece in found for line in piece.split("\n") if line.endswith("| value |")]
    assert rows == [f"| {n} | value |" for n in range(40)]


def test_what_stands_inside_a_fence_of_another_kind_does_not_close_it() -> None:
    text = "~~~~\n```\n~~~\n"
    assert inside(text, len(text)).opening == "~~~~\n"
    assert inside(text + "~~~~~\n", len(text) + 6).opening == ""


@pytest.mark.parametrize("emoji", ["👩‍👩‍👧‍👦", "👍🏽", "❤️", "3️⃣"])
def test_emoji_of_several_characters_stay_whole(emoji: str) -> None:
    text = emoji * 20
    for piece in pieces(text, 64):
        assert len(piece) % len(emoji) == 0


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("First block.\n\nSecond bl", "Second bl"),
        ("First sentence. And then some", " And then some"),
        ("No place to rest", ""),
        ("", ""),
    ],
)
def test_what_was_said_so_far_is_left_at_a_good_place(text: str, rest: str) -> None:
    assert text[resting_place(text, 0) :] == rest


markdown = st.lists(
    st.sampled_from(
        [
            "word ",
            "很长的句子。",
            "\n",
            "\n\n",
            "```\n",
            "~~~py\n",
            "| a | b |\n",
            "|-|-|\n",
            "🙂",
            "👩‍💻",
            "x" * 50,
            "# h\n",
        ]
    ),
    max_size=80,
).map("".join)


@given(markdown, st.integers(60, 400))
def test_the_pieces_are_the_text_and_fit(text: str, room: int) -> None:
    places, start = [0], 0
    while start < len(text):
        start = cut(text, start, room)
        places.append(start)
    assert "".join(text[a:b] for a, b in pairwise(places)) == text
    for a, b in pairwise(places):
        assert b > a
        assert len(shown(text, a, b).encode()) <= room
