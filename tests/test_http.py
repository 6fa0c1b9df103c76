"""The web API, through its own front door: admission, policies, resume, history, ownership, bad input."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from tests.asgi import Client, Exchange, question
from tests.gateways import running
from tests.strict_client import StrictClient, comparable
from turnwire.channels.web.api import web_app
from turnwire.channels.web.auth import Gate
from turnwire.events import Data, Snapshot, ToolCall, ToolResult
from turnwire.gateway import Gateway
from turnwire.store.queries.records import trim
from turnwire.testing import FakeClock
from turnwire.turn import Turn

pytestmark = pytest.mark.anyio


class Pace:
    """An agent that says its question word by word, each word when the test lets it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.words = asyncio.Semaphore(0)
        self.free = False

    def let(self, words: int) -> None:
        for _ in range(words):
            self.words.release()

    def let_all(self) -> None:
        self.free = True
        self.let(1000)

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.asked.append(turn.text)
        for word in turn.text.split():
            if not self.free:
                await self.words.acquire()
            yield word + " "


class Desk:
    def __init__(self, gateway: Gateway, clock: FakeClock, pace: Pace) -> None:
        self.gateway = gateway
        self.clock = clock
        self.pace = pace
        self.app = web_app(gateway)
        self.client = Client(self.app)

    async def told(self, text: str, **more: Any) -> Exchange:
        self.pace.let_all()
        return checked(await self.client.ask(text, **more).done())

    async def history(self, chat: str = "c") -> list[tuple[str, str]]:
        shown = (await self.client.get(f"/api/chat/{chat}")).json()
        return [(message["role"], said(message)) for message in shown["messages"]]


