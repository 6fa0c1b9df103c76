"""Named scenarios of deliveries on a simulated Feishu tenant, and their traces in `tests/traces/`.

`python -m tests.feishu_traces` writes the traces anew; look at the difference before you commit it.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from tests.feishu_stage import OneChat, Play
from turnwire import Snapshot, ToolCall, ToolResult
from turnwire.channels.feishu.surface import FeishuSurface
from turnwire.delivery.surface import DeliveryOrder
from turnwire.delivery.traces import Entry, Recorder
from turnwire.sim.feishu import ChatView, Fault
from turnwire.testing import Attach, End, MemoryStore, Pause

FOLDER = Path(__file__).parent / "traces"


@dataclass
class Scenario:
    """What the agent says, and what goes wrong meanwhile.

    Args:
        dies: at which outward calls the process dies.
        recalled_at: after how many seconds Alice takes her question back.
    """

    script: Sequence[Any]
    faults: Sequence[Fault] = ()
    dies: dict[int, str] = field(default_factory=dict)
    recalled_at: float = 0.0


class Traced(OneChat):
    """The channel of whatever process runs; all of them write one trace."""

    def __init__(self, play: Play, recorder: Recorder) -> None:
        super().__init__(play)
        self._recorder = recorder

    def surface(self, order: DeliveryOrder) -> FeishuSurface:
        found = super().surface(order)
        self._made[self._play.stage.processes].wire.trace = self._recorder
        return found


def _image() -> str:
    """The address of a small red PNG."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\xd0\x20\x20" * 8 for _ in range(8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _words(count: int) -> list[Any]:
    return [piece for number in range(count) for piece in (f"word {number} ", Pause(0.4))]


def _tool(seconds: float) -> list[Any]:
    return [ToolCall(id="t1", name="report", input={"of": "today"}), Pause(seconds), ToolResult(id="t1", output="ok")]


LONG = "\n\n".join(f"Paragraph {number}: " + "all of it has to arrive. " * 12 for number in range(110))

SCENARIOS: dict[str, Scenario] = {
    "streaming-happy": Scenario([*_words(10), "and **done**."]),
    "final-only": Scenario([Pause(3.0), "All at once: **here**."]),
    "cancel-mid-stream": Scenario([*_words(8), End("stopped", "Alice")]),
    "rate-limit-during-preview": Scenario(
        [*_words(10), "and done."], faults=[Fault("content", "refuse", nth=2, code=99991400, seconds=1.5)]
    ),
    "media-with-caption": Scenario(
        ["The visits of today:\n\n", f"![chart]({_image()})\n\n", Pause(0.5), Attach("visits.csv"), "and as a table."]
    ),
    "overflow": Scenario(["Begin.\n\n", Pause(1.0), LONG, Pause(1.0), "\n\nEnd."]),
    "multi-final": Scenario(["First answer.", *_tool(1.0), "Second answer.", Pause(1.0), "\n\nThird answer."]),
    "rewrite": Scenario(["It rains", Pause(1.0), " in Berlin.", Pause(1.0), Snapshot("It is sunny in Berlin.")]),
    "lifetime-rollover": Scenario(["One moment. ", *_tool(700.0), "The report is ready."]),
    "recalled": Scenario([*_words(8), End("stopped", "the question was recalled")], recalled_at=3.0),
    "restart-mid-stream": Scenario([*_words(12), "and done."], dies={8: "after"}),
}


async def play(name: str, store: MemoryStore) -> tuple[list[Entry], str]:
    """Runs a scenario; returns its trace and what is seen at the end."""
    scenario, trace = SCENARIOS[name], list[Entry]()
    turn = Play(store, faults=[replace(fault) for fault in scenario.faults], dies=scenario.dies)
    recorder = Recorder(trace.append, turn.clock, secrets=[turn.sim.app_id, turn.sim.app_secret])
    turn.stage.channel = Traced(turn, recorder)

    def tell() -> None:
        body = turn.sim.events.deliveries[-1].body
        recorder.event(body["header"]["event_type"], body)

    def recall() -> None:
        turn.sim.people.recall(turn.asked)
        tell()

    tell()
    if scenario.recalled_at:
        turn.clock.call_later(scenario.recalled_at, recall)
    await turn.run(scenario.script)
    turn.sim.events.close()
    return trace, seen(turn.sim.view(turn.chat))


def seen(chat: ChatView) -> str:
    """What people see, without what differs between two runs."""
    lines: list[str] = []
    for message in chat.messages:
        state = [message.kind, *([message.gone] if message.gone else []), *(name for name, _ in message.reactions)]
        if message.card is not None and message.card.streaming:
            state.append("streaming")
        if message.file is not None:
            state.append(f"{message.file.size} bytes")
        if message.parent_id:
            state.append("reply")
        lines += [f"# {message.sender}: {', '.join(state)}", message.text, ""]
    return "\n".join(lines)


def acts(trace: Sequence[Entry]) -> dict[str, list[str]]:
    """What was done and what came of it, in order; one line for what is repeated at once.

    Cards and messages are two lists: files go out beside a card's frames, as soon as they are read.
    """
    answers = {entry.data["to"]: entry.kind for entry in trace if "to" in entry.data}
    found: dict[str, list[str]] = {"events": [], "cards": [], "messages": []}
    for entry in trace:
        if entry.dir == "out":
            lane = "cards" if "/cardkit/" in entry.kind else "messages"
            found[lane].append(f"{entry.kind}: {answers.get(entry.seq, 'no answer')}")
        elif "to" not in entry.data:
            found["events"].append(entry.kind)
    return {lane: [act for act, _ in groupby(told)] for lane, told in found.items()}


def stored(name: str) -> tuple[Path, Path]:
    """Where a scenario's trace is, and what was seen at its end."""
    return FOLDER / f"{name}.jsonl", FOLDER / f"{name}.txt"


def write(name: str, trace: Sequence[Entry], chat: str) -> None:
    """Keeps a trace as the one that is right."""
    FOLDER.mkdir(exist_ok=True)
    lines, text = stored(name)
    lines.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in trace))
    text.write_text(chat, encoding="utf-8")


async def _main(names: Sequence[str]) -> None:
    for name in names or SCENARIOS:
        write(name, *await play(name, MemoryStore()))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:]))
