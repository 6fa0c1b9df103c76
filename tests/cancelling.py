"""Turns that are cancelled at every point of their answer, in every way a turn can be cancelled.

One conversation for each phase, all live at once: the person's message names the phase at which the upstream falls
silent. What is left of them is looked for in the upstream, among the loop's tasks and in the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.asgi import Client, Exchange
from tests.gateways import running
from tests.store_steps import written
from tests.strict_client import StrictClient
from turnwire import chunks as c
from turnwire.channels.web.api import web_app
from turnwire.clock import Clock
from turnwire.gateway import Gateway
from turnwire.sim.models import SCENARIOS, ModelSim, Scenario
from turnwire.store import open_database
from turnwire.store.queries.conversations import read_messages
from turnwire.store.queries.turns import get_turn
from turnwire.testing.clock import FakeClock
from turnwire.turn import Turn

WITHIN_S = 1.0
"""Seconds in which nothing may be left of a cancelled turn."""
DEADLINE_S = 0.25
"""Shorter than any time for which the guard waits after a finish."""
STEP_S = 0.05

SILENT, THOUGHTS, TEXT, ARGUMENTS, TOOL, STALL, FINISH = (
    "silent", "thoughts", "text", "arguments", "tool", "stall", "finish",
)  # fmt: skip
PHASES = (SILENT, THOUGHTS, TEXT, ARGUMENTS, TOOL, STALL, FINISH)

SEEN: Mapping[str, str] = {
    THOUGHTS: "reasoning-delta",
    TEXT: "text-delta",
    ARGUMENTS: "tool-input-start",
    TOOL: "tool-input-available",
    STALL: "text-delta",
    FINISH: "text-delta",
}
"""The record that the person sees in each phase; none before the first byte."""

_SAYS = {THOUGHTS: "thinking", ARGUMENTS: "tools_cut", TOOL: "tools_cut"}


def asks(phase: str) -> str:
    """What the person says to have the upstream fall silent in `phase`."""
    return f"phase:{phase}"


def phase_of(text: str) -> str:
    """The phase that a message names, whatever a framework puts around the person's words."""
    return text.rpartition("phase:")[2].split()[0]


async def _fall_silent(peer: Any) -> None:
    """Answers up to the phase that the newest message names, then says nothing; keep-alives only, in a stall."""
    phase = phase_of(peer.ask.text)
    if phase == SILENT:
        await peer.hang()
    await peer.head()
    if phase == TOOL:
        await peer.say(peer.script())
        await peer.end()
        return
    if phase == FINISH:
        # Responses say the finish and the counts in one event, which ends them.
        await peer.say(peer.until("close" if peer.wire.letter == "R" else "finish"))
    else:
        await peer.say(peer.begun(1))
    while phase == STALL:
        await peer.send(peer.wire.ping)
        await peer.pause(STEP_S)
    await peer.hang()


@asynccontextmanager
async def provider(clock: Clock | None = None) -> AsyncIterator[ModelSim]:
    """A simulated provider that falls silent in the phase that it is asked for."""
    name = "silent_in_a_phase"
    about = "Falls silent in the phase that the newest message names."
    SCENARIOS[name] = Scenario(
        name, "AORG", about, _fall_silent,
        lambda ask: SCENARIOS[_SAYS.get(phase_of(ask.text), "ok")].says(ask),
    )  # fmt: skip
    try:
        async with ModelSim(clock=clock, default=name) as sim:
            yield sim
    finally:
        del SCENARIOS[name]


@dataclass
class Upstream:
    """What answers an agent: whether it has said all that it will, and how each of its requests stands."""

    asked: Callable[[], int]
    idle: Callable[[], Awaitable[Any]]
    open: Callable[[], int]


def of_sim(sim: ModelSim) -> Upstream:
    return Upstream(
        asked=lambda: len(sim.requests),
        idle=sim.wait_idle,
        open=lambda: sum(seen.ended == "open" for seen in sim.requests),
    )


