"""A client for OpenAI-compatible chat completions.

Guarantee: a stream of `OpenAIChat` ends within a bound, and it ends without an error only if the provider said that the
answer is finished. Whatever came before an error has been yielded. No error text holds a secret or a response body.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx2
import msgspec

from ..clock import Clock, SystemClock, wait
from ..events import AgentEvent, Step
from .chat_reader import ChatReader, ModelStreamError, dicts, error_text, redactor
from .exchange import BROKEN, QUEUED_CHUNKS, Exchange, Late
from .sse import MAX_EVENT_BYTES, SSEError, SSEParser

if TYPE_CHECKING:
    from ..turn import Turn
    from . import Agent

Message: TypeAlias = dict[str, str]

_ERROR_BODY_BYTES = 64 * 1024


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How long each phase of a stream may take, in seconds."""

    first_byte: float = 60.0
    """from the request to the response's head"""
    idle_bytes: float = 60.0
    """without a single byte"""
    idle_events: float = 300.0
    """without an event that says something; comments and pings say nothing"""
    usage_grace: float = 1.0
    """after the finish, for the token counts"""
    end_grace: float = 0.3
    """after the token counts, for the end marker"""
    error_body: float = 2.0
    """for the body of an error"""
    drain: float = 0.05
    """after the end marker, for the end of the body, so that the connection can be used again"""
    close: float = 1.0
    """for closing the connection; one that takes longer is abandoned"""


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
        self.model = model
        self._url, self._where = _chat_url(base_url)
        self._headers = {"accept": "text/event-stream", "accept-encoding": "identity", **_authorization(api_key)}
        self._redact = redactor(api_key, self._url.password)
        self._proxy = _proxy(proxy)
        self._extra = dict(extra or {})
        self._clock = clock or SystemClock()
        self._bounds = bounds or Bounds()
        self._max_event_bytes = max_event_bytes
        self._client: httpx2.AsyncClient | None = None
        self._tls: ssl.SSLContext | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> OpenAIChat:
        self._client = self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await self._bounded(self._own(asyncio.create_task(client.aclose())))

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
        kept = self._client
        client = kept or self._open()
        exchange = Exchange(client, client.build_request("POST", self._url, json=body), self._clock)
        self._own(exchange.task)
        try:
            yield Step()
            await self._head(exchange)
            reader = ChatReader(self._redact)
            async with contextlib.aclosing(self._read(exchange, reader)) as events:
                async for event in events:
                    yield event
            yield reader.usage()
            if kept is not None:
                await exchange.drain(self._clock.monotonic() + self._bounds.drain)
        finally:
            exchange.task.cancel()
            await self._bounded(exchange.task)
            if kept is None:
                await self._bounded(self._own(asyncio.create_task(client.aclose())))

    def _open(self) -> httpx2.AsyncClient:
        if self._tls is None:
            https = self._url.scheme == "https"
            self._tls = ssl.create_default_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx2.AsyncClient(
            headers=self._headers,
            verify=self._tls,
            proxy=self._proxy,
            trust_env=False,
            timeout=None,  # the clock we were given bounds everything
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        )

    def _own(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return task

    async def _bounded(self, task: asyncio.Task[None]) -> None:
        await wait(self._clock, {task}, self._bounds.close)

    async def _head(self, exchange: Exchange) -> None:
        """Waits for the response's head and refuses whatever is no event stream."""
        try:
            response = await exchange.head(self._clock.monotonic() + self._bounds.first_byte)
        except Late:
            raise ModelStreamError(
                f"The model at {self._where} did not answer within {self._bounds.first_byte:g} s."
            ) from None
        except (httpx2.ConnectError, httpx2.ProxyError) as error:
            raise ModelStreamError(f"Cannot connect to the model at {self._where}: {self._short(error)}") from None
        except BROKEN as error:
            raise ModelStreamError(
                f"The model at {self._where} closed the connection without an answer: {self._short(error)}"
            ) from None
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code == 200 and kind not in ("application/json", "text/html"):
            return
        said = await self._error_body(exchange, kind)
        if response.status_code == 200:
            raise ModelStreamError(
                f"The model at {self._where} sent {kind} instead of an event stream{said}", status=200
            )
        status = response.status_code
        phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
        raise ModelStreamError(f"The model at {self._where} answered {status}{phrase}{said}", status=status)

    async def _error_body(self, exchange: Exchange, kind: str) -> str:
        due = self._clock.monotonic() + self._bounds.error_body
        body = b""
        with contextlib.suppress(Late, *BROKEN):
            while len(body) < _ERROR_BODY_BYTES and (chunk := await exchange.take(due)) is not None:
                body += chunk
        if kind == "text/plain":
            text = body.decode("utf-8", "replace")
        else:
            try:
                text = error_text(msgspec.json.decode(body)) or ""
            except msgspec.DecodeError:
                text = ""
        return f": {self._redact(text)}" if text.strip() else "."

    async def _read(self, exchange: Exchange, reader: ChatReader) -> AsyncGenerator[AgentEvent, None]:
        """What the body says, until its end marker or until nothing more needs to be waited for."""
        clock, bounds = self._clock, self._bounds
        parser = SSEParser(self._max_event_bytes)
        heard = told = clock.monotonic()
        due, overtime = 0.0, 0
        try:
            while overtime <= QUEUED_CHUNKS:
                if reader.finish_reason is None:
                    due = min(heard + bounds.idle_bytes, told + bounds.idle_events)
                chunk = await exchange.take(due)
                heard = clock.monotonic()
                for event in parser.close() if chunk is None else parser.feed(chunk):
                    finished, counted = reader.finish_reason is not None, reader.counted
                    for said in reader.read(event):
                        yield said
                        told = clock.monotonic()
                    if reader.done:
                        return
                    if reader.finish_reason is not None and not (finished and counted == reader.counted):
                        due = heard + (bounds.end_grace if reader.counted else bounds.usage_grace)
                if chunk is None:
                    break
                if reader.finish_reason is not None:
                    overtime += heard > due
        except (Late, SSEError, ModelStreamError, *BROKEN) as error:
            if reader.finish_reason is None:
                raise self._cut(error, told) from None
            return
        if reader.finish_reason is None:
            raise ModelStreamError("The model's stream ended before its answer was complete.")

    def _cut(self, error: Exception, told: float) -> ModelStreamError:
        if isinstance(error, ModelStreamError):
            return error
        if isinstance(error, SSEError):
            return ModelStreamError(f"The model's stream cannot be read: {error}.")
        if not isinstance(error, Late):
            return ModelStreamError(
                f"The connection to the model broke before its answer was complete: {self._short(error)}"
            )
        if self._clock.monotonic() < told + self._bounds.idle_events:
            return ModelStreamError(f"The model sent nothing for {self._bounds.idle_bytes:g} s.")
        return ModelStreamError(f"The model sent only keep-alives for {self._bounds.idle_events:g} s.")

    def _short(self, error: BaseException) -> str:
        return self._redact(f"{error}" or type(error).__name__)


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


def _chat_url(base_url: str) -> tuple[httpx2.URL, str]:
    """The address of the completions, and host and port as people may see them."""
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        raise ValueError("base_url is no address; give one like https://host/v1") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("base_url must begin with http:// or https:// and name a host, like https://host/v1")
    return url.copy_with(path=url.path.rstrip("/") + "/chat/completions"), url.netloc.decode("ascii", "replace")


def _proxy(address: str | None) -> httpx2.Proxy | None:
    if not address:
        return None
    if not address.startswith(("http://", "https://")):
        raise ValueError("proxy must begin with http:// or https://, like http://host:3128")
    return httpx2.Proxy(address)


def _authorization(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("api_key holds spaces, line breaks or non-ASCII characters; it cannot be sent in a header")
    return {"authorization": f"Bearer {api_key}"}
