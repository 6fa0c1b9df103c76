"""Turns as cards that stream, and as cards that are patched.

Guarantee: what a card shows is replaced as a whole at the end, by one call that does not depend on what came before;
numbers only grow; a card is sent once. Source: the pages of `cardkit-v1` and the overview of streaming updates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ...delivery.outcomes import CONFIRMED, Receipt, refused
from ...delivery.pacing import Limit
from ...delivery.surface import Act, Desired, Page
from ...events import JSON
from ...view import View
from .errors import CARD_REFUSED, SENT_BEFORE
from .images import Images
from .render import Card, Style, cards, revision
from .send import send
from .target import Target
from .wire import PER_CARD, PER_MESSAGE, Wire

FRAME_S = 0.3
PATCH_FRAME_S = 1.5
RENEW_SHARE = 0.8
"""Share of a card's streaming life after which it is renewed."""
TICK_S = 10.0
_REDRAWN = refused("busy", "its images have been uploaded since it was drawn", 0.0)
PATIENT_TRIES = 10
"""How often a card is sent that is not known everywhere yet."""
SILENCE_S = 5.0
"""Seconds for which the typing sign is all that is seen of a turn that says nothing."""


def pages_of(desired: Desired, style: Style, images: Mapping[str, str]) -> list[Page]:
    """The cards as pages."""
    found = cards(desired, style, images)
    return [
        Page(_digest(card.json), card, live=index == len(found) - 1 and not desired.final)
        for index, card in enumerate(found)
    ]


class Drawing:
    """The pages of one turn: drawn when they are asked for and would be others than before.

    Args:
        images: those that the answer embeds; None if it shows none.
    """

    def __init__(self, style: Style, images: Images | None = None) -> None:
        self._style = style
        self._images = images
        self._view: View | None = None
        self._of: tuple[Any, ...] = ()
        self._pages: list[Page] = []

    def pages(self, desired: Desired) -> list[Page]:
        """What should be seen."""
        if not _has_begun(desired):
            return []
        of = (*revision(desired), len(self._images.keys) if self._images is not None else 0)
        if self._view is not desired.view or self._of != of:
            drawn = self._images.drawn(desired) if self._images is not None else {}
            self._pages = pages_of(desired, self._style, drawn)
            self._view, self._of = desired.view, of
        return list(self._pages)


def _has_begun(desired: Desired) -> bool:
    """Whether there is something to read, or the silence is so long that a card tells more than the typing sign."""
    said = len(desired.view.parts) > desired.view.inherited
    return said or desired.ended or desired.now >= desired.started_at + SILENCE_S


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:20]


class CardRung:
    """A card entity: its text streams, everything else is replaced.

    Args:
        images: those that the answer embeds; None if it shows none.
        stream_life_s: seconds after which the platform closes what streams.
    """

    medium = "card"
    live = True
    editable = True
    repeatable = True
    withdrawable = True
    interval_s = FRAME_S
    tick_s: float | None = TICK_S

    def __init__(
        self,
        wire: Wire,
        target: Target,
        style: Style,
        images: Images | None = None,
        *,
        name: str = "card",
        stream_life_s: float = 600.0,
    ) -> None:
        self.name = name
        self.renew_s: float | None = stream_life_s * RENEW_SHARE
        self.seal_s: float | None = None
        self._wire = wire
        self._target = target
        self._images = images
        self._drawing = Drawing(style, images)
        self._card_key = ""

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The cards that should be seen."""
        return self._drawing.pages(desired)

    async def slot(self, *, urgent: bool) -> None:
        """Waits until the platform's limits allow one more frame."""
        card = [(self._card_key, PER_CARD)] if self._card_key else list[tuple[str, Limit]]()
        await self._wire.slot("card", *card, urgent=urgent)

    async def create(self, act: Act, page: Page) -> Receipt:
        """Makes the entity, which nobody sees, and sends it, once."""
        card: Card = page.content
        if not await self._has_images(page):
            return _REDRAWN
        # What is sent for good must say what it should; a frame that is older than it might be is followed by others.
        old = not page.live and not act.again and act.facts.get("drawn") != page.digest
        if not isinstance(act.facts.get("card_id"), str) or old:
            body = {"type": "card_json", "data": _data(card)}
            await self._wire.slot("card", urgent=True)
            made = await self._wire.call("card", "POST", "/cardkit/v1/cards", body)
            if made.receipt.kind == "unknown":
                # An entity that was never sent is seen by nobody.
                return refused("busy", made.receipt.reason)
            if not made.receipt.ok:
                return msgspec.structs.replace(made.receipt, unsent="way" not in act.facts)
            await act.learn(card_id=str(made.data.get("card_id") or ""), drawn=page.digest)
            _note(act, card)
        self._aim(act)
        content = {"type": "card", "data": {"card_id": act.facts["card_id"]}}
        answer = await send(self._wire, self._target, act, "interactive", content)
        if act.again and answer.receipt.cause == "spent" and answer.code in SENT_BEFORE:
            # An entity is sent once, so the try whose outcome was unknown has sent it.
            return CONFIRMED
        if answer.code == CARD_REFUSED and answer.receipt.cause == "busy":
            act.memory["unseen"] = unseen = int(act.memory.get("unseen", 0)) + 1
            if unseen >= PATIENT_TRIES:
                return refused("rung", "the platform does not know the card that it has made")
        return answer.receipt

    async def show(self, act: Act, page: Page) -> Receipt:
        """The text alone if nothing else has changed, else the whole card, streaming on."""
        self._aim(act)
        await self._has_images(page)
        card: Card = page.content
        if card.text_id is not None and card.text and act.memory.get("frame") == _frame(card):
            body: dict[str, Any] = {"content": card.text}
            path = f"{self._path(act)}/elements/{card.text_id}/content"
            return await self._operate(act, "PUT", path, body)
        receipt = await self._operate(act, "PUT", self._path(act), {"card": {"type": "card_json", "data": _data(card)}})
        _note(act, card if receipt.ok else None)
        return receipt

    async def close(self, act: Act, page: Page) -> Receipt:
        """The whole card, streaming off; then the setting by itself, for a platform that kept it on."""
        self._aim(act)
        if not await self._has_images(page):
            return _REDRAWN
        card: Card = page.content
        body = {"card": {"type": "card_json", "data": _data(card)}}
        receipt = await self._operate(act, "PUT", self._path(act), body)
        _note(act, card if receipt.ok else None)
        if not receipt.ok:
            return receipt
        settings = {"config": {"streaming_mode": page.live, "summary": {"content": card.summary}}}
        await self.slot(urgent=True)
        after = await self._settings(act, settings)
        return CONFIRMED if after.kind == "refused" and after.cause not in ("busy", "stale") else after

    async def renew(self, act: Act, page: Page) -> Receipt:
        """Opens the streaming once more: its life begins anew."""
        self._aim(act)
        return await self._settings(act, {"config": {"streaming_mode": True}})

    async def withdraw(self, act: Act) -> Receipt:
        """Recalls the message."""
        return await recall(self._wire, act)

    async def _has_images(self, page: Page) -> bool:
        """Whether the page shows every image that it could; one that goes on changing need not."""
        if self._images is None:
            return True
        if page.live:
            self._images.begin()
            return True
        return await self._images.complete()

    async def _settings(self, act: Act, settings: Mapping[str, Any]) -> Receipt:
        body = {"settings": msgspec.json.encode(settings).decode()}
        return await self._operate(act, "PATCH", f"{self._path(act)}/settings", body)

    async def _operate(self, act: Act, method: str, path: str, body: dict[str, Any]) -> Receipt:
        number = await act.number()
        answer = await self._wire.call(
            "card", method, path, {**body, "sequence": number, "uuid": f"{act.key}-{number}"}
        )
        if answer.receipt.cause == "busy":
            self._wire.penalise("card", answer.receipt.wait_s or 1.0, self._card_key)
        return answer.receipt

    def _path(self, act: Act) -> str:
        return f"/cardkit/v1/cards/{act.facts['card_id']}"

    def _aim(self, act: Act) -> None:
        self._card_key = f"{self._wire.app_id}:card:{act.facts.get('card_id')}"


