"""The plainest ways to show a turn: text messages, and a Markdown file with a notice.

They are sent once, when the turn has its end, and never changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ...delivery.outcomes import CONFIRMED, Receipt, refused
from ...delivery.surface import Act, Desired, Page
from ...events import JSON
from .cards import recall
from .render import Style, document, texts
from .send import send
from .target import Target
from .wire import Wire


class _Sent:
    """What is sent once."""

    name = ""
    medium = "text"
    live = False
    editable = False
    repeatable = True
    withdrawable = True
    interval_s = 0.0
    renew_s: float | None = None
    seal_s: float | None = None
    tick_s: float | None = None

    def __init__(self, wire: Wire, target: Target, style: Style) -> None:
        self._wire = wire
        self._target = target
        self._style = style

    async def slot(self, *, urgent: bool) -> None:
        """There are no frames."""
        return

    async def show(self, act: Act, page: Page) -> Receipt:
        """There are no frames."""
        return CONFIRMED

    async def close(self, act: Act, page: Page) -> Receipt:
        """What was sent stays as it is."""
        return CONFIRMED

    async def renew(self, act: Act, page: Page) -> Receipt:
        """Nothing streams."""
        return CONFIRMED

    async def withdraw(self, act: Act) -> Receipt:
        """Recalls the message."""
        return await recall(self._wire, act)


class TextRung(_Sent):
    """Text messages."""

    name = "text"

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The messages, in order."""
        return [_page(text) for text in texts(desired, self._style)]

    async def create(self, act: Act, page: Page) -> Receipt:
        """Sends one message."""
        return (await send(self._wire, self._target, act, "text", {"text": page.content})).receipt


class DocumentRung(_Sent):
    """A Markdown file, and a message that says what it is."""

    name = "file"
    medium = "file"

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The notice, then the file."""
        content, name, notice = document(desired, self._style)
        return [_page(notice), _page((name, content))]

    async def create(self, act: Act, page: Page) -> Receipt:
        """Sends one of the two."""
        if isinstance(page.content, str):
            return (await send(self._wire, self._target, act, "text", {"text": page.content})).receipt
        name, content = page.content
        uploaded = act.facts.get("key")
        if not isinstance(uploaded, str):
            await self._wire.slot("upload", urgent=True)
            answer = await self._wire.call(
                "upload",
                "POST",
                "/im/v1/files",
                form={"file_type": "stream", "file_name": name},
                files={"file": (name, content, "text/markdown")},
            )
            if not answer.receipt.ok:
                unsure = answer.receipt.kind == "unknown"
                return refused("busy", answer.receipt.reason) if unsure else answer.receipt
            uploaded = str(answer.data.get("file_key") or "")
            await act.learn(key=uploaded)
        return (await send(self._wire, self._target, act, "file", {"file_key": uploaded})).receipt


def _page(content: Any) -> Page:
    raw = content if isinstance(content, str) else repr(content)
    return Page(hashlib.sha256(raw.encode("utf-8", "surrogatepass")).hexdigest()[:20], content)
