"""What the doctor says of a Feishu app, on a simulated tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.http_server import nobody
from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.settings import App
from turnwire.clock import SystemClock
from turnwire.doctor import Finding, examine, lines
from turnwire.sim.feishu import Fault, FeishuSim

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sim() -> AsyncIterator[FeishuSim]:
    async with FeishuSim() as tenant:
        yield tenant


async def found(sim: FeishuSim, **app: Any) -> list[Finding]:
    settings = {"app_id": sim.app_id, "app_secret": sim.app_secret, "base_url": sim.base_url, **app}
    channel = FeishuChannel(App(name="main", **settings), clock=SystemClock())
    try:
        return [finding async for finding in channel.check()]
    finally:
        await channel.close()


async def doubts(sim: FeishuSim, **app: Any) -> list[tuple[str, str, str]]:
    return [(one.level, one.what, one.remedy) for one in await found(sim, **app) if one.level != "ok"]


async def test_an_app_that_is_set_up_has_no_doubts_and_nobody_sees_the_look(sim: FeishuSim) -> None:
    said = await found(sim)
    assert {one.level for one in said} == {"ok"}
    text = "\n".join(one.what for one in said)
    assert "the bot is called 'Sim bot'" in text
    assert "it may show answers as cards, send messages, read quoted" in text
    assert "the long connection opens" in text
    assert "im.message.receive_v1" in text
    assert [view.messages for view in (sim.view(sim.group), sim.view(sim.p2p()))] == [[], []]


async def test_looking_writes_no_trace(sim: FeishuSim, tmp_path: Path) -> None:
    assert await doubts(sim, trace=str(tmp_path / "traces")) == []
    assert list(tmp_path.iterdir()) == []


async def test_credentials_that_are_wrong_are_named_without_the_secret(sim: FeishuSim) -> None:
    [(level, what, remedy)] = await doubts(sim, app_secret="wrong-one")
    assert level == "problem"
    assert f"does not know app_id {sim.app_id} with this secret" in what
    assert "set base_url" in remedy
    assert "wrong-one" not in what + remedy


async def test_an_address_where_nobody_is_is_the_only_problem(sim: FeishuSim) -> None:
    with nobody() as port:
        [(level, what, remedy)] = await doubts(sim, base_url=f"http://127.0.0.1:{port}")
    assert level == "problem"
    assert "cannot be reached" in what
    assert "proxy" in remedy


async def test_an_app_without_a_bot_is_told_where_to_get_one(sim: FeishuSim) -> None:
    sim.faults.add(Fault("bot_info", "refuse", code=230006))
    [(level, what, remedy)] = await doubts(sim)
    assert (level, what) == ("problem", "main: the app has no bot: Bot ability is not activated. (230006)")
    assert "publish a version" in remedy


@pytest.mark.parametrize(
    ("missing", "level", "without"),
    [
        ("cardkit:card:write", "problem", "plain messages"),
        ("im:message:send_as_bot", "problem", "nothing can be answered"),
        ("im:message:readonly", "warning", "what people quote"),
        ("im:message.reactions:write_only", "warning", "until the answer begins"),
        ("im:resource", "warning", "files go neither way"),
    ],
)
async def test_each_missing_permission_is_named(sim: FeishuSim, missing: str, level: str, without: str) -> None:
    every = {"cardkit:card:write", "im:message:send_as_bot", "im:message:readonly", "im:message.reactions:write_only",
             "im:resource"}  # fmt: skip
    sim.tenant.apps[sim.app_id].scopes = every - {missing}
    [(is_level, what, remedy)] = await doubts(sim)
    assert is_level == level
    assert "(99991672)" in what
    assert without in what
    assert remedy == f"give the app the permission {missing} and publish a version of it"


async def test_a_platform_that_names_other_scopes_is_quoted(sim: FeishuSim) -> None:
    sim.faults.add(Fault("user", "refuse", code=99991672))
    [(level, what, remedy)] = await doubts(sim)
    assert level == "warning"
    assert "people's names" in what
    assert "contact:user.base:readonly" in remedy


async def test_a_call_that_is_not_answered_is_a_doubt_and_no_missing_permission(sim: FeishuSim) -> None:
    sim.faults.add(Fault("react", "bad_gateway"))
    [(level, what, _)] = await doubts(sim)
    assert level == "warning"
    assert "whether it may show that it is at work is not known" in what


async def test_an_app_that_gets_its_events_elsewhere_has_no_long_connection(sim: FeishuSim) -> None:
    sim.faults.add(Fault("endpoint", "refuse", code=403))
    [(level, what, remedy)] = await doubts(sim)
    assert level == "problem"
    assert "there is no long connection" in what
    assert "long connection" in remedy
    sim.faults.add(Fault("endpoint", "refuse", code=1000040350))
    assert [one[1] for one in await doubts(sim)] == ["main: the app has too many long connections"]


async def test_webhooks_need_an_address_and_should_be_signed(sim: FeishuSim) -> None:
    problem = await doubts(sim, mode="webhook", verification_token="vt")
    assert [one[0] for one in problem] == ["problem"]
    assert "public_url" in problem[0][1]
    said = await found(sim, mode="webhook", verification_token="vt", public_url="http://bot.example.com/")
    assert any("http://bot.example.com/webhooks/feishu/main" in one.what for one in said)
    assert [one.what for one in said if one.level == "warning"] == [
        "main: events come over plain http",
        "main: events come neither encrypted nor signed; only their token is checked",
    ]
    assert await doubts(sim, mode="webhook", encrypt_key="ek", public_url="https://bot.example.com") == []


async def test_the_command_looks_at_every_app(sim: FeishuSim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "turnwire.toml").write_text(
        '[server]\nport = 0\n[agent]\nuse = "demo"\n'
        + "".join(
            f'[channels.feishu.{name}]\napp_id = "{app_id}"\napp_secret = "{secret}"\nbase_url = "{sim.base_url}"\n'
            for name, app_id, secret in (("one", sim.app_id, sim.app_secret), ("two", "cli_no", "t0psecret"))
        )
    )
    said: list[str] = []
    assert not await examine(None, ask_agent=False, say=said.append)
    text = "\n".join(said)
    assert "one: the bot is called 'Sim bot'" in text
    assert "two: " in text
    assert "1 problem to solve" in text
    assert sim.app_secret not in text
    assert "t0psecret" not in text


def test_a_finding_of_an_app_stands_in_line() -> None:
    first, second = lines(Finding("ok", "feishu", "main: one\ntwo"))
    assert first.endswith("feishu  main: one")
    assert second == f"{'':17}two"
