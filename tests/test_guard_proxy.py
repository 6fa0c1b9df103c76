"""The guard in front of a program with a client of its own: here the bare Anthropic library, which would hang."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import pytest

from turnwire.agents.guard import Limits
from turnwire.agents.guard_proxy import GuardProxy
from turnwire.sim.models import LEAKED_KEY, TEXT, ModelSim
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

KEY = "sk-ant-key-of-the-test"
ASKED: list[Any] = [{"role": "user", "content": "hi"}]


class Line:
    """A simulated provider, the proxy in front of it, and a bare client that knows only the proxy."""

    def __init__(self, sim: ModelSim, proxy: GuardProxy, clock: FakeClock, http: httpx2.AsyncClient) -> None:
        self.sim = sim
        self.proxy = proxy
        self.clock = clock
        self.client = anthropic.AsyncAnthropic(base_url=proxy.url, api_key=KEY, http_client=http, max_retries=0)
        self.said = ""

    async def read(self) -> None:
        stream = await self.client.messages.create(model="m", max_tokens=99, messages=ASKED, stream=True)
        async for event in stream:
            if event.type == "content_block_delta":
                self.said += getattr(event.delta, "text", "")

    async def passing(self) -> BaseException | None:
        """Reads to the end, moving time while everybody waits for it; returns what the reader raised."""
        run = asyncio.ensure_future(self.read())
        while not run.done():
            await self.clock.until(lambda: run.done() or self.clock.pending > 0)
            quiet = asyncio.ensure_future(self.sim.wait_idle())
            await self.clock.until(lambda quiet=quiet: run.done() or quiet.done())  # type: ignore[misc]
            quiet.cancel()
            if not run.done():
                await self.clock.advance(0.05)
        [error] = await asyncio.gather(run, return_exceptions=True)
        return error


@asynccontextmanager
async def line(scenario: str) -> AsyncIterator[Line]:
    clock = FakeClock()
    async with ModelSim(clock=clock, key=KEY) as sim:
        limits = Limits(idle_bytes=5.0, first_byte=5.0)
        async with (
            GuardProxy(sim.base_url("A", scenario), limits=limits, clock=clock) as proxy,
            httpx2.AsyncClient(trust_env=False) as http,
        ):
            yield Line(sim, proxy, clock, http)


@pytest.mark.parametrize("scenario", ["ok", "a_no_message_stop", "a_open_after_stop", "a_noevent", "crlf", "gzip"])
async def test_a_whole_answer_ends_whatever_the_provider_does(scenario: str) -> None:
    async with line(scenario) as at:
        assert await at.passing() is None
        assert at.said == TEXT


@pytest.mark.parametrize("scenario", ["clean_eof_mid", "rst_mid", "stall_after_2", "error_mid_open", "tools_cut"])
async def test_a_cut_answer_is_an_error_in_the_providers_own_form(scenario: str) -> None:
    async with line(scenario) as at:
        error = await at.passing()
        assert isinstance(error, anthropic.APIStatusError)
        assert "api_error" in str(error)
        assert LEAKED_KEY not in str(error)
        assert KEY not in str(error)


@pytest.mark.parametrize("scenario", ["401", "529"])
async def test_a_refusal_passes_as_it_is(scenario: str) -> None:
    async with line(scenario) as at:
        error = await at.passing()
        assert isinstance(error, anthropic.APIStatusError)
        assert error.status_code == int(scenario)


async def test_silence_is_answered_with_an_error() -> None:
    async with line("no_headers") as at:
        error = await at.passing()
        assert isinstance(error, anthropic.InternalServerError)
        assert error.status_code == 502
        assert "did not answer within 5 s" in str(error)


async def test_a_program_that_leaves_closes_the_providers_stream() -> None:
    async with line("stall_after_2") as at:
        run = asyncio.ensure_future(at.read())
        await at.sim.wait_requests(1)
        await at.sim.wait_idle()
        await at.clock.until(lambda: at.said != "")
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await at.client.close()
        await at.sim.wait_ended()
        assert at.sim.requests[0].ended == "client_closed"


async def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(ValueError, match="write https://HOST"):
        GuardProxy("api.anthropic.com")
