"""How a provider's stream can fail, and how long it may take.

Guarantee: an error's text is one short line for people, without secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

import httpx2

from ._bounds import Bounds
from .sse import MAX_EVENT_BYTES

Kind: TypeAlias = Literal[
    "first_byte", "idle_bytes", "idle_events", "truncated", "not_sse", "provider_error", "bad_event", "too_large"
]


class Limits(Bounds, frozen=True, kw_only=True):
    """How long each phase of a stream may take, in seconds, and how large an event may be."""

    max_event_bytes: int = MAX_EVENT_BYTES
    """of one event"""


class GuardError(httpx2.RemoteProtocolError):
    """A provider's stream did not come whole. Its text is meant for people: one short line without secrets.

    `kind` says what happened and `partial` whether part of the answer had been given before. `retryable` says that the
    same request may succeed; `retry_after` is when, in seconds, if the provider said so.
    """

    def __init__(
        self,
        message: str,
        kind: Kind,
        *,
        retryable: bool = True,
        retry_after: float | None = None,
        partial: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable
        self.retry_after = retry_after
        self.partial = partial


def guard_error(error: BaseException | None) -> GuardError | None:
    """The `GuardError` that is behind a library's own exception, if there is one."""
    for _ in range(20):
        if error is None or isinstance(error, GuardError):
            return error
        error = error.__cause__ or error.__context__
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a response asks to wait; None if it does not say, or names a date."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        if re.fullmatch(r"\d{1,8}(\.\d{1,6})?", value):
            return float(value) * unit
    return None
