"""Turnwire inside a FastAPI app of your own: its users, its routes, its process. The gateway is below `/agent`.

Run it with `uvicorn embed_fastapi:app --timeout-graceful-shutdown 30`.
"""

from __future__ import annotations

import contextlib
import hmac
import secrets
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import APIKeyCookie
from pydantic import BaseModel

from turnwire import AgentEvent, Gateway, Turn, load_config, web_app

PASSWORDS = {"alice": "looking-glass", "bob": "can-we-fix-it"}
SESSIONS: dict[str, str] = {}
session_cookie = APIKeyCookie(name="session", auto_error=False)


async def agent(turn: Turn) -> AsyncIterator[AgentEvent]:
    """Says who asked."""
    yield f"Hello {turn.user}, you said: {turn.text}"


async def current_user(request: Request) -> str:
    """Who is signed in: the host's own dependency, and what tells the gateway whose conversations these are."""
    user = SESSIONS.get(await session_cookie(request) or "")
    if user is None:
        raise HTTPException(401, "sign in first")
    return user


gateway = Gateway(load_config(), agent)


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Starts the gateway with the app; at the end it drains and stops."""
    async with gateway:
        yield


app = FastAPI(lifespan=lifespan)


class Credentials(BaseModel):
    """What a person signs in with."""

    name: str
    password: str


@app.post("/login", status_code=204)
async def login(credentials: Credentials, response: Response) -> None:
    """Begins a session. Behind https, give the cookie `secure=True` as well."""
    known = PASSWORDS.get(credentials.name, "")
    if not known or not hmac.compare_digest(known.encode(), credentials.password.encode()):
        raise HTTPException(401, "there is no such name with that password")
    session = secrets.token_urlsafe()
    SESSIONS[session] = credentials.name
    response.set_cookie("session", session, httponly=True, samesite="lax")


@app.get("/me")
async def me(user: Annotated[str, Depends(current_user)]) -> dict[str, str]:
    """A route of the host's own, for the same people."""
    return {"user": user}


app.mount("/agent", web_app(gateway, user=current_user))
