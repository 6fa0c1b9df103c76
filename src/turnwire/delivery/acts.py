"""One act in progress, as rungs and surfaces get it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any

import structlog

from ..events import JSON
from ..store.queries.rows import Fenced
from .ledger import Ledger
from .outcomes import Receipt
from .state import Item, Part

_log = structlog.get_logger(__name__)

NUMBERS_AHEAD = 100


class OneAct:
    """An act on a part, or on a file or sign.

    Args:
        memory: what this process remembers of the part.
    """

    def __init__(self, ledger: Ledger, on: Part | Item, key: str, *, again: bool, memory: dict[str, Any]) -> None:
        self._ledger = ledger
        self._on = on
        self._key = key
        self._again = again
        self._memory = memory

    @property
    def key(self) -> str:
        return self._key

    @property
    def again(self) -> bool:
        return self._again

    @property
    def facts(self) -> Mapping[str, JSON]:
        return self._on.facts

    @property
    def memory(self) -> dict[str, Any]:
        return self._memory

    async def learn(self, **facts: JSON) -> None:
        """Keeps facts; returns once they are stored."""
        self._on.facts = {**self._on.facts, **facts}
        await self._ledger.keep()

    async def number(self) -> int:
        """The next wire number. They are reserved in blocks, so that a frame needs no write."""
        part = self._on
        if not isinstance(part, Part):
            raise TypeError("only parts have numbers")
        last: int = self._memory.get("number", part.numbers)
        if last >= part.numbers:
            part.numbers = last + NUMBERS_AHEAD
            await self._ledger.keep()
        self._memory["number"] = last + 1
        return last + 1


class Broken(Receipt, frozen=True):
    """A surface raised, which it must not: nobody knows whether the act was applied."""


async def carry(act: Awaitable[Receipt]) -> Receipt:
    """The receipt of an act, also of one that raises. Raises `Fenced`."""
    try:
        return await act
    except Fenced:
        raise
    except Exception as error:  # noqa: BLE001 - one faulty way of showing a turn must not keep the others from it
        _log.error("a surface raised", exc_info=error)
        return Broken("unknown", None, f"the channel failed: {type(error).__name__}")
