"""Frames of the long connection, and what the platform's codes mean: pure."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.channels.wecom import errors, frames
from turnwire.channels.wecom.errors import no_answer, receipt_of
from turnwire.channels.wecom.frames import Ack, Inbound, Unreadable

# Reading


def test_a_callback_is_read() -> None:
    said = {
        "cmd": "aibot_msg_callback",
        "headers": {"req_id": "R"},
        "body": {"msgid": "M", "text": {"content": "你好"}},
    }
    assert frames.read(json.dumps(said), 7.5) == Inbound("aibot_msg_callback", "R", said["body"], 7.5)  # type: ignore[arg-type]


def test_an_event_names_its_type() -> None:
    said = {"cmd": "aibot_event_callback", "headers": {"req_id": "R"}, "body": {"event": {"eventtype": "enter_chat"}}}
    found = frames.read(json.dumps(said))
    assert isinstance(found, Inbound)
    assert (found.event, Inbound("x", "", {"event": 1}).event) == ("enter_chat", "")


@pytest.mark.parametrize(
    ("said", "ack"),
    [
        ('{"headers":{"req_id":"R"},"errcode":0,"errmsg":"ok"}', Ack("R", 0, {})),
        ('{"headers":{"req_id":"R"},"errcode":0,"body":{"upload_id":"U"}}', Ack("R", 0, {"upload_id": "U"})),
        ('{"cmd":"ping","headers":{"req_id":"R"},"errcode":0}', Ack("R", 0, {})),
        ('{"headers":{"req_id":"R"},"errmsg":"ok"}', Ack("R", None, {})),
        ('{"headers":{"req_id":"R"},"errcode":true}', Ack("R", None, {})),
        ('{"headers":{"req_id":7},"errcode":"0","body":[]}', Ack(None, None, {})),
        (
            '{"errcode":40058,"errmsg":"missing field `body.image.media_id`. invalid Request Parameter"}',
            Ack(None, 40058, {}, "image.media_id"),
        ),
    ],
)
def test_an_answer_is_read_with_or_without_what_it_should_have(said: str, ack: Ack) -> None:
    assert frames.read(said) == ack


def test_control_characters_are_taken_out_and_line_breaks_stay() -> None:
    said = '\x00{"cmd":"aibot_msg_callback","headers":{"req_id":"R"},"body":{"a":"x\x07\x1fy\nz\t!"}}\x7f'
    found = frames.read(said.encode())
    assert isinstance(found, Inbound)
    assert found.body == {"a": "xy\nz\t!"}


@given(st.one_of(st.text(), st.binary(), st.just("[" * 100_000), st.just('"a"'), st.just("NaN")))
def test_nonsense_is_unreadable_and_nothing_worse(data: str | bytes) -> None:
    try:
        found: object = frames.read(data)
    except Unreadable as error:
        found = error
    assert isinstance(found, (Ack, Inbound)) or str(found) in ("it is no JSON", "it is no JSON object")


# Writing


def test_a_frame_has_its_command_its_id_and_its_body() -> None:
    text = frames.encode("aibot_send_msg", "r1", frames.pushed("wr_Group", frames.markdown("hé"), group=True))
    assert json.loads(text) == {
        "cmd": "aibot_send_msg",
        "headers": {"req_id": "r1"},
        "body": {"chatid": "wr_Group", "chat_type": 2, "msgtype": "markdown", "markdown": {"content": "hé"}},
    }
    assert json.loads(frames.encode("ping", "r2", None)) == {"cmd": "ping", "headers": {"req_id": "r2"}}


@pytest.mark.parametrize("req_id", ["", "x" * 257, "é" * 129])
def test_a_request_id_has_1_to_256_bytes(req_id: str) -> None:
    assert json.loads(frames.encode("ping", "é" * 128, None))["headers"]["req_id"] == "é" * 128
    with pytest.raises(ValueError, match="256 bytes"):
        frames.encode("ping", req_id, None)


def test_request_ids_of_our_own_are_never_the_same() -> None:
    ids = {frames.new_req_id("push") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(each.startswith("push_") and len(each) < 64 for each in ids)


@pytest.mark.parametrize("make", [lambda text: frames.stream("s", text), frames.markdown, frames.text])
def test_a_text_has_at_most_20480_bytes_not_letters(make: Any) -> None:
    assert make("x" * 20480)
    assert make("é" * 10240)
    for long in ("x" * 20481, "é" * 10241):
        with pytest.raises(ValueError, match="20480"):
            make(long)


@pytest.mark.parametrize("blank", ["", " \n\t", "\0"])
def test_a_final_frame_needs_visible_text(blank: str) -> None:
    assert frames.stream("s", blank)["stream"]["finish"] is False
    with pytest.raises(ValueError, match="unfinished"):
        frames.stream("s", blank, finish=True)
    for make in (frames.markdown, frames.text):
        with pytest.raises(ValueError, match="visible"):
            make(blank)


def test_lone_surrogates_and_nul_never_reach_the_wire() -> None:
    said = frames.stream("s", "a\ud800b\0c", finish=True)
    assert json.loads(frames.encode("aibot_respond_msg", "r", said))["body"]["stream"]["content"] == "a\ufffdbc"


def test_bodies_have_the_fields_of_the_platform() -> None:
    assert frames.stream("s", "t", finish=True, feedback_id="f") == {
        "msgtype": "stream",
        "stream": {"id": "s", "finish": True, "content": "t", "feedback": {"id": "f"}},
    }
    assert frames.media("file", "M", title="t", description="d") == {"msgtype": "file", "file": {"media_id": "M"}}
    video = frames.media("video", "M", title="é" * 40, description="x" * 600)["video"]
    assert (video["title"], video["description"], video["media_id"]) == ("é" * 32, "x" * 512, "M")
    assert frames.text("hi") == {"msgtype": "text", "text": {"content": "hi"}}
    assert frames.card({"task_id": "t"}) == {"msgtype": "template_card", "template_card": {"task_id": "t"}}
    assert frames.card_update({"task_id": "t"}, ["u"]) == {
        "response_type": "update_template_card",
        "template_card": {"task_id": "t"},
        "userids": ["u"],
    }
    assert "userids" not in frames.card_update({})
    assert frames.pushed("u", {"msgtype": "file"}, group=False) == {"chatid": "u", "chat_type": 1, "msgtype": "file"}
    assert frames.subscription("b", "s") == {"bot_id": "b", "secret": "s"}
    assert frames.upload_init("file", "a.txt", size=9, chunks=1, md5="m") == {
        "type": "file", "filename": "a.txt", "total_size": 9, "total_chunks": 1, "md5": "m"
    }  # fmt: skip
    chunk = frames.upload_chunk("U", 0, b"abc")
    assert chunk == {"upload_id": "U", "chunk_index": 0, "base64_data": base64.b64encode(b"abc").decode()}
    assert frames.upload_finish("U") == {"upload_id": "U"}


def test_what_would_be_refused_is_not_made() -> None:
    for make in (
        lambda: frames.stream("", "x"),
        lambda: frames.stream("s" * 257, "x"),
        lambda: frames.stream("s", "x", feedback_id="f" * 257),
        lambda: frames.pushed("", {}, group=False),
        lambda: frames.upload_chunk("U", 0, b""),
        lambda: frames.upload_chunk("U", 0, b"x" * (512 * 1024 + 1)),
        lambda: frames.op_of("aibot_dance", {}),
    ):
        with pytest.raises(ValueError, match=r"."):
            make()


def test_frames_are_told_apart_by_what_they_do() -> None:
    assert frames.op_of("aibot_respond_msg", frames.stream("s", "x")) == "stream"
    assert frames.op_of("aibot_respond_msg", frames.stream("s", "x", finish=True)) == "finish"
    assert frames.op_of("aibot_respond_msg", frames.markdown("x")) == "reply"
    assert frames.op_of("aibot_send_msg", frames.markdown("x")) == "push"


@given(st.text(), st.integers(0, 40))
def test_a_text_is_cut_by_bytes_and_never_within_a_character(text: str, limit: int) -> None:
    cut = frames.clip(text, limit)
    assert len(cut.encode()) <= limit
    assert frames.clip(text, 10_000).startswith(cut)
    assert frames.size(cut) == len(cut.encode())


def test_a_name_is_cut_before_its_ending() -> None:
    name = frames.upload_init("file", "é" * 200 + ".pdf", size=9, chunks=1, md5="")["filename"]
    assert name == "é" * 126 + ".pdf"
    assert frames.clip_name("x" * 300, 256) == "x" * 256
    assert frames.clip_name("a." + "x" * 300, 256) == ("a." + "x" * 300)[:256]
    assert frames.upload_init("file", "\0", size=9, chunks=1, md5="")["filename"] == "file"


# Codes

_CASES = [
    (op, code, cause)
    for ops, table in (
        (("open", "stream", "finish"), {-1: "busy", 6000: "busy", 40201: "content", 40058: "content"}),
        (("stream",), {846607: "expired", 846608: "expired", 846604: "rung", 846605: "rung"}),
        (("open", "finish", "reply"), {846607: "rung", 846608: "rung", 846604: "rung", 846605: "rung"}),
        (("reply", "push"), {6000: "busy", 40007: "spent", 40008: "rung", 40016: "content", 40058: "content"}),
        (("push",), {86201: "rung", 93006: "held", 40201: "content"}),
        (("welcome", "update"), {846605: "rung", 40016: "content"}),
        (("upload_init",), {40004: "content", 40006: "content", 40009: "content", 40058: "content", 40008: "content"}),
        (("upload_chunk", "upload_finish"), {40058: "spent", -1: "busy", 40010: "content", 40011: "content"}),
        (
            ("open", "stream", "finish", "reply", "push", "upload_init", "welcome"),
            {45009: "busy", 846609: "busy", 846601: "busy", 846602: "busy", 853000: "barred", 600039: "rung"},
        ),
        (("stream", "push"), {7: "rung"}),
        (("response_url",), {60140: "rung"}),
    )
    for op in ops
    for code, cause in table.items()
]  # fmt: skip


def test_every_code_has_its_action_and_is_named() -> None:
    found = [(op, code, receipt_of(op, code).cause) for op, code, _ in _CASES]  # type: ignore[arg-type]
    assert found == _CASES
    assert all(f"({code})" in receipt_of(op, code).reason for op, code, _ in _CASES)  # type: ignore[arg-type]
    assert {receipt_of(op, code).kind for op, code, _ in _CASES} == {"refused"}  # type: ignore[arg-type]


def test_only_a_zero_is_a_success() -> None:
    assert receipt_of("finish", 0).ok
    assert receipt_of("finish", None).kind == "unknown"


@pytest.mark.parametrize("op", ["reply", "push", "welcome", "update"])
def test_an_error_inside_the_platform_leaves_open_whether_a_message_was_sent(op: errors.Op) -> None:
    assert receipt_of(op, -1).kind == "unknown"


def test_too_many_messages_are_followed_by_a_minute_of_rest() -> None:
    assert receipt_of("push", 45009).wait_s == 60.0


def test_no_answer_is_neither_success_nor_failure() -> None:
    for op in ("finish", "push", "upload_chunk"):
        assert no_answer(op, 5).kind == "unknown"


def test_the_table_in_the_documentation_of_the_module_is_the_table() -> None:
    rows = [line.split("|")[1] for line in (errors.__doc__ or "").splitlines() if line.startswith("| ")][2:]
    named: set[int] = set()
    for row in rows:
        first, *more = row.replace(" to ", ",to,").split(",")
        numbers = [first, *more]
        for at, each in enumerate(numbers):
            if each == "to":
                named |= set(range(int(numbers[at - 1]), int(numbers[at + 1]) + 1))
            else:
                named.add(int(each))
    assert named == set(errors._TABLE)
