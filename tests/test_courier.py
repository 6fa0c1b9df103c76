"""Turns on a board: when acts come, what outlives whom, and what people see at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, update

from tests.board import Board, BoardChannel, BoardRung
from turnwire import Snapshot, ToolCall, ToolResult
from turnwire.delivery.pacing import Limit, LocalPacer
from turnwire.delivery.state import load
from turnwire.delivery.surface import Desired, Page
from turnwire.store.queries.approvals import asked_by
from turnwire.store.queries.deliveries import claim_deliveries, receipts_of, release_delivery, reopen
from turnwire.store.schema import deliveries
from turnwire.testing import Attach, End, FakeClock, Pause, Stage

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def staged(*, ladder: Any = None, alone: bool = True, **how: Any) -> AsyncIterator[tuple[Stage, Board]]:
    """A stage with one process, and its board."""
    clock = FakeClock(rounds=60)
    board = Board(clock, **how)
    stage = Stage(BoardChannel(board, ladder), clock, alone=alone)
    board.dead, board.crash = (lambda: stage.dead), stage.crash
    stage.start()
    try:
        yield stage, board
    finally:
        await stage.close()


async def play(script: Sequence[Any], *, faults: dict[int, str] | None = None, **how: Any) -> tuple[Any, Board]:
    """One turn to its end; its delivery and the board."""
    async with staged(**how) as (stage, board):
        board.fault = lambda _, n: (faults or {}).get(n)
        turn = await stage.begin(script)
        return await stage.settled(turn), board


def texts(board: Board) -> list[str]:
    return [post.text for post in board.visible() if post.file is None]


async def test_a_turn_is_one_post_and_its_files() -> None:
    row, board = await play(["Hello ", Pause(1.0), "ann.", Attach("a.txt"), Attach("b.txt")])
    assert (row.outcome, row.reason) == ("shown", None)
    assert texts(board) == ["Hello ann.\n(FileChunk)\n(FileChunk)"]
    assert [post.file for post in board.visible() if post.file] == ["a.txt", "b.txt"]
    assert board.signs == 0


async def test_a_fast_turn_is_shown_with_one_call() -> None:
    _, board = await play(["Yes."])
    assert board.calls == ["create"]
    assert texts(board) == ["Yes."]


async def test_a_turn_without_a_word_says_so() -> None:
    row, board = await play([])
    assert texts(board) == ["(no answer)"]
    assert row.outcome == "shown"


async def test_frames_are_paced_and_the_newest_wins() -> None:
    async with staged(latency_s=0.1) as (stage, board):
        turn = await stage.begin([one for n in range(100) for one in (f"{n} ", Pause(0.02))])
        for _ in range(15):
            await stage.clock.advance(0.1)
            if not board.visible():
                continue
            # 0.3 s between two frames, half a round trip, and what is said meanwhile.
            behind = stage.clock.now() - 1_700_000_000.0 - 0.02 * board.visible()[0].text.count(" ")
            assert behind <= 0.3 + 0.1 + 0.05, board.visible()
        await stage.settled(turn)
        assert 5 <= board.calls.count("show") <= 8
        assert board.most_under_way == 1


async def test_the_end_overtakes_frames_that_wait() -> None:
    slow = Limit(rate=0.01, burst=1, spare=0.0)
    pacers: list[LocalPacer] = []

    class Paced(BoardRung):
        async def slot(self, *, urgent: bool) -> None:
            if not urgent:
                await pacers[0].take([("board", slow)])

    async with staged(ladder=lambda board: [Paced(board)]) as (stage, board):
        pacers.append(LocalPacer(stage.clock))
        turn = await stage.begin(["a", Pause(1.0), "b", Pause(1.0), "c", Pause(1.0), "d"])
        await stage.clock.advance(3.5)
        assert texts(board) == ["abcd"], "the second frame may go after 100 s; the end does not wait for it"
        assert board.calls.count("show") == 1
        assert (await stage.row(turn)).status == "settled"


async def test_a_surface_that_hangs_does_not_hold_the_turn_up() -> None:
    async with staged(latency_s=1e6) as (stage, board):
        turn = await stage.begin(["Hello ", Pause(1.0), "there."])
        await stage.clock.advance(1.1)
        topic = stage.hub.find(turn)
        assert topic is not None
        assert topic.ended
        assert board.visible() == []


async def test_an_hour_of_a_silent_tool_is_renewed_before_the_wall() -> None:
    script = ["Wait. ", ToolCall(id="t", name="x", input={}), Pause(3600.0), ToolResult(id="t", output=1), "Done."]
    async with staged() as (stage, board):
        turn = await stage.begin(script)
        for _ in range(350):
            await stage.clock.advance(10.0)
            assert all(post.live for post in board.visible())
        await stage.settled(turn)
        assert board.calls.count("renew") == 7, "every 480 of 3600 seconds"
        assert len(board.calls) < 20
        assert texts(board) == ["Wait. \n[x: output-available]\nDone."]


async def test_nothing_spins_while_nothing_can_be_shown() -> None:
    renders = 0

    class Counting(BoardRung):
        def render(self, desired: Desired, sealed: Any) -> list[Page]:
            nonlocal renders
            renders += 1
            return super().render(desired, sealed)

    faults = dict.fromkeys(range(3, 60), "closed")
    async with staged(ladder=lambda board: [Counting(board)]) as (stage, board):
        board.fault = lambda op, n: faults.get(n) if op in ("show", "renew") else None
        turn = await stage.begin(["a", Pause(1.0), "b", Pause(7200.0), "c"])
        await stage.settled(turn)
        assert texts(board) == ["abc"]
        assert len(board.calls) < 20
        assert renders < 60


async def test_a_store_that_is_away_loses_nothing() -> None:
    async with staged() as (stage, board):
        turn = await stage.begin(["a", Pause(1.0), Attach("f.txt"), "b", Pause(1.0), "c"])
        await stage.clock.advance(0.5)
        stage.outage = True
        await stage.clock.advance(30.0)
        stage.outage = False
        row = await stage.settled(turn)
        assert row.outcome == "shown"
        assert texts(board) == ["ab\n(FileChunk)\nc"] or texts(board) == ["a\n(FileChunk)\nbc"]
        assert [post.file for post in board.visible() if post.file] == ["f.txt"]


async def test_a_store_that_goes_between_a_call_and_its_receipt_makes_no_second_copy() -> None:
    async with staged(keys=False) as (stage, board):
        outer = board.add

        def add(*args: Any, **named: Any) -> Any:
            stage.outage = True
            return outer(*args, **named)

        board.add = add  # type: ignore[method-assign]
        turn = await stage.begin(["Hello."])
        await stage.clock.advance(60.0)
        stage.outage = False
        row = await stage.settled(turn)
        assert texts(board) == ["Hello."]
        assert [(one.kind, one.status) for one in await stage.store.run(receipts_of, row.id)] == [
            ("create", "confirmed")
        ]


async def test_an_answer_to_an_approval_changes_what_was_settled() -> None:
    async with staged() as (stage, board):
        turn = await stage.begin(["May I?", ToolCall(id="t", name="pay", input={}, needs_approval=True)])
        await stage.settled(turn)
        before = texts(board)
        await stage.answer(turn, approved=True)
        await stage.settled(turn)
        assert texts(board) == [before[0].replace("\n(over)", "\n? True by bob\n(over)")]
        assert board.calls.count("create") == 1


async def test_an_answer_while_the_last_frame_is_under_way_is_shown_too() -> None:
    async with staged(latency_s=4.0) as (stage, board):
        turn = await stage.begin(["May I?", ToolCall(id="t", name="pay", input={}, needs_approval=True)])
        await stage.clock.advance(1.0)
        assert board.under_way == 1
        assert (await stage.row(turn)).status == "open"
        assert await stage.store.run(asked_by, turn)
        await stage.answer(turn, approved=False)
        await stage.settled(turn)
        assert "? False by bob" in texts(board)[0]
        assert len(texts(board)) == 1


async def test_who_lost_a_delivery_does_nothing_more() -> None:
    async with staged(alone=False) as (stage, board):
        turn = await stage.begin(["a", Pause(10.0), "b", Pause(10.0), "c"])
        await stage.clock.advance(5.0)
        await stage.store.run(_end_lease, turn)
        [taken] = await stage.store.run(claim_deliveries, ["board"], "other", 1e9, limit=5, alone=False)
        await stage.clock.advance(60.0)
        assert board.calls.count("close") == 0, "frames need no write; the final one does"
        assert board.visible()[0].live
        await stage.kill()
        await stage.store.run(release_delivery, taken.id, taken.epoch)
        stage.start()
        await stage.settled(turn)
        assert texts(board) == ["abc"]


def _end_lease(conn: Connection, turn: str) -> None:
    conn.execute(update(deliveries).where(deliveries.c.turn_id == turn).values(lease_until=0.0))


async def test_a_file_that_nobody_knows_of_is_parked_and_said() -> None:
    async with staged(keys=False) as (stage, board):
        board.fault = lambda op, _: "after" if op == "attach" else None
        turn = await stage.begin(["Look.", Attach("f.txt"), Pause(2.0)])
        row = await stage.settled(turn)
        assert [item.status for item in load(row.state).items.values()] == ["parked"]
        assert texts(board)[0].endswith("! f.txt: parked")
        assert row.outcome == "partly"
        assert "not known whether it arrived" in str(row.reason)
        assert [post.file for post in board.visible() if post.file] == ["f.txt"]


async def test_a_file_whose_repeat_is_refused_may_have_arrived() -> None:
    async with staged() as (stage, board):
        board.fault = lambda op, _: None if op != "attach" else "after" if board.calls.count(op) == 1 else "content"
        row = await stage.settled(await stage.begin(["Look.", Attach("f.txt"), Pause(2.0)]))
        assert [item.status for item in load(row.state).items.values()] == ["parked"]
        assert [post.file for post in board.visible() if post.file] == ["f.txt"]


async def test_a_file_that_is_refused_is_said() -> None:
    async with staged() as (stage, board):
        board.fault = lambda op, _: "content" if op == "attach" else None
        turn = await stage.begin(["Look.", Attach("f.txt"), "See?"])
        row = await stage.settled(turn)
        assert "! f.txt: refused" in texts(board)[0]
        assert row.outcome == "partly"


@pytest.mark.parametrize("cause", ["barred", "gone"])
async def test_where_no_file_may_be_sent_the_answer_still_ends(cause: str) -> None:
    async with staged() as (stage, board):
        board.fault = lambda op, _: cause if op == "attach" else None
        script = ["Look.", Pause(1.0), Attach("f.txt"), Attach("g.txt"), Pause(30.0), "See?"]
        row = await stage.settled(await stage.begin(script))
        (post,) = board.visible()
        assert not post.live
        assert post.text.startswith("Look.")
        assert "See?" in post.text
        assert row.outcome == "partly"


async def test_a_rewrite_that_reaches_a_sealed_post_is_said_again_whole() -> None:
    script = [Snapshot("one two three four", part="a"), Pause(1.0), Snapshot("uno two", part="a")]
    row, board = await play(script, editable=False, ladder=lambda board: [BoardRung(board, width=12)])
    assert "".join(texts(board)).endswith("(corrected)\nuno two")
    assert row.outcome == "shown"


async def test_what_was_taken_away_is_not_sent_again() -> None:
    async with staged() as (stage, board):
        turn = await stage.begin(["Hello ", Pause(2.0), "there ", Pause(2.0), "you."])
        await stage.clock.advance(1.0)
        board.posts[0].gone = True
        row = await stage.settled(turn)
        assert (row.outcome, row.reason) == ("partly", "the board said gone")
        assert board.visible() == []
        assert board.calls.count("create") == 1


async def test_a_channel_that_raises_costs_a_rung_and_not_the_answer() -> None:
    class Faulty(BoardRung):
        def render(self, desired: Desired, sealed: Any) -> list[Page]:
            if desired.ended:
                raise ZeroDivisionError
            return super().render(desired, sealed)

    row, board = await play(
        ["Hello ", Pause(1.0), "you.", End("failed", "x")],
        ladder=lambda board: [Faulty(board), BoardRung(board, name="plain")],
    )
    assert texts(board) == ["Hello you.\n(failed: x)"]
    assert (row.outcome, load(row.state).notes) == ("shown", ["stream: it could not be rendered: ZeroDivisionError"])


async def test_a_stop_gives_back_what_it_could_not_settle() -> None:
    async with staged(latency_s=1.0) as (stage, board):
        turn = await stage.begin(["a", Pause(50.0), "b"])
        await stage.clock.advance(5.0)
        couriers = stage._couriers
        assert couriers is not None
        hurry = asyncio.Event()
        draining = asyncio.create_task(couriers.drain(10.0, hurry))
        await stage.clock.advance(9.0)
        assert not draining.done()
        await stage.clock.advance(2.0)
        await draining
        await couriers.close()
        row = await stage.row(turn)
        assert (row.status, row.owner, row.lease_until) == ("open", None, None)
        stage.start()
        await stage.settled(turn)
        assert texts(board) == ["ab"]


async def test_a_stop_waits_for_what_settles_in_time() -> None:
    async with staged(latency_s=1.0) as (stage, board):
        turn = await stage.begin(["a", Pause(5.0), "b"])
        await stage.clock.advance(3.0)
        couriers = stage._couriers
        assert couriers is not None
        draining = asyncio.create_task(couriers.drain(60.0, asyncio.Event()))
        await stage.clock.advance(10.0)
        assert draining.done()
        assert (await stage.row(turn)).status == "settled"
        assert texts(board) == ["ab"]


async def test_what_is_reopened_while_it_is_driven_is_looked_at_again() -> None:
    async with staged(latency_s=2.0) as (stage, _):
        turn = await stage.begin(["a"])
        await stage.clock.advance(0.5)
        await stage.store.run(reopen, [turn])
        row = await stage.settled(turn)
        assert (row.outcome, row.revision) == ("shown", 1)


async def test_a_post_that_may_be_gone_says_nothing_more() -> None:
    script = [one for text in ("x" * 20, "x", "y" * 20) for one in (Snapshot(text, part="a"), Pause(2.0))]
    async with staged(ladder=lambda board: [BoardRung(board, width=12)]) as (stage, board):

        def fault(op: str, _: int) -> str | None:
            tries = board.calls.count("withdraw")
            return None if op != "withdraw" or tries > 4 else "after" if tries == 1 else "before"

        board.fault = fault
        row = await stage.settled(await stage.begin(script))
        assert texts(board) == ["y" * 12, "y" * 8]
        assert row.outcome == "shown"
        assert board.calls.count("withdraw") == 5, "people took nothing away: we did"


async def test_what_a_cut_call_may_have_written_is_written_over() -> None:
    script = [one for text in ("a" * 20, "b" * 20, "a" * 20) for one in (Snapshot(text, part="a"), Pause(2.0))]
    closes: list[int] = []

    def fault(op: str, number: int) -> str | None:
        closes.extend([number] * (op == "close"))
        return "after" if op == "close" and len(closes) in (1, 2, 3, 4) else None

    async with staged(ladder=lambda board: [BoardRung(board, width=12)]) as (stage, board):
        board.fault = fault
        await stage.settled(await stage.begin(script))
        assert texts(board) == ["a" * 12, "a" * 8]


async def test_a_life_is_counted_from_the_first_try() -> None:
    async with staged() as (stage, board):
        board.fault = lambda op, _: "after" if op == "create" and stage.clock.now() < 1_700_000_400 else None
        await stage.begin(["Hello.", Pause(900.0), "Bye."])
        for _ in range(89):
            await stage.clock.advance(10.0)
            assert all(post.live for post in board.visible())
        assert board.calls.count("renew") == 1
        assert len(texts(board)) == 1


async def test_a_rung_that_floods_the_chat_is_given_up() -> None:
    class Flood(BoardRung):
        def render(self, desired: Desired, sealed: Any) -> list[Page]:
            return [Page(str(n), str(n)) for n in range(400)]

    row, board = await play(["Hello."], ladder=lambda board: [Flood(board), BoardRung(board, kind="note")])
    assert texts(board) == ["Hello."]
    assert row.outcome == "shown"
    assert board.calls.count("create") == 101


async def test_without_keys_a_death_at_the_first_call_leaves_a_marked_repeat() -> None:
    row, board = await play(["Hello."], keys=False, faults={0: "crash-after"})
    assert texts(board) == ["Hello.", "(this may be a repeat)\nHello."]
    assert row.outcome == "shown"
    assert "marked as a repeat" in load(row.state).notes[0]


async def test_what_is_not_known_twice_is_not_sent_a_third_time() -> None:
    row, board = await play(["Hello."], keys=False, faults={0: "after", 1: "after"})
    assert board.calls == ["create", "create"]
    assert (row.outcome, len(texts(board))) == ("failed", 2)
    assert "not even when it was sent again" in str(row.reason)


async def test_upper_rungs_that_refuse_leave_nothing_behind() -> None:
    row, board = await play(
        ["A long answer ", Pause(1.0), "that does not fit."],
        ladder=lambda board: [
            BoardRung(board, limit=20),
            BoardRung(board, name="plain", limit=25),
            BoardRung(board, name="note", kind="note", live=False, editable=False, width=15),
        ],
    )
    assert texts(board) == ["A long answer t", "hat does not fi", "t."]
    assert {post.kind for post in board.visible()} == {"note"}
    assert load(row.state).rung == 2
    assert row.outcome == "shown"
