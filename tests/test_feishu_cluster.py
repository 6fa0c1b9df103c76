"""Two gateways over one PostgreSQL store that speak for the same app: either hears, runs, shows, stops, takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.asgi import Client
from tests.feishu_nodes import Cluster, cluster, until
from tests.feishu_rig import Told
from turnwire.channels.web.api import web_app
from turnwire.sim._feishu_events import Delivery
from turnwire.sim.feishu import Fault
from turnwire.turn import Turn

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

LONG_S = 600
"""A lease under which nothing is learned from its renewal within a test."""
Opened = Callable[..., AbstractAsyncContextManager[Cluster]]


class Echo:
    """An agent that says what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def agent(self, turn: Turn) -> AsyncIterator[Any]:
        self.asked.append(turn.text)
        yield f"About {turn.text}."


@pytest.fixture
def opened(postgres_url: str, tmp_path: Path) -> Opened:
    """Opens a cluster on a store of the test's own."""
    return lambda agent, **more: cluster(postgres_url, tmp_path, agent, **more)


@pytest.fixture(params=["relay", "no relay"])
def relayed(request: pytest.FixtureRequest) -> dict[str, Any]:
    """With a relay nothing needs the renewal of a lease to be learned."""
    if request.param == "no relay":
        return {}
    return {"relay__url": request.getfixturevalue("redis_url"), "turns__lease_s": LONG_S}


def shown(on: Cluster) -> str:
    """The text of the newest answer to Alice."""
    answers = on.answers()
    return answers[-1].text if answers else ""


async def test_what_runs_in_one_process_is_shown_by_another(opened: Opened, relayed: dict[str, Any]) -> None:
    told = Told()
    async with opened(told.agent, **relayed) as on:
        runner = on.nodes[0]
        await runner.leave_deliveries()
        calls = runner.transport.calls
        on.heard_by = 0
        asked = on.sim.people.say(on.sim.app_id, "hello")
        told.say("Hello ")
        await on.seen(lambda: "Hello" in shown(on))
        assert on.card.streaming
        told.say("there.")
        told.end()
        [row] = await on.settled()
        assert row.outcome == "shown"
        assert runner.transport.calls == calls
        assert (on.card.parent_id, on.card.streaming) == (asked, False)
        assert "Hello there." in on.card.text
        assert len(on.answers()) == 1
        assert on.sim.message(asked).reactions == []


async def test_a_delivery_is_taken_up_where_another_process_left_it(opened: Opened) -> None:
    told = Told()
    async with opened(told.agent) as on:
        on.heard_by = 0
        asked = on.sim.people.say(on.sim.app_id, "hello")
        told.say("One, ")
        await on.seen(lambda: "One," in shown(on))
        driver = next(node for node in on.nodes if node.gateway.couriers.busy)
        await driver.leave_deliveries()
        await on.lapse(driver)
        calls = driver.transport.calls
        told.say("two, ")
        await on.seen(lambda: "One, two," in shown(on))
        told.say("three.")
        told.end()
        [row] = await on.settled()
        assert row.outcome == "shown"
        assert driver.transport.calls == calls
        assert "One, two, three." in on.card.text
        assert not on.card.streaming
        assert len(on.answers()) == 1
        assert on.sim.message(asked).reactions == []


@pytest.mark.heavy
async def test_messages_to_both_processes_are_answered_once_each(opened: Opened) -> None:
    echo = Echo()
    async with opened(echo.agent) as on:
        # One after the other gets an event, so that both get the same one at once where it comes twice.
        on.sim.faults.add(Fault("event", "duplicate", nth=3, count=12))
        people = [f"ou_{number}" for number in range(5)]
        asked = {}
        for number in range(20):
            text = f"{number:03}"
            asked[on.sim.people.say(on.sim.app_id, text, user=people[number % 5])] = text
        await on.settled(20)
        assert len(on.sim.events.deliveries) == 32
        await until(lambda: all(event.state == "acked" for event in on.sim.events.deliveries))
        assert sorted(echo.asked) == sorted(asked.values())
        for person in people:
            chat = on.sim.p2p(person)
            answers = {message.parent_id: message for message in on.answers(chat)}
            mine = {message.message_id for message in on.view(chat).messages if not message.from_bot}
            assert len(on.answers(chat)) == len(mine) == 4
            assert answers.keys() == mine
            for own, answer in answers.items():
                assert f"About {asked[own]}." in answer.text
                assert answer.card is not None
                assert not answer.streaming


