"""A remote agent that speaks the AI SDK's UI message stream, as `useChat` does with its server.

Guarantee: a turn ends within a bound, and it ends without an error only if the remote said that its answer is over.
Whatever came before an error has been said. No error text holds a secret. Source: `HttpChatTransport` of the `ai`
package.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx2
import msgspec

from ..clock import Clock, SystemClock
from ..events import AgentEvent, File
from ..media import parse_data_url
from ..sanitize import clean_json
from ._bounds import Bounds
from ._remote_http import RemoteHTTP, checked_url
from ._ui_reader import UIReader
from .chat_reader import ModelStreamError, dicts
from .exchange import Exchange
from .sse import MAX_EVENT_BYTES

if TYPE_CHECKING:
    from ..turn import Resolution, Turn

INLINE_BYTES = 20 * 1024 * 1024
"""What the files of one question may weigh to be sent with it; larger ones are only mentioned."""


_RUN = re.compile("turn_[0-9A-Za-z]+")


class RemoteAgent:
    """An agent at another address: call it with a turn, as any agent.

    As an async context manager it keeps connections open between turns; without, each turn has one of its own. A turn
    that is stopped closes its request; a remote Turnwire, which goes on without readers, is told to stop as well.

    Args:
        url: where `useChat` would post to; http or https. For a Turnwire, `https://HOST/api/chat?ui=7`.
        headers: sent with each request, such as `authorization`; their values are never part of an error.
        body: more fields of the request's body.
        proxy: address of an HTTP proxy. Proxies of the environment are ignored.
        chat_id: names the remote's chat; by default a name that is the same for each turn of a conversation and that
            no other user's conversation has.
        max_event_bytes: bound of one server-sent event, in bytes.

    Raises `ValueError` for an unusable url, proxy or header; its text holds none of them.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        proxy: str | None = None,
        clock: Clock | None = None,
        bounds: Bounds | None = None,
        chat_id: Callable[[Turn], str] | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self._bounds = bounds or Bounds()
        self._http = RemoteHTTP(
            "remote agent",
            checked_url(url, "the url", "https://host/api/chat"),
            headers=headers or {},
            proxy=proxy,
            clock=clock or SystemClock(),
            bounds=self._bounds,
            # A server of the AI SDK answers so when it streams plain text, without events.
            no_stream=("application/json", "text/html", "text/plain"),
            max_event_bytes=max_event_bytes,
        )
        self._body = dict(body or {})
        self._chat_id = chat_id or _own_chat

    @property
    def host(self) -> str:
        """Where it is, for people."""
        return self._http.url.host

    async def __aenter__(self) -> RemoteAgent:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.__aexit__()

    async def __call__(self, turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        """Says what the remote answers. Raises `ModelStreamError` when that does not come whole."""
        asked = {
            **self._body,
            "id": self._chat_id(turn),
            "messages": await ui_messages(turn),
            "trigger": "submit-message",
        }
        reader = UIReader(
            {known["call"]: one.call.id for one in turn.resolutions if (known := _known(one)) is not None},
            self._http.redact,
            _datas(turn.messages),
        )
        async with self._http.post(msgspec.json.encode(clean_json(asked))) as (exchange, response):
            over = False
            try:
                async with contextlib.aclosing(self._read(exchange, reader)) as events:
                    async for event in events:
                        if isinstance(event, File):
                            if event.url[:5].lower() == "data:":
                                await self._attach(turn, event)
                                continue
                            event = msgspec.structs.replace(event, url=str(self._http.url.join(event.url)))
                        yield event
                over = True
            finally:
                if not over and not reader.finished and reader.failure is None:
                    self._stop(response)

    async def _attach(self, turn: Turn, file: File) -> None:
        declared, content = await asyncio.to_thread(parse_data_url, file.url)
        await turn.attach(content, media_type=file.media_type or declared)

    def _stop(self, response: httpx2.Response) -> None:
        """Tells a Turnwire that nobody wants this turn any more."""
        run = response.headers.get("x-workflow-run-id", "")
        if "x-turnwire-conversation" in response.headers and _RUN.fullmatch(run):
            url = self._http.url
            self._http.tell(url.copy_with(path=f"{url.path.rstrip('/')}/{run}/stop", query=None))

    async def _read(self, exchange: Exchange, reader: UIReader) -> AsyncGenerator[AgentEvent, None]:
        """What the body says, and then, even if that is not the whole answer, what its reader held back."""
        broken: ModelStreamError | None = None
        more = self._http.read(exchange, reader, lambda: self._bounds.usage_grace)
        try:
            async with contextlib.aclosing(more) as events:
                async for event in events:
                    yield event
        except ModelStreamError as error:
            broken = error
        for event in reader.close():
            yield event
        if broken is not None:
            raise broken


def ai_sdk_agent(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Mapping[str, Any] | None = None,
    proxy: str | None = None,
    clock: Clock | None = None,
    bounds: Bounds | None = None,
) -> RemoteAgent:
    """An agent behind an AI SDK server at `url`. The arguments are those of `RemoteAgent`."""
    return RemoteAgent(url, headers=headers, body=body, proxy=proxy, clock=clock, bounds=bounds)


async def ui_messages(turn: Turn) -> list[dict[str, Any]]:
    """The conversation as a server of the AI SDK takes it.

    Files of the question are sent along as data URLs, other files of ours are mentioned: the remote cannot fetch them.
    Questions that came together are one message, for a remote that keeps the conversation itself reads only the last;
    it has an id of its own for each turn, because a question may be answered again. An answered approval has the id
    that the remote knows it by.
    """
    inline = await _inline(turn)
    messages: list[dict[str, Any]] = []
    for message in turn.messages:
        parts = [_outward(part, inline) for part in dicts(message.get("parts"))]
        if message.get("role") == "user" and messages and messages[-1].get("role") == "user":
            messages[-1] = {**message, "parts": [*messages[-1]["parts"], *parts]}
        else:
            messages.append({**message, "parts": parts})
    if not messages:
        return messages
    last = messages[-1]
    if last.get("role") == "user":
        last["id"] = f"msg-{turn.id}"
        if turn.quote:
            quoted = "\n".join(f"> {line}" for line in str(turn.quote).splitlines())
            last["parts"] = [{"type": "text", "text": quoted}, *last["parts"]]
    else:
        last["parts"] = [_resolved(part, turn.resolutions) for part in last["parts"]]
    return messages


async def _inline(turn: Turn) -> dict[str, str]:
    """The question's files as data URLs, by their address."""
    found: dict[str, str] = {}
    left = INLINE_BYTES
    for file in turn.files:
        if file.size <= left:
            left -= file.size
            content = await asyncio.to_thread(base64.b64encode, await file.read())
            found[file.url] = f"data:{file.media_type};base64,{content.decode('ascii')}"
    return found


def _outward(part: dict[str, Any], inline: Mapping[str, str]) -> dict[str, Any]:
    """The part with no address in it that only we can follow."""
    url = part.get("url")
    if part.get("type") != "file" or not isinstance(url, str) or not url.startswith("/"):
        return part
    if url in inline:
        return {**part, "url": inline[url]}
    name = part.get("filename") or url.rpartition("/")[2] or "without a name"
    return {"type": "text", "text": f"[attached file: {name}, {part.get('mediaType') or 'unknown type'}]"}


def _resolved(part: dict[str, Any], resolutions: Sequence[Resolution]) -> dict[str, Any]:
    """A tool part as the remote said it, with what a person answered."""
    for one in resolutions:
        known = _known(one)
        if known is not None and part.get("toolCallId") == one.call.id:
            answer = {**known["approval"], "approved": one.approved}
            if one.reason is not None:
                answer["reason"] = one.reason
            return {**part, "toolCallId": known["call"], "state": "approval-responded", "approval": answer}
    return part


def _known(one: Resolution) -> dict[str, Any] | None:
    """What the remote calls the call and its approval, if the remote asked for it."""
    state = one.state
    known = isinstance(state, dict) and isinstance(state.get("call"), str) and isinstance(state.get("approval"), dict)
    return state if known else None


def _datas(messages: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    """Name and id of the data parts of the message that this turn goes on with."""
    going_on = messages[-1:] if messages and messages[-1].get("role") == "assistant" else []
    parts = [part for message in going_on for part in dicts(message.get("parts"))]
    named = [(str(part.get("type")), part.get("id")) for part in parts]
    return {(kind[5:], own) for kind, own in named if kind.startswith("data-") and isinstance(own, str)}


def _own_chat(turn: Turn) -> str:
    # Names of conversations are each user's own; the remote may know all of us by one token.
    return "tw-" + hashlib.sha256(f"{turn.user}\0{turn.conversation}".encode()).hexdigest()[:32]