class Desk:
    """A gateway whose turns wait in their phases."""

    def __init__(self, gateway: Gateway, context: AbstractAsyncContextManager[Gateway], clock: FakeClock) -> None:
        self.gateway = gateway
        self.clock = clock
        self.client = Client(web_app(gateway))
        self.readers: dict[str, Exchange] = {}
        self.leaving: list[asyncio.Task[Any]] = []
        self._context = context

    def leave(self) -> None:
        """Begins to stop the gateway, without waiting for its turns."""
        if not self.leaving:
            self.leaving.append(asyncio.ensure_future(self._context.__aexit__(None, None, None)))

    def left(self) -> list[str]:
        """What is not over yet."""
        return [
            *(f"turn {turn} lives" for turn in self.gateway.supervisor.live),
            *(f"{phase} is still told" for phase, reader in self.readers.items() if not reader.task.done()),
            *("the gateway still stops" for task in self.leaving if not task.done()),
            *(repr(task) for kind in ("turn", "run", "end", "agent") for task in self.tasks(kind)),
        ]

    @property
    def turns(self) -> dict[str, str]:
        """The id of the turn in each phase."""
        return {phase: reader.headers["x-workflow-run-id"] for phase, reader in self.readers.items()}

    async def stop_all(self) -> None:
        for chat in self.readers:
            assert (await self.client.post(f"/api/chat/{chat}/stop", {})).status < 300

    def tasks(self, kind: str) -> list[asyncio.Task[Any]]:
        """The tasks of that kind that belong to these turns."""
        names = {f"{kind}-{turn}" for turn in self.turns.values()}
        return [task for task in asyncio.all_tasks() if task.get_name() in names]


@dataclass(frozen=True)
class Way:
    """A way to cancel: what is done, how the turn ends by it, and the settings that it needs."""

    act: Callable[[Desk], Awaitable[None]]
    outcome: str
    options: Mapping[str, Any]


async def _stop(at: Desk) -> None:
    await at.stop_all()


async def _stop_unread(at: Desk) -> None:
    for reader in at.readers.values():
        await reader.leave()
    assert len(at.gateway.supervisor.live) == len(at.readers), "a turn does not end when its readers go"
    await at.stop_all()


async def _drain(at: Desk) -> None:
    at.leave()


async def _deadline(at: Desk) -> None:
    await at.clock.advance(DEADLINE_S)


async def _cancel_twice(at: Desk) -> None:
    for task in at.tasks("turn"):
        task.cancel()
    ending: set[str] = set()
    for _ in range(round(WITHIN_S / STEP_S)):
        for _ in range(50):
            # Once more, when the last write has begun.
            for task in at.tasks("end"):
                turn = task.get_name().removeprefix("end-")
                if turn not in ending:
                    ending.add(turn)
                    for owner in at.tasks("turn"):
                        if owner.get_name() == f"turn-{turn}":
                            owner.cancel()
            await asyncio.sleep(0)
        if len(ending) == len(at.readers):
            return
        await at.clock.advance(STEP_S)
    raise AssertionError(f"only {len(ending)} last writes had begun after {WITHIN_S:g} s")


WAYS: Mapping[str, Way] = {
    "a person's stop": Way(_stop, "stopped", {}),
    "a stop with nobody reading": Way(_stop_unread, "stopped", {}),
    "a shutdown": Way(_drain, "interrupted", {}),
    "the longest turn": Way(_deadline, "failed", {"turns__max_turn_s": DEADLINE_S}),
    "silence": Way(_deadline, "failed", {"turns__idle_timeout_s": DEADLINE_S, "turns__tool_timeout_s": DEADLINE_S}),
    "two cancels of its task": Way(_cancel_twice, "interrupted", {}),
}


async def cancel(
    agent: Any, upstream: Upstream, folder: Path, clock: FakeClock, way: Way, phases: tuple[str, ...] = PHASES
) -> None:
    """Has a turn of `agent` in each of `phases`, cancels them all, and looks for what is left within a second."""
    with counting(agent) as (counted, tasks):
        async with in_phases(counted, upstream, folder, clock, way, phases) as at:
            await way.act(at)
            await over_within(clock, lambda: [*at.left(), *["an open upstream request"] * upstream.open(), *tasks()])


@asynccontextmanager
async def in_phases(
    agent: Any, upstream: Upstream, folder: Path, clock: FakeClock, way: Way, phases: tuple[str, ...] = PHASES
) -> AsyncIterator[Desk]:
    """A desk with a turn of `agent` in each of `phases`; at the end each of them must have ended once, by `way`."""
    url = f"sqlite:///{folder / 'turnwire.db'}"
    async with at_a_desk(url, folder, agent, clock, **way.options) as at:
        at.readers = {phase: at.client.ask(asks(phase), chat=phase) for phase in phases}
        await _in_their_phases(at, upstream)
        yield at
    await stored_once(url, at, way.outcome)


