"""Claude turns: the real SDK with its CLI, a simulated provider, a real gateway, and no process left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client, Exchange
from tests.framework_turns import STOP_S
from tests.gateways import running
from turnwire import Turn
from turnwire.agents.claude import claude_agent
from turnwire.agents.guard import Limits
from turnwire.agents.guard_proxy import GuardProxy
from turnwire.channels.web.api import web_app
from turnwire.gateway import Gateway
from turnwire.sim.models import TEXT, ModelSim

sdk: Any = pytest.importorskip("claude_agent_sdk")

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks, pytest.mark.timeout(40)]

LIMITS = Limits(first_byte=2.0, idle_bytes=1.0)
KEY = "sk-ant-secret-of-the-test"
# Newer models get their environment as a system message inside the conversation, which not every server takes.
MODEL = "claude-sonnet-4-5"
# The simulator calls a tool of this name, without the prefix that the CLI gives to tools of MCP servers.
WEATHER = "get_weather"


def children() -> list[int]:
    """The CLIs that this process started and that are not gone, dead ones that nobody waited for too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
            if name == "claude" and int(rest.split()[1]) == os.getpid():
                found.append(int(entry.parent.name))
    return found


async def exited(pid: int) -> None:
    """Returns once the process has ended, which must be soon."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(STOP_S):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting of the machine reaches the CLI, dead proxies must not matter, and no process stays."""
    for name in [name for name in os.environ if name.startswith(("ANTHROPIC_", "CLAUDE"))]:
        monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    yield
    assert children() == []


class Desk:
    """A gateway whose agent is Claude, and the provider behind it."""

    def __init__(self, gateway: Gateway, sim: ModelSim) -> None:
        self.gateway = gateway
        self.client = Client(web_app(gateway))
        self.sim = sim

    async def ask(self, text: str, *plan: str) -> dict[str, Any]:
        """The answer to `text`, when the provider goes by `plan`."""
        self.sim.plan(plan)
        await self.client.ask(text).done()
        return (await self.history())[-1]

    async def history(self) -> list[dict[str, Any]]:
        return list((await self.client.get("/api/chat/c")).json()["messages"])

    async def stop(self) -> None:
        await self.client.post("/api/chat/c/stop", {})


