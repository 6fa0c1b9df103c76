"""Admission: what becomes of an inbound, whatever runs or waits and however often it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, get_args

import pytest
from sqlalchemy import Connection, event, select

from tests.store_steps import (
    LEASE_S,
    NOW,
    Pen,
    again,
    answer,
    begin,
    check,
    everything,
    said,
    seen,
    stop,
    take,
    text_of,
    turn_of,
    written,
)
from turnwire import chunks as c
from turnwire.events import ToolCall, ToolResult
from turnwire.store import Database
from turnwire.store.queries.conversations import find_conversation, read_context, turn_input
from turnwire.store.queries.rows import TurnRow
from turnwire.store.queries.turns import Claim, answer_of, live_turns, save_history
from turnwire.store.schema import inbound, messages, turns
from turnwire.turns.admission import MAX_QUEUED, Admission, Inbound, Policy, Refused, admit
from turnwire.turns.endings import REPLACED

pytestmark = pytest.mark.anyio

POLICIES: tuple[Policy, ...] = get_args(Policy)


async def busy(db: Database, *, waiting: int = 0) -> tuple[Pen, list[TurnRow]]:
    """A conversation with a running turn that has said something, and turns that wait behind it."""
    pen = await (await begin(db, "first")).say("so far")
    return pen, [(await take(db, said(f"waiting {number}"))).turn for number in range(waiting)]


async def told(db: Database, turn: TurnRow) -> list[str]:
    """What the agent of a turn is told, in order."""
    return [text_of(row.content) for row in await db.read(read_context, turn.conversation_id, turn.number)]


async def refused(db: Database, wish: Inbound) -> Refused:
    """The refusal of an inbound; asserts that it left nothing behind."""
    before = await everything(db)
    with pytest.raises(Refused) as caught:
        await take(db, wish)
    assert await everything(db) == before
    return caught.value


async def end(db: Database, claim: Claim, reply: str = "sure") -> Claim | None:
    """Answers and ends a claimed turn; returns the next."""
    pen = Pen(db, claim)
    await pen.say(reply)
    return await pen.end()


# Policies


@pytest.mark.parametrize("policy", POLICIES)
async def test_an_idle_conversation_runs_the_turn_at_once(database: Database, policy: Policy) -> None:
    await answer(database, "earlier")
    admission = await take(database, said("hi", policy=policy), process="p7")
    assert (admission.kind, admission.stopping) == ("created", [])
    (claim,) = admission.claims
    assert claim.turn == admission.turn
    assert (claim.turn.status, claim.turn.owner, claim.epoch) == ("running", "p7", 1)
    await check(database)


@pytest.mark.parametrize("policy", ["queue", "collect", "interrupt"])
@pytest.mark.parametrize("waiting", [0, 2])
async def test_a_message_waits_behind_the_running_turn(database: Database, policy: Policy, waiting: int) -> None:
    if policy == "collect" and waiting:
        pytest.skip("joins")
    pen, queued = await busy(database, waiting=waiting)
    admission = await take(database, said("last", policy=policy))
    assert (admission.kind, admission.turn.status, admission.claims) == ("created", "queued", [])
    assert admission.stopping == ([pen.turn.id] if policy == "interrupt" else [])
    assert ((await turn_of(database, pen.turn.id)).stop_requested_by == "ann") == (policy == "interrupt")
    assert [(await turn_of(database, turn.id)).status for turn in queued] == ["queued"] * waiting
    claim = await pen.end()
    for turn in [*queued, admission.turn]:
        assert claim is not None
        assert claim.turn.id == turn.id
        claim = await end(database, claim)
    assert claim is None
    await check(database)
