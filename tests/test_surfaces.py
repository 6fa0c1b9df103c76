"""The published suite for surfaces, on the board, and on boards with faults that it has to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from tests.board import Board, BoardChannel, BoardRung, BoardSurface
from turnwire.delivery.outcomes import CONFIRMED, Receipt, refused
from turnwire.delivery.surface import Act, DeliveryOrder, Desired, Page
from turnwire.events import JSON
from turnwire.testing import FakeClock, Pause, Question, Stage
from turnwire.testing.surfaces import Fault, Scenario, Seen, SurfaceSuite, play

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


class Shy(BoardRung):
    """Waits until somebody writes, though everything can be said."""

    async def close(self, act: Act, page: Page) -> Receipt:
        await super().close(act, page)
        return refused("held", "nobody has written")


@pytest.mark.parametrize(
    ("rung", "name", "faults", "found"),
    [
        (Forgetful, "streaming", {}, "still looks"),
        (Hopeful, "fast", {0: "after"}, "2 times"),
        (Mute, "empty", {}, "nobody is told"),
        (Shy, "streaming", {}, "held until somebody writes again: nobody has written"),
    ],
    ids=["forgetful", "hopeful", "mute", "shy"],
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


async def test_a_platform_may_name_the_question_fetch_the_answer_and_have_turns_of_its_own() -> None:
    orders: list[bytes] = []

    class Mailbox(BoardPlatform):
        """Shows what was posted once it has been fetched, which takes a minute and outlasts a process."""

        def __init__(self, clock: FakeClock) -> None:
            super().__init__(clock)
            self.clock = clock
            self.fetched: Seen | None = None
            surface = self.channel.surface

            def noted(order: DeliveryOrder) -> BoardSurface:
                orders.append(order.target)
                return surface(order)

            self.channel.surface = noted  # type: ignore[method-assign]

        def fetch(self) -> None:
            self.fetched = super().seen()

        def seen(self) -> Seen:
            return self.fetched or Seen([])

    class Suite(SurfaceSuite):
        rounds = 20
        scenarios: Mapping[str, Scenario] = {
            "silent": Scenario(["Half an ", Pause(1800.0), "hour."], ["Half an hour."])
        }

        def platform(self, clock: FakeClock) -> Mailbox:
            return Mailbox(clock)

        def question(self, platform: Mailbox) -> Question:
            return Question("m1", b'{"box": 7}')

        async def rest(self, platform: Mailbox) -> None:
            stage, began = platform.stage, platform.stage.processes
            platform.clock.call_later(60.0, platform.fetch)
            platform.clock.call_later(30.0, stage.crash)
            assert await stage.comes(lambda: platform.fetched is not None)
            assert stage.processes == began + 1

    await Suite().test_turns_are_shown_as_they_are()
    await Suite().test_silence_costs_few_calls()
    assert set(orders) == {b'{"box": 7}'}
    Suite.rest = SurfaceSuite.rest  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="nobody is told"):
        await Suite()._play("silent")
