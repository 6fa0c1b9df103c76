"""What turns look like on Feishu."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from turnwire import chunks as c
from turnwire.channels.feishu.limits import json_bytes
from turnwire.channels.feishu.render import Card, Style, cards, document, texts, wanted_images
from turnwire.channels.feishu.render_inline import images as embedded
from turnwire.delivery.surface import Desired, FileOutcome, Verdict

from .feishu_render_turns import call, contents, desired, end, text, thought

ZH = Style(language="zh")
SMALL = Style(byte_limit=9_000)
DONE = end(
    "done", model="m-1", usage={"totalTokens": 1234}, startedAt="2026-01-01T10:00:00Z", endedAt="2026-01-01T10:01:05Z"
)
FOOTER = ("footer", "<font color='grey'>m-1 · 1 min 5 s · 1,234 tokens</font>")
STOP = ("stop", "Stop", {"turnwire": "stop", "turn": "turn_1"})


def looks(card: Card) -> list[tuple[Any, ...]]:
    """The elements of a card: texts as id and content, panels as id, title, open and content, buttons as id, word and
    value."""
    return [one for element in card.json["body"]["elements"] for one in _look(element)]


def _look(element: dict[str, Any]) -> list[tuple[Any, ...]]:
    own = element["element_id"]
    if element["tag"] == "markdown":
        return [(own, element["content"])]
    if element["tag"] == "button":
        return [(own, element["text"]["content"], element["behaviors"][0]["value"])]
    if element["tag"] == "column_set":
        return [look for column in element["columns"] for one in column["elements"] for look in _look(one)]
    return [(own, element["header"]["title"]["content"], element["expanded"], element["elements"][0]["content"])]


def one(turn: Desired, style: Style | None = None) -> Card:
    (card,) = cards(turn, style or Style(), {})
    return card


def test_a_live_card_is_this_json() -> None:
    card = one(desired(thought("r", "Hm."), text("t", "Hello", closed=False), seconds=25))
    assert card.json == {
        "schema": "2.0",
        "config": {
            "update_multi": True,
            "streaming_mode": True,
            "summary": {"content": "Writing"},
            "streaming_config": {
                "print_frequency_ms": {"default": 30},
                "print_step": {"default": 2},
                "print_strategy": "fast",
            },
        },
        "body": {
            "elements": [
                {
                    "tag": "collapsible_panel",
                    "element_id": "think_0",
                    "expanded": False,
                    "header": {
                        "title": {"tag": "plain_text", "content": "Thoughts"},
                        "icon": {"tag": "standard_icon", "token": "down-small-ccm_outlined", "size": "16px 16px"},
                        "icon_position": "follow_text",
                        "icon_expanded_angle": -180,
                    },
                    "elements": [
                        {"tag": "markdown", "element_id": "think_0_md", "content": "Hm.", "text_size": "notation"}
                    ],
                },
                {"tag": "markdown", "element_id": "text_0", "content": "Hello", "text_size": "normal"},
                {
                    "tag": "markdown",
                    "element_id": "status",
                    "content": "<font color='grey'>Writing …</font>",
                    "text_size": "notation",
                },
                {
                    "tag": "button",
                    "element_id": "stop",
                    "type": "default",
                    "size": "small",
                    "text": {"tag": "plain_text", "content": "Stop"},
                    "behaviors": [{"type": "callback", "value": {"turnwire": "stop", "turn": "turn_1"}}],
                },
            ]
        },
    }


def test_a_finished_card_does_not_stream_and_tells_its_beginning_in_the_list_of_chats() -> None:
    card = one(desired(text("t", "# The **tide** [here](https://e.org)\n\nIt is `high`, 2 < 3."), DONE))
    assert card.json["config"] == {
        "update_multi": True,
        "streaming_mode": False,
        "summary": {"content": "The tide here It is high , 2 < 3."},
    }
    assert looks(card) == [("text_0", "#### The **tide** [here](https://e.org)\n\nIt is `high`, 2 < 3."), FOOTER]
    assert card.text_id is None
    assert one(desired(text("t", "a " * 200), DONE)).summary == "a " * 39 + "a…"


def test_before_anything_is_said_the_card_thinks_and_tells_how_long() -> None:
    assert looks(one(desired(seconds=9))) == [("status", "<font color='grey'>Thinking …</font>"), STOP]
    assert looks(one(desired(seconds=3725))) == [("status", "<font color='grey'>Thinking · 1 h 2 min …</font>"), STOP]
    assert one(desired(seconds=61)).json == one(desired(seconds=69)).json


def test_reasoning_is_open_while_it_is_all_there_is_and_streams() -> None:
    card = one(desired(thought("r", "Let me *see*", closed=False), seconds=12))
    assert looks(card) == [
        ("think_0", "Thinking", True, "Let me *see*"),
        ("status", "<font color='grey'>Thinking · 10 s …</font>"),
        STOP,
    ]
    assert (card.text_id, card.text) == ("think_0_md", "Let me *see*")
    longer = one(desired(thought("r", "Let me *see* it", closed=False), seconds=12))
    assert card.blank() == longer.blank()
    assert card.json != longer.json


def test_tools_stand_in_one_panel_with_what_they_were_given_and_gave() -> None:
    asked = [*call("5", "send", {"to": "a"}), c.ToolApprovalRequest("ap", "5")]
    turn = desired(
        call("1", "search", {"q": "tide *times*", "n": 3}, gave={"hits": [1, 2]}),
        call("2", "fetch", {"url": "https://e.org"}, failed="no <network>"),
        [*call("3", "wait", {}), c.ToolOutputAvailable("3", "half", preliminary=True)],
        asked,
        [c.ToolInputStart("6", "write"), c.ToolInputDelta("6", '{"te')],
        seconds=87,
    )
    assert looks(one(turn)) == [
        (
            "tools_0",
            "5 tools · running · 1 failed",
            False,
            "✅ **search** q: tide &#42;times&#42;, n: 3\n→ hits: 1, 2\n"
            "❌ **fetch** url: https://e.org\n→ no &#60;network&#62;\n"
            "⏳ **wait**\n→ half\n"
            "✋ **send** to: a\n→ needs your approval\n"
            '⏳ **write** {"te',
        ),
        ("status", "<font color='grey'>Running **write** · 1 min 20 s …</font>"),
        STOP,
    ]


def test_parts_stand_in_the_order_of_the_turn_in_chinese_too() -> None:
    turn = desired(
        thought("r", "先查一下。"),
        call("1", "search", {"q": "潮汐"}, gave="三条"),
        text("a", "我查到了："),
        call("2", "read", {"n": 1}, gave="…"),
        text("b", "今天**高潮**在 10:42。"),
        DONE,
    )
    card = one(turn, ZH)
    assert looks(card) == [
        ("think_0", "思考过程", False, "先查一下。"),
        ("tools_0", "1 个工具", False, "✅ **search** q: 潮汐\n→ 三条"),
        ("text_0", "我查到了："),
        ("tools_1", "1 个工具", False, "✅ **read** n: 1\n→ …"),
        ("text_1", "今天**高潮**在 10:42。"),
        ("footer", "<font color='grey'>m-1 · 1 分 5 秒 · 1,234 tokens</font>"),
    ]
    assert card.summary == "今天 高潮 在 10:42。"
    quiet = msgspec.structs.replace(ZH, show_reasoning=False, show_tools=False, footer=("tokens", "model"))
    assert looks(one(turn, quiet)) == [
        ("text_0", "我查到了："),
        ("text_1", "今天**高潮**在 10:42。"),
        ("footer", "<font color='grey'>1,234 tokens · m-1</font>"),
    ]


def test_only_the_last_text_streams() -> None:
    first = desired(text("a", "One."), call("1", "read", {}), seconds=30)
    assert one(first).text_id is None
    card = one(desired(text("a", "One."), call("1", "read", {}, gave=1), text("b", "Two", closed=False)))
    assert (card.text_id, card.text) == ("text_1", "Two")
    assert card.blank()["body"]["elements"][2]["content"] == ""


MARKDOWN = """\
# Tides

