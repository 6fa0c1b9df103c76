"""What the configuration says of a bot: `[channels.wecom.NAME]`."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from ..._setting_types import Amount, Secret, address, listed
from ...settings import Section

if TYPE_CHECKING:
    from .settings import Bot

_Footer = Literal["model", "time", "tokens"]


class Wecom(Section):
    """One AI bot on WeCom."""

    bot_id: str = Field(default="", description="The bot's id; needed for websocket.")
    secret: Secret = Field(
        default=SecretStr(""),
        description="The bot's secret for the long connection: env:NAME, file:PATH or the secret itself.",
    )
    mode: Literal["websocket", "webhook"] = Field(
        default="websocket",
        description="How messages come: websocket (we connect, nothing has to be reachable) or webhook (the platform "
        "posts to /webhooks/wecom/NAME).",
    )
    ws_url: Annotated[str, address("ws", "wss", example="wss://openws.work.weixin.qq.com")] = Field(
        default="wss://openws.work.weixin.qq.com", min_length=1, description="The address of the long connection."
    )
    token: Secret = Field(
        default=SecretStr(""), description="webhook: the token that requests are signed with, as env:NAME or file:PATH."
    )
    encoding_aes_key: Secret = Field(
        default=SecretStr(""),
        description="webhook: the EncodingAESKey that requests are encrypted with, 43 letters and digits.",
    )
    called: str = Field(
        default="",
        description="What the bot is called in groups, so that its mention can be left out of what people write; "
        "needed for a name with spaces.",
    )
    allow: Annotated[list[str], BeforeValidator(listed)] | None = Field(
        default=None, description="Ids of people and groups that may use it; unset: all."
    )
    stream_life_s: Amount = Field(
        default=360, ge=60, description="Seconds that a bubble can be written; then the answer goes on in another one."
    )
    frame_s: Amount = Field(default=0.8, ge=0.2, description="Seconds between two steps of a bubble.")
    language: Literal["zh", "en"] = Field(default="zh", description="The words around an answer: zh or en.")
    footer: Annotated[list[_Footer], BeforeValidator(listed)] = Field(
        default=[], description="What stands below an answer: model, time, tokens."
    )
    reasoning: bool = Field(default=True, description="Show what the model thinks above its answer.")
    stop_card: bool = Field(default=False, description="A card with a button that stops the answer stands above it.")
    feedback: bool = Field(default=True, description="People are asked whether an answer was good.")
    welcome: str | None = Field(
        default=None, description="What greets who opens the chat; unset: a greeting of our own; empty: none."
    )
    trace: str = Field(
        default="",
        description="A folder for traces: every frame, answer and event, with what people say; empty: none are "
        "written.",
    )

    def problem(self, name: str) -> str | None:
        """What is wrong with the section as a whole."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
            return "has a name that is not 1 to 32 letters, digits, _ and -; conversations keep it"
        if self.mode == "websocket":
            if not self.bot_id or not self.secret.get_secret_value():
                return "needs bot_id and secret; both are on the bot's page, under API mode with the long connection"
            return None
        key = self.encoding_aes_key.get_secret_value()
        if not self.token.get_secret_value() or not key:
            return "needs token and encoding_aes_key in webhook mode; both are on the bot's page, beside its URL"
        if not re.fullmatch(r"[A-Za-z0-9]{43}", key):
            return "has an encoding_aes_key that is not 43 letters and digits; copy it from the bot's page again"
        return None


def problems_of(bots: Mapping[str, Wecom]) -> Iterator[tuple[str, str]]:
    """Sections that cannot be used, and why."""
    owners: dict[str, str] = {}
    for name, bot in bots.items():
        other = owners.setdefault(bot.bot_id, name) if bot.bot_id else name
        if (problem := bot.problem(name)) is not None:
            yield name, problem
        elif other != name:
            yield name, f"has the bot_id of {other}; a bot has one connection, so give it one section"


def bot_of(name: str, section: Wecom, *, proxy: str, public_url: str) -> Bot:
    """The bot that a section describes."""
    from .settings import Bot

    return Bot(
        name=name,
        bot_id=section.bot_id,
        secret=section.secret.get_secret_value(),
        mode=section.mode,
        url=section.ws_url,
        token=section.token.get_secret_value(),
        aes_key=section.encoding_aes_key.get_secret_value(),
        called=section.called,
        allow=None if section.allow is None else tuple(section.allow),
        stream_life_s=section.stream_life_s,
        frame_s=section.frame_s,
        language=section.language,
        footer=tuple(section.footer),
        reasoning=section.reasoning,
        stop_card=section.stop_card,
        feedback=section.feedback,
        welcome=section.welcome,
        public_url=public_url,
        link_key=_link_key(name, section) if public_url else "",
        proxy=proxy,
        trace=section.trace,
    )


def _link_key(name: str, section: Wecom) -> str:
    """Signs links to files: the same in every process, and nobody who knows it learns the bot's own secrets."""
    own = section.encoding_aes_key if section.mode == "webhook" else section.secret
    return hmac.new(own.get_secret_value().encode(), f"turnwire links of {name}".encode(), hashlib.sha256).hexdigest()
