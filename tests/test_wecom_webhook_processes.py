"""WeCom in webhook mode while processes die and answers are lost: what people see, whoever answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.feishu_rig import Told, saying
from tests.wecom_hook_rig import HookRig, hooked, right
from turnwire.channels.wecom.hook_pages import bubble_pages
from turnwire.sim.wecom import Fault
from turnwire.store.queries.deliveries import note_asked, save_receipt, save_state
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


async def test_another_process_goes_on_with_a_bubble_after_a_kill(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("One, ")
        await rig.until(lambda: rig.shows("One,"))
        first = rig.process
        await first.kill()
        await rig.pass_time(3)
        second = await rig.start()
        told.say("two, ")
        await rig.until(lambda: rig.shows("One, two,"))
        told.say("three.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert (rig.texts(), rig.states) == (["One, two, three."], ["finished"])
        assert rig.door.served[-1] is second
        right(rig)


@pytest.mark.parametrize("op", ["note_asked", "was_asked"])
async def test_a_kill_while_a_bubble_ends_loses_and_repeats_nothing(
    tmp_path: Path, clock: FakeClock, op: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("One, ")
        await rig.until(lambda: rig.shows("One,"))
        process = rig.process
        ask = rig.gateway.db.read if op == "was_asked" else rig.gateway.db.run

        async def dying(query: Any, *args: Any, **more: Any) -> Any:
            if getattr(query, "__name__", "") == op and str(args[-2 if op == "note_asked" else -1]).endswith("-end"):
                if op == "note_asked":
                    await ask(query, *args, **more)
                process.dead = True
                await asyncio.get_running_loop().create_future()
            return await ask(query, *args, **more)

        monkeypatch.setattr(rig.gateway.db, "read" if op == "was_asked" else "run", dying)
        told.say("two.")
        told.end()
        await rig.until(lambda: process.dead)
        await process.kill()
        monkeypatch.setattr(rig.gateway.db, "read" if op == "was_asked" else "run", ask)
        await rig.start()
        [row] = await rig.settled()
        await rig.pass_time(3)
        assert row.outcome == "shown"
        assert (rig.texts(), rig.states) == (["One, two."], ["finished"])
        right(rig)


def die_at_write(rig: HookRig, monkeypatch: pytest.MonkeyPatch, number: int, *, applied: bool) -> None:
    """The newest process dies at its n-th write from 0 about deliveries, before or after that is applied."""
    process, run, writes = rig.process, rig.gateway.db.run, 0

    async def dying(query: Any, *args: Any, **more: Any) -> Any:
        nonlocal writes
        if query not in (save_state, save_receipt, note_asked):
            return await run(query, *args, **more)
        writes += 1
        last = writes == number + 1
        if not last or applied:
            found = await run(query, *args, **more)
        if last:
            process.dead = True
            await asyncio.get_running_loop().create_future()
        return found

    monkeypatch.setattr(rig.gateway.db, "run", dying)


@pytest.mark.heavy
@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("number", [0, 1, 2, 3])
async def test_a_kill_while_an_answer_is_posted_loses_and_repeats_nothing(
    tmp_path: Path, clock: FakeClock, number: int, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(400)
        die_at_write(rig, monkeypatch, number, applied=applied)
        process = rig.process
        told.say("It ends.")
        told.end()
        await rig.pass_time(5)
        assert process.dead == (number < 3)
        await process.kill()
        await rig.start()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert rig.texts()[1:] == ["It ends."]
        right(rig)


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("number", range(8))
async def test_a_kill_at_any_write_loses_and_repeats_nothing(
    tmp_path: Path, clock: FakeClock, number: int, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked(tmp_path, saying("Hello ", 3.0, "there.", clock=clock), clock=clock) as rig:
        die_at_write(rig, monkeypatch, number, applied=applied)
        process = rig.process
        rig.say("hi")
        await rig.until(lambda: process.dead)
        await process.kill()
        await rig.start()
        [row] = await rig.settled()
        await rig.pass_time(3)
        assert row.outcome == "shown"
        assert (rig.texts(), rig.states) == (["Hello there."], ["finished"])
        right(rig)


async def test_two_processes_answer_in_turn(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        await rig.start(drives=False)
        rig.say("hi")
        for number in range(6):
            told.say(f"{number}, ")
            await rig.until(lambda: rig.shows(f"{number}, "))  # noqa: B023 - awaited at once
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert (rig.texts(), rig.states) == (["0, 1, 2, 3, 4, 5,"], ["finished"])
        assert len(set(rig.door.served)) == 2
        right(rig)


async def test_an_answer_whose_begin_never_arrived_goes_to_the_address(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("Hello."), clock=clock) as rig:
        rig.door.lost = 1
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert [(each.text, each.via) for each in rig.answers()] == [("Hello.", "response_url")]


@pytest.mark.heavy
async def test_an_end_that_nobody_fetches_is_told_at_the_address(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("One, ")
        await rig.until(lambda: rig.shows("One,"))
        rig.sim.faults.add(Fault("poll", "lose", count=1000))
        told.say("two.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert [each.state for each in rig.answers()] == ["expired", ""]
        assert "One, two." in rig.texts()[1]
        assert "may be a repeat" in rig.texts()[1] or "⚠️" in rig.texts()[1]


async def test_many_requests_for_one_bubble_cost_one_rendering(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("One, ")
        await rig.until(lambda: rig.shows("One,"))
        rig.sim.faults.add(Fault("poll", "lose", count=1000))
        posts = rig.process.channel._posts
        assert posts is not None
        [callback] = [one for one in rig.sim.platform.callbacks.values() if one.streams]
        [stream] = callback.streams
        rendered: list[object] = []

        def counted(*args: Any) -> Any:
            rendered.append(args)
            return bubble_pages(*args)

        monkeypatch.setattr("turnwire.channels.wecom.polls.bubble_pages", counted)
        await clock.advance(2)
        said = await asyncio.gather(*(posts._polled(stream) for _ in range(50)))
        assert len(rendered) == 1
        assert len({one["stream"]["content"] for one in said}) == 1
        told.say("two, ")
        await rig.pass_time(2)
        assert "two," in (await posts._polled(stream))["stream"]["content"]
        assert len(rendered) == 2
