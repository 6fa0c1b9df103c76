"""Who we are there, what people are called, and short words to them that belong to no turn."""

from __future__ import annotations

import structlog

from ...clock import Clock, wait
from .send import send_notice
from .wire import Wire

_log = structlog.get_logger(__name__)

KEPT_NAMES = 2000
NAME_S = 1.0
"""A click is answered within three seconds."""


class Unready(Exception):
    """What has to be known first could not be asked for; the event is to be delivered again."""


class People:
    """The bot's own name and those of the people who use it, asked for once."""

    def __init__(self, wire: Wire, clock: Clock) -> None:
        self._wire = wire
        self._clock = clock
        self._bot = ""
        self._names: dict[str, str] = {}

    def begin(self) -> None:
        """Asks for the bot's own name, so that it is known when the first event comes."""
        self._wire.spawn(self._know())

    async def _know(self) -> None:
        try:
            await self.bot()
        except Unready as error:
            _log.warning("the app cannot be asked about itself; the next event tries again", why=str(error))

    async def bot(self) -> str:
        """The bot's `open_id`. Raises `Unready`."""
        if not self._bot:
            answer = await self._wire.call("get", "GET", "/bot/v3/info")
            about = answer.data.get("bot")
            own = about.get("open_id") if isinstance(about, dict) else None
            if not answer.receipt.ok or not isinstance(own, str):
                raise Unready(f"the bot's own name is not known: {answer.receipt.reason or 'no answer'}")
            self._bot = own
        return self._bot

    async def name(self, person: str) -> str:
        """What a person is called; their id if the app may not know, or is not told at once."""
        asking = self._wire.spawn(self._name(person))
        return asking.result() if await wait(self._clock, {asking}, NAME_S) else person

    async def _name(self, person: str) -> str:
        if person not in self._names:
            answer = await self._wire.call(
                "get", "GET", f"/contact/v3/users/{person}", params={"user_id_type": "open_id"}
            )
            user = answer.data.get("user")
            found = user.get("name") if isinstance(user, dict) else None
            if not isinstance(found, str) or not found:
                return person
            if len(self._names) >= KEPT_NAMES:
                self._names.pop(next(iter(self._names)))
            self._names[person] = found
        return self._names[person]

    def say(self, chat: str, message: str, text: str) -> None:
        """A word to who wrote `message`, once; nobody waits for it, and it is not tried again."""
        self._wire.spawn(self._say(chat, message, text))

    async def _say(self, chat: str, message: str, text: str) -> None:
        receipt = await send_notice(self._wire, chat, message, text)
        if not receipt.ok:
            _log.warning("a notice could not be sent", chat=chat, why=receipt.reason)
