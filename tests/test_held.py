"""Answers that nobody may be told now wait for the next message there, and come first then."""

from __future__ import annotations

import pytest

from tests.board import Board, BoardChannel, BoardRung
from turnwire.delivery.outcomes import Receipt, refused
from turnwire.delivery.surface import Act, Page
from turnwire.testing import Attach, FakeClock, MemoryStore, Pause, Stage

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


class Door:
    open = False


class LastRung(BoardRung):
    """Nobody may be written to while the door is shut."""

    door: Door

    async def create(self, act: Act, page: Page) -> Receipt:
        return await super().create(act, page) if self.door.open else refused("held", "the door is shut")


async def test_a_held_answer_is_shown_first_at_the_next_message(store: MemoryStore) -> None:
    clock, door = FakeClock(), Door()
    board = Board(clock)

    def ladder(board: Board) -> list[BoardRung]:
        rung = LastRung(board, name="last", live=False, editable=False)
        rung.door = door
        return [BoardRung(board, limit=1), rung]

    stage = Stage(BoardChannel(board, ladder), clock, store=store)
    stage.start()
    try:
        first = await stage.begin(["Hello.", Attach("a.txt")], conversation="room")
        for _ in range(100):
            await clock.advance(1.0)
        row = await stage.row(first)
        assert (row.status, row.reason) == ("held", "the door is shut")
        calls = len(board.calls)
        await clock.advance(100_000.0)
        assert len(board.calls) == calls, "nobody drives it"
        door.open = True
        second = await stage.begin(["And ", Pause(1.0), "again."], conversation="room")
        assert (await stage.settled(first)).outcome == "shown"
        await stage.settled(second)
        assert [post.text or post.file for post in board.visible() if not post.file] == [
            "Hello.\n(FileChunk)",
            "And again.",
        ]
        assert [post.file for post in board.visible() if post.file] == ["a.txt"]
    finally:
        await stage.close()
