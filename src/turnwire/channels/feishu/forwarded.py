"""Forwarded messages, which come as one that names none of them: what they say, as one text, and their files.

Guarantee: pure functions over what the platform gives back; no item makes reading fail, none is read twice, and the
text is bounded: what is left out is counted. Source: the page about reading a message, on `upper_message_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from .events import read_content, read_mentions

MESSAGES: Final = 100
CHARS: Final = 60_000
"""Characters of all the messages together, without those of the lines that say what was left out."""
DEEP: Final = 6
"""Messages that are forwarded deeper than this stand no further to the right."""
FORWARD: Final = "merge_forward"
UNREADABLE: Final = "the forwarded messages could not be read"


class Told(msgspec.Struct, frozen=True):
    """One message among those that were forwarded.

    Attributes:
        sender: the id of a person or an app.
        person: whether it is a person's.
        depth: 0 for what was forwarded itself, 1 for what is inside of a forwarded message among it.
        files: parts of a UI message whose addresses are still to be fetched.
    """

    sender: str
    person: bool
    depth: int
    text: str
    files: Sequence[dict[str, Any]]


def unfold(container: str, items: Sequence[Mapping[str, Any]]) -> list[Told]:
    """The messages inside of the message `container`, each before those inside of it, and the older first."""
    inside: dict[str, list[Mapping[str, Any]]] = {}
    known = {_id(item) for item in items}
    for item in items:
        if _id(item) != container:
            upper = item.get("upper_message_id")
            # Nobody says what else an item could belong to.
            inside.setdefault(upper if isinstance(upper, str) and upper in known else container, []).append(item)
    found: list[Told] = []
    left = [(0, item) for item in sorted(inside.pop(container, []), key=_created)]
    while left or inside:
        if not left:
            # What is inside of itself is said all the same.
            left = [(0, each) for each in inside.pop(next(iter(inside)))]
        depth, item = left.pop(0)
        found.append(_told(container, item, depth))
        left = [(depth + 1, each) for each in sorted(inside.pop(_id(item), []), key=_created)] + left
    return found


def transcript(told: Sequence[Told], names: Mapping[str, str]) -> str:
    """What was said by whom, a paragraph each, what is inside of a message indented below it."""
    lines: list[str] = []
    room = CHARS
    for number, one in enumerate(told[:MESSAGES]):
        if room <= 0:
            return "\n".join([*lines, _more(len(told) - number)])
        indent = "    " * min(one.depth, DEEP)
        said = " ".join([one.text, *(f"[{file['filename']}]" for file in one.files)]).strip()
        if len(said) > room:
            said = f"{said[:room]} [… {len(said) - room} more characters are left out]"
        room -= len(said)
        who = names.get(one.sender, one.sender) if one.person else "a bot"
        lines.append(f"{indent}{who or 'somebody'}: " + said.replace("\n", f"\n{indent}"))
    return "\n".join([*lines, *([_more(len(told) - MESSAGES)] if len(told) > MESSAGES else [])])


def read_item(item: Mapping[str, Any], holder: str = "") -> tuple[str, list[dict[str, Any]]]:
    """The text of a message that was read, and its files; `holder` is the message that gives them out."""
    body = item.get("body")
    content = body.get("content") if isinstance(body, dict) else ""
    kind = str(item.get("msg_type") or "")
    if item.get("deleted") is True:
        return "[this message was recalled]", []
    return read_content(holder or _id(item), kind, str(content or ""), read_mentions(item.get("mentions")))


def _told(container: str, item: Mapping[str, Any], depth: int) -> Told:
    sender = item.get("sender")
    sender = sender if isinstance(sender, dict) else {}
    own = sender.get("id")
    own = own if isinstance(own, str) else ""
    person = sender.get("sender_type") != "app"
    if item.get("msg_type") == FORWARD:
        return Told(own, person, depth, "[forwarded messages]", [])
    # The message that forwards is in the chat; those inside of it are in no chat of ours.
    text, files = read_item(item, container)
    return Told(own, person, depth, text, files)


def _more(count: int) -> str:
    return f"[… {count} more messages are left out]"


def _id(item: Mapping[str, Any]) -> str:
    own = item.get("message_id")
    return own if isinstance(own, str) else ""


def _created(item: Mapping[str, Any]) -> int:
    try:
        return int(item.get("create_time") or 0)
    except (TypeError, ValueError):
        return 0
