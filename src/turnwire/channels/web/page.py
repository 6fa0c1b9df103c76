"""The chat page: built files, served so that nothing from elsewhere can run in it.

Guarantee: the page loads and contacts nothing but this server. A file whose name holds its hash is cached for ever,
the page itself never without asking. Text is sent compressed to whoever takes that, and compressed once. Without a
build `/` says how to make one. It needs no credentials: what it shows comes from the API, which asks for them.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from .mounted import root_of

STATIC = Path(__file__).parent / "static"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
# KaTeX places the signs of a formula with style attributes; style elements stay forbidden.
GUARDS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_PACKED = frozenset({".css", ".html", ".js", ".svg"})
_PACKED_FILES = 64
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_FIRST = "no-cache"
_NOT_BUILT = """Turnwire runs, but its chat page is not built.

In a checkout:         make page
In the terminal:       turnwire chat --url {url}
With the API itself:   curl -N {url}/api/chat -H 'content-type: application/json' -d '{body}'
"""
_EXAMPLE = '{"messages": [{"role": "user", "parts": [{"type": "text", "text": "Hello"}]}]}'


def page_routes(static: Path = STATIC) -> list[Route]:
    """The routes of the page whose built files are in the folder `static`."""

    def page(request: Request) -> Response:
        """`GET /`: the page, or how to build it."""
        index = static / "index.html"
        if index.is_file():
            return _file(request, index, _ASK_FIRST)
        text = _NOT_BUILT.format(url=_address(request), body=_EXAMPLE)
        return PlainTextResponse(text, 503, {**GUARDS, "cache-control": "no-store"})

    def icon(request: Request) -> Response:
        """`GET /icon.svg`: the page's icon."""
        return _file(request, static / "icon.svg", _ASK_FIRST)

    def asset(request: Request) -> Response:
        """`GET /assets/{name}`: a built file with its hash in its name."""
        name: str = request.path_params["name"]
        if not _FILE.fullmatch(name):
            return _missing()
        return _file(request, static / "assets" / name, _FOR_EVER)

    return [
        Route("/", page, methods=["GET"]),
        Route("/icon.svg", icon, methods=["GET"]),
        Route("/assets/{name}", asset, methods=["GET"]),
    ]


def _address(request: Request) -> str:
    """Where a client reaches the page, without a slash at the end."""
    return f"{request.url.scheme}://{request.url.netloc}{root_of(request.scope)}"


def _file(request: Request, path: Path, cache: str) -> Response:
    kind = _TYPES.get(path.suffix)
    if kind is None or not path.is_file():
        return _missing()
    headers = {**GUARDS, "cache-control": cache, "content-type": kind}
    if path.suffix not in _PACKED:
        return FileResponse(path, headers=headers)
    about = path.stat()
    etag, content = _packed(path, about.st_mtime_ns, about.st_size)
    headers["vary"] = "accept-encoding"
    if _takes_gzip(request.headers.get("accept-encoding", "")):
        headers |= {"etag": f'"{etag}-gzip"', "content-encoding": "gzip"}
    else:
        headers["etag"], content = f'"{etag}"', gzip.decompress(content)
    if headers["etag"] in _tags(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


@lru_cache(maxsize=_PACKED_FILES)
def _packed(path: Path, _changed: int, _size: int) -> tuple[str, bytes]:
    """The hash of a file's content, and the content compressed; kept until the file changes."""
    content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()[:32], gzip.compress(content, mtime=0)


def _tags(header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]


def _takes_gzip(header: str) -> bool:
    """Whether `Accept-Encoding` allows gzip. Source: RFC 9110, section 12.5.3."""
    weights: dict[str, str] = {}
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        weights[name.strip()] = weight.replace(" ", "")
    weight = weights.get("gzip", weights.get("x-gzip", weights.get("*", "q=0")))
    return not re.fullmatch(r"q=0(\.0*)?", weight)


def _missing() -> Response:
    return PlainTextResponse("There is no such file.\n", 404, {**GUARDS, "cache-control": "no-store"})
