"""The official SDKs against the simulated provider: they parse answers, tools and thoughts, and see its refusals."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import openai
import pytest
from google import genai

from turnwire.sim.models import TEXT, ModelSim

pytestmark = pytest.mark.anyio

KEY = "sk-test-key"
CITIES = [{"city": "北京"}, {"city": "Zürich"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def sim() -> AsyncIterator[ModelSim]:
    async with ModelSim(key=KEY, retry_after=0.001) as running:
        yield running


def _openai(sim: ModelSim, scenario: str = "", **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=sim.base_url("O", scenario), **{"api_key": KEY, "max_retries": 0, **more})


def _anthropic(sim: ModelSim, scenario: str = "", **more: Any) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=sim.base_url("A", scenario), **{"api_key": KEY, "max_retries": 0, **more})


def _google(sim: ModelSim, scenario: str = "") -> Any:
    return genai.Client(api_key=KEY, http_options={"base_url": sim.base_url("G", scenario)})


def _user(text: str = "hi") -> list[Any]:
    return [{"role": "user", "content": text}]


# OpenAI, chat completions


async def test_chat_completions_of_openai(sim: ModelSim) -> None:
    async with _openai(sim) as client:
        said: dict[str, Any] = {"messages": _user(), "stream_options": {"include_usage": True}}
        async with client.chat.completions.stream(model="sim:ok", **said) as stream:
            whole = await stream.get_final_completion()
        assert whole.choices[0].message.content == TEXT
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (30, 12, 42)
        async with client.chat.completions.stream(model="sim:tools_parallel", **said) as stream:
            called = (await stream.get_final_completion()).choices[0]
        assert [json.loads(call.function.arguments) for call in called.message.tool_calls or []] == CITIES
        assert called.finish_reason == "tool_calls"
        thoughts = ""
        stream_ = await client.chat.completions.create(model="sim:thinking", stream=True, messages=_user())
        async for chunk in stream_:
            thoughts += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
        assert thoughts == "Let me think."
        plain = await client.chat.completions.create(model="sim:tools_parallel", messages=_user())
        calls: Any = plain.choices[0].message.tool_calls
        assert [json.loads(call.function.arguments) for call in calls] == CITIES
    assert {seen.ended for seen in sim.requests} == {"completed"}


async def test_usage_of_openai_comes_only_when_asked_for(sim: ModelSim) -> None:
    async with _openai(sim, "ok") as client:
        stream = await client.chat.completions.create(model="any", stream=True, messages=_user())
        assert [chunk.usage async for chunk in stream if chunk.usage] == []


async def test_a_tool_loop_with_openai(sim: ModelSim) -> None:
    async with _openai(sim, "tools") as client:
        tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER}}]
        messages: list[Any] = _user()
        first = (await client.chat.completions.create(model="any", messages=messages, tools=tools)).choices[0].message
        call: Any = (first.tool_calls or [])[0]
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "text"})
        messages.append(first.model_dump(exclude_none=True))
        with pytest.raises(openai.BadRequestError, match=call.id):
            await client.chat.completions.create(model="any", messages=[*messages, *_user()], tools=tools)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny"})
        last = (await client.chat.completions.create(model="any", messages=messages, tools=tools)).choices[0].message
        assert last.content == "The tool returned: sunny"


# OpenAI, responses


async def test_responses_of_openai(sim: ModelSim) -> None:
    async with _openai(sim) as client:
        async with client.responses.stream(model="sim:ok", input="hi") as stream:
            whole = await stream.get_final_response()
        assert (whole.output_text, whole.status) == (TEXT, "completed")
        assert whole.usage is not None
        assert (whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.total_tokens) == (30, 12, 42)
        async with client.responses.stream(model="sim:tools_parallel", input="hi") as stream:
            called: Any = (await stream.get_final_response()).output
        assert [json.loads(item.arguments) for item in called] == CITIES
        async with client.responses.stream(model="sim:thinking", input="hi") as stream:
            thought: Any = (await stream.get_final_response()).output
        assert [item.type for item in thought] == ["reasoning", "message"]
        assert thought[0].summary[0].text == "Let me think."
        plain = await client.responses.create(model="sim:thinking", input="hi")
        assert plain.output_text == TEXT
        short = await client.responses.create(model="sim:max_tokens", input="hi")
        assert short.incomplete_details is not None
        assert short.incomplete_details.reason == "max_output_tokens"


async def test_a_tool_loop_with_responses(sim: ModelSim) -> None:
    async with _openai(sim, "tools") as client:
        tools: Any = [{"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}]
        first = await client.responses.create(model="any", input="hi", tools=tools)
        call: Any = first.output[-1]
        follow: dict[str, Any] = {"model": "any", "tools": tools, "previous_response_id": first.id}
        with pytest.raises(openai.BadRequestError, match=call.call_id):
            await client.responses.create(input="and?", **follow)
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
        last = await client.responses.create(input=result, **follow)
        assert last.output_text == "The tool returned: sunny"
        with pytest.raises(openai.BadRequestError, match="resp_none"):
            await client.responses.create(input=result, **{**follow, "previous_response_id": "resp_none"})


@pytest.mark.parametrize("chained", [True, False])
async def test_two_rounds_of_tools_with_responses(sim: ModelSim, chained: bool) -> None:
    names = ["weather", "clock"]
    tools: Any = [{"type": "function", "name": each, "parameters": WEATHER, "strict": True} for each in names]
    said: list[str] = []
    async with _openai(sim, "tools_twice") as client:
        known: list[Any] = _user()
        for question in ("hi", "and now?"):
            answer: Any = await client.responses.create(model="any", input=known, tools=tools)
            for result in ("sunny", "noon"):
                (call,) = [item for item in answer.output if item.type == "function_call"]
                said += [answer.output_text, call.name]
                new = [{"type": "function_call_output", "call_id": call.call_id, "output": f"{result}: {question}"}]
                known = [*known, *(item.model_dump(exclude_none=True) for item in answer.output), *new]
                follow: Any = {"input": new, "previous_response_id": answer.id} if chained else {"input": known}
                async with client.responses.stream(model="any", tools=tools, **follow) as stream:
                    answer = await stream.get_final_response()
            said.append(answer.output_text)
            known = [*known, {"role": "assistant", "content": answer.output_text}, *_user("and now?")]
    rounds = ["First this. ", "weather", "And once more. ", "clock"]
    assert said == [
        *rounds, "Both are done; the second returned: noon: hi",
        *rounds, "Both are done; the second returned: noon: and now?",
    ]  # fmt: skip
    assert {seen.ended for seen in sim.requests} == {"completed"}


# Anthropic


async def test_what_a_system_message_adds_is_not_what_the_user_said(sim: ModelSim) -> None:
    amended: Any = [*_user("hi"), {"role": "system", "content": "Be brief."}]
    async with _anthropic(sim, "echo") as client:
        said: Any = await client.messages.create(model="any", messages=amended, max_tokens=9)
        assert said.content[0].text == "hi"
        call = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"}
        amended += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}, amended[1]]
        said = await client.messages.create(model="any", messages=amended, max_tokens=9)
        assert said.content[0].text == "sunny"


async def test_messages_of_anthropic(sim: ModelSim) -> None:
    async with _anthropic(sim) as client:
        said: dict[str, Any] = {"messages": _user(), "max_tokens": 99}
        async with client.messages.stream(model="sim:ok", **said) as stream:
            whole: Any = await stream.get_final_message()
        assert (whole.content[0].text, whole.stop_reason) == (TEXT, "end_turn")
        assert (whole.usage.input_tokens, whole.usage.output_tokens) == (30, 12)
        async with client.beta.messages.stream(model="sim:tools_parallel", **said) as beta:
            called: Any = await beta.get_final_message()
        assert [(block.name, block.input) for block in called.content] == [("get_weather", each) for each in CITIES]
        assert called.stop_reason == "tool_use"
        async with client.messages.stream(model="sim:thinking", **said) as stream:
            thought: Any = await stream.get_final_message()
        assert (thought.content[0].thinking, thought.content[1].text) == ("Let me think.", TEXT)
        assert thought.content[0].signature
        plain: Any = await client.messages.create(model="sim:tools_no_args", **said)
        assert plain.content[0].input == {}


async def test_a_tool_loop_with_anthropic(sim: ModelSim) -> None:
    async with _anthropic(sim, "tools") as client:
        more: Any = {"model": "any", "max_tokens": 99, "tools": [{"name": "weather", "input_schema": WEATHER}]}
        messages: list[Any] = _user()
        first = await client.messages.create(messages=messages, **more)
        call: Any = first.content[-1]
        assert (call.name, call.input) == ("weather", {"city": "text"})
        messages.append({"role": "assistant", "content": first.model_dump()["content"]})
        with pytest.raises(anthropic.BadRequestError, match=call.id):
            await client.messages.create(messages=[*messages, *_user()], **more)
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        messages.append({"role": "user", "content": [result]})
        last: Any = await client.messages.create(messages=messages, **more)
        assert last.content[0].text == "The tool returned: sunny"


# Google


async def test_gemini_of_google(sim: ModelSim) -> None:
    client = _google(sim).aio
    try:
        text, calls, thoughts = "", [], ""
        for name in ("ok", "tools_parallel", "thinking"):
            chunks = [
                each async for each in await client.models.generate_content_stream(model=f"sim:{name}", contents="hi")
            ]
            parts = [part for each in chunks for part in _parts(each)]
            text += "".join(part.text or "" for part in parts if not part.thought)
            thoughts += "".join(part.text or "" for part in parts if part.thought)
            calls += [part.function_call for part in parts if part.function_call]
            assert chunks[-1].candidates[0].finish_reason == "STOP"
            assert chunks[-1].usage_metadata.total_token_count == 42
        assert (text, thoughts) == (TEXT * 2, "Let me think.")
        assert [call.args for call in calls] == CITIES
        signed = await client.models.generate_content(model="sim:thinking", contents="hi")
        assert signed.text == TEXT
        assert _parts(signed)[0].thought_signature
        refused = await client.models.generate_content(model="sim:blocked", contents="hi")
        assert refused.prompt_feedback.block_reason == "PROHIBITED_CONTENT"
    finally:
        await client.aclose()


def _parts(reply: Any) -> list[Any]:
    return [part for candidate in reply.candidates for part in candidate.content.parts or []]


async def test_a_tool_loop_with_google(sim: ModelSim) -> None:
    client = _google(sim, "tools").aio
    try:
        declared = {"name": "weather", "parameters_json_schema": WEATHER}
        more: Any = {"model": "any", "config": {"tools": [{"function_declarations": [declared]}]}}
        contents: list[Any] = [{"role": "user", "parts": [{"text": "hi"}]}]
        first = await client.models.generate_content(contents=contents, **more)
        call = _parts(first)[-1].function_call
        assert (call.name, call.args) == ("weather", {"city": "text"})
        contents.append(first.candidates[0].content)
        with pytest.raises(genai.errors.ClientError, match="weather"):
            await client.models.generate_content(contents=[*contents, contents[0]], **more)
        answer = {"function_response": {"id": call.id, "name": "weather", "response": {"sky": "sunny"}}}
        contents.append({"role": "user", "parts": [answer]})
        last = await client.models.generate_content(contents=contents, **more)
        assert last.text == 'The tool returned: {"sky":"sunny"}'
    finally:
        await client.aclose()


# Refusals and retries


async def test_every_sdk_sees_a_refusal_as_its_own_error(sim: ModelSim) -> None:
    async with _openai(sim, "429") as client:
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="any", messages=_user())
        assert limited.value.code == "rate_limit_exceeded"
    async with _openai(sim, api_key="wrong") as stranger:
        with pytest.raises(openai.AuthenticationError) as unknown:
            await stranger.responses.create(model="any", input="hi")
        assert unknown.value.code == "invalid_api_key"
    async with _anthropic(sim, "529") as busy:
        with pytest.raises(anthropic.OverloadedError):
            await busy.messages.create(model="any", messages=_user(), max_tokens=9)
    google = _google(sim, "500").aio
    try:
        with pytest.raises(genai.errors.ServerError) as failed:
            await google.models.generate_content(model="any", contents="hi")
        assert (failed.value.code, failed.value.status) == (500, "INTERNAL")
    finally:
        await google.aclose()


async def test_sdks_come_again_after_what_was_planned(sim: ModelSim) -> None:
    sim.plan(["rst_on_connect", "429", "529", "ok"])
    async with _anthropic(sim, max_retries=3) as client:
        said: Any = await client.messages.create(model="any", messages=_user(), max_tokens=9)
    assert said.content[0].text == TEXT
    assert [(seen.scenario, seen.status) for seen in sim.requests] == [
        ("rst_on_connect", 0), ("429", 429), ("529", 529), ("ok", 200),
    ]  # fmt: skip
    # A refusal leaves the connection usable.
    assert [seen.connection for seen in sim.requests] == [1, 2, 2, 2]


async def test_models_are_listed_for_every_sdk(sim: ModelSim) -> None:
    async with _openai(sim) as client, _anthropic(sim) as other:
        assert "sim:ok" in [model.id async for model in client.models.list()]
        assert "sim:ok" in [model.id async for model in other.models.list()]
