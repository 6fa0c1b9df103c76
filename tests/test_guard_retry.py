"""A request is made again only while nobody has seen a word of its answer, and not sooner than the provider asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.guard_sdks import SDKS, Said
from turnwire.agents.guard import GuardError, Limits, Retries, guarded_client
from turnwire.sim.models import TEXT, ModelSim
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

AT_ONCE = Retries(first_pause=0.0)
LIMITS = Limits(first_byte=10.0, drain=0.0)
BODY = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'


@asynccontextmanager
async def provider(retries: Retries = AT_ONCE) -> AsyncIterator[tuple[ModelSim, httpx2.AsyncClient, FakeClock]]:
    clock = FakeClock()
    async with ModelSim(clock=clock) as sim, guarded_client(limits=LIMITS, clock=clock, retries=retries) as client:
        yield sim, client, clock


async def said_by(name: str, sim: ModelSim, client: httpx2.AsyncClient, clock: FakeClock) -> Said:
    """What an SDK's reader saw; time passes as long as it takes."""
    said = Said()

    began = clock.monotonic()
    run = asyncio.ensure_future(SDKS[name][1](client, sim, "ok", said))
    await passing(run, sim, clock)
    [said.error] = await asyncio.gather(run, return_exceptions=True)
    said.took = clock.monotonic() - began
    return said


async def passing(run: asyncio.Future[None], sim: ModelSim, clock: FakeClock) -> None:
    """Moves time while both sides wait for it, until `run` is done."""
    while not run.done():
        await clock.until(lambda: run.done() or clock.pending > 0)
        quiet = asyncio.ensure_future(sim.wait_idle())
        await clock.until(lambda quiet=quiet: run.done() or quiet.done())  # type: ignore[misc]
        quiet.cancel()
        await clock.settle()
        if not run.done():
            await clock.advance(0.05)


@pytest.mark.parametrize("name", SDKS)
@pytest.mark.parametrize("first", ["rst_on_connect", "no_headers", "429", "503", "529", "error_first", "empty_body"])
async def test_what_fails_before_its_first_word_is_asked_for_again(name: str, first: str) -> None:
    async with provider() as (sim, client, clock):
        sim.plan([first, "ok"])
        said = await said_by(name, sim, client, clock)
        assert (said.text, said.error) == (TEXT, None)
        assert len(said.finishes) == 1


@pytest.mark.parametrize("name", SDKS)
@pytest.mark.parametrize("first", ["clean_eof_mid", "rst_mid", "error_mid", "stall_after_2"])
async def test_what_fails_after_it_spoke_is_not(name: str, first: str) -> None:
    async with provider() as (sim, client, clock):
        sim.plan([first, "ok"])
        said = await said_by(name, sim, client, clock)
        assert said.error is not None
        assert TEXT.startswith(said.text)
        assert len(sim.requests) == 1


@pytest.mark.parametrize("status", ["401", "400"])
async def test_what_would_be_refused_again_is_not_asked_again(status: str) -> None:
    async with provider() as (sim, client, _):
        sim.plan([status, "ok"])
        response = await client.post(
            f"{sim.base_url('O')}/chat/completions", content=BODY, headers={"authorization": "Bearer k"}
        )
        assert response.status_code == int(status)
        assert len(sim.requests) <= 1


async def test_the_attempts_are_bounded_and_the_last_failure_is_told() -> None:
    async with provider(Retries(attempts=3, first_pause=1.0)) as (sim, client, clock):
        sim.plan(["503"] * 5)
        said = await said_by("openai-chat", sim, client, clock)
        assert "503" in str(said.error)
        assert len(sim.requests) == 3
        assert 1 + 2 <= said.took <= 1.5 + 3 + 0.01


async def test_a_provider_that_says_when_is_asked_then() -> None:
    async with provider() as (sim, client, clock):
        sim.plan(["429", "ok"])
        said = await said_by("openai-chat", sim, client, clock)
        assert said.text == TEXT
        assert said.took >= 1.0


async def test_a_provider_that_asks_for_too_long_a_pause_is_not_asked_again() -> None:
    async with provider(Retries(first_pause=0.0, longest_pause=0.5)) as (sim, client, clock):
        sim.plan(["429", "ok"])
        said = await said_by("openai-chat", sim, client, clock)
        assert "429" in str(said.error)
        assert len(sim.requests) == 1


async def test_a_second_attempt_that_is_refused_leaves_the_first_failure() -> None:
    async with provider() as (sim, client, clock):
        sim.plan(["empty_body", "401"])
        said = await said_by("openai-chat", sim, client, clock)
        assert said.kind == "truncated"
        assert len(sim.requests) == 2


async def test_a_body_that_cannot_be_sent_twice_is_sent_once() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield BODY

    async with provider() as (sim, client, _):
        sim.plan(["503", "ok"])
        headers = {"authorization": "Bearer k", "accept": "text/event-stream"}
        response = await client.post(f"{sim.base_url('O')}/chat/completions", content=body(), headers=headers)
        assert response.status_code == 503


async def test_the_first_words_come_when_they_are_said() -> None:
    async with provider() as (sim, client, clock):
        url = f"{sim.base_url('A', 'stall_after_2')}/v1/messages"
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        content = BODY.replace(b'"stream"', b'"max_tokens": 9, "stream"')
        async with client.stream("POST", url, content=content, headers=headers) as response:
            pieces = response.aiter_bytes()
            seen = await anext(pieces)
            assert b"message_start" in seen
            assert b"content_block_delta" in seen
            left = asyncio.ensure_future(_rest(pieces))
            await passing(left, sim, clock)
            with pytest.raises(GuardError) as failed:
                await left
            assert failed.value.partial


async def _rest(pieces: AsyncIterator[bytes]) -> None:
    async for _ in pieces:
        pass
