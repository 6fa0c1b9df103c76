"""`turnwire deliveries`: where turns are shown and what is not settled, beside a server that runs.

Guarantee: nothing is written and no lock is taken; what is shown was committed.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ._cli import ConfigPath
from .turns_cli import AsJson, TurnMissing, look, plain, time_of, write, write_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .store.queries.rows import DeliveryRow, ReceiptRow

deliveries = typer.Typer(no_args_is_help=True, help="Where turns are shown: list deliveries, show the receipts of one.")

DeliveryId = Annotated[str, typer.Argument(metavar="DELIVERY", help="The delivery's id, dlv_..., or its turn's.")]


@deliveries.command("list")
def list_(
    config: ConfigPath = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are shown as they should be.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    as_json: AsJson = False,
) -> None:
    """The newest deliveries that are not settled, or not wholly shown."""
    found = look(config, lambda db: db.read(_list, limit, everything))
    if as_json:
        write_json([_about(row) for row in found])
        return
    if not found and not everything:
        write("Every delivery is settled and shown as it should be.")
        return
    write(f"{'delivery':36} {'state':8} {'created':14} {'channel':16} why")
    for row in found:
        created = datetime.fromtimestamp(row.created_at).astimezone()
        write(f"{row.id:36} {row.outcome or row.status:8} {created:%m-%d %H:%M:%S} {row.channel:16} {_why(row)}")


@deliveries.command()
def show(delivery: DeliveryId, config: ConfigPath = None, as_json: AsJson = False) -> None:
    """One delivery: what is visible of it, and every receipt."""
    row, receipts = look(config, lambda db: db.read(_show, delivery))
    if as_json:
        write_json({**_about(row), "receipts": [_receipt(one) for one in receipts]})
        return
    for name, value in _about(row).items():
        if value is not None:
            write(f"{name:14}{plain(str(value))}")
    write("")
    for one in receipts:
        at = datetime.fromtimestamp(one.attempted_at).astimezone()
        write(f"{at:%H:%M:%S}  {one.kind:9} {one.status:10} {one.key}#{one.attempt}  {plain(one.reason)}")


def _list(conn: Connection, limit: int, everything: bool) -> list[DeliveryRow]:
    from .store.queries.deliveries import list_deliveries

    return list_deliveries(conn, limit=limit, unsettled=not everything)


def _show(conn: Connection, name: str) -> tuple[DeliveryRow, list[ReceiptRow]]:
    from .store.queries.deliveries import delivery_id, find_delivery, receipts_of

    row = find_delivery(conn, delivery_id(name) if name.startswith("turn_") else name)
    if row is None:
        raise TurnMissing(f"there is no delivery {name!r} in this store; `turnwire deliveries list --all` names them")
    return row, receipts_of(conn, row.id)


def _about(row: DeliveryRow) -> dict[str, Any]:
    from .delivery.state import load

    state = load(row.state)
    return {
        "id": row.id,
        "turn": row.turn_id,
        "channel": row.channel,
        "status": row.status,
        "outcome": row.outcome,
        "reason": row.reason or state.over,
        "owner": row.owner or None,
        "parts": len(state.parts),
        "leftovers": len(state.leftovers),
        "files": {own: item.status for own, item in state.items.items()} or None,
        "notes": "; ".join(state.notes) or None,
        "feedback": msgspec.json.decode(row.feedback) if row.feedback else None,
        "createdAt": time_of(row.created_at),
        "settledAt": time_of(row.settled_at),
    }


def _why(row: DeliveryRow) -> str:
    about = _about(row)
    return plain(str(about["reason"] or about["notes"] or ""))


def _receipt(row: ReceiptRow) -> dict[str, Any]:
    return {
        "key": row.key,
        "attempt": row.attempt,
        "kind": row.kind,
        "status": row.status,
        "reason": row.reason,
        "attemptedAt": time_of(row.attempted_at),
        "receivedAt": time_of(row.received_at),
    }
