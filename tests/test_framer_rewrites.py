"""What is taken back: snapshots that rewrite, and model requests that are repeated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agent_events import call, result, shown, speak, types, wire
from turnwire import events as e

SNAPSHOTS: dict[str, tuple[list[Any], list[Any], bool]] = {
    "grows": ([e.Snapshot("a"), e.Snapshot("ab"), e.Snapshot("abc")], ["|", "abc"], False),
    "says the same": ([e.Snapshot("a"), e.Snapshot("a")], ["|", "a"], False),
    "goes on after deltas": (["a", "b", e.Snapshot("abc"), "d"], ["|", "abcd"], False),
    "rewrites": ([e.Snapshot("ab"), e.Snapshot("ac"), e.Snapshot("acd")], ["|", "acd"], True),
    "shrinks": ([e.Snapshot("ab"), e.Snapshot("a")], ["|", "a"], True),
    "empties": (["a", e.Snapshot("")], ["|"], True),
    "empties, then speaks": (
        ["a", e.Reasoning("r"), "b", e.Snapshot(""), e.Snapshot("c")],
        ["|", "a", ["r"], "c"],
        True,
    ),
    "rewrites what was said before thinking": (["a", e.Reasoning("r"), e.Snapshot("ab")], ["|", ["r"], "ab"], True),
    "says the same after thinking": (["a", e.Reasoning("r"), e.Snapshot("a")], ["|", "a", ["r"]], False),
    "rewrites with open tools and files in the step": (
        [
            "a",
            call("t"),
            e.ToolInput("u", "search", '{"q":'),
            e.File(url="/f", media_type="text/csv"),
            e.Snapshot("b"),
            e.ToolInput("u", "search", "1}"),
            result("t", 1),
            result("u", 2),
        ],
        ["|", ("t", "available", 1), ("u", "available", 2), "file", "b"],
        True,
    ),
    "names its parts": (
        [e.Snapshot("a", part="p"), e.Snapshot("x", part="q"), e.Snapshot("ab", part="p"), e.Snapshot("xy", part="q")],
        ["|", "ab", "xy"],
        True,
    ),
    "empties a named part and fills it": (
        [
            e.Snapshot("a", part="p"),
            "b",
            e.Snapshot("", part="p"),
            e.Snapshot("c", part="p"),
            e.Snapshot("cd", part="p"),
        ],
        ["|", "cd"],
        True,
    ),
    "without a name means the newest": (
        [e.Snapshot("a", part="p"), e.Snapshot("x", part="q"), e.Snapshot("xy"), e.Snapshot("xyz", part="q")],
        ["|", "a", "xyz"],
        False,
    ),
    "after the tools answered is a new text": (
        [e.Snapshot("a"), call("t"), result("t"), e.Snapshot("ab"), e.Snapshot("abc")],
        ["|", "a", ("t", "available", "ok"), "|", "abc"],
        False,
    ),
    "of a named part from before the tools": (
        [e.Snapshot("a", part="p"), call("t"), result("t"), e.Snapshot("b", part="p"), "next"],
        ["|", ("t", "available", "ok"), "b", "|", "next"],
        True,
    ),
    "repeats a named part of an earlier step": (
        [e.Snapshot("a", part="p"), e.Step(), "b", e.Snapshot("a", part="p"), "c"],
        ["|", "a", "|", "bc"],
        False,
    ),
    "of a pair that grows half by half": (
        [e.Snapshot("a\ud83d"), e.Snapshot("a😀"), e.Snapshot("a😀b")],
        ["|", "a😀b"],
        False,
    ),
    "of half a pair that was closed": (
        ["a\ud83d", e.Reasoning("r"), e.Snapshot("a\ud83d")],
        ["|", "a\ufffd", ["r"]],
        False,
    ),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_snapshot(name: str) -> None:
    events, expected, resets = SNAPSHOTS[name]
    spoken = speak(events)
    assert not spoken.refused
    assert shown(spoken) == expected
    assert ("reset-step" in types(spoken)) == resets


def test_a_growing_snapshot_sends_only_what_is_new() -> None:
    spoken = speak([e.Snapshot("Hello"), e.Snapshot("Hello, you")])
    assert [event["delta"] for event in wire(spoken.chunks) if event["type"] == "text-delta"] == ["Hello", ", you"]


def test_a_rewrite_is_one_group_with_a_new_part_id() -> None:
    spoken = speak([e.Snapshot("ab"), e.Snapshot("b")])
    assert [(event["type"], event.get("id")) for event in wire(spoken.groups[2])] == [
        ("reset-step", None),
        ("text-start", "t2"),
        ("text-delta", "t2"),
    ]


def test_a_snapshot_of_an_earlier_step_is_refused_and_changes_nothing() -> None:
    spoken = speak([e.Snapshot("a", part="p"), e.Step(), "b", e.Snapshot("x", part="p"), "c"])
    assert [str(error) for error in spoken.refused] == [
        "a Snapshot would change text of an earlier step; only the current step can change"
    ]
    assert shown(spoken) == ["|", "a", "|", "bc"]


RETRIES: dict[str, tuple[list[Any], list[Any]]] = {
    "takes its text and thinking back": (["a", e.Reasoning("r"), e.Step(retry=True), "b"], ["|", "b"]),
    "leaves earlier steps alone": (["a", e.Step(), "b", e.Step(retry=True), "c"], ["|", "a", "|", "c"]),
    "of nothing is nothing": ([e.Step(retry=True), "a"], ["|", "a"]),
    "forgets a half-streamed call": (
        [
            "a",
            e.ToolInput("t", "search", '{"q'),
            e.Step(retry=True),
            e.ToolInput("t", "search", "{}"),
            call("t"),
            result("t"),
        ],
        ["|", ("t", "available", "ok")],
    ),
    "lets a result wait for the call that is made again": (
        [e.ToolInput("t", "search", '{"q'), e.Step(retry=True), result("t", 1), call("t")],
        ["|", ("t", "available", 1)],
    ),
    "keeps complete calls and files": (
        ["a", e.File(url="/f", media_type="text/csv"), call("t"), e.Step(retry=True), "b", result("t")],
        ["|", "file", ("t", "available", "ok"), "b"],
    ),
    "after answered tools repeats the silent request": (
        ["a", call("t"), result("t"), e.Step(retry=True), "b"],
        ["|", "a", ("t", "available", "ok"), "|", "b"],
    ),
    "makes room for snapshots": (
        [e.Snapshot("a", part="p"), e.Step(retry=True), e.Snapshot("b", part="p"), e.Snapshot("bc")],
        ["|", "bc"],
    ),
}


@pytest.mark.parametrize("name", RETRIES)
def test_a_retry(name: str) -> None:
    events, expected = RETRIES[name]
    assert shown(speak(events)) == expected
