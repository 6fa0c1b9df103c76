"""Cancelling: nothing is left of a turn within a second, wherever it stands, and its last write is there once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.cancelling import (
    ARGUMENTS,
    FINISH,
    PHASES,
    SILENT,
    STALL,
    STEP_S,
    TEXT,
    THOUGHTS,
    TOOL,
    WAYS,
    Upstream,
    asks,
    at_a_desk,
    cancel,
    counting,
    in_phases,
    of_sim,
    over_within,
    phase_of,
    provider,
    stored_once,
)
from tests.fake_provider import Peer, fake_provider
from turnwire.agents.guard import closing_streams, guarded_client
from turnwire.agents.load import load_agent
from turnwire.agents.local import LocalModel, local_agent
from turnwire.agents.remote_ui import RemoteAgent
from turnwire.events import Reasoning, ToolCall, ToolInput
from turnwire.testing.clock import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio

KEY = "sk-test-key-0123456789"
_TLS = ssl.create_default_context()  # to make one takes longer than most of the tests
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]

Made = tuple[Any, Upstream]
Adapter = Callable[[AsyncExitStack, FakeClock], Awaitable[Made]]


async def _runs(said: list[tuple[str, str, str]]) -> AsyncIterator[Any]:
    """The calls, whose tools never answer."""
    for own, name, arguments in said:
        yield ToolCall(id=own, name=name, input=json.loads(arguments))
    if said:
        await asyncio.Event().wait()


async def openai_chat(stack: AsyncExitStack, clock: FakeClock) -> Made:
    sim = await stack.enter_async_context(provider(clock))
    http = await stack.enter_async_context(guarded_client(clock=clock, verify=_TLS))
    client = openai.AsyncOpenAI(base_url=sim.base_url("O"), api_key=KEY, http_client=http, max_retries=0)

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        calls: dict[int, list[str]] = {}
        more: dict[str, Any] = {"stream_options": {"include_usage": True}}
        asked: list[Any] = [{"role": "user", "content": turn.text}]
        async for chunk in await client.chat.completions.create(model="m", messages=asked, stream=True, **more):
            for choice in chunk.choices:
                if thought := getattr(choice.delta, "reasoning_content", None):
                    yield Reasoning(thought)
                if choice.delta.content:
                    yield choice.delta.content
                for call in choice.delta.tool_calls or []:
                    own = calls.setdefault(call.index, ["", "", ""])
                    own[0] = call.id or own[0]
                    if call.function is not None:
                        own[1] = call.function.name or own[1]
                        own[2] += call.function.arguments or ""
                        yield ToolInput(own[0], own[1], call.function.arguments or "")
        async for event in _runs([(one, name, arguments) for one, name, arguments in calls.values()]):
            yield event

    return agent, of_sim(sim)


async def anthropic_messages(stack: AsyncExitStack, clock: FakeClock) -> Made:
    sim = await stack.enter_async_context(provider(clock))
    http = await stack.enter_async_context(guarded_client(clock=clock, verify=_TLS))
    client = anthropic.AsyncAnthropic(base_url=sim.base_url("A"), api_key=KEY, http_client=http, max_retries=0)

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        calls: list[list[str]] = []
        asked: list[Any] = [{"role": "user", "content": turn.text}]
        async for event in await client.messages.create(model="m", max_tokens=99, messages=asked, stream=True):
            if event.type == "content_block_start" and event.content_block.type == "tool_use":
                calls.append([event.content_block.id, event.content_block.name, ""])
                yield ToolInput(calls[-1][0], calls[-1][1], "")
            elif event.type == "content_block_delta":
                if event.delta.type == "thinking_delta":
                    yield Reasoning(event.delta.thinking)
                elif event.delta.type == "text_delta":
                    yield event.delta.text
                elif event.delta.type == "input_json_delta":
                    calls[-1][2] += event.delta.partial_json
                    yield ToolInput(calls[-1][0], calls[-1][1], event.delta.partial_json)
        async for said in _runs([(own, name, arguments) for own, name, arguments in calls]):
            yield said

    return agent, of_sim(sim)


def pydantic_ai(use: str, wire: Any) -> Adapter:
    async def made(stack: AsyncExitStack, clock: FakeClock) -> Made:
        sim = await stack.enter_async_context(provider(clock))
        spec = load_agent(use, base_url=sim.base_url(wire), api_key=KEY, tools=["city_tools"], env={}, clock=clock)
        return await stack.enter_async_context(spec), of_sim(sim)

    return made


async def remote_chat(stack: AsyncExitStack, clock: FakeClock) -> Made:
    sim = await stack.enter_async_context(provider(clock))
    spec = load_agent(f"openai+{sim.base_url('O')}#m", api_key=KEY, env={}, clock=clock)
    return await stack.enter_async_context(spec), of_sim(sim)


async def local(stack: AsyncExitStack, clock: FakeClock) -> Made:
    """The local model's agent and a child process; what answers is the simulator."""
    sim = await stack.enter_async_context(provider(clock))
    ready = json.dumps({"base_url": sim.base_url("O"), "key": "k"})
    code = f"import sys; print({ready!r}, flush=True); sys.stdin.read()"
    model = LocalModel(clock=clock, command=[sys.executable, "-S", "-c", code])
    await stack.enter_async_context(model)
    return local_agent(model), of_sim(sim)


