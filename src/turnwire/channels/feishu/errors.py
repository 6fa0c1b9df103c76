"""What Feishu's and Lark's error codes mean for a delivery: the one table of this platform.

Codes are scoped by operation where the platform gives one number two meanings. Source: the platform's pages of each
call, and the general list of `ugjM14COyUjL4ITN`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ...delivery.outcomes import CONFIRMED, Cause, Receipt, refused

TOKEN: Final = frozenset({99991661, 99991663, 99991664, 99991665, 99991671})
"""The token is missing or over: a fresh one, and the same call once more. Nothing was applied."""

_TABLE: Final[Mapping[int, tuple[Cause, str]]] = {
    # The gateway and servers behind it
    99991400: ("busy", "too many calls"),
    99991401: ("barred", "this server's address is not on the app's list of allowed addresses"),
    99991403: ("barred", "the tenant's monthly quota of calls is used up"),
    99991672: ("rung", "the app lacks a permission; `turnwire doctor` names it"),
    99991679: ("rung", "the app lacks a permission; `turnwire doctor` names it"),
    99992402: ("content", "a field was refused"),
    99992354: ("gone", "the message does not exist any more"),
    1663: ("busy", "an error inside the platform"),
    2200: ("busy", "an error inside the platform"),
    300000: ("busy", "an error inside the platform"),
    300120: ("busy", "an error inside the platform"),
    11246: ("content", "the content was refused"),
    11247: ("busy", "an error inside the platform"),
    11232: ("busy", "too many messages"),
    11233: ("busy", "too many messages in this chat"),
    # Cards
    10002: ("rung", "a parameter was refused"),
    200220: ("content", "the card's content was refused"),
    200510: ("expired", "the card streams no more"),
    200610: ("content", "the card's content was refused"),
    200740: ("spent", "the card does not exist any more"),
    200750: ("spent", "the card is older than 14 days"),
    200770: ("stale", "another operation had this name"),
    200780: ("spent", "the card was sent before"),
    200810: ("busy", "somebody is using the card"),
    200850: ("expired", "the card streams no more"),
    200860: ("content", "the card is too large"),
    300121: ("content", "an element could not be replaced"),
    300122: ("content", "the card's settings were refused"),
    300301: ("content", "two elements have one name"),
    300302: ("content", "the card's content was refused"),
    300303: ("content", "the card's content was refused"),
    300305: ("content", "the card has too many elements"),
    300307: ("content", "the card's content was refused"),
    300309: ("expired", "the card streams no more"),
    300310: ("content", "the element takes no text"),
    300311: ("rung", "this app may not use the card"),
    300312: ("content", "an element was refused"),
    300313: ("content", "an element was refused"),
    300314: ("content", "an element was refused"),
    300315: ("content", "an element was refused"),
    300317: ("stale", "a newer operation was there before"),
    # Messages
    230001: ("content", "the message was refused"),
    230002: ("barred", "the bot is not in this chat"),
    230006: ("barred", "the app has no bot; switch the bot ability on"),
    230011: ("gone", "the message was recalled"),
    230110: ("gone", "the message was deleted"),
    231003: ("gone", "the message does not exist any more"),
    1000023: ("gone", "the message does not exist any more"),
    230013: ("barred", "the app is not available to this person"),
    230029: ("barred", "this person has left"),
    230035: ("barred", "the bot may not send here"),
    230038: ("barred", "messages across tenants are not allowed"),
    230053: ("barred", "this person has stopped the bot"),
    230015: ("content", "this cannot be shared here"),
    230017: ("content", "the file belongs to another app"),
    230018: ("barred", "the group's settings do not let the bot speak"),
    230019: ("rung", "there is no such topic"),
    230020: ("busy", "too many messages in this chat"),
    230022: ("content", "the platform holds the content for sensitive"),
    230025: ("content", "the message is too long"),
    230027: ("rung", "the app lacks a permission; `turnwire doctor` names it"),
    230028: ("content", "the tenant's data protection stopped the message"),
    230031: ("spent", "the message is older than 14 days"),
    230034: ("barred", "there is no such chat"),
    230049: ("busy", "the message is being sent"),
    230050: ("rung", "the bot may not see the message"),
    230111: ("rung", "the message will destroy itself"),
    230054: ("rung", "this kind of message is not allowed"),
    230055: ("content", "the file is not of the kind it says"),
    230075: ("rung", "messages cannot be edited here any more"),
    230099: ("content", "the card's content was refused"),
    232009: ("barred", "the chat was dissolved"),
    # Files and reactions
    234001: ("content", "the file was refused"),
    234003: ("content", "the message does not hold this file"),
    234006: ("content", "the file is too large"),
    234007: ("barred", "the app has no bot; switch the bot ability on"),
    234010: ("content", "the file is empty"),
    234011: ("content", "the image is of an unknown kind"),
    234037: ("content", "the file is too large to be fetched"),
    234039: ("content", "the image has too many pixels"),
    234043: ("rung", "the platform gives out no files of forwarded messages and cards"),
    234041: ("rung", "the tenant's storage is full"),
    234042: ("rung", "the tenant's storage is full"),
    232096: ("busy", "the platform asks to try again later"),
    231001: ("content", "there is no such reaction"),
    231002: ("rung", "the bot may not react here"),
    231015: ("busy", "the reaction is being added"),
}

_SCOPED: Final[Mapping[tuple[str, int], tuple[Cause, str]]] = {
    ("edit", 230071): ("rung", "the message is another sender's"),
    ("edit", 230072): ("rung", "the message was edited 20 times"),
}

CARD_REFUSED: Final = 230099
"""The content of a card was refused; the text says why."""
SENT_BEFORE: Final = frozenset({200780, CARD_REFUSED})
"""What the refusal of a card that was sent before comes with: its own code, or that of a card whose text names it."""
INSIDE: Final = frozenset({1663, 2200, 11247, 300000, 300120})
"""Errors inside the platform: it does not say whether it has done something."""
ASIDE: Final = frozenset({230050, 230111, 230019})
"""A reply cannot be made to this message; the chat takes the answer."""
TAKEN_AWAY: Final = frozenset({230011, 230110, 99992354})
"""The message was recalled or deleted: who asked wants no answer; for what comes by itself the chat takes it."""
UNTHREADED: Final = frozenset({230071, 230072})
"""A reply in a thread cannot be made here; a plain reply can."""

_DETAIL = re.compile(r"ErrCode:\s*(\d+)")


def detail(message: str) -> int | None:
    """The code inside a 230099, if its text names one."""
    found = _DETAIL.search(message)
    return int(found.group(1)) if found else None


def receipt_of(op: str, code: int, message: str, wait_s: float | None = None) -> Receipt:
    """What the answer to a call means.

    Args:
        op: `card`, `send`, `reply`, `patch`, `edit`, `delete`, `upload`, `reaction`, `get`, `token` or `endpoint`.
        wait_s: seconds that the answer's headers ask to wait.
    """
    if code == 0:
        return CONFIRMED
    inner = detail(message) if code in (230099, 11246) else None
    if inner == 200780:
        return refused("spent", _TABLE[200780][1])
    if code == 230099 and "cardid is invalid" in message.lower():
        # Just made, and not known on every server yet.
        return refused("busy", "the card is not known everywhere yet", 0.3)
    if inner == 11310 and "lock" in message.lower():
        return refused("busy", "somebody is using the card")
    if code in (300313, 300314, 300315) and "not find" in message.lower():
        return refused("busy", "the card is not known everywhere yet", 0.2)
    cause, reason = _SCOPED.get((op, code)) or _TABLE.get(code) or ("rung", "the platform refused it")
    number = f"{code}/{inner}" if inner is not None else f"{code}"
    return refused(cause, f"{reason} ({number})", wait_s)


def wait_of(headers: Mapping[str, Any]) -> float | None:
    """Seconds until the gateway's limit is reset, if the headers tell."""
    try:
        return float(headers["x-ogw-ratelimit-reset"])
    except (KeyError, ValueError):
        return None
