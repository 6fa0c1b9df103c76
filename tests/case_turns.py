"""One turn of a case: an agent over the simulated provider, in a real gateway, and what a reader saw of it.

Time passes for the provider and the guard only, and only while both wait for it; the gateway is on the machine's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from tests.asgi import Client, Exchange
from tests.case_agents import SDKS, Kit, told
from tests.gateways import config_for
from tests.strict_client import StrictClient, comparable
from turnwire.agents.guard import Retries, closing_streams, guarded_client
from turnwire.agents.load import load_agent
from turnwire.channels.web.api import web_app
from turnwire.clock import Clock, Handle
from turnwire.gateway import Gateway
from turnwire.sim.models import ModelSim
from turnwire.testing.clock import FakeClock
from turnwire.turn import Turn

KEY = "sk-test-key-0123456789"
TOOLS = "case_tools"
LIMIT_S = 90.0
FLUSH_S = 0.005
"""Shorter than usual: most of a turn's time is this."""
Wire = Literal["A", "O", "R", "G"]
KINDS = {"A": "anthropic", "O": "openai", "R": "openai-responses", "G": "google"}
_TLS = ssl.create_default_context()  # to make one takes longer than a turn


@dataclass
class Seen:
    """What a reader saw of one turn, in the stream and again in the history, and what happened behind it."""

    outcome: str
    reason: str
    finish: str
    usage: int | None
    parts: list[dict[str, Any]]
    ran: list[tuple[str, dict[str, Any]]]
    took: float
    requests: int
    left_open: int
    text: str = field(init=False)
    thoughts: str = field(init=False)

    def __post_init__(self) -> None:
        self.text = "".join(part["text"] for part in self.parts if part["type"] == "text")
        self.thoughts = "".join(part["text"] for part in self.parts if part["type"] == "reasoning")

    @property
    def calls(self) -> list[tuple[str, Any, Any]]:
        """Each call: its state, its input, its output or error."""
        return [
            (part["state"], part.get("input"), part.get("output", part.get("errorText")))
            for part in self.parts
            if "toolCallId" in part
        ]

    @property
    def signed(self) -> list[Any]:
        """What the thoughts carry of their provider."""
        return [part.get("providerMetadata") for part in self.parts if part["type"] == "reasoning"]


class Faster:
    """Another clock, on which time passes `scale` times as fast."""

    def __init__(self, clock: FakeClock, scale: float) -> None:
        self._clock = clock
        self._scale = scale

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic() * self._scale

    def call_later(self, delay: float, callback: Any) -> Handle:
        return self._clock.call_later(delay / self._scale, callback)


@dataclass
class Run:
    """A turn that runs."""

    exchange: Exchange
    sim: ModelSim
    clock: FakeClock
    watch: _Watch
    ran: list[tuple[str, dict[str, Any]]]