class PatchRung:
    """A card that is sent as it is and replaced by patching its message: no streaming, and fewer frames."""

    medium = "message"
    live = True
    editable = True
    repeatable = True
    withdrawable = True
    interval_s = PATCH_FRAME_S
    renew_s: float | None = None
    seal_s: float | None = None
    tick_s: float | None = TICK_S

    def __init__(self, wire: Wire, target: Target, style: Style, *, name: str = "patched card") -> None:
        self.name = name
        self._wire = wire
        self._target = target
        self._drawing = Drawing(style)
        self._message_key = ""

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The cards that should be seen."""
        return self._drawing.pages(desired)

    async def slot(self, *, urgent: bool) -> None:
        """Waits until the platform's limits allow one more frame."""
        message = [(self._message_key, PER_MESSAGE)] if self._message_key else list[tuple[str, Limit]]()
        await self._wire.slot("patch", *message, urgent=urgent)

    async def create(self, act: Act, page: Page) -> Receipt:
        """Sends the card."""
        answer = await send(self._wire, self._target, act, "interactive", _still(page.content))
        return answer.receipt

    async def show(self, act: Act, page: Page) -> Receipt:
        """Replaces the card."""
        return await self._patch(act, page)

    async def close(self, act: Act, page: Page) -> Receipt:
        """Replaces the card."""
        return await self._patch(act, page)

    async def renew(self, act: Act, page: Page) -> Receipt:
        """Nothing streams, so nothing ends by itself."""
        return CONFIRMED

    async def withdraw(self, act: Act) -> Receipt:
        """Recalls the message."""
        return await recall(self._wire, act)

    async def _patch(self, act: Act, page: Page) -> Receipt:
        message = act.facts.get("message_id")
        if not isinstance(message, str):
            return refused("spent", "the message's name is not known")
        self._message_key = f"{self._wire.app_id}:message:{message}"
        body = {"content": msgspec.json.encode(_still(page.content)).decode()}
        answer = await self._wire.call("patch", "PATCH", f"/im/v1/messages/{message}", body)
        if answer.receipt.cause == "busy":
            self._wire.penalise("patch", answer.receipt.wait_s or 1.0, self._message_key)
        return answer.receipt


async def recall(wire: Wire, act: Act) -> Receipt:
    """Takes a message of ours back."""
    message = act.facts.get("message_id")
    if not isinstance(message, str):
        return refused("rung", "the message's name is not known")
    await wire.slot("delete", urgent=True)
    answer = await wire.call("delete", "DELETE", f"/im/v1/messages/{message}")
    return answer.receipt


def _data(card: Card) -> str:
    return msgspec.json.encode(card.json).decode()


def _still(card: Card) -> dict[str, Any]:
    """The card without what only entities know."""
    config = {key: value for key, value in card.json["config"].items() if not key.startswith("streaming")}
    return {**card.json, "config": config}


def _frame(card: Card) -> str:
    """Everything of the card but its streaming text."""
    return _digest(card.blank())


def _note(act: Act, card: Card | None) -> None:
    """Remembers what the platform has, so that the next frame may send the text alone."""
    act.memory["frame"] = None if card is None else _frame(card)
