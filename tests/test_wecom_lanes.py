"""Which frame an answer belongs to, and what becomes of frames without one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wecom_owners import ready
from turnwire.channels.wecom import frames
from turnwire.channels.wecom.errors import Op
from turnwire.channels.wecom.frames import Ack
from turnwire.channels.wecom.lanes import FRAMES, LATE_S, WAITING, Answer, Flight, Lanes
from turnwire.clock import sleep
from turnwire.sim.wecom import Fault
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


def _image(**said: str) -> dict[str, object]:
    return {"msgtype": "image", "image": said}


# Against the simulator


@pytest.mark.parametrize(("kind", "shown"), [("lost", []), ("ack_lost", ["1"])])
async def test_a_frame_without_an_answer_is_unknown_after_five_seconds(kind: str, shown: list[str]) -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("stream", kind))
        sending = asyncio.ensure_future(owner.stream(asked, "1"))
        await owner.sim.wait_calls(1, "stream")
        await owner.calm()
        await owner.clock.advance(4.9)
        assert not sending.done()
        await owner.clock.advance(0.2)
        assert (await sending).receipt.kind == "unknown"
        assert owner.seen == shown


async def test_the_next_frame_waits_for_a_late_answer_and_does_not_take_it_for_its_own() -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("stream", "ack_late", seconds=12), Fault("stream", "lost", nth=2))
        first = await owner.after(5, owner.stream(asked, "1"))
        second = asyncio.ensure_future(owner.stream(asked, "2"))
        await owner.calm()
        await owner.clock.advance(6)
        assert (first.receipt.kind, owner.sim.counts["stream"]) == ("unknown", 1)
        await owner.clock.advance(1)
        await owner.sim.wait_calls(2, "stream")
        await owner.calm()
        assert not second.done()
        await owner.clock.advance(5)
        await owner.clock.until(second.done)
        assert second.result().receipt.kind == "unknown"
        assert owner.seen == ["1"]


async def test_after_an_answer_that_never_comes_the_lane_goes_on() -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("stream", "ack_lost"))
        assert (await owner.after(5, owner.stream(asked, "1"))).receipt.kind == "unknown"
        idle = asyncio.ensure_future(owner.connection.idle(asked))
        second = asyncio.ensure_future(owner.stream(asked, "2"))
        await owner.clock.advance(LATE_S - 5.1)
        await owner.calm()
        assert owner.sim.counts["stream"] == 1
        await owner.clock.advance(0.2)
        await owner.clock.until(second.done)
        assert second.result().receipt.ok
        assert owner.seen == ["2"]
        await owner.clock.until(idle.done)


async def test_who_waits_longer_for_an_answer_gets_it() -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("finish", "ack_late", seconds=12), Fault("push", "ack_late", seconds=12))
        final = owner.connection.respond(asked, frames.stream("s1", "done", finish=True), ack_s=LATE_S)
        assert (await owner.after(12, final)).receipt.ok
        said = frames.pushed("alice", frames.markdown("more"), group=False)
        assert (await owner.after(12, owner.connection.push(said, ack_s=LATE_S))).receipt.ok
        assert owner.seen == ["done", "more"]


async def test_bubbles_of_other_messages_do_not_wait() -> None:
    async with ready() as owner:
        one, two = await owner.asked("one"), await owner.asked("two")
        owner.sim.faults.add(Fault("stream", "lost", target=one))
        stuck = asyncio.ensure_future(owner.stream(one, "1"))
        assert (await owner.stream(two, "2")).receipt.ok
        assert not stuck.done()
        assert (await owner.after(5, _value(stuck))).receipt.kind == "unknown"


async def _value(task: asyncio.Future[Answer]) -> Answer:
    return await task


async def test_frames_with_one_request_id_go_one_after_another() -> None:
    async with ready() as owner:
        owner.sim.switches.latency = 0.25
        told = owner.sim.people.say("alice", "hi")
        assert told is not None
        sending = [asyncio.ensure_future(owner.stream(told.req_id, str(number))) for number in range(WAITING + 3)]
        while not all(task.done() for task in sending):
            await owner.calm()
            await owner.clock.advance(0.25)
        got = [task.result().receipt for task in sending]
        assert [each.ok for each in got] == [True] * (WAITING + 1) + [False] * 2
        assert {each.cause for each in got[-2:]} == {"busy"}
        calls = [call for call in owner.sim.calls if call.op == "stream"]
        assert [call.body["stream"]["content"] for call in calls] == [str(number) for number in range(WAITING + 1)]
        assert {call.overlapping for call in calls} == {0}


async def test_who_gives_up_waiting_takes_the_frame_back() -> None:
    async with ready() as owner:
        owner.sim.switches.latency = 1
        told = owner.sim.people.say("alice", "hi")
        assert told is not None
        first = asyncio.ensure_future(owner.stream(told.req_id, "1"))
        second = asyncio.ensure_future(owner.stream(told.req_id, "2"))
        await owner.calm()
        first.cancel()
        second.cancel()
        third = asyncio.ensure_future(owner.stream(told.req_id, "3"))
        await owner.calm()
        assert owner.sim.counts["stream"] == 1
        await owner.clock.advance(1)
        await owner.sim.wait_calls(3, "")
        await owner.calm()
        await owner.clock.advance(1)
        await owner.clock.until(third.done)
        assert third.result().receipt.ok
        calls = [call for call in owner.sim.calls if call.op == "stream"]
        assert [(call.body["stream"]["content"], call.overlapping) for call in calls] == [("1", 0), ("3", 0)]


# Refusals without a request id


async def test_a_refusal_without_a_request_id_is_that_of_the_only_frame_under_way() -> None:
    async with ready() as owner:
        asked = await owner.asked()
        answer = await owner.connection.respond(asked, _image(url="https://example.com/a.png"))
        assert (answer.code, answer.receipt.kind, answer.receipt.cause) == (40058, "refused", "content")
        # It is known what became of it, so nobody waits for an answer.
        assert (await owner.stream(asked, "1")).receipt.ok


async def test_a_refusal_without_a_request_id_comes_after_its_sender_has_given_up() -> None:
    async with ready() as owner:
        asked = await owner.asked()
        owner.sim.faults.add(Fault("reply", "slow", seconds=6))
        answer = await owner.after(5, owner.connection.respond(asked, _image(url="https://example.com/a.png")))
        assert answer.receipt.kind == "unknown"
        next_one = asyncio.ensure_future(owner.stream(asked, "1"))
        await owner.clock.advance(1)
        await owner.clock.until(next_one.done)
        assert next_one.result().receipt.ok


async def test_of_two_frames_the_one_with_the_named_field_is_refused() -> None:
    async with ready() as owner:
        one, two = await owner.asked("one"), await owner.asked("two")
        owner.sim.faults.add(Fault("stream", "ack_late", seconds=4))
        streaming = asyncio.ensure_future(owner.stream(one, "1"))
        await owner.sim.wait_calls(1, "stream")
        refused = await owner.connection.respond(two, _image(url="https://example.com/a.png"))
        assert refused.code == 40058
        assert (await owner.after(4, _value(streaming))).receipt.ok


async def test_of_two_frames_alike_the_one_that_is_not_answered_is_refused() -> None:
    async with _lanes() as (clock, lanes):
        one, two = _flying(lanes, "a"), _flying(lanes, "b")
        await clock.settle()
        lanes.answered(Ack(None, 40058, {}))
        await clock.settle()
        assert not one[1].done()
        lanes.answered(Ack("b", 0, {}))
        await clock.settle()
        assert (one[1].result().code, two[1].result().code) == (40058, 0)


async def test_a_ping_is_never_what_a_refusal_is_about() -> None:
    async with _lanes() as (clock, lanes):
        ping = asyncio.ensure_future(lanes.call(Flight("ping", "p", "p", frozenset(), 5)))
        _, task = _flying(lanes, "a")
        await clock.settle()
        lanes.answered(Ack(None, 40058, {}))
        await clock.settle()
        assert task.result().code == 40058
        lanes.lost("gone")
        assert (await ping).receipt.kind == "unknown"


async def test_of_two_frames_alike_without_answers_both_stay_unknown() -> None:
    async with _lanes() as (clock, lanes):
        flying = [_flying(lanes, "a"), _flying(lanes, "b"), _flying(lanes, "c")]
        await clock.settle()
        lanes.answered(Ack(None, 40058, {}))
        lanes.answered(Ack("c", 0, {}))
        await clock.advance(LATE_S)
        assert [task.result().receipt.kind for _, task in flying] == ["unknown", "unknown", "confirmed"]
        assert clock.pending == 0


async def test_a_refusal_is_not_put_on_a_frame_because_another_one_was_given_up() -> None:
    async with _lanes() as (clock, lanes):
        _, old = _flying(lanes, "a")
        await clock.advance(12)
        _, new = _flying(lanes, "b")
        await clock.settle()
        lanes.answered(Ack(None, 40058, {}))
        await clock.advance(4)
        assert not new.done()
        lanes.answered(Ack("b", 0, {}))
        await clock.settle()
        assert (old.result().receipt.kind, new.result().receipt.kind) == ("unknown", "confirmed")


async def test_an_answer_is_not_that_of_a_frame_that_has_not_left() -> None:
    async with _lanes(writes=False) as (clock, lanes):
        _, task = _flying(lanes, "a")
        await clock.settle()
        lanes.answered(Ack("a", 0, {}))
        await clock.settle()
        assert not task.done()
        lanes.lost("gone")
        await clock.settle()
        assert task.result().receipt.cause == "busy"


async def test_an_answer_without_a_code_is_unknown_and_one_without_a_frame_is_nobodys() -> None:
    async with _lanes() as (clock, lanes):
        flight, task = _flying(lanes, "a")
        await clock.settle()
        lanes.answered(Ack("b", 0, {}))
        lanes.answered(Ack(None, None, {}))
        assert not flight.answer.done()
        lanes.answered(Ack("a", None, {}))
        await clock.settle()
        assert (task.result().receipt.kind, clock.pending) == ("unknown", 0)


# Bounds


async def test_a_connection_takes_a_bounded_number_of_frames() -> None:
    async with _lanes(writes=False) as (clock, lanes):
        flying = [_flying(lanes, f"r{number}") for number in range(FRAMES + 1)]
        await clock.settle()
        done = [task.result().receipt.cause for _, task in flying if task.done()]
        assert done == ["busy"]
        lanes.lost("gone")
        await clock.settle()
        assert {task.result().receipt.kind for _, task in flying} == {"refused"}
        assert clock.pending == 0


async def test_frames_that_are_answered_or_taken_back_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.channels.wecom.lanes.FRAMES", 2)
    async with _lanes() as (clock, lanes):
        for number in range(5):
            _, under_way = _flying(lanes, "a")
            _, waiting = _flying(lanes, "a")
            await clock.settle()
            assert not waiting.done()
            waiting.cancel()
            await clock.settle()
            lanes.answered(Ack("a", 0, {}))
            await clock.settle()
            assert under_way.result().receipt.ok, number
        assert clock.pending == 0


async def test_what_the_connection_never_took_was_not_sent() -> None:
    async with _lanes(writes=False) as (clock, lanes):
        _, task = _flying(lanes, "a")
        await clock.advance(5)
        assert (task.result().receipt.kind, task.result().receipt.cause) == ("refused", "busy")
        assert (await _call(lanes, "z", lost=True)).receipt.cause == "busy"


async def test_everything_else_overtakes_pieces_of_files() -> None:
    ops: list[tuple[Op, str]] = [("upload_chunk", "a"), ("upload_chunk", "b"), ("finish", "c"), ("ping", "d")]
    async with _lanes(writes=False) as (clock, lanes):
        tasks = [asyncio.ensure_future(lanes.call(Flight(op, name, name, frozenset(), 5))) for op, name in ops]
        await clock.settle()
        assert [(await lanes.next()).req_id for _ in tasks] == ["c", "d", "a", "b"]
        lanes.lost("gone")
        await clock.settle()
        assert {task.result().receipt.kind for task in tasks} == {"unknown"}


@contextlib.asynccontextmanager
async def _lanes(*, writes: bool = True) -> AsyncIterator[tuple[FakeClock, Lanes]]:
    clock = FakeClock()
    lanes = Lanes(clock, name="main")
    writing = asyncio.create_task(_write(lanes)) if writes else None
    try:
        yield clock, lanes
    finally:
        if writing is not None:
            writing.cancel()
            await asyncio.wait({writing})


async def _write(lanes: Lanes) -> None:
    while True:
        await lanes.next()


def _flying(lanes: Lanes, req_id: str) -> tuple[Flight, asyncio.Future[Answer]]:
    flight = Flight("push", req_id, req_id, frozenset({"msgtype"}), 5)
    return flight, asyncio.ensure_future(lanes.call(flight))


async def _call(lanes: Lanes, req_id: str, *, lost: bool) -> Answer:
    if lost:
        lanes.lost("gone")
    return await lanes.call(Flight("push", req_id, req_id, frozenset(), 5))


# Whatever happens

_FATES = st.sampled_from(["now", "late", "lost", "refused", "refused late", "orphan", "unheard", "cut"])


class Platform:
    """Takes frames by their fate, answers in order for each request id, and knows what it has taken."""

    def __init__(self, clock: FakeClock, lanes: Lanes, fates: list[tuple[str, float]]) -> None:
        self.clock = clock
        self.lanes = lanes
        self.fates = fates
        self.taken: set[str] = set()
        self.refused: set[str] = set()
        self.open: dict[str, int] = {}
        self.most = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.before: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        while True:
            flight = await self.lanes.next()
            fate = self.fates.pop() if self.fates else ("now", 0.1)
            task = asyncio.create_task(self.deal(flight, *fate, self.before.get(flight.req_id)))
            self.before[flight.req_id] = task
            self.tasks.add(task)

    async def deal(self, flight: Flight, fate: str, seconds: float, before: asyncio.Task[None] | None) -> None:
        self.open[flight.req_id] = self.open.get(flight.req_id, 0) + 1
        self.most = max(self.most, self.open[flight.req_id])
        if fate == "cut":
            self.lanes.lost("the connection was lost")
            return
        if fate in ("now", "late", "lost"):
            self.taken.add(flight.text)
        elif fate != "unheard":
            self.refused.add(flight.text)
        if before is not None:
            await asyncio.wait({before})
        await sleep(self.clock, seconds if "late" in fate else min(seconds, 1.0))
        code = 0 if flight.text in self.taken else 40008
        if fate in ("now", "late", "refused", "refused late"):
            self.lanes.answered(Ack(flight.req_id, code, {}))
        elif fate == "orphan":
            self.lanes.answered(Ack(None, 40058, {}))
        else:
            # What is never answered is over for the platform once nobody can still expect an answer.
            await sleep(self.clock, LATE_S - min(seconds, 1.0) - 0.01)
        self.open[flight.req_id] -= 1


@given(
    fates=st.lists(st.tuples(_FATES, st.floats(0.0, LATE_S - 0.5)), max_size=14),
    sends=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 8.0)), min_size=1, max_size=14),
)
def test_whatever_happens_to_answers_no_frame_is_judged_by_another_ones(
    fates: list[tuple[str, float]], sends: list[tuple[str, float]]
) -> None:
    async def play() -> None:
        clock = FakeClock(rounds=12)
        lanes = Lanes(clock, name="main")
        platform = Platform(clock, lanes, list(fates))
        serving = asyncio.create_task(platform.serve())
        sent: list[tuple[str, asyncio.Future[Answer]]] = []
        for number, (req_id, pause) in enumerate(sends):
            flight = Flight("push", req_id, f"{req_id}{number}", frozenset({"msgtype"}), 5)
            sent.append((flight.text, asyncio.ensure_future(lanes.call(flight))))
            await clock.advance(pause)
        await clock.advance(LATE_S * (len(sends) + 1))
        serving.cancel()
        for text, task in sent:
            receipt = (await task).receipt
            if receipt.ok:
                assert text in platform.taken
            elif receipt.kind == "refused":
                assert text not in platform.taken
        assert platform.most <= 1
        for dealing in platform.tasks:
            dealing.cancel()
        await asyncio.gather(serving, *platform.tasks, return_exceptions=True)

    asyncio.run(play())


@settings(max_examples=settings().max_examples // 6)
@given(seed=st.integers(0, 10_000))
def test_on_bad_days_of_the_simulator_what_is_confirmed_was_taken_and_nothing_overlaps(seed: int) -> None:
    async def play() -> None:
        async with ready(ping_timeout=0, rates=False) as owner:
            asked = [await owner.asked(str(number)) for number in range(3)]
            owner.sim.faults.reseed(seed)
            for kind in ("lost", "ack_lost", "refuse", "orphan"):
                owner.sim.faults.add(Fault("stream", kind, count=0, probability=0.1, code=40201))
            owner.sim.faults.add(Fault("stream", "ack_late", count=0, probability=0.2, seconds=11))
            owner.sim.faults.add(Fault("stream", "slow", count=0, probability=0.2, seconds=9))
            owner.sim.faults.add(Fault("stream", "reset_after_applying", count=1, nth=8))
            sent = [
                (f"{req_id}-{number}", asyncio.ensure_future(owner.stream(req_id, f"{req_id}-{number}", sid=req_id)))
                for number in range(5)
                for req_id in asked
            ]
            while not all(task.done() for _, task in sent):
                await owner.calm()
                await owner.clock.advance(1)
            calls = {call.body["stream"]["content"]: call for call in owner.sim.calls if call.op == "stream"}
            assert {call.overlapping for call in calls.values()} <= {0}
            for text, task in sent:
                receipt = task.result().receipt
                call = calls.get(text)
                if receipt.ok:
                    assert call is not None
                    assert call.applied
                elif receipt.kind == "refused":
                    assert call is None or not call.applied

    asyncio.run(play())
