"""The command line: `turnwire serve | demo | chat | turns | doctor | local`.

Guarantee: an expected failure (configuration, store, port) is one clear message on stderr and exit code 2, never a
traceback; a traceback means a bug of ours.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from .config import Config, ConfigError, load_config
from .log import configure_logging

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__.split("\n")[0])

ConfigPath = Annotated[
    Path | None, typer.Option("--config", "-c", help="The configuration file; ./turnwire.toml by default.")
]


@app.command()
def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 lets the system choose.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve agents to their readers until SIGTERM."""
    configure_logging(log_level)
    from .agents.load import load_agent
    from .server import serve as serve_until_stopped

    settings = _config(config, _overrides(host, port))
    _run(lambda: serve_until_stopped(settings, load_agent(settings), ready=_say))


@app.command()
def demo(
    config: ConfigPath = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 lets the system choose.")] = None,
    chat: Annotated[bool, typer.Option(help="Open a chat in this terminal.")] = True,
) -> None:
    """Serve with what is at hand (a local model, else the guide to Turnwire's docs) and chat in this terminal."""
    interactive = chat and sys.stdin.isatty() and sys.stdout.isatty()
    configure_logging("warning" if interactive else "info")
    from .agents.load import load_agent
    from .demo import run_demo

    settings = _config(config, _overrides(None, port))
    _run(lambda: run_demo(settings, load_agent(settings), interactive=interactive))


def main() -> None:
    """The entry point."""
    app()


def _config(path: Path | None, overrides: dict[str, Any]) -> Config:
    try:
        return load_config(path, overrides=overrides)
    except ConfigError as error:
        raise _failed(error) from None


def _overrides(host: str | None, port: int | None) -> dict[str, Any]:
    server = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    return {"server": server} if server else {}


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs `work` in an event loop; expected failures become a message."""
    from .agents.load import AgentLoadError
    from .server import PortInUse
    from .store import StoreError

    try:
        if sys.platform == "win32":
            asyncio.run(work())
        else:
            import uvloop

            uvloop.run(work())
    except (AgentLoadError, PortInUse, StoreError) as error:
        raise _failed(error) from None


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _failed(error: Exception) -> typer.Exit:
    typer.echo(str(error), err=True)
    return typer.Exit(2)
