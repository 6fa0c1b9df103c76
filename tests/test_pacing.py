"""Pacing: limits hold for whoever asks, who asked first goes first, and what is urgent does not stand behind frames."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwire.delivery.pacing import Limit, LocalPacer
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


async def passed(
    asks: list[tuple[float, bool, list[str]]], limits: dict[str, Limit]
) -> list[tuple[float, int, bool, list[str]]]:
    """When each ask `(at, urgent, buckets)` passed: `(when, which, urgent, buckets)` in that order."""
    clock = FakeClock(rounds=10)
    pacer, done = LocalPacer(clock), list[tuple[float, int, bool, list[str]]]()

    async def one(index: int, urgent: bool, keys: list[str]) -> None:
        await pacer.take([(key, limits[key]) for key in keys], urgent=urgent)
        done.append((clock.monotonic(), index, urgent, keys))

    start, tasks = clock.monotonic(), []
    for index, (at, urgent, keys) in sorted(enumerate(asks), key=lambda pair: (pair[1][0], pair[0])):
        await clock.advance(max(start + at - clock.monotonic(), 0.0))
        tasks.append(asyncio.create_task(one(index, urgent, keys)))
        await clock.settle()
    await clock.advance(1000.0)
    assert all(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    return done


def within(times: list[float], limit: Limit, depth: float) -> bool:
    """Whether never more passed than `depth` at once and `rate` a second."""
    return all(
        last - first + 1 <= depth + (times[last] - times[first]) * limit.rate + 1e-3
        for first in range(len(times))
        for last in range(first, len(times))
    )


LIMITS = {"card": Limit(2.0, 1), "chat": Limit(5.0, 5, spare=0.4), "app": Limit(10.0, 8, spare=0.25)}
asks = st.lists(
    st.tuples(
        st.floats(0, 3), st.booleans(), st.sampled_from([["app"], ["chat", "app"], ["card", "chat", "app"], ["card"]])
    ),
    max_size=40,
)


@settings(max_examples=40)
@given(asks=asks)
async def test_no_bucket_is_passed_faster_than_its_rate(asks: list[tuple[float, bool, list[str]]]) -> None:
    done = await passed(asks, LIMITS)
    assert len(done) == len(asks)
    for key, limit in LIMITS.items():
        assert within([at for at, _, _, keys in done if key in keys], limit, limit.burst)
        frames = [at for at, _, urgent, keys in done if key in keys and not urgent]
        assert within(frames, limit, limit.depth(urgent=False))


@settings(max_examples=40)
@given(count=st.integers(1, 30), urgent=st.booleans())
async def test_who_asked_first_goes_first(count: int, urgent: bool) -> None:
    done = await passed([(0.01 * index, urgent, ["app"]) for index in range(count)], LIMITS)
    assert [index for _, index, _, _ in done] == list(range(count))


async def test_what_is_urgent_goes_before_frames_that_wait() -> None:
    slow = {"app": Limit(1.0, 4, spare=0.5)}
    done = await passed([(0.0, False, ["app"])] * 10 + [(0.1, True, ["app"])] * 2, slow)
    urgent = [at - done[0][0] for at, _, is_urgent, _ in done if is_urgent]
    assert urgent == [pytest.approx(0.1)] * 2
    assert [at - done[0][0] for at, _, is_urgent, _ in done if not is_urgent][:3] == [0, 0, pytest.approx(3.0, abs=0.2)]


async def test_a_bucket_of_ones_own_does_not_hold_others_up() -> None:
    limits = {"card one": Limit(0.01, 1), "card two": Limit(0.01, 1), "app": Limit(100.0, 10)}
    done = await passed(
        [(0.0, False, ["card one", "app"]), (0.1, False, ["card one", "app"]), (0.2, False, ["card two", "app"])],
        limits,
    )
    assert [index for _, index, _, _ in done] == [0, 2, 1]


async def test_nothing_passes_a_bucket_that_the_platform_has_closed() -> None:
    clock = FakeClock(rounds=10)
    pacer, limit = LocalPacer(clock), Limit(100.0, 10)
    pacer.penalise("app", 7.0)
    pacer.penalise("app", 3.0)
    waiting: Any = [asyncio.create_task(pacer.take([("app", limit)], urgent=urgent)) for urgent in (False, True)]
    await clock.advance(6.9)
    assert not any(task.done() for task in waiting)
    await clock.advance(0.2)
    assert all(task.done() for task in waiting)
    await asyncio.wait_for(pacer.take([("other", limit)]), 20)
    await pacer.take([])


async def test_who_gives_up_waiting_takes_nothing() -> None:
    clock = FakeClock(rounds=10)
    pacer, limit = LocalPacer(clock), Limit(1.0, 1)
    await pacer.take([("app", limit)])
    gone = asyncio.create_task(pacer.take([("app", limit)]))
    after = asyncio.create_task(pacer.take([("app", limit)]))
    await clock.settle()
    gone.cancel()
    await clock.advance(1.1)
    assert after.done()
