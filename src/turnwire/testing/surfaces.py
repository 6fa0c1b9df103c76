"""What a surface must do, as tests that its author runs: turns of every kind, with every outward call going wrong.

Guarantee: a surface that passes shows each turn as it is, once, whatever the network, the platform or our own process
does at any of its calls. Only what people see is judged.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec

from ..delivery.state import load
from ..delivery.surface import Courierable
from ..events import Reasoning, Snapshot, ToolCall, ToolResult
from .clock import FakeClock
from .memory import MemoryStore
from .script import Attach, End, Pause
from .stage import UNNAMED, Question, Stage

Fault: TypeAlias = Literal["before", "after", "busy", "content", "crash-before", "crash-after"]
"""What goes wrong with an outward call.

`before`: the connection breaks, and nothing was applied.
`after`: the connection breaks once it was applied.
`busy`: the platform is asked too often; nothing was applied.
`content`: the platform does not take this content.
`crash-before`, `crash-after`: the process dies before, or after, it was applied: raise `stage.crash()`.
"""


class Seen(msgspec.Struct, frozen=True):
    """What people see now.

    Attributes:
        texts: the text of each message, in order, without formatting that the agent did not ask for.
        files: the names of the files, in order.
        live: some message looks as if it were still being made.
        busy: a sign is there that somebody is at work.
    """

    texts: Sequence[str]
    files: Sequence[str] = ()
    live: bool = False
    busy: bool = False


class Platform(Protocol):
    """A simulated platform with a channel on it, new for each scenario.

    Attributes:
        channel: makes the surfaces that are tried.
        calls: how many outward calls there were so far.
        faults: what goes wrong with the call of that number, from 0; the suite fills it in.
        stage: set by the suite, before anything is called. Once `stage.dead`, a call must raise `stage.crash()`.
    """

    faults: Mapping[int, Fault]
    stage: Stage

    @property
    def channel(self) -> Courierable: ...

    @property
    def calls(self) -> int: ...

    def seen(self) -> Seen:
        """What people see now."""
        ...

    def idle(self) -> bool:
        """Whether no call is under way; for platforms that are reached through sockets or threads, else True."""
        ...


class Scenario(msgspec.Struct, frozen=True):
    """A turn, and what must be read of it at the end: each of `says` once, in order; nothing of `unsaid`."""

    script: Sequence[Any]
    says: Sequence[str]
    unsaid: Sequence[str] = ()
    files: Sequence[str] = ()


def _long(count: int) -> list[str]:
    return [f"Sentence {number} of many, said slowly." for number in range(100, 100 + count)]


SCENARIOS: Mapping[str, Scenario] = {
    "streaming": Scenario(
        ["Apples ", Pause(1.0), "and pears ", Pause(1.0), "and plums."], ["Apples and pears and plums."]
    ),
    "fast": Scenario(["Certainly."], ["Certainly."]),
    "tool": Scenario(
        ["Looking. ", ToolCall(id="t", name="search", input={}), Pause(5.0), ToolResult(id="t", output=1), "Found."],
        ["Looking.", "Found."],
    ),
    "silent": Scenario(["Waiting. ", Pause(3600.0), "Back."], ["Waiting.", "Back."]),
    "reasoning": Scenario([Reasoning("Hidden thoughts. "), Pause(1.0), "Visible words."], ["Visible words."]),
    "rewrite": Scenario(
        [Snapshot("Quite wrong.", part="a"), Pause(1.0), Snapshot("Rather right.", part="a")], ["Rather right."]
    ),
    "long": Scenario([one for text in _long(400) for one in (text + "\n\n", Pause(0.05))], _long(400)),
    "stopped": Scenario(["Half a sent", Pause(1.0), End("stopped")], ["Half a sent"]),
    "failed": Scenario(
        ["Half a word", Pause(1.0), End("failed", "The model broke.")], ["Half a word", "The model broke."]
    ),
    "asking": Scenario(
        ["May I pay? ", Pause(1.0), ToolCall(id="t", name="pay", input={}, needs_approval=True)], ["May I pay?"]
    ),
    "empty": Scenario([], []),
    "files": Scenario(
        ["One, ", Attach("a.txt"), Pause(1.0), "two.", Attach("b.txt")], ["One,", "two."], files=["a.txt", "b.txt"]
    ),
}
"""The turns of the suite, by name."""


async def play(
    platform: Platform,
    name: str,
    clock: FakeClock,
    faults: Mapping[int, Fault] | None = None,
    *,
    store: MemoryStore | None = None,
    scenarios: Mapping[str, Scenario] = SCENARIOS,
    question: Question = UNNAMED,
    rest: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Plays one scenario and checks what people see; returns how many outward calls it took.

    Args:
        name: of a scenario in `scenarios`.
        faults: what goes wrong, by the number of the call.
        store: one of many plays in a row, which saves time; it is wiped.
        question: the message that is answered.
        rest: awaited once the delivery is settled, before what people see is judged.
    """
    scenario, faults = scenarios[name], faults or {}
    stage = Stage(platform.channel, clock, store=store, idle=platform.idle)
    platform.stage, platform.faults = stage, faults
    stage.start()
    try:
        turn = await stage.begin(scenario.script, question=question)
        row = await stage.settled(turn)
        if rest is not None:
            await rest()
        state = load(row.state)
        outcome = row.outcome or row.status
        check(platform.seen(), scenario, repeat=state.repeat, outcome=outcome, reason=row.reason or "")
    finally:
        await stage.close()
    return platform.calls