Intro with <b>tags</b>, a <br> break, `a<b>` and 2 < 3
Second line

| Port | High |
|------|-----:|
| A    | `1`  |
after the table

1. first
  - nested
    more of it
   ```py title="x"
   if a < b:
       pass
   ```
   still first
2. second

***
> quoted
```mermaid
graph
```
    not code

    <code>
[a](https://e.org/x_(y)) [b](/files/f_1/a.txt) [c](javascript:x) <https://e.org> ![d](data:image/png;base64,AAAA)
"""

ADAPTED = """\
#### Tides

Intro with &#60;b>tags&#60;/b>, a <br> break, `a<b>` and 2 < 3
Second line

| Port | High |
|------|-----:|
| A    | `1`  |

after the table

1. first
    - nested
      more of it
```python
if a < b:
    pass
```
still first
2. second

---

> quoted
```mermaid
graph
```
not code

    <code>
[a](https://e.org/x_(y)) b (/files/f_1/a.txt) c (javascript:x) [https://e.org](https://e.org) d"""


def test_markdown_becomes_what_cards_render() -> None:
    assert looks(one(desired(text("t", MARKDOWN), DONE))) == [("text_0", ADAPTED), FOOTER]


def test_links_to_our_files_open_where_the_server_has_a_public_address() -> None:
    turn = desired(text("t", "[b](/files/f_1/a.txt) ![](/files/f_2/b.png)"), DONE)
    card = one(turn, Style(base_url="https://gate.example"))
    told = "[b](https://gate.example/files/f_1/a.txt) [image](https://gate.example/files/f_2/b.png)"
    assert contents(card.json)[0] == told


def test_images_are_shown_once_they_are_uploaded() -> None:
    said = "![a tide](https://e.org/t.png) ![](/files/f/x.png) ![](ftp://e.org/x.png)\n```\n![](https://e.org/code.png)\n```"
    turn = desired(text("t", said), DONE)
    assert wanted_images(turn) == ["https://e.org/t.png", "/files/f/x.png"]
    keys = {"https://e.org/t.png": "img_v3_1", "/files/f/x.png": "img_v3_2"}
    (card,) = cards(turn, Style(), keys)
    assert contents(card.json)[0].startswith("![a tide](img_v3_1) ![](img_v3_2) image (ftp://e.org/x.png)\n")
    assert contents(one(turn).json)[0].startswith("[a tide](https://e.org/t.png) image (/files/f/x.png) ")
    (plain,) = cards(turn, Style(plain=True), keys)
    assert contents(plain.json)[0].startswith("[a tide](https://e.org/t.png) ")


INSIDE = f"data:image/png;base64,{'QUJD' * 15_000}"


def named(said: str) -> dict[str, str]:
    """The images of a text: what they are, by what cards know them by."""
    return dict(embedded(said))


def test_images_inside_an_answer_are_shown_once_they_are_uploaded_and_never_as_what_they_are_made_of() -> None:
    said = (
        f"A ![chart]({INSIDE}), ![]( <{INSIDE}x> 'title' ), [file]({INSIDE}) and [![seal]({INSIDE}y)](https://e.org).\n"
        f"`![code]({INSIDE[:40]})`\n```\n![code]({INSIDE[:60]})\n```\n![Broken]({INSIDE} here"
    )
    turn = desired(text("t", said), DONE)
    assert wanted_images(turn) == [INSIDE, f"{INSIDE}x", f"{INSIDE}y"]
    rest = f"\n`![code]({INSIDE[:40]})`\n```\n![code]({INSIDE[:60]})\n```\nBroken here"
    words = "A chart, image, file and [seal](https://e.org)."
    assert looks(one(turn)) == [("text_0", words + rest), FOOTER]
    keys = dict(zip(named(said), ("img_1", "img_2"), strict=False))
    (card,) = cards(turn, Style(), keys)
    shown = "A ![chart](img_1), ![](img_2), file and [seal](https://e.org)."
    assert looks(card) == [("text_0", shown + rest), FOOTER]
    (plain,) = cards(turn, Style(plain=True), keys)
    assert looks(plain)[0] == ("text_0", words + rest)


def test_an_image_that_is_still_being_written_is_what_it_is_called() -> None:
    said = f"Look: ![a chart]({INSIDE}) and more"
    whole = len("Look: ![a chart](data:image/png;base64,")
    for size in (whole, whole + 1, whole + 2_000, whole + 30_000, len(said) - len(") and more")):
        card = one(desired(text("t", said[:size], closed=False)))
        assert (card.text, card.summary) == ("Look: a chart", "Writing")
    assert one(desired(text("t", said, closed=False))).text == "Look: a chart and more"


def test_images_inside_an_answer_are_what_they_are_called_where_there_can_be_none() -> None:
    table = f"| a | b |\n|---|---|\n| ![dot]({INSIDE}) | 1 |"
    assert looks(one(desired(text("t", table), DONE), Style(plain=True)))[0] == (
        "text_0",
        "```\n| a | b |\n|---|---|\n| dot | 1 |\n```",
    )
    head = f"| ![dot]({INSIDE}) | b |\n|---|---|\n| 1 | 2 |"
    assert contents(one(desired(text("t", head), DONE)).json)[0] == "| dot | b |\n|---|---|\n| 1 | 2 |"
    thinks = one(desired(thought("r", f"Hm, ![dot]({INSIDE}) and ![]({INSIDE}"), text("t", "Yes."), DONE))
    assert looks(thinks)[0] == ("think_0", "Thoughts", False, "Hm, dot and image")
    said = f"![dot]({INSIDE})\n~~~\n```\n![code]({INSIDE[:40]})\n~~~\n![]({INSIDE})"
    assert texts(desired(text("t", said), end("done")), ZH) == [
        f"dot\n~~~\n```\n![code]({INSIDE[:40]})\n~~~\n{ZH.words.image}"
    ]


def test_tables_beyond_the_limit_are_shown_as_code() -> None:
    table = "| a | b |\n|---|---|\n| {} | <at> |"
    said = "\n\n".join(table.format(number) for number in range(3))
    shown = contents(one(desired(text("t", said), DONE), Style(table_limit=2)).json)[0]
    assert shown == "\n\n".join(
        [
            "| a | b |\n|---|---|\n| 0 | &#60;at> |",
            "| a | b |\n|---|---|\n| 1 | &#60;at> |",
            "```\n| a | b |\n|---|---|\n| 2 | <\u200bat> |\n```",
        ]
    )


@pytest.mark.parametrize(
    "said",
    [
        f"| {'head ' * 400}| b |\n|---|---|\n| 1 | 2 |",
        f"{'`' * 5000}py\nx\n{'`' * 5000}",
        f"```{'p' * 5000}\nx\n```",
        f"{'>' * 5000}```\nx\n```",
        "\n".join(f"{' ' * (200 * depth)}- {depth}" for depth in range(12)),
        f"- x\n{' ' * 9000}y",
    ],
    ids=["table", "fence", "info", "quotes", "list", "blanks"],
)
def test_what_no_card_has_room_for_is_shown_all_the_same(said: str) -> None:
    found = cards(desired(text("t", said), DONE), SMALL, {})
    told = "".join(contents(card.json)[0] for card in found)
    assert all(json_bytes(card.json) <= SMALL.byte_limit for card in found)
    assert re.findall(r"\bhead|\b[xy1]\b", told) == re.findall(r"\bhead|\b[xy1]\b", said)


def test_nobody_is_mentioned_by_what_an_agent_says() -> None:
    said = '<at id=all></at> `<at id=all>` \\<at email=a@e.org> @_all\n```\n<AT user_id="all"> @_user_1\n```'
    turn = desired(text("t", said), [c.SourceUrl("s", "https://e.org", "<at id=all>")], DONE)
    told = "\n".join([*contents(one(turn).json), *texts(turn, Style()), one(turn).summary])
    assert "<at" not in told.lower()
    assert "@_all" not in told
    assert "@_user" not in told


def test_a_line_of_which_nobody_can_tell_what_it_is_waits_for_more() -> None:
    for unsettled in ("-", "1.", "#", "``", "```py", "| 1 |", "---", ">", "> - "):
        assert contents(one(desired(text("t", f"Para\n{unsettled}", closed=False))).json)[0] == "Para"
        assert unsettled.strip("`# ") in contents(one(desired(text("t", f"Para\n{unsettled}"), DONE)).json)[0]
    assert contents(one(desired(text("t", "Para\n- x", closed=False))).json)[0] == "Para\n- x"


def test_code_stays_open_while_it_is_written_so_that_its_text_only_grows() -> None:
    said = "Look:\n```py\na = 1\nb"
    live = one(desired(text("t", said, closed=False)))
    assert live.text == "Look:\n```python\na = 1\nb"
    assert contents(one(desired(text("t", said), DONE)).json)[0] == "Look:\n```python\na = 1\nb\n```"


def test_a_long_answer_goes_on_on_further_cards_at_its_lines() -> None:
    rows = "\n".join(f"| {number} | {'x' * 90} |" for number in range(40))
    code = "\n".join(f"print({number})  # {'y' * 80}" for number in range(40))
    said = f"Intro\n\n| n | x |\n|---|---|\n{rows}\n\n```py\n{code}\n```\n\nThe end"
    found = cards(desired(text("t", said), DONE), SMALL, {})
    shown = [contents(card.json)[0] for card in found]
    assert len(shown) == 3
    assert shown[0].startswith("Intro\n\n| n | x |\n|---|---|\n| 0 |")
    assert shown[1].startswith("| n | x |\n|---|---|\n| ")
    assert "\n\n```python\nprint(0)" in shown[1]
    assert shown[1].endswith("\n```")
    assert shown[2].startswith("```python\nprint(")
    assert shown[2].endswith("\n```\n\nThe end")
    assert [int(found) for found in re.findall(r"print\((\d+)", "".join(shown))] == list(range(40))
    numbers = [
        line.split("|")[1].strip()
        for one in shown
        for line in one.split("\n")
        if line.endswith("x |") and "| n" not in line
    ]
    assert numbers == [str(number) for number in range(40)]
    assert [card.json["config"]["streaming_mode"] for card in found] == [False] * 3
    assert [looks(card)[-1] == FOOTER for card in found] == [False, False, True]
    assert all(json_bytes(card.json) <= 9_000 for card in found)


def test_a_list_that_goes_on_on_a_further_card_begins_at_the_margin() -> None:
    said = "- top\n" + "\n".join(f"    - {number} {'x' * 100}" for number in range(60)) + "\n- last"
    shown = [contents(card.json)[0] for card in cards(desired(text("t", said), DONE), SMALL, {})]
    assert shown[0].startswith("- top\n    - 0 ")
    assert shown[1].startswith("- ")
    assert "\n- " in shown[1]
    assert shown[-1].endswith("\n- last")


def test_only_the_last_card_of_a_live_answer_streams_and_can_be_stopped() -> None:
    found = cards(desired(text("t", "\n\n".join(["word " * 100] * 12), closed=False)), SMALL, {})
    assert [card.json["config"]["streaming_mode"] for card in found] == [False, True]
    assert [card.text_id for card in found] == [None, "text_0"]
    assert [len(looks(card)) for card in found] == [1, 3]
    assert found[0].summary.startswith("word word")


def test_a_line_larger_than_a_card_is_cut_between_words() -> None:
    words = [f"w{number}" for number in range(2000)]
    found = cards(desired(text("t", " ".join(words)), DONE), SMALL, {})
    assert len(found) > 2
    assert " ".join(contents(card.json)[0] for card in found).split() == words


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        ("failed", "<font color='red'>**This answer failed.**</font> no credit &#60;left&#62;"),
        ("interrupted", "<font color='orange'>**This answer was interrupted.**</font> no credit &#60;left&#62;"),
        ("stopped", "<font color='orange'>**This answer was stopped.**</font> no credit &#60;left&#62;"),
    ],
)
def test_an_end_that_is_not_the_answers_is_told_with_its_reason(outcome: str, told: str) -> None:
    turn = desired(text("t", "Half an"), end(outcome, "no credit <left>"))
    assert looks(one(turn)) == [("text_0", "Half an"), ("outcome", told)]
    empty = desired(end(outcome, "no credit <left>"))
    assert looks(one(empty)) == [("outcome", told)]
    assert one(empty).summary.endswith("no credit <left>")