@asynccontextmanager
async def at_a_desk(url: str, folder: Path, agent: Any, clock: FakeClock, **options: Any) -> AsyncIterator[Desk]:
    """A desk over a gateway of its own, which may be stopped before the end."""
    context = running(url, folder, agent, clock=clock, **options)
    at = Desk(await context.__aenter__(), context, clock)
    try:
        yield at
    finally:
        at.leave()
        await over_within(clock, at.left)
        await at.leaving[0]


async def over_within(clock: FakeClock, left: Callable[[], list[str]], seconds: float = WITHIN_S) -> None:
    """Returns once `left` names nothing any more; only so much time passes until then."""
    for _ in range(round(seconds / STEP_S)):
        if not left():
            return
        await clock.advance(STEP_S)
    try:
        # What threads and sockets have yet to do takes no time.
        await clock.until(lambda: not left(), limit=10.0)
    except TimeoutError:
        raise AssertionError(f"after {seconds:g} s: {left()}") from None


async def _in_their_phases(at: Desk, upstream: Upstream) -> None:
    def reached() -> bool:
        told = {phase: {event["type"] for event in reader.events()} for phase, reader in at.readers.items()}
        return upstream.asked() >= len(told) and all(SEEN.get(phase, "start") in told[phase] for phase in told)

    try:
        await at.clock.until(reached)
    except TimeoutError:
        told = {phase: reader.body.decode()[-300:] for phase, reader in at.readers.items()}
        raise AssertionError(f"{upstream.asked()} requests; {told}") from None
    idle = asyncio.ensure_future(upstream.idle())
    await at.clock.until(idle.done)
    await at.clock.settle()
    ended = [phase for phase, reader in at.readers.items() if reader.task.done()]
    assert not ended, f"nothing is left to cancel: {ended}"


_turn: contextvars.ContextVar[str] = contextvars.ContextVar("turn")


@contextlib.contextmanager
def counting(agent: Any) -> Iterator[tuple[Any, Callable[[], list[str]]]]:
    """The agent, and what tells the tasks that were begun inside its turns and are not done."""
    begun: list[asyncio.Task[Any]] = []
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **more)
        if _turn.get(""):
            begun.append(task)
        return task

    def counted(turn: Turn) -> Any:
        _turn.set(turn.id)
        begun.append(asyncio.current_task())  # type: ignore[arg-type]
        return agent(turn)

    loop.set_task_factory(factory)
    try:
        yield counted, lambda: [repr(task) for task in begun if not task.done()]
    finally:
        loop.set_task_factory(before)


async def stored_once(url: str, at: Desk, outcome: str) -> None:
    """Each turn's journal ends with the one finish, said and stored once."""
    db = await open_database(url)
    try:
        for phase, turn in at.turns.items():
            records = await written(db, turn)
            _check_end(records, outcome, phase)
            told = at.readers[phase]
            if told.complete:
                StrictClient("7").feed_all(told.events()).end()
                assert told.events()[-1]["type"] == "finish", phase
            row = await db.read(get_turn, turn)
            assert row is not None
            messages = await db.read(read_messages, row.conversation_id)
            answers = [message for message in messages if message.role == "assistant"]
            assert len(answers) == 1, phase
            assert f'"outcome":"{outcome}"' in answers[0].content.decode(), phase
    finally:
        await db.close()


def _check_end(records: list[c.AnyChunk], outcome: str, where: str = "") -> None:
    """One finish, at the end, and before it what a turn with that outcome says."""
    assert [type(record) for record in records].count(c.Finish) == 1, where
    finish = records[-1]
    assert isinstance(finish, c.Finish), where
    assert (finish.message_metadata or {})["turnwire"]["outcome"] == outcome, (where, finish)
    why = [type(record) for record in records if isinstance(record, c.Abort | c.Error)]
    assert why == {"stopped": [c.Abort], "done": []}.get(outcome, [c.Error]), (where, why)
    assert not why or type(records[-2]) is why[0], (where, records[-2:])
