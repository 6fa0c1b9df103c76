"""Claude turns without the SDK: its messages by their recorded shapes, its client by a stand-in."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.agent_events import parts_of, speak
from turnwire import AgentError, Data, Resolution, ToolCall, ToolError, ToolResult, Turn, Usage
from turnwire.agents._claude_events import ClaudeEvents
from turnwire.agents.claude import claude_agent
from turnwire.clock import Clock
from turnwire.testing import FakeClock
from turnwire.turn import PendingCall

pytestmark = pytest.mark.anyio

SESSION = "11111111-2222-4333-8444-555555555555"


# Messages as the SDK gives them


def stream(kind: str, parent: str | None = None, **fields: Any) -> Any:
    return SimpleNamespace(event={"type": kind, **fields}, parent_tool_use_id=parent, session_id=SESSION, uuid="s")


def start(own: str = "m1", tokens: int = 30) -> Any:
    return stream("message_start", message={"id": own, "model": "claude-x", "usage": {"input_tokens": tokens}})


def block(index: int, kind: str, *pieces: str, **fields: Any) -> list[Any]:
    delta = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking")}
    name, key = delta.get(kind, ("input_json_delta", "partial_json"))
    return [
        stream("content_block_start", index=index, content_block={"type": kind, **fields}),
        *(stream("content_block_delta", index=index, delta={"type": name, key: piece}) for piece in pieces),
    ]


def end(reason: str | None = "end_turn", tokens: int = 12) -> list[Any]:
    usage = {"output_tokens": tokens}
    return [stream("message_delta", delta={"stop_reason": reason}, usage=usage), stream("message_stop")]


def text(said: str) -> Any:
    return SimpleNamespace(text=said)


def thinking(said: str) -> Any:
    return SimpleNamespace(thinking=said, signature="sig")


def tool(own: str, name: str = "look", **arguments: Any) -> Any:
    return SimpleNamespace(id=own, name=name, input=arguments)


def result_of(own: str, content: Any = "fine", failed: bool | None = None) -> Any:
    return SimpleNamespace(tool_use_id=own, content=content, is_error=failed)


def assistant(*blocks: Any, own: str = "m1", **fields: Any) -> Any:
    known = {
        "content": list(blocks), "model": "claude-x", "parent_tool_use_id": None, "error": None, "usage": None,
        "message_id": own, "stop_reason": None, "session_id": SESSION, "uuid": f"uuid of {own}",
    }  # fmt: skip
    return SimpleNamespace(**{**known, **fields})


def user(content: Any, parent: str | None = None) -> Any:
    return SimpleNamespace(content=content, parent_tool_use_id=parent, uuid="uuid of a user")


def system(subtype: str, **fields: Any) -> Any:
    return SimpleNamespace(subtype=subtype, data={"session_id": SESSION, **fields}, **fields)


def final(**fields: Any) -> Any:
    known = {
        "subtype": "success", "is_error": False, "num_turns": 1, "session_id": SESSION, "usage": None, "result": None,
        "structured_output": None, "errors": None, "deferred_tool_use": None, "api_error_status": None,
        "terminal_reason": "completed", "stop_reason": None,
    }  # fmt: skip
    return SimpleNamespace(**{**known, **fields})


def synthetic(said: str, kind: str = "unknown") -> Any:
    return assistant(text(said), own="x", model="<synthetic>", error=kind)


def answer(own: str = "m1", *pieces: str) -> list[Any]:
    return [start(own), *block(0, "text", *pieces), assistant(text("".join(pieces)), own=own), *end()]


class Said:
    """What a list of messages became, and the message that a reader sees."""

    def __init__(self, *messages: Any) -> None:
        self.mapping = ClaudeEvents()
        self.events: list[Any] = []
        for message in messages:
            for each in message if isinstance(message, list) else [message]:
                self.events += self.mapping.read(each)
        self.parts = [part for part in parts_of(speak(self.events)) if part["type"] != "step-start"]

    @property
    def text(self) -> list[str]:
        return [part["text"] for part in self.parts if part["type"] == "text"]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def reason(self) -> str:
        with pytest.raises(AgentError) as failed:
            self.mapping.check()
        return str(failed.value)


def test_what_was_streamed_is_not_said_again() -> None:
    said = Said(
        system("init"),
        start(),
        block(0, "thinking", "Let me ", "think."),
        system("thinking_tokens"),
        stream("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "sig"}),
        assistant(thinking("Let me think.")),
        block(1, "text", "Hello, ", "you."),
        assistant(text("Hello, you.")),
        end(),
        final(usage={"input_tokens": 30, "output_tokens": 12}),
    )
    said.mapping.check()
    assert said.text == ["Hello, you."]
    (thought,) = (part for part in said.parts if part["type"] == "reasoning")
    assert (thought["text"], thought["providerMetadata"]) == ("Let me think.", {"anthropic": {"signature": "sig"}})
    assert said.of(Usage) == [
        Usage(input_tokens=30, output_tokens=12, total_tokens=42, model="claude-x", finish_reason="stop")
    ]
    assert (said.mapping.session, said.mapping.at) == (SESSION, "uuid of m1")


def test_thoughts_in_a_row_keep_no_signature() -> None:
    signed = stream("content_block_delta", index=1, delta={"type": "signature_delta", "signature": "sig"})
    said = Said(start(), block(0, "thinking", "a"), block(1, "thinking", "b"), signed, end(), final())
    assert said.parts[0]["providerMetadata"] == {"anthropic": {}}


def test_an_answer_that_was_not_streamed_is_said_whole() -> None:
    spent = {"input_tokens": 3, "cache_read_input_tokens": 4, "output_tokens": 5}
    whole = assistant(thinking("Hm."), text("Hello."), tool("t1", q=1), stop_reason="tool_use", usage=spent)
    said = Said(whole, user([result_of("t1")]), answer("m2", "Done."), final())
    said.mapping.check()
    assert [part["type"] for part in said.parts] == ["reasoning", "text", "tool-look", "text"]
    assert said.text == ["Hello.", "Done."]
    assert said.of(Usage)[0] == Usage(
        input_tokens=7, output_tokens=5, total_tokens=12, model="claude-x", finish_reason="tool-calls"
    )


@pytest.mark.parametrize("announced", [True, False])
def test_what_a_broken_stream_said_is_taken_back(announced: bool) -> None:
    retry = [system("api_retry", attempt=1)] if announced else []
    # The CLI ends the message that broke, but without a reason.
    cut = [start("m1"), *block(0, "text", "Hello, "), stream("message_stop")]
    said = Said(cut, retry, answer("m2", "Hello, ", "you."), final())
    said.mapping.check()
    assert said.text == ["Hello, you."]
    assert [usage.finish_reason for usage in said.of(Usage)] == [None, "stop"]


def test_a_fallback_after_a_broken_stream_replaces_it() -> None:
    cut = [start("m1"), *block(0, "text", "Hello, "), stream("message_stop")]
    said = Said(cut, assistant(text("Hi there."), own="m2", stop_reason="end_turn"), final())
    said.mapping.check()
    assert said.text == ["Hi there."]


def test_text_that_differs_from_what_was_streamed_wins_for_its_block_alone() -> None:
    said = Said(
        start(),
        block(0, "text", "One. "),
        assistant(text("One. ")),
        block(1, "text", "Tvo."),
        assistant(text("Two.")),
        end(),
        final(),
    )
    assert said.text == ["One. ", "Two."]


def test_calls_and_results_in_parallel_stand_together_and_before_later_text() -> None:
    said = Said(
        start(),
        block(0, "tool_use", '{"q"', ": 1}", id="t1", name="look"),
        assistant(tool("t1", q=1)),
        # It has its result before the model has written the second one.
        user([result_of("t1", [{"type": "text", "text": "first"}])]),
        block(1, "tool_use", id="t2", name="look"),
        assistant(tool("t2")),
        block(2, "text", "Wait", "ing."),
        assistant(text("Waiting.")),
        end("tool_use"),
        user([result_of("t2", "<tool_use_error>broken</tool_use_error>", failed=True)]),
        answer("m2", "Done."),
        final(),
    )
    said.mapping.check()
    assert [part["type"] for part in said.parts] == ["tool-look", "tool-look", "text", "text"]
    assert (said.parts[0]["input"], said.parts[0]["output"]) == ({"q": 1}, "first")
    assert (said.parts[1]["input"], said.parts[1]["errorText"]) == ({}, "broken")
    assert said.text == ["Waiting.", "Done."]


def test_a_result_waits_for_the_answer_that_still_streams_and_no_longer() -> None:
    called = [start(), *block(0, "tool_use", id="t1", name="look"), assistant(tool("t1")), *block(1, "text", "Wait")]
    more = stream("content_block_delta", index=1, delta={"type": "text_delta", "text": "ing."})
    said = Said(called, user([result_of("t1")]), more)
    assert (said.text, said.of(ToolResult)) == (["Waiting."], [])
    said = Said(called, user([result_of("t1")]), more, end("tool_use"))
    assert (said.text, said.of(ToolResult)) == (["Waiting."], [ToolResult(id="t1", output="fine")])


def test_a_thought_that_was_not_streamed_is_said_after_one_that_was() -> None:
    said = Said(start(), block(0, "thinking", "a"), assistant(thinking("a")), assistant(thinking("b")), end(), final())
    assert [part["text"] for part in said.parts] == ["ab"]


def test_pictures_and_lists_of_tools_are_described() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    answered = user([result_of("t1", [{"type": "text", "text": "a"}, picture])])
    said = Said(start(), assistant(tool("t1")), end("tool_use"), answered, final())
    assert said.parts[0]["output"] == ["a", {"type": "file", "mediaType": "image/png", "size": 3}]


def test_tools_that_the_provider_runs_are_shown() -> None:
    found = stream(
        "content_block_start",
        index=1,
        content_block={"type": "web_search_tool_result", "tool_use_id": "w1", "content": [{"title": "T"}]},
    )
    searching = block(0, "server_tool_use", '{"q":1}', id="w1", name="web_search")
    said = Said(start(), searching, assistant(tool("w1", "web_search", q=1)), found, end(), final())
    assert (said.parts[0]["type"], said.parts[0]["output"]) == ("tool-web_search", {"title": "T"})


def test_a_call_that_was_not_written_to_its_end_is_an_error() -> None:
    half = tool("t1", __unparsedToolInput={"raw": '{"q'})
    said = Said(start(), block(0, "tool_use", '{"q', id="t1", name="look"), assistant(half), end("max_tokens"))
    assert said.of(ToolCall) == []
    assert "it was not run" in said.parts[0]["errorText"]


def test_what_the_cli_tells_the_model_is_not_shown() -> None:
    said = Said(
        answer("m1", "a"),
        user([text("Output token limit hit. Resume directly")]),
        user("[Request interrupted by user]"),
        system("informational", content="a notice"),
        answer("m2", "b"),
        final(),
    )
    assert said.text == ["a", "b"]


def test_sub_agents_stay_under_the_call_that_started_them() -> None:
    inner = {"parent_tool_use_id": "t1", "own": "s1"}
    said = Said(
        start(),
        assistant(tool("t1", "Agent", task="look")),
        end("tool_use"),
        SimpleNamespace(subtype="task_started", data={}, tool_use_id="t1", description="Looking"),
        stream("message_start", parent="t1", message={"id": "s1"}),
        stream("content_block_start", parent="t1", index=0, content_block={"type": "text", "text": "inner"}),
        user([text("The task.")], parent="t1"),
        assistant(text("I look."), tool("u1", "Read"), **inner),
        user([result_of("u1")], parent="t1"),
        assistant(tool("u2", "Agent"), **inner),
        # A sub-agent of the sub-agent, and one that nobody called.
        assistant(text("Deeper."), parent_tool_use_id="u2"),
        assistant(text("Nobody."), parent_tool_use_id="other"),
    )
    assert said.text == []
    assert [part["toolCallId"] for part in said.parts] == ["t1"]
    shown = said.of(ToolResult)
    assert {(each.id, each.preliminary) for each in shown} == {("t1", True)}
    assert shown[-1].output == {
        "text": "I look.\n\nDeeper.",
        "calls": [{"name": "Read", "state": "done"}, {"name": "Agent", "state": "running"}],
        "doing": "Looking",
    }
    assert said.mapping.at == "uuid of m1"
    for message in (user([result_of("t1", "All seen.")]), *answer("m2", "Ok."), final()):
        said.events += said.mapping.read(message)
    assert parts_of(speak(said.events))[1]["output"] == "All seen."


def test_tokens_that_only_the_result_knows_are_added_once() -> None:
    said = Said(answer("m1", "a"), final(usage={"input_tokens": 100, "output_tokens": 12}))
    assert sum(usage.input_tokens for usage in said.of(Usage)) == 100
    assert sum(usage.output_tokens for usage in said.of(Usage)) == 12
    # An interrupted turn's result counts nothing.
    assert len(Said(answer("m1", "a"), final(usage={"input_tokens": 0, "output_tokens": 0})).of(Usage)) == 1


def test_structured_output_is_said_as_json() -> None:
    assert Said(answer("m1", "a"), final(structured_output={"a": 1})).text[-1] == 'a```json\n{\n  "a": 1\n}\n```'


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "Claude Code ended before its answer was complete."),
        ([*answer("m1", "a")], "Claude Code ended before its answer was complete."),
        ([final()], "The model's stream ended before its answer was complete."),
        # A success is not trusted if the provider never ended the answer.
        ([start(), *block(0, "text", "a"), stream("message_stop"), final()], "The model's stream ended before"),
        (
            [synthetic("API Error: 529 busy. If it persists, see 127.0.0.1:9."), final(is_error=True)],
            "error: 529 busy.",
        ),
        ([synthetic("API Error: no sk-ant-abcdefghij"), final(is_error=True)], "error: no ***"),
        ([synthetic("Not logged in · Please run /login"), final(is_error=True)], "error: Not logged in"),
        ([synthetic("x", "max_output_tokens"), final(is_error=True)], "The model reached its output limit"),
        ([synthetic("x", "authentication_failed"), final(is_error=True)], "The model's provider refused the key."),
        ([synthetic("x")], "The model's provider reported an error: x"),
        ([final(is_error=True, subtype="error_max_turns")], "limit of model requests"),
        ([final(is_error=True, subtype="error_max_budget_usd")], "its budget"),
        ([final(is_error=True, errors=["[ede_diagnostic] x", "why"])], "error: why"),
        ([final(is_error=True, terminal_reason="aborted_tools")], "The agent was interrupted."),
        ([final(is_error=True)], "no details given"),
    ],
)
def test_what_is_no_success_is_an_error(messages: list[Any], reason: str) -> None:
    said = Said(messages)
    assert reason in said.reason()
    assert "API Error" not in said.reason()
    assert [each for each in said.text if each != "a"] == []


def test_the_status_of_a_refusal_is_kept() -> None:
    said = Said(synthetic("busy"), final(is_error=True, api_error_status=529))
    with pytest.raises(AgentError) as failed:
        said.mapping.check()
    assert getattr(failed.value, "status", None) == 529


# The client


class SDKError(Exception):
    """Stands for the base of the SDK's errors, which is known by its name."""


