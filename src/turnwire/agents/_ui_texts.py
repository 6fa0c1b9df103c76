"""Text and reasoning of a remote UI message stream, whose parts may be interleaved, in the order in which they began.

Guarantee: every character is said once, under its own part, and no part is said before one that began earlier and still
speaks. A part that stays open without speaking holds others back for a bounded number of deltas only; if it speaks
after all, that is a part of its own.
"""

from __future__ import annotations

from typing import Any, Literal

from ..events import AgentEvent, ProviderMetadata, Reasoning, Snapshot

PATIENCE = 16
"""Deltas that wait for a part which is open but silent; servers that forget to close a part are common."""
HELD_CHARS = 256 * 1024
"""Characters that wait for a part that speaks."""

Kind = Literal["text", "reasoning", "tool", "other"]


class Part:
    """One part of the current step, as it was said. `name` is that of its snapshots; `key` is the remote's."""

    __slots__ = ("key", "kind", "name", "pieces")

    def __init__(self, kind: Kind, key: Any, name: str = "") -> None:
        self.kind: Kind = kind
        self.key = key
        self.name = name
        self.pieces: list[str] = []

    @property
    def text(self) -> str:
        self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0]


class _Voice:
    """A part that the remote has opened: what of it waits, and whether more may come."""

    __slots__ = ("aside", "held", "id", "open", "reasoning")

    def __init__(self, own: str, *, reasoning: bool, aside: AgentEvent | None = None) -> None:
        self.id = own
        self.reasoning = reasoning
        self.open = aside is None
        self.aside = aside
        self.held: list[tuple[str, ProviderMetadata | None]] = []


class Texts:
    """The open parts. `parts` are those of the current step that were said, shared with who resets it."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self._open: dict[tuple[bool, str], _Voice] = {}
        # The first one is said as it comes, the others wait.
        self._queue: list[_Voice] = []
        self._waiting = 0
        self._held_chars = 0
        self._names = 0
        self._last: tuple[_Voice, Part] | None = None

    @property
    def speaking(self) -> bool:
        """Text said now and text that comes belong together; anything between would cut it."""
        return bool(self._queue)

    def start(self, own: str, metadata: ProviderMetadata | None = None, *, reasoning: bool) -> list[AgentEvent]:
        """A part begins."""
        out = self.end(own, reasoning=reasoning)
        voice = self._open[reasoning, own] = _Voice(own, reasoning=reasoning)
        return out + self._take(voice, "", metadata)

    def delta(
        self, own: str, text: str, metadata: ProviderMetadata | None = None, *, reasoning: bool
    ) -> list[AgentEvent]:
        """More of a part; one that was not begun begins."""
        voice = self._open.get((reasoning, own))
        if voice is None:
            return self.start(own, reasoning=reasoning) + self.delta(own, text, metadata, reasoning=reasoning)
        return self._take(voice, text, metadata)

    def end(self, own: str, metadata: ProviderMetadata | None = None, *, reasoning: bool) -> list[AgentEvent]:
        """A part is over; what waited for it is said."""
        voice = self._open.pop((reasoning, own), None)
        if voice is None:
            return []
        out = self._take(voice, "", metadata) if metadata is not None else []
        voice.open = False
        return out + self._go_on()

    def aside(self, event: AgentEvent) -> list[AgentEvent]:
        """Something that cuts no text; it stands behind the texts that began before it."""
        if not self._queue or (len(self._queue) == 1 and self._has_voice(self._queue[0])):
            return [event]
        self._queue.append(_Voice("", reasoning=False, aside=event))
        return []

    def cut(self) -> list[AgentEvent]:
        """Something else is said now: all that waits comes before it, and what follows is a part of its own."""
        out = [event for voice in self._queue for event in self._release(voice)]
        self._queue.clear()
        self._last = None
        self._waiting = self._held_chars = 0
        return out

    def end_all(self) -> list[AgentEvent]:
        """The step is over, and with it all its parts."""
        out = self.cut()
        self._open.clear()
        return out

    def say_again(self, part: Part) -> list[AgentEvent]:
        """A part that survived when all text was taken back."""
        voice = _Voice(str(part.key), reasoning=part.kind == "reasoning")
        return self._say(voice, part.text, None)

    def _has_voice(self, voice: _Voice) -> bool:
        return self._last is not None and self._last[0] is voice

    def _take(self, voice: _Voice, text: str, metadata: ProviderMetadata | None) -> list[AgentEvent]:
        if voice not in self._queue:
            self._queue.append(voice)
        if self._queue[0] is voice:
            self._waiting = 0
            out = self._say(voice, text, metadata)
            while self._has_voice(voice) and len(self._queue) > 1 and (event := self._queue[1].aside) is not None:
                out.append(event)
                del self._queue[1]
            return out
        if not text and metadata is None:
            return []
        voice.held.append((text, metadata))
        self._waiting += 1
        self._held_chars += len(text)
        if self._waiting <= PATIENCE and self._held_chars <= HELD_CHARS:
            return []
        del self._queue[0]
        return self._go_on()

    def _go_on(self) -> list[AgentEvent]:
        out: list[AgentEvent] = []
        while self._queue:
            out += self._release(self._queue[0])
            self._waiting = 0
            if self._queue[0].open:
                break
            del self._queue[0]
        return out

    def _release(self, voice: _Voice) -> list[AgentEvent]:
        if voice.aside is not None:
            return [voice.aside]
        held, voice.held = voice.held, []
        self._held_chars -= sum(len(text) for text, _ in held)
        return [event for text, metadata in held for event in self._say(voice, text, metadata)]

    def _say(self, voice: _Voice, text: str, metadata: ProviderMetadata | None) -> list[AgentEvent]:
        if not text and (metadata is None or not voice.reasoning):
            return []
        last = self._last
        if last is not None and last[0] is voice:
            part = last[1]
            part.pieces.append(text)
            return [Reasoning(text, metadata) if voice.reasoning else text]
        return self._begin(voice, text, metadata)

    def _begin(self, voice: _Voice, text: str, metadata: ProviderMetadata | None) -> list[AgentEvent]:
        out: list[AgentEvent] = []
        if voice.reasoning:
            glue = self._last is not None and self._last[0].reasoning and bool(text) and bool(self._last[1].text)
            part = Part("reasoning", voice.id)
            # Reasoning that follows reasoning is one part here; its paragraphs must not run together.
            out += [Reasoning("\n\n")] if glue else []
            out.append(Reasoning(text, metadata))
        else:
            self._names += 1
            part = Part("text", voice.id, f"remote-{self._names}")
            out.append(Snapshot(text, part=part.name))
        part.pieces.append(text)
        self.parts.append(part)
        self._last = (voice, part)
        return out
