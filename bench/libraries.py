"""The official libraries of model providers: a client each, whose streams count their deltas."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anthropic
import httpx2
import openai
from google import genai

from .guard import Said

ASKED: list[Any] = [{"role": "user", "content": "hi"}]

Read = Callable[[Said], Coroutine[Any, Any, None]]
"""Reads one stream to its end."""
Library = Callable[[httpx2.AsyncClient, str], Read]
"""A client over an HTTP client and a provider's address."""


def chat(http: httpx2.AsyncClient, url: str) -> Read:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}}

    async def read(said: Said) -> None:
        async for chunk in await client.chat.completions.create(model="m", messages=ASKED, stream=True, **options):
            said.deltas += bool(chunk.choices and chunk.choices[0].delta.content)

    return read


def responses(http: httpx2.AsyncClient, url: str) -> Read:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http, max_retries=0)

    async def read(said: Said) -> None:
        async for event in await client.responses.create(model="m", input="hi", stream=True):
            said.deltas += event.type == "response.output_text.delta"

    return read


def messages(http: httpx2.AsyncClient, url: str) -> Read:
    client = anthropic.AsyncAnthropic(base_url=url, api_key="none", http_client=http, max_retries=0)

    async def read(said: Said) -> None:
        async for event in await client.messages.create(model="m", max_tokens=99, messages=ASKED, stream=True):
            said.deltas += event.type == "content_block_delta"

    return read


def generated(http: httpx2.AsyncClient, url: str) -> Read:
    options: Any = {"base_url": url, "httpx_async_client": http}
    client = genai.Client(api_key="none", http_options=options)

    async def read(said: Said) -> None:
        async for chunk in await client.aio.models.generate_content_stream(model="m", contents="hi"):
            said.deltas += bool(chunk.candidates)

    return read


LIBRARIES: dict[str, Library] = {
    "openai, chat": chat,
    "openai, responses": responses,
    "anthropic": messages,
    "google-genai": generated,
}
