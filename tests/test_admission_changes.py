"""What a person takes back: answers made again, messages edited, and commands, which act before any policy."""

from __future__ import annotations

import asyncio

import pytest

from tests.store_steps import (
    Pen,
    again,
    answer,
    begin,
    busy,
    check,
    end,
    refused,
    said,
    seen,
    take,
    text_of,
    told,
    turn_of,
    written,
)
from turnwire import chunks as c
from turnwire.events import ToolCall, ToolResult
from turnwire.store import Database
from turnwire.store.queries.conversations import turn_input
from turnwire.store.queries.turns import Claim, answer_of, save_history
from turnwire.turns.admission import Admission
from turnwire.turns.endings import REPLACED

pytestmark = pytest.mark.anyio

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
