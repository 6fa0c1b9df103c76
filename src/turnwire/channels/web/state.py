"""A conversation's state as clients see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from ...store.queries.conversations import find_conversation, get_conversation, read_messages
from ...store.queries.inbound import find_inbound
from ...store.queries.jobs import live_jobs
from ...store.queries.rows import Conversation, MessageRow, OperationRow, TurnRow
from ...store.queries.turns import get_turn, latest_turn, live_turns
from ...turns.admission import Admission, Policy, Refused
from .mounted import outward

CHANNEL = "web"


def describe_turn(turn: TurnRow) -> dict[str, Any]:
    """A turn in JSON; `cursor` is the number of its next record."""
    about: dict[str, Any] = {
        "id": turn.id,
        "status": turn.status,
        "messageId": turn.message_id,
        "cursor": turn.head,
        "stopping": turn.status != "finished" and turn.stop_requested_at is not None,
    }
    if turn.outcome is not None:
        about["outcome"] = turn.outcome
    if turn.reason is not None:
        about["reason"] = turn.reason
    return about


def describe_job(job: OperationRow) -> dict[str, Any]:
    """A background job in JSON."""
    about: dict[str, Any] = {
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "createdAt": job.created_at,
        "stopping": job.status == "running" and job.stop_requested_at is not None,
    }
    if job.progress is not None:
        about["progress"] = msgspec.Raw(job.progress)
    return about


def conversation_messages(
    conn: Connection, conversation_id: str
) -> tuple[list[TurnRow], list[OperationRow], list[MessageRow]]:
    """The live turns, the background jobs and, of the same moment, what people see without the live turns' answers."""
    live = live_turns(conn, conversation_id)
    rows = read_messages(conn, conversation_id, skip_turns=[turn.id for turn in live])
    return live, live_jobs(conn, conversation_id), rows


def history(
    conversation: Conversation,
    live: Sequence[TurnRow],
    jobs: Sequence[OperationRow],
    rows: Sequence[MessageRow],
    root: str,
) -> bytes:
    """What people see of a conversation, in JSON, for clients under `root`."""
    shown = {
        "id": conversation.name,
        "title": conversation.title,
        "messages": [msgspec.Raw(row.content) for row in rows],
        "turn": describe_turn(live[0]) if live else None,
        "queued": [turn.id for turn in live[1:]],
        "jobs": [describe_job(job) for job in jobs],
    }
    return outward(msgspec.json.encode(shown), root)


def foreseen(
    conn: Connection, owner: str, name: str, key: str | None, *, policy: Policy, edits: bool
) -> Admission | None:
    """What will become of an inbound, as far as reading tells: its repeat's turn, or None when it seems to be new.

    Only admission decides; this spares storing what it would refuse. Raises `Refused`.

    Args:
        policy: what it meets while a turn runs.
        edits: it names a message to be replaced, so that the same words may be said again.
    """
    conversation = find_conversation(conn, CHANNEL, owner, name)
    if conversation is None:
        return None
    known = find_inbound(conn, conversation.id, key) if key else None
    turn = get_turn(conn, known) if known else None
    if turn is not None and (turn.superseded_by is None or not edits):
        return Admission("duplicate", conversation, turn)
    live = live_turns(conn, conversation.id)
    if policy == "reject" and live and live[0].status == "running":
        raise Refused("turn_running", f"turn {live[0].id} is still running; stop it or wait", live[0])
    return None


def conversation_state(conn: Connection, conversation_id: str) -> tuple[int, bytes]:
    """The conversation's version and its state as one SSE event."""
    conversation = get_conversation(conn, conversation_id)
    live = live_turns(conn, conversation_id)
    last = latest_turn(conn, conversation_id)
    state = {
        "id": conversation.name,
        "title": conversation.title,
        "turn": describe_turn(live[0]) if live else None,
        "queued": [turn.id for turn in live[1:]],
        "jobs": [describe_job(job) for job in live_jobs(conn, conversation_id)],
        "last": describe_turn(last) if last and last.status == "finished" else None,
    }
    body = msgspec.json.encode(state)
    return conversation.version, b"event: conversation\nid: %d\ndata: %b\n\n" % (conversation.version, body)
