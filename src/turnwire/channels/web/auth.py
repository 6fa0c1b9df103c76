"""Who asks, and whether a browser page of somebody else's makes them ask.

Guarantee: with `auth = "none"` only this machine is served, under a loopback name; a browser's POST is taken only from
our own origin. Tokens are compared in constant time and never logged. Where the host app says who asks, nothing in a
request but what it looks at makes a user.
"""

from __future__ import annotations

import hmac
import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, TypeAlias

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ...config import Config

LOCAL_USER = "local"

UserOf: TypeAlias = Callable[[Request], Awaitable[str | None] | str | None]
"""Says who asks, for the host app of a mounted gateway; None for nobody. It may raise Starlette's `HTTPException`."""


class Denied(Exception):
    """The request is not served; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Gate:
    """Lets requests in or not; `user_of` takes the place of the configured `auth`."""

    def __init__(self, config: Config, user_of: UserOf | None = None) -> None:
        web = config.channels.web
        self._user_of = user_of
        self._web = web
        self._auth = web.auth
        self._header = web.header
        self._tokens: Mapping[str, str] = {user: token.get_secret_value() for user, token in web.tokens.items()}
        self._public_url = config.server.public_url

    def per_user(self, key: Literal["max_turns_per_user", "max_streams_per_user"]) -> int:
        """The bound that holds for one user; 0 for none."""
        return self._web.per_user(key) if self._user_of is None else int(getattr(self._web, key))

    async def user_of(self, request: Request) -> str:
        """Who asks. Raises `Denied`; `TypeError` if the host app names a user by something that is no text."""
        if self._user_of is None:
            return self.user(request.headers)
        try:
            said = self._user_of(request)
            user = await said if inspect.isawaitable(said) else said
        except HTTPException as error:
            raise Denied(error.status_code, "no_user", str(error.detail)) from None
        if user is not None and not isinstance(user, str):
            raise TypeError(f"web_app(user=...): a user is named by text, not {type(user).__name__}; return str(...)")
        if not user:
            raise Denied(401, "no_user", "sign in first")
        return user

    def user(self, headers: Headers) -> str:
        """The user that the configured `auth` finds. Raises `Denied`."""
        if self._auth == "none":
            host = _hostname(headers.get("host", ""))
            if not _is_loopback(host) and not self._is_public(host):
                raise Denied(
                    403,
                    "wrong_host",
                    f"the host {host!r} is not served without authentication; see [channels.web] auth",
                )
            return LOCAL_USER
        if self._auth == "header":
            users = headers.getlist(self._header)
            user = users[0].strip() if len(users) == 1 else ""
            if not user:
                raise Denied(401, "no_user", f"the proxy in front must set the header {self._header} to one value")
            return user
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and token:
            for user, known in self._tokens.items():
                if hmac.compare_digest(known.encode(), token.strip().encode()):
                    return user
        raise Denied(401, "no_token", "send a known token: Authorization: Bearer ...")

    def check_origin(self, headers: Headers, scheme: str) -> None:
        """Refuses what a page of another origin made a browser send. Raises `Denied`."""
        origin = headers.get("origin")
        if origin is None:
            if headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none"):
                return
        elif origin in (f"{scheme}://{headers.get('host', '')}", self._public_url):
            return
        raise Denied(403, "wrong_origin", f"requests from {origin or 'another site'} are not taken here")

    def _is_public(self, host: str) -> bool:
        return bool(self._public_url) and _hostname(self._public_url.partition("://")[2]) == host


def _hostname(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0].lower()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
