"""What a turn looks like on WeCom: bubbles of Markdown, and cards that ask. Pure.

Guarantee: the bubbles that were closed stay as they are and are the first; put together, all of them say the whole
answer, once; none exceeds the platform's bytes. Where an answer was rewritten that people can read already, the whole
of it follows, headed as corrected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from ...delivery.surface import Desired, Page
from ...events import JSON
from ...sanitize import clean_text
from ...view import ToolPart
from .. import facts
from ..words import WORDS, Language, Words, duration
from . import cards
from .cut import cut, resting_place, shown
from .words import OWN, Own

BUBBLE_BYTES = 20_000
"""Of the 20,480 that the platform takes."""
END_BYTES = 3_000
"""What stands at the end of a bubble beside the answer."""
THINK_BYTES = 4_000
TICK_S = 30.0
_TOOLS_SHOWN = 4
_QUESTIONS = 3
_NAME_CHARS = 60


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How bubbles look.

    Attributes:
        footer: what the last line of a finished answer tells, of `model`, `time` and `tokens`.
        stop_card: a card with a button that stops the answer stands above it.
        cards: cards can be sent there; else what they would ask is said in words.
        links: where people find files that cannot be sent there, by the files' ids.
    """

    language: Language = "zh"
    footer: Sequence[str] = ()
    reasoning: bool = True
    stop_card: bool = False
    cards: bool = True
    links: Mapping[str, str] = {}
    bubble_bytes: int = BUBBLE_BYTES

    @property
    def words(self) -> Words:
        """The words of its language."""
        return WORDS[self.language]

    @property
    def own(self) -> Own:
        """The words that only bubbles need."""
        return OWN[self.language]


class Bubble(msgspec.Struct, frozen=True):
    """One bubble.

    Attributes:
        frame: what it shows while it is open.
        closed: what it shows once it is closed, because it is full, the last one, or too old.
        kept: what is remembered of it then.
    """

    frame: str
    closed: str
    kept: Mapping[str, JSON]


class CardPage(msgspec.Struct, frozen=True):
    """A card, and what is remembered of it."""

    card: Mapping[str, JSON]
    kept: Mapping[str, JSON]


