"""A real model over three wires: what its server streams is read by the providers' libraries as any provider's."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from turnwire.agents.guard import guarded_client
from turnwire.agents.local import LocalModel, local_available
from turnwire.agents.local_server import ALIAS
from turnwire.agents.pydantic_ai import pydantic_agent
from turnwire.events import Reasoning, Text, Usage

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.process,
    pytest.mark.heavy,
    pytest.mark.skipif(not local_available(), reason="install it with `turnwire local install`"),
]

ASK = "Tell me a long story about a fox and a river."
ASKED: list[Any] = [{"role": "user", "content": ASK}]
TOKENS = 40
_TLS = ssl.create_default_context()


class Server(NamedTuple):
    """Where the model answers: up to and including `/v1`, and with which key."""

    base_url: str
    key: str


class Said(NamedTuple):
    """What a library read: the pieces of text, why the model ended, and how many tokens it counted in and out."""

    deltas: list[str]
    finish: str | None
    tokens: tuple[int, int]


@pytest.fixture(scope="module")
async def server(anyio_backend: Any) -> AsyncIterator[Server]:
    """The model's server, asked for its address and key the way its owner asks."""
    async with LocalModel(slots=1) as model:
        await model.chat()
        yield Server(*model.where)


async def chat(http: httpx2.AsyncClient, server: Server) -> Said:
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key=server.key, http_client=http, max_retries=0)
    deltas, finish, tokens = [], None, (0, 0)
    options: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0, "stream_options": {"include_usage": True}}
    async for chunk in await client.chat.completions.create(model=ALIAS, messages=ASKED, stream=True, **options):
        if chunk.usage:
            tokens = (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
        for choice in chunk.choices:
            deltas += [choice.delta.content] if choice.delta.content else []
            finish = choice.finish_reason or finish
    return Said(deltas, finish, tokens)


async def responses(http: httpx2.AsyncClient, server: Server) -> Said:
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key=server.key, http_client=http, max_retries=0)
    deltas, finish, tokens = [], None, (0, 0)
    limits: dict[str, Any] = {"max_output_tokens": TOKENS, "temperature": 0}
    async for event in await client.responses.create(model=ALIAS, input=ASK, stream=True, **limits):
        if event.type == "response.output_text.delta":
            deltas.append(event.delta)
        elif event.type == "response.completed":
            counted: Any = event.response.usage
            finish, tokens = event.response.status, (counted.input_tokens, counted.output_tokens)
    return Said(deltas, finish, tokens)


async def messages(http: httpx2.AsyncClient, server: Server) -> Said:
    client = anthropic.AsyncAnthropic(
        base_url=server.base_url.removesuffix("/v1"), api_key=server.key, http_client=http, max_retries=0
    )
    deltas, finish, tokens = [], None, (0, 0)
    limits: dict[str, Any] = {"max_tokens": TOKENS, "extra_body": {"temperature": 0}}
    async for event in await client.messages.create(model=ALIAS, messages=ASKED, stream=True, **limits):
        if event.type == "message_start":
            counted = event.message.usage
            tokens = (counted.input_tokens + (counted.cache_read_input_tokens or 0), 0)
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            deltas.append(event.delta.text)
        elif event.type == "message_delta":
            finish, tokens = event.delta.stop_reason, (tokens[0], event.usage.output_tokens)
    return Said(deltas, finish, tokens)


SDKS: dict[str, tuple[Callable[[httpx2.AsyncClient, Server], Awaitable[Said]], set[str]]] = {
    "openai chat": (chat, {"stop", "length"}),
    "openai responses": (responses, {"completed"}),
    "anthropic messages": (messages, {"end_turn", "max_tokens"}),
}


@pytest.mark.parametrize("sdk", SDKS)
async def test_the_official_libraries_stream_from_it_through_the_guard(sdk: str, server: Server) -> None:
    read, finishes = SDKS[sdk]
    async with guarded_client(verify=_TLS) as http:
        said = await read(http, server)
    assert len(said.deltas) >= 20
    assert said.finish in finishes
    assert said.tokens[0] > len(ASK.split())
    assert len(said.deltas) - 1 <= said.tokens[1] <= TOKENS


def runtime(wire: str, server: Server, http: httpx2.AsyncClient) -> Any:
    """pydantic-ai's model for a wire of that server."""
    if wire == "anthropic messages":
        own = anthropic.AsyncAnthropic(
            base_url=server.base_url.removesuffix("/v1"), api_key=server.key, http_client=http, max_retries=0
        )
        return AnthropicModel(ALIAS, provider=AnthropicProvider(anthropic_client=own))
    client = openai.AsyncOpenAI(base_url=server.base_url, api_key=server.key, http_client=http, max_retries=0)
    kind = OpenAIChatModel if wire == "openai chat" else OpenAIResponsesModel
    return kind(ALIAS, provider=OpenAIProvider(openai_client=client))


@pytest.mark.parametrize("wire", SDKS)
async def test_an_agent_of_pydantic_ai_streams_from_it(wire: str, server: Server) -> None:
    turn: Any = SimpleNamespace(
        text=ASK, quote=None, files=[], resolutions=(),
        messages=[{"role": "user", "parts": [{"type": "text", "text": ASK}]}],
    )  # fmt: skip
    async with guarded_client(verify=_TLS) as http:
        own = PydanticAgent(runtime(wire, server, http), model_settings={"max_tokens": TOKENS, "temperature": 0})
        async with aclosing(pydantic_agent(own)(turn)) as events:
            said = [event async for event in events]
    deltas = [event.text for event in said if isinstance(event, Text)]
    assert len(deltas) >= 20
    assert not any(isinstance(event, Reasoning) for event in said)
    (usage,) = [event for event in said if isinstance(event, Usage)]
    assert usage.finish_reason in ("stop", "length")
    assert usage.model == ALIAS
    assert (usage.input_tokens or 0) > len(ASK.split())
    assert len(deltas) - 1 <= (usage.output_tokens or 0) <= TOKENS
