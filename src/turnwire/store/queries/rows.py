"""What the queries return.

Statements on the way of every turn are built once, as module constants with named parameters: building one costs more
than running it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from sqlalchemy import Row, Table

T = TypeVar("T", bound="Record")


class Fenced(Exception):
    """Somebody else owns this turn, job or delivery now; what was to be written is not."""


class Record(msgspec.Struct, frozen=True):
    """One row, by column name."""

    @classmethod
    def of(cls: type[T], row: Row[Any]) -> T:
        """The record of a row that was selected by `columns`, and by nothing before them."""
        return cls(*row[: len(cls.__struct_fields__)])

    @classmethod
    def columns(cls, table: Table) -> list[Any]:
        """The columns of `table` that this record holds."""
        return [table.c[name] for name in cls.__struct_fields__]


class Conversation(Record, frozen=True):
    id: str
    channel: str
    owner: str
    name: str
    title: str
    turns: int
    history_from: int
    version: int
    target: bytes | None
    created_at: float
    updated_at: float


class TurnRow(Record, frozen=True):
    id: str
    conversation_id: str
    number: int
    message_id: str
    kind: str
    status: str
    outcome: str | None
    reason: str | None
    epoch: int
    owner: str | None
    head: int
    stop_requested_at: float | None
    stop_requested_by: str | None
    continues: str | None
    superseded_by: str | None
    asked_by: str | None
    metadata: bytes
    trimmed_at: float | None
    created_at: float
    started_at: float | None
    ended_at: float | None


class OperationRow(Record, frozen=True):
    id: str
    kind: str
    conversation_id: str
    turn_id: str
    next_turn_id: str | None
    status: str
    name: str
    input: bytes
    state: bytes | None
    result: bytes | None
    progress: bytes | None
    approved: int | None
    reason: str | None
    resolved_by: str | None
    resolved_at: float | None
    expires_at: float | None
    epoch: int
    owner: str | None
    lease_until: float | None
    created_at: float
    stop_requested_at: float | None
    stop_requested_by: str | None


class DeliveryRow(Record, frozen=True):
    id: str
    turn_id: str
    conversation_id: str
    channel: str
    target: bytes
    push: int
    status: str
    outcome: str | None
    reason: str | None
    state: bytes | None
    revision: int
    epoch: int
    owner: str | None
    lease_until: float | None
    created_at: float
    settled_at: float | None
    feedback: bytes | None


class ReceiptRow(Record, frozen=True):
    delivery_id: str
    key: str
    attempt: int
    kind: str
    digest: str
    status: str
    reason: str
    attempted_at: float
    received_at: float | None


class MessageRow(Record, frozen=True):
    turn_id: str
    ord: int
    turn_number: int
    message_id: str
    role: str
    content: bytes
    superseded_by: str | None