def test_an_end_without_a_word_says_so() -> None:
    assert looks(one(desired(DONE), ZH))[0] == ("outcome", "这次回答没有文字内容。")


ASKS = [*call("1", "send_mail", {"to": "a@e.org", "text": "```"}), c.ToolApprovalRequest("ap_1", "1")]


def test_an_approval_is_asked_for_with_buttons_once_the_turn_has_its_end() -> None:
    assert [look[0] for look in looks(one(desired(ASKS)))] == ["tools_0", "status", "stop"]
    assert looks(one(desired(text("t", "May I?"), ASKS, end("waiting"))))[1:] == [
        ("tools_1", "1 tool", False, "✋ **send&#95;mail** to: a@e.org, text: &#96;&#96;&#96;\n→ needs your approval"),
        (
            "ask_0",
            '✋ **May this tool run?** send&#95;mail\n````json\n{\n  "to": "a@e.org",\n  "text": "```"\n}\n````',
        ),
        ("yes_0", "Allow", {"turnwire": "approve", "approval": "ap_1"}),
        ("no_0", "Deny", {"turnwire": "deny", "approval": "ap_1"}),
        ("outcome", "Waiting for your approval."),
    ]


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        (Verdict(True, "Ann"), "✅ **Allowed by Ann** · send&#95;mail"),
        (Verdict(False, "Ann", "not *now*"), "🚫 **Denied by Ann**: not &#42;now&#42; · send&#95;mail"),
        (Verdict(False, "", "expired"), "🚫 **Denied**: nobody answered in time · send&#95;mail"),
        (Verdict(False, "", "superseded"), "🚫 **Denied**: a newer message came first · send&#95;mail"),
    ],
)
def test_an_answered_approval_says_who_answered_and_has_no_buttons(verdict: Verdict, told: str) -> None:
    turn = desired(ASKS, end("waiting"), verdicts={"ap_1": verdict})
    assert looks(one(turn))[1:] == [("ask_0", told)]


