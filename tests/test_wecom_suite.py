"""The published suite for surfaces, on a simulated WeCom."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from tests.wecom_stage import OneChat
from turnwire.channels.wecom.target import Target
from turnwire.sim.wecom import Fault as SimFault
from turnwire.sim.wecom import WecomSim
from turnwire.testing import FakeClock, Stage
from turnwire.testing.surfaces import Fault, Seen, SurfaceSuite

pytestmark = pytest.mark.anyio

REFUSALS: Mapping[Fault, SimFault] = {
    "busy": SimFault("*", "refuse", code=846601),
    "content": SimFault("*", "refuse", code=40201),
}


class WecomPlatform:
    """A chat in which somebody has asked, as the suite wants it."""

    stage: Stage

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.faults: Mapping[int, Fault] = {}
        self.calls = 0
        self.sim = WecomSim(clock=clock)
        asked = self.sim.people.say("alice", "hello")
        assert asked is not None
        self.target = Target("alice", req_id=asked.req_id, at=clock.now())
        self.channel = OneChat(self)

    def fate(self, number: int) -> str | None:
        """What becomes of the frame of that number."""
        fault = self.faults.get(number)
        if fault is not None and fault in REFUSALS:
            self.sim.faults.add(dataclasses.replace(REFUSALS[fault]))
            return None
        return fault

    def idle(self) -> bool:
        return True

    def seen(self) -> Seen:
        said = self.sim.view("alice").from_bots
        return Seen(
            texts=[message.text for message in said if message.file is None],
            files=[message.file.name for message in said if message.file is not None],
            live=any(message.streaming for message in said),
        )


class TestWecom(SurfaceSuite):
    rounds = 60
    most_calls = 6
    faults = ("before", "after", "busy", "content", "crash-before", "crash-after")

    def platform(self, clock: FakeClock) -> WecomPlatform:
        return WecomPlatform(clock)

    async def close(self, platform: WecomPlatform) -> None:
        await platform.channel.close()
        await platform.sim.sockets.close()


@pytest.mark.heavy
class TestWecomThroughout(TestWecom):
    most_calls = 100
