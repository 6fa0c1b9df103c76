"""How long a stream from a model or a remote agent may take."""

from __future__ import annotations

import msgspec


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How long each phase of a stream may take, in seconds."""

    first_byte: float = 60.0
    """from the request to the response's head"""
    idle_bytes: float = 60.0
    """without a single byte"""
    idle_events: float = 300.0
    """without an event that says something; comments and pings say nothing"""
    usage_grace: float = 1.0
    """after the finish, for the token counts"""
    end_grace: float = 0.3
    """after the token counts, for the end marker"""
    error_body: float = 2.0
    """for the rest of a body that is no event stream"""
    drain: float = 0.05
    """after the end marker, for the end of the body, so that the connection can be used again"""
    close: float = 1.0
    """for closing the connection; one that takes longer is abandoned"""
