"""The demo's simulated WeCom chat, and the simulator as a command: what a person without a tenant tries."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.test_demo_feishu import _line, folder, process
from turnwire.channels.load import channels_of
from turnwire.channels.wecom.channel import WecomChannel
from turnwire.clock import SystemClock
from turnwire.config import load_config
from turnwire.delivery.pacing import LocalPacer
from turnwire.demo import TENANT, simulated_bot
from turnwire.sim.wecom_trial import trial_platform

__all__ = ["folder"]

pytestmark = pytest.mark.anyio

OWN = {"bot_id": "own", "secret": "s", "ws_url": "ws://127.0.0.1:1"}


async def test_the_demo_has_a_bot_on_a_platform_that_is_there_as_long_as_it_runs(folder: Path) -> None:
    async with simulated_bot(load_config(env={}, overrides={"channels": {"wecom": {"other": OWN}}})) as (config, chat):
        assert set(config.channels.wecom) == {"other", TENANT}
        found = {channel.name: channel for channel in channels_of(config, SystemClock(), LocalPacer(SystemClock()))}
        channel = found[f"wecom.{TENANT}"]
        assert isinstance(channel, WecomChannel)
        assert {finding.level async for finding in channel.check()} == {"ok"}
        async with httpx2.AsyncClient(trust_env=False) as http:
            base, _, chosen = chat.partition("/_sim/#")
            page = (await http.get(f"{base}/_sim/page.json", params={"chat": chosen})).json()
        assert (page["chosen"], page["writer"]["name"]) == (chosen, "Alice")
    async with httpx2.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get(f"{base}/_sim/")


async def test_a_bot_of_that_name_is_used_instead(folder: Path) -> None:
    own = load_config(env={}, overrides={"channels": {"wecom": {TENANT: OWN}}})
    async with simulated_bot(own) as (config, chat):
        assert config is own
        assert chat == ""


def test_two_trials_have_no_id_in_common() -> None:
    ids = set[str]()
    for _ in range(2):
        sim, chat = trial_platform()
        own = {chat, sim.bot_id, *sim.platform.chats}
        for _ in range(5):
            told = sim.people.say(chat, "hello", user=sim.platform.chats[chat].members[0])
            assert told is not None
            own |= {told.req_id, told.body["msgid"], told.body["from"]["userid"]}
        assert not ids & own
        ids |= own


async def _answers(http: httpx2.AsyncClient, base: str, chat: str) -> list[dict[str, Any]]:
    chats = (await http.get(f"{base}/_sim/view.json")).json()["chats"]
    return [each for one in chats if one["chat_id"] == chat for each in one["messages"] if each["from_bot"]]


@pytest.mark.process
async def test_a_person_writes_to_the_demo_in_its_chat(folder: Path) -> None:
    with process("demo", "--port", "0", cwd=folder) as demo:
        base, _, chat = (await asyncio.to_thread(_line, demo, "WeCom, simulated: ")).partition("/_sim/#")
        async with httpx2.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
            said = {"chat_id": chat, "text": "/help", "user": chat.partition("@")[0]}
            assert (await http.post(f"{base}/_sim/say", json=said)).status_code == 200
            answers: list[dict[str, Any]] = []
            while not any(answer["state"] == "finished" for answer in answers):
                answers = await _answers(http, base, chat)
        assert "`/stop` ends the running answer" in answers[-1]["text"]
        demo.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(demo.wait, 30) == 0
    assert "Traceback" not in (folder / "stderr.txt").read_text()
