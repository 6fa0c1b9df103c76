"""What people may read about the failure of a provider under somebody's framework.

Guarantee: one short line without secrets and without response bodies; the guard's own words where it saw the failure.
"""

from __future__ import annotations

import http
from collections.abc import Callable

from .chat_reader import ModelStreamError, error_text
from .guard import guard_error

CUT = "The model's stream ended before its answer was complete."
CUT_CALL = "The model's answer ended while it was writing a tool call; the call was not run."

_PROVIDERS = frozenset({"openai", "anthropic", "google", "httpx", "httpx2"})


def provider_failure(error: BaseException, redact: Callable[[str], str]) -> ModelStreamError | None:
    """`error` in plain words if a provider, its library or the connection to it failed; None for any other error."""
    guarded = guard_error(error)
    if guarded is not None:
        return ModelStreamError(str(guarded))
    if not any(kind.__module__.partition(".")[0] in _PROVIDERS for kind in type(error).__mro__):
        return None
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    said = redact(error_text(getattr(error, "body", None)) or "")
    if isinstance(status, int):
        phrase = next((f" {known.phrase}" for known in http.HTTPStatus if known == status), "")
        why = f": {said}" if said else "."
        return ModelStreamError(f"The model's provider answered {status}{phrase}{why}", status=status)
    if said:
        return ModelStreamError(f"The model's provider reported an error: {said}")
    cause = redact(str(error.__cause__ or error)) or type(error).__name__
    return ModelStreamError(f"The connection to the model broke before its answer was complete: {cause}")
