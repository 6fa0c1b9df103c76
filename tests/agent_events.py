"""Whatever an agent may do in a turn, as hypothesis strategies.

Ids come from small pools, so that duplicates, results before their calls, ids used again in a later step, calls without
an answer and interleavings are likely. Texts hold what breaks clients and databases: NUL, lone surrogates, surrogate
pairs cut in two, line ends of all kinds, characters outside the first plane.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from hypothesis import settings
from hypothesis import strategies as st

from tests.strict_client import StrictClient
from turnwire import chunks as c
from turnwire import events as e
from turnwire.framer import Framer, Outcome
from turnwire.view import ToolPart, View

few = settings(max_examples=max(25, settings().max_examples // 4))
"""For tests whose cost grows with the square of a turn's length."""

_ODD = "ab. \n\r\t\0é中文😀\u2028\ud83d\ude00\udc00\ufffd"
_IDS = ("a", "a", "b", "b", "a~2", "c\0", "\ud83d")
_TOOLS = ("search", "run-it")
_KEYS = ("k", "__proto__", "constructor", "prototype", "n\0", "\udc00")

texts = st.text(alphabet=_ODD, max_size=5) | st.sampled_from(["Hello", "Total: 1", "Total: 10", "你好"])
ids = st.sampled_from(_IDS)
names = st.sampled_from(_TOOLS)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([2**70, -(2**65)]) | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=2) | st.tuples(inner) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=2)
    ),
    max_leaves=4,
)
metadata = st.none() | st.dictionaries(
    st.sampled_from(["anthropic", "openai"]),
    st.dictionaries(st.sampled_from(_KEYS), json_values, max_size=1),
    max_size=1,
)
_json_texts = st.sampled_from(['{"q": ', '"x"}', "{}", "[1", "\ud83d", "\ude00", ""])

talk = st.one_of(
    texts,
    st.builds(e.Text, texts),
    st.builds(e.Snapshot, texts, st.none() | st.sampled_from(["p", "q"])),
    st.builds(e.Reasoning, texts, metadata),
)
"""What only text and reasoning are made of."""

tool_events = st.one_of(
    st.builds(e.ToolInput, ids, names, _json_texts, st.booleans()),
    st.builds(
        e.ToolCall,
        id=ids,
        name=names,
        input=json_values,
        title=st.none() | texts,
        dynamic=st.booleans(),
        metadata=metadata,
        needs_approval=st.sampled_from([False, False, True]),
    ),
    st.builds(e.ToolResult, id=ids, output=json_values, name=st.none() | names, preliminary=st.booleans()),
    st.builds(e.ToolError, id=ids, error=texts, name=st.none() | names),
)

other_events = st.one_of(
    st.builds(e.Step, st.booleans()),
    st.builds(
        e.File, url=st.sampled_from(["/files/1", "/files/\0x"]), media_type=st.just("text/csv"), metadata=metadata
    ),
    st.builds(e.Source, id=ids, url=st.just("https://example.org"), title=st.none() | texts),
    st.builds(
        e.Data,
        name=st.sampled_from(["chart", "note"]),
        data=json_values,
        id=st.none() | st.sampled_from(["1", "2", ""]),
        transient=st.booleans(),
    ),
    st.builds(
        e.Usage,
        input_tokens=st.none() | st.integers(0, 9),
        output_tokens=st.none() | st.integers(0, 9),
        model=st.none() | st.sampled_from(["m1", "m\0"]),
        finish_reason=st.none() | st.sampled_from(get_args(e.FinishReason)),
    ),
)

any_event = talk | tool_events | other_events

broken_events = st.sampled_from(
    [
        None,
        3,
        b"bytes",
        ["text"],
        e.Text(5),  # type: ignore[arg-type]
        e.Snapshot(None),  # type: ignore[arg-type]
        e.Snapshot("x", part=[]),  # type: ignore[arg-type]
        e.Reasoning("x", metadata={"anthropic": 1}),  # type: ignore[dict-item]
        e.Reasoning("x", metadata="signature"),  # type: ignore[arg-type]
        e.Step(retry="yes"),  # type: ignore[arg-type]
        e.ToolInput("", "search", "{"),
        e.ToolInput("a", "search", b"{"),  # type: ignore[arg-type]
        e.ToolCall(id="a", name=""),
        e.ToolCall(id=7, name="search"),  # type: ignore[arg-type]
        e.ToolCall(id="a", name="search", input=object()),
        e.ToolCall(id="a", name="search", title=1),  # type: ignore[arg-type]
        e.ToolCall(id="a", name="search", needs_approval="yes"),  # type: ignore[arg-type]
        e.ToolCall(id="a", name="search", needs_approval=True, state=object()),
        e.ToolResult(id="a", output=[{"x": {1: {object()}}}]),
        e.ToolResult(id="a", output={None: 1}),
        e.ToolResult(id="a", preliminary="no"),  # type: ignore[arg-type]
        e.ToolResult(id="a", name=5),  # type: ignore[arg-type]
        e.ToolError(id="a", error=ValueError("x")),  # type: ignore[arg-type]
        e.File(url="", media_type="text/csv"),
        e.File(url="/files/1", media_type=None),  # type: ignore[arg-type]
        e.Source(id="s", url="u", title=3),  # type: ignore[arg-type]
        e.Data(name="turnwire", data=1),
        e.Data(name="\0", data=1),
        e.Data(name="chart", data=1, id=2),  # type: ignore[arg-type]
        e.Usage(input_tokens=-1),
        e.Usage(output_tokens="3"),  # type: ignore[arg-type]
        e.Usage(model=object()),  # type: ignore[arg-type]
        e.Usage(finish_reason="bored"),  # type: ignore[arg-type]
    ]
)
"""Events that no turn can take."""

