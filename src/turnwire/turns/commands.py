"""What a person can say to the gateway itself, on every channel."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Command: TypeAlias = Literal["stop", "new", "help"]


def parse_command(text: str) -> Command | None:
    """The command that a whole message is, or None: `/stop`, `/new`, `/help`."""
    word = text.strip().lower()
    for command in get_args(Command):
        if word == f"/{command}":
            return command  # type: ignore[no-any-return]
    return None


def reply(command: Command, *, stopped: bool) -> str:
    """What the gateway answers."""
    if command == "stop":
        return "Stopped." if stopped else "Nothing is running."
    if command == "new":
        return "Started afresh: what was said before is no longer given to the agent."
    return (
        "`/stop` ends the running answer and drops what waits.\n\n"
        "`/new` starts afresh: the agent forgets what was said before.\n\n"
        "`/help` shows this."
    )
