"""The refusals of WeCom: their codes and texts.

Guarantee: one table; whoever refuses names a code and gets the platform's words for it. Texts that nobody has seen are
ours and say what was wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

TEXTS: Mapping[int, str] = {
    -1: "system error",
    6000: "data version conflict",
    40004: "invalid media type",
    40006: "invalid file size",
    40007: "invalid media_id",
    40008: "invalid message type",
    40009: "invalid image size",
    40010: "invalid voice size",
    40011: "invalid video size",
    40016: "invalid button size",
    40058: "invalid Request Parameter",
    40201: "anti-spam check failed",
    45009: "api freq out of limit",
    60140: "invalid response_code",
    86201: "missing chatid",
    93006: "invalid chatid",
    846604: "req_id expired",
    846605: "invalid req_id",
    846608: "stream message update expired (>10 minutes), cannot update",
    846609: "aibot websocket not subscribed",
    853000: "invalid bot_id or secret",
}
TERMINAL = frozenset({846604, 846605})
"""After one of these about a request id, a client gains nothing from another frame on it."""
STREAM_OVER = 846608
"""After this about a stream, a client gains nothing from another frame of it."""


class Refused(Exception):
    """An answer with a code other than 0.

    Args:
        code: the business code.
        msg: its text; by default that of the platform.
        orphan: the answer comes without the request's id, so that its sender cannot tell whose it is.
    """

    def __init__(self, code: int, msg: str = "", *, orphan: bool = False) -> None:
        self.code = code
        self.msg = msg or TEXTS.get(code, "failed")
        self.orphan = orphan
        super().__init__(f"{code} {self.msg}")


def missing(field: str) -> Refused:
    """40058 about a field that is not there."""
    return Refused(40058, f"missing field `body.{field}`. invalid Request Parameter, from ip: 127.0.0.1", orphan=True)


def invalid(field: str, why: str) -> Refused:
    """40058 about a field that is not what it should be."""
    said = f"invalid field `body.{field}`: {why}. invalid Request Parameter, from ip: 127.0.0.1"
    return Refused(40058, said, orphan=True)
