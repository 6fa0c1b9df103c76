"""A client for OpenAI-compatible chat completions.

Guarantee: a stream of `OpenAIChat` ends within a bound, and it ends without an error only if the provider said that the
answer is finished. Whatever came before an error has been yielded. No error text holds a secret or a response body.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..clock import Clock, SystemClock
from ..events import AgentEvent, Step
from ..sanitize import clean_json
from ._bounds import Bounds
from ._remote_http import RemoteHTTP, checked_url
from .chat_reader import ChatReader, dicts
from .sse import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

__all__ = ["Bounds", "Message", "OpenAIChat", "chat_agent", "chat_messages", "openai_chat_agent"]

Message: TypeAlias = dict[str, str]


class OpenAIChat:
    """Streams answers from one model of an OpenAI-compatible server.

    As an async context manager it keeps connections open between streams; without, each stream has one of its own.

    Args:
        base_url: address up to and including `/v1`, http or https.
        model: the model's name as the server knows it.
        api_key: sent as a bearer token; never part of an error.
        proxy: address of an HTTP proxy. Proxies of the environment are ignored.
        extra: more fields of the request's body, such as `temperature`.
        max_event_bytes: bound of one server-sent event, in bytes.

    Raises `ValueError` for an unusable address, proxy or key; its text holds none of them.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        proxy: str | None = None,
        extra: Mapping[str, Any] | None = None,
        clock: Clock | None = None,
        bounds: Bounds | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        url = checked_url(base_url, "base_url", "https://host/v1")
        self.model = model
        self._extra = dict(extra or {})
        self._bounds = bounds or Bounds()
        self._http = RemoteHTTP(
            "model",
            url.copy_with(path=url.path.rstrip("/") + "/chat/completions"),
            headers=_authorization(api_key),
            proxy=proxy,
            clock=clock or SystemClock(),
            bounds=self._bounds,
            max_event_bytes=max_event_bytes,
        )

    async def __aenter__(self) -> OpenAIChat:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def stream(
        self, messages: Sequence[Message], *, max_tokens: int | None = None
    ) -> AsyncGenerator[AgentEvent, None]:
        """One model request: a `Step`, then text and reasoning as they come, then one `Usage` with the finish reason.

        Args:
            messages: `{"role", "content"}` each, oldest first.
            max_tokens: upper bound of the answer, in tokens.

        Raises `ModelStreamError` when the answer does not come whole.
        """
        body = {
            "model": self.model,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            **({} if max_tokens is None else {"max_tokens": max_tokens}),
            **self._extra,
        }
        reader = ChatReader(self._http.redact)
        yield Step()
        async with self._http.post(msgspec.json.encode(clean_json(body))) as (exchange, _):
            more = self._http.read(
                exchange, reader, lambda: self._bounds.end_grace if reader.counted else self._bounds.usage_grace
            )
            async with contextlib.aclosing(more) as events:
                async for event in events:
                    yield event
            yield reader.usage()


def chat_agent(
    chat: OpenAIChat,
    *,
    instructions: str | None = None,
    max_tokens: int | None = None,
    fit: Callable[[list[Message]], list[Message]] | None = None,
) -> Agent:
    """An agent that sends the conversation to `chat` and says what comes back.

    Args:
        instructions: the system message.
        max_tokens: upper bound of one answer, in tokens.
        fit: shortens the messages to what the model can take.
    """

    async def agent(turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        messages = chat_messages(turn, instructions)
        async with contextlib.aclosing(
            chat.stream(fit(messages) if fit else messages, max_tokens=max_tokens)
        ) as events:
            async for event in events:
                yield event

    return agent


def openai_chat_agent(
    base_url: str,
    model: str,
    api_key: str | None = None,
    instructions: str | None = None,
    max_tokens: int | None = None,
    proxy: str | None = None,
    clock: Clock | None = None,
) -> Agent:
    """An agent on an OpenAI-compatible server. The arguments are those of `OpenAIChat` and `chat_agent`."""
    chat = OpenAIChat(base_url, model, api_key=api_key, proxy=proxy, clock=clock)
    return chat_agent(chat, instructions=instructions, max_tokens=max_tokens)


def chat_messages(turn: Turn, instructions: str | None = None) -> list[Message]:
    """The conversation as chat messages: files are mentioned by name, reasoning and tool calls are left out."""
    messages = [{"role": "system", "content": instructions}] if instructions else []
    for message in turn.messages:
        lines = [line for line in map(_part_text, dicts(message.get("parts"))) if line]
        role = message.get("role")
        if lines and role in ("user", "assistant", "system"):
            messages.append({"role": role, "content": "\n".join(lines)})
    if turn.quote and messages and messages[-1]["role"] == "user":
        quoted = "\n".join(f"> {line}" for line in str(turn.quote).splitlines())
        messages[-1]["content"] = f"{quoted}\n\n{messages[-1]['content']}"
    return messages


def _part_text(part: dict[str, Any]) -> str:
    if part.get("type") == "text":
        return str(part.get("text") or "")
    if part.get("type") == "file":
        return f"[attached file: {part.get('filename') or 'without a name'}, {part.get('mediaType') or 'unknown type'}]"
    return ""


def _authorization(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("api_key holds spaces, line breaks or non-ASCII characters; it cannot be sent in a header")
    return {"authorization": f"Bearer {api_key}"}
