"""From what a bot is told to what it causes here.

Guarantee: a message becomes one turn, however often it comes; one that could not be stored, or was refused, is
answered so on the spot, for the platform tells nothing twice of its own. An event is answered in its five seconds or
not at all; what it asks for is done in any case. Nothing is fetched before a message is stored.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from sqlalchemy import Connection

from ...clock import Clock, sleep
from ...delivery.outcomes import pause_s
from ...ids import new_id
from ...store import StoreError
from ...store.queries.conversations import get_conversation
from ...store.queries.deliveries import find_delivery, save_feedback
from ...store.queries.rows import TurnRow
from ...store.queries.turns import get_turn
from ...turns.admission import Admission, Refused
from ...turns.admission import Inbound as Submitted
from ...turns.commands import parse_command
from ..replies import REPLIES
from ..words import WORDS
from . import cards, frames
from .connection import BotConnection
from .events import Clicked, Entered, Judged, Said, read_event, read_message
from .frames import Inbound, Json
from .lanes import Answer
from .resources import Resources
from .settings import Bot
from .surface import FEEDBACK
from .target import Target
from .words import OWN

if TYPE_CHECKING:
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)

TITLE_CHARS = 80
EVENT_S = 4.8
"""Seconds in which an event can be answered; the platform takes answers for five."""
TRIES = 3
SAYING = 200
"""Short answers that may be under way; more are not given."""
REMEMBERED = 2000
"""Messages of which it is known what became of them, so that a copy of one comes to the same without the store."""


class Taken(msgspec.Struct, frozen=True):
    """What became of something that the bot was told.

    Attributes:
        text: what is to be said at once; empty for nothing.
        repeated: it was to be said before.
        card: what takes the place of the card that was clicked, and for whom if not for everybody.
        admission: of a message that was taken.
    """

    text: str = ""
    repeated: bool = False
    card: Json | None = None
    card_for: str = ""
    admission: Admission | None = None


NOTHING = Taken()


class Reception:
    """Takes what one bot is told.

    Attributes:
        gateway, connection: to be set before anything comes; without a connection only `take_body` can be used.
        listening: while it is not set, who writes is asked to try again.
    """

    def __init__(self, bot: Bot, channel: str, clock: Clock) -> None:
        self._bot = bot
        self._channel = channel
        self._clock = clock
        self._replies = REPLIES[bot.language]
        self._own = OWN[bot.language]
        self._words = WORDS[bot.language]
        self._tasks: set[asyncio.Task[None]] = set()
        # What was said to a message instead of an answer; nothing to one that was taken.
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.resources = Resources(bot, clock)
        self.listening = False
        self.gateway: Gateway
        self.connection: BotConnection

    def start(self) -> None:
        """Begins to take things in."""
        self.resources.gateway = self.gateway
        self.listening = True

    def resume(self) -> None:
        """The bot is this process's from now on: goes on with what another one left behind."""
        self._spawn(self._resume())

    async def close(self) -> None:
        """Ends what is being said and fetched."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.resources.close()

    async def prepare(self, turn: TurnRow, *, steered: bool) -> str | None:
        """Waits until the turn's messages name only what is stored here; returns what they quote."""
        return await self.resources.prepare(turn, steered=steered)

    # What comes

    async def take(self, frame: Inbound) -> None:
        """Does what a frame asks for; nobody waits for what is said then."""
        if frame.cmd == frames.MESSAGE:
            taken = await self.take_body(frame.body, req_id=frame.req_id)
            if taken.text and not taken.repeated:
                stream = frames.stream(frames.new_req_id("note"), taken.text, finish=True)
                self._spawn(self._say(frame.req_id, stream))
            return
        event = read_event(frame.body)
        taken = await self.take_body(frame.body)
        if self._clock.monotonic() - frame.at > EVENT_S:
            _log.info("an event is too old to be answered", channel=self._channel, kind=frame.event)
        elif isinstance(event, Entered) and taken.text:
            self._spawn(self._greet(frame.req_id, taken.text))
        elif taken.card is not None:
            self._spawn(self._update(frame.req_id, taken.card, taken.card_for))

    async def take_body(self, body: Json, *, req_id: str = "") -> Taken:
        """Does what a body asks for, however it came; returns what is to be said at once.

        Args:
            req_id: what answers to a message must name, if there is such a thing.
        """
        if body.get("msgtype") != "event" and "event" not in body:
            said = read_message(body, req_id=req_id, unreadable=self._own.unreadable, called=self._bot.called)
            return await self._message(said, req_id) if said is not None else NOTHING
        event = read_event(body)
        if isinstance(event, Entered):
            welcome = self._own.welcome if self._bot.welcome is None else self._bot.welcome
            return Taken(welcome) if self._allowed(event.user, "") else NOTHING
        if isinstance(event, Clicked):
            return await self._clicked(event)
        if isinstance(event, Judged):
            await self._judged(event)
        else:
            kind = Inbound(frames.EVENT, "", body).event
            _log.debug("an event that nothing is done about", channel=self._channel, kind=kind)
        return NOTHING

    # Messages

    async def _message(self, said: Said, req_id: str) -> Taken:
        if before := self._known.get((said.chat, said.id)):
            return Taken(before, repeated=True)
        why = self._why_not(said)
        if why is not None:
            _log.info("a message is left alone", channel=self._channel, message=said.id, why=why)
            return NOTHING
        if not self._allowed(said.sender, said.chat):
            _log.info("the sender of a message is not on the list", channel=self._channel, message=said.id)
            return NOTHING if said.group else self._refuse(said, self._replies.not_allowed)
        if not self.listening:
            return self._refuse(said, self._own.try_again)
        message = self._as_message(said)
        try:
            admission = await self.gateway.submit(self._submitted(said, message, req_id))
        except Refused as refused:
            _log.warning("a message was refused", channel=self._channel, message=said.id, why=refused.code)
            draining = refused.code == "draining"
            return self._refuse(said, self._own.try_again if draining else self._replies.refused(refused.code))
        except StoreError as error:
            _log.error("a message could not be stored", channel=self._channel, message=said.id, error=str(error))
            return self._refuse(said, self._own.try_again)
        if admission.kind != "duplicate":
            self.resources.begin(admission.conversation.id, message)
        self._know(said, "")
        return Taken(admission=admission)

    def _as_message(self, said: Said) -> Json:
        own = {"from": said.sender, **({"quote": said.quote} if said.quote else {})}
        text = [{"type": "text", "text": said.text}] if said.text else []
        return {
            "id": said.id,
            "role": "user",
            "parts": [*text, *self.resources.parts(said.media)],
            "metadata": {"turnwire": own},
        }

    def _submitted(self, said: Said, message: Json, req_id: str) -> Submitted:
        about = {"wecom": {"message": said.id, "chat": said.chat, "group": said.group, "sender": said.sender}}
        target = Target(said.chat, group=said.group, req_id=req_id, at=self._clock.now(), url=said.url)
        return Submitted(
            channel=self._channel,
            owner=said.chat,
            conversation=said.chat,
            key=said.id,
            message=msgspec.json.encode(message),
            message_id=said.id,
            title=said.text[:TITLE_CHARS],
            command=parse_command(said.text),
            policy=self.gateway.config.turns.policy,
            metadata=msgspec.json.encode(about),
            reply_to=target.encode(),
            user=said.sender,
            language=self._bot.language,
            conversation_id=new_id("conv", self._clock),
            turn_id=new_id("turn", self._clock),
            answer_id=new_id("msg", self._clock),
        )

    def _why_not(self, said: Said) -> str | None:
        """Why a message is not for us, None if it is."""
        if not said.sender:
            return "nobody has written it"
        if said.bot or said.sender == self._bot.bot_id:
            return "a bot has written it"
        if not said.text and not said.media and not said.quote:
            return "it is empty"
        return None

    def _refuse(self, said: Said, text: str) -> Taken:
        """Its sender is told why; a copy of it that comes later does not become a turn either."""
        if (said.chat, said.id) in self._known:
            return NOTHING
        self._know(said, text)
        return Taken(text)

    def _know(self, said: Said, text: str) -> None:
        self._known[said.chat, said.id] = text
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

    def _allowed(self, person: str, chat: str) -> bool:
        return self._bot.allow is None or person in self._bot.allow or chat in self._bot.allow

    # Events

    async def _clicked(self, said: Clicked) -> Taken:
        what, about = cards.read_key(said.key)
        title = self._own.stop_title if what == cards.STOP else self._own.approve_title
        if not self._allowed(said.user, said.chat):
            return self._card(said, title, self._replies.not_allowed, alone=True)
        try:
            if what == cards.STOP:
                return await self._stop(said, about, title)
            if what in (cards.APPROVE, cards.DENY):
                return await self._answer(said, about, title, approved=what == cards.APPROVE)
        except StoreError as error:
            # The card stays as it is, so that it can be clicked again.
            _log.error("a click could not be stored", channel=self._channel, error=str(error))
            return NOTHING
        return self._card(said, title, self._replies.unknown_button)

    async def _stop(self, said: Clicked, turn_id: str, title: str) -> Taken:
        turn = await self.gateway.db.read(_turn_in, turn_id, self._channel, said.chat)
        if turn is None or turn.status == "finished":
            return self._card(said, title, self._replies.over)
        await self.gateway.stop_turn(turn, said.user)
        return self._card(said, title, self._replies.stopping)

    async def _answer(self, said: Clicked, approval: str, title: str, *, approved: bool) -> Taken:
        try:
            answered = await self.gateway.answer(
                approval, channel=self._channel, owner=said.chat, approved=approved, by=said.user
            )
        except Refused as refused:
            if refused.code == "draining":
                return NOTHING
            return self._card(said, title, self._replies.no_approval)
        row = answered.approval
        words = self._words.allowed_by if row.approved else self._words.denied_by
        told = (
            words.format(who=row.resolved_by)
            if row.resolved_by
            else self._replies.verdict(bool(row.approved), first=answered.first)
        )
        return self._card(said, title, told)

    def _card(self, said: Clicked, title: str, told: str, *, alone: bool = False) -> Taken:
        """What takes the place of the card that was clicked; `alone`: for who clicked only."""
        if not said.task:
            return NOTHING
        return Taken(card=dict(cards.clicked(said.task, title, told)), card_for=said.user if alone else "")

    async def _judged(self, said: Judged) -> None:
        if not self._allowed(said.user, said.chat):
            return
        own = said.about.removeprefix(FEEDBACK).rpartition("-")[0]
        judged = {
            "good": said.good,
            "content": said.content,
            "reasons": said.reasons,
            "by": said.user,
            "at": self._clock.now(),
        }
        try:
            kept = await self.gateway.db.run(_judge, own, self._channel, said.chat, msgspec.json.encode(judged))
        except StoreError as error:
            _log.error("what somebody thinks of an answer could not be kept", channel=self._channel, error=str(error))
            return
        if not kept:
            _log.info("what somebody thinks is about no answer of ours", channel=self._channel)

    async def _resume(self) -> None:
        try:
            await self.resources.resume(self._channel)
        except StoreError as error:
            _log.warning("files that wait are fetched when their turns begin", channel=self._channel, error=str(error))

    # What is said

    async def _say(self, req_id: str, stream: Json) -> None:
        """A bubble that can be sent again, for it has one name."""
        for tried in range(1, TRIES + 1):
            if not await self.connection.ready():
                return
            answer = await self.connection.respond(req_id, stream)
            if answer.receipt.ok:
                return
            if (answer.receipt.kind == "refused" and answer.receipt.cause != "busy") or tried == TRIES:
                _log.warning("a short answer could not be given", channel=self._channel, why=answer.receipt.reason)
                return
            await sleep(self._clock, pause_s(tried, answer.receipt))

    async def _greet(self, req_id: str, text: str) -> None:
        self._note(await self.connection.welcome(req_id, frames.text(text)))

    async def _update(self, req_id: str, card: Json, card_for: str) -> None:
        self._note(await self.connection.update_card(req_id, frames.card_update(card, [card_for] if card_for else [])))

    def _note(self, answer: Answer) -> None:
        if not answer.receipt.ok:
            _log.warning("an event could not be answered", channel=self._channel, why=answer.receipt.reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= SAYING:
            work.close()
            _log.warning("too many short answers are under way; one is not given", channel=self._channel)
            return
        task = asyncio.create_task(work, name=f"wecom-says-{self._bot.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _turn_in(conn: Connection, turn_id: str, channel: str, chat: str) -> TurnRow | None:
    """That turn, if it belongs to the chat: a card may have been taken elsewhere."""
    turn = get_turn(conn, turn_id)
    if turn is None:
        return None
    conversation = get_conversation(conn, turn.conversation_id)
    return turn if (conversation.channel, conversation.owner) == (channel, chat) else None


def _judge(conn: Connection, own: str, channel: str, chat: str, judged: bytes) -> bool:
    """Keeps what somebody thinks of a delivery, if it is one of the chat."""
    row = find_delivery(conn, own)
    if row is None or row.channel != channel or get_conversation(conn, row.conversation_id).owner != chat:
        return False
    return save_feedback(conn, own, judged)
