"""What providers do by themselves inside an answer: searches, citations, pictures, signed thoughts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.messages import NativeToolCallPart, NativeToolReturnPart
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.providers.anthropic import AnthropicProvider

from tests.asgi import Client
from tests.fake_provider import fake_provider
from tests.gateways import running
from tests.model_wires import PAGE, WIRES, Answer, Call, scripted
from tests.test_agents_pydantic_ai import KEY, ask, collect, of, question, text
from turnwire.agents.load import load_agent
from turnwire.agents.pydantic_ai import pydantic_agent
from turnwire.channels.web.api import web_app
from turnwire.events import Reasoning, Source, Text, ToolCall, ToolError, ToolInput, ToolResult

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n picture"
OSLO = Answer(["It is ", "clear."], searched="Oslo weather")

every_wire = pytest.mark.parametrize("wire", WIRES)


def attaching(turn: Any) -> tuple[Any, list[tuple[bytes, str]]]:
    """`turn`, and what is attached to it."""
    files: list[tuple[bytes, str]] = []

    async def attach(content: bytes, *, media_type: str) -> None:
        files.append((content, media_type))

    turn.attach = attach
    return turn, files


@every_wire
async def test_what_the_text_cites_becomes_a_source_once_a_turn(wire: str) -> None:
    again = Answer(["It is ", "clear."], searched="Oslo weather", calls=[Call("c1", "nothing", "{}")])
    said, failure, _ = await ask(wire, again, OSLO)
    assert failure is None
    assert of(Source, said) == [Source(id=PAGE["url"], url=PAGE["url"], title=PAGE["title"])]


@pytest.mark.parametrize("wire", ["openai-responses", "anthropic", "google"])
async def test_a_search_of_the_providers_own_is_a_tool_part_that_is_answered(wire: str) -> None:
    said, failure, fake = await ask(wire, OSLO)
    assert failure is None
    [call], [result] = of(ToolCall, said), of(ToolResult, said)
    assert call.name == result.name == "web_search"
    assert call.id == result.id
    assert said.index(call) < said.index(result)
    assert PAGE["url"] in json.dumps(result.output)
    assert len(fake.requests) == 1
    assert text(said) == "It is clear."


@pytest.mark.parametrize("wire", ["openai-responses", "google"])
async def test_a_picture_that_the_model_made_is_attached_once(wire: str) -> None:
    turn, files = attaching(question())
    said, failure, _ = await ask(wire, Answer(["Here."], image=PNG), turn=turn)
    assert (text(said), failure) == ("Here.", None)
    assert files == [(PNG, "image/png")]


async def test_a_whole_turn_shows_search_source_and_picture(tmp_path: Path) -> None:
    answer = Answer(["It is ", "clear."], searched="Oslo weather", image=PNG)
    async with fake_provider(scripted("openai-responses", answer, Answer(["Yes."]))) as fake:
        spec = load_agent("openai-responses:m", base_url=fake.base_url, api_key=KEY, env={})
        async with spec as agent, running(f"sqlite:///{tmp_path / 'g.db'}", tmp_path, agent) as gateway:
            client = Client(web_app(gateway))
            await client.ask("How is Oslo?").done()
            message = (await client.get("/api/chat/c")).json()["messages"][-1]
            file = next(part for part in message["parts"] if part["type"] == "file")
            picture = await client.get(file["url"])
            await client.ask("Sure?").done()
    kinds = [part["type"] for part in message["parts"] if part["type"] != "step-start"]
    assert kinds == ["tool-web_search", "tool-image_generation", "text", "source-url", "file"]
    tools = [part for part in message["parts"] if part["type"].startswith("tool-")]
    assert {part["state"] for part in tools} == {"output-available"}
    assert (file["mediaType"], picture.body) == ("image/png", PNG)
    assert "It is clear." in json.dumps(fake.requests[1])


async def test_the_arguments_of_a_declared_search_are_shown_while_they_come() -> None:
    async with fake_provider(scripted("anthropic", OSLO)) as fake, httpx2.AsyncClient(trust_env=False) as client:
        provider = AnthropicProvider(api_key=KEY, base_url=fake.base_url, http_client=client)
        search = NativeTool[None](WebSearchTool())
        own = PydanticAgent(AnthropicModel("claude-haiku-5-5", provider=provider), capabilities=[search])
        said, failure = await collect(pydantic_agent(own), question())
    assert failure is None
    assert {each.id for each in of(ToolInput, said)} == {"srvtoolu_1"}
    assert "".join(each.delta for each in of(ToolInput, said)) == '{"query": "Oslo weather"}'
    assert [each.input for each in of(ToolCall, said)] == [{"query": "Oslo weather"}]
    assert len(of(ToolResult, said)) == 1


@pytest.mark.parametrize(("outcome", "kind"), [("success", ToolResult), ("failed", ToolError)])
async def test_a_result_that_is_filled_late_is_told_when_it_is_full(outcome: Any, kind: type) -> None:
    result = NativeToolReturnPart("look", [], "n1", outcome=outcome)

    async def model(messages: Any, info: Any) -> Any:
        yield {0: NativeToolCallPart("look", {"q": 1}, "n1")}
        yield {1: result}
        yield "Found."
        result.content = ["late"]

    said, failure = await collect(pydantic_agent(PydanticAgent(FunctionModel(stream_function=model))), question())
    assert failure is None
    [answer] = of(kind, said)
    assert "late" in str(answer)
    assert [each.input for each in of(ToolCall, said)] == [{"q": 1}]
    assert said.index(answer) > next(index for index, each in enumerate(said) if isinstance(each, Text))


async def test_a_thought_keeps_the_signature_that_its_provider_wants_back() -> None:
    signed = {"anthropic": {"signature": "c2lnbmVk"}}
    thinking = Answer(["Hello."], ["Let me ", "think."])
    said, _, _ = await ask("anthropic", thinking)
    assert [each.metadata for each in of(Reasoning, said)] == [None, None, signed]
    said, _, _ = await ask("openai-responses", thinking)
    assert {each.metadata for each in of(Reasoning, said)} == {None}


@every_wire
async def test_a_signed_thought_goes_back_to_its_own_provider_only(wire: str) -> None:
    signed = {"anthropic": {"signature": "c2lnbmVk"}}
    parts: list[dict[str, Any]] = [
        {"type": "reasoning", "text": "MY THOUGHT", "providerMetadata": signed},
        {"type": "reasoning", "text": "CUT THOUGHT"},
        {"type": "text", "text": "Hello."},
    ]
    before: list[dict[str, Any]] = [
        {"role": "user", "parts": [{"type": "text", "text": "Hi."}]},
        {"role": "assistant", "parts": parts},
    ]
    _, failure, fake = await ask(wire, Answer(["Yes."]), turn=question("Sure?", *before))
    assert failure is None
    sent = json.dumps(fake.requests[0])
    assert "CUT THOUGHT" not in sent
    assert ("MY THOUGHT" in sent) == (wire == "anthropic")
    if wire == "anthropic":
        thought = {"type": "thinking", "thinking": "MY THOUGHT", "signature": "c2lnbmVk"}
        assert fake.requests[0]["messages"][1]["content"][0] == thought
