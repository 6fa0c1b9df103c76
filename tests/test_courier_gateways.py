"""Turns on a board through whole gateways: approvals, jobs, files, a stop, and courier and runner apart."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.board import Board, BoardChannel
from tests.gateways import config_for
from turnwire import ToolCall, ToolResult, Turn
from turnwire.clock import SystemClock
from turnwire.gateway import Gateway
from turnwire.ids import new_id
from turnwire.operation import Operation
from turnwire.store.queries.approvals import asked_by
from turnwire.store.queries.deliveries import deliveries_of, list_deliveries
from turnwire.store.queries.rows import DeliveryRow
from turnwire.store.queries.turns import get_turn
from turnwire.turns.admission import Inbound

pytestmark = pytest.mark.anyio

CLOCK = SystemClock()
LIMIT_S = 30.0
_numbers = itertools.count()


async def ask(gateway: Gateway, text: str = "hello", room: str = "room") -> str:
    """A message; the id of its turn."""
    key = f"k{next(_numbers)}"
    message = {"id": f"msg_{key}", "role": "user", "parts": [{"type": "text", "text": text}]}
    admission = await gateway.submit(
        Inbound(
            channel="board",
            owner="",
            conversation=room,
            key=key,
            message=msgspec.json.encode(message),
            message_id=f"msg_{key}",
            reply_to=b"{}",
            user="ann",
            conversation_id=new_id("conv", CLOCK),
            turn_id=new_id("turn", CLOCK),
            answer_id=new_id("msg", CLOCK),
        )
    )
    return admission.turn.id


async def until(gateway: Gateway, ready: Callable[[list[DeliveryRow]], bool]) -> list[DeliveryRow]:
    """The deliveries, oldest first, once they are as they should be."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            rows = (await gateway.db.read(list_deliveries, limit=100))[::-1]
            if ready(rows):
                return rows
            await asyncio.sleep(0)


async def settled(gateway: Gateway, turn: str) -> DeliveryRow:
    """The delivery of a turn once it is settled."""
    rows = await until(gateway, lambda rows: any(r.turn_id == turn and r.status == "settled" for r in rows))
    return next(row for row in rows if row.turn_id == turn)


@asynccontextmanager
async def opened(folder: Path, agent: Any, board: Board | None, url: str = "", **more: Any) -> AsyncIterator[Gateway]:
    """A gateway on that board; without one it speaks on no channel."""
    more.setdefault("turns__drain_s", 0)
    config = config_for(url or f"sqlite:///{folder}/t.db", folder, **more)
    channels = [] if board is None else [BoardChannel(board)]
    async with Gateway(config, agent, channels=channels) as gateway:
        yield gateway


def texts(board: Board) -> list[str]:
    return [post.text for post in board.visible() if post.file is None]


async def shop(turn: Turn) -> AsyncIterator[Any]:
    if turn.resume is None:
        yield "May I? "
        yield ToolCall(id="t", name="pay", input={}, needs_approval=True)
        return
    yield ToolResult(id="t", output="paid")
    yield "Bought."


async def test_what_goes_on_after_an_approval_has_a_post_of_its_own(tmp_path: Path) -> None:
    board = Board(CLOCK)
    async with opened(tmp_path, shop, board) as gateway:
        turn = await ask(gateway)
        await settled(gateway, turn)
        [approval] = await gateway.db.read(asked_by, turn)
        await gateway.answer(approval.id, channel="board", owner="", approved=True, by="bob")
        first, second = await until(
            gateway, lambda rows: len(rows) == 2 and all(row.status == "settled" for row in rows)
        )
        assert (first.turn_id, first.outcome, second.outcome, second.push) == (turn, "shown", "shown", 0)
        before, after = texts(board)
        assert before.startswith("May I?")
        assert "? True by bob" in before
        assert "Bought." in after
        assert "May I?" not in after


class LateChannel(BoardChannel):
    """A board that takes long to start, and fetches nothing before."""

    started = False

    async def start(self, gateway: Gateway) -> None:
        # Long enough for a turn that does not wait.
        for _ in range(50):
            await gateway.db.read(list_deliveries, limit=1)
        self.started = True

    async def prepare(self, turn: Any, *, steered: bool = False) -> str | None:
        assert self.started
        return None


