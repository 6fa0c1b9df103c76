"""What a row of the table of cases is made of: the behaviours of a provider, and what a reader sees of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from turnwire.sim.models import TEXT

HALF = "Hello, wörld "
CUT = "ended before its answer was complete"
AT_ONCE = (0.0, 0.0)
ONE_PAUSE = (0.5, 1.0)
TWO_PAUSES = (1.5, 2.5)
"""What the pauses before the second attempt, and before the second and third, take; a step of time more at most."""


@dataclass(frozen=True)
class Case:
    """One behaviour of a provider on one or several wires, and what a reader sees of a turn with it.

    Args:
        plan: the simulator's scenarios for the model's requests, in their order.
        wires: the letters of the wires.
        took: the least and the most seconds.
        why: is part of the reason.
        calls: state, input, and output or error of each call; `ran`: the inputs with which tools were run.
        scale: how much faster the guard's time passes than the provider's; step: how far the latter moves at once.
        other: what differs on a wire, for an agent, or for both (`O`, `sdk`, `sdk-O`).
        heavy: the agents with wires that only `make test-heavy` runs.
    """

    plan: tuple[str, ...]
    wires: str
    outcome: str = "done"
    finish: str = "stop"
    text: str = TEXT
    thoughts: str = ""
    signed: tuple[Any, ...] = ()
    usage: int | None = 42
    calls: tuple[tuple[str, Any, Any], ...] = ()
    ran: tuple[Any, ...] = ()
    why: str = ""
    took: tuple[float, float] = AT_ONCE
    requests: int = 1
    scale: float = 1
    step: float = 0.05
    other: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    heavy: frozenset[str] = frozenset()

    def on(self, by: str, wire: str) -> Case:
        """The case as it is for one agent on one wire."""
        case = self
        for key in (wire, by, f"{by}-{wire}"):
            case = replace(case, **self.other.get(key, {}))
        return case


@dataclass(frozen=True)
class Row:
    """One line of the table: its number, its name, what it demands, and where that is tested."""

    number: int
    name: str
    demands: str
    cases: tuple[Case, ...] = ()
    tests: tuple[str, ...] = ()


def done(scenario: str, wires: str, within: float = 0.0, **more: Any) -> Case:
    """A whole answer, in time."""
    return Case((scenario,), wires, took=(0.0, within), **more)


def failed(scenario: str, wires: str, why: str = CUT, at: float = 0.0, **more: Any) -> Case:
    """A failed turn that keeps what came before, after so many seconds."""
    about: dict[str, Any] = {"text": HALF, "took": (at, at), "outcome": "failed", "finish": "error", "usage": None}
    return Case((scenario,), wires, why=why, **{**about, **more})


def never(scenario: str, wires: str, why: str, took: tuple[float, float] = TWO_PAUSES, **more: Any) -> Case:
    """A provider that fails before its first word, all three times that it is asked."""
    about: dict[str, Any] = {"text": "", "requests": 3, "step": 0.25, **more}
    return replace(failed(scenario, wires, why, **about), plan=(scenario,) * 3, took=took)


def again(scenario: str, wires: str, took: tuple[float, float] = ONE_PAUSE, step: float = 0.25) -> Case:
    """A provider that fails before its first word, and answers when asked again."""
    return Case((scenario, "ok"), wires, took=took, requests=2, step=step)


def filtered(scenario: str, wires: str, text: str, **more: Any) -> Case:
    """An answer that the provider's filter, or the model itself, refuses."""
    return Case((scenario,), wires, finish="content-filter", text=text, **more)


def called(scenario: str, wires: str, *inputs: Any, outputs: tuple[str, ...]) -> Case:
    """Calls that are run, and the answer that follows."""
    calls = tuple(("output-available", given, output) for given, output in zip(inputs, outputs, strict=True))
    return Case((scenario, "ok"), wires, calls=calls, ran=inputs, requests=2, usage=84)
