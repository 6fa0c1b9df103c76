"""From the configuration to the channels of a gateway."""

from __future__ import annotations

from ..clock import Clock
from ..config import Config
from ..delivery.pacing import Pacer
from . import Channel


def channels_of(config: Config, clock: Clock, pacer: Pacer) -> list[Channel]:
    """The platforms that the configuration names. The web is none of them: its readers come for what they read.

    Args:
        pacer: keeps all of them under their platforms' limits.
    """
    found: list[Channel] = []
    if config.channels.feishu:
        from .feishu.channel import FeishuChannel
        from .feishu.config import app_of

        for name, section in config.channels.feishu.items():
            app = app_of(name, section, proxy=config.network.proxy, public_url=config.server.public_url)
            found.append(FeishuChannel(app, clock=clock, pacer=pacer))
    if config.channels.wecom:
        from .wecom.channel import WecomChannel
        from .wecom.config import bot_of

        for name, bot in config.channels.wecom.items():
            told = bot_of(name, bot, proxy=config.network.proxy, public_url=config.server.public_url)
            found.append(WecomChannel(told, clock=clock, pacer=pacer))
    return found
