"""WeCom in webhook mode: what people see of turns that the platform asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.feishu_rig import Told, saying
from tests.wecom_hook_rig import HookRig, hooked
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


def right(rig: HookRig) -> None:
    """The platform took everything that it was answered."""
    assert rig.sim.webhooks.problems == []
    assert set(rig.door.statuses) == {200}


async def test_a_turn_is_shown_while_it_runs(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        await rig.calm()
        assert rig.texts() == ["> ⏳ Working …"]
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        assert rig.states == ["live"]
        told.say("there.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert (rig.texts(), rig.states) == (["Hello there."], ["finished"])
        right(rig)