outcomes: st.SearchStrategy[Outcome] = st.sampled_from(get_args(Outcome))


@dataclass
class Spoken:
    """A turn as a framer framed it: the groups of chunks that its calls returned, and what it refused."""

    framer: Framer
    groups: list[list[c.AnyChunk]] = field(default_factory=list)
    refused: list[e.AgentEventError] = field(default_factory=list)

    @property
    def chunks(self) -> list[c.AnyChunk]:
        return [chunk for group in self.groups for chunk in group]


def speak(events: Sequence[Any], outcome: Outcome | None = "done", *, reason: str | None = None) -> Spoken:
    """Frames a whole turn; with no `outcome`, one whose process died. Events that are refused are passed over."""
    return _speak(Framer("msg_1", {"turnwire": {"turn": "turn_1"}}), events, outcome, reason)


def _speak(framer: Framer, events: Sequence[Any], outcome: Outcome | None, reason: str | None = None) -> Spoken:
    spoken = Spoken(framer, [framer.start()])
    for event in events:
        try:
            spoken.groups.append(framer.feed(event))
        except e.AgentEventError as error:
            spoken.refused.append(error)
    if outcome is not None:
        ending = {"turnwire": {"outcome": outcome}}
        spoken.groups.append(framer.finish(outcome, reason=reason, metadata=ending))
    return spoken


def asked(view: View) -> list[str]:
    """The ids of the approvals that the view asks for."""
    return [part.approval.id for part in view.parts if isinstance(part, ToolPart) and part.asks and part.approval]


@st.composite
def answers(draw: st.DrawFn, view: View) -> list[c.ToolApprovalResponse]:
    """What people may answer to everything that the view asks for."""
    reasons = st.none() | st.sampled_from(["fine", "superseded"])
    return [c.ToolApprovalResponse(own, draw(st.booleans()), draw(reasons)) for own in asked(view)]


def speak_on(before: Sequence[c.AnyChunk], said: Sequence[c.ToolApprovalResponse], events: Sequence[Any],
             outcome: Outcome | None = "done") -> Spoken:  # fmt: skip
    """Frames a turn that goes on with the message of the turns whose chunks are `before`, one `finish` each."""
    framer = Framer("msg_1", {"turnwire": {"turn": "turn_2"}}, base=refold(before), answers=said)
    return _speak(framer, events, outcome)


def refold(chunks: Sequence[c.AnyChunk]) -> View:
    """The fold of several turns of one message, one after the other."""
    view = View()
    for chunk in chunks:
        view.apply(chunk)
        if isinstance(chunk, c.Finish):
            view.go_on()
    return view


@st.composite
def turns(draw: st.DrawFn, events: st.SearchStrategy[Any] = any_event, max_size: int = 20) -> Spoken:
    """A whole turn, however it ended."""
    return speak(draw(st.lists(events, max_size=max_size)), draw(outcomes), reason=draw(st.none() | texts))


def wire(chunks: Sequence[c.AnyChunk]) -> list[dict[str, Any]]:
    """The chunks as a client parses them."""
    return [json.loads(c.encode(chunk)) for chunk in chunks]


def parts_of(spoken: Spoken) -> list[dict[str, Any]]:
    """The parts that a client shows in the end, after it accepted every event."""
    parts: list[dict[str, Any]] = StrictClient("7").feed_all(wire(spoken.chunks)).end()["parts"]
    return parts


def shown(spoken: Spoken) -> list[Any]:
    """The parts in short: `|` for a step, text as it is, thinking in brackets, tools as id, state and answer."""
    short: list[Any] = []
    for part in parts_of(spoken):
        if part["type"] == "step-start":
            short.append("|")
        elif part["type"] == "text":
            short.append(part["text"])
        elif part["type"] == "reasoning":
            short.append([part["text"]])
        elif "toolCallId" in part:
            state = part["state"].removeprefix("output-")
            short.append((part["toolCallId"], state, part.get("output", part.get("errorText"))))
        else:
            short.append(part["type"])
    return short


def types(spoken: Spoken) -> list[str]:
    """The types of all chunks, without the frame of the turn and its first step."""
    return [event["type"] for event in wire(spoken.chunks)][2:-2]


def call(own: str, **fields: Any) -> e.ToolCall:
    return e.ToolCall(id=own, name="search", **fields)


def result(own: str, output: Any = "ok", **fields: Any) -> e.ToolResult:
    return e.ToolResult(id=own, output=output, **fields)