async def test_a_turn_that_was_left_waits_for_its_channel(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def stuck(turn: Turn) -> AsyncIterator[Any]:
        begun.set()
        await asyncio.Event().wait()
        yield "never"

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "Here I am."

    board = Board(CLOCK)
    async with opened(tmp_path, stuck, board) as gateway:
        await ask(gateway)
        await begun.wait()
        queued = await ask(gateway)
    config = config_for(f"sqlite:///{tmp_path}/t.db", tmp_path)
    async with Gateway(config, agent, channels=[LateChannel(board)]) as gateway:
        await settled(gateway, queued)
        turn = await gateway.db.read(get_turn, queued)
        assert turn is not None
        assert (turn.outcome, turn.reason) == ("done", None)
        assert texts(board)[-1] == "Here I am."


async def count_sheep(operation: Operation) -> int:
    return 3


async def sleeper(turn: Turn) -> AsyncIterator[Any]:
    if turn.text == "hello":
        await turn.background("sheep", count_sheep)
        yield "Counting."
    else:
        yield "There are three."


async def test_the_report_of_a_job_is_pushed(tmp_path: Path) -> None:
    board = Board(CLOCK)
    async with opened(tmp_path, sleeper, board) as gateway:
        await ask(gateway)
        rows = await until(gateway, lambda rows: len(rows) == 2 and all(row.status == "settled" for row in rows))
        assert [row.push for row in rows] == [0, 1]
        assert texts(board) == ["Counting.", "There are three."]


async def test_an_agent_learns_what_became_of_a_file(tmp_path: Path) -> None:
    board = Board(CLOCK)
    outcomes: list[Any] = []
    board.fault = lambda op, _: "content" if op == "attach" and len(outcomes) == 1 else None

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        for name in ("a.txt", "b.txt"):
            file = await turn.attach(name.encode(), name=name)
            outcomes.append(await file.delivered(timeout=20))
        yield "Done."

    async with opened(tmp_path, agent, board) as gateway:
        row = await settled(gateway, await ask(gateway))
        assert outcomes == [{"board": "confirmed"}, {"board": "refused"}]
        assert row.outcome == "partly"


async def test_who_asks_about_a_file_waits_no_longer_than_they_said(tmp_path: Path) -> None:
    board = Board(CLOCK)
    board.fault = lambda op, _: "busy" if op == "attach" else None
    outcomes: list[Any] = []

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        file = await turn.attach(b"x", name="a.txt")
        outcomes.append(await file.delivered(timeout=0.01))
        yield "Done."

    async with opened(tmp_path, agent, board) as gateway:
        await ask(gateway)
        await until(gateway, lambda _: bool(outcomes))
    assert outcomes == [{"board": "pending"}]


async def test_a_surface_that_hangs_adds_nothing_to_the_turn(tmp_path: Path) -> None:
    board = Board(CLOCK, latency_s=1e6)

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        for _ in range(100):
            yield "word "

    async with opened(tmp_path, agent, board) as gateway:
        turn = await ask(gateway)
        async with asyncio.timeout(LIMIT_S):
            while (row := await gateway.db.read(get_turn, turn)) is None or row.status != "finished":
                await asyncio.sleep(0)
        assert row.outcome == "done"
        assert board.visible() == []
        hurry = asyncio.Event()
        hurry.set()
        await gateway.stop(hurry=hurry)


async def test_what_a_stop_cut_short_goes_on_in_the_next_process(tmp_path: Path) -> None:
    board = Board(CLOCK)
    board.fault = lambda op, _: "busy" if op == "close" else None
    began = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield "Half a "
        began.set()
        await asyncio.Event().wait()

    async with opened(tmp_path, agent, board) as gateway:
        turn = await ask(gateway)
        async with asyncio.timeout(LIMIT_S):
            while not texts(board):
                await asyncio.sleep(0)
        hurry = asyncio.Event()
        hurry.set()
        await gateway.stop(hurry=hurry)
    assert board.visible()[0].live
    board.fault = lambda _, __: None
    async with opened(tmp_path, agent, board) as gateway:
        row = await settled(gateway, turn)
        assert row.outcome == "shown"
        assert len(texts(board)) == 1
        assert texts(board)[0].startswith("Half a \n(interrupted")


@pytest.mark.cluster
@pytest.mark.parametrize("relayed", [True, False], ids=["relay", "no relay"])
async def test_courier_and_runner_are_in_two_processes(
    tmp_path: Path, postgres_url: str, request: pytest.FixtureRequest, relayed: bool
) -> None:
    board = Board(CLOCK)
    words: asyncio.Queue[str] = asyncio.Queue()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        while (word := await words.get()) != ".":
            yield word
        await turn.attach(b"x", name="a.txt")

    more = {"relay__url": request.getfixturevalue("redis_url")} if relayed else {}
    async with (
        opened(tmp_path, agent, None, postgres_url, **more) as runner,
        opened(tmp_path, agent, board, postgres_url, turns__lease_s=3, **more) as shower,
    ):
        turn = await ask(runner)
        words.put_nowait("Hello ")
        async with asyncio.timeout(LIMIT_S):
            while texts(board) != ["Hello "]:
                await asyncio.sleep(0)
        for word in ("there.", "."):
            words.put_nowait(word)
        row = await settled(shower, turn)
        assert row.outcome == "shown"
        assert texts(board) == ["Hello there.\n(FileChunk)"]
        assert [post.file for post in board.visible() if post.file] == ["a.txt"]
        assert await runner.db.read(deliveries_of, turn) == [row]


@pytest.mark.cluster
async def test_two_processes_on_one_board_show_each_turn_once(tmp_path: Path, postgres_url: str) -> None:
    board = Board(CLOCK)

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        yield f"About {turn.text}."

    async with (
        opened(tmp_path, agent, board, postgres_url) as one,
        opened(tmp_path, agent, board, postgres_url) as two,
    ):
        for number in range(6):
            await ask((one, two)[number % 2], f"{number}", room=f"room {number}")
        rows = await until(one, lambda rows: len(rows) == 6 and all(row.status == "settled" for row in rows))
        assert {row.outcome for row in rows} == {"shown"}
        assert sorted(texts(board)) == [f"About {number}." for number in range(6)]
