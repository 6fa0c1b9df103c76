"""The platforms: one room each, and what a gateway asks of every one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from ..delivery.surface import DeliveryOrder, Surface
    from ..doctor import Finding
    from ..gateway import Gateway
    from ..store.queries.rows import TurnRow

__all__ = ["Channel", "Holder", "nobody"]

Holder: TypeAlias = Callable[[str], Awaitable[str | None]]
"""Tells which process holds a lease now, None if none does. Raises `StoreError` when that cannot be known."""


async def nobody(lease: str) -> str | None:
    """The answer where no process can hold a lease."""
    return None


class Channel(Protocol):
    """A platform that messages come from and on which turns are shown.

    Attributes:
        name: names it in conversations and deliveries.
    """

    name: str

    @property
    def showing(self) -> bool:
        """Whether this process can act on its surfaces now; another one may, where only one can at a time."""
        ...

    async def start(self, gateway: Gateway) -> None:
        """Begins to listen; whatever fails later is tried again. Raises nothing for a platform that is away."""
        ...

    async def stop_listening(self) -> None:
        """Takes nothing more in; what is under way can still be shown."""
        ...

    async def close(self) -> None:
        """Closes every connection."""
        ...

    def routes(self) -> list[BaseRoute]:
        """What the platform calls here, below `/webhooks`."""
        ...

    def surface(self, order: DeliveryOrder) -> Surface:
        """The surface of one delivery. Raises `ValueError` for a target that it cannot read."""
        ...

    async def prepare(self, turn: TurnRow, *, steered: bool) -> str | None:
        """Before the agent is called: fetches what the turn's messages only name; returns what they reply to.

        Args:
            steered: the messages that came while it runs are meant, before the agent reads them.
        """
        ...

    def check(self, holder: Holder = nobody) -> AsyncIterator[Finding]:
        """For `turnwire doctor`: what a person should know about the set-up, step by step. Nothing is started, nobody
        on the platform sees anything of it, and nothing is taken from a process that holds it."""
        ...
