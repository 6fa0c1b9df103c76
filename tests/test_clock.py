"""The clock that tests move, and the two helpers that wait on a clock."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.clock import Clock, SystemClock, sleep, wait
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


async def test_time_stands_still_until_it_is_advanced() -> None:
    clock: Clock = (fake := FakeClock(now=5000.0))
    wall, monotonic = clock.now(), clock.monotonic()
    await fake.settle()
    assert (clock.now(), clock.monotonic()) == (wall, monotonic)
    await fake.advance(12.5)
    assert (clock.now(), clock.monotonic()) == (wall + 12.5, monotonic + 12.5)
    assert wall == 5000.0
    assert monotonic != wall


async def test_timers_run_in_the_order_of_their_times_at_exactly_those_times() -> None:
    clock = FakeClock()
    start = clock.monotonic()
    seen: list[tuple[str, float]] = []
    for name, delay in [("c", 3.0), ("a", 1.0), ("b", 2.0), ("late", 5.1)]:
        clock.call_later(delay, lambda name=name: seen.append((name, clock.monotonic() - start)))  # type: ignore[misc]
    await clock.advance(5)
    assert seen == [("a", 1.0), ("b", 2.0), ("c", 3.0)]
    assert clock.monotonic() == start + 5
    assert clock.pending == 1


async def test_timers_of_one_instant_run_in_the_order_in_which_they_were_set() -> None:
    clock = FakeClock()
    seen: list[int] = []
    for number in range(20):
        clock.call_later(1, lambda number=number: seen.append(number))  # type: ignore[misc]
    await clock.advance(1)
    assert seen == list(range(20))


async def test_a_cancelled_timer_never_runs_also_when_a_timer_of_its_instant_cancels_it() -> None:
    clock = FakeClock()
    seen: list[str] = []
    early = clock.call_later(1, lambda: seen.append("early"))
    clock.call_later(2, lambda: twin.cancel())
    twin = clock.call_later(2, lambda: seen.append("twin"))
    early.cancel()
    assert clock.pending == 2
    await clock.advance(10)
    assert seen == []
    assert clock.pending == 0


async def test_what_a_timer_wakes_runs_before_the_next_timer() -> None:
    clock = FakeClock()
    start = clock.monotonic()
    woken: list[float] = []

    async def tick() -> None:
        for _ in range(3):
            await sleep(clock, 2)
            woken.append(clock.monotonic() - start)

    task = asyncio.create_task(tick())
    await clock.advance(5)
    assert woken == [2.0, 4.0]
    assert not task.done()
    await clock.advance(1)
    assert woken == [2.0, 4.0, 6.0]
    assert task.done()
    assert clock.pending == 0


async def test_settle_lets_a_chain_of_tasks_run_to_its_end() -> None:
    clock = FakeClock()

    async def chain(depth: int) -> int:
        return 0 if depth == 0 else 1 + await asyncio.create_task(chain(depth - 1))

    task = asyncio.create_task(chain(10))
    await clock.settle()
    assert task.done()
    assert task.result() == 10


async def test_a_delay_of_zero_or_less_needs_no_advance() -> None:
    clock = FakeClock()
    before = clock.now()
    await sleep(clock, 0)
    await sleep(clock, -1)
    assert clock.now() == before
    seen: list[int] = []
    clock.call_later(0, lambda: seen.append(1)).cancel()
    await clock.settle()
    assert seen == []


async def test_an_error_in_a_timer_reaches_the_test_and_costs_no_other_timer() -> None:
    clock = FakeClock()
    start = clock.now()
    after: list[float] = []
    clock.call_later(1, lambda: 1 / 0)
    clock.call_later(1, lambda: after.append(clock.now() - start))
    clock.call_later(2, lambda: after.append(clock.now() - start))
    with pytest.raises(ZeroDivisionError):
        await clock.advance(5)
    assert clock.now() == start + 1
    await clock.advance(1)
    assert after == [1.0, 2.0]


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
async def test_time_moves_only_forward_and_not_without_end(seconds: float) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="advance"):
        await clock.advance(seconds)
    assert clock.now() == FakeClock().now()


async def test_a_delay_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        FakeClock().call_later(math.nan, lambda: None)


async def test_two_advances_at_once_are_refused() -> None:
    clock = FakeClock()
    clock.call_later(1, lambda: None)
    first = asyncio.create_task(clock.advance(2))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another advance"):
        await clock.advance(1)
    await first


async def test_until_waits_for_what_comes_from_a_thread() -> None:
    clock = FakeClock()
    before = clock.now()
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(done.set))
    thread.start()
    await clock.until(done.is_set)
    thread.join()
    assert clock.now() == before


async def test_until_gives_up() -> None:
    with pytest.raises(TimeoutError, match="did not come true"):
        await FakeClock().until(lambda: False, limit=0.0)


async def test_wait_tells_a_result_from_a_timeout_and_leaves_no_timer() -> None:
    clock = FakeClock()
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait(clock, {answer}, 5))
    await clock.advance(5)
    assert await waiting is False
    assert not answer.cancelled()
    waiting = asyncio.create_task(wait(clock, {answer}, 5))
    await clock.advance(4)
    answer.set_result(42)
    await clock.settle()
    assert await waiting is True
    assert await wait(clock, {answer}, None) is True
    assert clock.pending == 0


async def test_a_cancelled_sleep_takes_its_timer_back() -> None:
    clock = FakeClock()
    task = asyncio.create_task(sleep(clock, 60))
    await clock.settle()
    assert clock.pending == 1
    task.cancel()
    await clock.settle()
    assert task.cancelled()
    assert clock.pending == 0


async def test_the_machines_clock_goes_forward_and_runs_timers() -> None:
    clock: Clock = SystemClock()
    wall, before = clock.now(), clock.monotonic()
    await sleep(clock, 0)
    assert clock.monotonic() >= before
    assert wall > 1_700_000_000


@given(delays=st.lists(st.floats(0.001, 1e6), max_size=20), steps=st.lists(st.floats(0, 1e6), max_size=8))
async def test_however_time_is_cut_into_steps_every_timer_runs_once_and_on_time(
    delays: list[float], steps: list[float]
) -> None:
    clock = FakeClock(rounds=1)
    start = clock.monotonic()
    ran: list[tuple[float, float]] = []
    for delay in delays:
        clock.call_later(delay, lambda delay=delay: ran.append((delay, clock.monotonic())))  # type: ignore[misc]
    for step in steps:
        await clock.advance(step)
    moved = clock.monotonic()
    assert ran == [(delay, start + delay) for delay in sorted(delays)][: len(ran)]
    assert all(at <= moved for _, at in ran)
    assert len(ran) + clock.pending == len(delays)
    assert all(start + delay >= moved for delay in sorted(delays)[len(ran) :])
