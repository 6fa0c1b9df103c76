"""Where a turn is shown on WeCom: the reply target, as conversations and deliveries keep it."""

from __future__ import annotations

import msgspec


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """A chat, and the message that is answered.

    Attributes:
        chat: whom pushes name: the person's id, or the group's.
        group: it is a group.
        req_id: the request id of the newest message that the turn answers; empty if none waits.
        at: when that came, seconds since 1970.
        url: where one answer to it can be posted, in webhook mode.
        push: nobody waits at that message.
    """

    chat: str
    group: bool = False
    req_id: str = ""
    at: float = 0.0
    url: str = ""
    push: bool = False

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


def read_target(payload: bytes) -> Target:
    """The target of a delivery. Raises `ValueError`."""
    try:
        return msgspec.json.decode(payload, type=Target)
    except msgspec.DecodeError as error:
        raise ValueError(f"the reply target cannot be read: {error}") from None
