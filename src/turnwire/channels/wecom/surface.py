"""One turn in one chat of WeCom, over the long connection: bubbles that stream, messages, files, and what waits.

Source: the platform's pages 101463, 101831 and 101836 on replies and messages of AI bots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ...clock import Clock
from ...delivery.outcomes import CONFIRMED, Receipt, refused
from ...delivery.pacing import Pacer
from ...delivery.surface import Act, Desired, Page, Rung
from ...events import JSON
from ...files import StoredFile
from . import frames
from .connection import BotConnection
from .errors import STREAM_OVER, TOO_MANY
from .lanes import Answer
from .limits import chat_key, message_slot
from .media import SIZES, Uploader
from .render import Bubble, CardPage, Style, pages
from .settings import Bot
from .target import Target

REPLY_LIFE_S = 24 * 3600.0
MEDIA_LIFE_S = 2 * 86400.0
SEAL_MARGIN_S = 30.0
TICK_S = 30.0
SLOW_FRAME_S = 2.5
"""Seconds between two frames where frames count as messages."""
MEDIUM = "chat"
FEEDBACK = "trace_"
"""The platform asks for an opinion only under names that begin like this."""
REFUSED = "the platform refused what the answer says"
NOBODY_WROTE = "nobody can be told there until somebody writes to the bot again"


class BaseRung:
    """What all ways share: parts are never changed once they are closed, and never taken away."""

    name = ""
    medium = MEDIUM
    live = False
    editable = False
    repeatable = False
    withdrawable = False
    interval_s = 0.0
    renew_s: float | None = None
    seal_s: float | None = None
    tick_s: float | None = None

    def __init__(self, style: Style) -> None:
        self.style = style

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """The bubbles and cards that should be seen."""
        begun = desired.view.count > 0 or desired.ended
        return pages(desired, self.style, sealed) if begun else []

    async def slot(self, *, urgent: bool) -> None:
        """Nothing is waited for before a frame; each new message waits for the chat."""
        return

    async def show(self, act: Act, page: Page) -> Receipt:
        """There are no frames."""
        return CONFIRMED

    async def close(self, act: Act, page: Page) -> Receipt:
        """What was sent stays as it is."""
        return CONFIRMED

    async def renew(self, act: Act, page: Page) -> Receipt:
        """Nothing can be renewed."""
        return CONFIRMED

    async def withdraw(self, act: Act) -> Receipt:
        """Nothing can be taken away."""
        return refused("rung", "the platform takes no message back")


class StreamRung(BaseRung):
    """Bubbles under the request id of the message that is answered.

    A bubble is named by us, and a frame replaces all of it, so that each frame can be sent again. Only the final one
    tells: a bubble that takes no frames any more, though it is young, has had it.
    """

    name = "bubble"
    live = True
    repeatable = True

    def __init__(
        self,
        connection: BotConnection,
        target: Target,
        style: Style,
        *,
        clock: Clock,
        pacer: Pacer,
        life_s: float,
        frame_s: float,
        feedback: bool,
    ) -> None:
        super().__init__(style)
        self.interval_s = frame_s
        self.seal_s = max(life_s - SEAL_MARGIN_S, life_s / 2)
        self.tick_s = TICK_S
        self._connection = connection
        self._target = target
        self._clock = clock
        self._pacer = pacer
        self._life_s = life_s
        self._feedback = feedback

    async def create(self, act: Act, page: Page) -> Receipt:
        """The first frame of a bubble, or a card."""
        if self._target.push or not self._target.req_id:
            return refused("rung", "no message waits for an answer")
        if self._clock.now() - self._target.at > REPLY_LIFE_S:
            return refused("rung", "the message is older than a day")
        await message_slot(self._pacer, self._connection.bot_id, self._target.chat)
        # Without that nothing was sent, whatever was intended.
        tried = act.again and "stream" in act.facts
        if not tried:
            # What a try that was not sent had decided does not hold any more.
            await act.learn(**{"at": self._clock.now(), "stream": act.key, "closed": None, **_kept(page)})
        if isinstance(page.content, CardPage):
            if tried:
                return refused("rung", "it is not known whether the card was sent")
            return self._paced(await self._send(frames.card(dict(page.content.card))))
        closed = act.facts.get("closed")
        final = isinstance(closed, str)
        content = closed if isinstance(closed, str) else page.content.frame
        feedback = f"{FEEDBACK}{act.key}" if self._feedback else ""
        said = frames.stream(act.key, content, finish=final, feedback_id=feedback)
        return self._settled(act, await self._send(said, opens=True), final=final)

    async def show(self, act: Act, page: Page) -> Receipt:
        """One more frame of an open bubble."""
        return self._paced(await self._send(frames.stream(_name(act), page.content.frame)))

    async def close(self, act: Act, page: Page) -> Receipt:
        """The final frame."""
        if not act.again or act.facts.get("closed") is None:
            await act.learn(**_kept(page))
        content = str(act.facts["closed"])
        answer = await self._send(frames.stream(_name(act), content, finish=True))
        return self._settled(act, answer, final=True)

    async def _send(self, body: dict[str, Any], *, opens: bool = False) -> Answer:
        return await self._connection.respond(self._target.req_id, body, opens=opens)

    def _settled(self, act: Act, answer: Answer, *, final: bool) -> Receipt:
        began = act.facts.get("at")
        young = isinstance(began, float | int) and self._clock.now() - began < self._life_s - SEAL_MARGIN_S / 2
        if final and act.again and young and answer.code in STREAM_OVER:
            # Only a final frame ends a bubble that is so young.
            return CONFIRMED
        return self._paced(answer)

    def _paced(self, answer: Answer) -> Receipt:
        if answer.code == TOO_MANY:
            self.interval_s = max(self.interval_s, SLOW_FRAME_S)
            self._pacer.penalise(chat_key(self._connection.bot_id, self._target.chat), answer.receipt.wait_s or 60.0)
        return answer.receipt


class PushRung(BaseRung):
    """Messages that answer nothing. Nothing makes them safe to repeat."""

    name = "message"

    def __init__(self, connection: BotConnection, target: Target, style: Style, *, pacer: Pacer) -> None:
        super().__init__(style)
        self._connection = connection
        self._target = target
        self._pacer = pacer

    async def create(self, act: Act, page: Page) -> Receipt:
        """Sends one."""
        await act.learn(**_kept(page))
        if isinstance(page.content, CardPage):
            body = frames.card(dict(page.content.card))
        else:
            body = frames.markdown(page.content.closed)
        return await push(self._connection, self._pacer, self._target, body)


class NoticeRung(PushRung):
    """Says that the platform does not let the answer through."""

    name = "notice"

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        """What was closed, and the notice."""
        found = super().render(desired, sealed)[: len(sealed)]
        if any(one.get("lacks") for one in sealed):
            return found
        words = self.style.own.withheld
        return [*found, Page("notice", Bubble(words, words, {"text": "", "lacks": REFUSED}))]


class HeldRung(BaseRung):
    """Nothing can be said there: it waits for the next message."""

    name = "held"

    async def create(self, act: Act, page: Page) -> Receipt:
        """Says so."""
        return refused("held", NOBODY_WROTE)


class WecomSurface:
    """One delivery over the long connection."""

    def __init__(
        self,
        connection: BotConnection,
        uploader: Uploader,
        target: Target,
        style: Style,
        *,
        clock: Clock,
        pacer: Pacer,
        life_s: float,
        frame_s: float,
        feedback: bool,
    ) -> None:
        self._connection = connection
        self._uploader = uploader
        self._target = target
        self._clock = clock
        self._pacer = pacer
        plain = pushed_style(style, target)
        self.ladder: Sequence[Rung] = (
            StreamRung(
                connection, target, style, clock=clock, pacer=pacer, life_s=life_s, frame_s=frame_s, feedback=feedback
            ),
            PushRung(connection, target, plain, pacer=pacer),
            NoticeRung(connection, target, plain, pacer=pacer),
            HeldRung(plain),
        )

    async def attach(self, act: Act, file: StoredFile) -> Receipt:
        """Uploads a file, which nobody sees, and sends it as a message of its own, once: before the final frame."""
        if act.again and act.facts.get("sending"):
            return refused("spent", "nothing makes it safe to send a file again")
        if file.size > SIZES["file"]:
            return refused("content", f"files may have {SIZES['file'] // 2**20} MB at most")
        media_id, kind = act.facts.get("media"), str(act.facts.get("kind"))
        made = act.facts.get("at")
        if not isinstance(media_id, str) or self._clock.now() - float(str(made)) > MEDIA_LIFE_S:
            found = await self._uploader.upload(await file.read(), name=file.name)
            if not found.receipt.ok:
                return found.receipt
            media_id, kind = found.media_id, found.kind
            await act.learn(media=media_id, kind=kind, at=self._clock.now())
        body = frames.media(_KINDS[kind], media_id, title=file.name)
        await act.learn(sending=True)
        receipt = await push(self._connection, self._pacer, self._target, body)
        if receipt.cause == "held" and self._answers():
            # A file as a reply is seen by nobody once a bubble was closed, though the platform says it was taken.
            receipt = refused("content", receipt.reason)
        if receipt.kind == "refused":
            await act.learn(sending=False, **({"media": None} if receipt.cause == "spent" else {}))
        return refused("busy", receipt.reason) if receipt.cause == "spent" else receipt

    async def greet(self, act: Act) -> Receipt:
        """The bubble itself says that somebody is at work."""
        return refused("rung", "the bubble says it")

    async def part(self, act: Act) -> Receipt:
        """There is no such sign."""
        return CONFIRMED

    def _answers(self) -> bool:
        return bool(self._target.req_id) and not self._target.push


_KINDS: Mapping[str, frames.MediaKind] = {"image": "image", "voice": "voice", "video": "video", "file": "file"}


async def push(connection: BotConnection, pacer: Pacer, target: Target, body: dict[str, Any]) -> Receipt:
    """Sends one message to a chat."""
    await message_slot(pacer, connection.bot_id, target.chat)
    answer = await connection.push(frames.pushed(target.chat, body, group=target.group))
    if answer.code == TOO_MANY:
        pacer.penalise(chat_key(connection.bot_id, target.chat), answer.receipt.wait_s or 60.0)
    return answer.receipt


def style_of(bot: Bot) -> Style:
    """How the bot's answers look."""
    return Style(language=bot.language, footer=tuple(bot.footer), reasoning=bot.reasoning, stop_card=bot.stop_card)


def pushed_style(style: Style, target: Target) -> Style:
    """How messages look that are no bubbles: they have no thoughts, and groups take no cards."""
    return msgspec.structs.replace(style, reasoning=False, stop_card=False, cards=style.cards and not target.group)


def _name(act: Act) -> str:
    return str(act.facts["stream"])


def _kept(page: Page) -> dict[str, JSON]:
    """What is remembered of a bubble or card from before it is sent."""
    if isinstance(page.content, CardPage):
        return dict(page.content.kept)
    if page.live:
        return {}
    return {**page.content.kept, "closed": page.content.closed}
