"""Turns in a Feishu chat: what people see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.feishu_rig import FeishuRig, feishu, saying
from turnwire import ToolCall, ToolResult, Turn
from turnwire.sim.feishu import Fault
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


async def shown(rig: FeishuRig) -> str:
    """Everything is settled and shown; the text of the one card."""
    [row] = await rig.settled()
    assert row.outcome == "shown", row
    card = rig.card.card
    assert card is not None
    assert not card.streaming
    return card.text


async def test_a_turn_is_one_card(tmp_path: Path, clock: FakeClock) -> None:
    agent = saying("Hello ", 1.0, "**world**.", clock=clock)
    async with feishu(tmp_path, agent, clock=clock) as rig:
        asked = rig.say("hi")
        assert "Hello **world**." in await shown(rig)
        assert len(rig.answers()) == 1
        assert rig.card.parent_id == asked
        assert rig.sim.message(asked).reactions == []


async def test_many_tool_calls_are_one_card(tmp_path: Path, clock: FakeClock) -> None:
    steps: list[Any] = []
    for number in range(12):
        steps += [f"Step {number}. ", ToolCall(id=f"t{number}", name="search", input={"n": number}), 0.4]
        steps += [ToolResult(id=f"t{number}", output="ok")]
    async with feishu(tmp_path, saying(*steps, "Done.", clock=clock), clock=clock) as rig:
        rig.say("go")
        text = await shown(rig)
        assert [text.count(f"Step {number}. ".strip()) for number in range(12)] == [1] * 12
        assert text.count("Done.") == 1


async def test_a_turn_longer_than_a_card_streams_is_renewed_before_the_wall(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.gateway.FOLLOW_S", 1e6)
    agent = saying("Begin. ", ToolCall(id="t", name="long", input={}), 1500, ToolResult(id="t", output=1), "End.",
                   clock=clock)  # fmt: skip
    async with feishu(tmp_path, agent, clock=clock, turns__idle_timeout_s=10_000) as rig:
        rig.say("go")
        text = await shown_slowly(rig)
        assert "Begin." in text
        assert "End." in text
        assert rig.sim.hopeless == []
        codes = {call.code for call in rig.sim.calls}
        assert codes == {0}


async def shown_slowly(rig: FeishuRig) -> str:
    [row] = await rig.settled(step=5.0)
    assert row.outcome == "shown", row
    assert rig.card.card is not None
    return rig.card.card.text


@pytest.mark.parametrize("kind", ["timeout_after_applying", "reset_after_applying", "bad_gateway_after_applying"])
async def test_an_ambiguous_send_is_one_message(tmp_path: Path, clock: FakeClock, kind: str) -> None:
    async with feishu(tmp_path, saying("Hello.", clock=clock), clock=clock) as rig:
        rig.sim.faults.add(Fault("reply", kind))
        rig.say("hi")
        assert "Hello." in await shown(rig)
        assert len(rig.answers()) == 1


async def test_files_are_messages_of_their_own(tmp_path: Path, clock: FakeClock) -> None:
    async def attach(turn: Turn) -> None:
        file = await turn.attach(b"a,b\n1,2\n", name="data.csv")
        assert await file.delivered() == {"feishu.main": "confirmed"}

    async with feishu(tmp_path, saying("Here: ", attach, clock=clock), clock=clock) as rig:
        rig.say("hi")
        await rig.settled()
        kinds = [(message.kind, message.file.name if message.file else None) for message in rig.answers()]
        assert sorted(kinds) == [("file", "data.csv"), ("interactive", None)]
