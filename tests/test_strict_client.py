"""The strict client itself: each of its rules refuses something, and a good stream passes all of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.strict_client import ProtocolViolation, StrictClient, comparable, parse_events, parse_sse
from tests.wire_schema import check_form

START = {"type": "start", "messageId": "m"}
STEP = {"type": "start-step"}
STEP_END = {"type": "finish-step"}
FINISH = {"type": "finish"}
ERROR = {"type": "error", "errorText": "no"}
TEXT = {"type": "text-start", "id": "t1"}
DELTA = {"type": "text-delta", "id": "t1", "delta": "hi"}
TEXT_END = {"type": "text-end", "id": "t1"}
THINK = {"type": "reasoning-start", "id": "r1"}
THINK_END = {"type": "reasoning-end", "id": "r1"}
INPUT = {"type": "tool-input-start", "toolCallId": "a", "toolName": "search"}
CALL = {"type": "tool-input-available", "toolCallId": "a", "toolName": "search", "input": {}}
RESULT = {"type": "tool-output-available", "toolCallId": "a", "output": None}
ASK = {"type": "tool-approval-request", "approvalId": "p", "toolCallId": "a"}
RESET = {"type": "reset-step"}
OPEN = [START, STEP]
CLOSE = [STEP_END, FINISH]

GOOD: dict[str, list[dict[str, Any]]] = {
    "empty": [*OPEN, *CLOSE],
    "text": [*OPEN, TEXT, DELTA, TEXT_END, *CLOSE],
    "source inside text": [*OPEN, TEXT, {"type": "source-url", "sourceId": "s", "url": "u"}, DELTA, TEXT_END, *CLOSE],
    "tool": [*OPEN, INPUT, CALL, {**RESULT, "preliminary": True}, RESULT, *CLOSE],
    "late answer": [*OPEN, CALL, STEP_END, STEP, RESULT, *CLOSE],
    "failed": [*OPEN, STEP_END, ERROR, FINISH],
    "stopped": [*OPEN, STEP_END, {"type": "abort"}, FINISH],
    "reset": [*OPEN, TEXT, DELTA, RESET, INPUT, RESET, TEXT, TEXT_END, CALL, RESULT, *CLOSE],
    "waiting": [*OPEN, CALL, ASK, *CLOSE],
    "denied": [
        *OPEN,
        CALL,
        ASK,
        {"type": "tool-approval-response", "approvalId": "p", "approved": False},
        {"type": "tool-output-denied", "toolCallId": "a"},
        *CLOSE,
    ],
}

BAD: list[tuple[str, list[Any]]] = [
    ("one-start", [STEP]),
    ("one-start", [START, START]),
    ("message-id", [{"type": "start"}]),
    ("one-finish", [*OPEN, STEP_END]),
    ("finish-last", [*OPEN, *CLOSE, FINISH]),
    ("finish-last", [*OPEN, *CLOSE, ERROR]),
    ("before-finish", [*OPEN, STEP_END, ERROR, ERROR]),
    ("before-finish", [*OPEN, STEP_END, {"type": "abort"}, STEP]),
    ("closed-before-end", [*OPEN, FINISH]),
    ("closed-before-end", [*OPEN, TEXT, ERROR]),
    ("closed-before-step-end", [*OPEN, TEXT, STEP_END]),
    ("closed-before-step-end", [*OPEN, INPUT, STEP_END]),
    ("closed-before-tools", [*OPEN, TEXT, CALL]),
    ("closed-before-tools", [*OPEN, CALL, THINK, RESULT]),
    ("inside-a-step", [START, TEXT]),
    ("inside-a-step", [*OPEN, STEP_END, CALL]),
    ("inside-a-step", [START, {"type": "data-x", "data": 1}]),
    ("steps", [*OPEN, STEP]),
    ("steps", [START, STEP_END]),
    ("steps", [START, RESET]),
    ("no-interleaving", [*OPEN, TEXT, THINK]),
    ("fresh-part-id", [*OPEN, TEXT, TEXT_END, TEXT]),
    ("opened-before-deltas", [*OPEN, DELTA]),
    ("opened-before-deltas", [*OPEN, TEXT, TEXT_END, DELTA]),
    ("opened-before-deltas", [*OPEN, TEXT, RESET, DELTA]),
    ("opened-before-deltas", [*OPEN, TEXT, THINK_END]),
    ("known-call", [*OPEN, RESULT]),
    ("known-call", [*OPEN, CALL, RESET, RESULT]),
    ("known-call", [*OPEN, {"type": "tool-input-delta", "toolCallId": "a", "inputTextDelta": "{"}]),
    ("fresh-call-id", [*OPEN, CALL, INPUT]),
    ("call-order", [*OPEN, CALL, CALL]),
    ("call-order", [*OPEN, INPUT, ASK]),
    ("call-keeps-kind", [*OPEN, INPUT, {**CALL, "dynamic": True}]),
    ("call-keeps-kind", [*OPEN, {**CALL, "dynamic": True}, RESULT]),
    ("input-before-output", [*OPEN, INPUT, RESULT]),
    ("answered-once", [*OPEN, CALL, RESULT, RESULT]),
    ("answered-once", [*OPEN, CALL, *CLOSE]),
    ("answered-once", [*OPEN, CALL, {**RESULT, "preliminary": True}, *CLOSE]),
    ("known-approval", [*OPEN, {"type": "tool-approval-response", "approvalId": "p", "approved": True}]),
    ("unknown-type", [START, {"type": "heartbeat"}]),
    ("unknown-type", [["start"]]),
    ("unknown-key", [{**START, "seq": 1}]),
    ("missing-key", [*OPEN, {"type": "text-delta", "id": "t1"}]),
    ("null", [{**START, "messageMetadata": None}]),
    ("null", [*OPEN, {**TEXT, "providerMetadata": None}]),
    ("wrong-type", [*OPEN, {**TEXT, "id": 1}]),
    ("wrong-type", [*OPEN, {**TEXT, "providerMetadata": {"openai": 1}}]),
    ("wrong-type", [*OPEN, STEP_END, {**FINISH, "finishReason": "bored"}]),
    ("no-nul", [*OPEN, TEXT, {**DELTA, "delta": "\0"}]),
    ("no-lone-surrogate", [*OPEN, {**CALL, "input": [{"\ud800": 1}]}]),
    ("no-prototype-key", [*OPEN, {**CALL, "input": [{"__proto__": 1}]}]),
    ("no-prototype-key", [*OPEN, {**CALL, "input": {"constructor": {"prototype": 1}}}]),
    ("no-prototype-key", [*OPEN, {**CALL, "input": {"constructor": None}}]),
    ("json", [*OPEN, {**CALL, "input": float("nan")}]),
]

NOT_FOR_5: list[tuple[str, dict[str, Any]]] = [
    ("unknown-key", {**FINISH, "finishReason": "stop"}),
    ("unknown-key", {"type": "abort", "reason": "stop"}),
    ("unknown-key", {**INPUT, "title": "Search"}),
    ("unknown-key", {**INPUT, "providerMetadata": {}}),
    ("unknown-key", {**CALL, "title": "Search"}),
    ("unknown-key", {**RESULT, "providerMetadata": {}}),
    ("unknown-type", RESET),
    ("unknown-type", ASK),
]


NOT_FOR_6: list[tuple[str, dict[str, Any]]] = [
    ("unknown-key", {**INPUT, "providerMetadata": {}}),
    ("unknown-key", {**CALL, "toolMetadata": {}}),
    ("unknown-key", {**RESULT, "providerMetadata": {}}),
    ("unknown-key", {**ASK, "signature": "s"}),
    ("unknown-type", {"type": "custom", "kind": "a.b"}),
    ("unknown-type", RESET),
]


@pytest.mark.parametrize("name", GOOD)
def test_a_good_stream_is_accepted(name: str) -> None:
    assert StrictClient("7").feed_all(GOOD[name]).end()["id"] == "m"


@pytest.mark.parametrize(("rule", "events"), BAD)
def test_a_bad_stream_is_refused_by_its_rule(rule: str, events: list[Any]) -> None:
    client = StrictClient("7").feed_all(events[:-1]) if len(events) > 1 and rule != "one-finish" else StrictClient("7")
    with pytest.raises(ProtocolViolation) as refused:
        client.feed_all(events if rule == "one-finish" else events[-1:]).end()
    assert refused.value.rule == rule


@pytest.mark.parametrize(("rule", "event"), NOT_FOR_5)
def test_version_5_refuses_what_came_later(rule: str, event: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        StrictClient("5-strict").feed_all([*OPEN, event])
    assert refused.value.rule == rule


@pytest.mark.parametrize(("rule", "event"), NOT_FOR_6)
def test_version_6_refuses_what_came_later(rule: str, event: dict[str, Any]) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        StrictClient("6").feed_all([*OPEN, event])
    assert refused.value.rule == rule


@pytest.mark.parametrize(("rule", "event"), NOT_FOR_5)
def test_lax_version_5_refuses_types_only(rule: str, event: dict[str, Any]) -> None:
    if rule == "unknown-key":
        assert check_form(event, "5") == event["type"]
        return
    with pytest.raises(ProtocolViolation) as refused:
        check_form(event, "5")
    assert refused.value.rule == rule


def test_version_6_knows_reasons_titles_and_approval_requests() -> None:
    named = {**CALL, "title": "Search"}
    ends = [STEP_END, {**FINISH, "finishReason": "tool-calls"}]
    (part,) = StrictClient("6").feed_all([*OPEN, named, ASK, *ends]).end()["parts"][1:]
    assert (part["state"], part["title"]) == ("approval-requested", "Search")


def test_the_message_is_what_the_client_would_hold() -> None:
    client = StrictClient("7").feed_all(
        [
            {**START, "messageMetadata": {"a": {"b": 1, "c": [1]}}},
            STEP,
            THINK,
            {"type": "reasoning-delta", "id": "r1", "delta": "hm", "providerMetadata": {"x": {"s": 1}}},
            THINK_END,
            {**INPUT, "title": "Search"},
            {"type": "tool-input-delta", "toolCallId": "a", "inputTextDelta": '{"q":'},
        ]
    )
    assert client.message()["parts"][-1] == {
        "type": "tool-search",
        "toolCallId": "a",
        "state": "input-streaming",
        "title": "Search",
        "rawInput": '{"q":',
    }
    message = client.feed_all(
        [
            {**CALL, "input": {"q": 1}},
            {**RESULT, "output": 2},
            {"type": "data-x", "id": "1", "data": 1},
            {"type": "data-x", "id": "1", "data": 2},
            {"type": "data-x", "data": 3, "transient": True},
            TEXT,
            DELTA,
            DELTA,
            TEXT_END,
            STEP_END,
            {**FINISH, "messageMetadata": {"a": {"c": [2]}}},
        ]
    ).end()
    assert comparable(message) == {
        "id": "m",
        "role": "assistant",
        "metadata": {"a": {"b": 1, "c": [2]}},
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "hm", "state": "done", "providerMetadata": {"x": {"s": 1}}},
            {
                "type": "tool-search",
                "toolCallId": "a",
                "state": "output-available",
                "title": "Search",
                "input": {"q": 1},
                "output": 2,
            },
            {"type": "data-x", "id": "1", "data": 2},
            {"type": "text", "text": "hihi", "state": "done"},
        ],
    }
    assert message["parts"][1]["id"] == "r1"
    assert client.transient == [{"type": "data-x", "data": 3, "transient": True}]


def test_a_body_is_read_as_the_sse_standard_says() -> None:
    body = b': hello\n\nid: 3\ndata: {"a":\ndata: 1}\r\n\r\nretry: 5\n\ndata:x\xe2\x80\xa8y\r\r: bye\n'
    assert parse_sse(body) == [("3", '{"a":\n1}'), (None, "x\u2028y")]
    assert parse_events(b'data: {"type":"finish"}\n\ndata: [DONE]\n\n') == [{"type": "finish"}]


@pytest.mark.parametrize(
    "body",
    [
        b"data: 1\n",
        b"data: 1\n\ndata",
        b"heartbeat\n\n",
        b"retry: soon\n\n",
        b"data: \xff\n\n",
        b"data: [DONE]\n\ndata: 1\n\n",
    ],
)
def test_a_bad_body_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="sse"):
        parse_events(body)


def test_a_body_that_was_cut_gives_its_whole_events() -> None:
    body = 'id: 1\ndata: "é"\n\nid: 2\ndata: "你"\n\n'.encode()
    for cut in range(len(body)):
        assert parse_sse(body[:cut], complete=False) == [("1", '"é"')][: cut // len('id: 1\ndata: "é"\n\n'.encode())]