class Bench:
    """A gateway whose agent is the one of the turn that runs. Each agent has a provider and a clock, for all its turns.

    Args:
        stack: closes, in the end, what was opened.
    """

    def __init__(self, gateway: Gateway, stack: contextlib.AsyncExitStack) -> None:
        self.client = Client(web_app(gateway))
        self._stack = stack
        self._desks: dict[tuple[str, Wire, float], _Desk] = {}
        self._agent: Any = None
        self._number = 0

    def serve(self, turn: Turn) -> AsyncIterator[Any]:
        """The gateway's agent."""
        agent: AsyncIterator[Any] = self._agent(turn)
        return agent

    @property
    def chat(self) -> str:
        """The conversation of the newest turn; each has its own."""
        return f"c{self._number}"

    async def turn(self, by: str, wire: Wire, plan: tuple[str, ...], *, scale: float = 1, step: float = 0.05) -> Seen:
        """One whole turn of the agent `by` (`sdk` or `pydantic-ai`) on a wire.

        Args:
            plan: the scenarios of the model's requests, one after the other; then `ok`.
            scale: how much faster time passes for the guard than for the provider.
            step: how far time moves at once, in seconds of the provider; 0 for a turn that ends without any.
        """
        async with self.running(by, wire, plan, scale=scale) as run:
            if step:
                await run.watch.until_done(run.exchange.task, run.sim, step)
            async with asyncio.timeout(LIMIT_S):
                await run.exchange.task
            requests = len(run.sim.requests)
            left_open = sum(seen.ended == "open" for seen in run.sim.requests)
        assert run.clock.pending == 0, "a timer was left behind"
        message, about = await self.shown(run)
        return Seen(
            about["outcome"], about.get("reason") or "", run.exchange.events()[-1]["finishReason"],
            (about.get("usage") or {}).get("totalTokens"), message["parts"], run.ran, run.watch.took * scale,
            requests, left_open,
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def running(
        self,
        by: str,
        wire: Wire,
        plan: tuple[str, ...],
        *,
        scale: float = 1,
        hold: asyncio.Event | None = None,
    ) -> AsyncIterator[Run]:
        """A turn that has begun; a tool of it waits for `hold`."""
        key = (by, wire, scale)
        if key not in self._desks:
            self._desks[key] = await self._stack.enter_async_context(_desk(*key))
        desk = self._desks.pop(key)
        desk.ran.clear()
        desk.sim.clear()
        self._number += 1
        desk.hold = hold
        desk.sim.plan(plan)
        watch = _Watch(desk.agent, desk.clock)
        self._agent = watch.run
        yield Run(self.client.ask("hi", chat=self.chat), desk.sim, desk.clock, watch, desk.ran)
        # Not after a failure: what is left of it must not trouble another turn.
        self._desks[key] = desk

    async def shown(self, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
        """The message and what its metadata say of its turn; the stream and the history must agree."""
        reader = StrictClient("7").feed_all(run.exchange.events())
        message = (await self.client.get(f"/api/chat/{self.chat}")).json()["messages"][-1]
        reader.end()
        assert comparable({**message, "metadata": None}) == comparable({**reader.message(), "metadata": None})
        return message, message["metadata"]["turnwire"]


class _Watch:
    """An agent whose waiting is seen."""

    def __init__(self, agent: Any, clock: FakeClock) -> None:
        self._agent = agent
        self._clock = clock
        self._waits = False
        self._done = False
        self._last: Callable[[Any], bool] = lambda _: False
        self._heard = 0
        self.took = 0.0

    def leaves_after(self, last: Callable[[Any], bool]) -> None:
        """The agent ends with the first event for which `last` holds."""
        self._last = last

    async def run(self, turn: Turn) -> AsyncIterator[Any]:
        begun = self._clock.monotonic()
        try:
            async with contextlib.aclosing(self._agent(turn)) as events:
                while True:
                    self._waits = True
                    try:
                        event = await anext(events)
                    except StopAsyncIteration:
                        return
                    finally:
                        self._waits = False
                        self.took = self._clock.monotonic() - begun
                    self._heard += 1
                    yield event
                    if self._last(event):
                        return
        finally:
            self._done = True

    async def until_done(self, task: asyncio.Task[None], sim: ModelSim, step: float) -> None:
        """Moves time while agent and provider wait for it."""
        clock = self._clock
        while not self._over(task):
            await clock.until(lambda: self._over(task) or (self._waits and clock.pending > 0))
            quiet = asyncio.ensure_future(sim.wait_idle())
            await clock.until(lambda quiet=quiet: self._over(task) or quiet.done())  # type: ignore[misc]
            quiet.cancel()
            if await self._still(sim) and not self._over(task):
                await clock.advance(step)

    def _over(self, task: asyncio.Task[None]) -> bool:
        return self._done or task.done()

    async def _still(self, sim: ModelSim) -> bool:
        """Whether nothing happens any more on either side."""

        def state() -> tuple[bool, int, int, int]:
            return self._waits, self._heard, len(sim.requests), sum(seen.sent for seen in sim.requests)

        for _ in range(2):
            before = state()
            await self._clock.settle()
            if state() != before:
                return False
        return self._waits and self._clock.pending > 0


@dataclass
class _Desk:
    """An agent with its provider, its clock and its tools, which write down that they were run."""

    clock: FakeClock
    sim: ModelSim
    agent: Any = None
    ran: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def get_weather(self, city: str) -> str:
        self.ran.append(("get_weather", {"city": city}))
        if self.hold is not None:
            await self.hold.wait()
        return f"clear over {city}"

    async def now(self) -> str:
        self.ran.append(("now", {}))
        return "noon"


@contextlib.asynccontextmanager
async def _desk(by: str, wire: Wire, scale: float) -> AsyncIterator[_Desk]:
    clock = FakeClock()
    async with ModelSim(clock=clock, key=KEY) as sim:
        desk = _Desk(clock, sim)
        functions = {"get_weather": desk.get_weather, "now": desk.now}
        async with _agent(by, wire, sim.base_url(wire), Faster(clock, scale), functions) as agent:
            desk.agent = agent
            yield desk


@contextlib.asynccontextmanager
async def _agent(by: str, wire: Wire, url: str, clock: Clock, functions: dict[str, Any]) -> AsyncIterator[Any]:
    if by == "pydantic-ai":
        module: Any = ModuleType(TOOLS)
        vars(module).update(functions, __all__=list(functions))
        sys.modules[TOOLS] = module
        spec = load_agent(f"{KINDS[wire]}:m", base_url=url, api_key=KEY, env={}, tools=[TOOLS], clock=clock)
        del sys.modules[TOOLS]
        async with spec as agent:
            yield agent
        return
    http = guarded_client(clock=clock, verify=_TLS, retries=Retries())

    async def small(_: Turn) -> AsyncIterator[Any]:
        kit = Kit(http, url, KEY, lambda name, given: functions[name](**given))
        async with closing_streams(), contextlib.aclosing(told(SDKS[wire], kit)) as events:
            async for event in events:
                yield event

    try:
        yield small
    finally:
        await http.aclose()


@contextlib.asynccontextmanager
async def bench_in(folder: Path) -> AsyncIterator[Bench]:
    """A gateway for many turns, one after the other."""
    config = config_for(f"sqlite:///{folder / 'gateway.db'}", folder, turns__drain_s=0)
    held: list[Bench] = []
    async with (
        contextlib.AsyncExitStack() as stack,
        Gateway(config, lambda turn: held[0].serve(turn), flush_s=FLUSH_S) as gateway,
    ):
        held.append(Bench(gateway, stack))
        yield held[0]