def test_a_turn_that_goes_on_shows_the_call_it_goes_on_with_and_nothing_older() -> None:
    asked = desired(text("t", "May I?"), ASKS, end("waiting"))
    going_on = asked.view.go_on()
    turn = desired(
        [c.ToolApprovalResponse("ap_1", True), c.ToolOutputAvailable("1", "sent")],
        text("t2", "Sent."),
        DONE,
        view=going_on,
    )
    assert looks(one(turn)) == [
        ("tools_0", "1 tool", False, "✅ **send&#95;mail** to: a@e.org, text: &#96;&#96;&#96;\n→ sent"),
        ("text_0", "Sent."),
        FOOTER,
    ]


FILES = [
    FileOutcome("f1", "ok.pdf", "application/pdf", 3, "confirmed"),
    FileOutcome("f2", "big_one.zip", "application/zip", 9, "refused", "files may have 30 MB at most"),
    FileOutcome("f3", "x.png", "image/png", 9, "parked", "It is not known whether it arrived."),
]


def test_files_that_did_not_arrive_and_sources_stand_below_the_answer() -> None:
    sources = [
        c.SourceUrl("s1", "https://e.org/a(1)", "A [b]"),
        c.SourceUrl("s2", "https://e.org"),
        c.SourceUrl("s1", "https://e.org"),
    ]
    turn = desired(sources, text("t", "See."), DONE, files=FILES)
    assert looks(one(turn)) == [
        ("text_0", "See."),
        (
            "files",
            "- ⚠️ big&#95;one.zip could not be sent: files may have 30 MB at most\n"
            "- ⚠️ x.png may not have arrived: It is not known whether it arrived.",
        ),
        ("sources", "**Sources**\n1. [A &#91;b&#93;](https://e.org/a%281%29)\n2. [https://e.org](https://e.org)"),
        FOOTER,
    ]


