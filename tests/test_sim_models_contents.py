"""What the simulated models say: tool calls, thoughts, ends, much text, and every spelling of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.test_sim_models import STOP, TWO, Letter, Read, body_of, connected, run
from turnwire.sim.models import TEXT, ModelSim
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

WIRES: list[Letter] = ["A", "O", "R", "G"]


@pytest.mark.parametrize("wire", WIRES)
async def test_parallel_calls_have_both_arguments(wire: Letter) -> None:
    read = Read(wire, (await run("tools_parallel", wire)).events())
    assert [json.loads(each) for each in read.calls.values()] == [{"city": "北京"}, {"city": "Zürich"}]
    assert read.finishes == [{"A": "tool_use", "O": "tool_calls"}.get(wire, STOP[wire])]


@pytest.mark.parametrize("wire", ["O", "R"])
async def test_arguments_of_parallel_calls_are_interleaved(wire: Letter) -> None:
    of_calls: list[Any] = []
    for event in (await run("tools_parallel", wire)).events():
        if wire == "R" and event["type"] == "response.function_call_arguments.delta":
            of_calls.append(event["output_index"])
        elif wire == "O" and event != "[DONE]":
            calls = [call for choice in event["choices"] for call in choice["delta"].get("tool_calls", [])]
            of_calls += [call["index"] for call in calls if call["function"]["arguments"]]
    assert of_calls == [0, 1, 0, 1]


def _rounds(wire: Letter, answered: int) -> dict[str, Any]:
    """A request after `answered` rounds of tools."""
    if wire == "A":
        turns: list[Any] = [{"role": "user", "content": "hi"}]
        for number in range(answered):
            call = {"type": "tool_use", "id": f"t{number}", "name": "f", "input": {}}
            result = {"type": "tool_result", "tool_use_id": f"t{number}", "content": f"r{number}"}
            turns += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        return {"messages": turns, "tools": [{"name": "f", "input_schema": {}}]}
    if wire == "O":
        turns = [{"role": "user", "content": "hi"}]
        for number in range(answered):
            call = {"id": f"t{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            turns += [{"role": "assistant", "tool_calls": [call]},
                      {"role": "tool", "tool_call_id": f"t{number}", "content": f"r{number}"}]  # fmt: skip
        return {"messages": turns, "tools": [{"type": "function", "function": {"name": "f"}}]}
    turns = [{"role": "user", "parts": [{"text": "hi"}]}]
    for number in range(answered):
        part = {"functionResponse": {"name": "f", "response": f"r{number}"}}
        turns += [{"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
                  {"role": "user", "parts": [part]}]  # fmt: skip
    return {"contents": turns, "tools": [{"functionDeclarations": [{"name": "f"}]}]}


@pytest.mark.parametrize("wire", ["A", "O", "G"])
async def test_two_calls_may_come_one_after_the_other(wire: Letter) -> None:
    reads = [
        Read(wire, (await run("tools_twice", wire, body=body_of(wire, **_rounds(wire, answered)))).events())
        for answered in range(3)
    ]
    assert [len(read.calls) for read in reads] == [1, 1, 0]
    assert [read.text for read in reads][:2] == ["First this. ", "And once more. "]
    assert reads[2].text.replace('"', "") == "Both are done; the second returned: r1"


@pytest.mark.parametrize("wire", WIRES)
async def test_a_call_may_have_no_arguments(wire: Letter) -> None:
    read = Read(wire, (await run("tools_no_args", wire)).events())
    assert list(read.calls.values()) == ["null" if wire == "G" else ""]
    assert read.last


@pytest.mark.parametrize("wire", WIRES)
async def test_a_cut_call_has_half_its_arguments_and_no_finish(wire: Letter) -> None:
    got = await run("tools_cut", wire)
    read = Read(wire, got.events())
    (arguments,) = read.calls.values()
    assert '{"city": "北京"}'.startswith(arguments) or wire == "G"
    assert (len(arguments) < 10 or wire == "G", read.finishes, got.end) == (True, [], "end")


@pytest.mark.parametrize("wire", ["A", "O", "R"])
async def test_a_call_may_be_cut_by_its_length(wire: Letter) -> None:
    read = Read(wire, (await run("tools_max_tokens", wire)).events())
    assert list(read.calls.values()) == ['{"city": "北']
    assert read.finishes == [{"A": "max_tokens", "O": "length", "R": "incomplete"}[wire]]


async def test_calls_may_have_no_index() -> None:
    for name, repeated in [("tools_no_index", 1), ("tools_repeated_id", 3)]:
        got = await run(name, "O")
        assert list(Read("O", got.events()).calls.values()) == ['{"city": "北京"}']
        assert got.body.count(b'"call_sim000001_0"') == repeated
        assert b'"index":0,"id"' not in got.body


@pytest.mark.parametrize(("name", "wire"), [("thinking", each) for each in "AORG"] + [("o_reasoning", "O")])
async def test_thoughts_are_no_text(name: str, wire: Letter) -> None:
    got = await run(name, wire)
    read = Read(wire, got.events())
    assert (read.thought, read.text, read.last) == ("Let me think.", TEXT, True)
    signed = {"A": b'"signature_delta","signature":"c2l', "G": b'"thoughtSignature":"c2l'}.get(wire, b"")
    assert signed in got.body
    assert (b'"reasoning":' in got.body) == (name == "o_reasoning")


@pytest.mark.parametrize("wire", WIRES)
async def test_answers_may_end_for_length_or_by_a_filter(wire: Letter) -> None:
    length, filtered = await run("max_tokens", wire), await run("filter", wire)
    assert Read(wire, length.events()).text == Read(wire, filtered.events()).text == TWO
    said = {"A": ("max_tokens", "refusal"), "O": ("length", "content_filter"), "G": ("MAX_TOKENS", "SAFETY")}
    said["R"] = ("max_output_tokens", "content_filter")
    assert f'"{said[wire][0]}"'.encode() in length.body
    assert f'"{said[wire][1]}"'.encode() in filtered.body
    if wire != "G":
        declined = Read(wire, (await run("refusal", wire)).events())
        assert declined.refusal + declined.text == "I cannot help."
        assert declined.finishes == ["refusal" if wire == "A" else STOP[wire]]


async def test_a_prompt_may_be_blocked() -> None:
    (event,) = (await run("blocked", "G")).events()
    assert event["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert "candidates" not in event


@pytest.mark.parametrize("wire", WIRES)
async def test_much_text_arrives(wire: Letter) -> None:
    burst, big = await run("burst_10k", wire), await run("big_event", wire)
    assert Read(wire, burst.events()).text == "".join(f"{number} " for number in range(10_000))
    assert len(burst.chunks) >= 10_000
    # R repeats the text where its parts and the response end.
    assert max(map(len, big.chunks)) > 3_000_000
    assert len(Read(wire, big.events()).text) == 3_000_000
    separators = await run("u2028", wire)
    assert Read(wire, separators.events()).text == "a\u2028b\u2029c\u0085d"
    assert "a\u2028b\u2029c\u0085d".encode() in separators.body


@pytest.mark.parametrize("wire", WIRES)
async def test_spellings_are_what_their_names_say(wire: Letter) -> None:
    names = ["ok", "comments", "crlf", "cr", "mixed", "crlf_split", "bytewise", "bom", "nospace", "multi_data"]
    bodies = {name: (await run(name, wire)).body for name in [*names, "last_no_blank"]}
    ok = bodies["ok"]
    assert bodies["comments"].startswith(b": x\n")
    assert bodies["comments"].count(b": x\n") > 2 * ok.count(b"data: ")
    assert bodies["crlf"] == bodies["crlf_split"] == ok.replace(b"\n", b"\r\n")
    assert bodies["cr"] == ok.replace(b"\n", b"\r")
    assert all(ending in bodies["mixed"] for ending in (b"}\r\r", b"}\n\n", b"}\r\n\r\n"))
    assert bodies["bytewise"] == ok
    assert bodies["bom"] == b"\xef\xbb\xbf" + ok
    assert bodies["nospace"] == ok.replace(b"data: ", b"data:")
    assert bodies["multi_data"].count(b"data: ") > 3 * ok.count(b"data: ")
    assert bodies["last_no_blank"] == ok[:-1]
    if wire in "AR":
        assert (await run(f"{wire.lower()}_noevent", wire)).body.startswith(b"data: ")
        assert b"event: " in ok
    single = await run("bytewise", wire)
    assert {len(chunk) for chunk in single.chunks} == {1}
    split = await run("crlf_split", wire)
    assert not any(b"\r\n" in chunk for chunk in split.chunks)
    assert len((await run("one_chunk", wire)).chunks) == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_compressed_deltas_can_be_read_before_the_end(wire: Letter) -> None:
    got = await run("gzip", wire, for_s=0)
    assert got.headers["content-encoding"] == "gzip"
    assert (Read(wire, got.events()).text, got.end) == (TWO, "open")


@pytest.mark.parametrize("wire", WIRES)
async def test_without_a_stream_the_whole_answer_is_one_object(wire: Letter) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        for name in ("ok", "rst_mid", "clean_eof_mid", "thinking", "tools_parallel"):
            line.ask(wire, stream=False, x_scenario=name)
            status, headers, said = await line.reply()
            assert (status, headers["content-type"]) == (200, "application/json")
            if not name.startswith("tools"):
                assert TEXT in json.dumps(said, ensure_ascii=False)
            assert ("Let me think." in json.dumps(said)) == (name == "thinking")
        assert "Zürich" in json.dumps(said, ensure_ascii=False)
        assert sim.connections == 1


@pytest.mark.parametrize("name", ["ok", "crlf", "error_mid", "r_failed_mid", "tools_parallel"])
async def test_the_events_of_responses_are_numbered_without_gaps(name: str) -> None:
    numbers = [event["sequence_number"] for event in (await run(name, "R")).events()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 4
