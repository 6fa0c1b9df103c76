"""What WeCom's error codes mean for a delivery: the one table of this platform.

Codes are scoped by operation where one number asks for different things. Source: the platform's pages on AI bots
(101833 to 101838), its general list of codes, and what bots have met.

| Code | What it says | Bubble | Message, file | Upload |
| --- | --- | --- | --- | --- |
| -1 | something broke inside the platform | busy | unknown: it may have been sent | busy |
| 6000 | two frames of one bubble met | stale | busy | busy |
| 40004, 40006, 40009 to 40011 | a file is not of its kind, or too large | content | content | content |
| 40007 | the uploaded file is not known any more | spent | spent: it is uploaded anew | spent |
| 40008 | this kind of message is not taken here | rung | rung | content |
| 40016 | a button of a card was refused | content | content | |
| 40058 | a field is missing or wrong | content | content | spent: it is begun anew; `upload_init`: content |
| 40201 | the content is held for spam | content | content | |
| 45009 | too many messages | busy for a minute | busy | busy |
| 60140 | the one answer by address is used up or over | | rung | |
| 86201 | no chat is named | rung | rung | |
| 93006 | no such chat, or nobody wrote to the bot there | barred | barred | |
| 600039 | some clients cannot show it | rung | rung | |
| 846601, 846602 | it did not work just now | busy | busy | busy |
| 846604 | the message is older than a day | rung | rung | |
| 846605 | nothing can be answered under this id | rung | rung | |
| 846607, 846608 | the bubble is too old | expired; its first or final frame: rung | rung | |
| 846609 | the connection has no bot any more | busy | busy | busy |
| 853000 | bot_id and secret do not fit | barred | barred | barred |

A success without a code, and no answer in time, are `unknown`. Codes that are not listed are `rung`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from ...delivery.outcomes import CONFIRMED, Cause, Receipt, refused, unknown

Op: TypeAlias = Literal[
    "subscribe", "ping", "open", "stream", "finish", "reply", "push", "welcome", "update",
    "upload_init", "upload_chunk", "upload_finish", "response_url",
]  # fmt: skip
"""What a frame does. `open` is the first frame of a bubble, `finish` its final one, `reply` any reply that is none."""

NOT_SUBSCRIBED: Final = 846609
"""The connection has no bot: it was taken by another one, or never had it."""
DENIED: Final = 853000
"""The platform does not take the bot's id and secret."""
SPAM: Final = 40201
"""The same words are refused again, wherever they are sent."""
TOO_MANY: Final = 45009
STREAM_OVER: Final = frozenset({846607, 846608})
"""The bubble takes no frame any more."""
REPLY_OVER: Final = frozenset({846604, 846605})
"""Nothing can be answered under this request id any more."""

TOO_MANY_S = 60.0

_BUBBLE: Final = frozenset({"open", "stream", "finish"})
_MESSAGES: Final = frozenset({"reply", "push", "welcome", "update", "response_url"})

_TABLE: Final[Mapping[int, tuple[Cause, str]]] = {
    -1: ("busy", "an error inside the platform"),
    6000: ("busy", "the platform was busy with the frame before"),
    40004: ("content", "the file is not of the kind it says"),
    40006: ("content", "the platform does not take a file of this size"),
    40007: ("spent", "the platform does not know the uploaded file any more"),
    40008: ("rung", "this kind of message is not taken here"),
    40009: ("content", "the image is too large"),
    40010: ("content", "the voice message is too large"),
    40011: ("content", "the video is too large"),
    40016: ("content", "a button of the card was refused"),
    40058: ("content", "a field was missing or refused"),
    SPAM: ("content", "the platform holds the content for spam"),
    TOO_MANY: ("busy", "too many messages"),
    60140: ("rung", "the address for one answer is used up or over"),
    86201: ("rung", "the message named no chat"),
    93006: ("barred", "there is no such chat, or nobody has written to the bot there yet"),
    600039: ("rung", "some of the platform's apps cannot show this kind of message"),
    846601: ("busy", "the platform asks to try again later"),
    846602: ("busy", "the platform asks to try again later"),
    846604: ("rung", "the message is older than 24 hours and takes no reply any more"),
    846605: ("rung", "nothing can be answered under this request id"),
    846607: ("rung", "the bubble is too old to be changed"),
    846608: ("rung", "the bubble is too old to be changed"),
    NOT_SUBSCRIBED: ("busy", "the connection has lost the bot"),
    DENIED: ("barred", "the platform does not take this bot_id and secret"),
}

_SCOPED: Final[Mapping[tuple[str, int], tuple[Cause, str]]] = {
    ("open", 6000): ("stale", "two frames of the bubble met"),
    ("stream", 6000): ("stale", "two frames of the bubble met"),
    ("finish", 6000): ("stale", "two frames of the bubble met"),
    ("stream", 846607): ("expired", "the bubble is too old to be changed"),
    ("stream", 846608): ("expired", "the bubble is too old to be changed"),
    ("welcome", 846605): ("rung", "more than 5 seconds passed, or the chat was greeted before"),
    ("update", 846605): ("rung", "more than 5 seconds passed, or the card was changed before"),
    ("upload_init", 40008): ("content", "this kind of file is not taken"),
    ("upload_chunk", 40058): ("spent", "the platform does not know the upload any more"),
    ("upload_finish", 40058): ("spent", "the platform does not know the upload any more, or it is not whole"),
}


def receipt_of(op: Op, code: int | None) -> Receipt:
    """What the answer to a frame means; `code` is its errcode, None for an answer without one."""
    if code is None:
        return unknown("the platform's answer does not say whether it was done")
    if code == 0:
        return CONFIRMED
    if code == -1 and op in _MESSAGES:
        # Sent again, it might be seen twice.
        return unknown("an error inside the platform (-1); it may have been sent")
    cause, reason = _SCOPED.get((op, code)) or _TABLE.get(code) or ("rung", "the platform refused it")
    return refused(cause, f"{reason} ({code})", TOO_MANY_S if code == TOO_MANY else None)


def no_answer(op: Op, seconds: float) -> Receipt:
    """What it means that no answer came in time."""
    what = "the bubble may show it" if op in _BUBBLE else "it may have been done"
    return unknown(f"the platform did not answer within {seconds:g} s; {what}")