SDKError.__name__ = "ClaudeSDKError"


@dataclasses.dataclass
class Options:
    model: str | None = None
    system_prompt: str | None = None
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    hooks: dict[str, list[Any]] | None = None
    resume: str | None = None
    resume_session_at: str | None = None
    include_partial_messages: bool = False
    forward_subagent_text: bool = False
    max_buffer_size: int | None = None
    stderr: Any = None


class Process:
    def __init__(self) -> None:
        self.returncode: int | None = None
        self.ended = asyncio.Event()

    def kill(self) -> None:
        self.end(-9)

    def end(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
        self.ended.set()


class Client:
    """A client that says what its script says; `None` in it is a pause without an end."""

    def __init__(self, options: Any, script: list[Any], **stuck: bool) -> None:
        self.options = options
        self.asked: list[Any] = []
        self.acts: list[str] = []
        self.process = Process()
        self._transport = SimpleNamespace(_process=self.process)
        self._script = list(script)
        self._stuck = stuck
        self._told = asyncio.Event()
        self._heard = asyncio.Event()

    async def connect(self) -> None:
        self.acts.append("connect")
        await self._never("connect")

    async def query(self, prompt: AsyncIterator[Any]) -> None:
        self.asked += [message async for message in prompt]

    async def receive_response(self) -> AsyncIterator[Any]:
        while self._script:
            # A pause goes on for whoever reads next.
            message = self._script.pop(0) if self._script[0] is not None else None
            if isinstance(message, Exception):
                raise message
            if message is None:
                await self._told.wait()
                self._script.clear()
                self._heard.set()
                yield final(is_error=True, subtype="error_during_execution", terminal_reason="aborted_streaming")
                return
            yield message

    async def interrupt(self) -> None:
        self.acts.append("interrupt")
        await self._never("interrupt")
        self._told.set()
        # The SDK hears that the CLI took it only while somebody reads.
        await self._heard.wait()

    async def disconnect(self) -> None:
        self.acts.append("disconnect")
        await self._never("disconnect")
        self.process.end(0)

    async def _never(self, name: str) -> None:
        if self._stuck.get(name):
            await self.process.ended.wait()


class Desk:
    """An agent whose clients follow scripts, one each."""

    def __init__(self, tmp_path: Path, *scripts: list[Any], clock: Clock | None = None, **more: Any) -> None:
        self.clients: list[Client] = []
        self._scripts = list(scripts)
        self._stuck = more.pop("stuck", {})
        given = more.pop("options", Options())
        self.agent = claude_agent(
            given, client_factory=self._client, config_dir=tmp_path, clock=clock or FakeClock(), **more
        )

    def _client(self, options: Any) -> Client:
        self.clients.append(Client(options, self._scripts.pop(0), **self._stuck))
        return self.clients[-1]

    async def run(self, turn: Turn) -> tuple[list[Any], AgentError | None]:
        said: list[Any] = []
        try:
            async for event in self.agent(turn):
                said.append(event)  # noqa: PERF401 - what came before a failure counts
        except AgentError as error:
            return said, error
        return said, None


def turn_of(text: str = "hi", *before: dict[str, Any], **more: Any) -> Turn:
    async def nothing(*_: Any, **__: Any) -> Any:
        raise AssertionError("the adapter yields what it says")

    messages = [*before, {"role": "user", "parts": [{"type": "text", "text": text}]}]
    known = {"id": "t", "conversation": "c", "user": "u", "text": text, "messages": messages, "files": []}
    return Turn(**{**known, "metadata": {}, "emit": nothing, "attach": nothing, **more})


def one(role: str, said: str, session: dict[str, Any] | None = None) -> dict[str, Any]:
    about = [{"type": "data-claude-session", "id": "claude-session", "data": session}] if session else []
    return {"role": role, "parts": [*about, {"type": "text", "text": said}]}


def asked(client: Client) -> list[str]:
    (message,) = client.asked
    assert message["client_composed"] is True
    return [block.get("text", block["type"]) for block in message["message"]["content"]]


async def test_the_process_gets_an_environment_of_its_own_and_options_win(tmp_path: Path) -> None:
    given = Options(model="mine", env={"DISABLE_TELEMETRY": "0", "MORE": "x"})
    done = [*answer("m1", "ok"), final()]
    desk = Desk(
        tmp_path, done, done, options=given, model="other", instructions="Be.", api_key="k", base_url="http://b"
    )
    await desk.run(turn_of())
    options = desk.clients[0].options
    assert (options.model, options.system_prompt) == ("mine", "Be.")
    assert (options.include_partial_messages, options.forward_subagent_text) == (True, True)
    env = options.env
    assert (env["ANTHROPIC_API_KEY"], env["ANTHROPIC_BASE_URL"], env["CLAUDE_CONFIG_DIR"]) == (
        "k", "http://b", str(tmp_path),
    )  # fmt: skip
    assert (env["NO_PROXY"], env["HTTPS_PROXY"], env["CLAUDE_CODE_MAX_RETRIES"]) == ("*", "", "2")
    assert (env["DISABLE_TELEMETRY"], env["MORE"], env["DISABLE_AUTOUPDATER"]) == ("0", "x", "1")
    assert given.env == {"DISABLE_TELEMETRY": "0", "MORE": "x"}
    through = Desk(tmp_path, done, options=lambda turn: Options(model=turn.user), proxy="http://p:1")
    await through.run(turn_of())
    env = through.clients[0].options.env
    assert (env["https_proxy"], env["NO_PROXY"]) == ("http://p:1", "127.0.0.1,localhost,::1")
    assert through.clients[0].options.model == "u"
    assert through.clients[0].acts == ["connect", "disconnect"]


async def test_a_conversation_goes_on_in_its_session(tmp_path: Path) -> None:
    done = [*answer("m1", "ok"), final()]
    desk = Desk(tmp_path, done, done, done)
    said, error = await desk.run(turn_of())
    assert error is None
    remembered = [event for event in said if isinstance(event, Data)]
    assert [(each.name, each.id, each.data) for each in remembered] == [
        ("claude-session", "claude-session", {"session": SESSION, "at": "uuid of m1"}),
    ]
    before = [one("user", "a"), one("assistant", "b", remembered[-1].data)]
    await desk.run(turn_of("c", *before))
    second = desk.clients[1]
    assert (second.options.resume, second.options.resume_session_at, asked(second)) == (SESSION, "uuid of m1", ["c"])
    # What came after the session's last answer is told.
    await desk.run(turn_of("f", *before, one("user", "d"), one("assistant", "e")))
    assert "User: d\n\nAssistant: e" in asked(desk.clients[2])[0]
    assert "b" not in asked(desk.clients[2])[0].split()


@pytest.mark.parametrize("as_value", [True, False])
async def test_an_unknown_session_begins_anew_with_the_conversation_as_text(tmp_path: Path, as_value: bool) -> None:
    refused = SDKError("No conversation found")
    refused.subtype = "error_during_execution"  # type: ignore[attr-defined]
    first = [final(is_error=True, errors=["No conversation found"])] if as_value else [refused]
    desk = Desk(tmp_path, first, [*answer("m1", "ok"), final()])
    before = [one("user", "a"), one("assistant", "b", {"session": SESSION, "at": "x"})]
    said, error = await desk.run(turn_of("c", *before))
    assert (error, desk.clients[1].options.resume, desk.clients[1].options.resume_session_at) == (None, None, None)
    assert "User: a\n\nAssistant: b" in asked(desk.clients[1])[0]
    assert [client.acts[-1] for client in desk.clients] == ["disconnect", "disconnect"]
    assert [event.text for event in said if hasattr(event, "text")] == ["ok"]


async def test_an_error_after_the_model_began_is_not_tried_again(tmp_path: Path) -> None:
    broken = SDKError("Command failed sk-ant-abcdefghij")
    broken.exit_code, broken.subtype = -9, None  # type: ignore[attr-defined]
    desk = Desk(tmp_path, [start(), *block(0, "text", "a"), broken])
    _, error = await desk.run(turn_of("c", one("assistant", "b", {"session": SESSION, "at": "x"})))
    assert str(error) == "Claude Code ended before its answer was complete (exit code -9)."
    desk = Desk(tmp_path, [SDKError("no sk-ant-abcdefghij")])
    _, error = await desk.run(turn_of())
    assert str(error) == "Claude Code failed (ClaudeSDKError): no ***"
    assert desk.clients[0].acts[-1] == "disconnect"


async def test_files_and_quotes_are_sent(tmp_path: Path) -> None:
    class File:
        def __init__(self, name: str, media_type: str, content: bytes) -> None:
            self.name, self.media_type, self.content = name, media_type, content

        async def read(self) -> bytes:
            return self.content

    files = [File("a.png", "image/png", b"x"), File("b.txt", "text/plain", b"words"), File("c.bin", "x/y", b"")]
    desk = Desk(tmp_path, [*answer("m1", "ok"), final()])
    await desk.run(turn_of("look", files=files, quote="one\ntwo"))
    assert asked(desk.clients[0]) == [
        "> one\n> two",
        "image",
        "[attached file: b.txt, text/plain]\nwords",
        "[attached file: c.bin, x/y]",
        "look",
    ]


# Stopping


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_a_person_who_stops_the_turn_interrupts_the_cli_first(tmp_path: Path) -> None:
    desk = Desk(tmp_path, [*answer("m1", "ok")[:4], None])
    turn = turn_of()
    task = asyncio.create_task(desk.run(turn))
    await until(lambda: bool(desk.clients and desk.clients[0].asked))
    turn.stopping.set()
    said, error = await task
    assert error is None
    assert said[-1].data == {"session": SESSION, "at": "uuid of m1"}
    assert desk.clients[0].acts == ["connect", "interrupt", "disconnect"]


@pytest.mark.parametrize("cancels", [1, 2])
async def test_a_cancelled_turn_interrupts_and_ends_the_process(tmp_path: Path, cancels: int) -> None:
    desk = Desk(tmp_path, [start(), None])
    task = asyncio.create_task(desk.run(turn_of()))
    await until(lambda: bool(desk.clients and desk.clients[0].asked))
    for _ in range(cancels):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: desk.clients[0].process.ended.is_set())
    assert (desk.clients[0].acts, desk.clients[0].process.returncode) == (["connect", "interrupt", "disconnect"], 0)


