"""How messages look in a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text as RichText

from turnwire.terminal_view import Tail, blocks, end_line, message_text, plain, printable, tail

URL = "http://server"


def printed(*renderables: Any, width: int = 80, height: int = 24) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    for renderable in renderables:
        console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().split("\n"))


def message(*parts: dict[str, Any], **own: Any) -> dict[str, Any]:
    return {"id": "m", "role": "assistant", "parts": list(parts), "metadata": {"turnwire": own}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "state": "done"}


def pay(eur: int, state: str, **answer: Any) -> dict[str, Any]:
    approval = {"id": "m.1", **answer}
    return {"type": "tool-pay", "toolCallId": f"p{eur}", "state": state, "input": {"eur": eur}, "approval": approval}


def test_every_part_of_a_message_is_shown() -> None:
    shown = printed(
        *blocks(
            message(
                {"type": "step-start"},
                {"type": "reasoning", "text": "Hmm, let me see.", "state": "done"},
                {
                    "type": "tool-search",
                    "toolCallId": "a",
                    "state": "output-available",
                    "input": {"q": "ü"},
                    "output": 3,
                },
                {
                    "type": "dynamic-tool",
                    "toolName": "send",
                    "toolCallId": "b",
                    "state": "output-error",
                    "input": {},
                    "errorText": "no network",
                },
                {"type": "tool-wait", "toolCallId": "c", "state": "input-available", "input": {"s": 5}},
                {"type": "tool-write", "toolCallId": "d", "state": "input-streaming", "rawInput": '{"te'},
                pay(5, "approval-requested"),
                pay(6, "approval-responded", approved=True),
                pay(7, "approval-responded", approved=False, reason="too dear"),
                pay(8, "output-denied", approved=False),
                text_part("# Title\n\nSome *text* [with](http://x/y) it."),
                {"type": "file", "url": "/files/f_1/a%20note.txt", "mediaType": "text/plain"},
                {"type": "source-url", "sourceId": "s", "url": "http://source/1", "title": "A source"},
                {"type": "data-own", "data": 1},
            ),
            URL,
        )
    )
    for said in (
        "Hmm, let me see.",
        'tool search {"q": "ü"}\n  → 3',
        "tool send {}\n  failed: no network",
        'tool wait {"s": 5} running…',
        'tool write {"te writing its arguments…',
        'tool pay {"eur": 5} needs approval',
        'tool pay {"eur": 6} allowed',
        'tool pay {"eur": 7}\n  denied: too dear',
        'tool pay {"eur": 8}\n  denied',
        "Title",
        "Some text with (http://x/y) it.",
        "file a note.txt  http://server/files/f_1/a%20note.txt",
        "source A source  http://source/1",
    ):
        assert said in shown
    assert "data-own" not in shown


def test_nothing_in_a_message_steers_the_terminal() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31mred\x08\x00 [bold]kept[/bold]"
    assert printable(evil) == "]0;title[2J31mred [bold]kept[/bold]"
    assert printable("a\r\nb\rc\td\n") == "a\nb\nc\td\n"
    parts = [
        {"type": "reasoning", "text": evil},
        {"type": "tool-x", "toolCallId": "a", "state": "output-error", "input": evil, "errorText": evil},
        {"type": "file", "url": f"http://x/{evil}", "filename": evil},
        {"type": "source-url", "url": evil, "title": evil},
        text_part(evil),
    ]
    own = message(*parts, outcome="failed", reason=evil, model=evil)
    everything = printed(*blocks(own, URL), end_line(own)) + plain(own, URL) + message_text(own)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", everything)
    assert "[bold]kept[/bold]" in everything


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            {
                "outcome": "done",
                "startedAt": "2026-01-01T00:00:00.000Z",
                "endedAt": "2026-01-01T00:00:01.250Z",
                "usage": {"inputTokens": 5, "outputTokens": 7, "totalTokens": 12},
                "model": "m1",
            },
            "done · 1.2 s · 5 tokens in, 7 tokens out · m1",
        ),
        ({"outcome": "failed", "reason": "No key."}, "failed: No key."),
        ({"outcome": "interrupted", "reason": "The process ended."}, "interrupted: The process ended."),
        ({"outcome": "stopped", "usage": {}}, "stopped"),
        ({"outcome": "done", "startedAt": "soon", "endedAt": 3}, "done"),
        ({}, "unfinished"),
    ],
)
def test_the_end_line_is_honest(own: dict[str, Any], said: str) -> None:
    assert end_line(message(**own)).plain == said


def test_an_end_that_is_not_done_stands_out() -> None:
    styles = {outcome: end_line(message(outcome=outcome)).style for outcome in ("done", "stopped", "failed", "new")}
    assert styles == {"done": "dim", "stopped": "yellow", "failed": "bold red", "new": "bold red"}


def test_plain_text_has_what_was_said_and_the_files() -> None:
    own = message(
        {"type": "reasoning", "text": "secret thoughts"},
        text_part("One."),
        {"type": "tool-x", "toolCallId": "a", "state": "output-available", "input": {}, "output": 1},
        text_part("  "),
        text_part("Two."),
        {"type": "file", "url": "/files/f/x.txt"},
        {"type": "file", "url": "https://h/y.txt", "filename": "why"},
    )
    assert plain(own, URL) == "One.\n\nTwo.\n\nx.txt http://server/files/f/x.txt\nwhy https://h/y.txt"
    assert plain(message(), URL) == ""


@pytest.mark.parametrize(
    ("text", "size", "kept"),
    [
        ("short", 100, "short"),
        ("first\n\nsecond\n\nthird", 10, "third"),
        ("first\nsecond\nthird", 8, "third"),
        ("x" * 50, 10, "x" * 10),
        ("```python\na\n\nb\n\nc = 1", 6, "```python\nc = 1"),
        ("```\na\n```\n\nb\n\nlast one", 9, "last one"),
        ("~~~~ js\na\n```\nb\n~~~\n\nc", 2, "~~~~ js\nc"),
    ],
)
def test_the_tail_of_a_text_begins_at_a_paragraph_and_keeps_its_code_block(text: str, size: int, kept: str) -> None:
    assert tail(text, size) == kept


@pytest.mark.parametrize("height", [4, 10, 24])
def test_what_is_shown_live_always_fits(height: int) -> None:
    long = message(
        {"type": "reasoning", "text": "thought " * 200},
        text_part("\n".join(f"- point {number}" for number in range(500)) + "\n\n```\ncode\n"),
    )
    shown = printed(Tail(long, URL, RichText("status")), height=height).rstrip("\n").split("\n")
    assert len(shown) <= height - 1
    assert shown[-1] == "status"
    short = printed(Tail(message(text_part("Hi.")), URL, RichText("status")), height=height)
    assert short.strip().split("\n") == ["Hi.", "status"]
