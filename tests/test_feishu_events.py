"""What the platform tells us, read without I/O."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwire.channels.feishu.events import (
    Clicked,
    Mention,
    Recalled,
    Received,
    chat_of,
    read_content,
    read_event,
    without_bot,
)

KINDS = ("text", "post", "image", "file", "audio", "media", "sticker", "merge_forward", "interactive", "folder", "")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8) | st.sampled_from(["content", "tag", "text", "title", "elements"]), inner,
                      max_size=4),
    max_leaves=12,
)  # fmt: skip


def holding(**fields: Any) -> st.SearchStrategy[Any]:
    """Objects in which some fields are as they should be, some are not, and some are missing."""
    return JSON | st.fixed_dictionaries({}, optional={name: value | JSON for name, value in fields.items()})


CONTENTS = JSON.map(lambda value: json.dumps(value)) | st.text(max_size=20)
IDS = holding(open_id=st.text(max_size=5))
MENTIONS = st.lists(holding(key=st.text(max_size=5), id=IDS, name=st.text(max_size=5)), max_size=3)
MESSAGES = holding(
    message_id=st.text(min_size=1, max_size=5), chat_id=st.text(min_size=1, max_size=5), mentions=MENTIONS,
    chat_type=st.sampled_from(["p2p", "group"]), message_type=st.sampled_from(KINDS), content=CONTENTS,
    create_time=st.text(max_size=5), thread_id=st.text(max_size=5),
)  # fmt: skip
ABOUT = holding(
    message=MESSAGES, sender=holding(sender_id=IDS, sender_type=st.sampled_from(["user", "app"])), operator=IDS,
    context=holding(open_chat_id=st.text(max_size=5)), action=holding(value=JSON), message_id=st.text(max_size=5),
)  # fmt: skip
TYPES = st.sampled_from(["im.message.receive_v1", "im.message.recalled_v1", "card.action.trigger", "other"])
EVENTS = st.fixed_dictionaries({}, optional={"header": holding(event_type=TYPES), "event": ABOUT})


@settings(max_examples=50)
@given(EVENTS)
def test_no_event_makes_reading_fail(event: Any) -> None:
    kind, said = read_event(event)
    assert isinstance(kind, str)
    if isinstance(said, Received):
        assert said.id
        assert said.chat
        # What goes into the store is text that can be stored.
        msgspec.json.encode(said)
        assert "\x00" not in said.text


@given(st.sampled_from(KINDS), CONTENTS, st.text(max_size=8))
def test_no_content_makes_reading_fail(kind: str, content: str, message: str) -> None:
    text, parts = read_content(message, kind, content, [Mention("@_user_1", "ou_1", "Tom", False)])
    msgspec.json.encode([text, parts])
    assert all(part["type"] == "file" and part["url"] for part in parts)


def test_content_that_is_nested_without_end_is_no_error() -> None:
    assert read_content("om_1", "post", '{"content":' + "[" * 100_000) == ("", [])


def received(text: str, **more: Any) -> Received:
    message = {"message_id": "om_1", "chat_id": "oc_1", "chat_type": "p2p", "message_type": "text",
               "content": json.dumps({"text": text}), "create_time": "1609073151345", **more}  # fmt: skip
    sender = {"sender_id": {"open_id": "ou_1"}, "sender_type": "user"}
    event = {"header": {"event_type": "im.message.receive_v1"}, "event": {"sender": sender, "message": message}}
    _, said = read_event(event)
    assert isinstance(said, Received)
    return said


def mention(number: int, name: str, kind: str = "user") -> dict[str, Any]:
    return {"key": f"@_user_{number}", "id": {"open_id": f"ou_{number}"}, "name": name, "mentioned_type": kind}


def test_people_are_called_by_their_names() -> None:
    people = [mention(1, "Ann"), mention(10, "Bob"), mention(2, "Tom")]
    said = received("@_user_10 and @_user_1, @_user_2 @_all", mentions=people)
    assert said.text == "@Bob and @Ann, @Tom @all"
    assert said.created_at == 1609073151.345


def test_the_bot_is_not_called_by_who_talks_to_it() -> None:
    said = received("@_user_1  what does @_user_2 mean? @_user_1", mentions=[mention(1, "Bot", "bot"), mention(2, "T")])
    assert without_bot(said.text, said.mentions, "ou_1") == "what does @T mean? @Bot"
    alone = received("@_user_1", mentions=[mention(1, "Bot", "bot")])
    assert without_bot(alone.text, alone.mentions, "ou_1") == ""
    assert without_bot("ask Bot", [], "ou_1") == "ask Bot"


def test_rich_text_is_markdown() -> None:
    rows = [
        [{"tag": "text", "text": "See "}, {"tag": "a", "text": "this", "href": "https://x.example"}],
        [{"tag": "at", "user_id": "@_user_1", "user_name": "Tom"}, {"tag": "img", "image_key": "img_1"}],
        [{"tag": "code_block", "language": "PYTHON", "text": "print(1)"}],
    ]
    text, parts = read_content("om_1", "post", json.dumps({"title": "Plan", "content": rows}))
    assert text == "**Plan**\nSee [this](https://x.example)\n@Tom\n\n```python\nprint(1)\n```"
    assert [part["url"] for part in parts] == ["feishu-resource:om_1/img_1?type=image"]
    in_a_language = read_content("om_1", "post", json.dumps({"zh_cn": {"title": "Plan", "content": rows}}))
    assert in_a_language == (text, parts)


def test_a_key_cannot_lead_elsewhere() -> None:
    _, [part] = read_content("om_1", "image", json.dumps({"image_key": "../../../contact/v3/users/ou_1?x="}))
    assert part["url"] == "feishu-resource:om_1/..%2F..%2F..%2Fcontact%2Fv3%2Fusers%2Fou_1%3Fx%3D?type=image"


def test_other_events() -> None:
    recalled = {"header": {"event_type": "im.message.recalled_v1"}, "event": {"message_id": "om_1", "chat_id": "oc_1"}}
    assert read_event(recalled)[1] == Recalled("om_1", "oc_1")
    about = {"operator": {"open_id": "ou_1"}, "action": {"value": {"a": 1}},
             "context": {"open_message_id": "om_2", "open_chat_id": "oc_1"}}  # fmt: skip
    clicked = {"header": {"event_type": "card.action.trigger"}, "event": about}
    assert read_event(clicked)[1] == Clicked("ou_1", "oc_1", "om_2", {"a": 1})
    assert read_event({"header": {"event_type": "im.chat.updated_v1"}}) == ("im.chat.updated_v1", None)
    assert read_event({}) == ("", None)


@pytest.mark.parametrize(
    ("about", "chat"),
    [
        ({"message": {"chat_id": "oc_1"}}, "oc_1"),
        ({"context": {"open_chat_id": "oc_1"}}, "oc_1"),
        ({"chat_id": "oc_1"}, "oc_1"),
        ({"open_chat_id": "oc_1"}, "oc_1"),
        ({"message": {"chat_id": 7}, "context": []}, ""),
        ("nothing", ""),
    ],
)
def test_the_chat_of_an_event(about: Any, chat: str) -> None:
    assert chat_of({"event": about}) == chat
