"""JSON as the simulators read and write it.

Guarantee: what is no object is read as an empty one; nothing raises.
"""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]


def compact(value: Any) -> str:
    """JSON on one line without blanks, characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_object(data: bytes | str) -> Json:
    """The object in a text of JSON, an empty one if there is none."""
    try:
        said = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}
