"""The seam between the processes of one gateway: who committed what, told at once.

Guarantee: a relay is never the truth. It only makes other processes look, or see committed records, sooner; whatever it
loses, the `Follower` finds in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..clock import Clock
from .hub import Hub


class RelayError(Exception):
    """The relay cannot be set up as configured; the message says what to change."""


class Relay(Protocol):
    """One process's end of the relay.

    `publish`, `changed` and `stop` only put a message aside for sending: they never block and never raise, also when
    the relay is down or closed. Too many waiting messages cost the oldest of them; other processes then look in the
    store.
    """

    @property
    def down(self) -> bool:
        """Whether messages are known to get lost now: others must look in the store, and often."""
        ...

    def publish(self, turn_id: str, first: int, records: Sequence[bytes], ended: bool, /) -> None:
        """Tells of records that are committed; `ended` when the last of them is the turn's `finish`."""
        ...

    def changed(self, conversation_id: str, /) -> None:
        """Tells that a conversation changed in a way that people can see."""
        ...

    def stop(self, name: str, by: str, /) -> None:
        """Tells the owner, wherever it is, that `by` wants the turn or the background job of that id to stop."""
        ...

    async def close(self) -> None:
        """Sends what waits if that can be done within seconds, and leaves."""
        ...


async def open_relay(
    url: str,
    *,
    process: str,
    hub: Hub,
    clock: Clock,
    stop: Callable[[str, str], None],
    told: Callable[[str], None],
    poke: Callable[[], None],
) -> Relay | None:
    """The relay at `url`, or None for an empty one. It connects by itself, now or whenever Redis can be reached.

    No callback is called before the caller waits for something else.

    Args:
        url: `redis://host:6379/0`, `rediss://...` (TLS) or `unix:///socket?db=0`.
        process: this process's name; no other process may have it, nor an earlier run of this one.
        hub: whose topics get the records that other processes committed.
        stop: called with `(id, by)` when another process wants a turn or a job to stop that may run here.
        told: called with a conversation's id when another process changed it; its readers here know already.
        poke: called when something may have been missed: look in the store now.

    Raises `RelayError` for an address that cannot be used, or when the `redis` package is missing.
    """
    if not url:
        return None
    try:
        from .redis_relay import RedisRelay
    except ModuleNotFoundError as error:
        raise RelayError("[relay] url names Redis: install turnwire[redis]") from error
    relay = RedisRelay(url, process=process, hub=hub, clock=clock, stop=stop, told=told, poke=poke)
    relay.start()
    return relay
