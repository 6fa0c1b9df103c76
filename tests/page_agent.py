"""What the agent behind the browser tests says; the question's first word chooses."""

from __future__ import annotations

import asyncio
import functools
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from turnwire.events import Reasoning, Snapshot, Step, ToolCall, ToolError, ToolResult, Usage
from turnwire.operation import Operation
from turnwire.turn import AgentError, Turn

POLL_S = 0.01

RICH = """## What I found

The **journal** is *append-only*, see [the page](https://example.org/log) and `turn.attach()`.

| store | commits |
| --- | ---: |
| SQLite | 31 000 |
| PostgreSQL | 62 000 |

```python
async def agent(turn: Turn) -> AsyncIterator[str]:
    yield "Hello"  # one delta
```

Energy is $E = mc^2$, and

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$

- [x] fenced
- [ ] bounded

<b onclick="alert(1)">no html</b> ![far](https://example.org/a.png) [bad](javascript:alert(1))
"""


def picture() -> bytes:
    """A small PNG in one colour."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x14\xb8\xa6" * 120 for _ in range(60))
    head = struct.pack(">IIBBBBB", 120, 60, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")


def gate(folder: Path, name: str) -> Path:
    """The file that lets the answer to `held NAME` go on."""
    return folder / f"gate-{name}"


async def agent(turn: Turn) -> AsyncIterator[Any]:
    """Answers by the question's first word."""
    kind, _, rest = turn.text.partition(" ")
    async for event in _KINDS.get(kind, _echo)(turn, rest):
        yield event


async def _echo(turn: Turn, rest: str) -> AsyncIterator[Any]:
    yield f"You said: {turn.text}"
    for file in turn.files:
        yield f"\n\nGot {file.name} with {len(await file.read())} bytes."


async def _held(turn: Turn, rest: str) -> AsyncIterator[Any]:
    """Half an answer; the rest once a test opens the gate (its folder and name stand in the question)."""
    yield Reasoning("weighing it")
    yield ToolCall(id="call-1", name="look", input={"at": rest})
    yield ToolResult(id="call-1", output={"seen": 1})
    for index in range(20):
        yield f"first{index} "
    await _opened(rest)
    for index in range(20):
        yield f"second{index} "


async def _opened(path: str) -> None:
    while not await asyncio.to_thread(Path(path).exists):
        await asyncio.sleep(POLL_S)


async def _pays(turn: Turn, rest: str) -> AsyncIterator[Any]:
    """Asks before it pays one bill; what follows stops halfway where a gate is named."""
    if turn.resume is None:
        yield "Let me see. "
        yield ToolCall(id="pay-1", name="pay", input={"eur": 5}, title="Pay the bill", needs_approval=True)
        return
    async for event in _goes_on(turn, rest):
        yield event


async def _buys(turn: Turn, rest: str) -> AsyncIterator[Any]:
    """As `_pays`, with three calls that ask at once."""
    if turn.resume is None:
        yield "Let me see. "
        for index in range(3):
            yield ToolCall(id=f"buy-{index}", name="buy", input={"item": index}, needs_approval=True)
        return
    async for event in _goes_on(turn, rest):
        yield event


async def _goes_on(turn: Turn, rest: str) -> AsyncIterator[Any]:
    for one in turn.resolutions:
        if one.approved:
            yield ToolResult(id=one.call.id, output={"paid": one.call.input})
    for index in range(20):
        yield f"first{index} "
    if rest:
        await _opened(rest)
    for index in range(20):
        yield f"second{index} "
    yield "".join(f"Paid {one.call.id}. " if one.approved else f"Kept {one.call.id}. " for one in turn.resolutions)


async def archive(operation: Operation, gate_path: str) -> str:
    """A background job that a test lets end."""
    await operation.progress("halfway")
    await _opened(gate_path)
    return "all is archived"


async def _leaves(turn: Turn, rest: str) -> AsyncIterator[Any]:
    await turn.background("the archive", functools.partial(archive, gate_path=rest))
    yield "I am on it."


async def _breaks(turn: Turn, rest: str) -> AsyncIterator[Any]:
    """As `_held`, but then the model gives up."""
    async for event in _held(turn, rest):
        yield event
    raise AgentError("the model went away")


async def _counts(turn: Turn, rest: str) -> AsyncIterator[Any]:
    """Which run this is for its question."""
    _runs[rest] += 1
    yield f"This is run {_runs[rest]}."


async def _tools(turn: Turn, rest: str) -> AsyncIterator[Any]:
    yield Reasoning("Two lookups will do.")
    yield ToolCall(id="a", name="search", input={"query": "log"})
    yield ToolCall(id="b", name="weather", input={"city": "Oslo"})
    yield ToolResult(id="a", output=["one", "two"])
    yield ToolError(id="b", error="the weather service is down")
    yield Step()
    yield "One tool failed, one answered."


async def _fails(turn: Turn, rest: str) -> AsyncIterator[Any]:
    yield "I begin, "
    raise AgentError("the model's account is empty")


async def _rewrites(turn: Turn, rest: str) -> AsyncIterator[Any]:
    yield "a wrong beginning"
    yield Snapshot("a right answer")


async def _files(turn: Turn, rest: str) -> AsyncIterator[Any]:
    yield "Here they are."
    await turn.attach(picture(), name="chart.png")
    await turn.attach(b"a,b\n1,2\n" * 300, name="table.csv")


async def _rich(turn: Turn, rest: str) -> AsyncIterator[Any]:
    yield Reasoning("The reader wants everything at once.")
    yield ToolCall(id="s", name="search_docs", input={"query": "journal"})
    yield ToolResult(id="s", output={"hits": 3})
    yield Step()
    for start in range(0, len(RICH), 40):
        yield RICH[start : start + 40]
    yield Usage(input_tokens=10, output_tokens=200, model="page-agent")


_runs: Counter[str] = Counter()
_KINDS = {
    "held": _held,
    "pays": _pays,
    "buys": _buys,
    "leaves": _leaves,
    "breaks": _breaks,
    "counts": _counts,
    "tools": _tools,
    "fails": _fails,
    "rewrites": _rewrites,
    "files": _files,
    "rich": _rich,
}
