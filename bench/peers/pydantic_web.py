"""pydantic-ai behind Starlette: its own web adapter, or with PLAIN set its text as it comes. Neither keeps anything.

UPSTREAM names the provider.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import uvloop
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.ui.vercel_ai import VercelAIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..bare import serve

_openai = AsyncOpenAI(api_key="none", base_url=os.environ["UPSTREAM"])
_agent = Agent(OpenAIChatModel("paced-1", provider=OpenAIProvider(openai_client=_openai)))


async def chat(request: Request) -> Response:
    return await VercelAIAdapter.dispatch_request(request, agent=_agent)


async def plain(request: Request) -> Response:
    async def said() -> AsyncIterator[str]:
        async with _agent.run_stream("Go on.") as run:
            async for text in run.stream_text(delta=True, debounce_by=None):
                yield text

    return StreamingResponse(said(), media_type="text/plain")


if __name__ == "__main__":
    endpoint = plain if os.environ.get("PLAIN") else chat
    uvloop.run(serve(Starlette(routes=[Route("/api/chat", endpoint, methods=["POST"])])))
