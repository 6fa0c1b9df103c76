"""What people see of a turn when the provider misbehaves, through each framework with its own library.

What `test_frameworks_claude.py` and its like already show of a case is not repeated here.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.framework_cases import Desk, claude_desk, desk, no_settings_of_the_machine
from tests.framework_turns import about, answer_of, calls, text, thoughts
from tests.framework_turns import asked as answered
from turnwire.sim.models import LEAKED_KEY, SCENARIOS, TEXT
from turnwire.testing.clock import FakeClock

for library in ("agents", "openai", "langgraph", "langchain_openai", "claude_agent_sdk"):
    pytest.importorskip(library)

pytestmark = [pytest.mark.anyio, pytest.mark.frameworks, pytest.mark.timeout(60)]

SDKS = [(framework, wire) for framework in ("openai-agents", "langgraph") for wire in "OR"]
HALF = "Hello, wörld "
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CUT = "ended before its answer was complete"
LOST_COUNTS = {"o_no_done", "o_usage_very_late", "rst_after_finish", "eof_after_finish", "done_without_finish"}
"""Over Chat Completions the token counts of these do not come, or too late."""


@pytest.fixture(scope="module", autouse=True)
def _alone() -> Iterator[None]:
    with no_settings_of_the_machine():
        yield


@pytest.fixture(scope="module")
async def desks(tmp_path_factory: pytest.TempPathFactory, anyio_backend: Any) -> AsyncIterator[dict[Any, Desk]]:
    """One gateway for each framework and wire; they are begun once and shared by all cases."""
    async with contextlib.AsyncExitStack() as stack:
        opened = {pair: await stack.enter_async_context(desk(*pair, tmp_path_factory.mktemp("desk"))) for pair in SDKS}
        for each in opened.values():
            # Imports that a library puts off to its first request would cost that request its time.
            await each.ask("ok")
        yield opened


@pytest.fixture(scope="module")
async def claude(tmp_path_factory: pytest.TempPathFactory, anyio_backend: Any) -> AsyncIterator[dict[int, Desk]]:
    """Claude behind the guard, by how often the CLI repeats a request."""
    async with contextlib.AsyncExitStack() as stack:
        yield {
            retries: await stack.enter_async_context(claude_desk(tmp_path_factory.mktemp("claude"), retries))
            for retries in (0, 2)
        }


def cases(names: Any) -> pytest.MarkDecorator:
    """Every framework and wire with each of the scenarios that its wire knows."""
    pairs = [(*pair, name) for name in names for pair in SDKS if pair[1] in SCENARIOS[name].wires]
    return pytest.mark.parametrize(
        ("framework", "wire", "scenario"), pairs, ids=[f"{name}-{one}-{wire}" for one, wire, name in pairs]
    )


@cases(
    [
        *("ok", "o_no_done", "o_open_after_done", "o_usage_late", "o_usage_late_hang", "o_usage_very_late"),
        *("r_open_after_completed", "rst_after_finish", "eof_after_finish", "done_without_finish"),
        *("double_finish", "garbage_after_done", "bytewise", "crlf_split", "r_noevent", "last_no_blank"),
    ]
)
async def test_a_whole_answer_is_done(framework: str, wire: str, scenario: str, desks: Any) -> None:
    at = desks[framework, wire]
    message, _ = await at.ask(scenario)
    found = about(message)
    assert (found["outcome"], text(message), at.went) == ("done", TEXT, [scenario])
    counts = None if wire == "O" and scenario in LOST_COUNTS else 42
    assert found.get("usage", {}).get("totalTokens") == counts


UNFINISHED = {
    "r_no_completed": (TEXT, CUT),
    "r_no_completed_open": (TEXT, "sent nothing for 0.4 s"),
    "clean_eof_mid": (HALF, CUT),
    "raw_eof_mid": (HALF, CUT),
    "fin_mid": (HALF, "connection to the model broke"),
    "bad_chunk": (HALF, "connection to the model broke"),
    "bad_json": ("Hello, ", "is damaged"),
    "stall_after_2": (HALF, "sent nothing for 0.4 s"),
    "pings_forever": (HALF, "only keep-alives for 0.8 s"),
    "error_mid_open": (HALF, "reported an error: overloaded"),
    "r_failed_mid": (HALF, "reported an error: overloaded"),
    "error_first": ("", "reported an error: overloaded"),
    "empty_body": ("", CUT),
    "json_200": ("", "one JSON document instead of an event stream"),
    "html_200": ("", "a web page instead of an event stream"),
    "401": ("", "answered 401"),
}


@cases(UNFINISHED)
async def test_an_unfinished_answer_fails_and_what_was_said_stays(
    framework: str, wire: str, scenario: str, desks: Any
) -> None:
    said, why = UNFINISHED[scenario]
    message, exchange = await desks[framework, wire].ask(scenario)
    assert (about(message)["outcome"], text(message)) == ("failed", said)
    assert why in about(message)["reason"]
    assert LEAKED_KEY not in exchange.body.decode()
    assert [event["type"] for event in exchange.events()][-2:] == ["error", "finish"]


@cases(["tools_cut", "tools_max_tokens"])
async def test_a_call_that_was_cut_is_not_run(framework: str, wire: str, scenario: str, desks: Any) -> None:
    at = desks[framework, wire]
    message, _ = await at.ask(scenario)
    assert (about(message)["outcome"], at.tools.ran, at.went) == ("failed", [], [scenario])
    assert [state for state, *_ in calls(message)] == ["output-error"]


@cases(["500", "503", "529", "rst_on_connect", "no_headers", "half_headers"])
async def test_a_request_that_failed_before_its_answer_is_made_again(
    framework: str, wire: str, scenario: str, desks: Any
) -> None:
    at = desks[framework, wire]
    message, exchange = await at.ask(scenario)
    assert (about(message)["outcome"], text(message), at.went) == ("done", TEXT, [scenario, "ok"])
    assert "reset-step" not in [event["type"] for event in exchange.events()]


@cases(["tools_no_args"])
async def test_a_call_without_arguments_is_run(framework: str, wire: str, scenario: str, desks: Any) -> None:
    at = desks[framework, wire]
    message, _ = await at.ask(scenario, "ok")
    assert (calls(message), at.tools.ran) == ([("output-available", {}, "noon")], [{}])
    assert (about(message)["outcome"], text(message)) == ("done", TEXT)


@pytest.mark.parametrize("scenario", ["tools_no_index", "tools_repeated_id"])
async def test_a_call_without_an_index_is_one_call_or_none(scenario: str, desks: Any) -> None:
    at = desks["openai-agents", "O"]
    message, _ = await at.ask(scenario, "ok")
    assert calls(message) == [("output-available", {"city": "北京"}, "clear over 北京")]
    assert at.tools.ran == [{"city": "北京"}]
    # LangChain tells the pieces of a call by their index, and takes it apart without one.
    at = desks["langgraph", "O"]
    message, _ = await at.ask(scenario, "ok")
    assert (about(message)["outcome"], at.tools.ran) == ("failed", [])
    assert about(message)["reason"] == "The model wrote a tool call that cannot be read; the call was not run."


@cases(["o_reasoning"])
async def test_thoughts_of_another_spelling_are_no_text(framework: str, wire: str, scenario: str, desks: Any) -> None:
    message, _ = await desks[framework, wire].ask(scenario)
    # LangChain drops the thoughts of Chat Completions.
    assert (text(message), thoughts(message)) == (TEXT, "Let me think." if framework == "openai-agents" else "")


async def test_a_refusal_that_langchain_drops_is_no_silent_success(desks: Any) -> None:
    message, _ = await desks["langgraph", "O"].ask("refusal")
    assert (about(message)["outcome"], text(message)) == ("failed", "")
    assert about(message)["reason"] == "The agent ended without an answer."
    message, exchange = await desks["langgraph", "R"].ask("refusal")
    assert (about(message)["outcome"], text(message)) == ("done", "I cannot help.")
    assert exchange.events()[-1]["finishReason"] == "content-filter"


async def test_without_a_guard_a_chat_answer_counts_only_with_its_token_counts(tmp_path: Path) -> None:
    """The OpenAI Agents SDK hides why a Chat Completions answer ended, so then only its counts prove the end."""
    async with desk("openai-agents", "O", tmp_path, guarded=False) as at:
        for scenario in ("eof_after_finish", "done_without_finish"):
            message, _ = await at.ask(scenario)
            assert (about(message)["outcome"], text(message)) == ("failed", TEXT), scenario
            assert CUT in about(message)["reason"]


async def test_without_a_guard_an_answer_counts_only_if_it_says_why_it_ended(tmp_path: Path) -> None:
    async with desk("langgraph", "O", tmp_path, guarded=False) as at:
        message, _ = await at.ask("done_without_finish")
        assert (about(message)["outcome"], text(message)) == ("failed", TEXT)
        assert CUT in about(message)["reason"]


@pytest.mark.parametrize("scenario", ["rst_after_finish", "eof_after_finish", "double_finish", "garbage_after_done"])
async def test_claude_whole_answers_are_done(scenario: str, claude: Any) -> None:
    at = claude[2]
    message, _ = await at.ask(scenario)
    assert (about(message)["outcome"], text(message), at.went) == ("done", TEXT, [scenario])


@pytest.mark.parametrize(
    ("scenario", "again"),
    [
        *((name, True) for name in ("raw_eof_mid", "fin_mid", "rst_mid", "bad_json", "tools_cut")),
        *((name, True) for name in ("error_mid_open", "pings_forever")),
        *((name, False) for name in ("empty_body", "error_first", "json_200", "html_200")),
        *((name, False) for name in ("500", "no_headers", "rst_on_connect")),
    ],
)
async def test_claude_answers_that_were_cut_are_told_again_once(scenario: str, again: bool, claude: Any) -> None:
    at = claude[2]
    message, exchange = await at.ask(scenario)
    assert (about(message)["outcome"], text(message), at.went) == ("done", TEXT, [scenario, "ok"])
    assert ("reset-step" in [event["type"] for event in exchange.events()]) is again
    assert (calls(message), at.tools.ran) == ([], [])


@pytest.mark.parametrize(
    ("scenario", "said", "why"),
    [
        ("html_200", "", "empty or malformed response"),
        ("no_headers", "", "did not answer within 1 s"),
        ("rst_on_connect", "", "cannot be reached"),
        ("refusal", "I cannot help.", "can't help with this"),
        ("filter", HALF, "can't help with this"),
    ],
)
async def test_claude_failures_are_failures(scenario: str, said: str, why: str, claude: Any) -> None:
    message, exchange = await claude[0].ask(*[scenario] * 4)
    assert about(message)["outcome"] == "failed"
    assert why in about(message)["reason"]
    assert set(filter(None, text(message).split(said))) <= {""} if said else text(message) == ""
    assert "127.0.0.1" not in exchange.body.decode()


async def test_claude_runs_a_call_without_arguments(claude: Any) -> None:
    at = claude[2]
    message, _ = await at.ask("tools_no_args", "ok")
    assert (calls(message), at.tools.ran) == ([("output-available", {}, "noon")], [{}])
    assert (about(message)["outcome"], text(message)) == ("done", TEXT)


@pytest.mark.shows("Claude Agent SDK", "files")
async def test_claude_gets_a_picture(claude: Any) -> None:
    data = base64.b64encode(PNG).decode()
    picture = {"type": "file", "url": f"data:image/png;base64,{data}", "mediaType": "image/png", "filename": "a.png"}
    parts = [{"type": "text", "text": "See?"}, picture]
    message, _ = await claude[2].ask("ok", messages=[{"id": "picture", "role": "user", "parts": parts}])
    assert text(message) == TEXT
    assert data in json.dumps(claude[2].sim.requests[0].body)


async def test_claude_stopped_after_the_provider_had_finished_keeps_the_whole_answer(tmp_path: Path) -> None:
    async with claude_desk(tmp_path, guarded=False) as at:
        at.sim.plan(["a_open_after_stop"])
        exchange = at.client.ask("hi")
        await exchange.until(lambda seen: "done." in str(seen.events()))
        await at.client.post("/api/chat/c/stop", {})
        await exchange.done()
        await at.sim.wait_ended()
        message = await answer_of(at.client)
        assert (about(message)["outcome"], text(message)) == ("stopped", TEXT)
        assert at.sim.requests[0].ended == "client_closed"


async def test_claude_loses_no_message_when_a_deadline_passes_while_it_is_waited_for(tmp_path: Path) -> None:
    clock = FakeClock()
    async with claude_desk(tmp_path, guarded=False, clock=clock) as at:
        at.sim.plan(["stall_after_2"])
        exchange = at.client.ask("hi")
        await exchange.until(lambda seen: "wörld" in str(seen.events()))
        await clock.advance(301)
        await exchange.done()
        # The CLI has real seconds to end, and the gateway's clock is another.
        await at.sim.wait_ended()
        message = await answer_of(at.client)
        assert (about(message)["outcome"], text(message)) == ("failed", HALF)
        assert "300 s" in about(message)["reason"]
        assert at.sim.requests[0].ended == "client_closed"
        assert text(await answered(at.client, "again")) == TEXT
        assert HALF.strip() in str((at.sim.requests[-1].body or {})["messages"])
