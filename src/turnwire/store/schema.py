"""The tables, once, for SQLite and PostgreSQL.

Times are seconds since 1970 as floats, judged by the store's own clock (`store_now`). Payloads are bytes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

metadata = MetaData()

conversations = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("channel", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False, server_default=""),
    Column("turns", Integer, nullable=False, server_default="0"),
    # The number of the first turn that agents are told of; `/new` moves it.
    Column("history_from", Integer, nullable=False, server_default="0"),
    # Counts every visible change, so that a session stream can show the newest state and skip the rest.
    Column("version", BigInteger, nullable=False, server_default="0"),
    # Where its answers are shown, as JSON that its channel reads; NULL where readers come for them.
    Column("target", LargeBinary),
    Column("created_at", Float(53), nullable=False),
    Column("updated_at", Float(53), nullable=False),
    UniqueConstraint("channel", "owner", "name"),
)
Index("conversations_recent", conversations.c.channel, conversations.c.owner, conversations.c.updated_at)

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    Column("conversation_id", Text, ForeignKey("conversations.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("message_id", Text, nullable=False),
    # "agent", or "command" for a turn that a command answered ("new" if that was `/new`); agents are not told of those.
    Column("kind", Text, nullable=False, server_default="agent"),
    # "queued", "running" or "finished".
    Column("status", Text, nullable=False),
    Column("outcome", Text),
    Column("reason", Text),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("owner", Text),
    Column("lease_until", Float(53)),
    Column("head", BigInteger, nullable=False, server_default="0"),
    Column("stop_requested_at", Float(53)),
    Column("stop_requested_by", Text),
    # How many messages came while it ran and are its own.
    Column("steered", Integer, nullable=False, server_default="0"),
    # The turn whose message this one goes on with: the first that asked for the approvals it answers.
    Column("continues", Text),
    # The turn that replaced this one's answer (regenerate, edit); what is saved later stays hidden.
    Column("superseded_by", Text),
    # Who asked, if a conversation has several people; else its owner did.
    Column("asked_by", Text),
    Column("metadata", LargeBinary, nullable=False),
    # The shortest stream that shows the whole finished turn.
    Column("replay", LargeBinary),
    Column("trimmed_at", Float(53)),
    Column("created_at", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("ended_at", Float(53)),
    UniqueConstraint("conversation_id", "number"),
)
Index(
    "turns_one_running",
    turns.c.conversation_id,
    unique=True,
    sqlite_where=turns.c.status == "running",
    postgresql_where=turns.c.status == "running",
)
Index(
    "turns_live",
    turns.c.status,
    turns.c.lease_until,
    sqlite_where=turns.c.status != "finished",
    postgresql_where=turns.c.status != "finished",
)
Index(
    "turns_untrimmed",
    turns.c.ended_at,
    sqlite_where=turns.c.trimmed_at.is_(None),
    postgresql_where=turns.c.trimmed_at.is_(None),
)

messages = Table(
    "messages",
    metadata,
    Column("turn_id", Text, ForeignKey("turns.id"), primary_key=True),
    # Within a turn: its inbound messages from 0, its answer last (ANSWER_ORD).
    Column("ord", Integer, primary_key=True),
    Column("conversation_id", Text, ForeignKey("conversations.id"), nullable=False),
    Column("turn_number", Integer, nullable=False),
    Column("message_id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("superseded_by", Text),
    # The inbound that brought it while its turn ran; the agent reads it from its inbox, or the next turn gets it.
    Column("steer_key", Text),
    Column("created_at", Float(53), nullable=False),
)
Index("messages_history", messages.c.conversation_id, messages.c.turn_number, messages.c.ord)
Index(
    "messages_one_visible",
    messages.c.conversation_id,
    messages.c.message_id,
    unique=True,
    sqlite_where=messages.c.superseded_by.is_(None),
    postgresql_where=messages.c.superseded_by.is_(None),
)

ANSWER_ORD = 1_000_000

inbound = Table(
    "inbound",
    metadata,
    # What the platform or client names this delivery by; the same pair is the same inbound for ever.
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("turn_id", Text, ForeignKey("turns.id"), nullable=False),
    Column("received_at", Float(53), nullable=False),
)
Index("inbound_age", inbound.c.received_at)
# A platform that takes a message back names it, and not the conversation that it came to.
Index("inbound_key", inbound.c.key)

chunks = Table(
    "chunks",
    metadata,
    # A row is a run of consecutive records, their JSON joined by newlines.
    Column("turn_id", Text, ForeignKey("turns.id"), primary_key=True),
    Column("first_seq", BigInteger, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
)

files = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id")),
    Column("sha256", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float(53), nullable=False),
)
Index("files_content", files.c.sha256)

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    # "approval" or "job".
    Column("kind", Text, nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id"), nullable=False),
    # The turn that left it behind, and the one that its end started.
    Column("turn_id", Text, ForeignKey("turns.id"), nullable=False),
    Column("next_turn_id", Text),
    # An approval is "open", then "resolved"; a job is "queued", "running", then "done", "failed" or "stopped".
    Column("status", Text, nullable=False),
    Column("name", Text, nullable=False),
    # JSON: the tool call that asks, or the job's function and arguments; what the agent wants back; how it ended.
    Column("input", LargeBinary, nullable=False),
    Column("state", LargeBinary),
    Column("result", LargeBinary),
    Column("progress", LargeBinary),
    Column("approved", Integer),
    Column("reason", Text),
    Column("resolved_by", Text),
    Column("resolved_at", Float(53)),
    Column("expires_at", Float(53)),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("owner", Text),
    Column("lease_until", Float(53)),
    Column("created_at", Float(53), nullable=False),
    Column("stop_requested_at", Float(53)),
    Column("stop_requested_by", Text),
)
Index("operations_of_turn", operations.c.turn_id)
Index(
    "operations_live",
    operations.c.conversation_id,
    operations.c.kind,
    sqlite_where=operations.c.resolved_at.is_(None),
    postgresql_where=operations.c.resolved_at.is_(None),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("turn_id", Text, ForeignKey("turns.id"), nullable=False),
    Column("conversation_id", Text, ForeignKey("conversations.id"), nullable=False),
    Column("channel", Text, nullable=False),
    # The reply target, as JSON that the channel reads.
    Column("target", LargeBinary, nullable=False),
    # No inbound started the turn, so no message waits for its answer.
    Column("push", Integer, nullable=False, server_default="0"),
    # "open", "held" until somebody writes there again, or "settled": nothing more is to be done.
    Column("status", Text, nullable=False, server_default="open"),
    # "shown", "partly" (something is parked or was refused), "failed".
    Column("outcome", Text),
    Column("reason", Text),
    # What is acknowledged and what was attempted: `delivery.state.State` as JSON.
    Column("state", LargeBinary),
    # Grows with every change, from outside the journal, of what is to be shown.
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("epoch", BigInteger, nullable=False, server_default="0"),
    Column("owner", Text),
    Column("lease_until", Float(53)),
    Column("created_at", Float(53), nullable=False),
    Column("settled_at", Float(53)),
    # What people thought of the answer there, as JSON.
    Column("feedback", LargeBinary),
    UniqueConstraint("turn_id", "channel"),
)
Index(
    "deliveries_open",
    deliveries.c.channel,
    deliveries.c.lease_until,
    sqlite_where=deliveries.c.status == "open",
    postgresql_where=deliveries.c.status == "open",
)
Index(
    "deliveries_held",
    deliveries.c.conversation_id,
    sqlite_where=deliveries.c.status == "held",
    postgresql_where=deliveries.c.status == "held",
)

receipts = Table(
    "receipts",
    metadata,
    Column("delivery_id", Text, ForeignKey("deliveries.id"), primary_key=True),
    # The act's idempotency key, and how often it was tried before.
    Column("key", Text, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("digest", Text, nullable=False),
    # "attempted", then "confirmed", "refused" or "unknown".
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("attempted_at", Float(53), nullable=False),
    Column("received_at", Float(53)),
)
Index("receipts_age", receipts.c.attempted_at)

leases = Table(
    "leases",
    metadata,
    # What only one process may hold at a time.
    Column("name", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("owner", Text),
    Column("lease_until", Float(53)),
)

store_clock = Table(
    "store_clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("offset_s", Float(53), nullable=False),
)


class store_now(FunctionElement[float]):  # noqa: N801
    """The store's time in seconds: the database clock plus an offset that only tests set."""

    type = Float(53)
    inherit_cache = True


@compiles(store_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0 + (SELECT offset_s FROM store_clock))"


@compiles(store_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_: Any) -> str:
    return "(extract(epoch from clock_timestamp())::float8 + (SELECT offset_s FROM store_clock))"
