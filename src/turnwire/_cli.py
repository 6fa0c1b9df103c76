"""What the commands share: settings, the event loop, and how failures are told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from .agents.load import AgentSpec
    from .config import Config

T = TypeVar("T")

SWITCH_S = 0.0005
"""How long a thread may keep the interpreter while another one wants it. The store's threads want it dozens of times a
transaction; with Python's own 5 ms each of these takes that long beside a busy event loop."""

ConfigPath = Annotated[
    Path | None, typer.Option("--config", "-c", help="The configuration file; ./turnwire.toml by default.")
]


def load_settings(path: Path | None, over: dict[str, Any] | None = None) -> Config:
    """The configuration; a problem in it becomes a message and exit code 2."""
    from .config import ConfigError, load_config

    try:
        return load_config(path, overrides=over)
    except ConfigError as error:
        raise fail(error) from None


def overrides(host: str | None, port: int | None) -> dict[str, Any]:
    """What the command line says over the configuration."""
    server = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    return {"server": server} if server else {}


def configured_agent(config: Config) -> AgentSpec:
    """The agent that the configuration names. Raises `AgentConfigError`."""
    from .agents.load import load_agent

    return load_agent(
        config.agent.use,
        api_key=config.agent.api_key.get_secret_value() or None,
        base_url=config.agent.base_url or None,
        instructions=config.agent.instructions or None,
        proxy=config.network.proxy or None,
        tools=config.agent.tools,
        mcp={name: server.server() for name, server in config.agent.mcp.items()},
    )


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `work` in an event loop; an expected failure becomes a message and exit code 2."""
    if sys.platform == "win32":
        runner: Callable[..., T] = asyncio.run
    else:
        import uvloop

        runner = uvloop.run
    sys.setswitchinterval(SWITCH_S)
    try:
        return runner(work())
    except Exception as error:
        if isinstance(error, _expected()):
            raise fail(error) from None
        raise


def fail(error: Exception) -> typer.Exit:
    """Says what went wrong, for people; raise what it returns."""
    typer.echo(str(error), err=True)
    return typer.Exit(2)


def say(text: str) -> None:
    """Prints a line at once."""
    typer.echo(text)
    sys.stdout.flush()


def _expected() -> tuple[type[Exception], ...]:
    """Failures that are no bugs, of the modules that were imported: the others cannot have raised."""
    known = (
        ("turnwire.agents.load", "AgentConfigError"),
        ("turnwire.agents._pydantic_models", "MCPServerError"),
        ("turnwire.agents.local", "LocalModelError"),
        ("turnwire.client", "ChatError"),
        ("turnwire.journal.relay", "RelayError"),
        ("turnwire.server", "PortInUse"),
        ("turnwire.store", "StoreError"),
    )
    return tuple(getattr(sys.modules[module], name) for module, name in known if module in sys.modules)
