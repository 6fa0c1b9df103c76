"""What a Feishu chat shows beside answers to questions: images, what comes by itself, and a bot that is killed."""

from __future__ import annotations

import base64
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests import job_agent
from tests.feishu_rig import FeishuRig, Told, feishu, saying
from turnwire import Turn
from turnwire.delivery.couriers import Couriers
from turnwire.journal import Hub
from turnwire.journal.follow import Follower
from turnwire.sim.feishu import Fault
from turnwire.store.queries.deliveries import list_deliveries
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f\x15\xc4\x89"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


class Draws:
    """An agent whose answer embeds images."""

    def __init__(self, clock: FakeClock, *, pause: float = 0.0) -> None:
        self.rig: FeishuRig
        self._saying = functools.partial(saying, clock=clock)
        self._pause = pause
        self.said = ""

    async def put(self, *, elsewhere: bool = False, content: bytes = PNG, name: str = "chart.png") -> str:
        gateway = self.rig.gateway
        [delivery, *_] = await gateway.db.read(list_deliveries, limit=1)
        own = None if elsewhere else delivery.conversation_id
        return (await gateway.files.put(content, owner="ou_alice", conversation_id=own, name=name)).url

    async def agent(self, turn: Turn) -> AsyncIterator[Any]:
        inside = base64.b64encode(PNG).decode()
        self.said = (
            f"Ours: ![chart]({await self.put()})\n\n"
            f"Another's: ![secret]({await self.put(elsewhere=True)})\n\n"
            f"Text: ![notes]({await self.put(content=b'words', name='a.txt')})\n\n"
            f"Inside: ![dot](data:image/png;base64,{inside})\n\n"
            f"Broken: ![broken](data:image/png;base64,###)\n\n"
            f"Gone: ![gone](/files/file_{'0' * 32}/x.png)\n\n"
            f"There: ![there](https://evil.example/x.png)\n\n"
        )
        async for piece in self._saying(self.said, self._pause, "Done.")(turn):
            yield piece


def _uploads(rig: FeishuRig) -> list[bytes]:
    return [upload.data for upload in rig.sim.tenant.uploads.values()]


@pytest.mark.parametrize("pause", [60.0, pytest.param(0.0, marks=pytest.mark.heavy)])
async def test_images_of_an_answer_are_shown_in_its_card(tmp_path: Path, clock: FakeClock, pause: float) -> None:
    draws = Draws(clock, pause=pause)
    async with feishu(tmp_path, draws.agent, clock=clock) as rig:
        draws.rig = rig
        rig.say("draw")
        [row] = await rig.settled(step=0.5)
        assert row.outcome == "shown", row
        keys = list(rig.sim.tenant.uploads)
        assert _uploads(rig) == [PNG, PNG]
        text = rig.card.text
        assert {f"![chart]({key})" in text for key in keys} == {True, False}
        assert {f"![dot]({key})" in text for key in keys} == {True, False}
        assert text.count("![") == 2
        assert "[there](https://evil.example/x.png)" in text
        assert "Done." in text
        assert not rig.card.streaming


async def test_images_that_cannot_be_uploaded_stay_words(tmp_path: Path, clock: FakeClock) -> None:
    draws = Draws(clock)
    async with feishu(tmp_path, draws.agent, clock=clock) as rig:
        draws.rig = rig
        rig.sim.faults.add(Fault("upload_image", "refuse", code=234011))
        rig.sim.faults.add(Fault("upload_image", "timeout_before_applying", nth=2, count=0))
        rig.say("draw")
        [row] = await rig.settled(step=0.5)
        assert row.outcome == "shown", row
        assert "![" not in rig.card.text
        assert "Ours: chart" in rig.card.text
        assert "Done." in rig.card.text


async def test_an_upload_that_fails_once_is_tried_again(tmp_path: Path, clock: FakeClock) -> None:
    draws = Draws(clock)
    async with feishu(tmp_path, draws.agent, clock=clock) as rig:
        draws.rig = rig
        rig.sim.faults.add(Fault("upload_image", "bad_gateway", count=2))
        rig.say("draw")
        await rig.settled(step=0.5)
        assert rig.card.text.count("![") == 2


