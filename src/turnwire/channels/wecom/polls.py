"""What the platform is told when it asks how a bubble goes on: from the store alone, so by any process.

Guarantee: a bubble ends only as its courier has decided, in the decided words; until then it shows what is committed.
Many requests for one bubble cost one rendering a second. What nobody knows ends at once.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import structlog
from sqlalchemy import Connection

from ...chunks import decode
from ...clock import Clock
from ...delivery.circumstances import Circumstances, read_circumstances
from ...delivery.courier import desired_of
from ...delivery.state import Part, State, load
from ...delivery.surface import Desired
from ...files import FileMissing, FileStore
from ...store import Database
from ...store.queries.deliveries import find_delivery
from ...store.queries.records import Trimmed, read_records, read_replay
from ...store.queries.rows import DeliveryRow
from ...store.queries.turns import get_turn
from ...turns.continuation import read_base
from ...view import View, fold
from .heard import Heard, delivery_of, stream_of
from .hook_pages import Polled, bubble_pages
from .links import Links
from .render import Style, whole_text
from .target import read_target

_log = structlog.get_logger(__name__)

FRESH_S = 0.9
"""Seconds for which a rendering is good; the platform asks about every second."""
REMEMBERED = 500
"""Bubbles whose turns are kept folded."""


class Said(msgspec.Struct, frozen=True):
    """What a bubble shows now; `pictures` come with its end."""

    content: str
    finish: bool = False
    pictures: Sequence[bytes] = ()


class _Bubble:
    """One that is asked for."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.view: View | None = None
        self.said: Said | None = None
        self.at = 0.0
        self.noted = False


class Polls:
    """Answers for one bot.

    Args:
        channel: whose deliveries it tells about.
    """

    def __init__(
        self,
        channel: str,
        style: Style,
        *,
        db: Database,
        files: FileStore,
        heard: Heard,
        links: Links | None,
        clock: Clock,
    ) -> None:
        self._channel = channel
        self._style = style
        self._db = db
        self._files = files
        self._heard = heard
        self._links = links
        self._clock = clock
        self._bubbles: OrderedDict[str, _Bubble] = OrderedDict()

    @property
    def begun(self) -> Said:
        """What is shown before anything is known."""
        return Said(f"> ⏳ {self._style.words.working} …")

    def last(self, stream: str) -> Said:
        """What was said last, for when the store cannot be asked."""
        bubble = self._bubbles.get(stream)
        return self.begun if bubble is None or bubble.said is None else bubble.said

    async def answer(self, stream: str, *, polled: bool = True) -> Said:
        """What that bubble shows now. Raises `StoreError`.

        Args:
            polled: the platform asks for it, which is noted; else its message has come once more.
        """
        own = delivery_of(stream)
        if own is None:
            return Said(self._style.own.unknown_poll, finish=True)
        bubble = self._bubbles.setdefault(stream, _Bubble())
        self._bubbles.move_to_end(stream)
        if len(self._bubbles) > REMEMBERED:
            self._bubbles.popitem(last=False)
        async with bubble.lock:
            if bubble.said is not None and self._clock.monotonic() - bubble.at < FRESH_S:
                return bubble.said
            said = await self._said(own, stream, bubble, polled=polled)
            bubble.said, bubble.at = said, self._clock.monotonic()
        if said.finish:
            self._bubbles.pop(stream, None)
        return said

    async def whole(self, delivery: str) -> str | None:
        """All that a turn has said, as one text; None if there is no such delivery of ours. Raises `StoreError`."""
        row = await self._db.read(find_delivery, delivery)
        if row is None or row.channel != self._channel:
            return None
        desired = await self._desired(row, load(row.state), _Bubble())
        return whole_text(desired, msgspec.structs.replace(self._style, cards=False))

    async def _said(self, own: str, stream: str, bubble: _Bubble, *, polled: bool) -> Said:
        row = await self._db.read(find_delivery, own)
        if row is None or row.channel != self._channel:
            return Said(self._style.own.unknown_poll, finish=True)
        if polled and not bubble.noted:
            await self._heard.note(stream, end=False)
            bubble.noted = True
        state = load(row.state)
        part = next((part for part in state.parts if part.facts.get("stream") == stream), None)
        if part is None:
            return self.begun if _is_awaited(row, state, stream) else Said(self._style.own.elsewhere, finish=True)
        closed = part.facts.get("closed")
        if isinstance(closed, str):
            said = Said(closed, finish=True, pictures=await self._pictures(part))
            if polled:
                await self._heard.note(stream, end=True)
            return said
        desired = await self._desired(row, state, bubble)
        sealed = [one.facts for one in state.parts if one.exists and one.closed]
        found = bubble_pages(desired, read_target(row.target), self._style, sealed, self._links)
        contents = [page.content for page in found[state.parts.index(part) :][:1]]
        return next((Said(one.bubble.frame) for one in contents if isinstance(one, Polled)), self.begun)

    async def _desired(self, row: DeliveryRow, state: State, bubble: _Bubble) -> Desired:
        view, records, about = await self._db.read(_look, row, bubble.view)
        # While it is folded it is nobody's: a fold that fails is begun anew.
        bubble.view = None
        fold(map(decode, records), view)
        bubble.view = view
        return desired_of(row.turn_id, view, state, about, now=self._clock.now())

    async def _pictures(self, part: Part) -> list[bytes]:
        named = part.facts.get("pictures")
        found: list[bytes] = []
        for own in named if isinstance(named, list) else ():
            file = await self._files.get(str(own))
            try:
                found += [] if file is None else [await file.read()]
            except FileMissing as error:
                _log.warning("a picture cannot be shown", file=own, why=str(error))
        return found


def _is_awaited(row: DeliveryRow, state: State, stream: str) -> bool:
    """Whether the delivery is still to begin in that bubble."""
    begins = row.status == "open" and state.rung == 0 and state.over is None and not row.push
    return begins and stream_of(row.id, read_target(row.target).req_id) == stream


def _look(conn: Connection, row: DeliveryRow, view: View | None) -> tuple[View, list[bytes], Circumstances]:
    """The view so far, and the records that are to be folded into it."""
    turn = get_turn(conn, row.turn_id)
    if turn is None:
        raise LookupError(f"the turn {row.turn_id!r} of a delivery is gone")
    about = read_circumstances(conn, row.id, row.turn_id)
    view = view if view is not None else read_base(conn, turn)
    records: list[bytes] = []
    if view.finish is not None:
        return view, records, about
    try:
        while (cursor := view.count + len(records)) < turn.head:
            page = read_records(conn, turn.id, cursor)
            if not page:
                break
            records += page
    except Trimmed:
        return read_base(conn, turn), read_replay(conn, turn.id), about
    return view, records, about