def check(seen: Seen, scenario: Scenario, *, repeat: bool = False, outcome: str = "shown", reason: str = "") -> None:
    """Raises `AssertionError`, which says what is wrong, unless people see the turn as it is, once.

    Args:
        repeat: a copy whose name nobody learned may be seen too, as it was then; the turn says so.
        outcome: of the delivery; `held` if it waits for the next message, which nothing here is a reason for.
    """
    text = "\n".join(seen.texts)
    if repeat and outcome == "failed":
        # Two messages of unknown fate: a third one could be the third copy. Operators see it.
        return
    _need(outcome != "failed", f"nothing is shown: {reason}")
    _need(outcome != "held", f"it is held until somebody writes again: {reason}")
    _need(repeat or not seen.live, f"a message still looks as if it were being made: {text!r}")
    _need(not seen.busy, "the sign that somebody is at work was not taken away")
    _need(bool(text.strip() or seen.files), "a turn is over, and nobody is told")
    at = 0
    for words in scenario.says:
        found = text.find(words, at)
        _need(found >= 0, f"{words!r} is missing, or out of order: {text!r}")
        at = found + len(words)
        most = 2 if repeat else 1
        _need(text.count(words) <= most, f"{words!r} is there {text.count(words)} times: {text!r}")
    for words in scenario.unsaid:
        _need(words not in text, f"{words!r} was taken back, and is still there: {text!r}")
    _need(len(seen.files) == len(set(seen.files)), f"a file is there twice: {seen.files}")
    known = [name for name in scenario.files if name in seen.files]
    _need(list(seen.files) == known, f"the files are out of order: {seen.files}")
    for name in scenario.files:
        _need(name in seen.files or name in text, f"{name!r} did not arrive, and nothing says so: {text!r}")


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


class SurfaceSuite:
    """The tests, for pytest: subclass it under a name that begins with `Test`, and give `platform`.

    The tests are coroutines; mark the module with `pytestmark = pytest.mark.anyio`, or use `pytest-asyncio`.

    Attributes:
        faults: what the platform can let go wrong.
        rounds: how often the event loop turns between two moments of the clock; more for deep stacks of calls.
        most_calls: how many of a scenario's calls are tried, from the first on and from the last back.
        scenarios: the turns that are played, by the names in `SCENARIOS`; for platforms on which nobody can be told
            anything an hour after the message, with a shorter `silent`.
    """

    faults: Sequence[Fault] = ("before", "after", "busy", "crash-before", "crash-after")
    rounds = 50
    most_calls = 12
    scenarios: Mapping[str, Scenario] = SCENARIOS
    _store: ClassVar[MemoryStore | None] = None

    def platform(self, clock: FakeClock) -> Platform:
        """A new platform on that clock, with nothing on it."""
        raise NotImplementedError("give a platform of your own")

    async def open(self, platform: Any) -> None:
        """Called before each play: for platforms that listen on sockets, or that have to be waited for."""
        return

    def question(self, platform: Any) -> Question:
        """The message that is answered, after `open`: for platforms whose surfaces need its id or their own target."""
        return UNNAMED

    async def rest(self, platform: Any) -> None:
        """Called once a delivery is settled, before what people see is judged: for platforms that fetch it themselves.

        Let time pass there with `platform.stage.comes`, which also follows up on processes that die.
        """
        return

    async def close(self, platform: Any) -> None:
        """Called after each play: ends what the platform and its channel still have open."""
        return

    async def test_turns_are_shown_as_they_are(self) -> None:
        """Every scenario with nothing going wrong."""
        for name in self.scenarios:
            await self._play(name)

    async def test_a_fast_turn_costs_few_calls(self) -> None:
        """A turn that is over before anything was shown needs no frames."""
        _need(await self._play("fast") <= 6, "a turn that is over at once took more than 6 calls")

    async def test_silence_costs_few_calls(self) -> None:
        """A time in which nothing is said is no reason to call all the time."""
        silence = sum(one.seconds for one in self.scenarios["silent"].script if isinstance(one, Pause))
        most = silence / 5
        _need(await self._play("silent") <= most, f"{silence:g} s of silence took more than a call in 5 seconds")

    async def test_every_call_can_go_wrong(self) -> None:
        """Each fault at each outward call, one at a time: cut connections, refusals, processes that die."""
        for name in ("streaming", "fast", "files", "failed"):
            count = await self._play(name)
            for at in self._tried(count):
                for fault in self.faults:
                    await self._play(name, {at: fault})

    async def test_two_calls_go_wrong(self) -> None:
        """A fault, and another one while the first is being mended."""
        count = await self._play("streaming")
        for at in self._tried(count):
            for fault in self.faults:
                await self._play("streaming", {at: fault, at + 1: "crash-after"})

    def _tried(self, count: int) -> list[int]:
        numbers = list(range(count))
        half = self.most_calls // 2
        return numbers if count <= self.most_calls else numbers[:half] + numbers[-half:]

    async def _play(self, name: str, faults: Mapping[int, Fault] | None = None) -> int:
        clock = FakeClock(rounds=self.rounds)
        try:
            if SurfaceSuite._store is None:
                SurfaceSuite._store = MemoryStore()
            platform = self.platform(clock)
            await self.open(platform)
            try:
                return await play(
                    platform,
                    name,
                    clock,
                    faults,
                    store=SurfaceSuite._store,
                    scenarios=self.scenarios,
                    question=self.question(platform),
                    rest=lambda: self.rest(platform),
                )
            finally:
                await self.close(platform)
        except AssertionError as error:
            raise AssertionError(f"scenario {name!r} with {dict(faults or {})}: {error}") from error
