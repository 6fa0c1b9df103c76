"""Turnwire inside a Starlette app of your own: its users, its routes, its process.

Run it with `uvicorn embed_starlette:app --timeout-graceful-shutdown 30`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from turnwire import AgentEvent, Gateway, Turn, load_config, web_app

USER_HEADER = "x-user"
SESSIONS = {"a-session-of-alice": "alice"}


async def agent(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Says who asked."""
    yield f"Hello {turn.user}, you said: {turn.text}"


class NameTheUser:
    """Tells the gateway who is signed in. What a client says in that header itself is removed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = SESSIONS.get(Request(scope).cookies.get("session", ""))
            headers = [(name, value) for name, value in scope["headers"] if name != USER_HEADER.encode()]
            if user is not None:
                headers.append((USER_HEADER.encode(), user.encode()))
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)


gateway = Gateway(load_config(overrides={"channels": {"web": {"auth": "header", "header": USER_HEADER}}}), agent)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Starts the gateway with the app; at the end it drains and stops."""
    async with gateway:
        yield


async def home(_: Request) -> PlainTextResponse:
    """A route of the host's own."""
    return PlainTextResponse("The host's own page.")


app = Starlette(
    # Own routes first: what they do not take, the gateway gets. It can be mounted below a path as well.
    routes=[Route("/", home), Mount("/", web_app(gateway))],
    middleware=[Middleware(NameTheUser)],
    lifespan=lifespan,
)
