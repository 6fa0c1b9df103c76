"""Where a turn is shown on Feishu or Lark: the reply target, as conversations and deliveries keep it."""

from __future__ import annotations

import msgspec


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chat, and the message that is answered.

    Attributes:
        chat: `oc_…`.
        message: the newest message that the turn answers, `om_…`; empty if none waits.
        topic: the answer belongs into that message's topic.
        push: nobody waits at that message; it only says where the topic is.
    """

    chat: str
    message: str = ""
    topic: bool = False
    push: bool = False

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def read_target(payload: bytes) -> Target:
    """The target of a delivery. Raises `ValueError`."""
    try:
        return msgspec.json.decode(payload, type=Target)
    except msgspec.DecodeError as error:
        raise ValueError(f"the reply target cannot be read: {error}") from None
