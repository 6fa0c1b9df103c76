"""The published suite for surfaces, on the board, and on boards with faults that it has to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.board import Board, BoardChannel, BoardRung
from turnwire.delivery.outcomes import CONFIRMED, Receipt
from turnwire.delivery.surface import Act, Desired, Page
from turnwire.events import JSON
from turnwire.testing import FakeClock, Stage
from turnwire.testing.surfaces import Fault, Seen, SurfaceSuite, play

pytestmark = pytest.mark.anyio


class BoardPlatform:
    """The board as the suite wants it."""

    def __init__(self, clock: FakeClock, *, rung: Any = BoardRung, **how: Any) -> None:
        self.board = Board(clock, **how)
        self.channel = BoardChannel(self.board, lambda board: [rung(board, width=4000)])
        self.faults: Mapping[int, Fault] = {}
        self.stage: Stage
        self.board.fault = lambda _, number: self.faults.get(number)
        self.board.dead = lambda: self.stage.dead
        self.board.crash = lambda: self.stage.crash()

    @property
    def calls(self) -> int:
        return len(self.board.calls)

    def idle(self) -> bool:
        return True

    def seen(self) -> Seen:
        posts = self.board.visible()
        return Seen(
            texts=["".join(post.text for post in posts if post.file is None)],
            files=[post.file for post in posts if post.file is not None],
            live=any(post.live for post in posts),
            busy=self.board.signs > 0,
        )


class TestBoard(SurfaceSuite):
    rounds = 20

    def platform(self, clock: FakeClock) -> BoardPlatform:
        return BoardPlatform(clock)


@pytest.mark.heavy
class TestBoardWithoutKeys(SurfaceSuite):
    rounds = 20

    def platform(self, clock: FakeClock) -> BoardPlatform:
        return BoardPlatform(clock, keys=False)


class Forgetful(BoardRung):
    """Does not close what it shows."""

    async def close(self, act: Act, page: Page) -> Receipt:
        return CONFIRMED


class Hopeful(BoardRung):
    """Names every try otherwise, so that a repeat is another message."""

    async def create(self, act: Act, page: Page) -> Receipt:
        self.board.keys = False
        return await super().create(act, page)


class Mute(BoardRung):
    """Leaves a turn that says nothing without a word."""

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        pages = super().render(desired, sealed)
        return [msgspec.structs.replace(page, content=page.content.replace("(no answer)", "")) for page in pages]


@pytest.mark.parametrize(
    ("rung", "name", "faults", "found"),
    [
        (Forgetful, "streaming", {}, "still looks"),
        (Hopeful, "fast", {0: "after"}, "2 times"),
        (Mute, "empty", {}, "nobody is told"),
    ],
    ids=["forgetful", "hopeful", "mute"],
)
async def test_the_suite_finds_faults(rung: Any, name: str, faults: dict[int, Fault], found: str) -> None:
    clock = FakeClock(rounds=20)
    with pytest.raises(AssertionError, match=found):
        await play(BoardPlatform(clock, rung=rung), name, clock, faults)


async def test_a_platform_is_opened_and_closed_around_each_play() -> None:
    said: list[tuple[str, int]] = []

    class Suite(SurfaceSuite):
        rounds = 20

        def platform(self, clock: FakeClock) -> BoardPlatform:
            return BoardPlatform(clock, rung=Forgetful)

        async def open(self, platform: BoardPlatform) -> None:
            said.append(("open", platform.calls))

        async def close(self, platform: BoardPlatform) -> None:
            said.append(("close", platform.calls))

    with pytest.raises(AssertionError, match="still looks"):
        await Suite()._play("streaming")
    [before, after] = said
    assert before == ("open", 0)
    assert after[0] == "close"
    assert after[1] > 0
