"""What one app is told by the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec


class App(msgspec.Struct, frozen=True, kw_only=True):
    """One app on Feishu or Lark.

    Attributes:
        name: names the app in this gateway; conversations keep it.
        allow: `open_id`s of people and ids of chats that may use it; None for everyone.
        require_mention: in groups, only messages that name the bot are for it.
        topics: each topic of a group is a conversation of its own.
        stream_life_s: seconds after which the platform closes a card that streams.
        stale_after_s: messages that come later than this many seconds after they were written are left alone.
        language: of the words around an answer.
        footer: what stands below an answer: `model`, `time`, `tokens`.
        public_url: where people reach this gateway, "" if they cannot.
        trace: the folder that every call, answer and event is written to; "" for none.
    """

    name: str
    app_id: str
    app_secret: str
    base_url: str = "https://open.feishu.cn"
    mode: Literal["websocket", "webhook"] = "websocket"
    verification_token: str = ""
    encrypt_key: str = ""
    allow: Sequence[str] | None = None
    require_mention: bool = True
    topics: bool = True
    stream_life_s: float = 600.0
    stale_after_s: float = 28_800.0
    language: Literal["zh", "en"] = "zh"
    footer: Sequence[str] = ("model", "time", "tokens")
    public_url: str = ""
    proxy: str = ""
    trace: str = ""

    def __repr__(self) -> str:
        return f"App(name={self.name!r}, app_id={self.app_id!r})"
