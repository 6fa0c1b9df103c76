"""What the metadata of a UI message says about tokens, in its common shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..events import FinishReason, Usage
from ..sanitize import clean_text

_MAX_TOKENS = 2**53
_NAMES = {
    "input_tokens": ("inputTokens", "promptTokens", "input_tokens", "prompt_tokens"),
    "output_tokens": ("outputTokens", "completionTokens", "output_tokens", "completion_tokens"),
    "total_tokens": ("totalTokens", "total_tokens"),
}


def usage_of(metadata: Mapping[str, Any], reason: FinishReason | None) -> Usage:
    """Tokens and model as far as `metadata` names them: of a Turnwire, or as applications usually write them.

    Those are `usage` or `totalUsage` with the AI SDK's or a provider's names, or the counts themselves; and `model`,
    `modelId` or `model_name`.
    """
    own = metadata.get("turnwire")
    places = [own, metadata] if isinstance(own, dict) else [metadata]
    counts = [place[key] for place in places for key in ("totalUsage", "usage") if isinstance(place.get(key), dict)]
    tokens: dict[str, int] = {}
    for field, names in _NAMES.items():
        found = (place.get(name) for place in [*counts, *places] for name in names)
        number = next((one for one in found if _is_count(one)), None)
        if number is not None:
            tokens[field] = number
    models = (place.get(name) for place in places for name in ("model", "modelId", "model_name"))
    model = next((one for one in models if isinstance(one, str) and one), None)
    return Usage(**tokens, model=clean_text(model)[:200] if model else None, finish_reason=reason)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
