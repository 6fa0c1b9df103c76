"""One websocket of the simulated platform, and the frames on it that are being dealt with.

Guarantee: nothing is written to a connection that is closed, or that has fallen silent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from turnwire.clock import Handle

from ._json import Json, compact
from ._websocket import WebSocket
from ._wecom_observer import Call
from .faults import Fault


@dataclass(eq=False)
class Socket(WebSocket):
    """One websocket. `state` is `open` until a subscription, and `kicked` once another connection has the bot."""

    bot_id: str = ""
    state: str = "open"
    text: bytes = b""
    watch: Handle | None = None
    closing: Handle | None = None
    unanswered: Counter[str] = field(default_factory=Counter)
    last: dict[str, asyncio.Event] = field(default_factory=dict)

    def send(self, frame: Json) -> None:
        """Sends one frame."""
        if self.open:
            self.protocol.send_text(compact(frame).encode("utf-8", "replace"))
            self.write()

    def drop(self) -> None:
        """Closes without a close frame."""
        self.line.writer.transport.abort()


@dataclass
class Job:
    """A frame that is dealt with; `crowded` when too many pieces of its file are under way."""

    socket: Socket
    call: Call
    fault: Fault | None
    before: asyncio.Event | None
    done: asyncio.Event
    crowded: bool

    @property
    def kind(self) -> str:
        """Of its fault; empty for none."""
        return self.fault.kind if self.fault else ""
