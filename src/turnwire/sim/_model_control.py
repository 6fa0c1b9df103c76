"""The simulator's own routes, and the list of models.

Guarantee: no answer repeats a key; a body that is not understood changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ._http import PHRASES, Request
from ._json import compact
from ._model_answers import MODELS
from ._model_catalogue import SCENARIOS, UnknownScenario
from ._model_routes import Route, listing

if TYPE_CHECKING:
    from .models import ModelSim

_NOWHERE = (
    "this path leads nowhere; [/SCENARIO]/v1/messages, /v1/chat/completions, /v1/responses, /v1/models and "
    "/v1beta/models/MODEL:generateContent or :streamGenerateContent do, and /_sim/requests, /_sim/scenarios, "
    "/_sim/plan, /_sim/clear"
)


def control(sim: ModelSim, request: Request, found: Route | None, body: bytes) -> tuple[int, Any]:
    """Status and JSON of the answer to a request that goes to no model; a text is an error's message."""
    match request.method, request.path:
        case "GET", "/_sim/requests":
            return 200, {"requests": [seen.as_json() for seen in sim.requests]}
        case "GET", "/_sim/scenarios":
            said = [{"name": each.name, "wires": each.wires, "about": each.about} for each in SCENARIOS.values()]
            return 200, {"scenarios": said}
        case "POST", "/_sim/plan":
            return _planned(sim, body)
        case "POST", "/_sim/clear":
            sim.clear()
            return 200, {}
        case "GET", _ if found is not None and found.wire is None:
            names = sim.models if sim.models is not None else (*MODELS, *(f"sim:{name}" for name in SCENARIOS))
            return 200, listing(names, google=found.google)
    if found is not None:
        return 405, f"{request.method} is not how to use this path"
    return 404, _NOWHERE


def _planned(sim: ModelSim, body: bytes) -> tuple[int, Any]:
    try:
        said = json.loads(body)
        names, key = said["scenarios"], said.get("key")
        if not all(isinstance(name, str) for name in names) or not isinstance(key, str | None):
            raise TypeError
        sim.plan(names, key=key)
    except UnknownScenario as error:
        return 400, str(error)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return 400, 'the body must be JSON: {"scenarios": ["rst_on_connect", "ok"], "key": "only this key"}'
    return 200, {"planned": len(names)}


def reply(status: int, value: Any, *, close: bool) -> bytes:
    """A whole answer of JSON of the simulator's own; a text is an error's message."""
    body = compact({"error": {"message": value}} if isinstance(value, str) else value).encode("utf-8", "replace")
    more = "connection: close\r\n" if close else ""
    head = f"HTTP/1.1 {status} {PHRASES[status]}\r\ncontent-type: application/json\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
