"""One turn from the claim to its end: what agents do, deadlines, stopping, and who owns the last write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client, Exchange
from tests.gateways import running
from tests.strict_client import StrictClient
from turnwire.channels.web.api import web_app
from turnwire.events import Data, Reasoning, Snapshot, Text, ToolCall, ToolError, ToolResult, Usage
from turnwire.gateway import Gateway
from turnwire.testing import FakeClock
from turnwire.turn import AgentError, Turn
from turnwire.turns.pump import Agent

pytestmark = pytest.mark.anyio


class Desk:
    """A gateway, a client and the clock of one test."""

    def __init__(self, gateway: Gateway, clock: FakeClock) -> None:
        self.gateway = gateway
        self.clock = clock
        self.client = Client(web_app(gateway))

    async def answer(self, text: str = "hi", **more: Any) -> Exchange:
        return checked(await self.client.ask(text, **more).done())


def checked(exchange: Exchange) -> Exchange:
    """The exchange, once the strict client has read it to its end."""
    assert exchange.complete
    StrictClient("7").feed_all(exchange.events()).end()
    return exchange


def outcome(exchange: Exchange) -> tuple[str, str | None]:
    own = exchange.events()[-1]["messageMetadata"]["turnwire"]
    return own["outcome"], own.get("reason")


def text(exchange: Exchange) -> str:
    return "".join(event["delta"] for event in exchange.events() if event["type"] == "text-delta")


@pytest.fixture
def desk(store_url: str, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(agent: Agent, **overrides: Any) -> AsyncIterator[Desk]:
        clock = FakeClock()
        async with running(store_url, tmp_path, agent, clock=clock, **overrides) as gateway:
            yield Desk(gateway, clock)

    return open_desk


async def test_a_turn_is_journalled_told_and_remembered(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield Reasoning("let me see")
        yield "You said: "
        yield Text(turn.text)
        yield ToolCall(id="t", name="look", input={"q": 1})
        yield ToolResult(id="t", output=[1, 2])
        yield Usage(input_tokens=3, output_tokens=4, total_tokens=7, model="m-1")

    async with desk(agent) as at:
        said = await at.answer("hello")
        assert text(said) == "You said: hello"
        assert outcome(said) == ("done", None)
        own = said.events()[-1]["messageMetadata"]["turnwire"]
        assert own["usage"] == {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7}
        assert own["model"] == "m-1"
        shown = (await at.client.get("/api/chat/c")).json()
        assert [message["role"] for message in shown["messages"]] == ["user", "assistant"]
        assert shown["turn"] is None


async def test_the_agent_is_told_the_conversation(desk: Any) -> None:
    told: list[list[tuple[str, str]]] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        told.append([(m["role"], p["text"]) for m in turn.messages for p in m["parts"] if p["type"] == "text"])
        yield f"answer to {turn.text}"

    async with desk(agent) as at:
        await at.answer("one")
        await at.answer("two")
    assert told == [
        [("user", "one")],
        [("user", "one"), ("assistant", "answer to one"), ("user", "two")],
    ]


async def test_an_agent_may_be_a_plain_generator_in_a_thread(desk: Any) -> None:
    threads: list[str] = []

    def agent(turn: Turn) -> Iterator[Any]:
        threads.append(threading.current_thread().name)
        yield "from a "
        yield "thread"

    async with desk(agent) as at:
        said = await at.answer()
    assert text(said) == "from a thread"
    assert threads[0].startswith("turnwire-agent-")


async def test_an_agent_may_be_a_coroutine_that_emits(desk: Any) -> None:
    async def agent(turn: Turn) -> str:
        await turn.emit("pushed, ")
        return "returned"

    async with desk(agent) as at:
        assert text(await at.answer()) == "pushed, returned"


async def test_an_agent_that_is_no_agent_fails_with_the_reason(desk: Any) -> None:
    def agent(turn: Turn) -> int:
        return 3

    async with desk(agent) as at:
        how, why = outcome(await at.answer())
    assert how == "failed"
    assert why is not None
    assert "async generator function" in why


async def fails_plainly(turn: Turn) -> AsyncIterator[Any]:
    yield "so far"
    yield ToolCall(id="t", name="x")
    raise ValueError("the password is hunter2")


async def fails_for_people(turn: Turn) -> AsyncIterator[Any]:
    yield "so far"
    raise AgentError("The weather service is closed.")


async def yields_nonsense(turn: Turn) -> AsyncIterator[Any]:
    yield "so far"
    yield 42


async def exits(turn: Turn) -> AsyncIterator[Any]:
    yield "so far"
    raise SystemExit(1)


async def cancels_itself(turn: Turn) -> AsyncIterator[Any]:
    yield "so far"
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        (fails_plainly, "The agent failed (ValueError)."),
        (fails_for_people, "The weather service is closed."),
        (yields_nonsense, "the agent yielded int"),
        (exits, "The agent failed (SystemExit)."),
        (cancels_itself, "The agent was cancelled from within."),
    ],
)
async def test_a_failed_agent_ends_its_turn_with_what_it_said_and_a_reason(desk: Any, agent: Agent, why: str) -> None:
    async with desk(agent) as at:
        said = await at.answer()
        kinds = [event["type"] for event in said.events()]
        assert text(said) == "so far"
        assert kinds[-2:] == ["error", "finish"]
        assert said.events()[-2]["errorText"].startswith(why)
        assert outcome(said)[0] == "failed"
        assert "hunter2" not in said.body.decode()
        again = await at.client.get("/api/chat/c")
        assert "so far" in again.body.decode()


async def test_an_agent_that_says_nothing_ends_done(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        return
        yield

    async with desk(agent) as at:
        said = await at.answer()
    assert [event["type"] for event in said.events()] == ["start", "start-step", "finish-step", "finish"]


async def test_an_agent_that_never_waits_lets_others_run_and_loses_nothing(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        for index in range(20_000):
            yield f"{index} "

    async with desk(agent) as at:
        one, two = at.client.ask("a", chat="one"), at.client.ask("b", chat="two")
        for reader in (one, two):
            while not reader.task.done():
                await at.clock.advance(0.02)
            checked(reader)
            assert text(reader) == "".join(f"{index} " for index in range(20_000))


async def test_a_silent_agent_is_given_up_after_the_idle_time(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "well"
        await asyncio.Event().wait()

    async with desk(agent, turns__idle_timeout_s=60) as at:
        reader = await at.client.ask("hi").records(4)
        await at.clock.advance(59)
        assert not reader.task.done()
        await at.clock.advance(2)
        checked(await reader.done())
    assert outcome(reader) == ("failed", "The agent said nothing for 60 s.")
    assert text(reader) == "well"


async def test_an_open_tool_call_stops_the_idle_time_and_half_written_arguments_do_not(desk: Any) -> None:
    go_on = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield ToolCall(id="t", name="slow")
        await go_on.wait()
        yield ToolResult(id="t", output="at last")
        await asyncio.Event().wait()

    async with desk(agent, turns__idle_timeout_s=60) as at:
        reader = await at.client.ask("hi").records(3)
        await at.clock.advance(3600)
        assert not reader.task.done()
        go_on.set()
        await reader.records(4)
        await at.clock.advance(61)
        checked(await reader.done())
    assert outcome(reader) == ("failed", "The agent said nothing for 60 s.")


async def test_a_tool_that_takes_too_long_fails_the_turn(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield ToolCall(id="t", name="slow")
        await asyncio.Event().wait()

    async with desk(agent, turns__tool_timeout_s=10) as at:
        reader = await at.client.ask("hi").records(3)
        await at.clock.advance(11)
        checked(await reader.done())
    assert outcome(reader) == ("failed", "A tool took longer than 10 s.")
    assert [event["type"] for event in reader.events()][3] == "tool-output-error"


async def test_a_turn_that_takes_too_long_fails(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        while True:
            yield "tick "
            await asyncio.sleep(0)
            await paused.wait()

    paused = asyncio.Event()
    async with desk(agent, turns__max_turn_s=100) as at:
        reader = await at.client.ask("hi").records(4)
        await at.clock.advance(101)
        checked(await reader.done())
    assert outcome(reader) == ("failed", "The turn took longer than 100 s.")


async def test_stopping_tells_the_agent_then_cancels_it_within_a_second(desk: Any) -> None:
    seen: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        try:
            yield "working"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(f"cancelled, told before: {turn.stopping.is_set()}")
            raise
        finally:
            seen.append("closed")

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(4)
        assert (await at.client.post("/api/chat/c/stop")).json()["status"] == "stopping"
        await at.clock.advance(1.0)
        checked(await reader.done())
    assert outcome(reader) == ("stopped", None)
    assert [event["type"] for event in reader.events()][-2:] == ["abort", "finish"]
    assert seen == ["cancelled, told before: True", "closed"]


async def test_an_agent_that_watches_for_the_stop_may_say_goodbye(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "working. "
        await turn.stopping.wait()
        yield "Bye."

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(4)
        await at.client.post("/api/chat/c/stop")
        checked(await reader.done())
    assert text(reader) == "working. Bye."
    assert outcome(reader)[0] == "stopped"


async def test_an_agent_that_ignores_cancellation_is_abandoned_and_fenced_off(desk: Any) -> None:
    free = asyncio.Event()
    after: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "stubborn"
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        try:
            yield "too late"
        except BaseException as error:
            after.append(type(error).__name__)
            raise

    async with desk(agent) as at:
        try:
            reader = await at.client.ask("hi").records(4)
            await at.client.post("/api/chat/c/stop")
            await at.clock.advance(1.0)
            checked(await reader.done())
            await at.clock.until(lambda: b"turnwire_abandoned_agents_total 1.0" in at.gateway.metrics.render())
        finally:
            free.set()
        await at.clock.until(lambda: bool(after))
        again = await at.client.get("/api/chat/c")
    assert "too late" not in again.body.decode()
    assert text(reader) == "stubborn"
    assert outcome(reader)[0] == "stopped"


async def test_a_thread_that_never_yields_again_does_not_keep_its_turn(desk: Any) -> None:
    free = threading.Event()

    def agent(turn: Turn) -> Iterator[Any]:
        yield "blocked"
        free.wait()
        yield "too late"

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(4)
        await at.client.post("/api/chat/c/stop")
        await at.clock.advance(1.0)
        checked(await reader.done())
        assert outcome(reader)[0] == "stopped"
        await at.clock.until(lambda: b"turnwire_abandoned_agents_total 1.0" in at.gateway.metrics.render())
        free.set()


async def test_a_thread_that_speaks_again_after_it_was_stopped_is_ended_and_not_left_behind(desk: Any) -> None:
    free, closed = threading.Event(), threading.Event()

    def agent(turn: Turn) -> Iterator[Any]:
        try:
            yield "said"
            free.wait()
            yield "too late"
        finally:
            closed.set()

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(4)
        await at.client.post("/api/chat/c/stop")
        await at.clock.advance(0.3)
        free.set()
        checked(await reader.done())
        assert outcome(reader)[0] == "stopped"
        assert text(reader) == "said"
        assert closed.is_set()
        await at.clock.until(lambda: not at.gateway.supervisor.live)
        assert b"turnwire_abandoned_agents_total 0.0" in at.gateway.metrics.render()


async def test_a_turn_is_stopped_whether_queued_starting_or_finished(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield f"on {turn.text}"
        await asyncio.Event().wait()

    async with desk(agent) as at:
        running_one = await at.client.ask("first").records(4)
        queued = await at.client.ask("second").opened()
        turn_id = queued.headers["x-workflow-run-id"]
        stopped = await at.client.post(f"/api/chat/{turn_id}/stop")
        assert stopped.json() == {"turn": turn_id, "status": "stopped"}
        await at.clock.advance(1)
        checked(await queued.done())
        assert outcome(queued)[0] == "stopped"
        assert not running_one.task.done()
        again = await at.client.post(f"/api/chat/{turn_id}/stop")
        assert again.json() == {"turn": turn_id, "status": "finished"}
        named = await at.client.post("/api/chat/c/stop", {"turn": running_one.headers["x-workflow-run-id"]})
        assert named.json()["status"] == "stopping"
        await at.clock.advance(1.0)
        checked(await running_one.done())
        assert outcome(running_one)[0] == "stopped"


async def test_after_a_stop_the_queued_message_is_answered(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield f"on {turn.text}"
        if turn.text == "first":
            await asyncio.Event().wait()

    async with desk(agent) as at:
        first = await at.client.ask("first").records(4)
        second = at.client.ask("second")
        await second.opened()
        await at.client.post("/api/chat/c/stop", {"turn": first.headers["x-workflow-run-id"]})
        await at.clock.advance(1.0)
        checked(await second.done())
        assert text(second) == "on second"
        assert outcome(second)[0] == "done"


async def test_leaving_does_not_stop_a_turn(desk: Any) -> None:
    go_on = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "before "
        await go_on.wait()
        yield "after"

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(4)
        await reader.leave()
        go_on.set()
        again = checked(
            await at.client.get(f"/api/chat/{reader.headers['x-workflow-run-id']}/stream?ui=7&startIndex=0")
        )
        assert text(again) == "before after"


async def test_what_an_agent_rewrites_is_rewritten_for_every_reader(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield Snapshot("Total: 10")
        yield Data(name="plot", id="p", data=[1])
        yield Snapshot("Sum: 20")

    async with desk(agent) as at:
        said = await at.answer()
        strict = StrictClient("7").feed_all(said.events())
        history = (await at.client.get("/api/chat/c")).json()["messages"][1]
        assert [part["text"] for part in history["parts"] if part["type"] == "text"] == ["Sum: 20"]
        assert [part["text"] for part in strict.message()["parts"] if part["type"] == "text"] == ["Sum: 20"]


async def test_attached_files_are_stored_before_the_agent_goes_on(desk: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    report.write_text("the report")

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        sent = await turn.attach(str(report))
        yield f"see {sent.name}: "
        yield str(await sent.delivered(timeout=0))

    async with desk(agent) as at:
        said = await at.answer()
        kinds = [event["type"] for event in said.events()]
        assert kinds.index("file") < kinds.index("text-start")
        url = next(event["url"] for event in said.events() if event["type"] == "file")
        assert (await at.client.get(url)).body == b"the report"


async def test_a_file_that_cannot_be_read_fails_the_turn_with_its_name(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        await turn.attach("missing.pdf")
        yield "never"

    async with desk(agent) as at:
        how, why = outcome(await at.answer())
    assert how == "failed"
    assert why is not None
    assert "missing.pdf" in why


async def test_a_cancelled_owner_still_writes_the_last_word_once(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "words"
        await asyncio.Event().wait()

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(4)
        turn_id = reader.headers["x-workflow-run-id"]
        run = at.gateway.supervisor.live[turn_id]
        run.interrupt("The test says so.")
        owner = next(task for task in asyncio.all_tasks() if task.get_name() == f"turn-{turn_id}")
        for _ in range(200):
            if any(task.get_name() == f"end-{turn_id}" for task in asyncio.all_tasks()):
                break
            await at.clock.advance(0.01)
        owner.cancel()
        owner.cancel()
        await at.clock.advance(1.0)
        checked(await reader.done())
    assert outcome(reader) == ("interrupted", "The test says so.")
    assert [event["type"] for event in reader.events()].count("finish") == 1


async def test_history_is_saved_at_tool_boundaries(desk: Any) -> None:
    go_on = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "before the tool"
        yield ToolCall(id="t", name="x")
        yield ToolError(id="t", error="broke")
        await go_on.wait()

    from turnwire.store.queries.turns import answer_of

    async with desk(agent) as at:
        reader = await at.client.ask("hi").records(7)
        turn_id = reader.headers["x-workflow-run-id"]
        saved: bytes | None = None
        async with asyncio.timeout(10):
            while saved is None:
                saved = await at.gateway.db.read(answer_of, turn_id)
        assert b"before the tool" in saved
        assert b"broke" in saved
        shown = (await at.client.get("/api/chat/c")).json()
        assert [message["role"] for message in shown["messages"]] == ["user"]
        assert shown["turn"]["id"] == turn_id
        go_on.set()
        await reader.done()
