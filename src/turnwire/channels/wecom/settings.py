"""What one bot is told by the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from .sockets import URL


class Bot(msgspec.Struct, frozen=True, kw_only=True):
    """One WeCom AI bot.

    Attributes:
        name: names the bot in this gateway; conversations keep it.
        mode: how messages come: over the long connection, which needs `bot_id` and `secret`, or posted to us, which
            needs `token` and `aes_key`.
        url: of the long connection.
        called: what the bot is called in groups, where mentions of it are left out; without it a mention ends at the
            first blank, so a name with blanks has to be told.
        allow: ids of people and groups that may use it; None for everyone.
        stream_life_s: seconds after its first frame after which the platform takes no frame of a bubble any more.
        frame_s: seconds between two frames of a bubble.
        language: of the words around an answer.
        footer: what stands below an answer: `model`, `time`, `tokens`.
        reasoning: thoughts are shown.
        stop_card: a card that stops an answer stands above it.
        feedback: people are asked whether they like an answer.
        welcome: what greets who opens the chat; None for words of our own, "" for nothing.
        public_url: where people reach this gateway, "" if they cannot.
        link_key: signs the links to files that cannot be sent, "" for no links.
        trace: the folder that every frame, answer and event is written to; "" for none.
    """

    name: str
    bot_id: str = ""
    secret: str = ""
    mode: Literal["websocket", "webhook"] = "websocket"
    url: str = URL
    token: str = ""
    aes_key: str = ""
    called: str = ""
    allow: Sequence[str] | None = None
    stream_life_s: float = 360.0
    frame_s: float = 0.8
    language: Literal["zh", "en"] = "zh"
    footer: Sequence[str] = ()
    reasoning: bool = True
    stop_card: bool = False
    feedback: bool = True
    welcome: str | None = None
    public_url: str = ""
    link_key: str = ""
    proxy: str = ""
    trace: str = ""

    def __repr__(self) -> str:
        return f"Bot(name={self.name!r}, bot_id={self.bot_id!r})"


def lease_of(bot: Bot) -> str:
    """Names the lease under which one process has the bot's connection."""
    return f"wecom:{bot.bot_id}"
