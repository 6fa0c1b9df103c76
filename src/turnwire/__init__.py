"""Turnwire: a gateway between AI agents and the places where people read them.

An agent's turn becomes a typed, durable, fenced log; every surface is a replica of it. What is named here is the public
API; everything else may change between versions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .events import (
    AgentEvent,
    AgentEventError,
    Data,
    File,
    Reasoning,
    Snapshot,
    Source,
    Step,
    Text,
    ToolCall,
    ToolError,
    ToolInput,
    ToolResult,
    Usage,
)
from .operation import JobError, Operation
from .turn import AgentError, Inbox, InboxMessage, PendingCall, Resolution, SentFile, Turn

if TYPE_CHECKING:
    from .channels.web.api import web_app
    from .config import Config, ConfigError, load_config
    from .gateway import Gateway

# Agents import this package for its events; what serves them is loaded by who serves.
_SERVING = {
    "Config": ".config",
    "ConfigError": ".config",
    "Gateway": ".gateway",
    "load_config": ".config",
    "web_app": ".channels.web.api",
}

__all__ = [
    "AgentError",
    "AgentEvent",
    "AgentEventError",
    "Config",
    "ConfigError",
    "Data",
    "File",
    "Gateway",
    "Inbox",
    "InboxMessage",
    "JobError",
    "Operation",
    "PendingCall",
    "Reasoning",
    "Resolution",
    "SentFile",
    "Snapshot",
    "Source",
    "Step",
    "Text",
    "ToolCall",
    "ToolError",
    "ToolInput",
    "ToolResult",
    "Turn",
    "Usage",
    "load_config",
    "web_app",
]


def __getattr__(name: str) -> Any:
    if name in _SERVING:
        return getattr(import_module(_SERVING[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