def said(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def text(exchange: Exchange) -> str:
    return "".join(event["delta"] for event in exchange.events() if event["type"] == "text-delta")


def checked(exchange: Exchange, version: Any = "7") -> Exchange:
    assert exchange.status == 200, exchange.body
    assert exchange.complete
    StrictClient(version).feed_all(exchange.events()).end()
    return exchange


def turn_of(exchange: Exchange) -> str:
    return exchange.headers["x-workflow-run-id"]


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(agent: Any = None, url: str | None = None, **overrides: Any) -> AsyncIterator[Desk]:
        clock, pace = FakeClock(), Pace()
        at = url or f"sqlite:///{tmp_path / 'turnwire.db'}"
        async with running(at, tmp_path, agent or pace, clock=clock, **overrides) as gateway:
            yield Desk(gateway, clock, pace)

    return open_desk


# Admission


async def test_a_repeated_post_reads_the_turn_it_began(desk: Any) -> None:
    async with desk() as at:
        first = at.client.ask("one two three")
        await first.opened()
        again = [at.client.ask("one two three") for _ in range(5)]
        at.pace.let_all()
        for reader in [first, *again]:
            checked(await reader.done())
            assert text(reader) == "one two three "
        late = checked(await at.client.ask("one two three").done())
        assert {turn_of(reader) for reader in [first, late, *again]} == {turn_of(first)}
        assert at.pace.asked == ["one two three"]
        assert await at.history() == [("user", "one two three"), ("assistant", "one two three ")]


async def test_concurrent_posts_queue_in_order_and_each_is_answered_once(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        readers = [at.client.ask(f"question {index}") for index in range(8)]
        for reader in readers:
            await reader.opened()
        at.pace.let_all()
        for reader in readers:
            checked(await reader.done())
        shown = await at.history()
        assert [message for role, message in shown if role == "user"] == at.pace.asked
        assert sorted(at.pace.asked) == [f"question {index}" for index in range(8)]
        assert shown == [entry for asked in at.pace.asked for entry in (("user", asked), ("assistant", asked + " "))]


async def test_collect_joins_the_queued_turn(desk: Any) -> None:
    async with desk(turns__policy="collect") as at:
        first = await at.client.ask("first").opened()
        second, third = await at.client.ask("second").opened(), await at.client.ask("third").opened()
        assert turn_of(second) == turn_of(third) != turn_of(first)
        at.pace.let_all()
        for reader in (first, second, third):
            checked(await reader.done())
        assert at.pace.asked == ["first", "second\n\nthird"]
        assert text(second) == text(third)


async def test_interrupt_stops_the_running_turn(desk: Any) -> None:
    async with desk(turns__policy="interrupt") as at:
        first = await at.client.ask("first question").opened()
        at.pace.let(1)
        await first.records(4)
        second = at.client.ask("second")
        await second.opened()
        await at.clock.advance(1)
        at.pace.let_all()
        checked(await first.done())
        checked(await second.done())
        assert first.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "stopped"
        assert text(second) == "second "


async def test_reject_names_the_running_turn(desk: Any) -> None:
    async with desk(turns__policy="reject") as at:
        first = await at.client.ask("first").opened()
        refused = await at.client.ask("second").done()
        assert refused.status == 409
        assert refused.json()["error"]["code"] == "turn_running"
        assert refused.json()["error"]["turn"] == turn_of(first)
        at.pace.let_all()
        checked(await first.done())
        checked(await at.client.ask("second").done())
        assert await at.history() == [
            ("user", "first"), ("assistant", "first "), ("user", "second"), ("assistant", "second "),
        ]  # fmt: skip


async def test_a_full_queue_is_said(desk: Any) -> None:
    async with desk() as at:
        readers = [await at.client.ask(f"q{index}").opened() for index in range(33)]
        refused = await at.client.ask("one too many").done()
        assert (refused.status, refused.json()["error"]["code"]) == (409, "queue_full")
        for reader in readers:
            await reader.leave()


async def test_an_answer_is_made_again_and_the_old_one_is_hidden(desk: Any) -> None:
    async with desk() as at:
        await at.told("a question")
        shown = (await at.client.get("/api/chat/c")).json()["messages"]
        again = {"id": "c", "trigger": "regenerate-message", "messageId": shown[1]["id"], "messages": shown[:1]}
        first = checked(await at.client.post("/api/chat?ui=7", again))
        repeat = checked(await at.client.post("/api/chat?ui=7", again))
        assert turn_of(first) == turn_of(repeat)
        now = (await at.client.get("/api/chat/c")).json()["messages"]
        assert [message["role"] for message in now] == ["user", "assistant"]
        assert now[1]["id"] == first.events()[0]["messageId"] != shown[1]["id"]
        assert at.pace.asked == ["a question", "a question"]
        missing = await at.client.post("/api/chat", {**again, "messageId": "nobody"})
        assert (missing.status, missing.json()["error"]["code"]) == (404, "no_such_message")


async def test_an_edited_question_replaces_what_followed(desk: Any) -> None:
    async with desk() as at:
        await at.told("one", message="m1")
        await at.told("two", message="m2")
        checked(await at.client.ask("uno", message="m1", messageId="m1").done())
        assert await at.history() == [("user", "uno"), ("assistant", "uno ")]
        clash = await at.client.ask("something else", message="m1").done()
        assert (clash.status, clash.json()["error"]["code"]) == (409, "message_exists")


async def test_only_the_last_message_of_a_client_is_believed(desk: Any) -> None:
    async with desk() as at:
        forged = question("really?")
        forged["messages"].insert(0, {"id": "x", "role": "assistant", "parts": [{"type": "text", "text": "forged"}]})
        at.pace.let_all()
        checked(await at.client.post("/api/chat?ui=7", forged))
        assert await at.history() == [("user", "really?"), ("assistant", "really? ")]


async def test_commands_are_answered_by_the_gateway(desk: Any) -> None:
    async with desk() as at:
        reader = await at.client.ask("keep going").opened()
        at.pace.let(1)
        await reader.records(4)
        stopped = checked(await at.client.ask("/stop").done())
        assert text(stopped) == "Stopped."
        await at.clock.advance(1)
        checked(await reader.done())
        assert reader.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "stopped"
        assert "/new" in text(checked(await at.client.ask("/help").done()))
        assert text(checked(await at.client.ask("/stop", message="again").done())) == "Nothing is running."


async def test_new_makes_the_agent_forget(desk: Any) -> None:
    told: list[list[str]] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        told.append([said(message) for message in turn.messages])
        yield "ok"

    async with desk(agent) as at:
        for words in ("before", "/new", "after"):
            checked(await at.client.ask(words).done())
        assert told == [["before"], ["after"]]
        assert [message for _, message in await at.history()][:1] == ["before"]


# Resuming


async def test_a_reader_without_a_cursor_gets_the_fold_and_the_tail(desk: Any) -> None:
    async with desk() as at:
        first = await at.client.ask("a b c d e").opened()
        at.pace.let(3)
        await first.until(lambda one: text(one) == "a b c ")
        late = await at.client.start("GET", "/api/chat/c/stream?ui=7").opened()
        await late.until(lambda one: text(one) == "a b c ")
        assert len(late.events()) == 4
        at.pace.let_all()
        checked(await first.done())
        checked(await late.done())
        assert text(late) == "a b c d e "
        assert late.numbered()[-1][0] == first.numbered()[-1][0]


async def test_a_cursor_gets_exactly_what_follows_it(desk: Any) -> None:
    async with desk() as at:
        whole = await at.told("a b c d")
        count = len(whole.events())
        for index in range(count):
            by_index = await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7&startIndex={index}")
            assert by_index.numbered() == whole.numbered()[index:]
            by_id = await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7", last_event_id=str(index))
            assert by_id.numbered() == whole.numbered()[index + 1 :]
            assert by_id.complete
        tail = await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7&startIndex=-2")
        assert tail.numbered() == whole.numbered()[-2:]
        assert tail.headers["x-workflow-stream-tail-index"] == str(count - 1)
        beyond = await at.client.get(f"/api/chat/{turn_of(whole)}/stream?startIndex={count + 1}")
        assert beyond.status == 416


async def test_an_idle_conversation_has_nothing_to_resume(desk: Any) -> None:
    async with desk() as at:
        whole = await at.told("hi")
        assert (await at.client.get("/api/chat/c/stream")).status == 204
        # A stock page asks before its first message has made the conversation.
        assert (await at.client.get("/api/chat/nobody/stream")).status == 204
        assert (await at.client.get("/api/chat/nobody/stream?startIndex=0")).status == 404
        assert (await at.client.get("/api/chat/turn_nobody/stream")).status == 404
        by_turn = checked(await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7"))
        assert text(by_turn) == "hi "


async def test_trimmed_records_are_an_explicit_answer(desk: Any) -> None:
    async with desk() as at:
        whole = await at.told("a b c")
        await at.gateway.db.run(trim, -1.0)
        raw = await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7&startIndex=3")
        assert (raw.status, raw.json()["error"]["code"]) == (410, "trimmed")
        folded = checked(await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7"))
        assert text(folded) == "a b c "
        repeated = checked(await at.client.ask("a b c").done())
        assert text(repeated) == "a b c "


async def test_a_finished_turn_of_ten_thousand_deltas_is_replayed_in_a_few_events(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        for index in range(10_000):
            yield f"{index} "
            if index % 100 == 0:
                await asyncio.sleep(0)

    async with desk(agent) as at:
        whole = checked(await at.client.ask("go").done())
        short = checked(await at.client.get(f"/api/chat/{turn_of(whole)}/stream?ui=7"))
        assert len(short.events()) <= 25
        assert text(short) == text(whole)


async def test_a_queued_turn_is_silent_but_for_comments_until_it_starts(desk: Any) -> None:
    async with desk() as at:
        first = await at.client.ask("first").opened()
        second = await at.client.ask("second").opened()
        await at.clock.advance(25)
        await second.until(lambda one: one.body.count(b":\n\n") >= 3)
        assert second.events() == []
        at.pace.let_all()
        checked(await first.done())
        checked(await second.done())


async def test_old_clients_are_cut_at_a_rewrite_and_resume_on_the_corrected_fold(desk: Any) -> None:
    go_on = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield Snapshot("wrong")
        await go_on.wait()
        yield Snapshot("right")
        yield ToolCall(id="t", name="x", title="A title", input={})
        yield ToolResult(id="t", output=None)
        yield Data(name="n", data=1)

    async with desk(agent) as at:
        old = await at.client.ask("go", ui="5-strict").records(4)
        new = at.client.start("GET", f"/api/chat/{turn_of(old)}/stream?ui=7&startIndex=0")
        go_on.set()
        await old.done()
        assert not old.complete
        assert text(old) == "wrong"
        corrected = checked(await at.client.get(f"/api/chat/{turn_of(old)}/stream?ui=5-strict"), "5-strict")
        assert text(corrected) == "right"
        checked(await new.done())
        strict = StrictClient("5-strict").feed_all(corrected.events())
        modern = StrictClient("7").feed_all(new.events())
        assert said(strict.message()) == said(modern.message())


async def test_settled_history_is_what_every_reader_saw(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "one "
        yield ToolCall(id="a", name="x", input={"k": [1]})
        yield ToolCall(id="b", name="y", input={})
        yield ToolResult(id="b", output={"z": None})
        yield ToolResult(id="a", output="ok")
        yield "two"

    async with desk(agent) as at:
        whole = checked(await at.client.ask("go").done())
        live = StrictClient("7").feed_all(whole.events()).message()
        stored = (await at.client.get("/api/chat/c")).json()["messages"][1]
        assert comparable(stored) == comparable(live)


# Who may, and what is refused


async def test_others_do_not_learn_that_a_conversation_exists(desk: Any) -> None:
    tokens = {"ann": "secret-a", "bob": "secret-b"}
    async with desk(channels__web__auth="token", channels__web__tokens=tokens) as at:
        ann = Client(at.app, {"authorization": "Bearer secret-a"})
        bob = Client(at.app, {"authorization": "Bearer secret-b"})
        at.pace.let_all()
        hers = checked(await ann.ask("mine", chat="private").done())
        for target in (
            "/api/chat/private",
            "/api/chat/private/stream?startIndex=0",
            f"/api/chat/{turn_of(hers)}/stream",
            "/api/conversations/private/events",
        ):
            assert (await bob.get(target)).status == 404
        assert (await bob.get("/api/chat/private/stream")).status == 204
        for target in ("/api/chat/private/stop", f"/api/chat/{turn_of(hers)}/stop"):
            assert (await bob.post(target)).status == 404
        assert (await bob.get("/api/conversations")).json() == {"conversations": []}
        his = checked(await bob.ask("also mine", chat="private").done())
        assert turn_of(his) != turn_of(hers)
        assert len((await ann.get("/api/conversations")).json()["conversations"]) == 1


async def test_requests_without_a_known_token_are_refused(desk: Any) -> None:
    async with desk(channels__web__auth="token", channels__web__tokens={"ann": "secret-a"}) as at:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret-a"}):
            refused = await Client(at.app, headers).get("/api/conversations")
            assert refused.status == 401
            assert "secret-a" not in refused.body.decode()


async def test_the_header_of_a_trusted_proxy_names_the_user(desk: Any) -> None:
    async with desk(channels__web__auth="header", channels__web__header="x-who") as at:
        assert (await Client(at.app).get("/api/conversations")).status == 401
        assert (await Client(at.app, {"x-who": "ann"}).get("/api/conversations")).status == 200


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
async def test_the_host_app_says_who_asks(desk: Any, kind: str) -> None:
    def named(request: Request) -> str | None:
        if request.cookies.get("session") == "expired":
            raise HTTPException(403, "your session is over")
        return request.cookies.get("session")

    async def awaited(request: Request) -> str | None:
        return named(request)

    async with desk(channels__web__auth="header") as at:
        at.pace.let_all()
        app = web_app(at.gateway, user=named if kind == "function" else awaited)
        ann, bob = Client(app, {"cookie": "session=ann", "x-user": "bob"}), Client(app, {"cookie": "session=bob"})
        checked(await ann.ask("hers").done())
        assert (await ann.get("/api/chat/c")).status == 200
        assert (await bob.get("/api/chat/c")).status == 404
        for cookie in ("other=ann", "session="):
            nobody = await Client(app, {"cookie": cookie, "x-user": "ann"}).get("/api/chat/c")
            assert (nobody.status, nobody.json()["error"]["code"]) == (401, "no_user")
        over = await Client(app, {"cookie": "session=expired"}).get("/api/chat/c")
        assert (over.status, over.json()["error"]["message"]) == (403, "your session is over")


async def test_the_host_app_names_people_by_text(desk: Any) -> None:
    number: Any = lambda _: 7  # noqa: E731
    async with desk() as at:
        wrong = await Client(web_app(at.gateway, user=number)).get("/api/conversations")
        assert (wrong.status, wrong.json()["error"]["code"]) == (500, "internal")
        with pytest.raises(TypeError, match="named by text, not int"):
            await Gate(at.gateway.config, number).user_of(Request({"type": "http"}))


async def test_the_bounds_for_one_user_hold_for_the_users_of_the_host_app(desk: Any) -> None:
    async with desk() as at:
        for gate, turns, streams in (
            (Gate(at.gateway.config), 0, 0),
            (Gate(at.gateway.config, lambda _: "ann"), 64, 256),
        ):
            assert (gate.per_user("max_turns_per_user"), gate.per_user("max_streams_per_user")) == (turns, streams)


async def test_a_page_of_another_origin_cannot_post_or_rebind(desk: Any) -> None:
    async with desk() as at:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
            {"host": "evil.example:8787", "origin": "http://evil.example:8787"},
        ):
            refused = await at.client.post("/api/chat", question("hi"), headers)
            assert refused.status == 403, headers
        at.pace.let_all()
        own = await at.client.post("/api/chat?ui=7", question("hi"), {"origin": "http://127.0.0.1:8787"})
        checked(own)


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "JSON object"),
        (b"\xff\xfe", 400, "no JSON"),
        ({"id": "c"}, 400, "messages"),
        ({"id": "c", "messages": []}, 400, "messages"),
        ({"id": "c", "messages": [{"role": "assistant", "parts": []}]}, 400, "user's"),
        ({"id": "c", "messages": [{"role": "user", "parts": []}]}, 400, "no parts"),
        ({"id": "c", "messages": [{"role": "user", "parts": [{"type": "text", "text": "  "}]}]}, 400, "empty"),
        ({"id": "c", "messages": [{"role": "user", "parts": [{"type": "text"}]}]}, 400, "no text"),
        ({"id": "c", "messages": [{"role": "user", "parts": ["x"]}]}, 400, "object"),
        ({"id": "turn_1", "messages": []}, 400, "turn_"),
        ({"id": "a/b", "messages": []}, 400, "slash"),
        ({"id": "a\u0000b", "messages": []}, 400, "control"),
        ({"id": "x" * 201, "messages": []}, 400, "characters"),
        ({"id": 7, "messages": []}, 400, "string"),
        ({"id": "c", "trigger": "explode", "messages": []}, 400, "explode"),
        ({"trigger": "regenerate-message"}, 400, "conversation"),
        ({"id": "c", "trigger": "regenerate-message"}, 404, "no answer yet"),
    ],
)
async def test_bad_bodies_get_a_clear_answer_and_leave_nothing(desk: Any, body: Any, status: int, word: str) -> None:
    async with desk() as at:
        refused = await at.client.post("/api/chat", body)
        assert refused.status == status, refused.body
        assert word in refused.json()["error"]["message"]
        assert at.gateway.supervisor.live == {}


async def test_huge_bodies_are_refused_before_they_are_read(desk: Any) -> None:
    async with desk(channels__web__max_body_bytes=1000) as at:
        honest = await at.client.post("/api/chat", b"x" * 2000, {"content-length": "2000"})
        assert (honest.status, honest.json()["error"]["code"]) == (413, "too_large")
        silent = await at.client.post("/api/chat", b"x" * 2000)
        assert silent.status == 413


async def test_a_deeply_nested_body_is_refused(desk: Any) -> None:
    async with desk() as at:
        nested = b'{"id":"c","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        assert (await at.client.post("/api/chat", nested)).status == 400


async def test_unknown_dialects_and_cursors_are_refused(desk: Any) -> None:
    async with desk() as at:
        assert (await at.client.post("/api/chat?ui=4", question("hi"))).status == 400
        whole = await at.told("hi")
        assert (await at.client.get(f"/api/chat/{turn_of(whole)}/stream?startIndex=x")).status == 400
        assert (await at.client.get(f"/api/chat/{turn_of(whole)}/stream", last_event_id="x")).status == 400


async def test_text_that_no_store_takes_is_cleaned(desk: Any) -> None:
    async with desk() as at:
        at.pace.let_all()
        body = json.dumps(question("a\u0000b \ud800c", message="m")).encode()
        checked(await at.client.post("/api/chat?ui=7", body))
        assert await at.history() == [("user", "ab \ufffdc"), ("assistant", "ab \ufffdc ")]


# Files


async def test_attachments_are_stored_named_safely_and_given_to_the_agent(desk: Any) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        seen.extend([(file.name, file.media_type, await file.read()) for file in turn.files])
        yield "ok"

    async with desk(agent) as at:
        body = question("look")
        url = "data:text/plain;base64," + b64encode(b"content").decode()
        body["messages"][0]["parts"].append(
            {"type": "file", "mediaType": "text/plain", "url": url, "filename": "../../etc/passwd"}
        )
        checked(await at.client.post("/api/chat?ui=7", body))
        assert seen == [("passwd", "text/plain", b"content")]
        stored = (await at.client.get("/api/chat/c")).json()["messages"][0]["parts"][1]
        assert stored["url"].startswith("/files/file_")
        assert (await at.client.get(stored["url"])).body == b"content"
        body["messages"][0]["parts"][1]["url"] = "javascript:alert(1)"
        body["messages"][0]["id"] = "other"
        assert (await at.client.post("/api/chat", body)).json()["error"]["code"] == "file_refused"


async def test_files_of_others_are_not_found(desk: Any) -> None:
    tokens = {"ann": "secret-a", "bob": "secret-b"}

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        await turn.attach(b"private", name="p.txt")
        yield "sent"

    async with desk(agent, channels__web__auth="token", channels__web__tokens=tokens) as at:
        ann = Client(at.app, {"authorization": "Bearer secret-a"})
        hers = checked(await ann.ask("give").done())
        url = next(event["url"] for event in hers.events() if event["type"] == "file")
        assert (await ann.get(url)).status == 200
        assert (await Client(at.app, {"authorization": "Bearer secret-b"}).get(url)).status == 404


# The session stream, and the rest


async def test_every_tab_sees_the_next_turn_begin_and_end(desk: Any) -> None:
    async with desk() as at:
        await at.told("first")
        at.pace.free = False
        at.pace.words = asyncio.Semaphore(0)
        tab = at.client.start("GET", "/api/conversations/c/events")
        await tab.until(lambda one: len(one.events()) == 1)
        assert tab.events()[0]["turn"] is None
        second = await at.client.ask("second").opened()
        await tab.until(lambda one: any(state["turn"] is not None for state in one.events()))
        running_turn = next(state["turn"] for state in tab.events() if state["turn"])
        assert running_turn["id"] == turn_of(second)
        at.pace.let_all()
        await second.done()
        await tab.until(lambda one: one.events()[-1]["turn"] is None)
        assert tab.events()[-1]["last"]["outcome"] == "done"
        await tab.leave()


async def test_conversations_are_listed_newest_first_and_by_page(desk: Any) -> None:
    async with desk() as at:
        for name in ("a", "b", "c"):
            await at.told(f"hello from {name}", chat=name)
        listed = (await at.client.get("/api/conversations?limit=2")).json()["conversations"]
        assert [(one["id"], one["title"]) for one in listed] == [("c", "hello from c"), ("b", "hello from b")]
        rest = (await at.client.get(f"/api/conversations?before={listed[-1]['updatedAt']}")).json()["conversations"]
        assert [one["id"] for one in rest] == ["a"]
        assert (await at.client.get("/api/conversations?before=x")).status == 400


async def test_conversations_are_found_by_their_titles(desk: Any) -> None:
    async with desk() as at:
        for name, text in (("a", "Weather in Oslo"), ("b", "100% sure"), ("c", "天气怎么样"), ("d", "1000 turns")):
            await at.told(text, chat=name)

        async def found(search: str) -> list[str]:
            answer = await at.client.get(f"/api/conversations?search={quote(search)}")
            return [one["id"] for one in answer.json()["conversations"]]

        assert await found("weather") == ["a"]
        assert await found("天气") == ["c"]
        assert await found("100%") == ["b"]
        assert await found("100") == ["d", "b"]
        assert await found("nowhere") == []
        assert (await at.client.get(f"/api/conversations?search={'x' * 201}")).status == 400


async def test_a_conversation_without_a_name_gets_one(desk: Any) -> None:
    async with desk() as at:
        at.pace.let_all()
        body = question("hi")
        del body["id"]
        reader = checked(await at.client.post("/api/chat?ui=7", body))
        name = reader.headers["x-turnwire-conversation"]
        assert await at.history(name) == [("user", "hi"), ("assistant", "hi ")]


async def test_a_reader_that_takes_nothing_loses_its_connection_and_nothing_else(desk: Any) -> None:
    async with desk() as at:
        slow = await at.client.ask("a b c d").opened()
        slow.hold()
        at.pace.let(2)
        await at.clock.advance(60)
        await slow.done()
        assert not slow.complete
        at.pace.let_all()
        again = checked(await at.client.get(f"/api/chat/{turn_of(slow)}/stream?ui=7&startIndex=0"))
        assert text(again) == "a b c d "


async def test_draining_refuses_new_work_and_breaks_what_cannot_finish(desk: Any) -> None:
    async with desk() as at:
        live = await at.client.ask("never ends").opened()
        queued = await at.client.ask("waits").opened()
        stopping = asyncio.create_task(at.gateway.stop())
        await at.clock.until(lambda: not at.gateway.ready)
        assert (await at.client.ask("new").done()).status == 503
        await at.clock.advance(1)
        checked(await live.done())
        assert live.events()[-1]["messageMetadata"]["turnwire"]["outcome"] == "interrupted"
        await queued.done()
        assert not queued.complete
        await stopping
        async with desk() as later:
            later.pace.let_all()
            resumed = await later.client.get(f"/api/chat/{turn_of(queued)}/stream?ui=7&startIndex=0")
            assert text(checked(resumed)) == "waits "


async def test_health_readiness_and_metrics(desk: Any) -> None:
    async with desk() as at:
        await at.told("hi")
        assert (await at.client.get("/healthz")).json() == {"status": "ok", "server": "turnwire"}
        assert (await at.client.get("/readyz")).json()["status"] == "ready"
        assert b'turnwire_turns_total{outcome="done"} 1.0' in (await at.client.get("/metrics")).body
        at.gateway.ready = False
        assert (await at.client.get("/readyz")).status == 503
        at.gateway.ready = True
