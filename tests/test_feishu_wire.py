"""Calls of one app: tokens, answers that cannot be read, and what is said when nothing comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest

from tests.feishu_rig import Straight
from turnwire.channels.feishu.wire import PER_APP, PER_CARD, PER_CHAT, PER_MESSAGE, Wire
from turnwire.delivery.pacing import Limit, LocalPacer
from turnwire.sim.feishu import Fault, FeishuSim
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


def wire(sim: FeishuSim, clock: FakeClock, transport: httpx2.AsyncBaseTransport | None = None) -> Wire:
    return Wire(app_id=sim.app_id, app_secret=sim.app_secret, base_url="http://127.0.0.1:1", clock=clock,
                pacer=LocalPacer(clock), transport=transport or Straight(sim))  # fmt: skip


async def test_a_token_is_renewed_before_it_ends_and_once_for_all_who_wait(clock: FakeClock) -> None:
    sim = FeishuSim(clock=clock)
    calls = wire(sim, clock)
    for pause in (0.0, 6500.0, 200.0, 6500.0, 200.0):
        await clock.advance(pause)
        found = await asyncio.gather(*(calls.call("get", "GET", "/bot/v3/info") for _ in range(5)))
        assert [one.code for one in found] == [0] * 5
    assert sim.counts["token"] == 3
    assert {call.code for call in sim.calls} == {0}
    await calls.close()


async def test_a_token_that_is_never_taken_is_not_asked_for_without_end(clock: FakeClock) -> None:
    sim = FeishuSim(clock=clock)
    calls = wire(sim, clock)
    sim.faults.add(Fault("bot_info", "refuse", code=99991663, count=0))
    answer = await calls.call("get", "GET", "/bot/v3/info")
    assert (answer.receipt.kind, answer.receipt.cause) == ("refused", "busy")
    assert sim.counts["bot_info"] == 2
    await calls.close()


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("timeout_after_applying", "unknown"),
        ("reset_before_applying", "unknown"),
        ("bad_gateway", "unknown"),
        ("drop", "confirmed"),
    ],
)
async def test_what_nobody_knows_is_unknown(clock: FakeClock, kind: str, found: str) -> None:
    sim = FeishuSim(clock=clock)
    calls = wire(sim, clock)
    sim.faults.add(Fault("bot_info", kind))
    calling = asyncio.ensure_future(calls.call("get", "GET", "/bot/v3/info"))
    await clock.advance(20.0)
    answer = await calling
    assert answer.receipt.kind == found
    await calls.close()


def answering(answer: Callable[[httpx2.Request], httpx2.Response]) -> httpx2.MockTransport:
    def handle(request: httpx2.Request) -> httpx2.Response:
        if "tenant_access_token" in request.url.path:
            return httpx2.Response(200, json={"code": 0, "tenant_access_token": "t-1", "expire": 7200})
        return answer(request)

    return httpx2.MockTransport(handle)


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "cause"),
    [
        (200, b'{"code":0,"data":null}', {}, "confirmed", None),
        (400, b'{"code":230002,"msg":"x"}', {}, "refused", "barred"),
        (200, b'{"code":230002,"msg":"x"}', {}, "refused", "barred"),
        (429, b"slow down", {"x-ogw-ratelimit-reset": "7"}, "refused", "busy"),
        (502, b"<html>", {}, "unknown", None),
        (200, b"", {}, "unknown", None),
        (200, b'{"code":"0"}', {}, "unknown", None),
        (200, b"[" * 5000, {}, "unknown", None),
        (200, b"x" * 40, {"content-encoding": "gzip"}, "unknown", None),
    ],
)
async def test_the_code_decides_and_not_the_status(
    clock: FakeClock, status: int, body: bytes, headers: dict[str, str], kind: str, cause: str | None
) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, headers=headers, stream=httpx2.ByteStream(body))

    calls = wire(FeishuSim(clock=clock), clock, answering(answer))
    receipt = (await calls.call("send", "POST", "/im/v1/messages", {})).receipt
    assert (receipt.kind, receipt.cause) == (kind, cause)
    if cause == "busy":
        assert receipt.wait_s == 7.0
    await calls.close()


async def test_a_platform_that_was_not_reached_is_tried_again(clock: FakeClock) -> None:
    def answer(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no route to t-1")

    calls = wire(FeishuSim(clock=clock), clock, answering(answer))
    receipt = (await calls.call("send", "POST", "/im/v1/messages", {})).receipt
    assert (receipt.kind, receipt.cause) == ("refused", "busy")
    assert "t-1" not in receipt.reason
    await calls.close()


@pytest.mark.parametrize(("limit", "a_second"), [(PER_APP, 50), (PER_CARD, 10), (PER_CHAT, 5), (PER_MESSAGE, 5)])
def test_no_second_holds_more_calls_than_the_platform_takes(limit: Limit, a_second: int) -> None:
    assert limit.burst + limit.rate <= a_second
    assert PER_APP.burst + 60 * PER_APP.rate <= 1000
