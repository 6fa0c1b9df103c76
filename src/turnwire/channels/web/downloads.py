"""Sending one stored file over HTTP.

Guarantee: nothing a person or an agent stored can run as a page, a script or a style of ours. Ranges, validators and
caching follow RFC 9110; the sending itself is Starlette's `FileResponse`.
"""

from __future__ import annotations

import asyncio
import os
import re
from email.utils import formatdate
from urllib.parse import quote

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...files import StoredFile
from ...media import OCTETS

SHOWN_INLINE = {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "text/plain"}
_GUARDS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
}
# A tag on a page of ours loads these whatever the disposition says.
_LOADED_BY_TAGS = re.compile("javascript|ecmascript|jscript|livescript|css|xsl")
_ONE_RANGE = re.compile(r"bytes=[ \t]*(?:([0-9]{1,40})-([0-9]{0,40})|-[0-9]{1,40})[ \t]*", re.IGNORECASE)

_log = structlog.get_logger(__name__)


async def send_file(file: StoredFile, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a GET or HEAD for `file` and returns when it is sent or the client has gone.

    Only passive kinds (pictures, sound, film, plain text) are shown in place, everything else is a download. One byte
    range is served; several, unknown units and malformed ones get the whole file, as RFC 9110 (14.2) allows. Content
    that is gone from the disk, or has another size than it was stored with, is answered 404 and logged.
    """

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in _GUARDS.items())]
        try:
            await send(message)
        except OSError as error:
            raise ClientDisconnect from error

    response, scope = await _respond(file, scope)
    try:
        await response(scope, receive, guarded)
    except ClientDisconnect:
        return


async def _respond(file: StoredFile, scope: Scope) -> tuple[ASGIApp, Scope]:
    if scope["method"] not in ("GET", "HEAD"):
        return PlainTextResponse("A file can be read, nothing else.\n", 405, {"allow": "GET, HEAD"}), scope
    headers = _headers(file)
    if _is_current(Headers(scope=scope).get("if-none-match"), headers["etag"]):
        return Response(status_code=304, headers={k: headers[k] for k in ("etag", "cache-control")}), scope
    try:
        found = await asyncio.to_thread(os.stat, file.path)
    except FileNotFoundError:
        found = None
    if found is None or found.st_size != file.size:
        _log.error("the content of a file is lost", file=file.id, size=file.size, found=found and found.st_size)
        return PlainTextResponse(
            "The content of this file is no longer here.\n", 404, {"cache-control": "no-store"}
        ), scope
    return FileResponse(file.path, headers=headers, stat_result=found), _with_usable_range(scope)


def _headers(file: StoredFile) -> dict[str, str]:
    kind = OCTETS if _LOADED_BY_TAGS.search(file.media_type) else file.media_type
    inline = kind in SHOWN_INLINE or kind.startswith(("audio/", "video/"))
    return {
        "content-type": f"{kind}; charset=utf-8" if kind == "text/plain" else kind,
        "content-disposition": f"{'inline' if inline else 'attachment'}; {_named(file.name)}",
        "etag": f'"{file.sha256}"',
        "last-modified": formatdate(file.created_at, usegmt=True),
        "cache-control": "private, max-age=31536000, immutable",
    }


def _named(name: str) -> str:
    # RFC 6266, appendix D: some clients decode %xx in the plain form, some take it as it is.
    plain = re.sub(r'[^ -~]|["\\%]', "_", name)
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _is_current(if_none_match: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return tags == ["*"] or etag in tags


def _with_usable_range(scope: Scope) -> Scope:
    """`scope` without a `Range` to be ignored: on HEAD, of another unit, malformed, or of several parts."""
    headers = MutableHeaders(raw=list(scope["headers"]))
    wanted = headers.getlist("range")
    match = _ONE_RANGE.fullmatch(wanted[0]) if len(wanted) == 1 and scope["method"] == "GET" else None
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        del headers["range"]
    return {**scope, "headers": headers.raw}