@pytest.mark.parametrize("stuck", ["connect", "interrupt", "disconnect"])
async def test_a_process_that_does_not_end_is_killed(tmp_path: Path, stuck: str) -> None:
    clock = FakeClock()
    desk = Desk(tmp_path, [start(), None], clock=clock, stuck={stuck: True})
    task = asyncio.create_task(desk.run(turn_of()))
    await until(lambda: bool(desk.clients and (desk.clients[0].asked or desk.clients[0]._stuck.get("connect"))))
    await asyncio.sleep(0)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    if stuck == "disconnect":
        assert desk.clients[0].process.returncode is None
    if not task.done():
        await clock.advance(2.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (desk.clients[0].process.returncode, desk.clients[0].acts[-1]) == (-9, "disconnect")


# Approvals


async def decide(client: Client, own: str, name: str = "pay", **more: Any) -> Any:
    (matcher,) = client.options.hooks["PreToolUse"]
    assert matcher.on_failure == "block"
    decided = await matcher.hooks[0]({"tool_name": name, "tool_input": {"eur": 5}, **more}, own, {})
    return decided.get("hookSpecificOutput", {}).get("permissionDecision")


async def test_a_call_that_waits_ends_the_turn_and_its_session_is_kept(tmp_path: Path) -> None:
    waiting = [
        start(),
        assistant(tool("t1", "pay", eur=5)),
        *end("tool_use"),
        final(deferred_tool_use=tool("t1", "pay")),
    ]
    desk = Desk(tmp_path, waiting, approve=["pay"])
    said, error = await desk.run(turn_of())
    assert error is None
    (call,) = [event for event in said if isinstance(event, ToolCall) and event.needs_approval]
    assert (call.id, call.state) == ("t1", {"session": SESSION, "call": "t1"})
    # What the session holds of this answer changes with what the person says.
    assert [event for event in said if isinstance(event, Data)] == []
    client = desk.clients[0]
    assert await decide(client, "t0", "look") is None
    assert await decide(client, "t0", agent_id="a") == "deny"
    assert await decide(client, "t1") == "defer"
    assert await decide(client, "t2") == "deny"


@pytest.mark.parametrize("approved", [True, False])
async def test_the_answer_of_a_person_decides_the_call_once(tmp_path: Path, approved: bool) -> None:
    resolution = Resolution(
        approval_id="a", approved=approved, reason="no", call=PendingCall("t1", "pay"),
        state={"session": SESSION, "call": "t1"},
    )  # fmt: skip
    desk = Desk(tmp_path, [user([result_of("t1")]), *answer("m2", "ok"), final()], approve=lambda *_: True)
    before = [one("assistant", "b")]
    said, error = await desk.run(turn_of("hi", *before, resolutions=[resolution]))
    client = desk.clients[0]
    assert (error, client.asked, client.options.resume, client.options.resume_session_at) == (None, [], SESSION, None)
    assert await decide(client, "t1") == ("allow" if approved else "deny")
    assert await decide(client, "t1") == "defer"
    assert ToolResult(id="t1", output="fine") in said
    assert said[-1].data == {"session": SESSION, "at": "uuid of m2"}
    gone = Desk(tmp_path, [final(is_error=True, errors=["No conversation found"])])
    _, failed = await gone.run(turn_of("hi", *before, resolutions=[resolution]))
    assert "ask again" in str(failed)


async def test_a_session_whose_call_waits_is_left_for_the_one_before(tmp_path: Path) -> None:
    done = [*answer("m1", "ok"), final()]
    desk = Desk(tmp_path, done, done)
    before = [
        one("user", "a"),
        one("assistant", "b", {"session": SESSION, "at": "x"}),
        one("user", "pay"),
        one("assistant", "I will."),
    ]
    await desk.run(turn_of("never mind", *before))
    client = desk.clients[0]
    assert (client.options.resume, client.options.resume_session_at) == (SESSION, "x")
    assert "User: pay\n\nAssistant: I will." in asked(client)[0]
    await desk.run(turn_of("never mind", *before[2:]))
    assert desk.clients[1].options.resume is None


def test_results_of_a_failed_tool_are_errors() -> None:
    said = Said(start(), assistant(tool("t1")), end("tool_use"), user([result_of("t1", None, failed=True)]))
    assert said.of(ToolError) == [ToolError(id="t1", error="The tool failed.")]
