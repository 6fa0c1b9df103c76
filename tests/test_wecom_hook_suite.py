"""The published suite for surfaces, on a simulated WeCom in webhook mode."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest

from tests.wecom_hook_stage import HookPlatform
from turnwire.channels.wecom.words import OWN
from turnwire.sim.wecom import Fault as SimFault
from turnwire.testing import FakeClock, Pause, Question
from turnwire.testing.surfaces import SCENARIOS, Fault, Scenario, SurfaceSuite

pytestmark = pytest.mark.anyio

SILENCE_S = 3000.0
"""Shorter than an hour, after which nobody can be told anything there."""
LOST: Mapping[int, Fault] = {0: "before"}
"""The platform never learns of the bubble, so that the answer is posted by address."""
POST_FAULTS: Sequence[Fault] = ("before", "after", "busy", "crash-before", "crash-after")
REFUSED = Scenario(["A bad word."], [OWN["en"].withheld], unsaid=["A bad word."])


class TestWecomHook(SurfaceSuite):
    """The platform asks for a bubble, which it cannot refuse; so its refusals are tried at what is posted."""

    rounds = 20
    most_calls = 2
    faults = ("before", "after", "crash-before", "crash-after")
    scenarios: Mapping[str, Scenario] = {
        **SCENARIOS,
        "silent": Scenario(["Waiting. ", Pause(SILENCE_S), "Back."], ["Waiting.", "Back."]),
    }
    by_address: Mapping[str, Mapping[int, Fault]] = {"streaming": LOST, "asking": {}}
    """What is posted by address with its last call, and after which faults."""

    def platform(self, clock: FakeClock) -> HookPlatform:
        return HookPlatform(clock)

    async def open(self, platform: HookPlatform) -> None:
        await platform.open()

    def question(self, platform: HookPlatform) -> Question:
        return platform.question

    async def rest(self, platform: HookPlatform) -> None:
        assert await platform.stage.comes(lambda: not platform.asking), "the platform asks on and on"

    async def close(self, platform: HookPlatform) -> None:
        await platform.close()

    async def test_every_post_by_address_can_go_wrong(self) -> None:
        """Each fault at what is posted with the last call."""
        for name, before in self.by_address.items():
            last = await self._play(name, before) - 1
            for fault in POST_FAULTS:
                await self._play(name, {**before, last: fault})


class Refused(TestWecomHook):
    scenarios: Mapping[str, Scenario] = {"refused": REFUSED}


async def test_what_the_platform_refuses_is_said_to_be_withheld_once() -> None:
    """Also when that it says so goes wrong."""
    suite, refused = Refused(), {**LOST, 1: "content"}
    assert await suite._play("refused", refused) == 3
    for fault in POST_FAULTS:
        await suite._play("refused", {**refused, 2: fault})


class Deaf(TestWecomHook):
    """On a platform that asks for a bubble so often and no more; its bubble stays as it is."""

    def __init__(self, asks: int) -> None:
        self._asks = asks

    async def open(self, platform: HookPlatform) -> None:
        platform.sim.faults.add(SimFault("poll", "lose", nth=self._asks + 1, count=0))
        await platform.open()


@pytest.mark.heavy
@pytest.mark.parametrize("asks", [1, 2])
async def test_what_the_platform_does_not_ask_for_is_posted(asks: int) -> None:
    """Once, whatever goes wrong with the post."""
    suite = Deaf(asks)
    assert await suite._play("streaming") == asks + 2
    for fault in POST_FAULTS:
        await suite._play("streaming", {asks + 1: fault})


@pytest.mark.heavy
class TestWecomHookThroughout(TestWecomHook):
    most_calls = 100
    by_address: Mapping[str, Mapping[int, Fault]] = {
        "streaming": LOST, "fast": LOST, "files": LOST, "failed": LOST, "asking": {}, "silent": {},
    }  # fmt: skip

    async def test_two_posts_by_address_go_wrong(self) -> None:
        """A fault, and another one while the first is being mended."""
        for name in ("streaming", "files", "failed", "asking"):
            before = self.by_address[name]
            last = await self._play(name, before) - 1
            for fault, another in itertools.product(POST_FAULTS, POST_FAULTS):
                await self._play(name, {**before, last: fault, last + 1: another})
