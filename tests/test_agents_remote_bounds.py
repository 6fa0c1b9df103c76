"""The chat client: how long it waits, what it does with connections, and what it asks for."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chat_runs import HELLO, KEY, Run, advance_to_end, ended, quiet, running
from tests.fake_provider import PIECES, SCENARIOS, TEXT, Peer, delta, fake_provider
from turnwire.agents.remote import Bounds, OpenAIChat, chat_messages, openai_chat_agent
from turnwire.events import AgentEvent, Usage
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

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


async def test_a_reader_that_pauses_makes_the_server_wait() -> None:
    clock = FakeClock()
    async with fake_provider("flood", clock) as fake:
        async with aclosing(OpenAIChat(fake.base_url, "fake-1", clock=clock).stream(HELLO)) as events:
            async for event in events:
                if isinstance(event, str):
                    break
            before, still = 0, 0
            while still < 20 and fake.sent < 100_000_000:
                still = still + 1 if before == fake.sent else 0
                before = fake.sent
                await clock.settle()
            assert fake.sent < 100_000_000
        await clock.until(lambda: fake.open == 0)


async def test_after_the_finish_even_a_slow_reader_gets_to_the_end() -> None:
    clock = FakeClock()
    async with fake_provider("flood_after_finish", clock) as fake:
        said: list[AgentEvent] = []
        async with aclosing(OpenAIChat(fake.base_url, "fake-1", clock=clock).stream(HELLO)) as events:
            async for event in events:
                said.append(event)
                if len(said) > 1000:
                    break
                await clock.advance(0.01)
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
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_agents_*.py"))
    assert [name for name in SCENARIOS if f'"{name}"' not in text] == []


def test_bounds_are_the_documented_ones() -> None:
    assert Bounds() == Bounds(first_byte=60, idle_bytes=60, idle_events=300, usage_grace=1, end_grace=0.3, close=1)
