"""Which wire, scenario and model a path names.

Guarantee: pure functions; a path that leads nowhere is None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ._json import Json
from ._model_answers import Wire
from ._model_anthropic import ANTHROPIC
from ._model_google import GOOGLE
from ._model_openai import OPENAI
from ._model_responses import RESPONSES

WIRES = {wire.letter: wire for wire in (ANTHROPIC, OPENAI, RESPONSES, GOOGLE)}
_PLAIN = re.compile(
    r"(?:/(?P<scenario>[^/]+))??(?:/v1(?P<beta>beta)?)?/(?P<what>messages|chat/completions|responses|models)"
)
_GOOGLE = re.compile(r"(?:/(?P<scenario>[^/]+))??/v1(?:beta)?/models/(?P<model>.+):(?P<what>stream)?[gG]enerateContent")
_BY_PATH = {"messages": ANTHROPIC, "chat/completions": OPENAI, "responses": RESPONSES}


class Route(NamedTuple):
    """Where a path leads: to a model, or, without a wire, to the list of models (`google`: in Google's shape)."""

    wire: Wire | None
    scenario: str = ""
    model: str = ""
    stream: bool = False
    google: bool = False


def route(path: str) -> Route | None:
    """The route of a decoded path."""
    if found := _GOOGLE.fullmatch(path):
        return Route(GOOGLE, found["scenario"] or "", found["model"], found["what"] is not None)
    if found := _PLAIN.fullmatch(path):
        return Route(_BY_PATH.get(found["what"]), found["scenario"] or "", google=found["beta"] is not None)
    return None


def base_path(letter: str, scenario: str = "") -> str:
    """What an SDK for that wire wants behind the address as its base URL."""
    version = "/v1" if letter in ("O", "R") else ""
    return (f"/{scenario}" if scenario else "") + version


def listing(models: Sequence[str], *, google: bool) -> Json:
    """The list of models: in one shape for OpenAI's and Anthropic's clients, in another for Google's."""
    if google:
        methods = ["generateContent", "streamGenerateContent"]
        return {"models": [{"name": f"models/{name}", "supportedGenerationMethods": methods} for name in models]}
    about = {"created": 1_700_000_000, "created_at": "2023-11-14T22:13:20Z", "owned_by": "sim"}
    data = [{"id": name, "object": "model", "type": "model", "display_name": name, **about} for name in models]
    ends = {"first_id": models[0] if models else None, "last_id": models[-1] if models else None}
    return {"object": "list", "data": data, "has_more": False, **ends}
