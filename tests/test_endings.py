"""Ends that no agent writes: of turns whose owner is gone, and of turns that never ran."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agent_events import any_event, wire
from tests.store_gates import beside, connected, opened
from tests.store_steps import (
    LEASE_S,
    NOW,
    Pen,
    abandon,
    answer,
    begin,
    check,
    fresh,
    pass_time,
    reap,
    said,
    seen,
    stop,
    take,
    turn_of,
    written,
)
from tests.strict_client import StrictClient, comparable
from turnwire import chunks as c
from turnwire import events as e
from turnwire.framer import Framer, Outcome
from turnwire.store import Database
from turnwire.store.postgres import PostgresDatabase
from turnwire.store.queries.conversations import lock_conversation
from turnwire.store.queries.records import read_replay
from turnwire.store.queries.turns import answer_of, expired, renew, running, stranded
from turnwire.turns.endings import INTERRUPTED, end_unstarted, isotime, start_metadata
from turnwire.view import fold

pytestmark = pytest.mark.anyio

RICH: list[Any] = [
    e.Reasoning("Let me "),
    e.Reasoning("think", {"openai": {"signature": "s"}}),
    "Looking ",
    "that up.",
    e.ToolInput("a", "search", '{"q":'),
    e.ToolInput("a", "search", '"x"}'),
    e.ToolCall(id="a", name="search", input={"q": "x"}),
    e.ToolCall(id="b", name="run", input=[], dynamic=True),
    e.ToolResult(id="a", output="half", preliminary=True),
    e.ToolResult(id="a", output={"hits": 3}),
    e.ToolInput("c", "run", "[1"),
    e.Step(retry=True),
    "Once more. ",
    e.Snapshot("Once more: "),
    e.ToolError(id="b", error="it broke"),
    e.Step(),
    e.Source(id="s", url="https://example.org"),
    "The rest ",
    e.Snapshot("The rest is "),
    e.File(url="/files/1/a.csv", media_type="text/csv"),
    e.Data(name="chart", data=[1], id="1"),
    e.Data(name="note", data="gone", transient=True),
    "\ud83d",
    e.Usage(input_tokens=3),
    e.ToolCall(id="d", name="search"),
    e.ToolInput("f", "search", "{"),
]


async def abandoned(
    db: Database, groups: Sequence[Sequence[c.AnyChunk]], *, conversation: str, pen: Pen | None = None
) -> Pen:
    """A running turn whose owner wrote these commits and died."""
    pen = pen or await begin(db, conversation=conversation)
    for group in groups:
        assert await pen.write(group)
    return pen


def framed(pen: Pen, events: Sequence[Any]) -> list[list[c.AnyChunk]]:
    """The commits of a turn that says `events`; what it cannot say is passed over."""
    framer = Framer(pen.turn.message_id, start_metadata(pen.turn, NOW))
    groups = [framer.start()]
    for said_event in events:
        try:
            groups.append(framer.feed(said_event))
        except e.AgentEventError:
            continue
    return [group for group in groups if group]


async def read_as_client(db: Database, turn_id: str) -> StrictClient:
    """A strict client that read the whole turn."""
    client = StrictClient("7").feed_all(wire(await written(db, turn_id)))
    client.end()
    return client


OUTCOMES: list[Outcome] = ["interrupted", "failed", "stopped"]


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_a_turn_is_ended_well_wherever_its_owner_died(database: Database, outcome: Outcome) -> None:
    lengths = range(1, len(framed(await begin(database, conversation="first"), RICH)) + 1)
    assert len(lengths) > 20
    if isinstance(database, PostgresDatabase):
        # Each length once: what is written does not depend on the database.
        lengths = lengths[OUTCOMES.index(outcome) :: len(OUTCOMES)]
    for length in lengths:
        pen = await begin(database, conversation=fresh("chat"))
        groups = framed(pen, RICH)[:length]
        await abandoned(database, groups, conversation="", pen=pen)
        before = [chunk for group in groups for chunk in group]
        if outcome == "stopped":
            await stop(database, pen.turn, "bob")
        await pass_time(database, LEASE_S + 1)
        why: dict[str, Any] = {"outcome": "failed", "reason": "The store was full."} if outcome == "failed" else {}
        assert await reap(database, await turn_of(database, pen.turn.id), **why) == []
        turn = await turn_of(database, pen.turn.id)
        reason = {"interrupted": INTERRUPTED, "failed": "The store was full.", "stopped": None}[outcome]
        assert (turn.status, turn.outcome, turn.reason, turn.epoch) == ("finished", outcome, reason, pen.epoch + 1)
        after = await written(database, turn.id)
        assert after[: len(before)] == before, "what was said is kept"
        last: c.AnyChunk = c.Abort() if outcome == "stopped" else c.Error(reason or "")
        assert after[-2] == last
        client = await read_as_client(database, turn.id)
        assert (client.aborted, client.error) == (outcome == "stopped", reason)
        assert fold(after).text() == fold(before).text()
        about = fold(after).metadata["turnwire"]
        assert about["outcome"] == outcome
        assert about.get("reason") == reason
        assert about["endedAt"] == isotime(NOW)
    assert len(await check(database)) == len(lengths) + 1


settled = settings(
    max_examples=max(40, settings().max_examples // 4), suppress_health_check=list(HealthCheck), deadline=None
)


@given(st.lists(any_event, max_size=15), st.booleans(), st.integers(0, 99))
@settled
async def test_whatever_an_agent_had_said_its_end_is_legal(
    database: Database, events: list[Any], stopped: bool, died: int
) -> None:
    pen = await begin(database, conversation=fresh("chat"))
    groups = framed(pen, events)
    await abandoned(database, groups[: 1 + died % len(groups)], conversation="", pen=pen)
    if stopped:
        await stop(database, pen.turn)
    assert await reap(database, await turn_of(database, pen.turn.id), ask_lease=False) == []
    turn = await turn_of(database, pen.turn.id)
    assert turn.outcome == ("stopped" if stopped else "interrupted")
    client = await read_as_client(database, turn.id)
    await check_one(database, turn.id, client)


async def check_one(db: Database, turn_id: str, client: StrictClient) -> None:
    """History says what a client holds that read everything, and what one holds that read the replay."""
    replayed = StrictClient("7").feed_all(json.loads(record) for record in await db.read(read_replay, turn_id))
    assert replayed.end() == client.message()
    kept = await db.read(answer_of, turn_id)
    assert json.loads(kept or b"null") == comparable(client.message())


async def test_a_turn_without_a_record_is_handed_over_and_not_ended(database: Database) -> None:
    pen = await begin(database)
    await pass_time(database, LEASE_S + 1)
    (claim,) = await reap(database, pen.turn, owner="p2", heir="p2")
    assert (claim.turn.id, claim.epoch, claim.turn.owner) == (pen.turn.id, pen.epoch + 1, "p2")
    turn = await turn_of(database, pen.turn.id)
    assert (turn.status, turn.head) == ("running", 0)
    assert await database.read(expired) == []
    assert not await pen.write(pen.framer.start()), "its old owner is fenced"
    heir = await Pen(database, claim).say("here you are")
    await heir.end()
    await check(database)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_turn_without_a_record_is_ended_if_it_is_stopped_or_has_no_heir(
    database: Database, stopped: bool
) -> None:
    pen = await begin(database)
    if stopped:
        await stop(database, pen.turn)
    assert await reap(database, pen.turn, heir="p2" if stopped else None, ask_lease=False) == []
    turn = await turn_of(database, pen.turn.id)
    assert turn.outcome == ("stopped" if stopped else "interrupted")
    await read_as_client(database, turn.id)
    await check(database)


async def test_nothing_happens_while_the_lease_lasts(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    await pass_time(database, LEASE_S - 1)
    assert await database.read(expired) == []
    assert await reap(database, pen.turn) == []
    assert (await turn_of(database, pen.turn.id)).status == "running"
    await pass_time(database, 2)
    assert [turn.id for turn in await database.read(expired)] == [pen.turn.id]
    assert await database.read(expired, spare=[pen.turn.id]) == []
    await reap(database, pen.turn)
    assert (await turn_of(database, pen.turn.id)).status == "finished"


async def test_a_renewed_lease_saves_a_turn_that_was_found_before(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    await pass_time(database, LEASE_S + 1)
    (found,) = await database.read(expired)
    await database.run(renew, [pen.run], LEASE_S)
    assert await reap(database, found) == []
    await pen.say("still here")
    await pen.end()
    assert (await turn_of(database, pen.turn.id)).outcome == "done"


async def test_the_owner_that_comes_back_is_fenced(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    await pass_time(database, LEASE_S + 1)
    await reap(database, pen.turn)
    before = await written(database, pen.turn.id)
    assert not await pen.write(pen.framer.feed("more"))
    assert await written(database, pen.turn.id) == before
    assert await reap(database, pen.turn, ask_lease=False) == [], "and it is not ended again"
    await check(database)


async def test_a_turn_that_another_took_over_is_left_to_it(database: Database) -> None:
    pen = await begin(database)
    (claim,) = await reap(database, pen.turn, heir="p3", owner="p3", ask_lease=False)
    heir = await Pen(database, claim).say("mine now")
    assert await reap(database, pen.turn, ask_lease=False) == []
    assert (await turn_of(database, pen.turn.id)).owner == "p3"
    await heir.end()
    await check(database)


async def test_of_several_reapers_one_ends_the_turn_and_gets_the_next(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    queued = (await take(database, said("next"))).turn
    await pass_time(database, LEASE_S + 1)
    (found,) = await database.read(expired)
    claims = await asyncio.gather(
        *(reap(database, found, owner=f"p{number}", heir=f"p{number}") for number in range(6))
    )
    (claim,) = [claim for some in claims for claim in some]
    assert (claim.turn.id, claim.turn.status) == (queued.id, "running")
    assert claim.turn.owner == (await turn_of(database, pen.turn.id)).owner
    await check(database)


async def test_of_several_reapers_one_is_handed_a_turn_that_never_began(database: Database) -> None:
    pen = await begin(database)
    await pass_time(database, LEASE_S + 1)
    claims = await asyncio.gather(
        *(reap(database, pen.turn, owner=f"p{number}", heir=f"p{number}") for number in range(6))
    )
    (claim,) = [claim for some in claims for claim in some]
    turn = await turn_of(database, pen.turn.id)
    assert (turn.owner, turn.epoch, turn.head) == (claim.turn.owner, claim.epoch, 0)


async def test_an_owner_that_begins_while_its_turn_is_handed_over_does_so_before_or_not_at_all(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as db, connected(postgres_url) as server:
        at, more, handed = 0, True, 0
        while more:
            pen = await begin(db, conversation=f"c{at}")
            await pass_time(db, LEASE_S + 1)
            start = partial(pen.write, pen.framer.start())
            claims, begun, more = await beside(db, server, abandon(pen.turn), at, start)
            turn = await turn_of(db, pen.turn.id)
            if claims:
                assert (begun, turn.status, turn.head) == (False, "running", 0), f"at statement {at}"
            else:
                assert (begun, turn.status, turn.outcome) == (True, "finished", "interrupted"), f"at statement {at}"
            handed += len(claims)
            at += 1
        assert 0 < handed < at
        await check(db)


async def test_a_lease_that_is_renewed_while_it_is_judged_counts_or_is_refused(
    postgres_url: str,
) -> None:
    async with opened(postgres_url) as db, connected(postgres_url) as server:
        at, more, renewed = 0, True, 0
        while more:
            pen = await (await begin(db, conversation=f"c{at}")).say("hello")
            await pass_time(db, LEASE_S + 1)
            _, standing, more = await beside(
                db, server, abandon(pen.turn), at, partial(db.run, renew, [pen.run], LEASE_S)
            )
            status = (await turn_of(db, pen.turn.id)).status
            assert status == ("running" if standing else "finished"), f"at statement {at}"
            renewed += len(standing)
            at += 1
        assert 0 < renewed < at
        await check(db)


async def test_the_next_turn_waits_if_there_is_no_heir(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    queued = (await take(database, said("next"))).turn
    assert await database.read(stranded) == []
    assert await reap(database, pen.turn, heir=None, ask_lease=False) == []
    assert (await turn_of(database, queued.id)).status == "queued"
    assert await database.read(stranded) == [queued.conversation_id]
    assert await database.read(running) == []


async def test_a_record_that_cannot_be_read_does_not_keep_a_turn_from_its_end(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    await pen.write([c.DataPart("data-later", 1)])
    broken = pen.records([c.Finish()])
    await database.append([type(broken)(broken.turn_id, broken.epoch, broken.head, 1, b'{"type":"from-the-future"}')])
    await reap(database, await turn_of(database, pen.turn.id), ask_lease=False)
    turn = await turn_of(database, pen.turn.id)
    assert (turn.status, turn.outcome) == ("finished", "interrupted")
    assert (await seen(database, turn.conversation_id))[-1] == ("assistant", "hello")


# Turns that never ran


async def test_a_turn_that_never_ran_says_what_it_is_told_to(database: Database) -> None:
    await begin(database)
    queued = (await take(database, said("later"))).turn

    def query(conn: Any) -> Any:
        lock_conversation(conn, queued.conversation_id)
        return end_unstarted(conn, queued, "done", None, now=NOW, say=[e.Text("Not now.")])

    ended = await database.run(query)
    assert (ended.status, ended.outcome, ended.epoch) == ("finished", "done", queued.epoch + 1)
    client = await read_as_client(database, queued.id)
    assert [part.get("text") for part in client.message()["parts"]] == [None, "Not now."]
    await check(database)


async def test_a_queued_turn_that_is_stopped_ends_at_once_and_never_starts(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    queued = (await take(database, said("later"))).turn
    ended = await stop(database, queued, "bob")
    assert (ended.status, ended.outcome, ended.stop_requested_by) == ("finished", "stopped", "bob")
    assert (await read_as_client(database, queued.id)).aborted
    assert await pen.end() is None
    await check(database)


async def test_a_running_turn_that_is_stopped_keeps_running_until_its_owner_ends_it(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    for by in ("bob", "eve"):
        after = await stop(database, pen.turn, by)
        assert (after.status, after.stop_requested_by) == ("running", "bob")
    await pen.say(" and more")
    await pen.end("stopped")
    await check(database)


async def test_a_finished_turn_cannot_be_stopped(database: Database) -> None:
    turn = await answer(database, "hi")
    assert await stop(database, turn) == turn


async def test_a_queued_turn_that_began_meanwhile_is_stopped_by_its_owner(database: Database) -> None:
    pen = await (await begin(database)).say("hello")
    seen_as_queued = (await take(database, said("later"))).turn
    claim = await pen.end()
    assert claim is not None
    after = await stop(database, seen_as_queued)
    assert (after.status, after.epoch, after.stop_requested_by) == ("running", claim.epoch, "ann")


@pytest.mark.parametrize("outcome", ["failed", "interrupted"])
async def test_a_reason_may_hold_anything(database: Database, outcome: Outcome) -> None:
    pen = await (await begin(database)).say("hello")
    why = "bad \0 \ud83d input \U0001f600"
    await reap(database, pen.turn, ask_lease=False, outcome=outcome, reason=why)
    turn = await turn_of(database, pen.turn.id)
    assert turn.reason == "bad  \ufffd input \U0001f600"
    assert (await read_as_client(database, turn.id)).error == turn.reason
    await check(database)


def test_times_are_told_in_utc_to_the_millisecond() -> None:
    assert isotime(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
