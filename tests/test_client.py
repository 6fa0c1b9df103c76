"""The client: every record once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.gateways import running
from tests.http_server import Cutter, Wire, nobody, served
from turnwire import chunks as c
from turnwire.channels.web.api import web_app
from turnwire.client import Answer, ChatClient, ChatError, Unreachable
from turnwire.clock import Handle, SystemClock
from turnwire.events import Reasoning, Snapshot, Text, ToolCall, ToolResult
from turnwire.gateway import Gateway
from turnwire.store.queries.records import read_all, trim
from turnwire.testing.clock import FakeClock
from turnwire.turn import Turn
from turnwire.view import fold, to_message

pytestmark = pytest.mark.anyio

SHORT_S = 5.0


class Impatient(SystemClock):
    """A clock on which pauses are over at once; they still count."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return super().monotonic() + sum(self.pauses)

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        if delay > SHORT_S:
            return super().call_later(delay, callback)
        self.pauses.append(delay)
        return asyncio.get_running_loop().call_soon(callback)


async def story(turn: Turn) -> AsyncIterator[Any]:
    """A turn with a bit of everything, in many records."""
    yield Reasoning("Let me ")
    await asyncio.sleep(0)
    yield Reasoning("think.")
    yield Text(f"You said {turn.text!r}. ")
    yield ToolCall(id="a", name="search", input={"q": "größe"})
    yield ToolResult(id="a", output=[1, 2])
    yield Text("First, ")
    await asyncio.sleep(0)
    yield Text("all wrong.")
    yield Snapshot("Second thoughts: ")
    for word in ("all", "is", "well", "😀"):
        yield Text(word + " ")
        await asyncio.sleep(0)
    await turn.attach(b"hello", name="a note.txt")
    yield Text("Done.")


