"""What a surface shows beyond the journal: when the turn began, and what people answered to its approvals."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection

from ..store.queries.approvals import asked_by
from ..store.queries.deliveries import find_delivery
from ..store.queries.turns import get_turn
from .surface import Verdict


class Circumstances(msgspec.Struct, frozen=True):
    """As of `revision` of the delivery; it grows with every change of them."""

    revision: int = 0
    started_at: float = 0.0
    verdicts: Mapping[str, Verdict] = {}


def read_circumstances(conn: Connection, delivery: str, turn_id: str) -> Circumstances:
    """What there is now."""
    row, turn = find_delivery(conn, delivery), get_turn(conn, turn_id)
    verdicts = {
        one.id: Verdict(
            None if one.approved is None else bool(one.approved), by=one.resolved_by or "", reason=one.reason
        )
        for one in asked_by(conn, turn_id)
    }
    started = (turn.started_at or turn.created_at) if turn is not None else 0.0
    return Circumstances(row.revision if row is not None else 0, started, verdicts)
