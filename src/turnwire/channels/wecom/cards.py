"""The template cards: one that asks whether a tool may run, one that stops an answer, and what stands in their place
once they were clicked. Pure.

Source: the platform's page on template cards (101032): `button_interaction`, its lengths, and `task_id`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ...events import JSON
from ...view import ToolPart
from .. import facts
from ..words import Words
from .words import Own

TITLE_CHARS = 26
DESC_CHARS = 112
APPROVE, DENY, STOP = "approve", "deny", "stop"


def asking(approval: str, tool: ToolPart, own: Own, words: Words) -> Mapping[str, JSON]:
    """Asks for an approval."""
    name = facts.clip(tool.title or tool.name, TITLE_CHARS)
    return {
        "card_type": "button_interaction",
        "main_title": {"title": facts.clip(own.approve_title, TITLE_CHARS), "desc": name},
        "sub_title_text": facts.clip(facts.brief(tool.input, DESC_CHARS), DESC_CHARS),
        "task_id": task_id(approval),
        "button_list": [
            {"text": words.allow, "style": 1, "key": f"{APPROVE}:{approval}"},
            {"text": words.deny, "style": 2, "key": f"{DENY}:{approval}"},
        ],
    }


def stopping(turn_id: str, own: Own, words: Words) -> Mapping[str, JSON]:
    """Offers to stop the answer."""
    return {
        "card_type": "button_interaction",
        "main_title": {"title": own.stop_title, "desc": own.stop_text},
        "task_id": task_id(turn_id),
        "button_list": [{"text": words.stop, "style": 2, "key": f"{STOP}:{turn_id}"}],
    }


def clicked(task: str, title: str, told: str) -> Mapping[str, JSON]:
    """Takes the place of a card that was clicked: it says what came of it, and asks nothing any more."""
    return {
        "card_type": "text_notice",
        "main_title": {"title": facts.clip(title, TITLE_CHARS), "desc": facts.clip(told, DESC_CHARS)},
        "task_id": task,
        "card_action": {"type": 0},
    }


def task_id(about: str) -> str:
    """The name of a card: letters and digits, the same for the same matter."""
    return hashlib.sha256(about.encode()).hexdigest()[:40]


def read_key(key: str) -> tuple[str, str]:
    """What a button does, and about what; empty if it is none of ours."""
    what, _, about = key.partition(":")
    return (what, about) if what in (APPROVE, DENY, STOP) and about else ("", "")
