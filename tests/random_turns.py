"""What agents say at random, and what goes wrong: strategies that the properties of every platform share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from tests.conftest import PROFILE
from turnwire import Reasoning, Snapshot, ToolCall, ToolError, ToolResult
from turnwire.testing import Attach, End, Pause

SEEDS = 1000 if PROFILE == "heavy" else 40
Said = st.SearchStrategy[Any]
_tools = itertools.count()

ends = st.sampled_from([None, None, End("stopped"), End("failed", "the model broke"), End("interrupted", "it died")])
deaths = st.one_of(
    st.just({}),
    st.builds(lambda at, when: {"dies": {at: when}}, st.integers(0, 25), st.sampled_from(["before", "after"])),
    st.builds(lambda at: {"commits": frozenset({at})}, st.integers(0, 40)),
)
"""Of one process: at a call outwards, before or after it was taken, or at a transaction."""


def tool(name: str, seconds: float, *, fails: bool = False) -> list[Any]:
    """A call of a tool that takes so long."""
    own = f"{name}-{next(_tools)}"
    end = ToolError(id=own, error="no such place") if fails else ToolResult(id=own, output="ok")
    return [ToolCall(id=own, name=name, input={"q": "rain"}), Pause(seconds), end]


def scripts(words: Said, *, pieces: Said, thoughts: Said, pauses: Sequence[float]) -> Said:
    """Turns for a stage.

    Args:
        words: one piece of text.
        pieces: a list of pieces of text with pauses between them.
        thoughts: one piece of reasoning.
        pauses: how long nothing is said, in seconds.
    """
    speech = st.one_of(
        words,
        pieces,
        thoughts.map(Reasoning),
        words.map(lambda text: Snapshot(text, part="a")),
        st.sampled_from(pauses).map(Pause),
        st.just(Attach("file.txt")),
        st.builds(tool, st.sampled_from(["search", "read"]), st.sampled_from([0.2, 5.0]), fails=st.booleans()),
    )
    return st.builds(_script, st.lists(speech, max_size=7), ends)


def _script(pieces: list[Any], end: End | None) -> list[Any]:
    said: list[Any] = []
    for one in pieces:
        said += one if isinstance(one, list) else [one]
    files = step = 0
    for index, one in enumerate(said):
        if isinstance(one, Attach):
            files += 1
            said[index] = Attach(f"{files}-{one.name}")
        elif isinstance(one, ToolResult | ToolError):
            step += 1
        elif isinstance(one, Snapshot):
            # What was said before a tool was called stays.
            said[index] = Snapshot(one.text, part=f"step {step}")
    return said if end is None else [*said, end]


def faults_of(kinds: Sequence[str], calls: Sequence[str], counts: int = 2, **more: Sequence[Any]) -> Said:
    """One fault of these kinds on these calls; `more` are its other fields, by what may be drawn for them."""
    return st.fixed_dictionaries(
        {
            "op": st.sampled_from(calls),
            "kind": st.sampled_from(kinds),
            "nth": st.sampled_from([1, 1, 1, 2, 2, 3, 5, 8]),
            "count": st.integers(1, counts),
            **{name: st.sampled_from(values) for name, values in more.items()},
        }
    )


def some(faults: Said, most: int = 4) -> Said:
    """Up to so many of them, which hit fewer than 8 calls in all."""
    return st.lists(faults, max_size=most).filter(lambda found: sum(one["count"] for one in found) < 8)
