"""What WeCom takes of messages in a chat, and how to stay below it.

Source: the platform's pages on AI bots: 30 messages a minute and 1000 an hour in a chat, replies and pushes together.
"""

from __future__ import annotations

from ...delivery.pacing import Limit, Pacer

PER_CHAT = Limit(rate=0.27, burst=12, spare=0.0)
"""Below both figures: what a minute lets through is the burst and what the rate adds."""


def chat_key(bot: str, chat: str) -> str:
    """Names a chat for the pacer."""
    return f"wecom:{bot}:chat:{chat}"


async def message_slot(pacer: Pacer, bot: str, chat: str) -> None:
    """Waits until the chat takes one more message."""
    await pacer.take([(chat_key(bot, chat), PER_CHAT)], urgent=True)
