"""Random turns, faults and deaths: what people see in the end is what the turn says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.board import CORRECTED, Board, BoardChannel, BoardRung, Post, told
from tests.conftest import PROFILE
from turnwire import Reasoning, Snapshot, ToolCall, ToolError, ToolResult
from turnwire.delivery.state import load
from turnwire.testing import Attach, End, FakeClock, MemoryStore, Pause, Stage

pytestmark = pytest.mark.anyio

EXAMPLES = 400 if PROFILE == "heavy" else 25
ROUNDS = 12


words = st.sampled_from(["Hello ", "世界 ", "word ", "\n\nNext paragraph. ", "x" * 40])
speech = st.one_of(
    words,
    words.map(Reasoning),
    words.map(lambda text: Snapshot(text, part="a")),
    st.sampled_from([0.1, 1.0, 30.0, 700.0]).map(Pause),
    st.sampled_from(["a.txt", "b.png"]).map(Attach),
    st.just([ToolCall(id="t", name="search", input={}), Pause(5.0), ToolResult(id="t", output="ok")]),
    st.just([ToolCall(id="u", name="search", input={}), ToolError(id="u", error="no")]),
)


@st.composite
def scripts(draw: st.DrawFn) -> list[Any]:
    said: list[Any] = []
    names = 0
    for one in draw(st.lists(speech, max_size=8)):
        for event in one if isinstance(one, list) else [one]:
            if isinstance(event, Attach):
                names += 1
                event = Attach(f"{names}-{event.name}")
            said.append(event)
    end = draw(st.sampled_from([None, None, End("stopped"), End("failed", "it broke")]))
    return said + ([end] if end is not None else [])


def ladder(kind: str, width: int) -> Any:
    """The rungs of a channel; the upper ones of the last kind take short texts only."""
    notes: dict[str, Any] = {"kind": "note", "live": False, "editable": False}
    return {
        "stream": lambda board: [BoardRung(board, width=width)],
        "mortal": lambda board: [BoardRung(board, width=width, renew_s=None)],
        "two": lambda board: [BoardRung(board, limit=30), BoardRung(board, name="plain", width=width)],
        "three": lambda board: [
            BoardRung(board, limit=20),
            BoardRung(board, name="plain", width=width, limit=60),
            BoardRung(board, name="note", width=12, **notes),
        ],
    }[kind]


async def play(
    store: MemoryStore,
    script: list[Any],
    faults: dict[int, str] | None = None,
    *,
    rungs: str = "stream",
    width: int = 0,
    keys: bool = True,
    editable: bool = True,
    latency_s: float = 0.0,
    commits: frozenset[int] = frozenset(),
) -> Board:
    """One turn on a board of its own, then everything that must hold of what people see."""
    clock = FakeClock(rounds=ROUNDS)
    board = Board(clock, keys=keys, editable=editable, latency_s=latency_s)
    board.fault = lambda op, n: fits(op, (faults or {}).get(n))
    stage = Stage(BoardChannel(board, ladder(rungs, width)), clock, store=store)
    board.dead, board.crash = (lambda: stage.dead), stage.crash
    stage.crash_at_commit = lambda n: n in commits
    stage.start()
    try:
        turn = await stage.begin(script)
        row = await stage.settled(turn)
        await stage.ended()
        await check(stage, board, turn)
        assert row.outcome == "shown" or (row.reason or load(row.state).over), row
    finally:
        await stage.close()
    return board


def fits(op: str, fault: str | None) -> str | None:
    """A refusal that an operation can meet; the others go through."""
    possible = {
        "closed": ("show",),
        "stale": ("show", "close"),
        "content": ("create", "show", "close", "attach"),
        "rung": ("create", "attach"),
        "spent": ("create", "close"),
        "gone": ("show", "close"),
        "barred": ("create", "show", "close", "attach"),
    }
    return fault if fault is None or op in possible.get(fault, (op,)) else None


async def check(stage: Stage, board: Board, turn: str) -> None:
    """People see the whole answer, once, or a repeat of it that says so; and every file at most once, in order."""
    row, desired = await stage.row(turn), await stage.desired(turn)
    state = load(row.state)
    posts = [post for post in board.visible() if post.file is None]
    files = [post.file for post in board.visible() if post.file is not None]
    confirmed = [file.name for file in desired.files if file.status == "confirmed"]
    assert board.signs == 0
    assert board.most_under_way <= 1, "one act at a time"
    assert len(files) == len(set(files)), "no file twice"
    assert [name for name in files if name in confirmed] == confirmed, "files in order"
    assert set(files) - set(confirmed) <= {file.name for file in desired.files if file.status == "parked"}
    if state.over is not None:
        assert row.outcome != "shown"
        assert row.reason == state.over
        return
    text = told(desired)
    spare = 1 if state.repeat else sum(part.exists for part in state.leftovers)
    assert spare == 0 or state.repeat or row.outcome == "partly"
    shown = [kept for kept in _less(posts, spare) if _says(kept, text, corrected=not board.editable)]
    assert shown, (posts, text)
    assert not any(post.live for post in shown[0]), posts
    if row.outcome == "shown":
        assert [file.name for file in desired.files] == confirmed


def _less(posts: list[Post], spare: int) -> Iterator[list[Post]]:
    """The posts, and the posts without up to `spare` of them."""
    for count in range(spare + 1):
        for kept in itertools.combinations(posts, max(len(posts) - count, 0)):
            yield list(kept)


def _says(posts: list[Post], text: str, *, corrected: bool) -> bool:
    seen = "".join(post.text for post in posts)
    # Notes cannot be changed on any board.
    corrected = corrected or any(post.kind == "note" for post in posts)
    return seen == text or (corrected and seen.endswith(CORRECTED + text))


calls = st.integers(0, 25)
harmless = st.sampled_from(["before", "after", "busy", "crash-before", "crash-after", "stale", "closed"])
worse = st.sampled_from(["before", "after", "crash-before", "crash-after", "content", "rung", "spent", "broken"])
fatal = st.sampled_from(["before", "after", "crash-after", "gone", "barred"])
deaths = st.frozensets(st.integers(0, 40), max_size=3)
latencies = st.sampled_from([0.0, 0.2, 2.0])


@settings(max_examples=EXAMPLES)
@given(
    script=scripts(),
    faults=st.dictionaries(calls, harmless, max_size=6),
    width=st.sampled_from([0, 0, 12]),
    rungs=st.sampled_from(["stream", "mortal"]),
    editable=st.booleans(),
    commits=deaths,
    latency_s=latencies,
)
async def test_people_see_the_answer_once(
    store: MemoryStore, script: list[Any], faults: dict[int, str], **how: Any
) -> None:
    board = await play(store, script, faults, **how)
    assert not any("repeat" in post.text for post in board.visible())


@settings(max_examples=EXAMPLES)
@given(
    script=scripts(),
    faults=st.dictionaries(calls, harmless, max_size=5),
    width=st.sampled_from([0, 12]),
    commits=deaths,
    latency_s=latencies,
)
async def test_without_keys_there_is_one_copy_more_at_most_and_it_is_marked(
    store: MemoryStore, script: list[Any], faults: dict[int, str], **how: Any
) -> None:
    await play(store, script, faults, keys=False, **how)


@settings(max_examples=EXAMPLES)
@given(
    script=scripts(),
    faults=st.dictionaries(calls, worse, max_size=5),
    rungs=st.sampled_from(["two", "three"]),
    width=st.sampled_from([0, 30]),
    keys=st.booleans(),
    commits=deaths,
)
async def test_a_rung_that_fails_is_followed_by_one_that_says_all(
    store: MemoryStore, script: list[Any], faults: dict[int, str], **how: Any
) -> None:
    await play(store, script, faults, **how)


@settings(max_examples=EXAMPLES // 2)
@given(script=scripts(), faults=st.dictionaries(calls, fatal, max_size=4), keys=st.booleans(), commits=deaths)
async def test_what_people_took_away_is_not_sent_again(
    store: MemoryStore, script: list[Any], faults: dict[int, str], **how: Any
) -> None:
    await play(store, script, faults, **how)


NAMED: dict[str, list[Any]] = {
    "streaming": ["Hello ", Pause(0.5), "there, ", Pause(0.5), "all of you."],
    "fast": ["Yes."],
    "tools": [ToolCall(id="t", name="search", input={}), Pause(700.0), ToolResult(id="t", output="ok"), "Found it."],
    "rewrite": [Snapshot("First thought " * 3, part="a"), Pause(1.0), Snapshot("Second.", part="a")],
    "overflow and files": ["One two three four ", Attach("a.txt"), Pause(1.0), "five six seven", Attach("b.txt")],
    "failed": ["Half an ans", Pause(1.0), End("failed", "the model broke")],
}


@pytest.mark.parametrize("name", NAMED)
async def test_every_crash_point(store: MemoryStore, name: str) -> None:
    await play_all(store, name, ["crash-before", "crash-after"], keys=True)


@pytest.mark.heavy
@pytest.mark.parametrize("keys", [True, False], ids=["keys", "no keys"])
@pytest.mark.parametrize("editable", [True, False], ids=["editable", "sealed"])
@pytest.mark.parametrize("name", NAMED)
async def test_every_crash_and_every_cut(store: MemoryStore, name: str, keys: bool, editable: bool) -> None:
    faults = ["crash-before", "crash-after", "before", "after", "busy"]
    await play_all(store, name, faults, keys=keys, editable=editable)


async def play_all(store: MemoryStore, name: str, faults: list[str], **how: Any) -> None:
    """The turn once with each fault at each outward call."""
    how["width"] = 12 if name in ("overflow and files", "rewrite") else 0
    count = len((await play(store, NAMED[name], **how)).calls)
    assert count >= 1
    for at in range(count):
        for fault in faults:
            await play(store, NAMED[name], {at: fault}, **how)


@pytest.mark.parametrize("name", NAMED)
async def test_every_commit_can_be_the_last(store: MemoryStore, name: str) -> None:
    width = 12 if name in ("overflow and files", "rewrite") else 0
    for at in range(3, 24):
        await play(store, NAMED[name], width=width, commits=frozenset([at]))
