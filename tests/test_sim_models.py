"""The simulated provider: what every scenario sends on every wire, and how its connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal

import pytest

from turnwire.agents.sse import SSEParser
from turnwire.sim.models import LEAKED_KEY, SCENARIOS, TEXT, ModelSim, Seen
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

Letter = Literal["A", "O", "R", "G"]
ASKED = "How far is the moon?"
CASES = [(each.name, letter) for each in SCENARIOS.values() for letter in each.wires]


def body_of(wire: str, stream: bool = True, **more: Any) -> dict[str, Any]:
    """A request that every provider takes."""
    messages = [{"role": "user", "content": ASKED}]
    if wire == "A":
        return {"model": "sim-1", "max_tokens": 99, "messages": messages, "stream": stream, **more}
    if wire == "O":
        return {"model": "sim-1", "messages": messages, "stream": stream, **more}
    if wire == "R":
        return {"model": "sim-1", "input": ASKED, "stream": stream, **more}
    return {"contents": [{"role": "user", "parts": [{"text": ASKED}]}], **more}


def path_of(wire: str, stream: bool = True, model: str = "sim-1") -> str:
    """Where such a request goes."""
    if wire == "G":
        return f"/v1beta/models/{model}:" + ("streamGenerateContent?alt=sse" if stream else "generateContent")
    return {"A": "/v1/messages?beta=true", "O": "/v1/chat/completions", "R": "/v1/responses"}[wire]


def head_of(path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> bytes:
    """The head of a request; the key is sent in every way."""
    given = {"authorization": "Bearer k", "x-api-key": "k", "x-goog-api-key": "k", "anthropic-version": "2023-06-01"}
    lines = [f"{name}: {value}" for name, value in {**given, **headers}.items() if value]
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "host: sim", f"content-length: {len(body)}", *lines, "", ""]
    ).encode()


class Line:
    """A connection to the simulator that keeps what comes, byte by byte, and how it ends."""

    def __init__(self, clock: FakeClock, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clock = clock
        self.writer = writer
        self.got = b""
        self.end: Literal["open", "fin", "rst"] = "open"
        self._reader = reader
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while piece := await self._reader.read(1 << 20):
                self.got += piece
        except ConnectionResetError:
            self.end = "rst"
        else:
            self.end = "fin"

    def ask(self, wire: str, *, stream: bool = True, body: Any = None, path: str = "", **headers: str) -> None:
        """Sends a request."""
        said = body if isinstance(body, bytes) else json.dumps(body_of(wire, stream) if body is None else body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.writer.write(head_of(path or path_of(wire, stream), said, named) + said)

    def get(self, path: str, method: str = "GET", body: bytes = b"") -> None:
        """Sends a request to the simulator's own routes."""
        self.writer.write(head_of(path, body, {}, method) + body)

    async def reply(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of one whole answer, which is then forgotten."""
        await self.clock.until(lambda: self._whole() or self.end != "open")
        head, _, rest = self.got.partition(b"\r\n\r\n")
        size = int(headers_in(head)["content-length"])
        self.got = rest[size:]
        return int(head.split()[1]), headers_in(head), json.loads(rest[:size])

    def _whole(self) -> bool:
        head, blank, rest = self.got.partition(b"\r\n\r\n")
        return bool(blank) and len(rest) >= int(headers_in(head).get("content-length", "0"))

    async def close(self) -> None:
        self.writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def headers_in(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextlib.asynccontextmanager
async def connected(sim: ModelSim, clock: FakeClock) -> AsyncIterator[Line]:
    """A connection to the simulator, for the block."""
    host, port = sim.url.removeprefix("http://").split(":")
    line = Line(clock, *await asyncio.open_connection(host, int(port)))
    try:
        yield line
    finally:
        await line.close()


class Got:
    """What one request got: its raw bytes, the head, the chunks of its body, and how it ended.

    `end` is `end` (the proper end of a body, the connection open), `fin`, `rst` or `open`.
    """

    def __init__(self, raw: bytes, ended: str, seen: Seen) -> None:
        self.raw = raw
        self.seen = seen
        head, blank, rest = raw.partition(b"\r\n\r\n")
        self.headers = headers_in(head) if blank else {}
        self.chunks: list[bytes] = []
        self.end = ended
        if self.headers.get("transfer-encoding") == "chunked":
            self._unchunk(rest)
        elif rest:
            self.chunks = [rest]
            if len(rest) == int(self.headers.get("content-length", "-1")):
                self.end = "end"
        self.body = b"".join(self.chunks)

    def _unchunk(self, rest: bytes) -> None:
        at = 0
        while at < len(rest):
            line_end = rest.index(b"\r\n", at)
            size, begin = rest[at:line_end], line_end + 2
            if size == b"0":
                self.end = "end" if self.end == "open" else self.end
                assert rest[begin:] == b"\r\n"
                return
            if size == b"zz":
                return
            at = begin + int(size, 16)
            self.chunks.append(rest[begin:at])
            assert rest[at : at + 2] == b"\r\n"
            at += 2

    def events(self) -> list[Any]:
        """The data of the events: JSON, or the text that is none."""
        body = self.body
        if self.headers.get("content-encoding") == "gzip":
            body = zlib.decompressobj(wbits=31).decompress(body)
        parser = SSEParser()
        return [_value(event.data) for event in [*parser.feed(body), *parser.close()]]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


async def run(name: str, wire: str, *, for_s: float = 120.0, body: Any = None) -> Got:
    """One streaming request, treated by the scenario; time passes for `for_s` seconds."""
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
        line.ask(wire, body=body, x_scenario=name)
        await sim.wait_requests(1)
        await _settled(sim, clock, line)
        passed = 0.0
        while passed < for_s and clock.pending:
            await clock.advance(0.05 if for_s <= 1 else 5)
            passed += 0.05 if for_s <= 1 else 5
            await _settled(sim, clock, line)
        seen = sim.requests[0]
        # An end of the connection may still be on its way; silence is not.
        if seen.ended != "open" and not line.got.endswith((b"0\r\n\r\n", b"}")):
            await clock.until(lambda: line.end != "open")
        return Got(line.got, line.end, replace(seen))


async def _settled(sim: ModelSim, clock: FakeClock, line: Line) -> None:
    await sim.wait_idle()
    await clock.until(lambda: len(line.got) == sim.requests[0].sent or line.end != "open", limit=40)


class Read:
    """What a client can tell from the events: text, thoughts, calls, why it ended, usage, error, the last marker."""

    def __init__(self, wire: str, events: list[Any]) -> None:
        self.text = ""
        self.thought = ""
        self.refusal = ""
        self.calls: dict[Any, str] = {}
        self.finishes: list[str] = []
        self.tokens = 0
        self.errors: list[str] = []
        self.last = False
        self.odd: list[str] = []
        for event in events:
            if isinstance(event, str):
                self.last = self.last or event == "[DONE]"
                self.odd += [event] if event != "[DONE]" else []
            elif "error" in event and wire in "OG":
                self.errors.append(event["error"]["message"])
            else:
                getattr(self, f"_{wire.lower()}")(event)

    def _a(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "content_block_start" if event["content_block"]["type"] == "tool_use":
                self.calls[event["index"]] = ""
            case "content_block_delta":
                delta = event["delta"]
                self.text += delta.get("text", "")
                self.thought += delta.get("thinking", "")
                if "partial_json" in delta:
                    self.calls[event["index"]] += delta["partial_json"]
            case "message_delta":
                self.finishes.append(event["delta"]["stop_reason"])
                self.tokens = event["usage"]["input_tokens"] + event["usage"]["output_tokens"]
            case "message_stop":
                self.last = True
            case "error":
                self.errors.append(event["error"]["message"])

    def _o(self, event: dict[str, Any]) -> None:
        if event.get("usage"):
            self.tokens = event["usage"]["total_tokens"]
        for choice in event["choices"]:
            delta = choice["delta"]
            self.text += delta.get("content") or ""
            self.refusal += delta.get("refusal") or ""
            self.thought += delta.get("reasoning_content") or delta.get("reasoning") or ""
            for call in delta.get("tool_calls", []):
                key = call.get("index", 0)
                self.calls[key] = self.calls.get(key, "") + call["function"]["arguments"]
            if choice["finish_reason"]:
                self.finishes.append(choice["finish_reason"])

    def _r(self, event: dict[str, Any]) -> None:
        match event["type"].removeprefix("response."):
            case "output_text.delta":
                self.text += event["delta"]
            case "refusal.delta":
                self.refusal += event["delta"]
            case "reasoning_summary_text.delta":
                self.thought += event["delta"]
            case "output_item.added" if event["item"]["type"] == "function_call":
                self.calls[event["output_index"]] = ""
            case "function_call_arguments.delta":
                self.calls[event["output_index"]] += event["delta"]
            case "completed" | "incomplete":
                self.finishes.append(event["response"]["status"])
                self.tokens = event["response"]["usage"]["total_tokens"]
                self.last = True
            case "failed":
                self.errors.append(event["response"]["error"]["message"])
            case "error":
                self.errors.append(event["message"])

    def _g(self, event: dict[str, Any]) -> None:
        self.tokens = event.get("usageMetadata", {}).get("totalTokenCount", self.tokens)
        for candidate in event.get("candidates", []):
            for part in candidate["content"]["parts"]:
                if part.get("thought"):
                    self.thought += part["text"]
                else:
                    self.text += part.get("text", "")
                if "functionCall" in part:
                    self.calls[part["functionCall"]["id"]] = json.dumps(part["functionCall"].get("args"))
            if "finishReason" in candidate:
                self.finishes.append(candidate["finishReason"])
                self.last = True


# What an answer tells, and how its connection ends. Whatever stands in none of these tables fails the test below.

STOP = {"A": "end_turn", "O": "stop", "R": "completed", "G": "STOP"}
TWO = "Hello, wörld "

WHOLE = {
    "ok", "ok_slow", "keepalive", "slow_thinking", "slow_headers", "comments", "crlf", "cr", "mixed", "crlf_split",
    "bytewise", "bom", "nospace", "a_noevent", "r_noevent", "multi_data", "last_no_blank", "one_chunk", "gzip",
}  # fmt: skip
CUT = {
    "clean_eof_mid": "end", "raw_eof_mid": "fin", "fin_mid": "fin", "rst_mid": "rst", "stall_after_2": "open",
    "bad_chunk": "fin", "error_mid": "end", "error_mid_open": "open", "r_failed_mid": "end",
    "r_failed_mid_open": "open",
}  # fmt: skip
FINISHED = {
    "a_no_message_stop": "open", "a_open_after_stop": "open", "o_no_done": "open", "o_open_after_done": "open",
    "o_usage_late": "end", "o_usage_late_hang": "open", "o_usage_very_late": "end", "r_open_after_completed": "open",
    "g_no_close": "open", "rst_after_finish": "rst", "eof_after_finish": "end", "double_finish": "end",
}  # fmt: skip
LAST = {
    "a_open_after_stop", "o_open_after_done", "o_usage_late", "o_usage_very_late", "r_open_after_completed",
    "g_no_close", "double_finish",
}  # fmt: skip
REFUSED = {"400", "401", "429", "500", "503", "529"}
ELSEWHERE = {
    "r_no_completed", "r_no_completed_open", "done_without_finish", "empty_body", "error_first", "bad_json", "json_200",
    "html_200", "pings_forever", "comments_forever", "no_headers", "rst_on_connect", "half_headers",
    "half_headers_open", "not_http", "too_big_event", "flood", "flood_after_finish", "garbage_after_done",
    "tools_no_index", "tools_repeated_id", "tools_cut", "u2028", "big_event", "o_reasoning", "echo", "tools",
    "tools_twice", "tools_parallel", "tools_no_args", "tools_max_tokens", "thinking", "max_tokens", "filter", "refusal",
    "blocked", "burst_10k",
}  # fmt: skip


def test_every_scenario_is_in_exactly_one_table() -> None:
    tables = [WHOLE, set(CUT), set(FINISHED), REFUSED, ELSEWHERE]
    assert sorted(SCENARIOS) == sorted(name for table in tables for name in table)
    assert all(each.about and set(each.wires) <= set("AORG") for each in SCENARIOS.values())


@pytest.mark.parametrize(("name", "wire"), [case for case in CASES if case[0] in WHOLE])
async def test_a_whole_answer_is_whole_in_every_spelling(name: str, wire: Letter) -> None:
    got = await run(name, wire, body=body_of(wire, **_with_usage(wire)))
    read = Read(wire, got.events())
    assert (read.text, read.finishes, read.tokens, read.last) == (TEXT, [STOP[wire]], 42, True)
    assert not read.errors
    assert got.end == "end"
    assert (got.seen.ended, got.seen.status, got.seen.scenario) == ("completed", 200, name)


@pytest.mark.parametrize(("name", "wire"), [case for case in CASES if case[0] in CUT])
async def test_a_cut_answer_has_two_deltas_and_no_finish(name: str, wire: Letter) -> None:
    got = await run(name, wire)
    read = Read(wire, got.events())
    assert (read.text, read.finishes, read.last) == (TWO, [], False)
    assert got.end == CUT[name]
    broken = "error" in name or "failed" in name
    assert [LEAKED_KEY in said for said in read.errors] == [True] * broken
    ended = {"end": "completed", "fin": "completed", "rst": "reset", "open": "open"}[got.end]
    assert got.seen.ended == ended


@pytest.mark.parametrize(("name", "wire"), [case for case in CASES if case[0] in FINISHED])
async def test_a_finished_answer_ends_in_the_way_of_its_name(name: str, wire: Letter) -> None:
    got = await run(name, wire)
    read = Read(wire, got.events())
    # R and G say everything else together with their finish.
    last = name in LAST or wire in "RG"
    twice = 2 if name == "double_finish" else 1
    assert (read.text, read.finishes, read.last) == (TEXT, [STOP[wire]] * twice, last)
    assert read.tokens == (0 if name == "o_no_done" or (wire == "O" and name in _NO_USAGE) else 42)
    assert got.end == FINISHED[name]


_NO_USAGE = {"rst_after_finish", "eof_after_finish", "double_finish"}


def _with_usage(wire: str) -> dict[str, Any]:
    return {"stream_options": {"include_usage": True}} if wire == "O" else {}


@pytest.mark.parametrize(("name", "wire"), [case for case in CASES if case[0] in REFUSED])
async def test_refusals_have_the_providers_shape(name: str, wire: Letter) -> None:
    for stream in (True, False):
        clock = FakeClock()
        async with ModelSim(clock=clock, retry_after=2.5) as sim, connected(sim, clock) as line:
            line.ask(wire, stream=stream, x_scenario=name)
            status, headers, said = await line.reply()
        assert status == int(name)
        error = said["error"]
        assert error["message"]
        kinds = {"A": ("type", str), "O": ("type", str), "R": ("type", str), "G": ("status", str)}[wire]
        assert isinstance(error[kinds[0]], kinds[1])
        assert ("retry-after" in headers) == (name in ("429", "529"))
        if name == "429":
            assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "2500")
            assert error[kinds[0]] == {"A": "rate_limit_error", "G": "RESOURCE_EXHAUSTED"}.get(wire, "requests")
        if wire == "G":
            assert error["code"] == status


# Those that are like no other


async def test_pauses_are_taken_on_the_clock() -> None:
    for name, wire, seconds in [("o_usage_late", "O", 0.15), ("o_usage_very_late", "O", 3), ("slow_headers", "G", 30)]:
        clock = FakeClock()
        async with ModelSim(clock=clock) as sim, connected(sim, clock) as line:
            line.ask(wire, x_scenario=name)
            await sim.wait_requests(1)
            await sim.wait_idle()
            assert clock.pending == 1
            before = sim.requests[0].sent
            await clock.advance(seconds - 0.001)
            await sim.wait_idle()
            assert (sim.requests[0].sent, sim.requests[0].ended) == (before, "open")
            await clock.advance(0.001)
            await sim.wait_ended()
            assert sim.requests[0].sent > before
            assert sim.requests[0].closed_at == pytest.approx(clock.now())


async def test_a_slow_answer_comes_event_by_event() -> None:
    said = [Read("O", (await run("ok_slow", "O", for_s=each)).events()).text for each in (0.1, 0.2, 0.3)]
    assert said == ["", "Hello, ", TWO]


@pytest.mark.parametrize("wire", ["A", "O", "R", "G"])
async def test_keep_alives_come_without_end(wire: Letter) -> None:
    pings = await run("pings_forever", wire, for_s=0.5)
    comments = await run("comments_forever", wire, for_s=0.5)
    ping = b'event: ping\ndata: {"type":"ping"}\n\n' if wire == "A" else b": keep-alive\n\n"
    assert pings.chunks[-10:] == [ping] * 10
    assert comments.chunks[-10:] == [b": keep-alive\n\n"] * 10
    assert Read(wire, pings.events()).text == Read(wire, comments.events()).text == TWO
    assert pings.end == comments.end == "open"


@pytest.mark.parametrize("wire", ["A", "O", "R", "G"])
async def test_slow_thinking_says_nothing_but_pings_for_100_seconds(wire: Letter) -> None:
    got = await run("slow_thinking", wire, for_s=95)
    assert len(set(got.chunks)) == 1
    assert len(got.chunks) == 5
    assert got.end == "open"


async def test_response_ends_after_its_items() -> None:
    for name, end in [("r_no_completed", "end"), ("r_no_completed_open", "open")]:
        got = await run(name, "R")
        assert got.events()[-1]["type"] == "response.output_item.done"
        assert (Read("R", got.events()).text, got.end) == (TEXT, end)


async def test_done_without_finish_says_done_only() -> None:
    got = await run("done_without_finish", "O")
    read = Read("O", got.events())
    assert (read.text, read.finishes, read.last, got.end) == (TEXT, [], True, "end")


@pytest.mark.parametrize("wire", ["A", "O", "R", "G"])
async def test_bodies_without_an_answer(wire: Letter) -> None:
    empty = await run("empty_body", wire)
    assert (empty.body, empty.end, empty.headers["content-type"]) == (b"", "end", "text/event-stream; charset=utf-8")
    first = await run("error_first", wire)
    read = Read(wire, first.events())
    assert (read.text, len(read.errors), len(first.events()), first.end) == ("", 1, 1, "end")
    page = await run("html_200", wire)
    assert (page.seen.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"log in" in page.body
    said = await run("json_200", wire)
    assert (said.seen.status, said.headers["content-type"]) == (200, "application/json")
    assert json.loads(said.body)["error"]["message"]
    bad = await run("bad_json", wire)
    assert Read(wire, bad.events()).odd == ['{"oops']
    assert (Read(wire, bad.events()).text, bad.end) == ("Hello, ", "end")


@pytest.mark.parametrize("wire", ["A", "O", "R", "G"])
async def test_what_is_no_answer_at_all(wire: Letter) -> None:
    nothing = await run("no_headers", wire)
    assert (nothing.raw, nothing.end) == (b"", "open")
    half, half_open = await run("half_headers", wire), await run("half_headers_open", wire)
    assert half.raw == half_open.raw == b"HTTP/1.1 200 OK\r\ncontent-ty"
    assert (half.end, half_open.end) == ("fin", "open")
    other = await run("not_http", wire)
    assert (other.raw, other.end) == (b"SSH-2.0-simulated\r\n", "fin")
    reset = await run("rst_on_connect", wire)
    assert (reset.raw, reset.end, reset.seen.ended) == (b"", "rst", "reset")
    chunk = await run("bad_chunk", wire)
    assert chunk.raw.endswith(b"\r\nzz\r\nnonsense\r\n")


@pytest.mark.parametrize("wire", ["A", "O", "R", "G"])
@pytest.mark.parametrize("name", ["too_big_event", "flood", "flood_after_finish"])
async def test_floods_go_on_until_the_client_leaves(name: str, wire: Letter) -> None:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim:
        async with connected(sim, clock) as line:
            line.ask(wire, x_scenario=name)
            await clock.until(lambda: len(line.got) > 1_000_000, limit=40)
            got = line.got[:400_000]
            assert sim.requests[0].sent < 3_000_000
        await sim.wait_ended()
        assert sim.requests[0].ended == "client_closed"
    finish = {"A": b"message_delta", "O": b'"stop"', "R": b"response.completed", "G": b"STOP"}[wire]
    assert (finish in got) == (name == "flood_after_finish")
    assert (b"data: \r\n" in got) == (name == "too_big_event")


@pytest.mark.parametrize("wire", ["A", "O", "R", "G"])
async def test_garbage_comes_after_the_last_event(wire: Letter) -> None:
    got = await run("garbage_after_done", wire)
    read = Read(wire, got.events())
    assert (read.text, read.odd, read.last, got.end) == (TEXT + "garbage", ["xx"], True, "end")
    text = got.body.decode()
    marker = {"A": "message_stop", "O": "[DONE]", "R": "response.completed", "G": '"STOP"'}[wire]
    assert text.index(marker) < text.index("garbage") < text.index("xx")


@pytest.mark.parametrize("wire", ["A", "O", "G"])
async def test_the_second_finish_comes_after_the_last_delta(wire: Letter) -> None:
    said = [Read(wire, [event]) for event in (await run("double_finish", wire)).events()]
    order = [each.text or (each.finishes and "finish") for each in said if each.text or each.finishes]
    assert order == ["Hello, ", "wörld ", "你好🌍", "finish", " done.", "finish"]
