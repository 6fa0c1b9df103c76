"""The official SDKs over a guarded client, each reduced to what it said and how it ended."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anthropic
import httpx2
import openai
from google import genai

from turnwire.agents.guard import GuardError, Limits, guard_error, guarded_client
from turnwire.sim.models import ModelSim
from turnwire.testing.clock import FakeClock

KEY = "sk-test-key-0123456789"
_TLS = ssl.create_default_context()  # to make one takes longer than most of the tests
ASKED: list[Any] = [{"role": "user", "content": "hi"}]


@dataclass
class Said:
    """What a reader of the SDK's stream saw."""

    text: str = ""
    finishes: list[str] = field(default_factory=list)
    usage: int | None = None
    arguments: str = ""
    error: BaseException | None = None
    took: float = 0.0

    @property
    def kind(self) -> str | None:
        """The kind of the guard's error that is behind what the SDK raised."""
        found = guard_error(self.error)
        return found.kind if found is not None else None


Client = Callable[[httpx2.AsyncClient, ModelSim, str, Said], Awaitable[None]]


def _total(*counts: int | None) -> int | None:
    return sum(count or 0 for count in counts) or None


async def chat(http: httpx2.AsyncClient, sim: ModelSim, scenario: str, said: Said) -> None:
    client = openai.AsyncOpenAI(base_url=sim.base_url("O", scenario), api_key=KEY, http_client=http, max_retries=0)
    options: dict[str, Any] = {"stream_options": {"include_usage": True}}
    async for chunk in await client.chat.completions.create(model="m", messages=ASKED, stream=True, **options):
        if chunk.usage:
            said.usage = chunk.usage.total_tokens
        for choice in chunk.choices:
            said.text += choice.delta.content or ""
            said.finishes += [choice.finish_reason] if choice.finish_reason else []
            for call in choice.delta.tool_calls or []:
                said.arguments += (call.function.arguments if call.function else None) or ""


async def responses(http: httpx2.AsyncClient, sim: ModelSim, scenario: str, said: Said) -> None:
    client = openai.AsyncOpenAI(base_url=sim.base_url("R", scenario), api_key=KEY, http_client=http, max_retries=0)
    async for event in await client.responses.create(model="m", input="hi", stream=True):
        assert event.type not in ("error", "response.failed"), "the guard raises these"
        if event.type == "response.output_text.delta":
            said.text += event.delta
        elif event.type == "response.function_call_arguments.delta":
            said.arguments += event.delta
        elif event.type in ("response.completed", "response.incomplete"):
            response: Any = event.response
            said.finishes.append(response.status)
            said.usage = response.usage.total_tokens


async def messages(http: httpx2.AsyncClient, sim: ModelSim, scenario: str, said: Said) -> None:
    client = anthropic.AsyncAnthropic(
        base_url=sim.base_url("A", scenario), api_key=KEY, http_client=http, max_retries=0
    )
    begun = 0
    async for event in await client.messages.create(model="m", max_tokens=99, messages=ASKED, stream=True):
        if event.type == "message_start":
            begun = event.message.usage.input_tokens
        elif event.type == "content_block_delta":
            said.text += getattr(event.delta, "text", "")
            said.arguments += getattr(event.delta, "partial_json", "")
        elif event.type == "message_delta":
            said.finishes += [event.delta.stop_reason] if event.delta.stop_reason else []
            said.usage = _total(begun, event.usage.output_tokens)


async def messages_stream(http: httpx2.AsyncClient, sim: ModelSim, scenario: str, said: Said) -> None:
    client = anthropic.AsyncAnthropic(
        base_url=sim.base_url("A", scenario), api_key=KEY, http_client=http, max_retries=0
    )
    async with client.messages.stream(model="m", max_tokens=99, messages=ASKED) as stream:
        async for text in stream.text_stream:
            said.text += text
        final = await stream.get_final_message()
    said.arguments = "".join(str(block.input) for block in final.content if block.type == "tool_use")
    said.finishes += [final.stop_reason] if final.stop_reason else []
    said.usage = _total(final.usage.input_tokens, final.usage.output_tokens)


async def generate(http: httpx2.AsyncClient, sim: ModelSim, scenario: str, said: Said) -> None:
    options: Any = {"base_url": sim.base_url("G", scenario), "httpx_async_client": http}
    client = genai.Client(api_key=KEY, http_options=options)
    async for chunk in await client.aio.models.generate_content_stream(model="m", contents="hi"):
        if chunk.usage_metadata:
            said.usage = chunk.usage_metadata.total_token_count
        if chunk.prompt_feedback and chunk.prompt_feedback.block_reason:
            said.finishes.append(chunk.prompt_feedback.block_reason.value)
        for candidate in chunk.candidates or []:
            for part in (candidate.content.parts if candidate.content else None) or []:
                said.text += part.text or "" if not part.thought else ""
                said.arguments += str(part.function_call.args) if part.function_call else ""
            said.finishes += [candidate.finish_reason.value] if candidate.finish_reason else []


SDKS: dict[str, tuple[Literal["A", "O", "R", "G"], Client]] = {
    "openai-chat": ("O", chat),
    "openai-responses": ("R", responses),
    "anthropic-create": ("A", messages),
    "anthropic-stream": ("A", messages_stream),
    "google-genai": ("G", generate),
}


@asynccontextmanager
async def guarded(clock: FakeClock, limits: Limits | None = None) -> AsyncIterator[tuple[ModelSim, httpx2.AsyncClient]]:
    """A simulated provider and a guarded client, both on the test's clock."""
    async with ModelSim(clock=clock) as sim:
        client = guarded_client(limits=limits, clock=clock, verify=_TLS)
        try:
            yield sim, client
        finally:
            await client.aclose()


async def read(
    sdk: str,
    scenario: str,
    clock: FakeClock,
    limits: Limits | None = None,
    step: float = 0.05,
) -> Said:
    """Reads one stream to its end, moving time only while both sides wait for it."""
    said = Said()
    async with guarded(clock, limits) as (sim, client):
        run = asyncio.ensure_future(SDKS[sdk][1](client, sim, scenario, said))
        begun = clock.monotonic()
        await clock.until(lambda: run.done() or bool(sim.requests))
        while not run.done() and clock.monotonic() < begun + 700:
            quiet = asyncio.ensure_future(sim.wait_idle())
            await clock.until(lambda quiet=quiet: run.done() or quiet.done())  # type: ignore[misc]
            quiet.cancel()
            await clock.settle()
            if not run.done():
                await clock.advance(step)
        said.took = clock.monotonic() - begun
        if not run.done():
            run.cancel()
        [said.error] = await asyncio.gather(run, return_exceptions=True)
    assert clock.pending == 0, "a timer was left behind"
    return said


def raised(said: Said) -> GuardError:
    """The guard's error behind what the SDK raised."""
    found = guard_error(said.error)
    assert found is not None, f"not the guard's: {said.error!r}"
    return found