UI: dict[str, list[dict[str, Any]]] = {
    THOUGHTS: [{"type": "reasoning-start", "id": "r"}, {"type": "reasoning-delta", "id": "r", "delta": "Let me"}],
    TEXT: [{"type": "text-start", "id": "0"}, {"type": "text-delta", "id": "0", "delta": "Hello, "}],
    ARGUMENTS: [
        {"type": "tool-input-start", "toolCallId": "a", "toolName": "look"},
        {"type": "tool-input-delta", "toolCallId": "a", "inputTextDelta": '{"q":'},
    ],
    TOOL: [{"type": "tool-input-available", "toolCallId": "a", "toolName": "look", "input": {}}],
}
UI[STALL] = UI[TEXT]
UI[FINISH] = [*UI[TEXT], {"type": "text-end", "id": "0"}, {"type": "finish-step"}]


async def remote_ui(stack: AsyncExitStack, clock: FakeClock) -> Made:
    async def act(peer: Peer) -> None:
        body = peer.fake.requests[-1]
        if "messages" not in body:
            # The other side is told of the stop.
            await peer.head("application/json")
            await peer.send(b"{}")
            await peer.end()
            return
        phase = phase_of(body["messages"][-1]["parts"][0]["text"])
        if phase == SILENT:
            await peer.hang()
            return
        await peer.head()
        await peer.say({"type": "start", "messageId": "m"}, {"type": "start-step"}, *UI[phase])
        while phase == STALL:
            await peer.send(b": alive\n\n")
            await peer.pause(STEP_S)
        await peer.hang()

    fake = await stack.enter_async_context(fake_provider(act, clock))
    agent = await stack.enter_async_context(RemoteAgent(fake.base_url, clock=clock))
    return agent, Upstream(asked=lambda: len(fake.requests), idle=fake.idle.wait, open=lambda: fake.open)


STOP, DRAIN = ("a person's stop",), ("a shutdown",)
NO_TOOLS = tuple(phase for phase in PHASES if phase not in (ARGUMENTS, TOOL))
ADAPTERS: dict[str, tuple[Adapter, tuple[str, ...]]] = {
    "openai SDK": (openai_chat, PHASES),
    "anthropic SDK": (anthropic_messages, PHASES),
    "pydantic-ai A": (pydantic_ai("anthropic:m", "A"), PHASES),
    "pydantic-ai O": (pydantic_ai("openai:m", "O"), PHASES),
    "pydantic-ai R": (pydantic_ai("openai-responses:m", "R"), PHASES),
    "pydantic-ai G": (pydantic_ai("google:m", "G"), PHASES),
    "remote chat": (remote_chat, NO_TOOLS),
    "remote AI SDK": (remote_ui, PHASES),
    "local": (local, NO_TOOLS),
}


@pytest.fixture(autouse=True)
def _tools_that_never_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def get_weather(city: str) -> str:
        """The weather in a city."""
        await asyncio.Event().wait()
        return city

    module: Any = ModuleType("city_tools")
    module.get_weather = get_weather
    module.__all__ = ["get_weather"]
    monkeypatch.setitem(sys.modules, "city_tools", module)


@asynccontextmanager
async def made(adapter: str, clock: FakeClock) -> AsyncIterator[Made]:
    async with AsyncExitStack() as stack:
        yield await ADAPTERS[adapter][0](stack, clock)


QUICK = {
    "openai SDK": tuple(WAYS),
    "pydantic-ai A": tuple(WAYS),
    "local": ("a person's stop", "a shutdown", "two cancels of its task"),
}
"""The ways that are tried each time; the others, of which the adapter sees as little, only when there is time."""
CASES = [
    pytest.param(adapter, way, marks=() if way in QUICK.get(adapter, STOP + DRAIN) else pytest.mark.heavy)
    for adapter in ADAPTERS
    for way in WAYS
]


