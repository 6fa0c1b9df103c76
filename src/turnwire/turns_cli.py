"""`turnwire turns`: looks into the store, beside a server that runs.

Guarantee: nothing is written and no lock is taken; what is shown was committed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from ._cli import ConfigPath, fail, load_settings, run

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .store import Database
    from .store.queries.rows import Conversation, TurnRow

T = TypeVar("T")

turns = typer.Typer(no_args_is_help=True, help="Turns in the store: list them, show one, replay its records.")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
TurnId = Annotated[str, typer.Argument(metavar="TURN", help="The turn's id, turn_...")]


class TurnMissing(Exception):
    """The store does not hold what was asked for."""


@turns.command("list")
def list_(
    config: ConfigPath = None,
    status: Annotated[
        Literal["queued", "running", "finished"] | None, typer.Option(help="Only turns of that status.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest turns."""
    found = look(config, lambda db: db.read(_list, limit, status))
    if as_json:
        write_json([_about(turn, conversation) for turn, conversation in found])
        return
    write(f"{'turn':36} {'state':11} {'created':14} {'seconds':>7} {'records':>7} conversation")
    for turn, conversation in found:
        created = datetime.fromtimestamp(turn.created_at).astimezone()
        lasted = f"{turn.ended_at - turn.started_at:.1f}" if turn.ended_at and turn.started_at else ""
        name = plain(f"{conversation.channel}/{conversation.owner}/{conversation.name}")
        write(f"{turn.id:36} {_state(turn):11} {created:%m-%d %H:%M:%S} {lasted:>7} {turn.head:7} {name}")


@turns.command()
def show(turn: TurnId, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """One turn: how it stands, and its answer."""
    row, conversation, message = look(config, lambda db: db.read(_show, turn))
    if as_json:
        write_json({**_about(row, conversation), "message": message})
        return
    from rich.console import Console
    from rich.text import Text

    from .terminal_view import blocks

    console = Console(highlight=False)
    for name, value in _about(row, conversation).items():
        if value is not None:
            console.print(Text.assemble((f"{name:14}", "bold"), plain(str(value))), soft_wrap=True)
    for block in blocks(message, ""):
        console.print()
        console.print(block)


@turns.command()
def replay(
    turn: TurnId,
    config: ConfigPath = None,
    dialect: Annotated[str, typer.Option(help="The AI SDK's version: 5-strict, 5, 6 or 7.")] = "7",
    raw: Annotated[
        bool, typer.Option("--raw", help="Every record as it was committed, not the shortest replay.")
    ] = False,
) -> None:
    """The turn's records as server-sent events, as a reader gets them: the shortest replay, or with --raw each one."""
    from .channels.web.dialects import DIALECTS

    spoken = DIALECTS.get(dialect)
    if spoken is None:
        raise fail(ValueError(f"--dialect {dialect!r} is unknown; use one of {', '.join(DIALECTS)}"))
    row, records = look(config, lambda db: db.read(_raw if raw else _folded, turn))
    if raw:
        body, broken = spoken.frames(0, records)
    else:
        body, broken = spoken.replay(records, row.head - 1), False
    sys.stdout.write(body.decode())
    if broken:
        raise fail(ValueError(f"dialect {dialect} cannot say the record that comes next; a reader resumes here"))
    if row.status == "finished":
        sys.stdout.write("data: [DONE]\n\n")


def look(path: Any, query: Callable[[Database], Awaitable[T]]) -> T:
    """What `query` finds in the configured store."""
    settings = load_settings(path)

    async def work() -> T:
        from .store import open_database

        database = await open_database(settings.store.url, lock=False)
        try:
            return await query(database)
        except TurnMissing as missing:
            raise fail(missing) from None
        finally:
            await database.close()

    return run(work)


def _list(conn: Connection, limit: int, status: str | None) -> list[tuple[TurnRow, Conversation]]:
    from .store.queries.conversations import get_conversation
    from .store.queries.turns import list_turns

    found = list_turns(conn, limit=limit, status=status)
    named = {key: get_conversation(conn, key) for key in {turn.conversation_id for turn in found}}
    return [(turn, named[turn.conversation_id]) for turn in found]


def _turn(conn: Connection, turn_id: str) -> TurnRow:
    from .store.queries.turns import get_turn

    turn = get_turn(conn, turn_id)
    if turn is None:
        raise TurnMissing(f"there is no turn {turn_id!r} in this store; `turnwire turns list` names the newest")
    return turn


def _show(conn: Connection, turn_id: str) -> tuple[TurnRow, Conversation, dict[str, Any]]:
    from . import chunks as c
    from .store.queries.conversations import get_conversation
    from .turns.continuation import read_base
    from .view import fold, to_message

    turn, records = _folded(conn, turn_id)
    view = fold(map(c.decode, records), read_base(conn, turn))
    return turn, get_conversation(conn, turn.conversation_id), to_message(view)


def _folded(conn: Connection, turn_id: str) -> tuple[TurnRow, list[bytes]]:
    from . import chunks as c
    from .store.queries.records import read_all, read_replay
    from .turns.continuation import read_base
    from .view import fold
    from .view import replay as shortest

    turn = _turn(conn, turn_id)
    if turn.status == "finished":
        return turn, read_replay(conn, turn_id)
    view = fold(map(c.decode, read_all(conn, turn_id)), read_base(conn, turn))
    return turn, [c.encode(chunk) for chunk in shortest(view)]


def _raw(conn: Connection, turn_id: str) -> tuple[TurnRow, list[bytes]]:
    from .store.queries.records import read_all

    turn = _turn(conn, turn_id)
    if turn.trimmed_at is not None:
        raise TurnMissing(
            f"the records of turn {turn_id} are past [store] retention_h and no longer kept; "
            "without --raw the whole answer is still there"
        )
    return turn, read_all(conn, turn_id)


def _about(turn: TurnRow, conversation: Conversation) -> dict[str, Any]:
    return {
        "id": turn.id,
        "status": turn.status,
        "outcome": turn.outcome,
        "reason": turn.reason,
        "kind": turn.kind,
        "channel": conversation.channel,
        "user": conversation.owner,
        "conversation": conversation.name,
        "number": turn.number,
        "messageId": turn.message_id,
        "owner": turn.owner,
        "epoch": turn.epoch,
        "head": turn.head,
        "stopRequestedBy": turn.stop_requested_by,
        "stopRequestedAt": time_of(turn.stop_requested_at),
        "supersededBy": turn.superseded_by,
        "createdAt": time_of(turn.created_at),
        "startedAt": time_of(turn.started_at),
        "endedAt": time_of(turn.ended_at),
        "trimmedAt": time_of(turn.trimmed_at),
    }


def _state(turn: TurnRow) -> str:
    if turn.status == "finished":
        return turn.outcome or "finished"
    return "stopping" if turn.stop_requested_at is not None else turn.status


def time_of(seconds: float | None) -> str | None:
    """Seconds since 1970 as a local time with its offset."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def plain(text: str) -> str:
    from .terminal_view import printable

    return printable(text).replace("\n", " ")


def write_json(value: Any) -> None:
    write(json.dumps(value, ensure_ascii=False, indent=2))


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
