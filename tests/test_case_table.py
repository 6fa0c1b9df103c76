"""The table of cases: every row through the official SDKs and pydantic-ai, each in a real turn, or covered by name."""

from __future__ import annotations

import ast
import asyncio
import functools
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic_ai import Agent as PydanticAgent

from tests.case_kinds import HALF, Case
from tests.case_table import ROWS
from tests.case_turns import Bench, Seen, Wire, bench_in
from tests.fake_provider import fake_provider
from tests.model_wires import WIRES, Answer, Call
from tests.test_agents_pydantic_ai import KEY, ask, collect, of, question, text
from turnwire.agents._pydantic_models import Runtime
from turnwire.agents.load import load_agent
from turnwire.agents.local import local_available, model_path
from turnwire.agents.pydantic_ai import pydantic_agent
from turnwire.events import Text, ToolCall, ToolError, Usage
from turnwire.sim.models import LEAKED_KEY, SCENARIOS

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
BY = ("sdk", "pydantic-ai")
every_agent = pytest.mark.parametrize("by", BY)
every_wire = pytest.mark.parametrize("wire", get_args(Wire))


@pytest.fixture(scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """One gateway for all turns: each has a conversation, a provider and a clock of its own."""
    async with bench_in(tmp_path_factory.mktemp("cases")) as running:
        yield running


def _cases() -> list[Any]:
    found = []
    for row in ROWS:
        for case in row.cases:
            for by in BY:
                for wire in case.wires:
                    name = f"{row.number}-{'+'.join(dict.fromkeys(case.plan))}-{len(case.plan)}-{by}-{wire}"
                    marks = [pytest.mark.heavy] if f"{by}-{wire}" in case.heavy else []
                    found.append(pytest.param(by, wire, case.on(by, wire), id=name, marks=marks))
    return found


@pytest.mark.parametrize(("by", "wire", "case"), _cases())
async def test_a_reader_sees_what_the_row_demands(by: str, wire: Wire, case: Case, bench: Bench) -> None:
    seen = await bench.turn(by, wire, case.plan, scale=case.scale, step=case.step if case.took[1] else 0)
    assert (seen.outcome, seen.finish) == (case.outcome, case.finish), seen.reason
    assert case.why in seen.reason
    assert bool(seen.reason) == (case.outcome == "failed")
    _shown(seen, case)
    assert seen.usage == case.usage
    assert [given for _, given in seen.ran] == list(case.ran)
    assert case.took[0] - 1e-6 <= seen.took <= case.took[1] + 1e-6
    assert (seen.requests, seen.left_open) == (case.requests, 0)
    for secret in (LEAKED_KEY, KEY):
        assert secret not in json.dumps(seen.parts) + seen.reason


def _shown(seen: Seen, case: Case) -> None:
    """Each text is one part: nothing is said twice, and no thought is among the words."""
    assert seen.text == case.text
    assert seen.thoughts == case.thoughts
    assert seen.calls == list(case.calls)
    assert seen.signed == list(case.signed)
    kinds = [part["type"] for part in seen.parts]
    assert kinds.count("text") == bool(case.text)
    assert kinds.count("reasoning") == bool(case.thoughts)


# Row 50


@every_agent
@every_wire
@pytest.mark.parametrize("scenario", ["stall_after_2", "tools_parallel"])
async def test_a_stop_ends_the_turn_and_the_providers_stream(by: str, wire: Wire, scenario: str, bench: Bench) -> None:
    in_tool = scenario == "tools_parallel"
    async with bench.running(by, wire, (scenario,), hold=asyncio.Event()) as run:
        await run.exchange.until(lambda one: bool(run.ran) if in_tool else _said(one.events()) == HALF)
        await bench.client.post(f"/api/chat/{bench.chat}/stop", {})
        await run.exchange.done()
        await run.sim.wait_ended()
        assert [seen.ended for seen in run.sim.requests] == ["completed" if in_tool else "client_closed"]
    kinds = [event["type"] for event in run.exchange.events()]
    assert kinds[-2:] == ["abort", "finish"]
    message, about = await bench.shown(run)
    assert about["outcome"] == "stopped"
    said = "".join(part["text"] for part in message["parts"] if part["type"] == "text")
    assert said == ("" if in_tool else HALF)
    assert {part["state"] for part in message["parts"] if "toolCallId" in part} == (
        {"output-error"} if in_tool else set()
    )
    assert run.clock.pending == 0


def _said(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "text-delta")


# Row 53


@every_agent
@every_wire
async def test_an_agent_that_leaves_its_loop_leaves_no_stream_open(by: str, wire: Wire, bench: Bench) -> None:
    async with bench.running(by, wire, ("stall_after_2",)) as run:
        run.watch.leaves_after(lambda event: isinstance(event, Text))
        await run.exchange.done()
        await run.sim.wait_ended()
        assert [seen.ended for seen in run.sim.requests] == ["client_closed"]
    _, about = await bench.shown(run)
    assert about["outcome"] == "done"
    assert run.clock.pending == 0


# Row 26


@every_agent
@every_wire
@pytest.mark.parametrize("known", [True, False])
async def test_a_provider_that_is_not_there_is_told(
    by: str, wire: Wire, known: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Any] = []

    async def connect(*args: Any, **_: Any) -> None:
        tried.append(args)
        raise ConnectionRefusedError("refused") if known else socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("anyio.connect_tcp", connect)
    # Another clock's agent: it holds no connection yet.
    seen = await bench.turn(by, wire, (), scale=2 if known else 3)
    assert (seen.outcome, seen.parts, seen.requests) == ("failed", [{"type": "step-start"}], 0)
    assert seen.reason
    assert len(tried) == 3


# Rows 16, 45 and 46: what the simulator cannot say


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cities that the tool of `case_weather` was run for."""
    cities: list[str] = []

    def weather(city: str) -> str:
        cities.append(city)
        return "clear"

    module: Any = ModuleType("case_weather")
    module.weather, module.__all__ = weather, ["weather"]
    monkeypatch.setitem(sys.modules, "case_weather", module)
    return cities


OSLO = Call("c1", "weather", '{"city":"Oslo"}')


@pytest.mark.parametrize(("end", "why"), [("length", "output limit"), ("content_filter", "stopped the answer")])
async def test_calls_that_a_limit_or_a_filter_cut_are_not_run(end: str, why: str, ran: list[str]) -> None:
    said, failure, fake = await ask("openai", Answer(calls=[OSLO], end=end), tools=["case_weather"])
    assert why in str(failure)
    assert (ran, len(fake.requests)) == ([], 1)
    assert [each.id for each in of(ToolError, said)] == ["c1"]
    assert not of(ToolCall, said)


async def test_calls_of_an_answer_without_a_finish_are_not_run(ran: list[str]) -> None:
    async def act(peer: Any) -> None:
        await peer.head()
        for event in [*WIRES["openai"](Answer(["Hm."], calls=[OSLO], end=None)), b"data: [DONE]\n\n"]:
            await peer.send(event)
        await peer.end()

    async with fake_provider(act) as fake:
        spec = load_agent("openai:m", base_url=fake.base_url, api_key=KEY, env={}, tools=["case_weather"])
        async with spec as agent:
            said, failure = await collect(agent, question())
    assert "ended before its answer was complete" in str(failure)
    assert (text(said), ran) == ("Hm.", [])
    assert [each.finish_reason for each in of(Usage, said)] == [None]


# Row 47


@pytest.mark.parametrize("wire", ["google", "anthropic"])
async def test_a_thought_goes_back_to_gemini_with_its_signature(wire: str) -> None:
    thought = {
        "type": "reasoning",
        "text": "MY THOUGHT",
        "providerMetadata": {"google": {"thoughtSignature": "c2lnbmVk"}},
    }
    before: list[dict[str, Any]] = [
        {"role": "user", "parts": [{"type": "text", "text": "Hi."}]},
        {"role": "assistant", "parts": [thought, {"type": "text", "text": "Hello."}]},
    ]
    _, failure, fake = await ask(wire, Answer(["Yes."]), turn=question("Sure?", *before))
    assert failure is None
    if wire == "google":
        first = fake.requests[0]["contents"][1]["parts"][0]
        assert first == {"text": "MY THOUGHT", "thought": True, "thoughtSignature": "c2lnbmVk"}
    else:
        assert "MY THOUGHT" not in json.dumps(fake.requests[0])


# Row 67


@pytest.mark.skipif(not local_available(), reason="install it with `turnwire local install`")
@pytest.mark.process
@pytest.mark.heavy
async def test_a_real_model_over_three_wires() -> None:
    command = [sys.executable, "-m", "turnwire.agents.local_server", "--model", str(model_path())]
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL)
    try:
        assert child.stdout is not None
        at = json.loads(await child.stdout.readline())
        for kind in ("openai", "openai-responses", "anthropic"):
            url = at["base_url"].removesuffix("/v1") if kind == "anthropic" else at["base_url"]
            async with Runtime(kind, "m", api_key=at["key"], base_url=url) as runtime:
                model = PydanticAgent(runtime.agent.model, model_settings={"max_tokens": 60})
                said, failure = await collect(
                    runtime.with_servers(pydantic_agent(model)), question("Tell me a long story about a fox.")
                )
            assert failure is None, kind
            assert len(of(Text, said)) >= 20, kind
            [used] = of(Usage, said)
            assert used.finish_reason in ("stop", "length"), kind
            assert used.output_tokens >= 20, kind
            assert used.input_tokens, kind
    finally:
        child.kill()
        await child.wait()


# The table itself


def test_the_table_is_whole_and_every_row_is_tested() -> None:
    assert [row.number for row in ROWS] == list(range(1, 68))
    for row in ROWS:
        assert row.cases or row.tests, f"row {row.number}, {row.name}, is tested nowhere"
        for case in row.cases:
            for scenario in case.plan if case.requests else ():
                assert set(case.wires) <= set(SCENARIOS[scenario].wires), (row.name, scenario)
        for name in row.tests:
            path, _, test = name.partition("::")
            assert test in _tests_of(path), f"row {row.number}, {row.name}, names {name}, which does not exist"


@functools.cache
def _tests_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