class Tools:
    """What the tool does: answers, fails, or waits to be let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting = asyncio.Event()
        self.hold = False

    def server(self) -> Any:
        @sdk.tool(WEATHER, "The weather of a city.", {"city": str})  # type: ignore[untyped-decorator]
        async def get_weather(arguments: dict[str, Any]) -> dict[str, Any]:
            city = arguments["city"]
            self.asked.append(city)
            if self.hold:
                self.waiting.set()
                await asyncio.Event().wait()
            if city == "Zürich":
                raise ValueError("no weather there")
            return {"content": [{"type": "text", "text": f"sunny in {city}"}]}

        return sdk.create_sdk_mcp_server("wx", tools=[get_weather])


@contextlib.asynccontextmanager
async def desk(
    tmp_path: Path, tools: Tools | None = None, *, retries: int = 2, guarded: bool = False, **more: Any
) -> AsyncIterator[Desk]:
    def options(_turn: Turn) -> Any:
        servers = {"wx": tools.server()} if tools else {}
        return sdk.ClaudeAgentOptions(
            tools=[],
            setting_sources=[],
            cwd=str(tmp_path),
            mcp_servers=servers,
            allowed_tools=[f"mcp__wx__{WEATHER}"],
            env={"CLAUDE_AGENT_SDK_MCP_NO_PREFIX": "1", "CLAUDE_CODE_MAX_RETRIES": str(retries)},
        )

    async with ModelSim(retry_after=0.001) as sim, GuardProxy(sim.url, limits=LIMITS) as guard:
        agent = claude_agent(
            options,
            model=MODEL,
            instructions="Be brief.",
            api_key=KEY,
            base_url=guard.url if guarded else sim.url,
            config_dir=tmp_path / "claude",
            **more,
        )
        async with running(f"sqlite:///{tmp_path / 't.db'}", tmp_path, agent) as gateway:
            yield Desk(gateway, sim)


def kinds(message: dict[str, Any]) -> list[str]:
    return [part["type"] for part in message["parts"] if part["type"] != "data-claude-session"]


def text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def ended(message: dict[str, Any]) -> dict[str, Any]:
    return dict(message["metadata"]["turnwire"])


def session(message: dict[str, Any]) -> dict[str, Any]:
    found = [part["data"] for part in message["parts"] if part["type"] == "data-claude-session"]
    assert len(found) == 1
    return dict(found[0])


def sent(sim: ModelSim, index: int = -1) -> dict[str, Any]:
    """The body of a request."""
    return sim.requests[index].body or {}


def told(sim: ModelSim) -> str:
    return str(sent(sim)["messages"])


@pytest.mark.parametrize("scenario", ["a_no_message_stop", "a_open_after_stop", "a_noevent"])
async def test_behind_the_guard_a_whole_answer_ends_at_once(tmp_path: Path, scenario: str) -> None:
    async with desk(tmp_path, guarded=True) as at:
        message = await at.ask("hi", scenario)
        assert (text(message), ended(message)["outcome"]) == (TEXT, "done")


async def test_behind_the_guard_a_stalled_answer_is_asked_for_again_in_seconds(tmp_path: Path) -> None:
    async with desk(tmp_path, guarded=True) as at:
        message = await at.ask("hi", "stall_after_2", "ok")
        assert (text(message), ended(message)["outcome"]) == (TEXT, "done")
        assert len(at.sim.requests) == 2


@pytest.mark.shows("Claude Agent SDK", "text", "reasoning", "usage")
async def test_an_answer_and_its_thoughts_are_said_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        message = await at.ask("hi", "thinking")
        assert kinds(message) == ["step-start", "reasoning", "text"]
        assert text(message) == TEXT
        thought = next(part for part in message["parts"] if part["type"] == "reasoning")
        assert thought["text"] == "Let me think."
        assert thought["providerMetadata"]["anthropic"]["signature"]
        about = ended(message)
        assert (about["outcome"], about["model"]) == ("done", MODEL)
        assert about["usage"] == {"inputTokens": 30, "outputTokens": 12, "totalTokens": 42}
        assert sent(at.sim, 0)["model"] == MODEL
        assert "Be brief." in str(sent(at.sim, 0)["system"])
        assert [seen.ended for seen in at.sim.requests] == ["completed"]


@pytest.mark.shows("Claude Agent SDK", "tools", "parallel tools")
async def test_parallel_calls_run_and_one_may_fail(tmp_path: Path) -> None:
    tools = Tools()
    async with desk(tmp_path, tools) as at:
        message = await at.ask("hi", "tools_parallel", "ok")
    calls = [part for part in message["parts"] if part["type"] == "tool-get_weather"]
    assert [part["input"] for part in calls] == [{"city": "北京"}, {"city": "Zürich"}]
    assert calls[0]["output"] == "sunny in 北京"
    assert (calls[1]["state"], calls[1]["errorText"]) == ("output-error", "no weather there")
    assert sorted(tools.asked) == ["Zürich", "北京"]
    assert kinds(message) == ["step-start", "tool-get_weather", "tool-get_weather", "step-start", "text"]
    assert (text(message), ended(message)["usage"]["totalTokens"]) == (TEXT, 84)


async def test_a_stream_that_broke_is_told_again_and_shown_once(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        exchange = at.client.ask("hi")
        at.sim.plan(["clean_eof_mid", "ok"])
        await exchange.done()
        assert "reset-step" in [event["type"] for event in exchange.events()]
        message = (await at.history())[-1]
        assert (text(message), ended(message)["outcome"]) == (TEXT, "done")
        assert ended(message)["usage"]["inputTokens"] == 60
        # Streams that keep breaking: the CLI gets the answer in one piece at last.
        message = await at.ask("again", "clean_eof_mid", "clean_eof_mid", "ok")
        assert (text(message), ended(message)["outcome"]) == (TEXT, "done")
        message = await at.ask("and again", "error_mid", "ok")
        assert (text(message), ended(message)["outcome"]) == (TEXT, "done")


@pytest.mark.shows("Claude Agent SDK", "errors")
async def test_errors_of_the_provider_are_errors_and_hold_no_secrets(tmp_path: Path) -> None:
    async with desk(tmp_path, retries=0) as at:
        for scenario, words in (
            ("529", "overloaded"),
            ("401", "refused the key"),
            ("400", "reported an error"),
        ):
            message = await at.ask(scenario, *[scenario] * 4)
            about = ended(message)
            assert about["outcome"] == "failed", scenario
            assert words in about["reason"], about["reason"]
            assert text(message) == ""
            for secret in (KEY, "127.0.0.1", "/login", "API Error"):
                assert secret not in str(message)
            at.sim.clear()


async def test_the_output_limit_goes_on_and_at_last_fails(tmp_path: Path) -> None:
    tools = Tools()
    async with desk(tmp_path, tools) as at:
        message = await at.ask("hi", "max_tokens", "ok")
        assert text(message) == "Hello, wörld " + TEXT
        assert ended(message)["outcome"] == "done"
        message = await at.ask("more", *["max_tokens"] * 4)
        assert "limit hit" not in text(message)
        assert (ended(message)["outcome"], ended(message)["reason"]) == (
            "failed",
            "The model reached its output limit several times in a row.",
        )
        at.sim.clear()
        message = await at.ask("call", "tools_max_tokens", "ok")
        call = next(part for part in message["parts"] if part["type"] == "tool-get_weather")
        assert (call["state"], tools.asked) == ("output-error", [])
        assert "it was not run" in call["errorText"]


@pytest.mark.shows("Claude Agent SDK", "stop")
async def test_a_turn_stopped_in_its_text_keeps_it_and_the_session_goes_on(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.sim.plan(["stall_after_2"])
        exchange = at.client.ask("stop me")
        await exchange.until(lambda seen: "wörld" in str(seen.events()))
        (child,) = children()
        await at.stop()
        await exited(child)
        await exchange.done()
        await at.sim.wait_ended()
        message = (await at.history())[-1]
        assert (text(message), ended(message)["outcome"]) == ("Hello, wörld ", "stopped")
        assert at.sim.requests[0].ended == "client_closed"
        assert session(message)["at"]
        after = await at.ask("next", "ok")
        assert (text(after), session(after)["session"]) == (TEXT, session(message)["session"])
        assert told(at.sim).index("stop me") < told(at.sim).index("Hello, wörld ") < told(at.sim).index("next")


async def test_a_turn_stopped_in_a_tool_ends_it(tmp_path: Path) -> None:
    tools = Tools()
    tools.hold = True
    async with desk(tmp_path, tools) as at:
        at.sim.plan(["tools"])
        exchange = at.client.ask("stop me")
        await tools.waiting.wait()
        (child,) = children()
        await at.stop()
        await exited(child)
        await exchange.done()
        message = (await at.history())[-1]
        assert ended(message)["outcome"] == "stopped"
        call = next(part for part in message["parts"] if part["type"] == "tool-get_weather")
        assert call["state"] == "output-error"


async def test_a_killed_process_fails_its_turn(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.sim.plan(["stall_after_2"])
        exchange = at.client.ask("hi")
        await exchange.until(lambda seen: "wörld" in str(seen.events()))
        os.kill(children()[0], signal.SIGKILL)
        await exchange.done()
        message = (await at.history())[-1]
        about = ended(message)
        assert (text(message), about["outcome"]) == ("Hello, wörld ", "failed")
        assert about["reason"] == "Claude Code ended before its answer was complete (exit code -9)."
        assert (await at.ask("again", "ok"))["metadata"]["turnwire"]["outcome"] == "done"
        assert told(at.sim).count("User: hi\\n\\nAssistant: Hello, wörld") == 1


async def test_a_process_that_does_not_react_is_killed(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        at.sim.plan(["stall_after_2"])
        exchange = at.client.ask("hi")
        await exchange.until(lambda seen: "wörld" in str(seen.events()))
        (child,) = children()
        os.kill(child, signal.SIGSTOP)
        await at.stop()
        await exited(child)
        await exchange.done()
        assert ended((await at.history())[-1])["outcome"] == "stopped"


@pytest.mark.parametrize("scenario", ["stall_after_2", "no_headers"])
async def test_two_cancels_leave_no_process(tmp_path: Path, scenario: str) -> None:
    async with desk(tmp_path) as at:
        at.sim.plan([scenario])
        agent = claude_agent(model=MODEL, api_key=KEY, base_url=at.sim.url, config_dir=tmp_path / "own")

        async def run() -> list[Any]:
            return [event async for event in agent(_turn())]

        task = asyncio.create_task(run())
        await at.sim.wait_requests(1)
        (child,) = children()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await exited(child)
        async with asyncio.timeout(STOP_S):
            await at.sim.wait_ended()
        assert at.sim.requests[0].ended == "client_closed"
        await _closed()


async def test_a_cancel_while_the_process_starts_leaves_none(tmp_path: Path) -> None:
    agent = claude_agent(model=MODEL, api_key=KEY, config_dir=tmp_path / "own")
    stream = agent(_turn())
    task = asyncio.create_task(anext(stream))
    while not children():
        await asyncio.sleep(0)
    (child,) = children()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await exited(child)
    await _closed()


@pytest.mark.shows("Claude Agent SDK", "resume")
async def test_the_session_is_resumed_and_an_answer_made_again_forgets_the_first(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        first = await at.ask("one", "ok")
        second = await at.ask("two", "ok")
        assert session(first)["session"] == session(second)["session"]
        assert session(first)["at"] != session(second)["at"]
        body = {"id": "c", "trigger": "regenerate-message", "messageId": second["id"], "messages": []}
        await at.client.post("/api/chat", body)
        assert (told(at.sim).count("'one'"), told(at.sim).count("'two'")) == (1, 1)
        roles = [message["role"] for message in sent(at.sim)["messages"]]
        assert roles == ["user", "assistant", "user"]


async def test_a_session_that_is_gone_begins_anew_with_the_conversation_as_text(tmp_path: Path) -> None:
    async with desk(tmp_path) as at:
        first = await at.ask("one", "ok")
        for file in (tmp_path / "claude").rglob(f"*{session(first)['session']}*.jsonl"):
            file.unlink()
        second = await at.ask("two", "ok")
        assert ended(second)["outcome"] == "done"
        assert session(second)["session"] != session(first)["session"]
        asked = told(at.sim)
        assert "User: one" in asked
        assert f"Assistant: {TEXT}" in asked
        third = await at.ask("three", "ok")
        assert session(third)["session"] == session(second)["session"]


async def approval_of(exchange: Exchange) -> str:
    await exchange.done()
    return str(next(each["approvalId"] for each in exchange.events() if each["type"] == "tool-approval-request"))


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.shows("Claude Agent SDK", "approvals")
async def test_a_call_waits_for_a_person_and_runs_after_the_answer(tmp_path: Path, approved: bool) -> None:
    tools = Tools()
    async with desk(tmp_path, tools, approve=[WEATHER]) as at:
        at.sim.plan(["tools_parallel", "ok"])
        approval = await approval_of(at.client.ask("hi"))
        waiting = (await at.history())[-1]
        assert (ended(waiting)["outcome"], tools.asked, children()) == ("waiting", [], [])
        states = [part["state"] for part in waiting["parts"] if part["type"] == "tool-get_weather"]
        # The second call of the same answer is refused: the CLI keeps one only.
        assert states == ["approval-requested", "output-error"]
        await at.client.post(f"/api/approvals/{approval}", {"approved": approved, "reason": "not today"})
        await at.client.get("/api/chat/c/stream")
        message = (await at.history())[-1]
        assert (text(message), ended(message)["outcome"]) == (TEXT, "done")
        call = next(part for part in message["parts"] if part["type"] == "tool-get_weather")
        if approved:
            assert (call["state"], call["output"], tools.asked) == ("output-available", "sunny in 北京", ["北京"])
        else:
            assert (call["state"], tools.asked) == ("output-denied", [])
            assert "not today" in told(at.sim)
        assert session(message)["at"]


async def test_a_new_message_while_a_call_waits_is_answered_without_it(tmp_path: Path) -> None:
    tools = Tools()
    async with desk(tmp_path, tools, approve=lambda name, arguments: arguments.get("city") != "Oslo") as at:
        await at.ask("before", "ok")
        at.sim.plan(["tools_parallel"])
        await approval_of(at.client.ask("hi"))
        message = await at.ask("never mind", "ok")
        assert (text(message), ended(message)["outcome"], tools.asked) == (TEXT, "done", [])
        asked = told(at.sim)
        assert asked.count("'before'") == 1
        assert asked.index("'before'") < asked.index("User: hi") < asked.index("never mind")


async def test_what_a_person_writes_is_taken_word_for_word_and_files_are_sent(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("the content of a file of the server")
    async with desk(tmp_path) as at:
        await at.ask(f"/compact @{secret}", "ok")
        assert f"/compact @{secret}" in told(at.sim)
        assert "the content of a file" not in told(at.sim)


def _turn() -> Any:
    async def nothing(*_: Any, **__: Any) -> Any:
        raise AssertionError("the adapter yields what it says")

    messages = [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}]
    return Turn(
        id="t", conversation="c", user="u", text="hi", messages=messages, files=[], metadata={},
        emit=nothing, attach=nothing,
    )  # fmt: skip


async def _closed() -> None:
    """Until the tasks that end processes are done; they outlive a cancelled turn."""
    async with asyncio.timeout(STOP_S):
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("claude-")))


USED = {
    "ClaudeSDKClient": ("connect", "query", "receive_response", "interrupt", "disconnect"),
    "ClaudeAgentOptions": (
        "model", "system_prompt", "tools", "setting_sources", "cwd", "env", "hooks", "resume", "resume_session_at",
        "include_partial_messages", "forward_subagent_text", "max_buffer_size", "stderr",
    ),
    "StreamEvent": ("event", "parent_tool_use_id", "session_id"),
    "AssistantMessage": (
        "content", "model", "parent_tool_use_id", "error", "usage", "message_id", "stop_reason", "session_id", "uuid",
    ),
    "UserMessage": ("content", "parent_tool_use_id", "uuid"),
    "SystemMessage": ("subtype", "data"),
    "TaskStartedMessage": ("tool_use_id", "description"),
    "TaskProgressMessage": ("tool_use_id", "description"),
    "ResultMessage": (
        "subtype", "is_error", "num_turns", "session_id", "usage", "result", "structured_output", "errors",
        "deferred_tool_use", "api_error_status", "terminal_reason",
    ),
    "DeferredToolUse": ("id", "name", "input"),
    "TextBlock": ("text",),
    "ThinkingBlock": ("thinking", "signature"),
    "ToolUseBlock": ("id", "name", "input"),
    "ToolResultBlock": ("tool_use_id", "content", "is_error"),
    "ServerToolResultBlock": ("tool_use_id", "content"),
    "HookMatcher": ("matcher", "hooks", "timeout", "on_failure"),
}  # fmt: skip


@pytest.mark.parametrize("name", USED)
def test_what_we_use_of_the_sdk_exists(name: str) -> None:
    found = getattr(sdk, name, None) or getattr(sdk.types, name)
    fields = {*dir(found), *getattr(found, "__dataclass_fields__", ())}
    assert set(USED[name]) - fields == set()


def test_the_errors_and_the_process_that_we_look_at_exist() -> None:
    assert issubclass(sdk.ResultError, sdk.ClaudeSDKError)
    assert issubclass(sdk.CLINotFoundError, sdk.ClaudeSDKError)
    error = sdk.ResultError("text", {"subtype": "error_during_execution", "errors": ["why"]}, 1)
    assert (error.subtype, error.errors, error.exit_code) == ("error_during_execution", ["why"], 1)
    # The process is no public name of the SDK; without it nobody can tell that it is gone.
    client = sdk.ClaudeSDKClient(sdk.ClaudeAgentOptions())
    assert client._transport is None
    transports = pytest.importorskip("claude_agent_sdk._internal.transport.subprocess_cli")
    transport = transports.SubprocessCLITransport(prompt="", options=sdk.ClaudeAgentOptions())
    assert transport._process is None
