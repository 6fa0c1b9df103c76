"""Admission: what becomes of an inbound, whatever runs or waits and however often it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
from sqlalchemy import Connection, event, select

from tests.store_steps import (
    LEASE_S,
    NOW,
    Pen,
    again,
    answer,
    begin,
    beside,
    check,
    connected,
    everything,
    opened,
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


# Answering again


async def test_the_named_answer_is_made_again(database: Database) -> None:
    first = await answer(database, "one", reply="answer 1")
    second = await answer(database, "two", reply="answer 2")
    admission = await take(database, again(second.message_id))
    (claim,) = admission.claims
    assert await told(database, admission.turn) == ["one", "answer 1", "two"]
    await end(database, claim, "better 2")
    assert [text for _, text in await seen(database, first.conversation_id)] == ["one", "answer 1", "two", "better 2"]
    assert (await turn_of(database, second.id)).superseded_by == admission.turn.id
    kept = await database.read(answer_of, second.id)
    assert kept is not None
    assert text_of(kept) == "answer 2"
    await check(database)


async def test_everything_after_an_earlier_answer_is_hidden_too(database: Database) -> None:
    first = await answer(database, "one")
    await answer(database, "two")
    admission = await take(database, again(first.message_id))
    assert await told(database, admission.turn) == ["one"]
    assert await seen(database, first.conversation_id) == [("user", "one")]
    await check(database)


async def test_without_a_name_the_newest_answer_is_meant(database: Database) -> None:
    await answer(database, "one", reply="answer 1")
    newest = await answer(database, "two")
    await take(database, said("/help"))
    admission = await take(database, again())
    assert await told(database, admission.turn) == ["one", "answer 1", "two"]
    assert (await turn_of(database, newest.id)).superseded_by == admission.turn.id


async def test_without_a_name_the_answer_being_given_is_the_newest(database: Database) -> None:
    await answer(database, "one", reply="answer 1")
    pen = await (await begin(database, "two")).say("answer")
    admission = await take(database, again())
    assert admission.stopping == [pen.turn.id]
    assert await seen(database, pen.turn.conversation_id) == [
        ("user", "one"),
        ("assistant", "answer 1"),
        ("user", "two"),
    ]


@pytest.mark.parametrize("ord_", [0, 1])
async def test_a_users_message_is_answered_again(database: Database, ord_: int) -> None:
    pen, (queued,) = await busy(database, waiting=1)
    await take(database, said("joined", policy="collect"))
    claim = await pen.end()
    assert claim is not None
    await end(database, claim, "answer 2")
    named = (await database.read(turn_input, queued.id))[ord_]
    admission = await take(database, again(named.message_id))
    assert await told(database, admission.turn) == ["first", "so far", "waiting 0", "joined"][: 3 + ord_]
    await end(database, admission.claims[0], "better 2")
    assert [text for _, text in await seen(database, queued.conversation_id)][-1] == "better 2"
    await check(database)


async def test_a_message_that_waits_is_answered_by_the_newer_wish(database: Database) -> None:
    pen, (queued, dropped) = await busy(database, waiting=2)
    (waiting,) = await database.read(turn_input, queued.id)
    admission = await take(database, again(waiting.message_id))
    assert (admission.turn.status, admission.stopping) == ("queued", [])
    for turn in (queued, dropped):
        assert ((await turn_of(database, turn.id)).outcome, (await turn_of(database, turn.id)).reason) == (
            "stopped",
            REPLACED,
        )
    claim = await pen.end()
    assert claim is not None
    assert claim.turn.id == admission.turn.id
    assert await told(database, claim.turn) == ["first", "so far", "waiting 0"]
    await check(database)


async def test_the_answer_being_given_is_stopped_and_made_again(database: Database) -> None:
    pen, _ = await busy(database)
    admission = await take(database, again(pen.turn.message_id))
    assert (admission.turn.status, admission.stopping, admission.claims) == ("queued", [pen.turn.id], [])
    claim = await pen.end("stopped")
    assert claim is not None
    assert claim.turn.id == admission.turn.id
    assert await told(database, claim.turn) == ["first"]
    assert await seen(database, pen.turn.conversation_id) == [("user", "first")]
    await end(database, claim, "better")
    assert await seen(database, pen.turn.conversation_id) == [("user", "first"), ("assistant", "better")]
    await check(database)


async def test_a_wish_for_the_same_answer_again_gets_the_turn_that_makes_it(database: Database) -> None:
    first = await answer(database, "one")
    admissions = await asyncio.gather(*(take(database, again(first.message_id)) for _ in range(5)))
    assert sorted(admission.kind for admission in admissions) == ["created", *["duplicate"] * 4]
    assert len({admission.turn.id for admission in admissions}) == 1
    (claim,) = [claim for admission in admissions for claim in admission.claims]
    await end(database, claim)
    assert (await take(database, again(first.message_id))).kind == "duplicate"
    assert (await take(database, again(claim.turn.message_id))).kind == "created"
    assert len(await check(database)) == 3


@pytest.mark.parametrize("target", ["msg_unknown", None])
async def test_there_must_be_something_to_answer_again(database: Database, target: str | None) -> None:
    assert (await refused(database, again(target))).code == "no_such_message"
    await answer(database, "elsewhere", conversation="other")
    await take(database, said("/help", id="msg_help"))
    assert (await refused(database, again(target))).code == "no_such_message"


async def test_a_command_is_not_answered_again(database: Database) -> None:
    await answer(database, "one")
    command = await take(database, said("/help", id="msg_help"))
    assert (await refused(database, again("msg_help"))).code == "no_such_message"
    assert (await refused(database, again(command.turn.message_id))).code == "no_such_message"


# Editing


async def test_an_edited_message_takes_the_place_of_it_and_of_all_that_follows(database: Database) -> None:
    await answer(database, "zero", reply="answer 0")
    await take(database, said("one", id="msg_1"))
    await take(database, said("two"))
    first, second = (turn for turn in await check(database) if turn.number in (1, 2))
    pen = Pen(database, Claim(first, first.epoch))
    await pen.say("being said")
    admission = await take(database, said("one, better", id="msg_1", edits="msg_1"))
    assert (admission.turn.status, admission.stopping) == ("queued", [first.id])
    assert await seen(database, first.conversation_id) == [
        ("user", "zero"),
        ("assistant", "answer 0"),
        ("user", "one, better"),
    ]
    ended = await turn_of(database, second.id)
    assert (ended.outcome, ended.reason, ended.superseded_by) == ("stopped", REPLACED, admission.turn.id)
    claim = await pen.end("stopped")
    assert claim is not None
    assert claim.turn.id == admission.turn.id
    assert await told(database, claim.turn) == ["zero", "answer 0", "one, better"]
    await check(database)


async def test_an_edit_may_bring_an_id_of_its_own(database: Database) -> None:
    await take(database, said("one", id="msg_1"))
    admission = await take(database, said("better", id="msg_2", edits="msg_1"))
    assert await seen(database, admission.conversation.id) == [("user", "better")]
    assert (await refused(database, said("again", edits="msg_1"))).code == "no_such_message"


async def test_an_edit_of_one_of_several_joined_messages_keeps_those_before_it(database: Database) -> None:
    pen, (queued,) = await busy(database, waiting=1)
    for number in (1, 2):
        await take(database, said(f"joined {number}", id=f"msg_{number}", policy="collect"))
    admission = await take(database, said("changed", id="msg_1", edits="msg_1"))
    assert (await turn_of(database, queued.id)).outcome == "stopped"
    claim = await pen.end()
    assert claim is not None
    assert claim.turn.id == admission.turn.id
    assert await told(database, claim.turn) == ["first", "so far", "waiting 0", "changed"]
    await check(database)


async def test_a_repeated_edit_is_one_turn_and_an_edit_back_is_a_new_one(database: Database) -> None:
    await take(database, said("a", id="msg_1"))
    edits = await asyncio.gather(*(take(database, said("b", id="msg_1", edits="msg_1")) for _ in range(5)))
    assert sorted(admission.kind for admission in edits) == ["created", *["duplicate"] * 4]
    back = await take(database, said("a", id="msg_1", edits="msg_1"))
    assert back.kind == "created"
    assert await seen(database, back.conversation.id) == [("user", "a")]
    # A late repeat of the very first message is still that one.
    assert (await take(database, said("a", id="msg_1"))).kind == "duplicate"
    assert (await take(database, said("a", id="msg_1", edits="msg_1"))).turn.id == back.turn.id
    await check(database)


async def test_only_a_users_message_can_be_edited(database: Database) -> None:
    first = await answer(database, "one")
    pen = await begin(database, "two")
    for target in ("msg_unknown", first.message_id, pen.turn.message_id):
        assert (await refused(database, said("x", edits=target))).code == "no_such_message"
        assert (await refused(database, said("x", id=target, edits=target))).code == "no_such_message"


async def test_an_answer_saved_before_it_was_replaced_stays_hidden(database: Database) -> None:
    pen = await (await begin(database, "one")).say("calling", ToolCall(id="t", name="search"))
    await pen.say(ToolResult(id="t", output=1))
    await database.run(save_history, [(pen.turn, pen.epoch, pen.ending().answer)])
    assert len(await seen(database, pen.turn.conversation_id)) == 2
    await take(database, again(pen.turn.message_id))
    await database.run(save_history, [(pen.turn, pen.epoch, pen.ending().answer)])
    assert await seen(database, pen.turn.conversation_id) == [("user", "one")]
    await check(database)


# Commands


@pytest.mark.parametrize(("text", "kind"), [("/stop", "command"), ("/help", "command"), (" /NEW ", "new")])
async def test_a_command_is_answered_at_once(database: Database, text: str, kind: str) -> None:
    admission = await take(database, said(text, policy="reject"))
    assert (admission.turn.status, admission.turn.outcome, admission.turn.kind) == ("finished", "done", kind)
    assert (admission.claims, admission.stopping) == ([], [])
    shown = await seen(database, admission.conversation.id)
    assert [role for role, _ in shown] == ["user", "assistant"]
    assert shown[1][1]
    repeated = await take(database, said(text, id=(await read_id(database, admission))))
    assert (repeated.kind, repeated.turn.id) == ("duplicate", admission.turn.id)
    await check(database)


async def read_id(db: Database, admission: Admission) -> str:
    return (await db.read(turn_input, admission.turn.id))[0].message_id


@pytest.mark.parametrize("command", ["/stop", "/new"])
async def test_stop_and_new_end_what_runs_and_what_waits(database: Database, command: str) -> None:
    pen, queued = await busy(database, waiting=2)
    admission = await take(database, said(command, policy="reject"))
    assert admission.stopping == [pen.turn.id]
    assert admission.turn.status == "finished"
    assert (await turn_of(database, pen.turn.id)).stop_requested_by == "ann"
    for turn in queued:
        ended = await turn_of(database, turn.id)
        assert (ended.status, ended.outcome, ended.stop_requested_by) == ("finished", "stopped", "ann")
        assert any(isinstance(chunk, c.Abort) for chunk in await written(database, turn.id))
    assert await pen.end("stopped") is None
    assert len((await take(database, said("next"))).claims) == 1
    await check(database)


async def test_stop_says_whether_there_was_something_to_stop(database: Database) -> None:
    idle = await take(database, said("/stop"))
    assert (await seen(database, idle.conversation.id))[-1] == ("assistant", "Nothing is running.")
    await begin(database)
    busy_now = await take(database, said("/stop"))
    assert (await seen(database, idle.conversation.id))[-1] == ("assistant", "Stopped.")
    assert len(busy_now.stopping) == 1


async def test_help_disturbs_nobody(database: Database) -> None:
    pen, (queued,) = await busy(database, waiting=1)
    assert (await take(database, said("/help"))).stopping == []
    assert (await turn_of(database, pen.turn.id)).stop_requested_at is None
    claim = await pen.end()
    assert claim is not None
    assert claim.turn.id == queued.id
    await check(database)


async def test_after_new_the_agent_is_told_nothing_of_before(database: Database) -> None:
    await answer(database, "one")
    admission = await take(database, said("/new"))
    assert admission.conversation.history_from == admission.turn.number
    second = await answer(database, "two", reply="answer 2")
    pen = await begin(database, "three")
    assert await told(database, pen.turn) == ["two", "answer 2", "three"]
    assert len(await seen(database, second.conversation_id)) == 7


async def test_new_is_undone_with_the_message_that_said_it(database: Database) -> None:
    await answer(database, "zero")
    await take(database, said("/new"))
    await take(database, said("one", id="msg_1"))
    one = (await check(database))[-1]
    await end(database, Claim(one, one.epoch), "answer 1")
    await take(database, said("/new"))
    await answer(database, "two")
    admission = await take(database, again(one.message_id))
    # The first /new still stands, the second one is hidden.
    assert await told(database, admission.turn) == ["one"]
    await end(database, admission.claims[0], "better 1")
    pen = await begin(database, "three")
    assert await told(database, pen.turn) == ["one", "better 1", "three"]
    await check(database)


async def test_an_edit_into_a_command_takes_the_place_of_the_message(database: Database) -> None:
    await answer(database, "zero", reply="answer 0")
    await take(database, said("one", id="msg_1"))
    pen = Pen(database, Claim((await check(database))[-1], 1))
    admission = await take(database, said("/stop", id="msg_1", edits="msg_1"))
    assert (admission.turn.status, admission.stopping) == ("finished", [pen.turn.id])
    shown = [("user", "zero"), ("assistant", "answer 0"), ("user", "/stop"), ("assistant", "Stopped.")]
    assert await seen(database, pen.turn.conversation_id) == shown
    await pen.end("stopped")
    assert await seen(database, pen.turn.conversation_id) == shown
    repeated = await take(database, said("/stop", id="msg_1", edits="msg_1"))
    assert repeated.turn.id == admission.turn.id
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
        lambda pen, asked: said("hi", policy="queue"),
        lambda pen, asked: said("hi", policy="collect"),
        lambda pen, asked: said("hi", policy="interrupt"),
        lambda pen, asked: again(pen.turn.message_id),
        lambda pen, asked: said("better", id=asked, edits=asked),
        lambda pen, asked: said("/new"),
        lambda pen, asked: said("/stop", id=asked, edits=asked),
    ],
    ids=["new", "queue", "collect", "interrupt", "regenerate", "edit", "command", "edit-command"],
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
    assert crashes == crash.value.args[0] >= 7
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
