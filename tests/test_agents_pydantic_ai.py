"""pydantic-ai as the runtime: real libraries of four providers against servers that speak their wires."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
from contextlib import aclosing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import ModelRetry
from pydantic_ai.models import KnownModelName
from pydantic_ai.models.function import DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel

from tests.asgi import Client
from tests.fake_provider import Fake, fake_provider
from tests.gateways import running
from tests.model_wires import WIRES, Answer, Call, Refusal, scripted
from turnwire.agents._mcp_server import MCPServer
from turnwire.agents.load import AUTO_MODELS, load_agent
from turnwire.agents.pydantic_ai import pydantic_agent
from turnwire.channels.web.api import web_app
from turnwire.events import Reasoning, Step, Text, ToolCall, ToolError, ToolResult, Usage
from turnwire.turn import AgentError

pytestmark = pytest.mark.anyio

KEY = "sk-abcdefgh12345"
OSLO = Call("c1", "weather", '{"city":"Oslo"}')
NOWHERE = Call("c2", "weather", '{"city":"Nowhere"}')

every_wire = pytest.mark.parametrize("wire", WIRES)


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "GOOGLE_GEMINI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cities that the tool `city_tools:weather` was asked for."""
    asked: list[str] = []

    def weather(city: str) -> dict[str, str]:
        """The weather in a city."""
        asked.append(city)
        if city == "Nowhere":
            raise KeyError("database password hunter2")
        return {"sky": f"clear over {city}"}

    module: Any = ModuleType("city_tools")
    module.weather = weather
    module.__all__ = ["weather"]
    monkeypatch.setitem(sys.modules, "city_tools", module)
    return asked


def question(text: str = "hi", *before: dict[str, Any]) -> Any:
    messages = [*before, {"role": "user", "parts": [{"type": "text", "text": text}]}]
    return SimpleNamespace(text=text, quote=None, files=[], messages=messages, resolutions=())


async def collect(agent: Any, turn: Any) -> tuple[list[Any], AgentError | None]:
    """What an agent says, and the failure it ends with."""
    said: list[Any] = []
    try:
        async with aclosing(agent(turn)) as events:
            async for event in events:
                said.append(event)  # noqa: PERF401 - what was said stays when the agent fails
    except AgentError as error:
        return said, error
    return said, None


async def ask(
    wire: str, *answers: Answer | Refusal, turn: Any = None, **options: Any
) -> tuple[list[Any], AgentError | None, Fake]:
    """One turn of a configured agent against a server that gives `answers`."""
    async with fake_provider(scripted(wire, *answers)) as fake:
        spec = load_agent(f"{wire}:m", base_url=fake.base_url, api_key=KEY, env={}, **options)
        async with spec as agent:
            said, failure = await collect(agent, turn or question())
        return said, failure, fake


def text(said: list[Any]) -> str:
    return "".join(event.text for event in said if isinstance(event, Text))


def of(kind: type, said: list[Any]) -> list[Any]:
    return [event for event in said if isinstance(event, kind)]


@every_wire
async def test_text_and_thoughts_come_apart_and_are_counted(wire: str) -> None:
    said, failure, fake = await ask(wire, Answer(["Hello, ", "wörld 你好🌍"], ["Let me ", "think."]))
    assert failure is None
    assert isinstance(said[0], Step)
    assert text(said) == "Hello, wörld 你好🌍"
    assert "".join(event.text for event in of(Reasoning, said)) == "Let me think."
    model = "m" if wire == "google" else "fake-1"
    counted = Usage(input_tokens=30, output_tokens=12, total_tokens=42, model=model, finish_reason="stop")
    assert of(Usage, said) == [counted]
    assert len(fake.requests) == 1


@every_wire
async def test_parallel_tool_calls_are_run_and_one_may_fail(wire: str, ran: list[str]) -> None:
    said, failure, fake = await ask(
        wire, Answer(["Looking. "], calls=[OSLO, NOWHERE]), Answer(["Done."]), tools=["city_tools"]
    )
    assert failure is None
    assert sorted(ran) == ["Nowhere", "Oslo"]
    assert {call.id: call.input for call in of(ToolCall, said)} == {"c1": {"city": "Oslo"}, "c2": {"city": "Nowhere"}}
    assert [(each.id, each.output) for each in of(ToolResult, said)] == [("c1", {"sky": "clear over Oslo"})]
    assert [(each.id, each.error) for each in of(ToolError, said)] == [("c2", "The tool weather failed (KeyError).")]
    assert len(of(Step, said)) == 2
    assert text(said) == "Looking. Done."
    second = json.dumps(fake.requests[1])
    assert "clear over Oslo" in second
    assert "KeyError" in second
    assert "hunter2" not in second