def test_an_answer_whose_files_are_still_sent_is_not_settled() -> None:
    card = one(desired(text("t", "See."), DONE, final=False))
    assert looks(card) == [("text_0", "See."), ("status", "<font color='grey'>Sending files …</font>"), FOOTER]
    assert (card.json["config"]["streaming_mode"], card.summary, card.text_id) == (True, "Sending files", None)


def test_a_copy_says_that_it_may_be_a_repeat() -> None:
    turn = desired(text("t", "Hi."), DONE, repeat=True)
    told = "⚠️ This may be a repeat: it is not known whether an earlier copy arrived."
    assert looks(one(turn))[0] == ("repeat", told)
    assert texts(turn, Style()) == [f"{told}\n\nHi."]


def test_the_plain_card_has_no_panels_no_tables_and_no_colours() -> None:
    turn = desired(thought("r", "Hm."), call("1", "search", {}), text("t", "| a |\n|---|\n| 1 |"), DONE)
    assert looks(one(turn, Style(plain=True))) == [
        ("text_0", "```\n| a |\n|---|\n| 1 |\n```"),
        ("footer", "m-1 · 1 min 5 s · 1,234 tokens"),
    ]


def test_text_messages_and_the_file_say_what_the_cards_do() -> None:
    sources = [c.SourceUrl("s", "https://e.org/a", "A")]
    turn = desired(
        text("a", "One <at>\r\n\x07"), ASKS, sources, text("b", "**Two**"), end("failed", "no credit"), files=FILES[1:2]
    )
    told = (
        "One <{gap}at>\n\n**Two**\n\n"
        "✋ May this tool run? send_mail to: a@e.org, text: ```\n\n"
        "⚠️ big_one.zip could not be sent: files may have 30 MB at most\n\nSources:\n- A: https://e.org/a\n\n"
        "This answer failed. no credit"
    )
    assert texts(turn, Style()) == [told.format(gap="\u200b")]
    content, name, notice = document(turn, ZH)
    assert name == "回答.md"
    assert notice == "这里无法显示这次回答，内容见文件 回答.md。"
    assert "One <at>\n\n**Two**" in content.decode()
    long = texts(desired(text("t", "\n".join(["字" * 1000] * 120)), DONE), Style())
    assert [json_bytes(one) <= 150_000 for one in long] == [True] * 3
    assert "\n".join(long) == "\n".join(["字" * 1000] * 120)


def test_limits_that_no_card_could_keep_are_refused() -> None:
    for wrong in ({"byte_limit": 5_000}, {"byte_limit": 31_000}, {"element_limit": 10}, {"element_limit": 201}):
        with pytest.raises(ValueError, match=r"_limit is \d+: give "):
            msgspec.convert(wrong, Style)
