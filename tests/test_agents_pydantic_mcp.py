"""MCP servers of the configuration: over HTTP and as processes, also when they fail and come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fake_provider import fake_provider
from tests.mcp_servers import Child, Web, kill, web
from tests.model_wires import Answer, Call, scripted
from tests.test_agents_pydantic_ai import collect, of, question, text
from turnwire.agents._mcp_server import MCPServer
from turnwire.agents._mcp_tools import STOP_S
from turnwire.agents.load import AgentConfigError, load_agent
from turnwire.clock import Handle, SystemClock
from turnwire.events import ToolError, ToolResult

pytestmark = pytest.mark.anyio

DOUBLE = Call("m1", "double", '{"number": 21}')
NEGATIVE = Call("m2", "double", '{"number": -1}')


@pytest.fixture
async def http() -> AsyncIterator[Web]:
    async with web() as server:
        yield server


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child(tmp_path)


class Talk:
    """A running agent, asked turn by turn; each turn scripts what its model says."""

    def __init__(self, agent: Any, requests: list[dict[str, Any]], answers: list[Answer]) -> None:
        self.agent = agent
        self.answers = answers
        self.requests = requests

    async def ask(self, *answers: Answer) -> list[Any]:
        self.answers[:] = answers
        said, failure = await collect(self.agent, question())
        assert failure is None
        return said

    def offered(self) -> list[str]:
        """The tools that the model's last request named."""
        return [tool["function"]["name"] for tool in self.requests[-1].get("tools", [])]


@asynccontextmanager
async def talking(*, clock: SystemClock | None = None, **servers: MCPServer) -> AsyncIterator[Talk]:
    answers: list[Answer] = []

    async def act(peer: Any) -> None:
        await scripted("openai", answers.pop(0))(peer)

    async with fake_provider(act) as fake:
        spec = load_agent("openai:m", base_url=fake.base_url, api_key="k", env={}, mcp=servers, clock=clock)
        async with spec as agent:
            yield Talk(agent, fake.requests, answers)


class Impatient(SystemClock):
    """A clock on which nobody waits long for a server's start; its end has all the time there is."""

    def call_later(self, delay: float, callback: Callable[[], object]) -> Handle:
        return super().call_later(delay if delay == STOP_S else delay / 20, callback)


async def test_a_server_over_http_is_asked_with_its_headers(http: Web) -> None:
    http.key = "Bearer hunter2-hunter2"
    server = MCPServer(url=http.url, headers={"authorization": http.key})
    async with talking(numbers=server) as talk:
        said = await talk.ask(Answer(calls=[DOUBLE, NEGATIVE]), Answer(["42."]))
        assert talk.offered() == ["double", "hang"]
    assert [(each.id, each.output) for each in of(ToolResult, said)] == [("m1", "42 apples")]
    assert [each.id for each in of(ToolError, said)] == ["m2"]
    assert text(said) == "42."