@every_wire
@pytest.mark.parametrize("calls", [[], [OSLO]])
async def test_a_stream_that_stops_short_is_a_failure_and_runs_no_tool(
    wire: str, calls: list[Call], ran: list[str]
) -> None:
    said, failure, _ = await ask(wire, Answer(["Hel", "lo"], calls=calls, end=None), tools=["city_tools:weather"])
    assert "ended before its answer was complete" in str(failure)
    assert text(said) == "Hello"
    assert ran == []
    assert not of(ToolCall, said)
    assert all(usage.finish_reason is None for usage in of(Usage, said))


@every_wire
async def test_a_call_that_the_output_limit_cut_is_not_run(wire: str, ran: list[str]) -> None:
    said, failure, _ = await ask(wire, Answer(calls=[OSLO], end="length"), tools=["city_tools:weather"])
    assert "output limit" in str(failure)
    assert ran == []
    assert [each.id for each in of(ToolError, said)] == ["c1"]


@every_wire
async def test_text_that_the_output_limit_cut_says_so(wire: str) -> None:
    said, failure, _ = await ask(wire, Answer(["Once upon"], end="length"))
    assert failure is None
    assert of(Usage, said)[0].finish_reason == "length"


@every_wire
async def test_an_error_in_the_stream_is_told_without_secrets(wire: str) -> None:
    said, failure, _ = await ask(wire, Answer(["Hel"], error=f"overloaded, key {KEY}\nand more"))
    assert text(said) == "Hel"
    assert "overloaded, key *** and more" in str(failure)
    assert KEY not in str(failure)


@every_wire
@pytest.mark.parametrize(
    ("refusal", "requests"),
    [
        (Refusal("401 Unauthorized", {"error": {"message": f"bad key {KEY}"}}), 1),
        (Refusal("429 Too Many Requests", {"error": {"message": "slow down"}}), 3),
    ],
)
async def test_a_refusal_is_told_and_a_passing_one_is_tried_again(wire: str, refusal: Refusal, requests: int) -> None:
    said, failure, fake = await ask(wire, refusal)
    assert not of(Text, said)
    assert str(failure).startswith(f"The model's provider answered {refusal.status}: ")
    assert KEY not in str(failure)
    assert len(fake.requests) == requests


@every_wire
async def test_a_refusal_before_the_answer_is_survived(wire: str) -> None:
    busy = Refusal("429 Too Many Requests", {"error": {"message": "slow down"}})
    said, failure, _ = await ask(wire, busy, Answer(["Fine."]))
    assert (text(said), failure) == ("Fine.", None)


@every_wire
async def test_a_later_turn_sends_what_was_said(wire: str) -> None:
    first = {"role": "user", "parts": [{"type": "text", "text": "How is Oslo?"}]}
    tool = {"type": "tool-weather", "toolCallId": "c1", "state": "output-available", "input": {"city": "Oslo"}}
    answer = {
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "SECRET THOUGHT"},
            {**tool, "output": {"sky": "clear as glass"}},
            {"type": "step-start"},
            {"type": "text", "text": "It is clear."},
        ],
    }
    said, failure, fake = await ask(
        wire, Answer(["Yes."]), turn=question("Sure?", first, answer), instructions="Be brief."
    )
    assert failure is None
    assert text(said) == "Yes."
    sent = json.dumps(fake.requests[0])
    order = [sent.index(each) for each in ("How is Oslo?", "clear as glass", "It is clear.", "Sure?")]
    assert order == sorted(order)
    assert "Be brief." in sent
    assert "SECRET THOUGHT" not in sent


