"""A client that calls an ASGI app directly, so that a test decides when a reader reads, waits and goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message

from tests.strict_client import parse_sse

LIMIT_S = 20.0


class Exchange:
    """One request and what came back so far.

    `complete` is whether the body ended cleanly: False when the server broke it or the client left.
    """

    def __init__(self, app: ASGIApp, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "root_path": "",
            "query_string": parts.query.encode(),
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8787),
        }
        self._request = [{"type": "http.request", "body": body, "more_body": False}]
        self._gone = asyncio.Event()
        self._news = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        finally:
            self._news.set()

    async def _receive(self) -> Message:
        if self._request:
            return self._request.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._open.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode().lower(): value.decode() for key, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        self._news.set()

    def hold(self) -> None:
        """The client stops taking bytes."""
        self._open.clear()

    def go_on(self) -> None:
        """The client takes bytes again."""
        self._open.set()

    async def until(self, condition: Callable[[Self], bool]) -> Self:
        """Waits until `condition(exchange)` holds; an `AssertionError` shows what came if it never does."""
        async with asyncio.timeout(LIMIT_S):
            while not condition(self):
                assert not self.task.done(), f"{self.status} ended: {self.body.decode()}"
                self._news.clear()
                await self._news.wait()
        return self

    async def more(self) -> None:
        """Waits for more bytes, or for the end."""
        if not self.task.done():
            self._news.clear()
            async with asyncio.timeout(LIMIT_S):
                await self._news.wait()

    async def records(self, count: int) -> Self:
        """Waits for at least that many records."""
        return await self.until(lambda one: len(one.events()) >= count)

    async def opened(self) -> Self:
        """Waits for the headers."""
        return await self.until(lambda one: one.status != 0)

    async def done(self) -> Self:
        """Waits for the end of the response."""
        async with asyncio.timeout(LIMIT_S):
            await self.task
        return self

    async def leave(self) -> Self:
        """The client goes away."""
        self._gone.set()
        return await self.done()

    def events(self) -> list[dict[str, Any]]:
        """The records received so far."""
        return [record for _, record in self.numbered()]

    def numbered(self) -> list[tuple[int | None, dict[str, Any]]]:
        """The records received so far with their numbers."""
        whole = self.body[: self.body.rfind(b"\n\n") + 2]
        return [
            (int(number) if number is not None else None, json.loads(data))
            for number, data in parse_sse(whole, complete=False)
            if data != "[DONE]"
        ]

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()


class Client:
    """Requests to one app, each as the same user."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._headers = {"host": "127.0.0.1:8787", **(headers or {})}

    def start(self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Exchange:
        """Begins a request; `body` is JSON, or bytes as they are."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return Exchange(self._app, method, target, {**self._headers, **(headers or {})}, raw)

    async def get(self, target: str, **headers: str) -> Exchange:
        """A whole response."""
        return await self.start("GET", target, headers={k.replace("_", "-"): v for k, v in headers.items()}).done()

    async def post(self, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Exchange:
        """A whole response."""
        return await self.start("POST", target, body, headers).done()

    def ask(self, text: str, *, chat: str = "c", message: str | None = None, ui: str = "7", **more: Any) -> Exchange:
        """Posts a chat message; without `message` its id is its text."""
        return self.start("POST", f"/api/chat?ui={ui}", question(text, chat=chat, message=message, **more))


def question(text: str, *, chat: str = "c", message: str | None = None, **more: Any) -> dict[str, Any]:
    """The body that an AI SDK client posts."""
    parts = [{"type": "text", "text": text}]
    return {
        "id": chat,
        "trigger": "submit-message",
        "messages": [{"id": message or f"m-{text}", "role": "user", "parts": parts}],
        **more,
    }
