"""What a turn begins with that goes on with the message of earlier ones."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from ..chunks import ToolApprovalResponse, decode
from ..events import JSON
from ..store.queries import approvals as q
from ..store.queries.records import read_replay
from ..store.queries.rows import TurnRow
from ..turn import PendingCall, Resolution
from ..view import View, fold


def read_base(conn: Connection, turn: TurnRow) -> View:
    """The fold of the turns whose message `turn` goes on with, as its beginning; an empty view for any other turn."""
    view = View()
    for earlier in q.earlier_turns(conn, turn):
        fold(map(decode, read_replay(conn, earlier.id)), view.go_on())
    return view.go_on()


def read_answers(conn: Connection, turn: TurnRow) -> list[tuple[ToolApprovalResponse, Resolution]]:
    """What people answered to the approvals that `turn` goes on with."""
    return [
        (
            ToolApprovalResponse(row.id, bool(row.approved), row.reason),
            Resolution(
                approval_id=row.id,
                approved=bool(row.approved),
                reason=row.reason,
                call=msgspec.json.decode(row.input, type=PendingCall),
                state=_plain(row.state),
                by=row.resolved_by or "",
            ),
        )
        for row in q.answered_for(conn, turn)
    ]


def _plain(state: bytes | None) -> JSON:
    return None if state is None else msgspec.json.decode(state)
