"""A conversation's state as clients see it."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from ...store.queries.conversations import get_conversation, read_messages
from ...store.queries.rows import MessageRow, TurnRow
from ...store.queries.turns import latest_turn, live_turns


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


def conversation_messages(conn: Connection, conversation_id: str) -> tuple[list[TurnRow], list[MessageRow]]:
    """The live turns and, of the same moment, what people see without their answers."""
    live = live_turns(conn, conversation_id)
    return live, read_messages(conn, conversation_id, skip_turns=[turn.id for turn in live])


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
        "last": describe_turn(last) if last and last.status == "finished" else None,
    }
    body = msgspec.json.encode(state)
    return conversation.version, b"event: conversation\nid: %d\ndata: %b\n\n" % (conversation.version, body)
