"""What the configuration says of an app: `[channels.feishu.NAME]`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from ..._setting_types import Amount, Secret, address, listed
from ...settings import Section

if TYPE_CHECKING:
    from .settings import App

_Footer = Literal["model", "time", "tokens"]


class Feishu(Section):
    """One app on Feishu or Lark."""

    app_id: str = Field(default="", description="The app's id, cli_....")
    app_secret: Secret = Field(
        default=SecretStr(""), description="The app's secret: env:NAME, file:PATH or the secret itself."
    )
    base_url: Annotated[str, address("http", "https", example="https://open.larksuite.com")] = Field(
        default="https://open.feishu.cn", description="https://open.feishu.cn, or https://open.larksuite.com for Lark."
    )
    mode: Literal["websocket", "webhook"] = Field(
        default="websocket",
        description="How events come: websocket (we connect, nothing has to be reachable) or webhook (the platform "
        "posts to /webhooks/feishu/NAME).",
    )
    verification_token: Secret = Field(
        default=SecretStr(""), description="webhook: the token that events carry, as env:NAME, file:PATH or itself."
    )
    encrypt_key: Secret = Field(
        default=SecretStr(""), description="webhook: the key that events are encrypted with; empty if they are not."
    )
    allow: Annotated[list[str], BeforeValidator(listed)] | None = Field(
        default=None, description="open_ids of people (ou_...) and ids of chats (oc_...) that may use it; unset: all."
    )
    require_mention: bool = Field(default=True, description="In groups, answer only messages that name the bot.")
    topics: bool = Field(default=True, description="Each topic of a group is a conversation of its own.")
    stream_life_s: Amount = Field(
        default=600, ge=30, description="Seconds after which the platform closes a card that streams."
    )
    stale_after_s: Amount = Field(
        default=28_800, gt=0, description="Messages that come so many seconds after they were written are left alone."
    )
    language: Literal["zh", "en"] = Field(default="zh", description="The words around an answer: zh or en.")
    footer: Annotated[list[_Footer], BeforeValidator(listed)] = Field(
        default=["model", "time", "tokens"], description="What stands below an answer: model, time, tokens."
    )
    trace: str = Field(
        default="",
        description="A folder for traces: every call, answer and event, with what people say; empty: none are written.",
    )

    def problem(self, name: str) -> str | None:
        """What is wrong with the section as a whole."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", name):
            return "has a name that is not 1 to 32 letters, digits, _ and -; conversations keep it"
        if not self.app_id or not self.app_secret.get_secret_value():
            return "needs app_id and app_secret; both are on the app's page, under credentials"
        if self.mode == "webhook" and not (
            self.verification_token.get_secret_value() or self.encrypt_key.get_secret_value()
        ):
            return "needs verification_token or encrypt_key in webhook mode, or anybody could post events"
        return None


def app_of(name: str, section: Feishu, *, proxy: str, public_url: str) -> App:
    """The app that a section describes."""
    from .settings import App

    return App(
        name=name,
        app_id=section.app_id,
        app_secret=section.app_secret.get_secret_value(),
        base_url=section.base_url,
        mode=section.mode,
        verification_token=section.verification_token.get_secret_value(),
        encrypt_key=section.encrypt_key.get_secret_value(),
        allow=None if section.allow is None else tuple(section.allow),
        require_mention=section.require_mention,
        topics=section.topics,
        stream_life_s=section.stream_life_s,
        stale_after_s=section.stale_after_s,
        language=section.language,
        footer=tuple(section.footer),
        proxy=proxy,
        public_url=public_url,
        trace=section.trace,
    )
