"""Faults of the simulated tenant: what a client learns, and what people see nevertheless."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.feishu_calls import Calls, calling, card, markdown
from turnwire.sim.faults import Faults
from turnwire.sim.feishu import KINDS, OPS, Fault, UnknownFault

pytestmark = pytest.mark.anyio


# Which call


def _drawn(faults: Faults, *ops: str) -> str:
    return "".join("x" if faults.draw(op) else "." for op in ops)


def test_a_fault_concerns_the_calls_that_it_names() -> None:
    faults = Faults(["bad"])
    faults.add(Fault("content", "bad", nth=3, count=2))
    assert _drawn(faults, *["content"] * 6) == "..xx.."
    faults.add(Fault("*_element", "bad"))
    assert _drawn(faults, "content", "patch_element", "delete_element") == ".x."
    faults.add(Fault("*", "bad", count=0))
    assert _drawn(faults, *["content"] * 5) == "xxxxx"
    faults.clear()
    faults.add(Fault("content", "bad", target="card1"))
    assert faults.draw("content", "card2") is None
    assert faults.draw("content", "card1", "chat") is not None
    assert faults.pending == []


def test_the_first_of_several_faults_is_met_and_all_count_the_call() -> None:
    faults = Faults(["one", "two"])
    faults.add(Fault("a", "one", nth=2), Fault("a", "two", count=2))
    assert [fault.kind if (fault := faults.draw("a")) else "" for _ in range(3)] == ["two", "one", ""]


def test_the_same_seed_draws_the_same_faults() -> None:
    def run(seed: int) -> str:
        faults = Faults(["bad"], seed=seed)
        faults.add(Fault("*", "bad", count=0, probability=0.5))
        return _drawn(faults, *["content"] * 64)

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert 16 < run(1).count("x") < 48
    faults = Faults(["bad"], seed=3)
    faults.add(Fault("*", "bad", count=0, probability=0.5))
    faults.draw("content")
    faults.reseed(1)
    assert _drawn(faults, *["content"] * 64) == run(1)


def test_faults_that_are_none_are_refused() -> None:
    faults = Faults(["bad"])
    with pytest.raises(UnknownFault, match="there is no fault 'worse'; there are bad"):
        faults.add(Fault("a", "bad"), Fault("a", "worse"))
    for wrong in ({"nth": 0}, {"count": -1}, {"probability": 2}):
        with pytest.raises(ValueError, match="nth is 1 or more"):
            faults.add(Fault("a", "bad", **wrong))  # type: ignore[arg-type]
    assert faults.pending == []


# What happens


async def _lost(calls: Calls, card_id: str, text: str) -> bool:
    """Whether a call gets no answer: the connection is reset, or the client gives up once the call has come."""
    came = calls.sim.observer.count
    asking = asyncio.create_task(calls.content(card_id, text))
    await calls.clock.until(lambda: calls.sim.observer.count > came or asking.done())
    while not asking.done() and not calls.sim.calls[-1].fault:
        await asyncio.sleep(0)
    await calls.clock.settle()
    if not asking.done() and calls.sim.calls[-1].fault.startswith("timeout"):
        asking.cancel()
    result = (await asyncio.gather(asking, return_exceptions=True))[0]
    return isinstance(result, httpx2.HTTPError | asyncio.CancelledError)


@pytest.mark.parametrize("kind", ["timeout", "reset"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_call_without_an_answer_is_applied_or_is_not(kind: str, when: str) -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("content", f"{kind}_{when}_applying"))
        assert await _lost(calls, card_id, "new")
        assert calls.sim.message(message_id).text == ("new" if when == "after" else "...")
        call = calls.sim.calls[-1]
        assert (call.applied, call.status, call.code) == (when == "after", 0, -1)
        assert (await calls.content(card_id, "newer")).code == 0


async def test_an_ambiguous_send_is_settled_by_its_uuid() -> None:
    async with calling() as calls:
        card_id = (await calls.create(card())).data["card_id"]
        calls.sim.faults.add(Fault("send", "reset_after_applying"))
        with pytest.raises(httpx2.HTTPError):
            await calls.send_card(card_id, uuid="u1")
        sent = await calls.send_card(card_id, uuid="u1")
        assert [each.message_id for each in calls.sim.view(calls.sim.group).from_bots] == [sent.data["message_id"]]


REFUSALS: list[tuple[Any, int, int, str]] = [
    ({"kind": "refuse", "code": 300309}, 400, 300309, "..."),
    ({"kind": "refuse", "code": 2200}, 400, 2200, "..."),
    ({"kind": "refuse"}, 400, 2200, "..."),
    ({"kind": "refuse", "code": 99991663}, 400, 99991663, "..."),
    ({"kind": "refuse", "code": 99991400, "seconds": 52}, 429, 99991400, "..."),
    ({"kind": "refuse_after_applying", "code": 300317}, 400, 300317, "new"),
    ({"kind": "refuse_after_applying", "code": 300120}, 400, 300120, "new"),
    ({"kind": "drop"}, 200, 0, "..."),
    ({"kind": "close_stream"}, 400, 300309, "..."),
    ({"kind": "time_out_stream"}, 400, 200850, "..."),
    ({"kind": "lock", "seconds": 2}, 400, 200810, "..."),
    ({"kind": "expire_token"}, 400, 99991663, "..."),
]


@pytest.mark.parametrize("said", REFUSALS, ids=lambda said: f"{said[0]['kind']}-{said[2]}")
async def test_what_a_client_is_told_and_what_is_seen(said: tuple[Any, int, int, str]) -> None:
    fault, status, code, text = said
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("content", **fault))
        got = await calls.content(card_id, "new")
        assert (got.status, got.code) == (status, code)
        assert got.headers.get("x-ogw-ratelimit-reset") == ("52" if status == 429 else None)
        assert calls.sim.message(message_id).text == text
        assert calls.sim.calls[-1].fault == fault["kind"]


@pytest.mark.parametrize(("kind", "code"), [("recall", 230011), ("delete", 230110)])
async def test_a_message_vanishes_in_the_middle(kind: str, code: int) -> None:
    async with calling() as calls:
        message_id = (await calls.send("interactive", card())).data["message_id"]
        calls.sim.faults.add(Fault("patch", kind, target=message_id))
        body = {"content": '{"schema": "2.0", "body": {"elements": []}}'}
        assert [(await calls("PATCH", f"/im/v1/messages/{message_id}", body)).code for _ in range(2)] == [code] * 2
        assert calls.sim.view(calls.sim.group).from_bots == []
        assert len(calls.sim.hopeless) == 1
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("content", kind))
        assert (await calls.content(card_id, "x")).code == code
        assert calls.sim.view(calls.sim.group).from_bots == []


@pytest.mark.parametrize("when", ["", "_after_applying"])
async def test_a_gateway_answers_with_a_page_of_html(when: str) -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("content", f"bad_gateway{when}"))
        path = f"/open-apis/cardkit/v1/cards/{card_id}/elements/md/content"
        answer = await calls.http.put(path, json={"content": "new", "sequence": 1})
        assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html")
        assert calls.sim.message(message_id).text == ("new" if when else "...")


@pytest.mark.parametrize(("kind", "early"), [("slow", "..."), ("slow_answer", "new")])
async def test_calls_take_their_time(kind: str, early: str) -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("content", kind, seconds=5))
        asking = asyncio.create_task(calls.content(card_id, "new"))
        await calls.clock.until(lambda: calls.clock.pending == 1)
        assert calls.sim.message(message_id).text == early
        await calls.clock.advance(5)
        assert (await asking).code == 0
        assert calls.sim.message(message_id).text == "new"


async def test_calls_about_one_card_at_the_same_time_are_seen() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.switches.latency = 0.12
        both = asyncio.gather(calls.content(card_id, "one"), calls.content(card_id, "two"))
        await calls.clock.until(lambda: calls.clock.pending == 2)
        assert calls.sim.message(message_id).text == "..."
        await calls.clock.advance(0.06)
        assert calls.sim.message(message_id).text in ("one", "two")
        await _in_time(calls, both)
        texts = [call for call in calls.sim.calls if call.op == "content"]
        assert [call.overlapping for call in texts] == [0, 1]
        assert [round((call.ended_at or 0) - call.at, 6) for call in texts] == [0.12, 0.12]
        calls.sim.faults.add(Fault("content", "reset_before_applying"))
        for ends in (httpx2.HTTPError, type(None)):
            asking = asyncio.create_task(calls.content(card_id, "three"))
            await _in_time(calls, asking)
            assert isinstance(asking.exception(), ends)
        assert [call.overlapping for call in calls.sim.calls][-2:] == [0, 0]


async def test_a_call_is_applied_though_its_client_has_left() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("content", "slow", seconds=20))
        asking = asyncio.create_task(calls.content(card_id, "late"))
        await calls.clock.until(lambda: calls.clock.pending == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await calls.clock.until(lambda: calls.sim.open_connections == 0)
        assert (await calls.settings(card_id, {"summary": {"content": "Meanwhile"}}, sequence=1)).code == 0
        assert calls.sim.calls[-1].overlapping == 1
        assert calls.sim.message(message_id).text == "..."
        await calls.clock.advance(20)
        assert calls.sim.calls[-2].code == 300317
        calls.sim.faults.add(Fault("content", "slow", seconds=20))
        asking = asyncio.create_task(calls.content(card_id, "later", sequence=9))
        await calls.clock.until(lambda: calls.clock.pending == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await calls.clock.advance(20)
        assert calls.sim.message(message_id).text == "later"
        calls.sim.faults.add(Fault("content", "slow", seconds=20))
        asking = asyncio.create_task(calls.content(card_id, "never", sequence=10))
        await calls.clock.until(lambda: calls.clock.pending == 1)
        await calls.sim.stop()
        assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], httpx2.HTTPError)
        assert (calls.clock.pending, calls.sim.calls[-1].ended_at is not None) == (0, True)


async def _in_time(calls: Calls, work: asyncio.Future[Any]) -> None:
    """Lets time pass until `work` is done."""
    while not work.done():
        await calls.clock.until(lambda: work.done() or calls.clock.pending > 0)
        await calls.clock.advance(0.06)


async def test_what_one_call_makes_may_lag() -> None:
    async with calling() as calls:
        calls.sim.faults.add(Fault("create", "lag", seconds=0.3))
        card_id = (await calls.create(card())).data["card_id"]
        assert (await calls.send_card(card_id)).code == 230099
        await calls.clock.advance(0.3)
        assert (await calls.send_card(card_id)).code == 0
        assert calls.sim.switches.replica_lag == 0


async def test_a_final_card_may_be_refused_for_its_tables() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        calls.sim.faults.add(Fault("update", "refuse", code=230099))
        refused = await calls.update(card_id, card(markdown("final")))
        assert "ErrCode: 11310; ErrMsg: card table number over limit; ErrorValue: table; " in refused.msg
        assert (await calls.update(card_id, card(markdown("final")))).code == 0
        assert calls.sim.message(message_id).text == "final"


async def test_the_simulator_says_what_was_called() -> None:
    async with calling() as calls:
        card_id, _ = await calls.streaming()
        await calls.content(card_id, "x")
        await calls.content(card_id, "y", "none")
        assert calls.sim.counts == {"token": 1, "create": 1, "send": 1, "content": 2}
        last = calls.sim.calls[-1]
        assert (last.op, last.target, last.code, last.applied) == ("content", card_id, 300313, False)
        assert last.body == {"content": "y", "sequence": 2}
        assert calls.sim.calls[0].body == {}
        assert (calls.sim.connections, calls.sim.open_connections) == (1, 1)
        waiting = asyncio.create_task(calls.sim.wait_calls(3, "content"))
        await calls.content(card_id, "z")
        await waiting
        calls.sim.clear()
        assert calls.sim.calls == []
        assert {"content", "token", "event", "socket", "endpoint"} <= set(OPS)
        assert all(text.endswith(".") for text in KINDS.values())
