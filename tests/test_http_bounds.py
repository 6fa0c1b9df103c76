"""What requests may cost: what is left behind by those that are refused, bounds for one user, large bodies, mounts."""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from sqlalchemy import Connection, func, select
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.asgi import Client, Exchange, question
from tests.gateways import config_for, running
from turnwire.channels.web import bounds
from turnwire.channels.web.api import web_app
from turnwire.channels.web.folds import Folds
from turnwire.framer import Outcome
from turnwire.gateway import Gateway
from turnwire.journal import JournalError
from turnwire.server import PortInUse, _listen, _started, _uvicorn
from turnwire.store import StoreError
from turnwire.store.queries.turns import get_turn
from turnwire.store.schema import files as file_rows
from turnwire.store.schema import turns as turn_rows
from turnwire.testing import FakeClock
from turnwire.turn import Turn
from turnwire.turns.admission import Inbound
from turnwire.turns.commands import parse_command

pytestmark = pytest.mark.anyio

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
TOKENS = {"ann": "secret-a", "bob": "secret-b"}


class Desk:
    """A gateway whose agent says `said`, attaches when asked to, and waits for `free` unless told to hurry."""

    def __init__(self, gateway: Gateway, clock: FakeClock) -> None:
        self.gateway = gateway
        self.clock = clock
        self.app = web_app(gateway)
        self.client = Client(self.app)

    def as_user(self, name: str) -> Client:
        return Client(self.app, {"authorization": f"Bearer {TOKENS[name]}"})

    async def files(self) -> int:
        def count(conn: Connection) -> int:
            return conn.execute(select(func.count()).select_from(file_rows)).scalar_one()

        return await self.gateway.db.read(count)

    def counted(self, outcome: str) -> float:
        found = self.gateway.metrics.registry.get_sample_value("turnwire_turns_total", {"outcome": outcome})
        return found or 0.0

    async def agrees(self) -> bool:
        """Whether the counter says what the store says: as many ends of each outcome."""

        def ended(conn: Connection) -> dict[str, int]:
            ask = select(turn_rows.c.outcome, func.count()).where(turn_rows.c.outcome.is_not(None))
            return {row.outcome: row[1] for row in conn.execute(ask.group_by(turn_rows.c.outcome))}

        stored = await self.gateway.db.read(ended)
        return {outcome: number for outcome in OUTCOMES if (number := self.counted(outcome))} == stored


def spoken(text: str, key: str, *, edits: str | None = None) -> Inbound:
    """A message as a channel without requests of its own hands it over."""
    return Inbound(
        channel="web",
        owner="local",
        conversation="c",
        key=key,
        message=msgspec.json.encode({"id": key, "role": "user", "parts": [{"type": "text", "text": text}]}),
        message_id=key,
        target=edits,
        command=parse_command(text),
        conversation_id=f"conv_{key}",
        turn_id=f"turn_{key}",
        answer_id=f"answer_{key}",
    )


