"""One turn in one chat of WeCom, in webhook mode: a bubble that the platform asks for, one answer by address, and what
waits.

The bubble is not sent: whoever is asked for it says what the ledger and the journal say. So its acts are decisions,
stored before anybody is told of them, and confirmed once the platform has asked. Source: the platform's pages 100719,
101031 and 101138.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from ...clock import Clock
from ...delivery.outcomes import CONFIRMED, Receipt, refused
from ...delivery.pacing import Pacer
from ...delivery.state import load
from ...delivery.surface import Act, DeliveryOrder, Desired, Page, Rung
from ...events import JSON
from ...files import StoredFile
from ...store import Database, StoreError
from ...store.queries.deliveries import find_delivery, states_at
from ...store.queries.inbound import find_inbound
from . import frames
from .address import Address
from .heard import Heard, stream_of
from .hook_pages import LIFE_S, Polled, address_pages, bubble_pages, is_picture
from .limits import message_slot
from .links import Links
from .render import Bubble, CardPage, Style
from .surface import NOBODY_WROTE, BaseRung
from .target import Target, read_target

BEGIN_S = 20.0
"""Seconds since a message within which the platform asks for its bubble the first time, if it knows of one."""
GRACE_S = 5.0
"""Seconds that a last request may be late."""
ADDRESS_S = 3600.0 - 30.0
ADDRESS = "answer by address"
TICK_S = 5.0
FRAME_S = 1.0


class PolledRung(BaseRung):
    """The bubble of the message that is answered. The platform fetches each frame, so that there is none to send.

    That a bubble exists is known from the platform's first request for it: an answer to the message may have been lost
    on its way, and the process that gave it may be gone.
    """

    name = "polled bubble"
    live = True
    repeatable = True
    interval_s = FRAME_S
    tick_s: float | None = TICK_S

    def __init__(
        self,
        order: DeliveryOrder,
        target: Target,
        style: Style,
        *,
        db: Database,
        heard: Heard,
        links: Links | None,
    ) -> None:
        super().__init__(style)
        self._order = order
        self._target = target
        self._db = db
        self._heard = heard
        self._links = links

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The bubble, closed as it is shortly before the platform asks no more."""
        return bubble_pages(desired, self._target, self.style, sealed, self._links)

    async def create(self, act: Act, page: Page) -> Receipt:
        """Waits until the platform has asked for the bubble, or for its end if it begins with that."""
        if not isinstance(page.content, Polled):
            return _unsent("a message has one bubble")
        try:
            target = await self._db.read(_waiting_at, self._order)
        except StoreError as error:
            return refused("busy", f"the store cannot be reached: {error}")
        if target is None:
            return _unsent("no message waits for this answer")
        self._target = target
        if not (act.again and "stream" in act.facts):
            await act.learn(stream=stream_of(self._order.id, target.req_id), **_kept(page, page.content))
        stream = str(act.facts["stream"])
        if not await self._heard.wait(stream, end=False, until=target.at + BEGIN_S):
            return _unsent("the platform has not asked for the bubble")
        if "closed" not in act.facts or await self._fetched(stream):
            return CONFIRMED
        return _unsent("the platform has not fetched the bubble")

    async def close(self, act: Act, page: Page) -> Receipt:
        """Decides how it ends, and waits until the platform has fetched that."""
        if "closed" not in act.facts and isinstance(page.content, Polled):
            await act.learn(**_kept(page, page.content))
        if await self._fetched(str(act.facts["stream"])):
            return CONFIRMED
        return refused("rung", "the platform has not fetched the end of the bubble")

    async def _fetched(self, stream: str) -> bool:
        return await self._heard.wait(stream, end=True, until=self._target.at + LIFE_S + GRACE_S)


class AddressRung(BaseRung):
    """The one message that the platform takes at an address which came with the message, for an hour.

    For it takes no second one, an answer whose fate is unknown can be posted again.
    """

    name = ADDRESS
    repeatable = True

    def __init__(
        self,
        order: DeliveryOrder,
        target: Target,
        style: Style,
        *,
        db: Database,
        address: Address,
        links: Links | None,
        pacer: Pacer,
        clock: Clock,
    ) -> None:
        super().__init__(style)
        self._order = order
        self._target = target
        self._db = db
        self._address = address
        self._links = links
        self._pacer = pacer
        self._clock = clock

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """What was closed, and the one message."""
        return address_pages(desired, self._target, self.style, sealed, self._links, self._order.id)

    async def create(self, act: Act, page: Page) -> Receipt:
        """Posts it."""
        again = act.again and "address" in act.facts
        if not self._target.url or self._clock.now() - self._target.at > ADDRESS_S:
            return _closed("the address for one answer is over, or there was none", again=again)
        try:
            if await self._db.read(_is_used, self._order.id):
                return _closed("the address for one answer is used up", again=again)
        except StoreError as error:
            return refused("busy", f"the store cannot be reached: {error}")
        if not again:
            await act.learn(address=self._target.req_id, **_posted(page))
        if isinstance(page.content, CardPage):
            body = frames.card(dict(page.content.card))
        else:
            body = frames.markdown(str(act.facts["closed"]))
        await message_slot(self._pacer, self._order.channel, self._target.chat)
        return await self._address.say(self._target.url, body, again=again)