@pytest.mark.parametrize("refused", [False, True])
async def test_a_large_image_inside_an_answer_is_never_seen_as_what_it_is_made_of(
    tmp_path: Path, clock: FakeClock, refused: bool
) -> None:
    content = PNG + b"turnwire" * 6_000
    inside = base64.b64encode(content).decode()
    said = f"Look: ![the tide](data:image/png;base64,{inside})\n\nThat is all."
    pieces = [said[at : at + 4_000] for at in range(0, len(said), 4_000)]

    agent = saying(*(each for piece in pieces for each in (piece, 1.0)), clock=clock)
    async with feishu(tmp_path, agent, clock=clock) as rig:
        if refused:
            rig.sim.faults.add(Fault("upload_image", "refuse", code=234011))
        rig.say("draw")
        await rig.until(lambda: rig.shows("the tide"))
        assert "Look: the tide" in rig.card.text
        [row] = await rig.settled(step=0.5)
        assert row.outcome == "shown", row
        [key] = list(rig.sim.tenant.uploads) or [""]
        assert _uploads(rig) == ([] if refused else [content])
        shown = "the tide" if refused else f"![the tide]({key})"
        assert f"Look: {shown}\n\nThat is all." in rig.card.text
        sent = "".join(str(call.body) for call in rig.sim.calls if call.op != "upload_image")
        assert "the tide" in sent
        assert inside[100:120] not in sent


async def test_an_answer_has_ten_images_at_most(tmp_path: Path, clock: FakeClock) -> None:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        for number in range(12):
            inside = base64.b64encode(PNG + bytes([number])).decode()
            yield f"![i{number}](data:image/png;base64,{inside})\n\n"

    async with feishu(tmp_path, agent, clock=clock) as rig:
        rig.say("draw")
        await rig.settled(step=0.5)
        assert len(_uploads(rig)) == 10
        assert "\n".join(each.text for each in rig.answers()).count("![") == 10


# What comes by itself


@pytest.mark.parametrize("where", ["p2p", "topic", "topic that was begun by a message that is gone"])
async def test_what_a_job_left_behind_comes_by_itself(tmp_path: Path, clock: FakeClock, where: str) -> None:
    async with feishu(tmp_path, job_agent.agent, clock=clock) as rig:
        chat = rig.chat
        if where != "p2p":
            chat = "oc_topics"
            rig.sim.add_chat(chat, "topic", members=["ou_alice"], bots=[rig.sim.app_id])
        if "gone" in where:
            rig.sim.faults.add(Fault("reply", "recall", nth=2))
        asked = rig.say(f"job quick {tmp_path}", chat)
        await rig.settled(2)
        said = rig.answers(chat)
        assert len(said) == 2
        assert "It says:" in said[1].text
        assert not said[1].streaming
        if where == "p2p":
            assert said[1].parent_id == ""
        elif where == "topic":
            assert said[1].thread_id == rig.sim.message(asked).thread_id
        assert rig.sim.message(asked).reactions == []


# A bot that is killed


@pytest.mark.parametrize(
    "number", [one if one in (1, 4, 7) else pytest.param(one, marks=pytest.mark.heavy) for one in range(9)]
)
async def test_a_bot_that_is_killed_leaves_one_answer_and_no_sign(
    tmp_path: Path, clock: FakeClock, number: int
) -> None:
    """At each of the first calls of a turn, before and after the platform has applied it."""
    async with feishu(tmp_path, saying("Hello ", 20.0, "world.", 5.0, clock=clock), clock=clock) as rig:
        asked = {}
        for when in ("before", "after"):
            rig.transport.dies_before = rig.transport.calls + number if when == "before" else None
            rig.transport.dies_after = rig.transport.calls + number if when == "after" else None
            asked[when] = rig.say("hi")
            await rig.settled(len(asked), step=0.5)
        shown = {each.parent_id: each for each in rig.answers()}
        assert len(rig.answers()) == 2
        for message in asked.values():
            assert "Hello world." in shown[message].text
            assert not shown[message].streaming
            assert rig.sim.message(message).reactions == []


async def test_a_courier_needs_nothing_of_the_process_that_runs_the_agent(tmp_path: Path, clock: FakeClock) -> None:
    """Another process, with its own eyes on the store, shows what the agent of this one says."""
    told = Told()
    async with feishu(tmp_path, told.agent, clock=clock) as rig:
        await rig.kill()
        gateway = rig.gateway
        hub = Hub()
        follower = Follower(gateway.db, hub, clock, every_s=lambda: 0.5)
        follower.start()
        rig.couriers = couriers = Couriers(
            {rig.channel.name: rig.channel}, process="elsewhere", db=gateway.db, hub=hub, files=gateway.files,
            clock=clock, lease_s=1_000_000, alone=False, look=follower.poke, changed=lambda _: None,
        )  # fmt: skip
        couriers.start()
        try:
            rig.say("hi")
            told.say("Hello ")
            await rig.until(lambda: rig.shows("Hello"))
            told.say("world.")
            await rig.until(lambda: rig.shows("Hello world."))
            assert rig.card.streaming
            told.end()
            await rig.settled()
            assert "Hello world." in rig.card.text
            assert not rig.card.streaming
        finally:
            await couriers.close()
            rig.couriers = None
            await follower.close()
