"""Agents that come with Turnwire, and the way from a name in the configuration to one of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ..events import AgentEvent
    from ..turn import Turn

Agent: TypeAlias = "Callable[[Turn], AsyncGenerator[AgentEvent, None]]"
"""An agent: an async generator function over one turn."""
