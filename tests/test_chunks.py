"""Records and their JSON form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from tests.agent_events import Spoken, few, turns, wire
from tests.strict_client import StrictClient, comparable
from turnwire import chunks as c
from turnwire.view import fold, to_message

ALL: list[c.AnyChunk] = [
    c.Start("m", {"a": 1}),
    c.Finish("stop", {"a": {"b": None}}),
    c.Abort("why"),
    c.Error("no"),
    c.StartStep(),
    c.FinishStep(),
    c.ResetStep(),
    c.TextStart("t"),
    c.TextDelta("t", "a\n\u2028", {"x": {"y": 1}}),
    c.TextEnd("t"),
    c.ReasoningStart("r"),
    c.ReasoningDelta("r", "é"),
    c.ReasoningEnd("r", {"x": {}}),
    c.ToolInputStart("a", "x", True, {"x": {}}, True, "title"),
    c.ToolInputDelta("a", "{"),
    c.ToolInputAvailable("a", "x", None, False, {"x": {}}, True, "title"),
    c.ToolInputError("a", "x", "{", "bad"),
    c.ToolOutputAvailable("a", [2**70, 1.5, "x"], preliminary=True),
    c.ToolOutputError("a", "no"),
    c.ToolApprovalRequest("p", "a"),
    c.ToolApprovalResponse("p", False, "too dear"),
    c.ToolOutputDenied("a"),
    c.FileChunk("/f", "text/csv"),
    c.SourceUrl("s", "u", "title"),
    c.MessageMetadata({"a": 1}),
    c.DataPart("data-x", {"b": [1]}, "1", True),
]


def test_the_list_above_names_every_type() -> None:
    assert {c.chunk_type(chunk) for chunk in ALL} == {*c.TYPES, "data-x"}


@pytest.mark.parametrize("chunk", ALL, ids=c.chunk_type)
def test_a_record_reads_back_as_it_was_written(chunk: c.AnyChunk) -> None:
    payload = c.encode(chunk)
    assert c.decode(payload) == c.decode(memoryview(payload)) == chunk
    assert b"\n" not in payload
    assert json.loads(payload)["type"] == c.chunk_type(chunk)


@given(turns())
def test_every_turn_reads_back_as_it_was_written(spoken: Spoken) -> None:
    read = [c.decode(c.encode(chunk)) for chunk in spoken.chunks]
    assert read == spoken.chunks
    assert to_message(fold(read)) == to_message(spoken.framer.view)


def test_what_is_absent_is_not_written() -> None:
    assert c.encode(c.ToolOutputAvailable("a", None)) == (
        b'{"type":"tool-output-available","toolCallId":"a","output":null}'
    )
    assert c.encode(c.DataPart("data-x", None)) == b'{"type":"data-x","data":null}'
    assert c.encode(c.Finish()) == b'{"type":"finish"}'


def test_keys_may_come_in_any_order() -> None:
    assert c.decode(b'{"data":1,"id":"2","type":"data-x"}') == c.DataPart("data-x", 1, "2")
    assert c.decode(b'{"delta":"a","id":"t","type":"text-delta"}') == c.TextDelta("t", "a")


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b'{"type":"hologram"}', "unknown record type 'hologram': was this journal written by a newer Turnwire?"),
        (b'{"type":"text-delta","id":"t"}', "not a record of the journal: Object missing required field `delta`"),
        (b'{"type":"text-delta","id":"t","delta":1}', "not a record of the journal: Expected `str`, got `int`"),
        (b'{"type":"data-x"}', "not a record of the journal: Object missing required field `data`"),
        (b'{"type":7}', "not a record of the journal: Expected `str`, got `int`"),
        (b'{"id":"t"}', "not a record of the journal: Object missing required field `type`"),
        (b"[1]", "not a record of the journal: Expected `object`, got `array`"),
        (b'{"type":"text-', "not a record of the journal: "),
        (b'{"type":"error","errorText":"\xff"}', "not a record of the journal: "),
        (b"", "not a record of the journal: "),
    ],
)
def test_a_bad_record_is_named(payload: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=r"record") as refused:
        c.decode(payload)
    assert str(refused.value).startswith(message)


@few
@given(turns())
def test_adjacent_deltas_of_a_part_can_be_merged(spoken: Spoken) -> None:
    merged = _merge(spoken.chunks)
    message = to_message(fold(merged))
    assert message == to_message(fold(spoken.chunks))
    assert comparable(StrictClient("7").feed_all(wire(merged)).end()) == message


def _merge(chunks: list[c.AnyChunk]) -> list[c.AnyChunk]:
    """The rule: same type and id, texts joined, the last metadata stands."""
    merged: list[Any] = []
    for chunk in chunks:
        last = merged[-1] if merged else None
        if isinstance(chunk, c.TextDelta | c.ReasoningDelta) and type(last) is type(chunk) and last.id == chunk.id:
            metadata = last.provider_metadata if chunk.provider_metadata is None else chunk.provider_metadata
            merged[-1] = type(chunk)(chunk.id, last.delta + chunk.delta, metadata)
        else:
            merged.append(chunk)
    return merged


def test_merging_makes_a_run_of_deltas_one() -> None:
    run: list[c.AnyChunk] = [c.TextDelta("t", "a"), c.TextDelta("t", "b", {"x": {}}), c.TextDelta("t", "c")]
    assert _merge(run) == [c.TextDelta("t", "abc", {"x": {}})]