@pytest.fixture
def desk(store_url: str, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(agent: Any = None, *, url: str | None = None, **overrides: Any) -> AsyncIterator[Desk]:
        async def waits(turn: Turn) -> AsyncIterator[Any]:
            yield "said"
            if "hold" in turn.text:
                await asyncio.Event().wait()

        clock = FakeClock()
        async with running(url or store_url, tmp_path, agent or waits, clock=clock, **overrides) as gateway:
            yield Desk(gateway, clock)

    return open_desk


def with_file(text: str, content: bytes = b"content", **more: Any) -> dict[str, Any]:
    body = question(text, **more)
    url = "data:text/plain;base64," + b64encode(content).decode()
    body["messages"][0]["parts"].append({"type": "file", "mediaType": "text/plain", "url": url, "filename": "a.txt"})
    return body


def code(exchange: Exchange) -> tuple[int, str]:
    return exchange.status, exchange.json()["error"]["code"]


# What is refused leaves nothing


async def test_a_repeat_with_a_file_leaves_what_one_leaves_and_stores_nothing(desk: Any, monkeypatch: Any) -> None:
    async with desk() as at:
        first = await at.client.post("/api/chat?ui=7", with_file("look"))
        monkeypatch.setattr(at.gateway.files, "put", None)
        again = await at.client.post("/api/chat?ui=7", with_file("look"))
        assert again.numbered() == first.numbered()
        assert await at.files() == 1


async def test_repeats_that_race_leave_one_file_which_can_be_read(desk: Any) -> None:
    async with desk() as at:
        posts = [at.client.start("POST", "/api/chat?ui=7", with_file("look")) for _ in range(4)]
        for post in posts:
            assert (await post.done()).status == 200
        assert await at.files() == 1
        shown = (await at.client.get("/api/chat/c")).json()["messages"][0]["parts"][1]
        await at.gateway.files.prune(older_than_s=-1)
        assert (await at.client.get(shown["url"])).body == b"content"


async def test_what_the_policy_rejects_leaves_no_file(desk: Any) -> None:
    async with desk(turns__policy="reject") as at, await at.client.ask("hold").opened():
        assert code(await at.client.post("/api/chat", with_file("look"))) == (409, "turn_running")
        assert await at.files() == 0
        # It was not even stored and removed again.
        assert await at.gateway.files.prune(older_than_s=-1) == 0


async def test_what_only_admission_refuses_leaves_no_file_and_no_content_of_its_own(desk: Any) -> None:
    async with desk() as at:
        await at.client.post("/api/chat", with_file("look", message="m"))
        shared = await at.client.post("/api/chat", with_file("other", message="m"))
        assert code(shared) == (409, "message_exists")
        own = await at.client.post("/api/chat", with_file("other", b"own content", message="m"))
        assert code(own) == (409, "message_exists")
        assert await at.files() == 1
        assert await at.gateway.files.prune(older_than_s=-1) == 1
        shown = (await at.client.get("/api/chat/c")).json()["messages"][0]["parts"][1]
        assert (await at.client.get(shown["url"])).body == b"content"


async def test_a_broken_file_keeps_the_ones_before_it_out_of_the_store(desk: Any) -> None:
    async with desk() as at:
        body = with_file("look")
        body["messages"][0]["parts"].append({"type": "file", "url": "data:text/plain;base64,====x"})
        assert code(await at.client.post("/api/chat", body)) == (400, "file_refused")
        assert await at.files() == 0


async def test_a_store_that_fails_half_way_keeps_none_of_the_files(desk: Any, monkeypatch: Any) -> None:
    async with desk() as at:
        put, calls = at.gateway.files.put, []

        async def fails_later(*args: Any, **named: Any) -> Any:
            calls.append(named)
            if len(calls) == 2:
                raise StoreError("the disk is full")
            return await put(*args, **named)

        monkeypatch.setattr(at.gateway.files, "put", fails_later)
        body = with_file("look")
        body["messages"][0]["parts"] += with_file("x", b"second")["messages"][0]["parts"][1:]
        assert (await at.client.post("/api/chat", body)).status == 500
        assert len(calls) == 2
        assert await at.files() == 0


# Bounds for one user


async def test_a_user_has_so_many_turns_running_and_no_more(desk: Any) -> None:
    bound = {"channels__web__max_turns_per_user": 2, "channels__web__auth": "token", "channels__web__tokens": TOKENS}
    async with desk(**bound) as at:
        ann, bob = at.as_user("ann"), at.as_user("bob")
        held = [await ann.ask("hold", chat=name).opened() for name in ("a", "b")]
        refused = await ann.ask("hi", chat="c").done()
        assert code(refused) == (429, "too_many_turns")
        assert refused.headers["retry-after"] == "2"
        assert (await ann.get("/api/chat/c")).status == 404
        assert (await bob.ask("hi", chat="c").done()).status == 200
        # What waits behind a running turn, a command and a repeat cost no turn more.
        queued = await ann.ask("waits", chat="a").opened()
        assert queued.status == 200
        assert (await ann.ask("/help", chat="d").done()).status == 200
        repeat = await ann.ask("hold", chat="a").opened()
        assert repeat.headers["x-workflow-run-id"] == held[0].headers["x-workflow-run-id"]
        await ann.post("/api/chat/b/stop")
        await at.clock.advance(1)
        await held[1].done()
        assert (await ann.ask("hi", chat="c").done()).status == 200
        for reader in (held[0], queued, repeat):
            await reader.leave()


async def test_a_burst_of_posts_does_not_pass_the_bound(desk: Any) -> None:
    async with desk(channels__web__max_turns_per_user=3) as at:
        posts = [at.client.ask("hold", chat=f"c{index}") for index in range(12)]
        for post in posts:
            await post.opened()
        assert sorted(post.status for post in posts) == [200] * 3 + [429] * 9
        assert len(at.gateway.supervisor.live) == 3
        for post in posts:
            await post.leave()


async def test_a_refused_post_gives_its_place_back(desk: Any) -> None:
    async with desk(channels__web__max_turns_per_user=1) as at:
        missing = {"id": "c", "trigger": "regenerate-message", "messageId": "nobody"}
        assert code(await at.client.post("/api/chat", missing)) == (404, "no_such_message")
        assert (await at.client.ask("hi", chat="d").done()).status == 200


async def test_a_user_has_so_many_streams_open_and_no_more(desk: Any) -> None:
    async with desk(channels__web__max_streams_per_user=2) as at:
        first = await at.client.ask("hold").opened()
        second = await at.client.start("GET", "/api/conversations/c/events").opened()
        for refused in (
            await at.client.get("/api/chat/c/stream"),
            await at.client.get("/api/conversations/c/events"),
            await at.client.ask("hi", chat="d").done(),
        ):
            assert code(refused) == (429, "too_many_streams")
            assert refused.headers["retry-after"] == "2"
        assert (await at.client.get("/api/chat/d")).status == 404
        await second.leave()
        async with await at.client.start("GET", "/api/chat/c/stream").opened() as third:
            assert third.status == 200
        await first.leave()


async def test_without_authentication_the_bounds_hold_only_where_they_are_set(desk: Any, tmp_path: Path) -> None:
    async with desk() as at:
        web = at.gateway.config.channels.web
        assert (web.per_user("max_turns_per_user"), web.per_user("max_streams_per_user")) == (0, 0)
    async with desk(channels__web__auth="header", channels__web__max_turns_per_user=0) as at:
        web = at.gateway.config.channels.web
        assert (web.per_user("max_turns_per_user"), web.per_user("max_streams_per_user")) == (0, 256)


async def test_users_with_nothing_running_are_forgotten(desk: Any) -> None:
    running_turns = bounds.RunningTurns(2, lambda conversation: conversation == "c1")
    running_turns.admitted("ann", "a", "c1")
    running_turns.admitted("bob", "b", "c2")
    running_turns.sweep()
    assert running_turns._known == {"ann": {"a": "c1"}}
    streams = bounds.OpenStreams(1)
    with streams.hold("ann"):
        assert streams._open == {"ann": 1}
    assert not streams._open


# Mounted below the root


async def test_addresses_of_files_work_where_the_app_is_mounted(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        file = await turn.attach(b"for you", name="b.txt")
        yield f'see "url":"{file.url}" and {file.url}'

    async with desk(agent) as at:
        outer = Client(Starlette(routes=[Mount("/my app/v1", at.app)]))
        told = await outer.post("/my app/v1/api/chat?ui=7", with_file("look", message="m"))
        assert told.complete
        sent = next(record["url"] for record in told.events() if record["type"] == "file")
        assert sent.startswith("/my%20app/v1/files/")
        turn = told.headers["x-workflow-run-id"]
        for query in ("?ui=7", "?ui=5-strict", "?ui=7&startIndex=0"):
            again = await outer.get(f"/my app/v1/api/chat/{turn}/stream{query}")
            assert [record["url"] for record in again.events() if record["type"] == "file"] == [sent]
        shown = (await outer.get("/my app/v1/api/chat/c")).json()["messages"]
        asked, answered = shown[0]["parts"][1], shown[1]["parts"]
        assert [part["url"] for part in answered if part["type"] == "file"] == [sent]
        for url, content in ((asked["url"], b"content"), (sent, b"for you")):
            assert (await outer.get(url.replace("%20", " "))).body == content
        # What is stored, and what is text, knows nothing of the mount.
        inner = (await at.client.get("/api/chat/c")).json()["messages"]
        assert inner[0]["parts"][1]["url"] == asked["url"].removeprefix("/my%20app/v1")
        assert [part["text"] for part in answered if part["type"] == "text"] == [
            part["text"] for part in inner[1]["parts"] if part["type"] == "text"
        ]
        # A client sends an address back as it got it.
        body = question("again", message="m", messageId="m")
        body["messages"][0]["parts"].append(asked)
        assert (await outer.post("/my app/v1/api/chat?ui=7", body)).status == 200
        edited = (await outer.get("/my app/v1/api/chat/c")).json()["messages"][0]["parts"][1]
        assert edited["url"] == asked["url"]
        assert await at.files() == 3


# Large work leaves the loop free


@pytest.fixture
def worked_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done in a thread, by the name of the function."""
    seen: list[str] = []
    to_thread = asyncio.to_thread

    async def noted(job: Any, *args: Any, **named: Any) -> Any:
        def work() -> Any:
            assert threading.current_thread() is not threading.main_thread()
            return job(*args, **named)

        seen.append(getattr(job, "__name__", "?"))
        return await to_thread(work)

    monkeypatch.setattr(asyncio, "to_thread", noted)
    return seen


async def test_large_bodies_and_histories_are_worked_on_in_a_thread(desk: Any, worked_in: list[str]) -> None:
    async with desk() as at:
        worked_in.clear()
        small = await at.client.ask("small").done()
        assert (small.status, worked_in) == (200, [])
        await at.client.get("/api/chat/c")
        assert worked_in == []
        long = "word " * 60_000
        large = await at.client.ask(long, message="m2").done()
        assert large.status == 200
        assert len(worked_in) == 1
        shown = (await at.client.get("/api/chat/c")).json()["messages"]
        assert shown[2]["parts"][0]["text"] == long
        assert worked_in[1:] == ["history"]
        broken = await at.client.post("/api/chat", b"{" + b" " * 300_000)
        assert code(broken) == (400, "bad_request")


async def test_folds_are_kept_up_to_a_size(desk: Any, worked_in: list[str]) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield turn.text * 1000
        await asyncio.Event().wait()

    async with desk(agent) as at:
        folds = Folds(at.gateway.db, at.gateway.hub, kept_bytes=25_000)
        readers, turns = [], []
        for index in range(4):
            reader = await at.client.ask("0123456789", chat=f"c{index}").records(4)
            readers.append(reader)
            turns.append(await at.gateway.db.read(get_turn, reader.headers["x-workflow-run-id"]))
        for turn in turns:
            records, cursor = await folds.replay(turn)
            assert b"0123456789" * 1000 in b"".join(records)
            assert cursor == turn.head
            assert folds.kept[1] <= 25_000
        assert folds.kept[0] == 2
        again = [await folds.replay(turn) for turn in turns]
        assert [cursor for _, cursor in again] == [turn.head for turn in turns]
        huge = Folds(at.gateway.db, at.gateway.hub, kept_bytes=100)
        await huge.replay(turns[0])
        assert huge.kept == (0, 0)
        for reader in readers:
            await reader.leave()


async def test_large_folds_are_made_in_a_thread_and_go_on_from_what_is_kept(desk: Any, worked_in: list[str]) -> None:
    go_on = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "a" * 300_000
        await go_on.wait()
        yield "b" * 300_000
        await asyncio.Event().wait()

    async with desk(agent) as at:
        reader = await at.client.ask("hi").until(lambda one: one.body.count(b"a") > 300_000)
        first = await at.client.start("GET", "/api/chat/c/stream?ui=7").until(
            lambda one: one.body.count(b"a") > 300_000
        )
        assert "_encode" in worked_in
        go_on.set()
        await reader.until(lambda one: one.body.count(b"b") > 300_000)
        worked_in.clear()
        second = at.client.start("GET", "/api/chat/c/stream?ui=7")
        await second.until(lambda one: one.body.count(b"b") > 300_000)
        assert worked_in == ["_fold", "_encode"]
        said = "".join(record["delta"] for record in second.events() if record["type"] == "text-delta")
        assert said == "a" * 300_000 + "b" * 300_000
        for one in (reader, first, second):
            await one.leave()


# Every ended turn is counted once


async def test_commands_and_turns_that_never_ran_are_counted_once(desk: Any) -> None:
    async with desk() as at:
        held = await at.client.ask("hold").opened()
        for name in ("one", "two", "three"):
            await at.client.ask(name).opened()
        by_id = at.client.ask("four")
        turn = (await by_id.opened()).headers["x-workflow-run-id"]
        for _ in range(2):
            await at.client.post(f"/api/chat/{turn}/stop")
        assert at.counted("stopped") == 1
        edit = await at.client.ask("two again", message="m-two", messageId="m-two").opened()
        assert at.counted("stopped") == 3
        await at.client.ask("/stop").done()
        await at.clock.advance(1)
        await held.done()
        await at.clock.until(lambda: at.counted("stopped") == 6)
        assert at.counted("done") == 1
        await at.client.ask("/stop").done()
        assert at.counted("done") == 1
        await edit.done()


@pytest.mark.parametrize("last", ["/new", "/stop", "an edit", "stop by name"])
async def test_what_waits_is_counted_when_it_is_ended_whoever_asks_for_it(desk: Any, last: str) -> None:
    async with desk() as at:
        gateway = at.gateway
        for name in ("hold", "one", "two", "three"):
            await gateway.submit(spoken(name, name))
        if last == "stop by name":
            waits = await gateway.db.read(get_turn, "turn_two")
            ended = await asyncio.gather(*(gateway.stop_turn(waits, "local") for _ in range(3)))
            assert {turn.outcome for turn in ended} == {"stopped"}
            expected = {"stopped": 1, "done": 0}
        elif last == "an edit":
            await gateway.submit(spoken("hold again", "hold2", edits="hold"))
            expected = {"stopped": 3, "done": 0}
        else:
            for _ in range(2):
                await gateway.submit(spoken(last, "command"))
            expected = {"stopped": 3, "done": 1}
        assert {outcome: at.counted(outcome) for outcome in expected} == expected
        assert await at.agrees()
        await at.clock.advance(1)
        if last != "stop by name":
            await at.clock.until(lambda: at.counted("stopped") == 4)
        assert await at.agrees()


async def test_counts_stay_exact_while_messages_and_commands_cross_each_other(desk: Any) -> None:
    async with desk() as at:
        crossing = [
            at.client.ask(text, message=f"m{number}")
            for number, text in enumerate(["hold", "hold", "/new", "hold", "/help", "hold", "/stop", "hold", "/new"])
        ]
        for one in crossing:
            await one.opened()
        await at.client.ask("/stop", message="last").done()
        for one in crossing:
            await at.clock.advance(1)
            await one.done()
        await at.clock.until(lambda: not at.gateway.supervisor.live)
        assert at.counted("done") == 5
        assert at.counted("stopped") == 5
        assert await at.agrees()


async def test_a_turn_whose_process_died_is_counted_by_the_one_that_ends_it(desk: Any) -> None:
    async with desk() as at:
        held = await at.client.ask("hold").records(4)
        supervisor = at.gateway.supervisor
        row = await at.gateway.db.read(get_turn, held.headers["x-workflow-run-id"])
        for _ in range(2):
            await at.gateway._reaper._reap(row, ask_lease=False)
        ended = await at.gateway.db.read(get_turn, row.id)
        supervisor.count(ended)
        assert at.counted("interrupted") == 1
        await supervisor.renew()
        await at.clock.advance(1)
        await at.clock.until(lambda: not supervisor.live)
        assert at.counted("interrupted") == 1
        await held.leave()


async def test_a_turn_that_the_store_refused_is_counted_when_it_is_ended_after_all(desk: Any) -> None:
    async with desk() as at:
        held = await at.client.ask("hold").records(4)
        run = at.gateway.supervisor.live[held.headers["x-workflow-run-id"]]
        run.log.fail(JournalError("refused"))
        await at.clock.advance(1)
        await at.clock.until(lambda: at.counted("failed") == 1)
        row = await at.gateway.db.read(get_turn, run.turn.id)
        assert row.outcome == "failed"
        await held.leave()


# Starting


async def test_a_server_is_waited_for_without_looking_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(config_for(f"sqlite:///{tmp_path}/t.db", tmp_path), lambda turn: None)
    listener = _listen("127.0.0.1", 0)
    server = _uvicorn(gateway)
    polled: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        # uvicorn's own loop sleeps once it has started.
        if not server.started:
            polled.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    serving = asyncio.create_task(server.serve([listener]))
    await _started(server, serving)
    assert server.started
    assert polled == []
    server.should_exit = True
    await serving
    listener.close()


async def test_a_server_that_does_not_start_is_said(tmp_path: Path) -> None:
    gateway = Gateway(config_for(f"sqlite:///{tmp_path}/t.db", tmp_path), lambda turn: None)

    async def ends() -> None:
        return

    with pytest.raises(PortInUse, match="did not start"):
        await _started(_uvicorn(gateway), asyncio.create_task(ends()))
