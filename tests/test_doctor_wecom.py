"""What the doctor says of a WeCom bot, on a simulated platform."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http_server import nobody
from tests.servers import Databases
from turnwire.channels.wecom.channel import WecomChannel
from turnwire.channels.wecom.settings import Bot
from turnwire.clock import SystemClock
from turnwire.doctor import Finding, examine
from turnwire.doctor_store import holder_in
from turnwire.sim.wecom import Fault, WecomSim
from turnwire.store import StoreError, open_database
from turnwire.store.queries.leases import give_lease, take_lease
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

WEBHOOK = {"mode": "webhook", "token": "tok", "aes_key": "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"}


@pytest.fixture
async def sim() -> AsyncIterator[WecomSim]:
    async with WecomSim() as platform:
        yield platform


def channel_of(sim: WecomSim, clock: Any = None, **bot: Any) -> WecomChannel:
    settings = {"bot_id": sim.bot_id, "secret": sim.secret, "url": sim.ws_url, **bot}
    return WecomChannel(Bot(name="main", **settings), clock=clock or SystemClock())


async def found(sim: WecomSim, clock: Any = None, **bot: Any) -> list[Finding]:
    return [finding async for finding in channel_of(sim, clock, **bot).check()]


async def doubts(sim: WecomSim, **bot: Any) -> list[tuple[str, str, str]]:
    return [(one.level, one.what, one.remedy) for one in await found(sim, **bot) if one.level != "ok"]


async def test_a_bot_that_is_set_up_has_no_doubts_and_nobody_sees_the_look(sim: WecomSim) -> None:
    said = await found(sim)
    assert {one.level for one in said} == {"ok"}
    text = "\n".join(one.what for one in said)
    assert f"{sim.ws_url} takes bot_id {sim.bot_id} and its secret" in text
    assert "who may use the bot" in text
    assert sim.secret not in text
    assert [view.messages for view in (sim.view("alice"), sim.view(sim.group))] == [[], []]
    assert [call.op for call in sim.calls] == ["subscribe"]
    await sim.until(lambda: not sim.sockets.subscribed(sim.bot_id))


async def test_a_secret_that_is_wrong_is_named_without_being_shown(sim: WecomSim) -> None:
    [(level, what, remedy)] = await doubts(sim, secret="wrong-one")
    assert level == "problem"
    assert f"does not take bot_id {sim.bot_id} with this secret (853000)" in what
    assert "callback URL" in remedy
    assert "wrong-one" not in what + remedy


async def test_looking_writes_no_trace(sim: WecomSim, tmp_path: Path) -> None:
    assert await doubts(sim, trace=str(tmp_path / "traces")) == []
    assert list(tmp_path.iterdir()) == []


async def test_an_address_where_nobody_is_is_the_only_problem(sim: WecomSim) -> None:
    with nobody() as port:
        [(level, what, remedy)] = await doubts(sim, url=f"ws://127.0.0.1:{port}")
    assert level == "problem"
    assert f"ws://127.0.0.1:{port} cannot be reached" in what
    assert "proxy" in remedy


@pytest.mark.parametrize("kind", ["reset_before_applying", "close_before_applying"])
async def test_a_platform_that_hangs_up_is_a_problem(sim: WecomSim, kind: str) -> None:
    sim.faults.add(Fault("subscribe", kind))
    [(level, what, remedy)] = await doubts(sim)
    assert level == "problem"
    assert "closed the connection instead of answering" in what
    assert "ws_url" in remedy


async def test_a_refusal_is_told_in_words_also_when_it_does_not_say_what_it_answers(sim: WecomSim) -> None:
    sim.faults.add(Fault("subscribe", "refuse", code=45009))
    [(level, what, _)] = await doubts(sim)
    assert (level, what) == ("problem", "main: the platform refused the connection: too many messages (45009)")
    sim.faults.add(Fault("subscribe", "orphan", code=45009))
    assert [one[1] for one in await doubts(sim)] == [what]


async def test_a_platform_that_says_nothing_is_waited_for_ten_seconds() -> None:
    clock = FakeClock(rounds=30)
    async with WecomSim(clock=clock) as sim:
        sim.faults.add(Fault("subscribe", "lost"))
        looking = asyncio.create_task(found(sim, clock))
        await clock.until(lambda: bool(sim.calls))
        await clock.advance(9.9)
        assert not looking.done()
        await clock.advance(0.2)
        await clock.until(looking.done)
        [finding] = looking.result()
    assert finding.level == "problem"
    assert "did not answer within 10 s" in finding.what


async def test_a_bot_that_a_gateway_has_is_not_taken_from_it(sim: WecomSim, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    database = await open_database(url)
    epoch = await database.run(take_lease, f"wecom:{sim.bot_id}", "host:7:x", 60.0, alone=True)
    assert epoch is not None
    said = [one async for one in channel_of(sim, secret="wrong-one").check(holder_in(url))]
    assert {one.level for one in said} == {"ok"}
    assert "the gateway host:7:x has the bot" in said[0].what
    assert sim.calls == []
    assert sim.connections == 0
    await database.run(give_lease, f"wecom:{sim.bot_id}", epoch)
    said = [one async for one in channel_of(sim, secret="wrong-one").check(holder_in(url))]
    assert [one.level for one in said] == ["problem"]
    await database.close()


async def test_without_knowing_who_has_the_bot_nothing_is_tried(sim: WecomSim) -> None:
    async def unknown(lease: str) -> str | None:
        raise StoreError("the disk is away")

    [finding] = [one async for one in channel_of(sim).check(unknown)]
    assert finding.level == "warning"
    assert "the disk is away" in finding.what
    assert sim.connections == 0


async def test_asking_who_has_a_bot_makes_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    assert await holder_in(url)("wecom:b") is None
    assert list(tmp_path.iterdir()) == []
    database = await open_database(url)
    await database.run(take_lease, "wecom:b", "me", 60.0, alone=True)
    await database.close()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert await holder_in(url)("wecom:b") == "me"
    assert await holder_in(url)("wecom:c") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "t.db").write_bytes(b"no database at all, but some text that is long enough")
    with pytest.raises(StoreError, match="cannot be read"):
        await holder_in(url)("wecom:b")


@pytest.fixture
def bare_postgres_url(postgres_databases: Databases) -> Iterator[str]:
    with postgres_databases.copy_of("template1") as url:
        yield url


async def test_a_store_of_many_processes_is_asked_too(postgres_url: str, bare_postgres_url: str) -> None:
    assert await holder_in(bare_postgres_url)("wecom:b") is None
    assert await holder_in(postgres_url)("wecom:b") is None
    database = await open_database(postgres_url)
    await database.run(take_lease, "wecom:b", "me", 60.0, alone=False)
    await database.close()
    assert await holder_in(postgres_url)("wecom:b") == "me"
    assert await holder_in(postgres_url)("wecom:c") is None
    with nobody() as port, pytest.raises(StoreError, match="cannot be asked"):
        await holder_in(f"postgresql://nobody:s3cret@127.0.0.1:{port}/db")("wecom:b")


async def test_webhooks_need_a_whole_key_and_an_address(sim: WecomSim) -> None:
    assert await doubts(sim, **{**WEBHOOK, "aes_key": "short"}) == [
        ("problem", "main: encoding_aes_key: the AES key has not 43 letters and digits",
         "copy it from the bot's page again"),
    ]  # fmt: skip
    assert [one[1] for one in await doubts(sim, **{**WEBHOOK, "token": ""})] == ["main: there is no token"]
    [(level, what, remedy)] = await doubts(sim, **WEBHOOK)
    assert level == "problem"
    assert "public_url" in what
    assert "websocket" in remedy
    said = await found(sim, **WEBHOOK, public_url="http://bot.example.com/", link_key="l")
    assert any(one.what.endswith(": http://bot.example.com/webhooks/wecom/main") for one in said)
    assert [one.what for one in said if one.level == "warning"] == [
        "main: messages come over plain http: they are sealed, but links to files are not"
    ]
    assert await doubts(sim, **WEBHOOK, public_url="https://bot.example.com") == []
    assert sim.connections == 0


async def test_the_command_looks_at_every_bot(sim: WecomSim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turnwire.toml").write_text(
        '[server]\nport = 0\n[agent]\nuse = "demo"\n'
        + "".join(
            f'[channels.wecom.{name}]\nbot_id = "{bot_id}"\nsecret = "{secret}"\nws_url = "{sim.ws_url}"\n'
            for name, bot_id, secret in (("one", sim.bot_id, sim.secret), ("two", "nobody", "t0psecret"))
        )
    )
    database = await open_database(f"sqlite:///{tmp_path}/turnwire.db")
    said: list[str] = []
    assert not await examine(None, ask_agent=False, say=said.append)
    text = "\n".join(said)
    assert f"one: {sim.ws_url} takes bot_id {sim.bot_id}" in text
    assert "two: the platform does not take bot_id nobody" in text
    assert sim.secret not in text
    assert "t0psecret" not in text
    await database.run(take_lease, f"wecom:{sim.bot_id}", "host:7:x", 60.0, alone=True)
    said.clear()
    assert not await examine(None, ask_agent=False, say=said.append)
    assert "one: the gateway host:7:x has the bot" in "\n".join(said)
    await database.close()