async def test_a_wrong_key_is_told_without_it(http: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    http.key = "Bearer another"
    server = MCPServer(url=http.url, headers={"authorization": "Bearer hunter2-hunter2"})
    async with talking(numbers=server) as talk:
        said = await talk.ask(Answer(["Hello."]))
    assert text(said).startswith("*The tools of numbers cannot be used now: its MCP server cannot be reached (HTTP 401")
    assert text(said).endswith("Hello.")
    assert "hunter2" not in text(said) + caplog.text


async def test_the_headers_of_a_server_go_nowhere_else(http: Web) -> None:
    async with web() as other:
        http.moved_to = other.url
        server = MCPServer(url=http.url, headers={"x-key": "hunter2-hunter2"})
        async with talking(numbers=server) as talk:
            assert "cannot be used now" in text(await talk.ask(Answer(["Hello."])))
    assert {headers["x-key"] for _, headers in http.requests} == {"hunter2-hunter2"}
    assert other.requests == []


async def test_a_redirect_within_the_host_is_followed(http: Web) -> None:
    here = MCPServer(url=http.url.replace("/mcp", "/moved"), headers={"x-key": "hunter2-hunter2"})
    http.moved_to = http.url
    async with talking(numbers=here) as talk:
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
    assert len(of(ToolResult, said)) == 1
    assert {headers["x-key"] for path, headers in http.requests if path == "/mcp"} == {"hunter2-hunter2"}


async def test_a_turn_that_begins_after_the_end_starts_no_process(child: Child) -> None:
    async with talking(numbers=child.server()) as talk:
        agent = talk.agent
    with pytest.raises(RuntimeError, match="closed"):
        await collect(agent, question())
    assert len(child.pids) == 1
    assert child.left() == []


async def test_the_environments_proxies_do_not_come_between(http: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with talking(numbers=MCPServer(url=http.url)) as talk:
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
    assert len(of(ToolResult, said)) == 1


async def test_a_server_that_was_down_at_the_start_works_once_it_is_up(http: Web) -> None:
    await http.down()
    async with talking(numbers=MCPServer(url=http.url)) as talk:
        said = await talk.ask(Answer(["Hello."]))
        assert text(said) == (
            "*The tools of numbers cannot be used now: its MCP server cannot be reached (ConnectError).*\n\nHello."
        )
        assert talk.offered() == []
        assert "cannot be reached now, and their tools are missing: numbers" in str(talk.requests[-1])
        await http.up()
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
    assert text(said) == "42."
    assert [each.id for each in of(ToolResult, said)] == ["m1"]
    assert "cannot be reached" not in str(talk.requests[-1])


async def test_a_server_over_http_that_restarts_between_turns_is_connected_again(http: Web) -> None:
    async with talking(numbers=MCPServer(url=http.url)) as talk:
        await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
        await http.down()
        assert "cannot be used now" in text(await talk.ask(Answer(["Hello."])))
        await http.up()
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
    assert text(said) == "42."
    assert [each.id for each in of(ToolResult, said)] == ["m1"]


async def test_a_server_over_http_that_goes_away_during_a_call_fails_that_call_only(http: Web) -> None:
    async with talking(numbers=MCPServer(url=http.url)) as talk:
        asking = asyncio.create_task(talk.ask(Answer(calls=[Call("m1", "hang", "{}")]), Answer(["A pity."])))
        await http.called.wait()
        await http.down()
        said = await asking
        assert [each.id for each in of(ToolError, said)] == ["m1"]
        assert text(said) == "A pity."
        await http.up()
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
    assert [each.id for each in of(ToolResult, said)] == ["m1"]


async def test_a_process_that_was_killed_between_turns_is_started_again(child: Child) -> None:
    async with talking(numbers=child.server(UNIT="pears")) as talk:
        await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
        kill(child.pids[0])
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
        assert text(said) == "42."
        assert [each.output for each in of(ToolResult, said)] == ["42 pears"]
        assert len(child.pids) == 2
    assert child.left() == []


async def test_a_process_that_dies_during_a_call_fails_that_call_and_is_started_again(child: Child) -> None:
    async with talking(numbers=child.server()) as talk:
        again = [Call(f"m{number}", "die", "{}") for number in range(3)]
        said = await talk.ask(*(Answer(calls=[each]) for each in again), Answer(["A pity."]))
        assert [each.id for each in of(ToolError, said)] == ["m0", "m1", "m2"]
        assert text(said) == "A pity."
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
        assert [each.id for each in of(ToolResult, said)] == ["m1"]
        assert len(child.pids) == 2
    assert child.left() == []


async def test_a_process_that_fails_at_the_start_works_once_it_can(child: Child) -> None:
    child.manner("absent")
    async with talking(numbers=child.server()) as talk:
        assert "The tools of numbers cannot be used now" in text(await talk.ask(Answer(["Hello."])))
        child.manner("")
        said = await talk.ask(Answer(calls=[DOUBLE]), Answer(["42."]))
        assert [each.id for each in of(ToolResult, said)] == ["m1"]
    assert child.left() == []


@pytest.mark.heavy
async def test_a_process_that_never_answers_holds_nobody_up(child: Child) -> None:
    child.manner("mute")
    async with talking(numbers=child.server(), clock=Impatient()) as talk:
        said = await talk.ask(Answer(["Hello."]))
        assert "its MCP server cannot be reached (it " in text(said)
        assert text(said).endswith("Hello.")
    assert child.pids
    assert child.left() == []


@pytest.mark.parametrize("manner", ["", "deaf", "mute", "absent"])
async def test_no_process_is_left_when_the_gateway_closes(child: Child, manner: str) -> None:
    async with talking(one=child.server(), two=child.server(), clock=Impatient()) as talk:
        await talk.ask(Answer(["Hello."]))
        if manner:
            child.manner(manner)
            for pid in child.pids:
                kill(pid)
            asking = asyncio.create_task(talk.ask(Answer(["Hello."])))
            while len(child.pids) < 4:
                await asyncio.sleep(0)
            if manner == "mute":
                asking.cancel()
            await asyncio.wait({asking})
    assert len(child.pids) >= 2
    assert child.left() == []


async def test_a_server_that_is_busy_with_a_call_is_left_alone(child: Child) -> None:
    async with talking(numbers=child.server(), clock=Impatient()) as talk:
        calling = asyncio.create_task(talk.ask(Answer(calls=[Call("m1", "block", "{}")]), Answer(["Done."])))
        while not child.blocked:
            await asyncio.sleep(0)
        talk.answers.insert(0, Answer(["Hello."]))
        said, _ = await collect(talk.agent, question())
        assert text(said) == "Hello."
        child.go()
        assert [each.id for each in of(ToolResult, await calling)] == ["m1"]
    assert len(child.pids) == 1
    assert child.left() == []


async def test_two_servers_may_have_a_tool_of_the_same_name(child: Child, http: Web) -> None:
    calls = [DOUBLE, Call("m2", "pears_double", '{"number": 4}')]
    async with talking(apples=MCPServer(url=http.url), pears=child.server(UNIT="pears")) as talk:
        said = await talk.ask(Answer(calls=calls), Answer(["Both."]))
        assert talk.offered() == ["double", "hang", "pears_double", "die", "block"]
    assert {each.id: each.output for each in of(ToolResult, said)} == {"m1": "42 apples", "m2": "8 pears"}


async def test_a_start_that_is_broken_off_leaves_no_process(child: Child) -> None:
    child.manner("mute")

    async def start() -> None:
        async with talking(numbers=child.server()):
            pytest.fail("it answered")

    starting = asyncio.create_task(start())
    while not child.pids:
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()
    assert child.left() == []


async def test_what_a_server_says_of_its_secrets_is_not_repeated(child: Child) -> None:
    async with talking(numbers=child.server(TOKEN="hunter2-hunter2")) as talk:
        said = await talk.ask(Answer(calls=[NEGATIVE]), Answer(["Sorry."]))
    [error] = of(ToolError, said)
    assert "hunter2" not in error.error


async def test_a_program_that_is_not_there_is_named_before_anything_runs() -> None:
    with pytest.raises(
        AgentConfigError, match=r"\[agent\.mcp\.numbers\] command = 'no-such-program': there is no such"
    ):
        load_agent("openai:m", api_key="k", env={}, mcp={"numbers": MCPServer(command="no-such-program")})
