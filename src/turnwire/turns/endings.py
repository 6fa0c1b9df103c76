"""How a turn ends, in one place: the metadata people and programs read, and ends written without an agent.

Guarantee: every function here ends a turn with exactly one `finish` as its last record, after closing open parts and
dangling tool calls, in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection

from .. import chunks as c
from ..events import AgentEvent
from ..framer import Framer, Outcome, resume_framer
from ..store.queries.conversations import touch
from ..store.queries.records import join_records, read_all
from ..store.queries.rows import TurnRow
from ..store.queries.turns import Claim, Ending, claim, end_turn, get_turn, lease_ended, lock_turn, set_stop
from ..view import View, replay, taken_messages, to_message
from .continuation import read_answers, read_base

INTERRUPTED = "The process that ran this turn ended before the turn did."
REPLACED = "Replaced by a newer request before it started."


def start_metadata(turn: TurnRow, started_at: float) -> dict[str, Any]:
    """What `start.messageMetadata` says of a turn."""
    return {"turnwire": {"turn": turn.id, "startedAt": isotime(started_at)}}


def finish_metadata(
    turn: TurnRow, outcome: Outcome, reason: str | None, framer: Framer, *, started_at: float | None, ended_at: float
) -> dict[str, Any]:
    """What `finish.messageMetadata` says of a turn; times in seconds since 1970, of one clock."""
    own: dict[str, Any] = {"turn": turn.id, "outcome": outcome}
    if reason:
        own["reason"] = reason
    if framer.usage:
        own["usage"] = dict(framer.usage)
    if framer.model:
        own["model"] = framer.model
    if started_at is not None:
        own["startedAt"] = isotime(started_at)
    own["endedAt"] = isotime(ended_at)
    return {"turnwire": own}


def isotime(seconds: float) -> str:
    """Seconds since 1970 as an ISO 8601 time in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def end_unstarted(
    conn: Connection, turn: TurnRow, outcome: Outcome, reason: str | None, *, now: float, say: Sequence[AgentEvent] = ()
) -> TurnRow:
    """Ends a queued turn that no agent will run, saying `say` in its stead. The conversation must be locked."""
    framer = first_framer(conn, turn, now)
    chunks = framer.start()
    for event in say:
        chunks += framer.feed(event)
    chunks += framer.finish(
        outcome, reason=reason, metadata=finish_metadata(turn, outcome, reason, framer, started_at=now, ended_at=now)
    )
    ending = _ending(turn, turn.epoch, chunks, framer.view, outcome, reason)
    end_turn(conn, ending, next_owner=None, lease_s=0.0)
    ended = get_turn(conn, turn.id)
    return ended if ended is not None else turn


def stop_turn(conn: Connection, turn: TurnRow, by: str, *, now: float) -> TurnRow:
    """Records the intent to stop; a turn that is still queued ends at once. The conversation must be locked."""
    current = get_turn(conn, turn.id) or turn
    if current.status == "finished":
        return current
    set_stop(conn, turn.id, by)
    touch(conn, turn.conversation_id)
    if current.status == "queued":
        return end_unstarted(conn, current, "stopped", None, now=now)
    return get_turn(conn, turn.id) or current


def end_abandoned(
    conn: Connection,
    turn: TurnRow,
    *,
    now: float,
    owner: str,
    lease_s: float,
    next_owner: str | None,
    ask_lease: bool,
    outcome: Outcome = "interrupted",
    reason: str = INTERRUPTED,
) -> list[Claim]:
    """Ends a running turn whose owner is gone, keeping what it said; returns turns that `next_owner` now owns.

    A turn whose agent was never called (no record yet) is not ended but handed to `next_owner`. Nothing happens when
    the turn moved on since `turn` was read or, with `ask_lease`, while its lease lasts. The conversation must be
    locked.
    """
    current = lock_turn(conn, turn.id)
    if current is None or current.status != "running" or current.epoch != turn.epoch:
        return []
    if ask_lease and not lease_ended(conn, turn.id, turn.epoch):
        return []
    if current.head == 0 and current.stop_requested_at is None and next_owner is not None:
        return [claim(conn, current, next_owner, lease_s)]
    claimed = claim(conn, current, owner, lease_s)
    stopped = current.stop_requested_at is not None
    final: Outcome = "stopped" if stopped else outcome
    why = None if stopped else reason
    framer = resume_framer(_readable(read_all(conn, turn.id), read_base(conn, current)))
    chunks: list[c.AnyChunk] = []
    if not framer.view.count:
        framer = first_framer(conn, current, now)
        chunks = framer.start()
    chunks += framer.finish(
        final, reason=why, metadata=finish_metadata(current, final, why, framer, started_at=None, ended_at=now)
    )
    ending = _ending(claimed.turn, claimed.epoch, chunks, framer.view, final, why)
    following = end_turn(conn, ending, next_owner=next_owner, lease_s=lease_s)
    return [following] if following else []


def first_framer(conn: Connection, turn: TurnRow, started_at: float) -> Framer:
    """The framer of a turn that has no record yet."""
    metadata = start_metadata(turn, started_at)
    if turn.continues is None:
        return Framer(turn.message_id, metadata)
    answers = [said for said, _ in read_answers(conn, turn)]
    return Framer(turn.message_id, metadata, base=read_base(conn, turn), answers=answers)


def _readable(records: Sequence[bytes], view: View) -> View:
    """The fold of the records, as far as they can be read, on top of `view`."""
    for record in records:
        try:
            view.apply(c.decode(record))
        except ValueError:
            break
    return view


def _ending(
    turn: TurnRow, epoch: int, chunks: Sequence[c.AnyChunk], view: View, outcome: Outcome, reason: str | None
) -> Ending:
    return Ending(
        turn=turn,
        epoch=epoch,
        head=turn.head,
        count=len(chunks),
        payload=join_records([c.encode(chunk) for chunk in chunks]),
        outcome=outcome,
        reason=reason,
        replay=join_records([c.encode(chunk) for chunk in replay(view)]),
        answer=msgspec.json.encode(to_message(view)),
        taken=taken_messages(view),
        status=turn.status,
    )
