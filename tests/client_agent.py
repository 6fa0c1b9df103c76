"""What the agent says to real clients: one scenario for each first word of a question.

A scenario that waits goes on when somebody asks `open GATE` in another conversation; a gate is named after the waiting
conversation, so that a test decides what a client has shown before more comes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

from turnwire import events as e
from turnwire.turn import AgentError, Turn

_gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


async def agent(turn: Turn) -> AsyncIterator[Any]:
    """Plays the scenario that the question names."""
    async for event in _SCENARIOS[turn.text.split()[0]](turn):
        yield event


async def _open(turn: Turn) -> AsyncIterator[Any]:
    _gates[turn.text.split()[1]].set()
    yield "opened"


async def _text(turn: Turn) -> AsyncIterator[Any]:
    yield "Hello, "
    yield "world: 你好 😀\n\n\u2028end"


async def _reasoning(turn: Turn) -> AsyncIterator[Any]:
    yield e.Reasoning("Let me ")
    yield e.Reasoning("think.", metadata={"anthropic": {"signature": "s1"}})
    yield "Done."
    yield e.Usage(input_tokens=3, output_tokens=4, model="m1", finish_reason="stop")


async def _tools(turn: Turn) -> AsyncIterator[Any]:
    yield "Looking."
    yield e.ToolInput("a", "search", '{"q": ')
    yield e.ToolInput("a", "search", '"x"}')
    yield e.ToolCall(id="a", name="search", input={"q": "x"}, title="Search", metadata={"openai": {"item": "1"}})
    yield e.ToolCall(id="b", name="run", input={"code": [1]}, title="Run", dynamic=True)
    yield e.ToolCall(id="c", name="search", input=None)
    yield e.ToolResult(id="c", output=None)
    yield e.ToolResult(id="b", output={"exit": 0})
    yield e.ToolResult(id="a", output="half", preliminary=True)
    yield e.ToolResult(id="a", output={"found": ["é", 2, None]})
    yield "Found."


async def _toolerror(turn: Turn) -> AsyncIterator[Any]:
    yield e.ToolCall(id="a", name="search", input={"q": 1}, title="Search")
    yield e.ToolError(id="a", error="The index is gone.")
    yield e.ToolInput("b", "run", '{"broken')
    yield e.ToolError(id="b", error="These arguments are no JSON.")
    yield "It did not work."


async def _file(turn: Turn) -> AsyncIterator[Any]:
    yield "Here:"
    await turn.attach(b"a,b\n1,2\n", name="table.csv", media_type="text/csv")
    yield e.Source(id="s1", url="https://example.org/a", title="A page")
    yield "That was it."


async def _data(turn: Turn) -> AsyncIterator[Any]:
    yield e.Data(name="chart", data={"step": 1}, id="c1")
    yield e.Data(name="note", data="only now", transient=True)
    yield "Charted."
    yield e.Data(name="chart", data={"step": 2}, id="c1")
    yield e.Data(name="plain", data=[1, None])


async def _fail(turn: Turn) -> AsyncIterator[Any]:
    yield "As far as"
    yield e.ToolCall(id="a", name="search", input={})
    raise AgentError("The model ran out of words.")


async def _stop(turn: Turn) -> AsyncIterator[Any]:
    yield "One "
    yield e.ToolCall(id="a", name="search", input={})
    await asyncio.Event().wait()


async def _count(turn: Turn) -> AsyncIterator[Any]:
    yield f"I have read {len(turn.messages)} messages."


async def _slow(turn: Turn) -> AsyncIterator[Any]:
    yield e.Reasoning("So.")
    yield e.ToolCall(id="a", name="search", input={"q": 1})
    yield e.ToolResult(id="a", output=1)
    yield "The first half"
    await _gates[turn.conversation].wait()
    yield " and the second."


async def _rewrite(turn: Turn) -> AsyncIterator[Any]:
    yield e.ToolCall(id="a", name="search", input={"q": 1})
    yield e.ToolResult(id="a", output=1)
    yield "Total: 10"
    await _gates[turn.conversation].wait()
    yield e.Snapshot("Total: 12")
    await _gates[f"{turn.conversation}-2"].wait()
    yield " in all."


async def _long(turn: Turn) -> AsyncIterator[Any]:
    yield e.Reasoning("Hm.")
    yield e.ToolCall(id="a", name="search", input={"q": 1})
    yield e.ToolCall(id="b", name="run", input={}, dynamic=True)
    yield e.Data(name="note", data="passing", transient=True)
    yield e.ToolResult(id="b", output=2)
    yield e.ToolResult(id="a", output=1)
    yield "Here is "
    yield e.Data(name="chart", data=1, id="c1")
    yield "the chart."


async def _approve(turn: Turn) -> AsyncIterator[Any]:
    if turn.resume is None:
        yield "May I? "
        yield e.ToolCall(id="c", name="search", input={"q": 1})
        yield e.ToolResult(id="c", output=1)
        yield e.ToolCall(id="a", name="pay", input={"eur": 5}, title="Pay", needs_approval=True)
        yield e.ToolCall(id="b", name="run", input={}, dynamic=True, needs_approval=True)
        return
    for one in turn.resolutions:
        if one.approved:
            yield e.ToolResult(id=one.call.id, output={"paid": 5})
    yield f"Paid, but not run: {turn.resolutions[-1].reason}."


async def _steer(turn: Turn) -> AsyncIterator[Any]:
    yield "Listening"
    async for message in turn.inbox:
        yield f", and heard {message.text}."
        return


_SCENARIOS: dict[str, Callable[[Turn], AsyncIterator[Any]]] = {
    "open": _open,
    "text": _text,
    "reasoning": _reasoning,
    "tools": _tools,
    "toolerror": _toolerror,
    "file": _file,
    "data": _data,
    "fail": _fail,
    "stop": _stop,
    "count": _count,
    "slow": _slow,
    "rewrite": _rewrite,
    "long": _long,
    "approve": _approve,
    "steer": _steer,
}