def pages(desired: Desired, style: Style, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
    """The bubbles and cards that should be seen, after those that were closed.

    Args:
        sealed: what is remembered of those.
    """
    return [*(_kept(facts_) for facts_ in sealed), *_Layout(desired, style, sealed).pages()]


def _kept(known: Mapping[str, JSON]) -> Page:
    return Page("sealed", None, lacks=str(known.get("lacks", "")))


class _Layout:
    """What follows the bubbles that were closed."""

    def __init__(self, desired: Desired, style: Style, sealed: Sequence[Mapping[str, JSON]]) -> None:
        self._desired = desired
        self._style = style
        self._sealed = sealed
        self._words = style.words
        self._own = style.own
        self._cards = {str(one["card"]) for one in sealed if "card" in one}
        bubbles = [one for one in sealed if "text" in one]
        begun = max((index for index, one in enumerate(bubbles) if one.get("corrected")), default=0)
        said = "".join(str(one["text"]) for one in bubbles[begun:])
        self.text = answer_text(desired, style)
        # A text that grows by more than its own end was rewritten.
        self.corrected = bool(said) and not self.text.startswith(said)
        self._start = 0 if self.corrected else len(said)
        self._first = not bubbles
        self._marked = any(one.get("repeat") for one in bubbles)
        # A bubble that was closed by the clock has promised another one.
        self._promised = bool(bubbles) and bool(bubbles[-1].get("more"))

    def pages(self) -> Iterator[Page]:
        """In order."""
        if self._style.stop_card and "stop" not in self._cards and self._first and not self._desired.ended:
            card = cards.stopping(self._desired.turn_id, self._own, self._words)
            yield _card_page(card, "stop")
        yield from self._bubbles()
        if self._desired.ended and self._style.cards:
            for tool in facts.asking(self._desired):
                approval = tool.approval.id if tool.approval is not None else ""
                if approval in self._cards or not self._open(tool):
                    continue
                yield _card_page(cards.asking(approval, tool, self._own, self._words), approval)

    def _open(self, tool: ToolPart) -> bool:
        verdict = facts.verdict_of(self._desired, tool)
        return verdict is not None and verdict.approved is None

    def _bubbles(self) -> Iterator[Page]:
        start, text = self._start, self.text
        head = self._head()
        if start >= len(text) and not self._first and not self._promised and not self.corrected:
            return
        while True:
            room = self._style.bubble_bytes - len(head.encode()) - END_BYTES
            end = cut(text, start, room) if start < len(text) else len(text)
            last = end >= len(text)
            yield self._bubble(head, start, end, last=last)
            if last:
                return
            start, head = end, ""

    def _bubble(self, head: str, start: int, end: int, *, last: bool) -> Page:
        desired = self._desired
        piece = shown(self.text, start, end)
        known: dict[str, JSON] = {"text": self.text[start:end]}
        known |= {"corrected": True} if self.corrected and start == 0 else {}
        known |= {"repeat": True} if desired.repeat and not self._marked else {}
        if not last:
            whole = _joined(head, piece, self._own.goes_on)
            return _page(Bubble(_joined(whole, _MORE), whole, known), live=False)
        if desired.final:
            whole = _joined(head, piece, *self._end(blank=not piece and not self._promised))
            return _page(Bubble(_joined(whole, _MORE), whole, known), live=False)
        rest = resting_place(self.text, start)
        left = shown(self.text, start, rest) if rest > start else ""
        stops = _joined(head, left, self._own.goes_on if left else self._own.still)
        frame = _joined(head, piece, self._status())
        return _page(Bubble(frame, stops, {**known, "text": self.text[start:rest], "more": True}), live=True)

    def _head(self) -> str:
        """What stands above the text of the next bubble."""
        desired, lines = self._desired, list[str]()
        thoughts = "\n\n".join(part.text for stretch in facts.stretches(desired) for part in stretch.thoughts)
        if self._first and self._style.reasoning and thoughts.strip():
            lines.append(f"<think>\n{_tail(_no_think(thoughts), THINK_BYTES)}\n</think>")
        if desired.repeat and not self._marked:
            lines.append(f"⚠️ {self._words.repeat}")
        if self.corrected:
            lines.append(self._own.corrected)
        return "\n\n".join(lines)

    def _end(self, *, blank: bool) -> Iterator[str]:
        """What stands below the whole answer."""
        desired, words = self._desired, self._words
        if not self._style.cards:
            yield from self._questions()
        told = facts.outcome_words(desired, words) if blank or desired.view.outcome != "done" else None
        if told is not None:
            yield f"**{told}** {facts.reason(desired)}".rstrip()
        elif not blank and self._promised and self._start >= len(self.text):
            yield self._own.done
        tools = [part for part in facts.own_parts(desired) if isinstance(part, ToolPart)]
        below = [*([self._tools(tools)] if tools else []), *filter(None, [self._footer()])]
        if below:
            yield "\n".join(f"> {line}" for line in below)

    def _questions(self) -> Iterator[str]:
        """What cards would ask."""
        asked = [tool for tool in facts.asking(self._desired) if self._open(tool)]
        for tool in asked[:_QUESTIONS]:
            name = facts.clip(tool.title or tool.name, _NAME_CHARS)
            yield f"✋ **{self._words.may_run}** {name} {facts.brief(tool.input, _NAME_CHARS)}".rstrip()
        if asked:
            yield self._own.approve_elsewhere

    def _tools(self, tools: Sequence[ToolPart]) -> str:
        """The calls of the turn in one line."""
        told = [f"{_MARKS[facts.state_of(tool)]} {facts.clip(tool.title or tool.name, _NAME_CHARS)}" for tool in tools]
        left = len(told) - _TOOLS_SHOWN
        more = [self._words.earlier.format(count=left)] if left > 0 else []
        return " · ".join([*more, *told[-_TOOLS_SHOWN:]])

    def _status(self) -> str:
        """What happens now; it is never the same as nothing, so that the final frame always differs."""
        desired, words = self._desired, self._words
        tools = [part for part in facts.own_parts(desired) if isinstance(part, ToolPart)]
        running = [tool for tool in tools if facts.state_of(tool) == "running"]
        if desired.ended:
            told = words.sending
        elif running:
            told = words.running.format(tool=facts.clip(running[-1].title or running[-1].name, _NAME_CHARS))
        elif not self.text and any(stretch.thoughts for stretch in facts.stretches(desired)):
            told = words.thinking
        else:
            told = words.writing if self.text else words.working
        so_far = (desired.now - desired.started_at) // TICK_S * TICK_S if desired.started_at else 0.0
        told = f"{told} · {duration(so_far, words)}" if so_far >= TICK_S else told
        over = [tool for tool in tools if tool not in running]
        lines = [*([self._tools(over)] if over else []), f"⏳ {told} …"]
        return "\n".join(f"> {line}" for line in lines)

    def _footer(self) -> str:
        own = facts.metadata(self._desired)
        told: dict[str, str] = {}
        if own.get("model"):
            told["model"] = facts.clip(str(own["model"]), _NAME_CHARS)
        if (seconds := facts.took(own)) is not None and seconds >= 1:
            told["time"] = duration(seconds, self._words)
        if count := facts.total_tokens(own):
            told["tokens"] = self._words.tokens.format(count=f"{count:,}")
        return " · ".join(told[field] for field in self._style.footer if field in told)


_MORE = "> ⏳ …"
"""Below a bubble that has to be opened before it can be closed: the platform drops a final frame that says the same."""
_MARKS = {"done": "✅", "failed": "❌", "running": "⏳", "asked": "✋", "denied": "🚫"}


def answer_text(desired: Desired, style: Style) -> str:
    """Everything that is said for good, as one text that only grows while the answer does."""
    words = style.words
    told = [_no_think(clean_text(text)).replace("\r\n", "\n").strip("\n") for text in facts.said(desired)]
    if not desired.final:
        return "\n\n".join(told)
    missing = [f"⚠️ {line}" for line in facts.missing_files(desired.files, words)]
    told += ["\n".join(missing)] if missing else []
    linked = [
        f"📎 {facts.clip(file.name, _NAME_CHARS)}: {style.links[file.id]}"
        for file in desired.files
        if file.id in style.links
    ]
    told += ["\n".join(linked)] if linked else []
    sources = [f"- {title}: {address}" if title != address else f"- {title}" for title, address in facts.links(desired)]
    told += ["\n".join([f"**{words.sources}**", *sources])] if sources else []
    return "\n\n".join(told)


def whole_text(desired: Desired, style: Style) -> str:
    """The answer with how it ended, as one text."""
    layout = _Layout(desired, style, ())
    return _joined(layout.text, *layout._end(blank=not layout.text))


def _no_think(text: str) -> str:
    """Without the marks that the platform takes for the beginning and end of thoughts."""
    return text.replace("<think>", "‹think›").replace("</think>", "‹/think›")


def _tail(text: str, most: int) -> str:
    raw = text.strip().encode()
    return text.strip() if len(raw) <= most else "… " + raw[-most:].decode("utf-8", "ignore")


def _joined(*pieces: str) -> str:
    return "\n\n".join(piece for piece in pieces if piece)


def _page(bubble: Bubble, *, live: bool) -> Page:
    digest = hashlib.sha256(f"{live}{bubble.frame}".encode("utf-8", "replace")).hexdigest()[:20]
    return Page(digest, bubble, live=live)


def _card_page(card: Mapping[str, JSON], own: str) -> Page:
    return Page(f"card {own}", CardPage(card, {"card": own}))