class WithheldRung(AddressRung):
    """Says, at the same address, that the platform does not let the answer through."""

    name = "notice by address"

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """What was closed, and the notice."""
        found = super().render(desired, sealed)[: len(sealed)]
        if any("notice" in one for one in sealed):
            return found
        words, lacks = self.style.own.withheld, "the platform refused what the answer says"
        known: dict[str, JSON] = {"text": "", "notice": True, "lacks": lacks}
        return [*found, Page("notice", Bubble(words, words, known), lacks=lacks)]


class WaitingRung(AddressRung):
    """Nothing can be said there: it waits for the next message."""

    name = "held"

    async def create(self, act: Act, page: Page) -> Receipt:
        """Says so."""
        return refused("held", NOBODY_WROTE)


class HookSurface:
    """One delivery in webhook mode."""

    def __init__(
        self,
        order: DeliveryOrder,
        target: Target,
        style: Style,
        *,
        db: Database,
        heard: Heard,
        address: Address,
        links: Links | None,
        pacer: Pacer,
        clock: Clock,
    ) -> None:
        self._links = links
        self._style = style
        polled = PolledRung(order, target, style, db=db, heard=heard, links=links)
        by_address = [
            rung(order, target, style, db=db, address=address, links=links, pacer=pacer, clock=clock)
            for rung in (AddressRung, WithheldRung, WaitingRung)
        ]
        self.ladder: Sequence[Rung] = (polled, *by_address)

    async def attach(self, act: Act, file: StoredFile) -> Receipt:
        """Files are not sent by themselves: pictures come with the end of the bubble, others are linked in it."""
        if is_picture(file.media_type, file.size) or self._links is not None:
            return CONFIRMED
        return refused("content", self._style.own.no_files)

    async def greet(self, act: Act) -> Receipt:
        """The bubble itself says that somebody is at work."""
        return refused("rung", "the bubble says it")

    async def part(self, act: Act) -> Receipt:
        """There is no such sign."""
        return CONFIRMED


def _unsent(reason: str) -> Receipt:
    return Receipt("refused", "rung", reason, unsent=True)


def _closed(reason: str, *, again: bool) -> Receipt:
    """Nothing can be posted any more; with `again` something may have been."""
    return refused("rung", reason) if again else _unsent(reason)


def _posted(page: Page) -> dict[str, JSON]:
    """What is remembered of a message from before it is posted."""
    if isinstance(page.content, CardPage):
        return dict(page.content.kept)
    bubble: Bubble = page.content
    return {**bubble.kept, "closed": bubble.closed}


def _kept(page: Page, content: Polled) -> dict[str, JSON]:
    """What is remembered of a bubble from before anybody is told how it ends."""
    return {} if page.live else {**content.bubble.kept, "closed": content.bubble.closed}


def _waiting_at(conn: Connection, order: DeliveryOrder) -> Target | None:
    """Where the delivery is shown now, if the platform asks for it there: for the turn that the message began."""
    row = find_delivery(conn, order.id)
    if row is None:
        return None
    target = read_target(row.target)
    told = find_inbound(conn, row.conversation_id, target.req_id) if target.req_id else None
    return target if told == row.turn_id else None


def _is_used(conn: Connection, delivery: str) -> bool:
    """Whether the address of the message that a delivery answers may have been used, by it or by another one."""
    row = find_delivery(conn, delivery)
    if row is None:
        return False
    asked = read_target(row.target).req_id
    if any(part.exists and part.facts.get("address") == asked for part in load(row.state).parts):
        return True
    parts = [part for state in states_at(conn, row) for part in load(state).parts]
    return any(part.rung in _BY_ADDRESS and (part.exists or part.maybe) for part in parts)


_BY_ADDRESS = frozenset({AddressRung.name, WithheldRung.name})
