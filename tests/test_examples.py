"""The examples of embedding, run as they are: a host app with its own users and routes, the gateway inside it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urljoin

import pytest
from starlette.types import ASGIApp, Message

from tests.asgi import LIMIT_S, Client, Exchange, question
from tests.strict_client import StrictClient
from turnwire.channels.web.page import STATIC
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "how-to" / "embed-in-your-app.md"
FORGED = {"x-user": "alice", "authorization": "Bearer alice", "x-forwarded-user": "alice", "cookie": "session=alice"}


class Host(NamedTuple):
    """A host app that runs: its module, where the gateway is in it, and how its people come."""

    module: ModuleType
    root: str
    sign_in: Callable[[str], Awaitable[Client]]
    nobody: Client
    stop: Callable[[], asyncio.Task[None]]

    async def ask(self, client: Client, text: str, chat: str = "c") -> Exchange:
        return await client.start("POST", f"{self.root}/api/chat?ui=7", question(text, chat=chat)).opened()


class Lifespan:
    """The life of an ASGI app: started, and at the end asked to stop, as a server does it."""

    def __init__(self, app: ASGIApp) -> None:
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._said: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        self._app = asyncio.ensure_future(app(scope, self._sent.get, self._said.put))

    async def step(self, name: str) -> None:
        await self._sent.put({"type": f"lifespan.{name}"})
        async with asyncio.timeout(LIMIT_S):
            assert (await self._said.get())["type"] == f"lifespan.{name}.complete"
            if name == "shutdown":
                await self._app


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _by_password(app: ASGIApp, user: str) -> Client:
    told = {"name": user, "password": {"alice": "looking-glass", "bob": "can-we-fix-it"}[user]}
    begun = await Client(app).post("/login", told, {"content-type": "application/json"})
    assert begun.status == 204, begun.body
    assert "HttpOnly" in begun.headers["set-cookie"]
    return Client(app, {"cookie": begun.headers["set-cookie"].partition(";")[0]})


async def _by_session(app: ASGIApp, user: str) -> Client:
    return Client(app, {"cookie": f"session=a-session-of-{user}"})


HOSTS = {"embed_fastapi": ("/agent", _by_password), "embed_starlette": ("", _by_session)}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TURNWIRE_") and "__" in name]:
        monkeypatch.delenv(name)
    root, sign_in = HOSTS[request.param]

    @contextlib.asynccontextmanager
    async def open_host(agent: Any = None) -> AsyncIterator[Host]:
        module = _module(request.param)
        app, life = module.app, Lifespan(module.app)
        if agent is not None:
            module.gateway.agent = agent
        await life.step("startup")
        stopping: list[asyncio.Task[None]] = []

        def stop() -> asyncio.Task[None]:
            if not stopping:
                stopping.append(asyncio.create_task(life.step("shutdown")))
            return stopping[0]

        try:
            yield Host(module, root, lambda user: sign_in(app, user), Client(app), stop)
        finally:
            await stop()

    return open_host


def _text(exchange: Exchange) -> str:
    StrictClient("7").feed_all(exchange.events()).end()
    return "".join(event["delta"] for event in exchange.events() if event["type"] == "text-delta")


async def test_a_person_who_is_signed_in_chats(host: Any) -> None:
    async with host() as at:
        alice = await at.sign_in("alice")
        asked = await (await at.ask(alice, "hi")).done()
        assert asked.status == 200
        assert _text(asked) == "Hello alice, you said: hi"
        kept = (await alice.get(f"{at.root}/api/chat/c")).json()["messages"]
        assert [message["role"] for message in kept] == ["user", "assistant"]
        turn = asked.headers["x-workflow-run-id"]
        again = await alice.start("GET", f"{at.root}/api/chat/{turn}/stream?ui=7&startIndex=0").done()
        assert again.events() == asked.events()


async def test_an_answer_streams_and_can_be_stopped(host: Any) -> None:
    async def waits(turn: Turn) -> AsyncIterator[Any]:
        yield "so far"
        await turn.stopping.wait()

    async with host(waits) as at:
        alice = await at.sign_in("alice")
        asked = await at.ask(alice, "hi")
        await asked.until(lambda one: b"so far" in one.body)
        assert not asked.complete
        assert (await alice.post(f"{at.root}/api/chat/c/stop")).status == 202
        assert (await asked.done()).events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "stopped"


async def test_people_see_only_what_is_theirs(host: Any) -> None:
    async with host() as at:
        alice, bob = await at.sign_in("alice"), await at.sign_in("bob")
        asked = await (await at.ask(alice, "private", chat="diary")).done()
        turn = asked.headers["x-workflow-run-id"]
        for path in ("/api/chat/diary", f"/api/chat/{turn}/stream", "/api/conversations/diary/events"):
            assert (await bob.get(at.root + path)).status == 404
        assert (await bob.get(f"{at.root}/api/conversations")).json() == {"conversations": []}
        assert _text(await (await at.ask(bob, "mine", chat="diary")).done()) == "Hello bob, you said: mine"
        assert len((await alice.get(f"{at.root}/api/chat/diary")).json()["messages"]) == 2


async def test_nobody_is_let_in_by_what_a_request_says_of_itself(host: Any) -> None:
    async with host() as at:
        assert (await (await at.ask(at.nobody, "hi")).done()).status == 401
        for name, value in FORGED.items():
            refused = await at.nobody.start("GET", f"{at.root}/api/conversations", headers={name: value}).done()
            assert refused.status == 401, name
            assert refused.json() == {"error": {"code": "no_user", "message": "sign in first"}}
        bob = await at.sign_in("bob")
        for name in ("x-user", "authorization"):
            asked = await bob.start("POST", f"{at.root}/api/chat?ui=7", question(name), {name: FORGED[name]}).done()
            assert _text(asked) == f"Hello bob, you said: {name}"


async def test_a_page_of_another_origin_cannot_use_the_session(host: Any) -> None:
    async with host() as at:
        alice = await at.sign_in("alice")
        path = f"{at.root}/api/chat?ui=7"
        assert (await alice.post(path, question("hi"), {"origin": "https://evil.example"})).status == 403
        assert (await alice.post(path, question("hi"), {"origin": "http://127.0.0.1:8787"})).status == 200


async def test_files_are_reached_where_the_gateway_is_mounted(host: Any) -> None:
    async def sends(turn: Turn) -> AsyncIterator[Any]:
        await turn.attach(b"content", name="a.txt", media_type="text/plain")
        yield "Sent."

    async with host(sends) as at:
        alice, bob = await at.sign_in("alice"), await at.sign_in("bob")
        asked = await (await at.ask(alice, "hi")).done()
        (url,) = [event["url"] for event in asked.events() if event["type"] == "file"]
        assert url.startswith(f"{at.root}/files/")
        assert url in (await alice.get(f"{at.root}/api/chat/c")).body.decode()
        assert (await alice.get(url)).body == b"content"
        assert [(await one.get(url)).status for one in (bob, at.nobody)] == [404, 401]


async def test_the_host_s_own_routes_answer(host: Any) -> None:
    async with host() as at:
        alice = await at.sign_in("alice")
        if at.root:
            assert (await alice.get("/me")).json() == {"user": "alice"}
            assert (await at.nobody.get("/me")).status == 401
            assert (await at.nobody.get("/openapi.json")).json()["paths"].keys() == {"/login", "/me"}
            wrong = {"name": "alice", "password": "guessed"}
            assert (await at.nobody.post("/login", wrong, {"content-type": "application/json"})).status == 401
        else:
            assert (await at.nobody.get("/home")).body == b"The host's own page."
        assert (await at.nobody.get(f"{at.root}/healthz")).json()["status"] == "ok"


async def test_the_end_of_the_host_waits_for_a_running_turn(host: Any) -> None:
    go_on = asyncio.Event()

    async def waits(turn: Turn) -> AsyncIterator[Any]:
        yield "Begun, "
        await go_on.wait()
        yield "and done."

    async with host(waits) as at:
        alice = await at.sign_in("alice")
        asked = await at.ask(alice, "hi")
        await asked.until(lambda one: b"Begun" in one.body)
        stopped = at.stop()
        while at.module.gateway.ready:
            await asyncio.sleep(0)
        late = await (await at.ask(alice, "late", chat="other")).done()
        assert (late.status, late.json()["error"]["code"]) == (503, "draining")
        # What the turn has said stays readable meanwhile; a server that did not wait would have ended it by then.
        for _ in range(20):
            shown = (await alice.get(f"{at.root}/api/chat/c")).json()
            assert shown["turn"]["status"] == "running"
        assert not stopped.done()
        go_on.set()
        assert _text(await asked.done()) == "Begun, and done."
        assert asked.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "done"
        await stopped


class _Links(HTMLParser):
    """The addresses that a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


async def test_the_page_is_where_the_gateway_is_mounted(host: Any) -> None:
    async with host() as at:
        shown = await at.nobody.get(f"{at.root}/")
        if not (STATIC / "index.html").is_file():
            assert shown.status == 503
            assert f"http://127.0.0.1:8787{at.root}/api/chat" in shown.body.decode()
            return
        assert shown.status == 200
        page = _Links()
        page.feed(shown.body.decode())
        assert any(link.endswith(".js") for link in page.found)
        for link in page.found:
            assert (await at.nobody.get(urljoin(f"{at.root}/", link))).status == 200, link


def test_every_block_of_the_page_is_of_an_example_or_is_run() -> None:
    sources = [path.read_text() for path in EXAMPLES.glob("*.py")]
    blocks = re.findall(r"(?ms)^```python([^\n]*)\n(.*?)^```$", PAGE.read_text())
    assert len(blocks) > 4
    for info, code in blocks:
        assert info == " run" or any(code in source for source in sources), code
