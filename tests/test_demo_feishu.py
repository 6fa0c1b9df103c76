"""The demo's simulated Feishu chat, and the simulator as a command: what a person without a tenant tries."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.load import channels_of
from turnwire.cli import app
from turnwire.clock import SystemClock
from turnwire.config import load_config
from turnwire.delivery.pacing import LocalPacer
from turnwire.demo import TENANT, simulated
from turnwire.sim.feishu_trial import trial_tenant

pytestmark = pytest.mark.anyio

OWN = {"app_id": "cli_own", "app_secret": "s", "base_url": "http://127.0.0.1:1"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TURNWIRE_") and "__" in name]:
        monkeypatch.delenv(name)
    return tmp_path


async def test_the_demo_has_an_app_on_a_tenant_that_is_there_as_long_as_it_runs(folder: Path) -> None:
    async with simulated(load_config(env={}, overrides={"channels": {"feishu": {"other": OWN}}})) as (config, chat):
        assert set(config.channels.feishu) == {"other", TENANT}
        assert "/_sim/#oc_" in chat
        found = {channel.name: channel for channel in channels_of(config, SystemClock(), LocalPacer(SystemClock()))}
        channel = found[f"feishu.{TENANT}"]
        assert isinstance(channel, FeishuChannel)
        assert {finding.level async for finding in channel.check()} == {"ok"}
        await channel.close()
        async with httpx2.AsyncClient(trust_env=False) as http:
            base, _, chosen = chat.partition("/_sim/#")
            page = (await http.get(f"{base}/_sim/page.json", params={"chat": chosen})).json()
        assert (page["chosen"], page["writer"]["name"]) == (chosen, "Alice")
    async with httpx2.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get(f"{base}/_sim/")


async def test_an_app_of_that_name_is_used_instead(folder: Path) -> None:
    own = load_config(env={}, overrides={"channels": {"feishu": {TENANT: OWN}}})
    async with simulated(own) as (config, chat):
        assert config is own
        assert chat == ""


def test_two_trials_have_no_id_in_common() -> None:
    ids = set[str]()
    for _ in range(2):
        sim, chat = trial_tenant()
        own = {chat, *(sim.people.say(chat, "hello") for _ in range(5))}
        assert not ids & own
        ids |= own
        sim.events.close()


@contextlib.contextmanager
def process(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    with (cwd / "stderr.txt").open("a") as errors:
        started = subprocess.Popen(
            [sys.executable, "-m", "turnwire.cli", *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "TURNWIRE_AGENT__USE": "demo"},
        )
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def _line(started: subprocess.Popen[str], begins: str) -> str:
    assert started.stdout is not None
    return next(line for line in started.stdout if line.startswith(begins)).strip().removeprefix(begins)


async def _messages(http: httpx2.AsyncClient, base: str, chat: str) -> list[dict[str, Any]]:
    chats = (await http.get(f"{base}/_sim/view.json")).json()["chats"]
    return next(each["messages"] for each in chats if each["chat_id"] == chat)


async def _answers(http: httpx2.AsyncClient, base: str, chat: str) -> AsyncIterator[dict[str, Any]]:
    """The bot's cards in the chat, looked at again and again."""
    while True:
        for message in await _messages(http, base, chat):
            if message["from_bot"] and message["card"] is not None:
                yield message


@pytest.mark.process
async def test_a_person_writes_to_the_demo_in_its_chat(folder: Path) -> None:
    with process("demo", "--port", "0", cwd=folder) as demo:
        base, _, chat = (await asyncio.to_thread(_line, demo, "Feishu, simulated: ")).partition("/_sim/#")
        async with httpx2.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
            said = {"chat_id": chat, "text": "/help"}
            assert (await http.post(f"{base}/_sim/say", json=said)).status_code == 200
            async for answer in _answers(http, base, chat):
                if not answer["card"]["streaming"]:
                    break
            assert len(await _messages(http, base, chat)) == 2
        assert "`/stop` ends the running answer" in answer["text"]
        demo.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(demo.wait, 30) == 0
    assert "Traceback" not in (folder / "stderr.txt").read_text()


@pytest.mark.process
async def test_the_simulator_says_how_it_is_reached_and_never_repeats_an_id(folder: Path) -> None:
    ids = set[str]()
    for _ in range(2):
        with process("sim", "feishu", "--port", "0", "--app-id", "cli_mine", "--secret", "mine", cwd=folder) as sim:
            base = await asyncio.to_thread(_line, sim, "ready ")
            assert f"{base}/_sim/   app_id: cli_mine   app_secret: mine" in _line(sim, "chats: ")
            async with httpx2.AsyncClient(trust_env=False) as http:
                body = {"app_id": "cli_mine", "app_secret": "mine"}
                path = "/open-apis/auth/v3/tenant_access_token/internal"
                assert (await http.post(f"{base}{path}", json=body)).json()["code"] == 0
                told = (await http.post(f"{base}/_sim/say", json={"text": "hello"})).json()
            assert told["message_id"] not in ids
            ids.add(told["message_id"])
            sim.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(sim.wait, 30) == 0


def test_a_simulator_that_cannot_begin_says_why(folder: Path) -> None:
    result = CliRunner().invoke(app, ["sim", "feishu", "--time-scale", "0"])
    assert result.exit_code == 2
    assert "--time-scale" in result.stderr
