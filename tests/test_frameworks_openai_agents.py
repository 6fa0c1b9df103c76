"""The OpenAI Agents SDK as the runtime, over both of OpenAI's wires of the simulated provider, in a real gateway."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import importlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.framework_turns import CITIES, about, answer_of, asked, calls, decided, stopped, talking, text, thoughts
from turnwire.agents.guard import guarded_client
from turnwire.agents.openai_agents import openai_agent
from turnwire.sim.models import LEAKED_KEY, TEXT, ModelSim

sdk: Any = pytest.importorskip("agents")
openai: Any = pytest.importorskip("openai")

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks]

both_wires = pytest.mark.parametrize("wire", ["O", "R"])
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Bench:
    """An agent with tools over a simulated provider; `ran` are the cities its tools were run for."""

    def __init__(self, sim: ModelSim, wire: str, http: Any, **options: Any) -> None:
        self.sim = sim
        self.ran: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()
        client = openai.AsyncOpenAI(base_url=sim.base_url("R" if wire == "R" else "O"), api_key="any", http_client=http)
        kind = sdk.OpenAIResponsesModel if wire == "R" else sdk.OpenAIChatCompletionsModel
        self.model = kind("m", client)
        self.tool = sdk.function_tool(self.get_weather, **options)
        self.agent = sdk.Agent(name="Weather", instructions="Be brief.", model=self.model, tools=[self.tool])
        self.config = sdk.RunConfig(tracing_disabled=True)

    async def get_weather(self, city: str) -> str:
        """The weather in a city."""
        self.ran.append(city)
        await self.hold.wait()
        if city == "Zürich":
            raise ValueError("database password hunter2")
        return f"clear over {city}"

    def turnwire(self, **options: Any) -> Any:
        return openai_agent(self.agent, run_config=self.config, **options)


@pytest.fixture
async def bench() -> AsyncIterator[Callable[..., Bench]]:
    async with contextlib.AsyncExitStack() as stack:
        sim = await stack.enter_async_context(ModelSim(retry_after=0.001))
        http = await stack.enter_async_context(guarded_client())

        def make(wire: str, *plan: str, **options: Any) -> Bench:
            sim.plan(plan)
            return Bench(sim, wire, http, **options)

        yield make


@both_wires
@pytest.mark.shows("OpenAI Agents SDK", "text", "reasoning", "usage")
async def test_text_thoughts_and_counts(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "thinking")
    async with talking(at.turnwire(), tmp_path) as client:
        message = await asked(client)
    assert (text(message), thoughts(message)) == (TEXT, "Let me think.")
    found = about(message)
    assert (found["outcome"], found["usage"]["totalTokens"], found["model"]) == ("done", 42, "m")


@both_wires
@pytest.mark.shows("OpenAI Agents SDK", "tools", "parallel tools", "resume")
async def test_parallel_calls_and_one_fails(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "tools_parallel", "ok", "ok")
    async with talking(at.turnwire(), tmp_path) as client:
        message = await asked(client)
        await asked(client, "Sure?")
    assert sorted(at.ran) == ["Zürich", "北京"]
    assert calls(message) == [
        ("output-available", CITIES[0], "clear over 北京"),
        ("output-error", CITIES[1], "The tool get_weather failed (ValueError)."),
    ]
    assert (text(message), about(message)["usage"]["totalTokens"]) == (TEXT, 84)
    later = json.dumps(at.sim.requests[2].body, ensure_ascii=False)
    order = [later.index(each) for each in ("clear over 北京", "The tool get_weather failed", TEXT[:7], "Sure?")]
    assert order == sorted(order)
    assert "hunter2" not in later


@both_wires
@pytest.mark.shows("OpenAI Agents SDK", "files")
async def test_a_file_is_sent_along(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "ok")
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    parts = [
        {"type": "text", "text": "See?"},
        {"type": "file", "url": url, "mediaType": "image/png", "filename": "a.png"},
    ]
    async with talking(at.turnwire(), tmp_path) as client:
        message = await asked(client, messages=[{"id": "m1", "role": "user", "parts": parts}])
    assert text(message) == TEXT
    assert url in json.dumps(at.sim.requests[0].body)


@both_wires
@pytest.mark.parametrize(
    ("scenario", "said", "why"),
    [
        ("clean_eof_mid", "Hello, wörld ", "ended before its answer was complete"),
        ("rst_mid", "Hello, wörld ", "connection to the model broke"),
        ("error_mid", "Hello, wörld ", "reported an error"),
        ("400", "", "answered 400"),
        ("tools_cut", "", "ended before its answer was complete"),
        ("tools_max_tokens", "", "was writing a tool call"),
    ],
)
@pytest.mark.shows("OpenAI Agents SDK", "errors")
async def test_failures(wire: str, scenario: str, said: str, why: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, scenario, "ok")
    async with talking(at.turnwire(), tmp_path) as client:
        message = await asked(client)
        assert (about(message)["outcome"], text(message), at.ran) == ("failed", said, [])
        assert why in about(message)["reason"]
        assert LEAKED_KEY not in json.dumps(message)
        assert len(at.sim.requests) == 1
        assert text(await asked(client, "again")) == TEXT


@both_wires
async def test_what_the_gate_sees_stops_the_tools_before_they_run(wire: str, tmp_path: Path) -> None:
    """Without the guard, which sees this already."""
    for scenario in ("tools_cut", "clean_eof_mid"):
        async with ModelSim() as sim, openai.DefaultAsyncHttpxClient(trust_env=False) as http:
            sim.plan([scenario])
            at = Bench(sim, wire, http)
            (tmp_path / scenario).mkdir()
            async with talking(at.turnwire(), tmp_path / scenario) as client:
                message = await asked(client, scenario)
        assert (about(message)["outcome"], at.ran, len(sim.requests)) == ("failed", [], 1), scenario


@both_wires
@pytest.mark.parametrize(("scenario", "reason"), [("max_tokens", "length"), ("filter", "content-filter")])
async def test_an_answer_that_ended_early_stands(
    wire: str, scenario: str, reason: str, bench: Any, tmp_path: Path
) -> None:
    at = bench(wire, scenario)
    async with talking(at.turnwire(), tmp_path) as client:
        exchange = await client.ask("hi").done()
        message = await answer_of(client)
    assert (about(message)["outcome"], text(message)) == ("done", "Hello, wörld ")
    if wire == "R":
        assert exchange.events()[-1]["finishReason"] == reason


@both_wires
async def test_a_refusal_of_the_model_is_its_answer(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "refusal")
    async with talking(at.turnwire(), tmp_path) as client:
        message = await asked(client)
    assert (about(message)["outcome"], text(message)) == ("done", "I cannot help.")


@both_wires
async def test_a_busy_provider_is_asked_again(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "429", "ok")
    async with talking(at.turnwire(), tmp_path) as client:
        assert text(await asked(client)) == TEXT


@both_wires
@pytest.mark.shows("OpenAI Agents SDK", "stop")
async def test_stopping(wire: str, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "stall_after_2", "tools", "pings_forever", "ok")
    async with talking(at.turnwire(), tmp_path) as client:
        stalled = await stopped(client, at.sim, client.ask("one"), "text-delta")
        assert (about(stalled)["outcome"], text(stalled)[:7]) == ("stopped", "Hello, ")
        at.hold.clear()
        in_tool = await stopped(client, at.sim, client.ask("two"), "tool-input-available")
        assert about(in_tool)["outcome"] == "stopped"
        assert [state for state, *_ in calls(in_tool)] == ["output-error"]
        await stopped(client, at.sim, client.ask("three"), "text-delta")
        assert text(await asked(client, "four")) == TEXT
    assert [seen.ended for seen in at.sim.requests] == ["client_closed", "completed", "client_closed", "completed"]


@both_wires
@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.shows("OpenAI Agents SDK", "approvals")
async def test_a_person_is_asked(wire: str, approved: bool, bench: Any, tmp_path: Path) -> None:
    at = bench(wire, "tools_parallel", "tools", needs_approval=True)
    seen: list[Any] = []

    def context(turn: Any) -> Any:
        seen.append(turn.id)
        return {"password": "hunter2"}

    async with talking(at.turnwire(context=context), tmp_path) as client:
        waiting = await asked(client)
        assert (about(waiting)["outcome"], at.ran) == ("waiting", [])
        assert [state for state, *_ in calls(waiting)] == ["approval-requested", "approval-requested"]
        again = {"approved": False, "reason": "too far"}
        second = [part["approval"]["id"] for part in waiting["parts"] if "approval" in part][1]
        await client.post(f"/api/approvals/{second}", again)
        message = await decided(client, approved)
    assert about(message)["outcome"] == "done"
    states = ["output-available" if approved else "output-denied", "output-denied"]
    assert [state for state, *_ in calls(message)] == states
    assert at.ran == (["北京"] if approved else [])
    assert "too far" in text(message)
    assert len(seen) == 2
    assert b"hunter2" not in (tmp_path / "gateway.db").read_bytes()


async def test_a_handoff_is_told(bench: Any, tmp_path: Path) -> None:
    at = bench("R", "tools", "ok")
    at.agent.tools = []
    at.agent.handoffs = [sdk.Agent(name="Clerk", model=at.model)]
    async with talking(at.turnwire(), tmp_path) as client:
        message = await asked(client)
    assert text(message).endswith(TEXT)
    assert [part["data"] for part in message["parts"] if part["type"] == "data-handoff"] == [
        {"from": "Weather", "to": "Clerk"}
    ]


async def test_nothing_said_before_an_error_is_lost(tmp_path: Path) -> None:
    types: Any = importlib.import_module("openai.types.responses")

    class Burst(sdk.Model):  # type: ignore[misc]
        async def get_response(self, *args: Any, **options: Any) -> Any:
            raise NotImplementedError

        async def stream_response(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
            for number in range(50):
                yield types.ResponseTextDeltaEvent(
                    type="response.output_text.delta",
                    delta=f"{number} ",
                    content_index=0,
                    item_id="m",
                    output_index=0,
                    sequence_number=number,
                    logprobs=[],
                )
            raise openai.APIError("overloaded", None, body=None)

    config = sdk.RunConfig(tracing_disabled=True)
    async with talking(openai_agent(sdk.Agent(name="A", model=Burst()), run_config=config), tmp_path) as client:
        message = await asked(client)
    assert about(message)["outcome"] == "failed"
    assert text(message) == "".join(f"{number} " for number in range(50))


async def test_too_many_requests_to_the_model_are_told(bench: Any, tmp_path: Path) -> None:
    at = bench("R", "tools", "ok")
    async with talking(at.turnwire(max_turns=1), tmp_path) as client:
        message = await asked(client)
    assert about(message)["reason"] == "The agent could not finish: Max turns (1) exceeded"


USED: dict[str, list[str]] = {
    "agents:Agent": ["name:"],
    "agents:ModelSettings": ["include_usage:"],
    "agents:RunConfig": ["model_settings:", "tool_error_formatter:"],
    "agents:RunHooks": ["on_llm_end"],
    "agents:RunState": ["approve", "from_json", "get_interruptions", "reject", "to_json"],
    "agents:Runner": ["run_streamed"],
    "agents.items:HandoffOutputItem": ["source_agent:", "target_agent:", "raw_item:", "type:"],
    "agents.items:ModelResponse": ["output:", "usage:"],
    "agents.items:ToolApprovalItem": ["call_id", "name", "raw_item:", "tool_name:"],
    "agents.items:ToolCallItem": ["raw_item:", "type:"],
    "agents.items:ToolCallOutputItem": ["output:", "raw_item:", "type:"],
    "agents.result:RunResultStreaming": [
        *("cancel", "stream_events", "to_state"),
        *("_event_queue:", "final_output:", "interruptions:"),
    ],
    "agents.run_config:ToolErrorFormatterArgs": ["kind:", "tool_name:", "call_id:", "default_message:", "error:"],
    "agents.stream_events:RawResponsesStreamEvent": ["data:", "type:"],
    "agents.stream_events:RunItemStreamEvent": ["item:", "type:"],
    "agents.usage:Usage": ["total_tokens:"],
    "openai.types.responses:Response": ["id:", "incomplete_details:", "model:", "output:", "usage:"],
    "openai.types.responses:ResponseFunctionToolCall": ["arguments:", "call_id:", "name:", "type:"],
    "openai.types.responses:ResponseUsage": ["input_tokens:", "output_tokens:", "total_tokens:"],
}


@pytest.mark.parametrize("name", USED)
def test_what_we_use_of_the_sdk_exists(name: str) -> None:
    module, _, path = name.partition(":")
    found = getattr(importlib.import_module(module), path)
    fields = {each.name for each in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    fields |= set(getattr(found, "model_fields", ()))
    for each in USED[name]:
        assert each.removesuffix(":") in fields if each.endswith(":") else hasattr(found, each), each


def test_the_made_up_id_is_the_sdks() -> None:
    ours = importlib.import_module("turnwire.agents.openai_agents")._MADE_UP
    assert ours == importlib.import_module("agents.models.fake_id").FAKE_RESPONSES_ID
