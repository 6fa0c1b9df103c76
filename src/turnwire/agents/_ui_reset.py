"""What a remote says after it took a step back: mostly what was there before, and then something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ._ui_chunks import Call, Chunk, text_of
from ._ui_texts import Part


class Reset:
    """Finds what survives a `reset-step`: the same parts, said again under their own ids, in any order.

    Args:
        before: the parts of the step, as they were said.
        calls: the remote's tool calls, by its ids.

    Attributes:
        kept: those of `before` that came again so far.
    """

    def __init__(self, before: list[Part], calls: Mapping[str, Call]) -> None:
        self.before = before
        self.kept: list[Part] = []
        self._calls = calls
        self._again: tuple[Part, str, list[Chunk]] | None = None

    @property
    def unsettled(self) -> list[Chunk]:
        """Chunks of a part that began as one of those and went on otherwise: they are to be read as new."""
        return self._again[2] if self._again is not None else []

    def comes_again(self, chunk: Chunk, kind: str) -> bool:
        """After a reset: whether `chunk` only brings back what was there."""
        if self._again is not None:
            part, text, chunks = self._again
            if part.kind == "tool":
                call = self._calls[part.key]
                if chunk.get("toolCallId") != part.key or chunk.get("inputTextDelta") != call.written + call.held:
                    return False
                self.kept.append(part)
                self._again = None
                return True
            if kind not in (f"{part.kind}-delta", f"{part.kind}-end") or chunk.get("id") != part.key:
                return False
            chunks.append(chunk)
            if kind.endswith("end"):
                same = text == part.text
                if same:
                    self.kept.append(part)
                    self._again = None
                else:
                    chunks.pop()
                return same
            text += text_of(chunk, "delta") or ""
            self._again = (part, text, chunks)
            if not part.text.startswith(text):
                chunks.pop()
                return False
            return True
        if kind in ("text-start", "reasoning-start"):
            part_kind = kind.removesuffix("-start")
            found = self._gone(lambda part: part.kind == part_kind and part.key == chunk.get("id"))
            if found is not None:
                self._again = (found, "", [chunk])
            return found is not None
        if "toolCallId" in chunk:
            return self._call_again(chunk, kind)
        found = self._gone(lambda part: part.kind == "other" and part.key == chunk)
        if found is not None:
            self.kept.append(found)
        return found is not None

    def _call_again(self, chunk: Chunk, kind: str) -> bool:
        own = chunk["toolCallId"]
        call = self._calls.get(own) if isinstance(own, str) else None
        if call is None:
            return False
        found = self._gone(lambda part: part.kind == "tool" and part.key == own)
        if found is not None and call.state == "streaming":
            described = (chunk.get("toolName"), chunk.get("dynamic") is True)
            if kind != "tool-input-start" or described != (call.name, call.dynamic):
                return False
            if call.written + call.held:
                # Its arguments so far come in one piece, if it is the same call.
                self._again = (found, "", [chunk])
                return True
        if found is not None:
            self.kept.append(found)
        elif not any(part.key == own for part in self.kept):
            return False
        if kind.startswith("tool-input-"):
            return call.state != "streaming" or kind == "tool-input-start"
        if kind == "tool-approval-request":
            return call.state in ("asked", "answered")
        return call.state == "answered" or call.answer == chunk

    def _gone(self, is_it: Callable[[Part], bool]) -> Part | None:
        return next((part for part in self.before if part not in self.kept and is_it(part)), None)
