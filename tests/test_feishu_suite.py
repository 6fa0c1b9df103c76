"""The published suite for surfaces, on a simulated Feishu tenant."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import httpx2
import msgspec
import pytest

from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.settings import App
from turnwire.channels.feishu.surface import FeishuSurface
from turnwire.channels.feishu.target import Target
from turnwire.delivery.surface import DeliveryOrder
from turnwire.sim._http import Request
from turnwire.sim.feishu import Fault as SimFault
from turnwire.sim.feishu import FeishuSim
from turnwire.testing import FakeClock, Stage
from turnwire.testing.surfaces import Fault, Seen, SurfaceSuite

pytestmark = pytest.mark.anyio

REFUSALS: Mapping[Fault, SimFault] = {
    "busy": SimFault("*", "refuse", code=99991400, seconds=1.0),
    "content": SimFault("*", "refuse", code=230099),
}


class Line(httpx2.AsyncBaseTransport):
    """The line of one process to the tenant; nothing passes it once that process is dead."""

    def __init__(self, platform: FeishuPlatform) -> None:
        self._platform = platform
        self._process = platform.stage.processes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.aread()
        platform, stage = self._platform, self._platform.stage
        if stage.dead or stage.processes != self._process:
            raise stage.crash()
        fault = platform.faults.get(platform.calls)
        platform.calls += 1
        if fault == "crash-before":
            raise stage.crash()
        if fault == "before":
            raise httpx2.ReadError("reset")
        if fault is not None and fault in REFUSALS:
            platform.sim.faults.add(dataclasses.replace(REFUSALS[fault]))
        url = httpx2.URL(request.url)
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, url.raw_path.decode(), url.path, dict(url.params), headers)
        answer = await platform.sim._respond(asked, request.content, 1)
        if fault == "crash-after":
            raise stage.crash()
        if fault == "after":
            raise httpx2.ReadError("reset")
        shown = {"content-type": answer.media_type, **answer.headers}
        return httpx2.Response(answer.status, headers=shown, content=answer.body, request=request)


class FeishuPlatform:
    """A tenant in which somebody has asked, as the suite wants it."""

    stage: Stage
    showing = True

    def __init__(self, clock: FakeClock) -> None:
        self.faults: Mapping[int, Fault] = {}
        self.calls = 0
        self.sim = FeishuSim(clock=clock)
        self.chat = self.sim.p2p()
        self.asked = self.sim.people.say(self.chat, "hello")
        self.channel = self
        self.name = "feishu.main"
        self._clock = clock
        self._processes: dict[int, FeishuChannel] = {}

    def surface(self, order: DeliveryOrder) -> FeishuSurface:
        """Where the turn is shown, by whatever process runs."""
        number = self.stage.processes
        if number not in self._processes:
            app = App(name="main", app_id=self.sim.app_id, app_secret=self.sim.app_secret,
                      base_url="http://127.0.0.1:1", language="en")  # fmt: skip
            made = self._processes[number] = FeishuChannel(app, clock=self._clock, transport=Line(self))
            # No turn here embeds an image.
            gateway: Any = SimpleNamespace(files=None)
            made._resources.gateway = gateway
        target = Target(self.chat, self.asked).encode()
        return self._processes[number].surface(msgspec.structs.replace(order, target=target))

    def idle(self) -> bool:
        return True

    async def close(self) -> None:
        """Ends what is still on its way."""
        for channel in self._processes.values():
            tasks = list(channel.wire._tasks)
            await channel.close()
            await asyncio.gather(*tasks, return_exceptions=True)

    def seen(self) -> Seen:
        said = self.sim.view(self.chat).from_bots
        return Seen(
            texts=[message.text for message in said if message.file is None],
            files=[message.file.name for message in said if message.file is not None],
            live=any(message.streaming for message in said),
            busy=self.sim.message(self.asked).reactions != [],
        )


class TestFeishu(SurfaceSuite):
    rounds = 30
    most_calls = 3
    faults = ("before", "after", "busy", "content", "crash-before", "crash-after")

    def platform(self, clock: FakeClock) -> FeishuPlatform:
        return FeishuPlatform(clock)

    async def close(self, platform: FeishuPlatform) -> None:
        await platform.close()


@pytest.mark.heavy
class TestFeishuThroughout(TestFeishu):
    most_calls = 100
