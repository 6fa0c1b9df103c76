"""Admission: what becomes of an inbound, whatever runs or waits and however often it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
from sqlalchemy import Connection, event, select

from tests.store_gates import beside, connected, opened
from tests.store_steps import (
    LEASE_S,
    NOW,
    Pen,
    again,
    answer,
    begin,
    busy,
    check,
    end,
    everything,
    refused,
    said,
    seen,
    stop,
    take,
    text_of,
    told,
    turn_of,
)
from turnwire.events import ToolCall
from turnwire.store import Database
from turnwire.store.queries.conversations import find_conversation, turn_input
from turnwire.store.queries.turns import live_turns, save_history
from turnwire.store.schema import inbound, messages, turns
from turnwire.turns.admission import MAX_QUEUED, Inbound, Policy, admit

pytestmark = pytest.mark.anyio

POLICIES: tuple[Policy, ...] = get_args(Policy)


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


@pytest.mark.parametrize(
    ("policy", "waiting"), [("queue", 0), ("queue", 2), ("collect", 0), ("interrupt", 0), ("interrupt", 2)]
)
async def test_a_message_waits_behind_the_running_turn(database: Database, policy: Policy, waiting: int) -> None:
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


async def test_collect_joins_the_turn_that_waits(database: Database) -> None:
    pen, (queued, later) = await busy(database, waiting=2)
    for text in ("and this", "and that"):
        admission = await take(database, said(text, policy="collect"))
        assert (admission.kind, admission.turn.id, admission.claims) == ("joined", queued.id, [])
        assert admission.conversation.turns == 3
    claim = await pen.end()
    assert claim is not None
    assert claim.turn.id == queued.id
    asked = await database.read(turn_input, queued.id)
    assert [text_of(row.content) for row in asked] == ["waiting 0", "and this", "and that"]
    assert await told(database, claim.turn) == ["first", "so far", "waiting 0", "and this", "and that"]
    assert (await turn_of(database, later.id)).status == "queued"
    await check(database)


@pytest.mark.parametrize("waiting", [0, 2])
async def test_reject_names_the_running_turn(database: Database, waiting: int) -> None:
    pen, _ = await busy(database, waiting=waiting)
    refusal = await refused(database, said("no", policy="reject"))
    assert (refusal.code, refusal.turn and refusal.turn.id) == ("turn_running", pen.turn.id)


async def test_interrupt_stops_a_turn_once(database: Database) -> None:
    pen, _ = await busy(database)
    await stop(database, pen.turn, "bob")
    admission = await take(database, said("now", policy="interrupt"))
    assert admission.stopping == [pen.turn.id]
    assert (await turn_of(database, pen.turn.id)).stop_requested_by == "bob"


async def test_the_queue_is_bounded(database: Database) -> None:
    pen, queued = await busy(database, waiting=MAX_QUEUED)
    for wish in (said("one more"), said("now", policy="interrupt"), again(queued[-1].message_id)):
        assert (await refused(database, wish)).code in ("queue_full", "no_such_message")
    assert (await take(database, said("one more", policy="collect"))).kind == "joined"
    # What makes room is not refused for want of it.
    edited = (await database.read(turn_input, queued[0].id))[0].message_id
    admission = await take(database, said("shorter", edits=edited))
    assert [turn.id for turn in await database.read(live_turns, admission.conversation.id)] == [
        pen.turn.id,
        admission.turn.id,
    ]
    await check(database)


async def test_policies_do_not_look_into_other_conversations(database: Database) -> None:
    await busy(database)
    assert len((await take(database, said("hi", conversation="other", policy="reject"))).claims) == 1


# One inbound, one turn


async def test_a_repeated_inbound_gets_the_turn_it_got_first(database: Database) -> None:
    wish = said("hi", id="msg_1")
    first = await take(database, wish)
    for _ in range(3):
        admission = await take(database, said("hi", id="msg_1"))
        assert (admission.kind, admission.turn.id, admission.claims) == ("duplicate", first.turn.id, [])
    (claim,) = first.claims
    await end(database, claim)
    late = await take(database, said("hi", id="msg_1", policy="reject"))
    assert (late.kind, late.turn.status) == ("duplicate", "finished")
    assert len(await check(database)) == 1


@pytest.mark.parametrize("state", ["new", "idle", "running", "queued"])
@pytest.mark.parametrize("policy", ["queue", "collect"])
async def test_the_same_inbound_at_the_same_time_is_one_turn(database: Database, policy: Policy, state: str) -> None:
    before = []
    if state == "idle":
        before = [await answer(database, "earlier")]
    elif state != "new":
        pen, queued = await busy(database, waiting=int(state == "queued"))
        before = [pen.turn, *queued]
    joins = state == "queued" and policy == "collect"
    admissions = await asyncio.gather(
        *(take(database, said("hi", id="msg_1", policy=policy), process=f"p{number}") for number in range(10))
    )
    kinds = sorted(admission.kind for admission in admissions)
    assert kinds == ["joined" if joins else "created", *["duplicate"] * 9][:: -1 if joins else 1]
    assert len({admission.turn.id for admission in admissions}) == 1
    assert sum(len(admission.claims) for admission in admissions) == int(state in ("new", "idle"))
    assert len(await check(database)) == len(before) + (not joins)
    stored = select(messages.c.turn_id).where(messages.c.message_id == "msg_1")
    assert await database.read(lambda conn: list(conn.scalars(stored))) == [admissions[0].turn.id]
    assert len(await database.read(lambda conn: list(conn.execute(select(inbound.c.key))))) == len(before) + 1


async def test_different_messages_at_the_same_time_run_one_and_queue_the_rest(database: Database) -> None:
    admissions = await asyncio.gather(*(take(database, said(f"m{number}")) for number in range(10)))
    assert {admission.kind for admission in admissions} == {"created"}
    (claim,) = [claim for admission in admissions for claim in admission.claims]
    order = sorted((admission.turn for admission in admissions), key=lambda turn: turn.number)
    assert [turn.number for turn in order] == list(range(10))
    assert claim.turn.id == order[0].id
    await check(database)
    for turn in order[1:]:
        following = await end(database, claim)
        assert following is not None
        claim = following
        assert claim.turn.id == turn.id
    assert await end(database, claim) is None
    await check(database)


async def test_a_new_conversation_is_made_once(database: Database) -> None:
    admissions = await asyncio.gather(*(take(database, said(f"m{number}")) for number in range(6)))
    assert len({admission.conversation.id for admission in admissions}) == 1
    assert sorted(admission.turn.number for admission in admissions) == list(range(6))


async def test_a_conversation_is_named_after_its_first_message(database: Database) -> None:
    await take(database, said("/help"))
    assert (await take(database, said("x" * 200))).conversation.title == "x" * 80
    assert (await take(database, said("another"))).conversation.title == "x" * 80


async def test_a_visible_change_is_counted(database: Database) -> None:
    first = await take(database, said("one"))
    second = await take(database, said("two"))
    assert second.conversation.version > first.conversation.version
    repeated = await take(database, said("two", id="msg_1"))
    assert (await take(database, said("two", id="msg_1"))).conversation.version == repeated.conversation.version


# What an agent is told


async def test_an_answer_comes_before_the_question_that_waited_for_it(database: Database) -> None:
    pen, (second, third) = await busy(database, waiting=2)
    claim = await pen.end()
    assert claim is not None
    assert claim.turn.id == second.id
    assert await told(database, claim.turn) == ["first", "so far", "waiting 0"]
    claim = await end(database, claim, "answer 2")
    assert claim is not None
    assert claim.turn.id == third.id
    assert await told(database, claim.turn) == ["first", "so far", "waiting 0", "answer 2", "waiting 1"]
    await end(database, claim, "answer 3")
    assert await seen(database, third.conversation_id) == [
        ("user", "first"),
        ("assistant", "so far"),
        ("user", "waiting 0"),
        ("assistant", "answer 2"),
        ("user", "waiting 1"),
        ("assistant", "answer 3"),
    ]


async def test_an_agent_is_not_told_of_commands_nor_of_other_conversations(database: Database) -> None:
    await answer(database, "elsewhere", conversation="other")
    await answer(database, "one", reply="answer 1")
    await take(database, said("/help"))
    pen = await begin(database, "two")
    assert await told(database, pen.turn) == ["one", "answer 1", "two"]
    roles = [role for role, _ in await seen(database, pen.turn.conversation_id)]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


# The same id


async def test_an_id_names_one_message(database: Database) -> None:
    first = await answer(database, "one")
    await take(database, said("two", id="msg_1"))
    assert (await refused(database, said("something else", id="msg_1"))).code == "message_exists"
    assert (await refused(database, said("/help", id="msg_1"))).code == "message_exists"
    assert (await refused(database, said("mine", id=first.message_id))).code == "message_exists"
    await take(database, said("something else", id="msg_1", conversation="other"))


async def test_nobody_can_take_the_id_of_an_answer_that_is_being_given(database: Database) -> None:
    pen, (queued,) = await busy(database, waiting=1)
    for answer_id in (pen.turn.message_id, queued.message_id):
        assert (await refused(database, said("mine", id=answer_id))).code == "message_exists"
        assert (await refused(database, said("/stop", id=answer_id))).code == "message_exists"
    claim = await pen.end()
    assert claim is not None
    await end(database, claim)
    await check(database)


async def test_an_edit_cannot_take_the_id_of_a_message_that_stays(database: Database) -> None:
    for number in range(3):
        await take(database, said(f"m{number}", id=f"msg_{number}"))
    assert (await refused(database, said("new", id="msg_0", edits="msg_1"))).code == "message_exists"
    admission = await take(database, said("new", id="msg_2", edits="msg_1"))
    assert await seen(database, admission.conversation.id) == [("user", "m0"), ("user", "new")]
    await check(database)


# A crash at any statement


class Crash(Exception):
    """The process died here."""


def crashing(conn: Connection, wish: Inbound, at: int) -> None:
    """Admits, and dies before statement number `at`, or before the commit."""
    left = at

    def before(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash

    event.listen(conn, "before_cursor_execute", before)
    try:
        admit(conn, wish, process="p1", lease_s=LEASE_S, now=NOW)
    finally:
        event.remove(conn, "before_cursor_execute", before)
    raise Crash(at - left)


@pytest.mark.parametrize(
    "wish",
    [
        lambda pen, asked: said("hi", conversation="new"),
        lambda pen, asked: said("hi", policy="collect"),
        lambda pen, asked: said("hi", policy="interrupt"),
        lambda pen, asked: again(pen.turn.message_id),
        lambda pen, asked: said("better", id=asked, edits=asked),
        lambda pen, asked: said("/new", id=asked, edits=asked),
    ],
    ids=["new", "collect", "interrupt", "regenerate", "edit", "command"],
)
async def test_a_crash_at_any_statement_leaves_nothing_behind(
    database: Database, wish: Callable[[Pen, str], Inbound]
) -> None:
    pen, _ = await busy(database, waiting=2)
    (asked,) = await database.read(turn_input, pen.turn.id)
    before = await everything(database)
    crashes = 0
    while True:
        with pytest.raises(Crash) as crash:
            await database.run(crashing, wish(pen, asked.message_id), crashes)
        if crash.value.args:
            break
        crashes += 1
    assert await everything(database) == before
    assert crashes == crash.value.args[0] >= 6
    await take(database, wish(pen, asked.message_id))
    assert await everything(database) != before
    await check(database)


# Admission beside other writers


async def test_an_answer_that_is_saved_while_it_is_replaced_is_hidden(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as db, connected(postgres_url) as server:
        at, more = 0, True
        while more:
            pen = await (await begin(db, conversation=f"c{at}")).say("calling", ToolCall(id="t", name="search"))
            await stop(db, pen.turn)
            wish = again(pen.turn.message_id, conversation=f"c{at}")
            replace = partial(admit, inbound=wish, process="p1", lease_s=LEASE_S, now=NOW)
            save = partial(db.run, save_history, [(pen.turn, pen.epoch, pen.ending().answer)])
            *_, more = await beside(db, server, replace, at, save)
            assert await seen(db, pen.turn.conversation_id) == [("user", "hello")], f"at statement {at}"
            at += 1
        assert at > 7
        await check(db)


async def test_admissions_beside_ends_run_every_turn_once(database: Database) -> None:
    started: list[str] = []

    async def one(number: int) -> None:
        admission = await take(database, said(f"m{number}"))
        claims = list(admission.claims)
        while claims:
            claim = claims.pop()
            started.append(claim.turn.id)
            following = await end(database, claim)
            claims += [following] if following else []

    await asyncio.gather(*(one(number) for number in range(12)))
    found = await check(database)
    assert sorted(started) == sorted(turn.id for turn in found)
    assert {turn.status for turn in found} == {"finished"}
    assert await database.read(find_conversation, "web", "ann", "chat") is not None
    ends = await database.read(lambda conn: list(conn.execute(select(turns.c.number).order_by(turns.c.ended_at))))
    assert [row[0] for row in ends] == list(range(12))
