"""JSON answers, and what each kind of failure is answered with."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from starlette.responses import Response

from ...files import FileMissing
from ...store import StoreError, StoreUnavailable
from ...turns.admission import Refused
from .auth import Denied
from .body import BadRequest

_log = structlog.get_logger(__name__)


def error_answer(error: Exception) -> Response:
    """The answer to a request that failed: a status, a code for programs and a message for people."""
    if isinstance(error, (BadRequest, Denied)):
        return problem(error.status, error.code, str(error))
    if isinstance(error, Refused):
        if error.code == "draining":
            return problem(503, error.code, str(error))
        about = {"turn": error.turn.id} if error.turn else {}
        return problem(
            404 if error.code in ("no_such_message", "no_such_approval") else 409, error.code, str(error), **about
        )
    if isinstance(error, StoreUnavailable):
        _log.error("the store is unavailable", error=str(error))
        return problem(503, "store_unavailable", "the store cannot take this now; nothing was kept, try again")
    if isinstance(error, (StoreError, FileMissing)):
        _log.error("request failed", error=str(error))
        return problem(500, "store_failed", "the store failed; the server's log says why")
    _log.error("request failed", exc_info=error)
    return problem(500, "internal", "something went wrong here; the server's log says what")


def problem(status: int, code: str, message: str, **about: Any) -> Response:
    """An error as JSON."""
    retry = {"retry-after": "2"} if status in (429, 503) else {}
    return json({"error": {"code": code, "message": message, **about}}, status, retry)


def json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer that nobody caches; bytes are JSON already."""
    about = {"cache-control": "no-store", "x-content-type-options": "nosniff", **(headers or {})}
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Response(body, status, about, "application/json")
