"""Turns for the tests of what Feishu is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from turnwire import chunks as c
from turnwire.delivery.surface import Desired, FileOutcome, Verdict
from turnwire.view import View, fold

STARTED = 1_000.0


def text(part: str, said: str, *, closed: bool = True) -> list[c.AnyChunk]:
    ended: list[c.AnyChunk] = [c.TextEnd(part)] if closed else []
    return [c.TextStart(part), c.TextDelta(part, said), *ended]


def thought(part: str, said: str, *, closed: bool = True) -> list[c.AnyChunk]:
    ended: list[c.AnyChunk] = [c.ReasoningEnd(part)] if closed else []
    return [c.ReasoningStart(part), c.ReasoningDelta(part, said), *ended]


def call(own: str, name: str, given: Any, *, gave: Any = None, failed: str | None = None) -> list[c.AnyChunk]:
    out: list[c.AnyChunk] = [c.ToolInputAvailable(own, name, given)]
    if failed is not None:
        out.append(c.ToolOutputError(own, failed))
    elif gave is not None:
        out.append(c.ToolOutputAvailable(own, gave))
    return out


def end(outcome: str, reason: str | None = None, **own: Any) -> list[c.AnyChunk]:
    told = {"turn": "turn_1", "outcome": outcome, "reason": reason, **own}
    return [c.FinishStep(), c.Finish(None, {"turnwire": {key: one for key, one in told.items() if one is not None}})]


def desired(
    *records: Sequence[c.AnyChunk],
    files: Sequence[FileOutcome] = (),
    verdicts: Mapping[str, Verdict] | None = None,
    repeat: bool = False,
    seconds: float = 0.0,
    final: bool | None = None,
    view: View | None = None,
) -> Desired:
    """What should be seen of a turn that has said `records`; `seconds` have passed since it started."""
    view = fold([c.Start("m"), c.StartStep(), *(one for part in records for one in part)], view)
    ended = view.finish is not None
    return Desired(
        turn_id="turn_1",
        view=view,
        ended=ended,
        final=ended if final is None else final,
        files=files,
        verdicts=verdicts or {},
        repeat=repeat,
        started_at=STARTED,
        now=STARTED + seconds,
    )


def components(value: Any) -> Iterator[dict[str, Any]]:
    """Every element and component of a card."""
    if isinstance(value, dict):
        if "tag" in value:
            yield value
        for one in value.values():
            yield from components(one)
    elif isinstance(value, list):
        for one in value:
            yield from components(one)


def contents(card: dict[str, Any]) -> list[str]:
    """The Markdown of a card, from top to bottom."""
    return [one["content"] for one in components(card["body"]) if one["tag"] == "markdown"]