class Gated:
    """An agent that says a piece whenever the test lets it."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        while (piece := await self.pieces.get()) is not None:
            yield piece


@contextlib.asynccontextmanager
async def serving(
    url: str, folder: Path, agent: Any, *, port: int = 0, **overrides: Any
) -> AsyncIterator[tuple[str, Cutter, Gateway]]:
    async with running(url, folder, agent, **overrides) as gateway:
        cutter = Cutter(web_app(gateway))
        async with served(cutter, port) as address:
            yield address, cutter, gateway
            # What is still open must not keep the server from ending.
            gateway.hub.lose_all()


async def stored(gateway: Gateway, turn_id: str | None) -> list[dict[str, Any]]:
    return [msgspec.json.decode(record) for record in await gateway.db.read(read_all, turn_id or "")]


async def whole(answer: Answer) -> list[dict[str, Any]]:
    return [record async for record in answer]


async def text_of(answer: Answer) -> str:
    await whole(answer)
    return answer.view.text()


async def test_send_gives_every_record_of_the_turn(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(sqlite_url, tmp_path, story) as (url, _, gateway), ChatClient(url) as client:
        answer = client.send("c", "hi")
        records = await whole(answer)
        assert records == await stored(gateway, answer.turn_id)
        assert records[-1]["type"] == "finish"
        assert answer.view.outcome == "done"
        assert answer.cursor == len(records)
        history = await client.history("c")
        assert history is not None
        assert [message["role"] for message in history["messages"]] == ["user", "assistant"]
        assert history["messages"][1] == to_message(answer.view)
        assert [one["id"] for one in await client.conversations()] == ["c"]


async def test_a_body_cut_after_any_record_loses_and_repeats_nothing(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serving(sqlite_url, tmp_path, story) as (url, cutter, gateway),
        ChatClient(url, clock=Impatient()) as client,
    ):
        length = len(await whole(client.send("c", "hi")))
        for kept in range(length):
            cutter.limits = [kept]
            answer = client.send("c", f"cut after {kept}")
            records = await whole(answer)
            expected = await stored(gateway, answer.turn_id)
            if kept:
                assert records == expected
            else:
                # Without a record there is no cursor: what comes is the shortest replay.
                assert records[0]["type"] == "start"
            assert to_message(answer.view) == to_message(fold_json(expected))


@pytest.mark.parametrize("kept", [1, 2, 5])
async def test_bodies_that_all_break_early_still_give_the_whole_turn(
    sqlite_url: str, tmp_path: Path, kept: int
) -> None:
    async with (
        serving(sqlite_url, tmp_path, story) as (url, cutter, gateway),
        ChatClient(url, clock=Impatient()) as client,
    ):
        cutter.always = kept
        answer = client.send("c", "hi")
        records = await whole(answer)
        assert records == await stored(gateway, answer.turn_id)
        assert len(cutter.paths) == -(-len(records) // kept)


async def test_a_connection_cut_at_any_byte_makes_one_turn_of_one_message(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(sqlite_url, tmp_path, story) as (url, _, gateway):
        wire = Wire(urlsplit(url).port or 0)
        async with wire.running() as address:
            for number, bytes_passed in enumerate((0, 1, 17, 60, 150, 300, 301, 340, 450, 700, 1000, 1500)):
                async with ChatClient(address, clock=Impatient()) as client:
                    wire.limits = [bytes_passed]
                    before = wire.connections
                    answer = client.send(f"c{number}", "hi")
                    await whole(answer)
                    assert wire.connections > before + 1, "nothing was cut"
                    assert to_message(answer.view) == to_message(fold_json(await stored(gateway, answer.turn_id)))
                    history = await client.history(f"c{number}")
                    assert history is not None
                    assert len(history["messages"]) == 2


async def test_a_folded_replay_is_taken_whole_or_not_at_all(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serving(sqlite_url, tmp_path, story) as (url, cutter, _),
        ChatClient(url, clock=Impatient()) as client,
    ):
        first = client.send("c", "hi")
        await whole(first)
        cutter.limits = [3, 0]
        again = client.resume(first.turn_id or "")
        records = await whole(again)
        assert [record["type"] for record in records].count("start") == 1
        assert to_message(again.view) == to_message(first.view)
        assert again.cursor == first.cursor


async def test_a_running_turn_is_joined_where_it_stands(sqlite_url: str, tmp_path: Path) -> None:
    agent = Gated()
    async with serving(sqlite_url, tmp_path, agent) as (url, _, gateway), ChatClient(url) as client:
        first = client.send("c", "hi")
        reading = asyncio.create_task(whole(first))
        agent.pieces.put_nowait("One ")
        await until(lambda: first.view.text() == "One ")
        history = await client.history("c")
        assert history is not None
        joined = client.resume(history["turn"]["id"])
        late = client.resume(history["turn"]["id"], 4)
        joining, tail = asyncio.create_task(whole(joined)), asyncio.create_task(whole(late))
        await until(lambda: joined.view.text() == "One ")
        agent.pieces.put_nowait("two.")
        agent.pieces.put_nowait(None)
        records = await reading
        await joining
        assert joined.view.text() == "One two."
        assert await tail == records[4:]
        assert records == await stored(gateway, first.turn_id)


async def test_a_turn_that_goes_on_with_a_message_is_read(sqlite_url: str, tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if turn.resume is None:
            yield ToolCall(id="a", name="pay", needs_approval=True)
        else:
            yield ToolResult(id="a", output="paid")
            yield "It is paid."

    async with serving(sqlite_url, tmp_path, agent) as (url, _, _gateway), ChatClient(url) as client:
        asked = await whole(client.send("c", "pay"))
        (approval,) = [record["approvalId"] for record in asked if record["type"] == "tool-approval-request"]
        answered = await client.answer(approval, approved=True)
        assert (answered["first"], answered["approved"]) == (True, True)
        assert await text_of(client.resume(answered["turn"]["id"])) == "It is paid."
        again = await client.answer(approval, approved=False, reason="no")
        assert (again["first"], again["approved"], again["turn"]["id"]) == (False, True, answered["turn"]["id"])


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("cut", [None, 0, 3])
async def test_a_message_said_while_a_turn_runs_gives_the_turn_that_answers_it(
    sqlite_url: str, tmp_path: Path, hears: bool, cut: int | None
) -> None:
    go = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield f"[{turn.text}]"
        await go.wait()
        for message in await turn.inbox.take() if hears else ():
            yield f" heard {message.text}"

    async with (
        serving(sqlite_url, tmp_path, agent, turns__policy="steer") as (url, cutter, gateway),
        ChatClient(url, clock=Impatient()) as client,
    ):
        first = client.send("c", "work")
        reading = asyncio.create_task(whole(first))
        await until(lambda: first.view.text() == "[work]")
        cutter.limits = [] if cut is None else [cut]
        more = client.send("c", "more")
        answered = asyncio.create_task(whole(more))
        await more.admitted.wait()
        go.set()
        await reading
        assert await answered == await stored(gateway, more.turn_id)
        assert more.view.text() == ("[work]\n\n heard more" if hears else "[more]")
        assert (more.turn_id == first.turn_id) == hears


async def test_a_conversation_tells_its_newest_state_and_is_told_of_again(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serving(sqlite_url, tmp_path, story) as (url, cutter, _),
        ChatClient(url, clock=Impatient()) as client,
    ):
        await whole(client.send("c", "hi"))
        cutter.limits = [0]
        states = client.states("c")
        first = (await anext(states))["last"]
        assert len([path for path in cutter.paths if path.endswith("/events")]) == 2
        await whole(client.send("c", "more"))
        async for state in states:
            if state["turn"] is None and state["last"] != first:
                break
        await states.aclose()
        with pytest.raises(ChatError, match="there is no conversation"):
            await anext(client.states("nowhere"))


async def test_records_trimmed_during_an_outage_begin_the_answer_anew(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serving(sqlite_url, tmp_path, story) as (url, cutter, gateway),
        ChatClient(url, clock=Impatient()) as client,
    ):
        plain = to_message((await finished(client.send("other", "hi"))).view)

        async def forget(scope: Scope) -> None:
            if b"startIndex" in scope["query_string"]:
                await until_finished(gateway)
                await gateway.db.run(trim, -10.0)

        cutter.before, cutter.limits = forget, [6]
        answer = client.send("c", "hi")
        records = await whole(answer)
        starts = [index for index, record in enumerate(records) if record["type"] == "start"]
        assert len(starts) == 2
        assert visible(to_message(answer.view)) == visible(plain)
        assert any("startIndex=6" in path for path in cutter.paths)


async def test_stop_is_recorded_and_the_answer_ends_stopped(sqlite_url: str, tmp_path: Path) -> None:
    agent = Gated()
    async with serving(sqlite_url, tmp_path, agent) as (url, _, _gateway), ChatClient(url) as client:
        answer = client.send("c", "hi")
        reading = asyncio.create_task(whole(answer))
        agent.pieces.put_nowait("Well, ")
        await until(lambda: answer.view.text() == "Well, ")
        said = await client.stop(answer.turn_id or "")
        assert said == {"turn": answer.turn_id, "status": "stopping"}
        await reading
        assert answer.view.outcome == "stopped"
        assert answer.view.text() == "Well, "
        assert (await client.stop("c"))["status"] == "finished"


async def test_stop_is_repeated_until_the_server_is_back(sqlite_url: str, tmp_path: Path) -> None:
    agent = Gated()
    async with serving(sqlite_url, tmp_path, agent) as (_, _cutter, gateway):
        down = Outage(web_app(gateway))
        async with served(down) as flaky, ChatClient(flaky, clock=Impatient()) as client:
            answer = client.send("c", "hi")
            reading = asyncio.create_task(whole(answer))
            await answer.admitted.wait()
            down.refusals = 3
            assert (await client.stop(answer.turn_id or ""))["status"] == "stopping"
            assert down.refusals == 0
            await reading
            assert answer.view.outcome == "stopped"


async def test_a_server_that_takes_no_work_now_is_asked_again(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(sqlite_url, tmp_path, story) as (_, _cutter, gateway):
        down = Outage(web_app(gateway), refusals=4)
        clock = Impatient()
        async with served(down) as url, ChatClient(url, clock=clock) as client:
            assert (await finished(client.send("c", "hi"))).view.outcome == "done"
            assert clock.pauses == [0.2, 0.5, 1.0, 2.0]


async def test_a_restart_of_the_server_ends_the_answer_honestly(sqlite_url: str, tmp_path: Path) -> None:
    agent, clock = Gated(), FakeClock()
    async with contextlib.AsyncExitStack() as stack:
        async with serving(sqlite_url, tmp_path, agent) as (url, _, _gateway):
            client = await stack.enter_async_context(ChatClient(url, clock=clock))
            answer = client.send("c", "hi")
            reading = asyncio.create_task(whole(answer))
            agent.pieces.put_nowait("Half an ans")
            await clock.until(lambda: answer.view.text() == "Half an ans")
        await clock.until(lambda: not answer.connected)
        async with serving(sqlite_url, tmp_path, agent, port=urlsplit(url).port or 0) as (_, _cutter, gateway):
            await clock.advance(30)
            await clock.until(reading.done)
            assert await reading == await stored(gateway, answer.turn_id)
            assert answer.connected
            assert answer.view.outcome == "interrupted"
            assert answer.view.text() == "Half an ans"


async def test_a_silent_connection_is_given_up_for_a_new_one(sqlite_url: str, tmp_path: Path) -> None:
    agent, clock = Gated(), FakeClock()
    async with serving(sqlite_url, tmp_path, agent) as (url, cutter, _), ChatClient(url, clock=clock) as client:
        answer = client.send("c", "hi")
        reading = asyncio.create_task(whole(answer))
        agent.pieces.put_nowait("Here.")
        await clock.until(lambda: answer.view.text() == "Here.")
        await clock.advance(31)
        await clock.until(lambda: not answer.connected)
        await clock.advance(1)
        await clock.until(lambda: len(cutter.paths) == 2)
        agent.pieces.put_nowait(None)
        await clock.until(reading.done)
        assert answer.view.text() == "Here."
        assert f"startIndex={answer.cursor}" not in cutter.paths[1]
        assert "startIndex=" in cutter.paths[1]


async def test_an_unreachable_server_is_given_up_with_a_clear_message() -> None:
    clock = Impatient()
    with nobody() as port:
        async with ChatClient(f"http://127.0.0.1:{port}", "t0p-s3cret", clock=clock) as client:
            await _check_given_up(client, clock)


async def _check_given_up(client: ChatClient, clock: Impatient) -> None:
    with pytest.raises(Unreachable, match=rf"cannot reach {client.base_url} for 60 s") as caught:
        await whole(client.send("c", "hi"))
    assert "t0p-s3cret" not in f"{caught.value!r}{client!r}{vars(client)!r}"
    assert 59 < sum(clock.pauses) <= 60
    asked = len(clock.pauses)
    with pytest.raises(Unreachable, match="is `turnwire serve` running there"):
        await client.history("c")
    assert len(clock.pauses) == asked, "history must not wait"


async def test_refusals_are_errors_and_not_repeated(sqlite_url: str, tmp_path: Path) -> None:
    secret: dict[str, Any] = {"channels__web__auth": "token", "channels__web__tokens": {"alice": "abc"}}
    async with (
        serving(sqlite_url, tmp_path, story, **secret) as (url, cutter, _),
        ChatClient(url) as stranger,
    ):
        with pytest.raises(ChatError, match="send a known token") as caught:
            await whole(stranger.send("c", "hi"))
        assert (caught.value.status, caught.value.code) == (401, "no_token")
        async with ChatClient(url, "abc") as alice:
            with pytest.raises(ChatError, match="names that begin with 'turn_'") as caught:
                await whole(alice.send("turn_x", "hi"))
            assert caught.value.status == 400
            with pytest.raises(ChatError, match="there is no turn"):
                await whole(alice.resume("turn_x"))
            with pytest.raises(ChatError, match="must not be empty or hold a slash"):
                await alice.history("no/thing")
            assert await alice.history("nothing") is None
            assert (await finished(alice.send("c", "hi"))).view.outcome == "done"
        assert len([path for path in cutter.paths if path.startswith("POST")]) == 3


async def test_the_header_names_the_user(sqlite_url: str, tmp_path: Path) -> None:
    async with (
        serving(sqlite_url, tmp_path, story, channels__web__auth="header") as (url, _, _gateway),
        ChatClient(url, header=("x-user", "bob")) as bob,
        ChatClient(url, header=("x-user", "eve")) as eve,
    ):
        await whole(bob.send("c", "hi"))
        assert await bob.history("c") is not None
        assert await eve.history("c") is None


async def test_files_go_with_the_message(sqlite_url: str, tmp_path: Path) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        for file in turn.files:
            yield f"{file.name}: {(await file.read()).decode()} [{turn.text}]"

    path = tmp_path / "note.txt"
    path.write_text("remember")
    async with serving(sqlite_url, tmp_path, agent) as (url, _, _gateway), ChatClient(url) as client:
        assert await text_of(client.send("c", "read this", [path])) == "note.txt: remember [read this]"
        with pytest.raises(ChatError, match="cannot be read"):
            await whole(client.send("c", "read this", [tmp_path / "gone.txt"]))


async def test_the_same_message_id_is_the_same_turn(sqlite_url: str, tmp_path: Path) -> None:
    async with serving(sqlite_url, tmp_path, story) as (url, _, _gateway), ChatClient(url) as client:
        first, second = client.send("c", "hi", message_id="m"), client.send("c", "hi", message_id="m")
        assert await whole(first) == await whole(second)
        assert first.turn_id == second.turn_id


@pytest.mark.parametrize(
    "app",
    [PlainTextResponse("hello"), PlainTextResponse("no", 404), JSONResponse({"ok": True})],
    ids=["text", "404", "json"],
)
async def test_another_kind_of_server_is_named_as_such(app: ASGIApp) -> None:
    async with served(app) as url, ChatClient(url) as client:
        with pytest.raises(ChatError, match="is that a Turnwire server"):
            await whole(client.send("c", "hi"))


async def test_records_that_come_twice_or_out_of_order_are_not_taken() -> None:
    records = [{"type": kind} for kind in ("start-step", "finish-step", "start-step", "finish-step", "finish")]
    # The first body breaks after two records, the second leaves one out, the third begins too early.
    bodies = [[0, 1], [3, 4], [0, 1, 2, 3, 4]]
    asked: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["query_string"].decode())
        headers = [(b"content-type", b"text/event-stream"), (b"x-workflow-run-id", b"turn_1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"".join(b"id: %d\ndata: %b\n\n" % (one, msgspec.json.encode(records[one])) for one in bodies.pop(0))
        await send({"type": "http.response.body", "body": body})

    async with served(app) as url, ChatClient(url, clock=Impatient()) as client:
        assert await whole(client.send("c", "hi")) == records
    assert asked == ["ui=7", "ui=7&startIndex=2", "ui=7&startIndex=2"]


async def test_a_reader_may_leave_at_any_time(sqlite_url: str, tmp_path: Path) -> None:
    agent = Gated()
    async with serving(sqlite_url, tmp_path, agent) as (url, _, gateway), ChatClient(url) as client:
        answer = client.send("c", "hi")
        reading = asyncio.create_task(whole(answer))
        await answer.admitted.wait()
        reading.cancel()
        await asyncio.wait({reading})
        await answer.aclose()
        agent.pieces.put_nowait("Nobody hears this.")
        agent.pieces.put_nowait(None)
        await until_finished(gateway)
        assert await text_of(client.resume(answer.turn_id or "")) == "Nobody hears this."


@pytest.mark.parametrize("url", ["", "127.0.0.1:8787", "ftp://h", "http://", "http://h?x=1", "http://h:port"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be like http://127\.0\.0\.1:8787"):
        ChatClient(url)


def test_a_token_that_cannot_be_sent_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="the token holds a line break") as caught:
        ChatClient("http://h", "s3cret\n")
    assert "s3cret" not in str(caught.value)


class Outage:
    """Answers 503 as many times as `refusals` says."""

    def __init__(self, app: ASGIApp, refusals: int = 0) -> None:
        self.refusals = refusals
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.refusals:
            await self._app(scope, receive, send)
            return
        self.refusals -= 1
        answer = JSONResponse({"error": {"code": "draining", "message": "not now"}}, 503)
        await answer(scope, receive, send)


async def finished(answer: Answer) -> Answer:
    await whole(answer)
    return answer


async def until(condition: Callable[[], bool]) -> None:
    await FakeClock().until(condition)


async def until_finished(gateway: Gateway) -> None:
    await until(lambda: not gateway.supervisor.live)


def fold_json(records: list[dict[str, Any]]) -> Any:
    return fold(c.decode(msgspec.json.encode(record)) for record in records)


def visible(message: dict[str, Any]) -> list[Any]:
    """What people see: no ids, times or addresses."""
    return [part.get("text") or part.get("output") or part["type"] for part in message["parts"]]
