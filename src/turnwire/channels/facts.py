"""What a turn's view says, as far as all ways to show it need the same of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from .. import chunks as c
from ..delivery.surface import Desired, FileOutcome, Verdict
from ..view import OtherPart, Part, TextPart, ToolPart
from .words import Words

ToolState: TypeAlias = Literal["done", "failed", "running", "asked", "denied"]
REASON_CHARS = 400
_VALUE_CHARS = 160
_ADDRESS_CHARS = 1_000


def clip(text: str, chars: int) -> str:
    """The text in one line, cut to so many characters."""
    text = " ".join(text[: 8 * chars].split())
    return text if len(text) <= chars else text[: chars - 1] + "…"


class Stretch(msgspec.Struct):
    """Some work of the agent, and what it said then."""

    thoughts: list[TextPart] = []
    tools: list[ToolPart] = []
    said: TextPart | None = None


def own_parts(desired: Desired) -> Sequence[Part]:
    """The parts that are not those of earlier turns."""
    return desired.view.parts[desired.view.inherited :]


def stretches(desired: Desired) -> list[Stretch]:
    """The turn's own parts; calls of earlier turns that it went on with come first."""
    out = [Stretch(tools=[part for part in desired.view.touched if isinstance(part, ToolPart)])]
    for part in own_parts(desired):
        if isinstance(part, ToolPart):
            out[-1].tools.append(part)
        elif isinstance(part, TextPart) and part.text.strip():
            if part.reasoning:
                out[-1].thoughts.append(part)
            else:
                out[-1].said = part
                out.append(Stretch())
    if not out[-1].tools and not out[-1].thoughts:
        out.pop()
    return out


def said(desired: Desired) -> list[str]:
    """The answer's texts."""
    return [stretch.said.text for stretch in stretches(desired) if stretch.said is not None]


def state_of(tool: ToolPart) -> ToolState:
    """What a call has come to, in the words of the page."""
    if tool.state == "output-error":
        return "failed"
    if tool.state == "output-denied" or (tool.approval is not None and tool.approval.approved is False):
        return "denied"
    if tool.asks:
        return "asked"
    return "running" if tool.open else "done"


def verdict_of(desired: Desired, tool: ToolPart) -> Verdict | None:
    """What was answered to a call that asked, None for one that did not."""
    if tool.approval is None:
        return None
    own = Verdict(tool.approval.approved, reason=tool.approval.reason)
    return desired.verdicts.get(tool.approval.id) or own


def asking(desired: Desired) -> list[ToolPart]:
    """The turn's calls that ask, or have asked, whether they may be made."""
    return [part for part in own_parts(desired) if isinstance(part, ToolPart) and part.approval is not None]


def waits(desired: Desired) -> bool:
    """Whether somebody still has to answer."""
    verdicts = (verdict_of(desired, tool) for tool in asking(desired))
    return any(verdict is not None and verdict.approved is None for verdict in verdicts)


def metadata(desired: Desired) -> dict[str, Any]:
    """What the turn's end says of it."""
    own = desired.view.metadata.get("turnwire")
    return own if isinstance(own, dict) else {}


def reason(desired: Desired) -> str:
    """Why the turn ended as it did."""
    return clip(str(metadata(desired).get("reason") or desired.view.error or ""), REASON_CHARS)


def took(own: Mapping[str, Any]) -> float | None:
    """How many seconds the turn ran."""
    try:
        began, ended = (datetime.fromisoformat(own[key]) for key in ("startedAt", "endedAt"))
        return max((ended - began).total_seconds(), 0.0)
    except (KeyError, TypeError, ValueError):
        return None


def total_tokens(own: Mapping[str, Any]) -> int:
    """The tokens that the turn used, 0 if nobody knows."""
    usage = own.get("usage")
    if not isinstance(usage, dict):
        return 0
    total = usage.get("totalTokens")
    counts = [total] if total else [usage.get("inputTokens"), usage.get("outputTokens")]
    return sum(count for count in counts if isinstance(count, int))


def outcome_words(desired: Desired, words: Words) -> str | None:
    """How the turn ended, unless its answer says it."""
    outcome = desired.view.outcome
    known = {"failed": words.failed, "interrupted": words.interrupted, "stopped": words.stopped}
    if outcome in known:
        return known[outcome]
    if outcome == "waiting":
        return words.waiting if waits(desired) else None
    return None if said(desired) else words.nothing


def missing_files(files: Sequence[FileOutcome], words: Words) -> Iterator[str]:
    """A line for each file of the answer that did not arrive."""
    for file in files:
        if file.status in ("refused", "parked"):
            line = words.not_sent if file.status == "refused" else words.unclear
            line = line.format(name=clip(file.name, 100))
            yield line + words.because + clip(file.reason, REASON_CHARS) if file.reason else line


def links(desired: Desired) -> list[tuple[str, str]]:
    """Titles and addresses of what the answer comes from, and of files that are not ours, each once."""
    found: dict[str, str] = {}
    for part in own_parts(desired):
        if not isinstance(part, OtherPart) or not isinstance(part.chunk, c.SourceUrl | c.FileChunk):
            continue
        address = part.chunk.url
        title = part.chunk.title if isinstance(part.chunk, c.SourceUrl) else None
        if address.lower().startswith(("http://", "https://")) and len(address) <= _ADDRESS_CHARS:
            found.setdefault(address, title or address)
    return [(title, address) for address, title in found.items()]


def brief(value: object, chars: int = _VALUE_CHARS) -> str:
    """A value in one line of so many characters, without looking at more of it than is shown."""
    out: list[str] = []
    left = chars + 1
    for piece in _pieces(value, chars + 1):
        out.append(piece)
        left -= len(piece)
        if left <= 0:
            break
    return clip("".join(out), chars)


def _pieces(value: object, most: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value[: 2 * most]
    elif isinstance(value, Mapping):
        for index, (key, one) in enumerate(value.items()):
            yield f"{', ' if index else ''}{str(key)[:most]}: "
            yield from _pieces(one, most)
    elif isinstance(value, Sequence):
        for index, one in enumerate(value):
            yield ", " if index else ""
            yield from _pieces(one, most)
    else:
        yield msgspec.json.encode(value).decode()