@pytest.mark.parametrize(("adapter", "way"), CASES)
async def test_nothing_is_left_of_a_cancelled_turn(adapter: str, way: str, tmp_path: Path) -> None:
    clock = FakeClock()
    async with made(adapter, clock) as (agent, upstream):
        await cancel(agent, upstream, tmp_path, clock, WAYS[way], ADAPTERS[adapter][1])


class Stuck(httpx2.AsyncByteStream):
    """A body whose connection does not close before `release` is set."""

    def __init__(self, body: Any, release: asyncio.Event) -> None:
        self._body = body
        self._release = release
        self.asked = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)

    async def aclose(self) -> None:
        self.asked = True
        await self._release.wait()
        await self._body.aclose()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Stuck], asyncio.Event]:
    """The bodies of all responses, under every library, and what lets them be closed."""
    bodies: list[Stuck] = []
    release = asyncio.Event()
    send = httpx2.AsyncHTTPTransport.handle_async_request

    async def sends(transport: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        response = await send(transport, request)
        bodies.append(Stuck(response.stream, release))
        response.stream = bodies[-1]
        return response

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", sends)
    return bodies, release


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_a_turn_ends_in_a_second_when_its_connection_does_not_close(
    adapter: str, stuck: tuple[list[Stuck], asyncio.Event], tmp_path: Path
) -> None:
    clock, way = FakeClock(), WAYS["a person's stop"]
    bodies, release = stuck
    async with made(adapter, clock) as (agent, upstream):
        with counting(agent) as (counted, tasks):
            async with in_phases(counted, upstream, tmp_path, clock, way, (SILENT, TEXT)) as at:
                try:
                    await way.act(at)
                    await over_within(clock, lambda: [line for line in at.left() if "agent-" not in line])
                    assert [body.asked for body in bodies] == [True]
                finally:
                    release.set()
            await over_within(clock, lambda: [*["an open request"] * upstream.open(), *tasks()])


async def test_a_stream_that_its_agent_leaves_is_closed_with_the_turn(tmp_path: Path) -> None:
    clock, kept = FakeClock(), []
    async with provider(clock) as sim, guarded_client(clock=clock, verify=_TLS) as http:
        client = openai.AsyncOpenAI(base_url=sim.base_url("O"), api_key=KEY, http_client=http, max_retries=0)

        async def agent(turn: Turn) -> AsyncIterator[Any]:
            async with closing_streams():
                asked: list[Any] = [{"role": "user", "content": turn.text}]
                stream = await client.chat.completions.create(model="m", messages=asked, stream=True)
                kept.append(stream)
                async for chunk in stream:
                    if chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content
                        break

        with counting(agent) as (counted, tasks):
            url = f"sqlite:///{tmp_path / 't.db'}"
            async with at_a_desk(url, tmp_path, counted, clock) as at:
                at.readers = {"c": at.client.ask(asks(TEXT))}
                await at.readers["c"].opened()
                await over_within(clock, lambda: [*at.left(), *tasks()])
                await clock.until(lambda: sim.requests[0].ended == "client_closed")
            await stored_once(url, at, "done")
        assert len(kept) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancel_during_the_last_write_changes_nothing(way: str, tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "t.db"
    free = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "words"
        await free.wait()

    async with at_a_desk(f"sqlite:///{path}", tmp_path, agent, clock, **WAYS[way].options) as at:
        at.readers = {"c": await at.client.ask("hi").records(4)}
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            free.set()
            await clock.until(lambda: bool(at.tasks("end")))
            acting = asyncio.ensure_future(WAYS[way].act(at))
            await clock.settle()
            assert at.tasks("end"), "the last write is under way"
            other.rollback()
        await clock.until(acting.done)
        await acting
        await over_within(clock, at.left)
    await stored_once(f"sqlite:///{path}", at, "done")


async def test_after_a_turn_whose_task_was_cancelled_the_next_one_runs(tmp_path: Path) -> None:
    clock = FakeClock()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield f"on {turn.text}"
        if turn.text == "first":
            await asyncio.Event().wait()

    async with at_a_desk(f"sqlite:///{tmp_path / 't.db'}", tmp_path, agent, clock) as at:
        at.readers = {"c": await at.client.ask("first").records(4)}
        second = await at.client.ask("second").opened()
        await WAYS["two cancels of its task"].act(at)
        await over_within(clock, at.left)
        await second.done()
    assert second.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "done"
