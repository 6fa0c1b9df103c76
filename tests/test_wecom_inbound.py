"""What people do in WeCom, and what that causes: turns, files, stops, answers, notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wecom_rig import wecom
from turnwire import Turn
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


class Heard:
    """An agent that keeps what it is asked, and answers with it."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []

    async def agent(self, turn: Turn) -> AsyncIterator[str]:
        self.turns.append(turn)
        yield f"Heard: {turn.text}"

    @property
    def texts(self) -> list[str]:
        return [turn.text for turn in self.turns]


async def test_a_text_is_answered(tmp_path: Path, clock: FakeClock) -> None:
    heard = Heard()
    async with wecom(tmp_path, heard.agent, clock=clock) as rig:
        rig.say("hi")
        await rig.settled()
        assert heard.texts == ["hi"]
        assert [each.text for each in rig.answers()] == ["Heard: hi"]
