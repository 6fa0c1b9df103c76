"""`turnwire deliveries`: what it says of turns that are shown in a chat, beside the server that shows them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.feishu_rig import FeishuRig, feishu, saying
from turnwire import Turn
from turnwire.cli import app
from turnwire.sim.feishu import Fault
from turnwire.store.queries.deliveries import delivery_id, list_deliveries

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose configuration names the rig's store."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TURNWIRE_") and "__" in name]:
        monkeypatch.delenv(name)
    (tmp_path / "turnwire.toml").write_text(f'[store]\nurl = "sqlite:///{tmp_path}/feishu.db"\n')
    return tmp_path


async def deliveries(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["deliveries", *arguments])


async def settled(rig: FeishuRig, count: int) -> list[Any]:
    """The deliveries, oldest first, once they are settled."""
    await rig.settled(count)
    return (await rig.gateway.db.read(list_deliveries, limit=10))[::-1]


async def _attach(turn: Turn) -> None:
    await turn.attach(b"1,2\n", name="data.csv")


async def test_what_is_shown_is_listed_only_when_asked_for(folder: Path) -> None:
    async with feishu(folder, saying("Hello.", _attach)) as rig:
        rig.say("hi")
        [row] = await settled(rig, 1)
        nothing = await deliveries("list")
        assert nothing.exit_code == 0, nothing.output
        assert nothing.stdout == "Every delivery is settled and shown as it should be.\n"
        head, line = (await deliveries("list", "--all")).stdout.splitlines()
        assert head.split() == ["delivery", "state", "created", "channel", "why"]
        assert line.split()[:2] == [row.id, "shown"]
        assert "feishu.main" in line
        [listed] = json.loads((await deliveries("list", "--all", "--json")).stdout)
        assert (listed["id"], listed["turn"], listed["outcome"]) == (row.id, row.turn_id, "shown")
        assert list(listed["files"].values()) == ["confirmed"]
        assert listed["createdAt"] <= listed["settledAt"]

        shown = (await deliveries("show", row.id)).stdout
        for said in (f"turn          {row.turn_id}", "status        settled", "outcome       shown", "confirmed"):
            assert said in shown
        assert (await deliveries("show", row.turn_id)).stdout == shown
        about = json.loads((await deliveries("show", row.id, "--json")).stdout)
        assert {one["status"] for one in about["receipts"]} == {"confirmed"}
        assert len(about["receipts"]) >= 3
        assert all(one["attemptedAt"] and one["receivedAt"] for one in about["receipts"])


async def test_what_could_not_be_shown_is_listed_with_the_reason(folder: Path) -> None:
    async with feishu(folder, saying("Hello.")) as rig:
        rig.sim.faults.add(Fault("reply", "refuse", code=230002, count=0))
        rig.say("hi")
        [row] = await settled(rig, 1)
        assert row.outcome != "shown"
        _, line = (await deliveries("list")).stdout.splitlines()
        assert line.split()[:2] == [row.id, row.outcome]
        assert "the bot is not in this chat (230002)" in line
        shown = (await deliveries("show", row.id)).stdout
        assert "refused" in shown
        assert "the bot is not in this chat (230002)" in shown


async def test_the_newest_come_first_and_no_more_than_asked_for(folder: Path) -> None:
    async with feishu(folder, saying("Hello.")) as rig:
        rig.say("one")
        await settled(rig, 1)
        rig.say("two")
        first, second = await settled(rig, 2)
        lines = (await deliveries("list", "--all")).stdout.splitlines()[1:]
        assert [line.split()[0] for line in lines] == [second.id, first.id]
        assert len((await deliveries("list", "--all", "--limit", "1")).stdout.splitlines()) == 2


async def test_a_delivery_that_is_not_there_is_a_message_and_exit_code_2(folder: Path) -> None:
    async with feishu(folder, saying("Hello.")):
        for name in ("dlv_nothing", "turn_nothing"):
            missing = await deliveries("show", name)
            assert (missing.exit_code, missing.stdout) == (2, "")
            assert f"there is no delivery {name!r} in this store" in missing.stderr
        assert delivery_id("turn_nothing") not in missing.stderr