@every_wire
async def test_proxies_of_the_environment_are_ignored(wire: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    said, failure, _ = await ask(wire, Answer(["Direct."]))
    assert (text(said), failure) == ("Direct.", None)


@every_wire
async def test_nobody_listening_is_told(wire: str) -> None:
    async with load_agent(f"{wire}:m", base_url="http://127.0.0.1:9", api_key=KEY, env={}) as agent:
        _, failure = await collect(agent, question())
    assert failure is not None


async def test_a_broken_connection_is_told() -> None:
    for wire in WIRES:

        async def act(peer: Any, wire: str = wire) -> None:
            await peer.head()
            for event in WIRES[wire](Answer(["Hel"], end=None)):
                await peer.send(event)

        async with fake_provider(act) as fake:
            spec = load_agent(f"{wire}:m", base_url=fake.base_url, api_key=KEY, env={})
            async with spec as agent:
                said, failure = await collect(agent, question())
        assert text(said) == "Hel", wire
        assert failure is not None, wire


MCP_SERVER = """
import os
from mcp.server import MCPServer

server = MCPServer("numbers")

@server.tool()
def double(number: int) -> str:
    "Twice a number."
    if number < 0:
        raise ValueError("negative")
    return f"{2 * number} {os.environ.get('UNIT', '')}"

server.run("stdio")
"""


@pytest.fixture
def mcp_server(tmp_path: Path) -> MCPServer:
    script = tmp_path / "server.py"
    script.write_text(MCP_SERVER)
    return MCPServer(command=sys.executable, args=[str(script)], env={"UNIT": "apples"})


async def test_an_mcp_server_of_the_configuration_is_started_and_called(mcp_server: MCPServer) -> None:
    calls = [Call("m1", "double", '{"number": 21}'), Call("m2", "double", '{"number": -1}')]
    said, failure, fake = await ask("openai", Answer(calls=calls), Answer(["42."]), mcp={"numbers": mcp_server})
    assert failure is None
    assert [tool["function"]["name"] for tool in fake.requests[0]["tools"]] == ["double"]
    assert "42 apples" in str(of(ToolResult, said)[0].output)
    assert [each.id for each in of(ToolError, said)] == ["m2"]
    assert text(said) == "42."


@pytest.mark.shows("pydantic-ai", "tools", "parallel tools")
async def test_a_whole_turn_through_the_gateway(tmp_path: Path, ran: list[str]) -> None:
    async with fake_provider(scripted("openai", Answer(calls=[OSLO, NOWHERE]), Answer(["It is ", "clear."]))) as fake:
        spec = load_agent("openai:m", base_url=fake.base_url, api_key=KEY, env={}, tools=["city_tools"])
        url = f"sqlite:///{tmp_path / 'gateway.db'}"
        async with spec as agent, running(url, tmp_path, agent) as gateway:
            client = Client(web_app(gateway))
            await client.ask("How is Oslo?").done()
            first = (await client.get("/api/chat/c")).json()["messages"][-1]
            await client.ask("Sure?").done()
    kinds = [part["type"] for part in first["parts"]]
    assert kinds == ["step-start", "tool-weather", "tool-weather", "step-start", "text"]
    assert first["parts"][1]["output"] == {"sky": "clear over Oslo"}
    assert first["parts"][2]["errorText"] == "The tool weather failed (KeyError)."
    assert first["parts"][4]["text"] == "It is clear."
    about = first["metadata"]["turnwire"]
    assert (about["outcome"], about["usage"]["totalTokens"], about["model"]) == ("done", 84, "fake-1")
    sent = [message["role"] for message in fake.requests[2]["messages"]]
    assert sent == ["user", "assistant", "tool", "tool", "assistant", "user"]


async def test_a_persons_own_agent_runs_with_its_dependencies_and_prompts() -> None:
    seen: list[Any] = []

    async def model(messages: Any, info: Any) -> Any:
        seen.append(messages)
        yield "Hello."

    own = PydanticAgent(FunctionModel(stream_function=model), deps_type=str, system_prompt="You are kind.")
    own.system_prompt(lambda ctx: f"The person is {ctx.deps}.")
    turn = question("hi", {"role": "assistant", "parts": [{"type": "text", "text": "I began."}]})
    turn.user = "ada"
    said, failure = await collect(pydantic_agent(own, deps=lambda turn: turn.user), turn)
    assert (text(said), failure) == ("Hello.", None)
    parts = [part for message in seen[0] for part in message.parts]
    assert [part.content for part in parts if part.part_kind == "system-prompt"] == [
        "You are kind.",
        "The person is ada.",
    ]
    assert [part.content for part in parts if part.part_kind == "text"] == ["I began."]


async def test_a_tool_that_asks_for_another_try_gets_it() -> None:
    async def model(messages: Any, info: Any) -> Any:
        tries = sum(part.part_kind == "tool-return" for message in messages for part in message.parts)
        if tries == 2:
            yield "Found."
        else:
            yield {0: DeltaToolCall("look", json.dumps({"word": ["bad", "good"][tries]}), tool_call_id=f"t{tries}")}

    own = PydanticAgent(FunctionModel(stream_function=model))

    @own.tool_plain
    def look(word: str) -> str:
        if word == "bad":
            raise ModelRetry("Use a good word.")
        return "here"

    said, failure = await collect(pydantic_agent(own), question())
    assert failure is None
    assert [(each.id, each.error) for each in of(ToolError, said)] == [("t0", "Use a good word.")]
    assert [(each.id, each.output) for each in of(ToolResult, said)] == [("t1", "here")]
    assert text(said) == "Found."


async def test_arguments_that_are_no_json_are_refused_and_never_run() -> None:
    ran: list[str] = []

    async def model(messages: Any, info: Any) -> Any:
        if len(messages) > 1:
            yield "Sorry."
        else:
            yield {0: DeltaToolCall("look", '{"word": "ha', tool_call_id="t1")}

    own = PydanticAgent(FunctionModel(stream_function=model))

    @own.tool_plain
    def look(word: str) -> None:
        ran.append(word)

    said, failure = await collect(pydantic_agent(own), question())
    assert failure is None
    assert ran == []
    assert not of(ToolCall, said)
    assert [each.id for each in of(ToolError, said)] == ["t1"]


async def test_output_that_is_no_text_is_said_as_json() -> None:
    class City(BaseModel):
        name: str

    own = PydanticAgent(TestModel(custom_output_args={"name": "Oslo"}), output_type=City)
    said, failure = await collect(pydantic_agent(own), question())
    assert failure is None
    assert '"name": "Oslo"' in text(said)


async def test_a_tool_of_a_persons_own_agent_that_raises_ends_the_turn_with_its_error() -> None:
    own = PydanticAgent(TestModel())

    @own.tool_plain
    def look() -> str:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await collect(pydantic_agent(own), question())


@pytest.mark.parametrize("provider", AUTO_MODELS)
def test_the_models_that_auto_takes_are_known_to_the_library(provider: str) -> None:
    known = set(get_args(KnownModelName.__value__))
    assert f"{provider}:{AUTO_MODELS[provider]}" in known


USED: dict[str, list[str]] = {
    "pydantic_ai:Agent": ["iter", "is_model_request_node", "is_call_tools_node", "system_prompt_parts"],
    "pydantic_ai:DeferredToolRequests": ["approvals:", "calls:"],
    "pydantic_ai:DeferredToolResults": ["approvals:"],
    "pydantic_ai:ToolApproved": [],
    "pydantic_ai:ToolDenied": [],
    "pydantic_ai:FunctionToolset": ["tools:"],
    "pydantic_ai:RunContext": [],
    "pydantic_ai.agent:AbstractAgent": ["iter", "model", "system_prompt_parts", "__aenter__", "__aexit__"],
    "pydantic_ai.exceptions:AgentRunError": [],
    "pydantic_ai.exceptions:ApprovalRequired": [],
    "pydantic_ai.exceptions:CallDeferred": [],
    "pydantic_ai.exceptions:ContentFilterError": [],
    "pydantic_ai.exceptions:IncompleteToolCall": [],
    "pydantic_ai.exceptions:ModelAPIError": ["body:", "in_stream:"],
    "pydantic_ai.exceptions:ModelHTTPError": ["status_code:"],
    "pydantic_ai.exceptions:ModelRetry": ["message:"],
    "pydantic_ai.exceptions:ToolFailed": ["message:"],
    "pydantic_ai.exceptions:ToolFailedError": [],
    "pydantic_ai.exceptions:ToolRetryError": [],
    "pydantic_ai.exceptions:UnexpectedModelBehavior": ["message:"],
    "pydantic_ai.exceptions:UserError": [],
    "pydantic_ai.mcp:MCPToolset": ["call_tool", "client:", "get_tools", "is_running", "list_tools"],
    "pydantic_ai.messages:BinaryContent": ["data:", "media_type:", "from_data_uri"],
    "pydantic_ai.messages:Citation": ["sources:"],
    "pydantic_ai.messages:DocumentUrl": ["url:", "media_type"],
    "pydantic_ai.messages:ImageUrl": ["url:", "media_type"],
    "pydantic_ai.messages:ModelMessagesTypeAdapter": ["dump_python", "validate_python"],
    "pydantic_ai.messages:ModelRequest": ["parts:"],
    "pydantic_ai.messages:ModelResponse": [
        *("parts:", "finish_reason:", "model_name:", "provider_details:", "provider_name:", "state:", "usage:"),
        "files",
        "tool_calls",
    ],
    "pydantic_ai.messages:NativeToolCallPart": ["args_as_dict"],
    "pydantic_ai.messages:NativeToolReturnPart": ["content:", "outcome:", "model_response_str"],
    "pydantic_ai.messages:PartDeltaEvent": ["index:", "delta:"],
    "pydantic_ai.messages:PartEndEvent": ["part:"],
    "pydantic_ai.messages:PartStartEvent": ["index:", "part:"],
    "pydantic_ai.messages:SystemPromptPart": ["content:"],
    "pydantic_ai.messages:TextPart": ["content:", "citations:"],
    "pydantic_ai.messages:TextPartDelta": ["content_delta:"],
    "pydantic_ai.messages:ThinkingPart": ["content:", "id:", "provider_name:", "signature:"],
    "pydantic_ai.messages:ThinkingPartDelta": ["content_delta:"],
    "pydantic_ai.messages:ToolCallEvent": ["part:", "tool_call_id"],
    "pydantic_ai.messages:ToolCallPart": ["tool_name:", "args:", "tool_call_id:", "args_as_dict"],
    "pydantic_ai.messages:ToolCallPartDelta": ["args_delta:"],
    "pydantic_ai.messages:ToolResultEvent": ["part:"],
    "pydantic_ai.messages:ToolReturnPart": [
        *("tool_name:", "content:", "tool_call_id:", "outcome:"),
        "model_response_str",
    ],
    "pydantic_ai.messages:UserPromptPart": ["content:"],
    "pydantic_ai.messages:WebCitationSource": ["url:", "title:"],
    "pydantic_ai.models.anthropic:AnthropicModel": [],
    "pydantic_ai.models.google:GoogleModel": [],
    "pydantic_ai.models.openai:OpenAIChatModel": [],
    "pydantic_ai.models.openai:OpenAIResponsesModel": [],
    "pydantic_ai.providers.anthropic:AnthropicProvider": [],
    "pydantic_ai.providers.google:GoogleProvider": [],
    "pydantic_ai.providers.openai:OpenAIProvider": [],
    "pydantic_ai.result:AgentStream": ["response", "__aiter__"],
    "pydantic_ai.run:AgentRun": ["all_messages", "ctx", "result", "__aiter__"],
    "pydantic_ai.run:AgentRunResult": ["output:"],
    "pydantic_ai.toolsets:WrapperToolset": ["call_tool", "__aenter__", "__aexit__"],
    "pydantic_ai.usage:RequestUsage": ["input_tokens:", "output_tokens:", "total_tokens", "has_values"],
    "pydantic_ai.tools:ToolDefinition": ["name:"],
    "pydantic_ai.toolsets:AbstractToolset": ["id"],
    "pydantic_ai.toolsets:ToolsetTool": ["tool_def:", "toolset:"],
    "fastmcp.client:Client": ["list_tools"],
    "fastmcp.client.transports:StdioTransport": ["disconnect"],
    "mcp_types:Tool": ["name:"],
}


@pytest.mark.parametrize("name", USED)
def test_what_we_use_of_the_library_exists(name: str) -> None:
    module, _, path = name.partition(":")
    found = getattr(importlib.import_module(module), path)
    fields = {each.name for each in dataclasses.fields(found)} if dataclasses.is_dataclass(found) else set()
    fields |= {each for base in getattr(found, "__mro__", ()) for each in inspect.get_annotations(base)}
    for each in USED[name]:
        assert each.removesuffix(":") in fields if each.endswith(":") else hasattr(found, each), each
