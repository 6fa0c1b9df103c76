"""Who asks, and whether a browser page of somebody else's makes them ask.

Guarantee: with `auth = "none"` only this machine is served, under a loopback name; a browser's POST is taken only from
our own origin. Tokens are compared in constant time and never logged.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping

from starlette.datastructures import Headers

from ...config import Config

LOCAL_USER = "local"


class Denied(Exception):
    """The request is not served; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Gate:
    """Lets requests in or not."""

    def __init__(self, config: Config) -> None:
        web = config.channels.web
        self._auth = web.auth
        self._header = web.header
        self._tokens: Mapping[str, str] = {user: token.get_secret_value() for user, token in web.tokens.items()}
        self._public_url = config.server.public_url

    def user(self, headers: Headers) -> str:
        """The user of a request. Raises `Denied`."""
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
