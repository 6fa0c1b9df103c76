"""Turnwire inside a Starlette app of your own: its users, its routes, its process.

Run it with `uvicorn embed_starlette:app --timeout-graceful-shutdown 30`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from turnwire import AgentEvent, Gateway, Turn, load_config, web_app

SESSIONS = {"a-session-of-alice": "alice", "a-session-of-bob": "bob"}


async def agent(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Says who asked."""
    yield f"Hello {turn.user}, you said: {turn.text}"


def user_of(request: Request) -> str | None:
    """Who is signed in, in the host's own way; None is answered with 401."""
    return SESSIONS.get(request.cookies.get("session", ""))


gateway = Gateway(load_config(), agent)


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
    routes=[Route("/home", home), Mount("/", web_app(gateway, user=user_of))],
    lifespan=lifespan,
)
