"""From an event of the platform to what it causes here.

Guarantee: a message becomes one turn, however often, late or concurrently it is delivered; `take` returns as soon as
that is stored, and raises if it could not be, so that the platform delivers again. Nothing is fetched before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from sqlalchemy import Connection

from ...clock import Clock
from ...ids import new_id
from ...store.queries.conversations import get_conversation
from ...store.queries.inbound import find_owned
from ...store.queries.rows import TurnRow
from ...store.queries.turns import get_turn
from ...turns.admission import Inbound, Refused
from ...turns.commands import parse_command
from ..replies import REPLIES
from .events import Clicked, Recalled, Received, read_event, without_bot
from .people import People
from .settings import App
from .target import Target

if TYPE_CHECKING:
    from ...gateway import Gateway

_log = structlog.get_logger(__name__)

TITLE_CHARS = 80


class Reception:
    """Takes the events of one app."""

    def __init__(self, app: App, channel: str, people: People, clock: Clock) -> None:
        self._app = app
        self._channel = channel
        self._people = people
        self._clock = clock
        self._words = REPLIES[app.language]
        self.gateway: Gateway

    async def take(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """Does what an event asks for; returns what the platform is to be answered, if anything.

        Raises `StoreError` and `Unready` when it has to be delivered again.
        """
        kind, said = read_event(event)
        if isinstance(said, Received):
            await self._message(said)
        elif isinstance(said, Recalled):
            await self._recalled(said)
        elif isinstance(said, Clicked):
            return await self._clicked(said)
        else:
            _log.debug("an event that nothing is done about", channel=self._channel, kind=kind)
        return None

    async def _message(self, said: Received) -> None:
        why = await self._why_not(said)
        if why is not None:
            _log.info("a message is left alone", channel=self._channel, message=said.id, why=why)
            return
        text = without_bot(said.text, said.mentions, await self._people.bot()) if said.mentions else said.text.strip()
        topic = self._app.topics and said.group and bool(said.topic)
        message = {
            "id": said.id,
            "role": "user",
            "parts": [*([{"type": "text", "text": text}] if text else []), *said.parts],
            "metadata": {"turnwire": {"from": said.sender}},
        }
        about = {"feishu": {"message": said.id, "chat": said.chat, "sender": said.sender, "parent": said.parent}}
        inbound = Inbound(
            channel=self._channel,
            owner=said.chat,
            conversation=f"{said.chat}/{said.topic}" if topic else said.chat,
            key=said.id,
            message=msgspec.json.encode(message),
            message_id=said.id,
            title=text[:TITLE_CHARS],
            command=parse_command(text),
            policy=self.gateway.config.turns.policy,
            metadata=msgspec.json.encode(about),
            reply_to=Target(said.chat, said.id, topic=bool(said.topic)).encode(),
            user=said.sender,
            language=self._app.language,
            conversation_id=new_id("conv", self._clock),
            turn_id=new_id("turn", self._clock),
            answer_id=new_id("msg", self._clock),
        )
        try:
            await self.gateway.submit(inbound)
        except Refused as refused:
            if refused.code == "draining":
                raise
            _log.warning("a message was refused", channel=self._channel, message=said.id, why=refused.code)
            self._people.say(said.chat, said.id, self._words.refused(refused.code))

    async def _why_not(self, said: Received) -> str | None:
        """Why a message is not for us, None if it is."""
        if not said.person:
            return "it was not written by a person"
        if not said.text and not said.parts:
            return "it is empty"
        if said.created_at and self._clock.now() - said.created_at > self._app.stale_after_s:
            return "it is too old"
        if said.group and self._app.require_mention:
            bot = await self._people.bot() if said.mentions else ""
            if not any(mention.open_id == bot for mention in said.mentions):
                return "it does not name the bot"
        if not self._allowed(said.sender, said.chat):
            if not said.group:
                self._people.say(said.chat, said.id, self._words.not_allowed)
            return "its sender is not on the list"
        return None

    def _allowed(self, person: str, chat: str) -> bool:
        return self._app.allow is None or person in self._app.allow or chat in self._app.allow

    async def _recalled(self, said: Recalled) -> None:
        """A question that was taken back is not answered any more."""
        turn = await self.gateway.db.read(_turn_of, self._channel, said.chat, said.message)
        if turn is not None and turn.status != "finished":
            await self.gateway.stop_turn(turn, self._words.recalled)

    async def _clicked(self, said: Clicked) -> dict[str, Any]:
        if not self._allowed(said.operator, said.chat):
            return _toast("warning", self._words.not_allowed)
        what, gateway = said.value.get("turnwire"), self.gateway
        if what == "stop":
            turn = await gateway.db.read(_turn_in, str(said.value.get("turn") or ""), self._channel, said.chat)
            if turn is None or turn.status == "finished":
                return _toast("info", self._words.over)
            await gateway.stop_turn(turn, said.operator)
            return _toast("info", self._words.stopping)
        if what in ("approve", "deny"):
            try:
                answered = await gateway.answer(
                    str(said.value.get("approval") or ""),
                    channel=self._channel,
                    owner=said.chat,
                    approved=what == "approve",
                    by=await self._people.name(said.operator),
                )
            except Refused as refused:
                if refused.code == "draining":
                    raise
                return _toast("warning", self._words.no_approval)
            approved = bool(answered.approval.approved)
            return _toast("success" if approved else "info", self._words.verdict(approved, first=answered.first))
        return _toast("warning", self._words.unknown_button)


def _toast(kind: str, text: str) -> dict[str, Any]:
    return {"toast": {"type": kind, "content": text}}


def _turn_in(conn: Connection, turn_id: str, channel: str, chat: str) -> TurnRow | None:
    """That turn, if it belongs to the chat: a card may have been taken elsewhere."""
    turn = get_turn(conn, turn_id)
    if turn is None:
        return None
    conversation = get_conversation(conn, turn.conversation_id)
    return turn if (conversation.channel, conversation.owner) == (channel, chat) else None


def _turn_of(conn: Connection, channel: str, chat: str, message: str) -> TurnRow | None:
    """The turn that a message became, in whatever topic of the chat."""
    known = find_owned(conn, channel, chat, message)
    return get_turn(conn, known) if known is not None else None
