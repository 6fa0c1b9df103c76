"""The dialects: one event for every record, and none that its clients would refuse."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent_events import Spoken, turns
from tests.dialect_samples import BREAK, CHUNKS, FORMS, LATER, PART
from tests.strict_client import StrictClient, Version, comparable, parse_sse
from tests.wire_schema import check_form
from turnwire import chunks as c
from turnwire.channels.web.dialects import DIALECTS
from turnwire.view import fold, replay, to_message

NAMES: list[Version] = ["5-strict", "5", "6", "7"]
RECORDS = [*map(c.encode, CHUNKS), *map(msgspec.json.encode, LATER)]
LOST_IN_MESSAGES: dict[Version, set[str]] = {
    "5-strict": {"title", "callProviderMetadata", "resultProviderMetadata", "approval"},
    "5": {"approval"},
    "6": {"callProviderMetadata", "resultProviderMetadata"},
}


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(data) for _, data in parse_sse(body)]


def kept(message: dict[str, Any], version: Version) -> dict[str, Any]:
    """The message without what the dialect leaves out of tool calls."""
    lost = LOST_IN_MESSAGES.get(version, set())
    parts = [
        {key: value for key, value in part.items() if "toolCallId" not in part or key not in lost}
        for part in message["parts"]
    ]
    if "approval" in lost:
        for part in parts:
            if part.get("state") == "approval-requested":
                part["state"] = "input-available"
    return comparable({**message, "parts": parts})


def test_the_samples_are_of_every_type() -> None:
    assert {c.chunk_type(chunk) for chunk in CHUNKS} == {*c.TYPES, "data-chart", "data-note"}
    for chunk in CHUNKS:
        if isinstance(chunk, c.Chunk):
            assert set(json.loads(c.encode(chunk))) == {"type", *chunk.__struct_encode_fields__}


def test_every_dialect_has_its_table() -> None:
    assert set(DIALECTS) == set(FORMS) == set(NAMES)
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: json.loads(record)["type"])
def test_every_type_has_its_form(name: Version, record: bytes) -> None:
    chunk = json.loads(record)
    form = FORMS[name].get(chunk["type"], set())
    body, broken = DIALECTS[name].frames(7, [record, RECORDS[0]])
    if form == BREAK:
        assert (body, broken) == (b"", True)
        return
    assert not broken
    (number, data), (after, _) = parse_sse(body)
    assert (number, after) == ("7", "8")
    said = json.loads(data)
    if form == PART:
        assert said == {"type": "data-turnwire", "data": {"record": chunk}, "transient": True}
    else:
        assert said == {key: value for key, value in chunk.items() if key not in form}
    check_form(said, name)


@pytest.mark.parametrize("name", ["5-strict", "5", "6"])
def test_a_type_that_nobody_knows_yet_is_one_event_that_holds_it(name: Version) -> None:
    news = {"type": "tool-progress", "toolCallId": "a", "share": 0.5}
    records = [b'{"type":"start","messageId":"m"}', msgspec.json.encode(news), b'{"type":"finish"}']
    body, broken = DIALECTS[name].frames(0, records)
    assert not broken
    client = StrictClient(name).feed_all(events(body))
    assert client.end()["parts"] == []
    assert [part["data"] for part in client.transient] == [{"record": news}]


@given(turns(), st.sampled_from(NAMES))
def test_clients_accept_what_they_get_and_show_the_fold(spoken: Spoken, name: Version) -> None:
    dialect = DIALECTS[name]
    chunks = spoken.chunks
    body, broken = dialect.frames(0, [c.encode(chunk) for chunk in chunks])
    resets = [number for number, chunk in enumerate(chunks) if isinstance(chunk, c.ResetStep)]
    until = resets[0] if resets and name != "7" else len(chunks)
    assert broken == (until < len(chunks))
    numbers = [number for number, _ in parse_sse(body)]
    assert numbers == [str(number) for number in range(until)]
    client = StrictClient(name).feed_all(events(body))
    assert kept(client.message(), name) == kept(to_message(fold(chunks[:until])), name)
    assert client.finished == (until == len(chunks))


@given(turns(), st.sampled_from(NAMES), st.data())
def test_who_resumes_gets_the_rest_after_the_shortest_replay(
    spoken: Spoken, name: Version, data: st.DataObject
) -> None:
    """A group is committed whole, so a reader whose body broke at a rewrite resumes behind it."""
    dialect = DIALECTS[name]
    ends = [0]
    for group in spoken.groups:
        ends.append(ends[-1] + len(group))
    last_reset = max((n for n, chunk in enumerate(spoken.chunks) if isinstance(chunk, c.ResetStep)), default=0)
    cursor = data.draw(st.sampled_from([end for end in ends if end > last_reset]))
    told = [c.encode(chunk) for chunk in replay(fold(spoken.chunks[:cursor]))]
    body = dialect.replay(told, cursor - 1)
    assert [number for number, _ in parse_sse(body)] == [None] * (len(told) - 1) + [str(cursor - 1)]
    rest, broken = dialect.frames(cursor, [c.encode(chunk) for chunk in spoken.chunks[cursor:]])
    assert not broken
    message = StrictClient(name).feed_all(events(body + rest)).end()
    assert kept(message, name) == kept(to_message(spoken.framer.view), name)


@given(turns(), st.sampled_from(NAMES), st.data())
def test_the_same_events_come_however_the_records_are_bundled(
    spoken: Spoken, name: Version, data: st.DataObject
) -> None:
    dialect = DIALECTS[name]
    records = [c.encode(chunk) for chunk in spoken.chunks]
    cut = data.draw(st.integers(0, len(records)))
    head, broken = dialect.frames(0, records[:cut])
    if not broken:
        tail, broken = dialect.frames(cut, records[cut:])
        head += tail
    assert (head, broken) == dialect.frames(0, records)
