"""Limits that processes share through a real Redis-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from turnwire.clock import SystemClock
from turnwire.config import load_config
from turnwire.delivery.pacing import Limit, LocalPacer, pacer_for
from turnwire.delivery.shared_pacing import SharedPacer

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def processes(url: str, count: int) -> AsyncIterator[list[SharedPacer]]:
    prefix = f"test:{secrets.token_hex(6)}:"
    made = [SharedPacer(url, SystemClock(), prefix=prefix) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()


async def test_processes_together_keep_to_a_limit(redis_url: str) -> None:
    clock, limit = SystemClock(), Limit(100.0, 5, spare=0.0)
    async with processes(redis_url, 3) as pacers:
        start = clock.monotonic()
        await asyncio.gather(*(pacers[n % 3].take([("card", Limit(1000, 50)), ("app", limit)]) for n in range(25)))
        assert clock.monotonic() - start >= (25 - 5) / limit.rate - 0.01


async def test_urgent_acts_have_a_share_of_their_own(redis_url: str) -> None:
    limit = Limit(0.001, 4, spare=0.5)
    async with processes(redis_url, 2) as (one, two):
        await one.take([("app", limit)])
        await two.take([("app", limit)])
        frame = asyncio.create_task(one.take([("app", limit)]))
        await asyncio.wait_for(two.take([("app", limit)], urgent=True), 20)
        assert not frame.done()
        frame.cancel()


async def test_what_one_process_was_told_holds_for_all(redis_url: str) -> None:
    limit = Limit(100.0, 10)
    async with processes(redis_url, 2) as (one, two):
        await two.take([("app", limit)])
        one.penalise("app", 60.0)
        await asyncio.gather(*one._tasks)
        waits = asyncio.create_task(two.take([("app", limit)], urgent=True))
        await asyncio.wait_for(two.take([("other", limit)]), 20)
        assert not waits.done()
        waits.cancel()


async def test_without_redis_each_process_keeps_to_limits_and_says_so_once() -> None:
    clock, limit = SystemClock(), Limit(100.0, 1, spare=0.0)
    async with processes("redis://127.0.0.1:1/0", 1) as (one,):
        with capture_logs() as logs:
            start = clock.monotonic()
            for _ in range(6):
                await one.take([("app", limit)])
        assert clock.monotonic() - start >= 0.049
        assert [log["log_level"] for log in logs] == ["warning"]
        assert "not shared" in logs[0]["event"]


async def test_the_configuration_decides(redis_url: str) -> None:
    alone = pacer_for(load_config(env={}), SystemClock())
    assert isinstance(alone, LocalPacer)
    shared = pacer_for(load_config(env={}, overrides={"relay": {"url": redis_url}}), SystemClock())
    assert isinstance(shared, SharedPacer)
    await shared.close()
