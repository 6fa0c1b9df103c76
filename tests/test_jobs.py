"""Background jobs: they outlive their turn and their process, and report once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import job_agent
from tests.asgi import Client
from tests.gateways import running
from tests.server_process import served
from tests.strict_client import StrictClient
from turnwire.channels.web.api import web_app
from turnwire.events import ToolCall
from turnwire.gateway import Gateway
from turnwire.operation import JobError, Operation, find, work_of
from turnwire.store.queries.jobs import find_job, save_result, stop_job
from turnwire.store.queries.turns import Fenced
from turnwire.testing import FakeClock
from turnwire.turn import Turn
from turnwire.turns.jobs import DEAF

pytestmark = pytest.mark.anyio


class Desk:
    def __init__(self, gateway: Gateway, folder: Path, clock: FakeClock) -> None:
        self.gateway = gateway
        self.client = Client(web_app(gateway))
        self.folder = folder
        self.clock = clock

    async def leave(self, kind: str, chat: str = "c") -> str:
        """Asks for a job and returns its id."""
        await self.client.ask(f"job {kind} {self.folder}", chat=chat).done()
        (_, answer) = (await self.history(chat))[:2]
        return str(re.findall(r"op_\w+", said(answer))[0])

    async def history(self, chat: str = "c") -> list[dict[str, Any]]:
        shown = (await self.client.get(f"/api/chat/{chat}")).json()
        return list(shown["messages"])

    async def ran(self) -> None:
        """Until a job that says nothing has begun."""
        async with asyncio.timeout(20):
            while not (self.folder / "runs").exists():
                await self.client.get("/api/chat/c")

    async def reported(self, chat: str = "c", messages: int = 4, step: float = 0.05) -> list[dict[str, Any]]:
        """The history once the report is answered; with a `step` of 0 no time passes for what a thread has to do."""
        tab = self.client.start("GET", f"/api/conversations/{chat}/events")
        async with asyncio.timeout(20):
            while not tab.events() or not settled(tab.events()[-1]):
                await self.clock.advance(step)
        await tab.leave()
        history = await self.history(chat)
        assert len(history) == messages
        return history


def settled(state: dict[str, Any]) -> bool:
    return state["jobs"] == [] and state["turn"] is None


def said(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(url: str | None = None, agent: Any = job_agent.agent, **overrides: Any) -> AsyncIterator[Desk]:
        at = url or f"sqlite:///{tmp_path / 'turnwire.db'}"
        clock = FakeClock()
        async with running(at, tmp_path, agent, clock=clock, **overrides) as gateway:
            yield Desk(gateway, tmp_path, clock)

    return open_desk


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("quick", 'is done: {"key":true,"user":"local","in":"c"}'),
        ("blocking", "is done: from a thread"),
        ("fails", "failed: The archive is locked."),
        ("breaks", "failed: It failed (ValueError)."),
        ("odd", "failed: the result of a background job"),
        ("huge", "failed: Its result is larger than 262144 bytes."),
    ],
)
async def test_what_a_job_came_to_starts_a_turn(store_url: str, desk: Any, kind: str, result: str) -> None:
    async with desk(url=store_url) as at:
        job = await at.leave(kind)
        (_, _, report, answer) = await at.reported()
        assert f"Background job “the {kind} one” ({job}) {result}" in said(report)
        about = report["metadata"]["turnwire"]["operation"]
        assert (report["role"], about["id"], about["name"]) == ("user", job, f"the {kind} one")
        assert said(answer) == f"It says: {said(report)}"


async def test_the_turn_ends_while_its_job_goes_on(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        job = await at.leave("gated")
        tab = at.client.start("GET", "/api/conversations/c/events")
        await tab.until(lambda one: any(known.get("progress") for event in one.events() for known in event["jobs"]))
        (known,) = tab.events()[-1]["jobs"]
        assert (known["id"], known["status"], known["progress"]) == (job, "running", {"half": 1})
        shown = (await at.client.get("/api/chat/c")).json()
        assert (shown["turn"], [one["id"] for one in shown["jobs"]]) == (None, [job])
        await at.client.ask("something else").done()
        (at.folder / "gate").touch()
        await tab.leave()
        (*_, report, _) = await at.reported(messages=6)
        assert "after 1 starts" in said(report)


async def test_everybody_who_watches_sees_how_far_a_job_is(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        await at.leave("stepwise")
        await started(at)
        tab = await at.client.start("GET", "/api/conversations/c/events").records(1)
        (at.folder / "gate").touch()
        await tab.until(lambda one: one.events()[-1]["jobs"][0]["progress"] == 2)
        await tab.leave()


async def test_a_result_waits_for_the_turn_that_runs(desk: Any) -> None:
    go = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if "operation" not in turn.metadata:
            await turn.background("it", functools.partial(job_agent.quick, folder=turn.text))
            await go.wait()
        yield "done"

    async with desk(agent=agent) as at:
        first = await at.client.ask(str(at.folder)).opened()
        tab = at.client.start("GET", "/api/conversations/c/events")
        await tab.until(lambda one: any(event["queued"] for event in one.events()))
        await tab.leave()
        state = (await at.client.get("/api/chat/c")).json()
        assert (state["turn"]["status"], len(state["queued"]), state["jobs"]) == ("running", 1, [])
        go.set()
        await first.done()
        await at.reported()


async def test_a_result_leaves_an_approval_open(desk: Any) -> None:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if "operation" in turn.metadata:
            yield "noted"
            return
        await turn.background("it", functools.partial(job_agent.quick, folder=turn.text))
        yield ToolCall(id="a", name="pay", needs_approval=True)

    async with desk(agent=agent) as at:
        await at.client.ask(str(at.folder)).done()
        (_, asks, _, _) = await at.reported()
        assert next(part["state"] for part in asks["parts"] if "toolCallId" in part) == "approval-requested"


async def test_a_job_of_a_process_that_left_is_run_again(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        job = await at.leave("gated")
        await at.client.start("GET", "/api/conversations/c/events").until(
            lambda one: any(known.get("progress") for event in one.events() for known in event["jobs"])
        )
    (at.folder / "gate").touch()
    async with desk(url=store_url) as at:
        (*_, report, _) = await at.reported()
        assert "is done: after 2 starts" in said(report)
        assert (at.folder / "runs").read_text().split() == [job, job]


async def test_only_the_newest_owner_says_what_a_job_came_to(desk: Any) -> None:
    async with desk() as at:
        job = await at.leave("gated")
        await at.client.start("GET", "/api/conversations/c/events").until(
            lambda one: any(known.get("progress") for event in one.events() for known in event["jobs"])
        )
        for epoch in (0, 2):
            with pytest.raises(Fenced):
                await at.gateway.db.run(save_result, job, epoch, result=b"1")


async def test_a_killed_server_runs_the_job_again_and_reports_once(tmp_path: Path) -> None:
    async with served(tmp_path, use="python:tests.job_agent:agent", settings="[turns]\nlease_s = 3\n") as server:
        async with server.client() as client:
            await client.post("/api/chat?ui=7", json=ask(f"job gated {tmp_path}"))
            async with asyncio.timeout(30):
                while not (tmp_path / "runs").exists():
                    await client.get("/api/chat/c")
        await server.kill()
        (tmp_path / "gate").touch()
        await server.start()
        async with server.client() as client, asyncio.timeout(30):
            while not settled(shown := (await client.get("/api/chat/c")).json()) or len(shown["messages"]) < 4:
                pass
            assert "is done: after 2 starts" in said(shown["messages"][2])
            assert len(shown["messages"]) == 4
        keys = (tmp_path / "runs").read_text().split()
        assert len(keys) == 2
        assert len(set(keys)) == 1


def ask(text: str) -> dict[str, Any]:
    return {"id": "c", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": text}]}]}


@pytest.mark.heavy
async def test_a_job_that_ends_its_process_is_given_up(tmp_path: Path) -> None:
    async with served(tmp_path, use="python:tests.job_agent:agent", settings="[turns]\nlease_s = 3\n") as server:
        async with server.client() as client:
            with contextlib.suppress(httpx2.TransportError):
                await client.post("/api/chat?ui=7", json=ask(f"job deadly {tmp_path}"))
        for _ in range(5):
            await server.process.wait()
            await server.kill()
            await server.start()
        async with server.client() as client, asyncio.timeout(30):
            while not settled(shown := (await client.get("/api/chat/c")).json()) or len(shown["messages"]) < 4:
                pass
            assert "its process ended each time" in said(shown["messages"][2])
        assert len((tmp_path / "runs").read_text().split()) == 5


async def started(at: Desk) -> None:
    """Until a job says how far it has come."""
    tab = at.client.start("GET", "/api/conversations/c/events")
    await tab.until(lambda one: any(known.get("progress") for event in one.events() for known in event["jobs"]))
    await tab.leave()


async def stop(at: Desk, job: str, chat: str = "c") -> tuple[int, dict[str, Any]]:
    asked = await at.client.post(f"/api/chat/{chat}/jobs/{job}/stop")
    return asked.status, asked.json()


async def test_a_job_that_is_stopped_ends_and_no_agent_is_asked(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        job = await at.leave("gated")
        await started(at)
        assert await stop(at, job) == (202, {"job": job, "status": "stopping"})
        (_, _, report, answer) = await at.reported()
        assert said(report) == f"Background job “the gated one” ({job}) was stopped by local."
        assert report["metadata"]["turnwire"]["operation"]["status"] == "stopped"
        assert (said(answer), answer["metadata"]["turnwire"]["outcome"]) == ("", "stopped")
        assert await stop(at, job) == (200, {"job": job, "status": "finished"})
        later = await at.client.ask("what was it").done()
        assert said(StrictClient("7").feed_all(later.events()).end()) == "You said: what was it"
        assert len(await at.history()) == 6


async def test_a_job_says_what_it_had_when_it_was_stopped(desk: Any) -> None:
    async with desk() as at:
        job = await at.leave("careful")
        await started(at)
        await stop(at, job)
        (_, _, report, _) = await at.reported()
        assert said(report).endswith("was stopped by local. It said: 3 of 10")


@pytest.mark.parametrize("kind", ["deaf", "stuck"])
async def test_a_job_that_ignores_a_stop_is_left_behind_and_people_are_told(desk: Any, kind: str) -> None:
    async with desk() as at:
        job = await at.leave(kind)
        await started(at) if kind == "deaf" else await at.ran()
        await stop(at, job)
        try:
            (_, _, report, _) = await at.reported()
            assert said(report).endswith("was stopped by local. " + DEAF)
        finally:
            (at.folder / "gate").touch()


async def test_a_thread_that_looks_is_stopped_in_time(desk: Any) -> None:
    async with desk() as at:
        job = await at.leave("patient")
        await at.ran()
        await stop(at, job)
        (_, _, report, _) = await at.reported(step=0)
        assert said(report).endswith("was stopped by local. It said: left in order")


async def test_a_job_that_waits_is_stopped_before_it_runs(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turnwire.turns.jobs.AT_ONCE", 0)
    async with desk() as at:
        job = await at.leave("gated")
        assert await stop(at, job) == (200, {"job": job, "status": "stopped"})
        await at.reported()
        assert not (at.folder / "runs").exists()


async def test_a_job_whose_process_left_before_it_could_stop_is_not_run_again(store_url: str, desk: Any) -> None:
    async with desk(url=store_url) as at:
        job = await at.leave("gated")
        await started(at)
        row = await at.gateway.db.read(find_job, job)
        # As if this process heard of nothing: only the store knows.
        await at.gateway.db.run(stop_job, job, "ann")
    async with desk(url=store_url) as at:
        (_, _, report, _) = await at.reported()
        assert said(report).endswith("was stopped by ann.")
        assert (at.folder / "runs").read_text().split() == [row.id]


async def test_only_its_own_conversation_stops_a_job(desk: Any) -> None:
    async with desk(channels__web__auth="header") as at:
        ann, eve = (Client(web_app(at.gateway), {"x-user": name}) for name in ("ann", "eve"))
        at.client = ann
        job = await at.leave("gated")
        await ann.ask("something else", chat="d").done()
        await eve.ask("something else").done()
        for client, chat, name in ((eve, "c", job), (ann, "d", job), (ann, "c", "op_none"), (ann, "nobody", job)):
            refused = await client.post(f"/api/chat/{chat}/jobs/{name}/stop")
            assert (refused.status, refused.json()["error"]["code"]) == (404, "not_found")
        shown = (await ann.get("/api/chat/c")).json()
        assert [(one["status"] in ("queued", "running"), one["stopping"]) for one in shown["jobs"]] == [(True, False)]


async def _local_job(operation: Operation, *given: Any, **named: Any) -> None:
    """Named by this module."""


_any_job: Any = _local_job


def test_what_can_be_found_again_is_stored_by_name() -> None:
    assert find(work_of(_local_job).call) is _local_job
    work = work_of(functools.partial(_any_job, 1, folder=[None, "é"]))
    assert (work.args, work.kwargs) == ([1], {"folder": [None, "é"]})


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (lambda operation: None, "could not be found again"),
        (3, "must be a function, not int"),
        (functools.partial(_any_job, object()), "the arguments of a background job"),
    ],
)
def test_what_could_not_be_run_again_is_refused(job: Any, why: str) -> None:
    with pytest.raises(JobError, match=why):
        work_of(job)


def test_a_job_that_is_gone_says_so() -> None:
    for call in ("tests.job_agent:gone", "tests.nowhere:job", "tests.job_agent:POLL_S"):
        with pytest.raises(JobError, match=call):
            find(call)