async def test_the_same_post_to_both_processes_is_one_answer(opened: Opened) -> None:
    echo = Echo()
    async with opened(echo.agent, mode="webhook") as on:
        clients = [Client(web_app(node.gateway)) for node in on.nodes]
        posts: list[asyncio.Task[Any]] = []

        def post(event: Delivery) -> None:
            posts.extend(asyncio.ensure_future(one.post("/webhooks/feishu/main", event.body)) for one in clients)
            on.sim.events.ack(event, ok=True)

        on.sim.events.attach(on.sim.app_id, post)
        asked = [on.sim.people.say(on.sim.app_id, f"{number:03}") for number in range(4)]
        await on.settled(4)
        assert [(await each).status for each in posts] == [200] * 8
        assert sorted(echo.asked) == [f"{number:03}" for number in range(4)]
        # Posts of different messages may overtake each other.
        assert sorted(message.parent_id for message in on.answers()) == sorted(asked)


async def test_a_process_that_dies_leaves_one_card_with_an_honest_end(opened: Opened) -> None:
    told = Told()
    async with opened(told.agent) as on:
        dying = on.nodes[0]
        on.heard_by = 0
        asked = on.sim.people.say(on.sim.app_id, "hello")
        waits = on.sim.people.say(on.sim.app_id, "and then?")
        told.say("Half a ")
        await on.seen(lambda: "Half a" in shown(on))
        await dying.die()
        await on.lapse(dying)
        told.say("All of it.")
        told.end()
        rows = await on.settled(2)
        assert [row.outcome for row in rows] == ["shown", "shown"]
        broken, whole = on.answers()
        assert (broken.parent_id, whole.parent_id) == (asked, waits)
        assert broken.text.startswith("Half a")
        assert "interrupted" in broken.text
        assert "All of it." in whole.text
        assert not broken.streaming
        assert not whole.streaming
        assert on.sim.message(asked).reactions == []


async def test_a_process_that_dies_while_it_sends_leaves_no_second_card(opened: Opened) -> None:
    told = Told()
    async with opened(told.agent, count=1) as on:
        [dying] = on.nodes
        on.sim.faults.add(Fault("reply", "timeout_after_applying"))
        asked = on.sim.people.say(on.sim.app_id, "hello")
        told.say("Half a ")
        await until(lambda: dying.transport.waiting == 1)
        assert on.card.streaming
        await on.join()
        await dying.die()
        await on.lapse(dying)
        [row] = await on.settled()
        assert row.outcome == "shown"
        assert (on.card.parent_id, on.card.streaming) == (asked, False)
        assert "Half a" in on.card.text
        assert "interrupted" in on.card.text
        assert len(on.answers()) == 1
        assert on.sim.message(asked).reactions == []


async def test_a_click_that_another_process_hears_stops_the_turn(opened: Opened, relayed: dict[str, Any]) -> None:
    told = Told()
    async with opened(told.agent, **relayed) as on:
        runner, _ = on.nodes
        on.heard_by = 0
        asked = on.sim.people.say(on.sim.app_id, "hello")
        told.say("On and on ")
        await on.seen(lambda: "On and on" in shown(on))
        assert len(runner.gateway.supervisor.live) == 1
        on.heard_by = 1
        click = on.sim.people.click(on.card.message_id)
        await on.settled()
        assert click.answer == {"toast": {"type": "info", "content": "Stopping…"}}
        assert "On and on" in on.card.text
        assert "stopped" in on.card.text
        assert not on.card.streaming
        assert len(on.answers()) == 1
        assert on.sim.message(asked).reactions == []
