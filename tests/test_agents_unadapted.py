"""Agents over frameworks without an adapter, as docs/how-to/write-an-agent.md shows them: a failure is a failure.

The frameworks are not here; what they say is, in the shapes of Agno 3 and Strands 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace as Thing
from typing import Any

import pytest

from tests.framework_turns import about, asked, calls, talking, text, thoughts

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "write-an-agent.md"


def agent_of(name: str) -> Any:
    """The agent of the page's block that begins with this file's name."""
    blocks = re.findall(r"(?s)```python\n(# (\w+\.py)\n.*?)```", PAGE.read_text(encoding="utf-8"))
    (code,) = [code for code, file in blocks if file == name]
    space: dict[str, Any] = {}
    exec(compile(code, name, "exec"), space)
    return space["agent"]


class Framework:
    """Gives each run the events of `said`, and remembers what it was `asked`."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.asked: list[Any] = []

    async def run(self, question: Any, **_: Any) -> AsyncIterator[Any]:
        self.asked.append(question)
        for event in self.said:
            yield event


@pytest.fixture
def agno(monkeypatch: pytest.MonkeyPatch) -> Framework:
    framework = Framework()
    monkeypatch.setitem(sys.modules, "agno", Thing())
    monkeypatch.setitem(sys.modules, "agno.agent", Thing(Agent=lambda **_: Thing(arun=framework.run)))
    monkeypatch.setitem(sys.modules, "agno.models", Thing())
    monkeypatch.setitem(sys.modules, "agno.models.openai", Thing(OpenAIChat=lambda **_: None))
    monkeypatch.setitem(sys.modules, "openai", Thing(AsyncOpenAI=lambda **_: None))
    return framework


@pytest.fixture
def strands(monkeypatch: pytest.MonkeyPatch) -> Framework:
    framework = Framework()

    def make(messages: list[Any], **_: Any) -> Any:
        framework.asked.append(messages)
        return Thing(stream_async=framework.run)

    monkeypatch.setitem(sys.modules, "strands", Thing(Agent=make))
    return framework


def said_by_agno(words: str, thought: str = "") -> Thing:
    return Thing(event="RunContent", content=words, reasoning_content=thought or None)


def tool_of_agno(event: str, own: str, result: str | None = None, failed: bool | None = None) -> Thing:
    tool = Thing(tool_call_id=own, tool_name="look", tool_args={"q": own}, result=result, tool_call_error=failed)
    return Thing(event=event, tool=tool)


async def test_a_whole_run_of_agno_is_done(agno: Framework, tmp_path: Path) -> None:
    agno.said = [
        Thing(event="RunStarted"),
        said_by_agno("", "Hm."),
        tool_of_agno("ToolCallStarted", "a"),
        tool_of_agno("ToolCallStarted", "b"),
        tool_of_agno("ToolCallCompleted", "a", "blue", failed=False),
        # A call that failed is completed first.
        tool_of_agno("ToolCallCompleted", "b", "password hunter2", failed=True),
        tool_of_agno("ToolCallError", "b"),
        said_by_agno("Hello"),
        Thing(event="RunContentCompleted"),
        Thing(event="RunCompleted"),
    ]
    async with talking(agent_of("agno_agent.py"), tmp_path) as client:
        message = await asked(client, "one")
        await asked(client, "two")
    assert (about(message)["outcome"], text(message), thoughts(message)) == ("done", "Hello", "Hm.")
    assert calls(message) == [
        ("output-available", {"q": "a"}, "blue"),
        ("output-error", {"q": "b"}, "The tool failed."),
    ]
    assert [each["content"] for each in agno.asked[1]] == ["one", "Hello", "two"]


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ([Thing(event="RunError", content="key sk-1 refused")], "The model failed before its answer was complete."),
        ([Thing(event="RunCancelled", reason="")], "The model failed before its answer was complete."),
        ([], "The agent ended before its answer was complete."),
    ],
)
async def test_a_failure_that_agno_reports_as_a_value_is_a_failure(
    last: list[Any], why: str, agno: Framework, tmp_path: Path
) -> None:
    agno.said = [said_by_agno("Hel"), *last]
    async with talking(agent_of("agno_agent.py"), tmp_path) as client:
        message = await asked(client)
    assert (about(message)["outcome"], about(message)["reason"], text(message)) == ("failed", why, "Hel")


def end_of_strands(words: str, reason: str = "end_turn") -> dict[str, Any]:
    return {"result": Thing(stop_reason=reason, message={"content": [{"text": words}] if words else []})}


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ([end_of_strands("Hello")], "done"),
        ([end_of_strands("")], "failed"),
        ([end_of_strands("Hello", "guardrail_intervened")], "failed"),
        ([], "failed"),
    ],
)
async def test_a_run_of_strands_is_done_only_with_its_whole_text(
    last: list[Any], outcome: str, strands: Framework, tmp_path: Path
) -> None:
    strands.said = [{"init_event_loop": True}, {"data": "Hel"}, {"data": "lo"}, *last]
    async with talking(agent_of("strands_agent.py"), tmp_path) as client:
        message = await asked(client, "one")
        await asked(client, "two")
    assert (about(message)["outcome"], text(message)) == (outcome, "Hello")
    assert strands.asked[2:] == [
        [{"role": "user", "content": [{"text": "one"}]}, {"role": "assistant", "content": [{"text": "Hello"}]}],
        [{"text": "two"}],
    ]
