"""The chat client: what it says, when it ends, and what it never does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fake_provider import PIECES, SCENARIOS, TEXT, Fake, Peer, delta, fake_provider, refuse
from turnwire.agents.chat_reader import ModelStreamError
from turnwire.agents.remote import Bounds, OpenAIChat, chat_messages, openai_chat_agent
from turnwire.events import AgentEvent, Reasoning, Step, Usage
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789abcdef"
HELLO = [{"role": "user", "content": "hi"}]


class Run:
    """A stream being read: what it said so far, and how it ended."""

    def __init__(self, stream: AsyncGenerator[AgentEvent, None]) -> None:
        self.events: list[AgentEvent] = []
        self.error: ModelStreamError | None = None
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: AsyncGenerator[AgentEvent, None]) -> None:
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    self.events.append(event)
        except ModelStreamError as error:
            self.error = error

    @property
    def text(self) -> str:
        return "".join(event for event in self.events if isinstance(event, str))

    @property
    def usages(self) -> list[Usage]:
        return [event for event in self.events if isinstance(event, Usage)]

    @property
    def reasoning(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Reasoning))


@asynccontextmanager
async def running(
    name: Any, clock: FakeClock, *, keep: bool = False, **options: Any
) -> AsyncIterator[tuple[Fake, Run]]:
    async with fake_provider(name, clock) as fake:
        chat = OpenAIChat(fake.base_url, "fake-1", api_key=KEY, clock=clock, **options)
        if keep:
            await chat.__aenter__()
        run = Run(chat.stream(HELLO))
        try:
            yield fake, run
        finally:
            run.task.cancel()
            await asyncio.wait({run.task})
            await chat.__aexit__()


async def quiet(clock: FakeClock, fake: Fake) -> None:
    """Until the server has nothing to say without time passing, and the client has read it."""
    await clock.until(fake.idle.is_set)
    await clock.settle()


async def ended(clock: FakeClock, run: Run) -> None:
    await clock.until(run.task.done)
    await run.task


async def advance_to_end(clock: FakeClock, fake: Fake, run: Run, *, step: float, limit: float) -> float:
    """Moves time until the stream has ended; returns how much that took."""
    passed = 0.0
    await clock.until(lambda: fake.idle.is_set() or run.task.done())
    await clock.settle()
    while not run.task.done() and passed < limit:
        await clock.advance(step)
        passed += step
        await clock.settle()
    await ended(clock, run)
    return passed


# The stream as it should be, and every spelling of it

SPELLINGS = [
    "ok", "comments", "crlf", "cr", "crlf_split", "bytewise", "bom", "nospace", "multi_data", "last_no_blank",
    "garbage_after_done", "double_finish",
]  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
async def test_every_spelling_of_a_whole_answer_is_understood(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert run.events[0] == Step()
    assert run.text == TEXT
    assert run.usages == [
        Usage(input_tokens=30, output_tokens=12, total_tokens=42, model="fake-1", finish_reason="stop")
    ]
    assert run.events[-1] is run.usages[0]
    assert clock.pending == 0


@pytest.mark.parametrize("name", ["mixed", "eof_after_finish"])
async def test_the_end_of_the_body_ends_a_finished_answer_at_once(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages == [Usage(model="fake-1", finish_reason="stop")]


async def test_line_separators_of_unicode_stay_in_the_text() -> None:
    clock = FakeClock()
    async with running("u2028", clock) as (_, run):
        await ended(clock, run)
    assert run.text == "a\u2028b\u2029c\u0085d"


async def test_a_large_event_arrives() -> None:
    clock = FakeClock()
    async with running("big_event", clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert len(run.text) == 3_000_000


async def test_compressed_deltas_arrive_one_by_one() -> None:
    clock = FakeClock()
    async with running("gzip", clock) as (fake, run):
        await clock.until(lambda: run.text == PIECES[0])
        assert not run.task.done()
        fake.gate.set()
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
async def test_reasoning_is_told_apart_from_the_answer(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert run.reasoning == "Let me think."
    assert run.text == TEXT


@pytest.mark.parametrize(
    ("wire", "reason"),
    [("length", "length"), ("content_filter", "content-filter"), ("tool_calls", "tool-calls"), ("eos", "other")],
)
async def test_finish_reasons_get_their_own_names(wire: str, reason: str) -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        last: Any = {"choices": [{"index": 0, "delta": {}, "finish_reason": wire}]}
        await peer.say(delta("x"), last, "[DONE]")
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert [used.finish_reason for used in run.usages] == [reason]


async def test_a_refusal_is_shown_and_finishes_as_filtered() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(delta(refusal="I cannot."), {"choices": [{"delta": {}, "finish_reason": "stop"}]}, "[DONE]")
        await peer.end()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert run.text == "I cannot."
    assert run.usages[0].finish_reason == "content-filter"


async def test_done_without_a_finish_reason_is_an_end_of_an_unknown_kind() -> None:
    clock = FakeClock()
    async with running("done_without_finish", clock) as (_, run):
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages[0].finish_reason == "other"


# When it ends


async def test_after_the_finish_usage_is_awaited_for_one_second() -> None:
    clock = FakeClock()
    async with running("o_no_done", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.9)
        assert not run.task.done()
        await clock.advance(0.2)
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages == [Usage(model="fake-1", finish_reason="stop")]


async def test_the_end_marker_ends_the_answer_without_waiting() -> None:
    clock = FakeClock()
    async with running("o_open_after_done", clock) as (fake, run):
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert run.error is None
    assert run.usages[0].total_tokens == 42


async def test_late_usage_is_kept() -> None:
    clock = FakeClock()
    async with running("o_usage_late", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.15)
        await ended(clock, run)
    assert run.usages == [
        Usage(input_tokens=30, output_tokens=12, total_tokens=42, model="fake-1", finish_reason="stop")
    ]


async def test_after_usage_the_end_marker_is_awaited_for_a_third_of_a_second() -> None:
    clock = FakeClock()
    async with running("o_usage_late_hang", clock) as (fake, run):
        await quiet(clock, fake)
        fake.idle.clear()
        await clock.advance(0.15)
        await quiet(clock, fake)
        await clock.advance(0.25)
        assert not run.task.done()
        await clock.advance(0.1)
        await ended(clock, run)
    assert run.error is None
    assert run.usages[0].total_tokens == 42


async def test_usage_that_comes_too_late_is_not_waited_for() -> None:
    clock = FakeClock()
    async with running("o_usage_very_late", clock) as (fake, run):
        passed = await advance_to_end(clock, fake, run, step=0.1, limit=2)
    assert passed < 1.3
    assert run.error is None
    assert run.usages == [Usage(model="fake-1", finish_reason="stop")]


async def test_a_reset_after_the_finish_loses_nothing() -> None:
    clock = FakeClock()
    async with running("rst_after_finish", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.05)
        await ended(clock, run)
    assert run.error is None
    assert run.text == TEXT
    assert run.usages[0].finish_reason == "stop"


async def test_text_without_end_after_the_finish_is_cut_off() -> None:
    clock = FakeClock()
    async with running("flood_after_finish", clock) as (fake, run):
        await clock.until(lambda: len(run.text) > len(TEXT))
        passed = await flood(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert passed <= 1.2
    assert run.error is None
    assert run.text.startswith(TEXT + "!")


async def flood(clock: FakeClock, run: Run) -> float:
    passed = 0.0
    while not run.task.done() and passed < 5:
        await clock.advance(0.1)
        passed += 0.1
    return passed


# What is an error

CUT = [
    ("clean_eof_mid", "ended before its answer was complete"),
    ("raw_eof_mid", "ended before its answer was complete"),
    ("fin_mid", "connection to the model broke"),
    ("error_mid", "reported an error: overloaded"),
    ("error_mid_open", "reported an error: overloaded"),
]


@pytest.mark.parametrize(("name", "text"), CUT)
async def test_a_cut_answer_is_an_error_and_its_text_is_kept(name: str, text: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert text in str(run.error)
    assert run.text == "".join(PIECES[:2])
    assert run.usages == []
    assert clock.pending == 0


async def test_a_reset_in_the_answer_is_an_error() -> None:
    clock = FakeClock()
    async with running("rst_mid", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(0.05)
        await ended(clock, run)
    assert "connection to the model broke" in str(run.error)
    assert run.text == "".join(PIECES[:2])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty_body", "ended before its answer was complete"),
        ("done_only", "without an answer"),
        ("json_200", "sent application/json instead of an event stream: no such model"),
        ("html_200", "sent text/html instead of an event stream."),
        ("error_event", "reported an error: overloaded"),
        ("bad_json", "not JSON"),
    ],
)
async def test_what_is_no_answer_is_an_error_that_says_so(name: str, text: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (_, run):
        await ended(clock, run)
    assert text in str(run.error)
    assert run.usages == []


async def test_an_event_over_the_bound_is_an_error() -> None:
    clock = FakeClock()
    async with running("too_big_event", clock, max_event_bytes=1_000_000) as (fake, run):
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert "more than 1000000 bytes" in str(run.error)
    assert run.text == "".join(PIECES[:2])


async def test_what_a_provider_says_of_an_error_is_short_and_holds_no_secret() -> None:
    clock = FakeClock()
    async with running("error_mid", clock) as (_, run):
        await ended(clock, run)
    text = str(run.error)
    assert "overloaded key ***" in text
    assert "\n" not in text
    assert len(text) < 400


@pytest.mark.parametrize(
    ("status", "kind", "body", "expected"),
    [
        (
            "401 No",
            "application/json",
            f'{{"error":{{"message":"Wrong key {KEY}."}}}}',
            "401 Unauthorized: Wrong key ***",
        ),
        (
            "429 No",
            "application/json",
            '[{"error":{"message":"slow down"}}]',
            "answered 429 Too Many Requests: slow down",
        ),
        ("529 No", "application/json", '{"detail":"busy"}', "answered 529: busy"),
        ("502 No", "text/html", "<html>secret page</html>", "answered 502 Bad Gateway."),
        ("503 No", "text/plain", "no healthy upstream", "answered 503 Service Unavailable: no healthy upstream"),
        ("302 No", "text/plain", "", "answered 302 Found."),
    ],
)
async def test_a_refusal_names_its_status_and_its_reason(status: str, kind: str, body: str, expected: str) -> None:
    clock = FakeClock()
    async with running(lambda peer: refuse(peer, status, kind, body.encode()), clock) as (_, run):
        await ended(clock, run)
    assert expected in str(run.error)
    assert KEY not in str(run.error)
    assert run.error is not None
    assert run.error.status == int(status[:3])


async def test_the_body_of_a_refusal_is_not_waited_for_long() -> None:
    async def act(peer: Peer) -> None:
        await peer.head("application/json", status="500 No")
        await peer.send(b'{"error":')
        await peer.hang()

    clock = FakeClock()
    async with running(act, clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(2)
        await ended(clock, run)
    assert "answered 500 Internal Server Error." in str(run.error)


async def test_a_tool_that_was_not_offered_is_an_error_that_names_it() -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        await peer.say(delta("Let me see. "), delta(tool_calls=[call]))
        await peer.hang()

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert "get_weather" in str(run.error)
    assert run.text == "Let me see. "


async def test_a_server_that_is_not_there_is_named() -> None:
    async with fake_provider("ok") as fake:
        address = fake.base_url
    run = Run(OpenAIChat(address, "fake-1").stream(HELLO))
    await run.task
    assert "Cannot connect to the model at 127.0.0.1:" in str(run.error)


async def test_a_connection_closed_without_an_answer_is_named() -> None:
    async def act(peer: Peer) -> None:
        return None

    clock = FakeClock()
    async with running(act, clock) as (_, run):
        await ended(clock, run)
    assert "closed the connection without an answer" in str(run.error)


# Bounds


async def test_a_server_that_never_answers_is_given_up() -> None:
    clock = FakeClock()
    async with running("no_headers", clock) as (fake, run):
        await quiet(clock, fake)
        await clock.advance(59)
        assert not run.task.done()
        await clock.advance(1)
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert "did not answer within 60 s" in str(run.error)


async def test_a_stalled_stream_is_given_up() -> None:
    clock = FakeClock()
    async with running("stall_after_2", clock) as (fake, run):
        await clock.until(lambda: run.text == "".join(PIECES[:2]))
        await clock.advance(59)
        assert not run.task.done()
        await clock.advance(1)
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)
    assert "sent nothing for 60 s" in str(run.error)
    assert run.text == "".join(PIECES[:2])
    assert clock.pending == 0


@pytest.mark.parametrize("name", ["comments_forever", "pings_forever"])
async def test_keep_alives_do_not_count_as_an_answer(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (fake, run):
        passed = await advance_to_end(clock, fake, run, step=5, limit=400)
    assert 295 <= passed <= 305
    assert "only keep-alives for 300 s" in str(run.error)


async def test_keep_alives_keep_a_slow_model_alive() -> None:
    clock = FakeClock()
    async with running("slow_thinking", clock) as (fake, run):
        passed = await advance_to_end(clock, fake, run, step=10, limit=250)
    assert passed >= 200
    assert run.error is None
    assert run.text == TEXT


async def test_a_slow_reader_loses_nothing_and_is_no_stall() -> None:
    clock = FakeClock()
    async with fake_provider("bytewise", clock) as fake:
        said: list[AgentEvent] = []
        async for event in OpenAIChat(fake.base_url, "fake-1", clock=clock).stream(HELLO):
            said.append(event)
            await clock.advance(400)
    assert "".join(event for event in said if isinstance(event, str)) == TEXT
    assert isinstance(said[-1], Usage)


# Connections


@pytest.mark.parametrize("name", ["stall_after_2", "no_headers", "o_no_done"])
async def test_cancelling_the_agent_closes_the_connection(name: str) -> None:
    clock = FakeClock()
    async with running(name, clock) as (fake, run):
        await quiet(clock, fake)
        assert fake.open == 1
        run.task.cancel()
        await asyncio.wait({run.task})
        await clock.until(lambda: fake.open == 0)
    assert run.task.cancelled()
    assert clock.pending == 0


async def test_leaving_the_stream_closes_the_connection() -> None:
    clock = FakeClock()
    async with fake_provider("stall_after_2", clock) as fake:
        async with aclosing(OpenAIChat(fake.base_url, "fake-1", clock=clock).stream(HELLO)) as events:
            async for event in events:
                if isinstance(event, str):
                    break
        await clock.until(lambda: fake.open == 0)


async def test_a_close_that_hangs_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    stuck = asyncio.Event()

    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(delta("x"))
        await peer.hang()

    async def hang(self: object) -> None:
        await stuck.wait()

    monkeypatch.setattr("httpx2.Response.aclose", hang)
    async with running(act, clock) as (fake, run):
        await clock.until(lambda: run.text == "x")
        run.task.cancel()
        await clock.settle()
        assert not run.task.done()
        await clock.advance(1)
        await clock.until(run.task.done)
        stuck.set()
        await clock.until(lambda: fake.open == 0)


async def test_kept_open_it_uses_one_connection_for_all_turns() -> None:
    clock = FakeClock()
    async with fake_provider("ok", clock) as fake, OpenAIChat(fake.base_url, "fake-1", clock=clock) as chat:
        for _ in range(6):
            run = Run(chat.stream(HELLO))
            await ended(clock, run)
            assert run.text == TEXT
        assert fake.connections == 1


async def test_kept_open_it_waits_for_the_end_of_the_body_only_briefly() -> None:
    clock = FakeClock()
    async with running("o_open_after_done", clock, keep=True) as (fake, run):
        await clock.until(lambda: bool(run.usages))
        await clock.settle()
        assert not run.task.done()
        await clock.advance(0.05)
        await ended(clock, run)
        await clock.until(lambda: fake.open == 0)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    clock = FakeClock()
    async with running("ok", clock) as (_, run):
        await ended(clock, run)
    assert run.text == TEXT


async def test_a_proxy_that_was_set_is_used() -> None:
    async with fake_provider("ok") as fake:
        run = Run(
            OpenAIChat("http://model.invalid/v1", "fake-1", proxy=fake.base_url.removesuffix("/v1")).stream(HELLO)
        )
        await run.task
        assert run.text == TEXT
        assert fake.headers[0]["host"] == "model.invalid"


# The request


async def test_the_request_says_what_was_asked_for() -> None:
    clock = FakeClock()
    async with fake_provider("ok", clock) as fake:
        chat = OpenAIChat(fake.base_url + "/", "m", api_key=KEY, clock=clock, extra={"temperature": 0.5})
        run = Run(chat.stream(HELLO, max_tokens=7))
        await ended(clock, run)
    assert fake.requests == [
        {
            "model": "m",
            "messages": HELLO,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 7,
            "temperature": 0.5,
        }
    ]
    assert fake.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("address", ["", "host/v1", "ftp://host/v1", "http://", "http://user:hunter2@host:port/v1"])
def test_an_unusable_address_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(ValueError, match="base_url") as caught:
        OpenAIChat(address, "m")
    assert "hunter2" not in str(caught.value)


def test_an_unusable_key_or_proxy_is_refused_without_quoting_it() -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        OpenAIChat("http://host/v1", "m", api_key="hunter2\n")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ValueError, match="proxy") as caught:
        OpenAIChat("http://host/v1", "m", proxy="socks://u:hunter2@host")
    assert "hunter2" not in str(caught.value)


def a_turn(*messages: tuple[str, list[dict[str, Any]]], quote: str | None = None) -> Any:
    return SimpleNamespace(
        messages=[{"id": "m", "role": role, "parts": parts} for role, parts in messages], quote=quote
    )


def test_the_conversation_becomes_chat_messages() -> None:
    file = {"type": "file", "filename": "a.pdf", "mediaType": "application/pdf", "url": "x"}
    thought = {"type": "reasoning", "text": "hm"}
    tool = {"type": "tool-x", "state": "output-available"}
    turn = a_turn(
        ("user", [{"type": "text", "text": "What is in it?"}, file]),
        ("assistant", [thought, {"type": "text", "text": "A table."}, tool]),
        ("assistant", [thought]),
        ("user", [{"type": "text", "text": "And this?"}]),
        quote="A table.\nMore",
    )
    assert chat_messages(turn, "Be brief.") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is in it?\n[attached file: a.pdf, application/pdf]"},
        {"role": "assistant", "content": "A table."},
        {"role": "user", "content": "> A table.\n> More\n\nAnd this?"},
    ]


async def test_the_agent_sends_the_conversation_and_says_the_answer() -> None:
    clock = FakeClock()
    async with fake_provider("ok", clock) as fake:
        agent = openai_chat_agent(fake.base_url, "m", instructions="Be brief.", clock=clock)
        run = Run(agent(a_turn(("user", [{"type": "text", "text": "hi"}]))))
        await ended(clock, run)
        assert run.text == TEXT
        assert fake.requests[0]["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
        ]


def test_every_scenario_is_used() -> None:
    with open(__file__, encoding="utf-8") as source:
        text = source.read()
    assert [name for name in SCENARIOS if f'"{name}"' not in text] == []


def test_bounds_are_the_documented_ones() -> None:
    assert Bounds() == Bounds(first_byte=60, idle_bytes=60, idle_events=300, usage_grace=1, end_grace=0.3, close=1)
