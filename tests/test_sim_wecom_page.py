"""The simulated WeCom as people and other processes use it: its page, its own routes, its process."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from tests.wecom_bots import PNG, Bot, card, http, talking
from turnwire.sim._clock import JumpingClock
from turnwire.sim.wecom import WecomSim

pytestmark = pytest.mark.anyio

EVIL = "<script>alert(1)</script>"


async def _page(bot: Bot, chat: str = "") -> Any:
    async with http(bot.sim) as client:
        return (await client.get("/_sim/page.json", params={"chat": chat})).json()


async def _post(bot: Bot, what: str, **body: Any) -> Any:
    async with http(bot.sim) as client:
        answer = await client.post(f"/_sim/{what}", json=body)
        return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"]["message"])


async def test_the_page_shows_bubbles_and_runs_nothing_of_them() -> None:
    async with talking() as bot:
        async with http(bot.sim) as client:
            answer = await client.get("/_sim/")
        assert "<title>WeCom simulator</title>" in answer.text
        assert "Feishu" not in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        asked = await bot.asked(EVIL)
        await bot.stream(asked, f"<think>{EVIL}</think>**bold** {EVIL}\n\n| a |\n|---|\n| b |", feedback={"id": "f"})
        evil = {**card("t", "go"), "main_title": {"title": EVIL}, "button_list": [{"text": EVIL, "key": '"x'}]}
        await bot.reply(asked, "template_card", **evil)
        await bot.push("alice", content=EVIL)
        media = await bot.upload(b"12345", name=f"{EVIL}.txt")
        await bot.push("alice", "file", media_id=media)
        page = await _page(bot)
        html = [each["html"] for each in page["messages"]]
        assert not any("<script" in each for each in html)
        assert "<strong>bold</strong>" in html[1]
        assert '<div class="wide"><table>' in html[1]
        assert "generating…" in html[1]
        assert 'data-button="feedback:good"' in html[1]
        assert 'data-button="&quot;x"' in html[2]
        assert "5 B" in html[4]
        assert [each["name"] for each in page["chats"]] == ["Alice · Sim bot", "Sim group"]
        assert (page["chosen"], page["writer"]["id"]) == ("alice@bot_sim", "alice")


async def test_the_page_says_what_nobody_sees_and_what_never_ends() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        await bot.stream(asked, "so far")
        await bot.stream(asked, "", finish=True)
        media = await bot.upload(PNG, "image", "a.png")
        await bot.reply(asked, "image", media_id=media)
        page = await _page(bot, "alice@bot_sim")
        assert "thinking…" in page["messages"][1]["html"]
        assert "never shown to anybody" in page["messages"][2]["html"]
        assert 'class="picture vanished"' in page["messages"][2]["html"]
        later = await bot.asked("again")
        await bot.stream(later, "slow")
        bot.sim.switches.stream_life = 0
        assert "its time is over" in (await _page(bot))["messages"][-1]["html"]
        async with http(bot.sim) as client:
            got = await client.get(f"/_sim/files/{media}")
        assert (got.content, got.headers["content-type"]) == (PNG, "image/png")


async def test_another_process_can_do_what_a_test_can() -> None:
    async with talking() as bot:
        told = await _post(bot, "say", text="hi")
        frame = await bot.told.get()
        assert (frame["headers"]["req_id"], frame["body"]["msgid"]) == (told["req_id"], told["msgid"])
        await bot.stream(told["req_id"], "answer", feedback={"id": "f"})
        await bot.reply(told["req_id"], "template_card", **card())
        _, answer, shown = bot.sim.view("alice").messages
        data = base64.b64encode(PNG).decode()
        for what, body in [
            ("file", {"name": "a.png", "data": data, "kind": "image"}),
            ("mixed", {"text": "look", "data": data}),
            ("voice", {"text": "spoken"}),
            ("enter", {}),
            ("click", {"message_id": shown.message_id, "button": "stop"}),
            ("click", {"message_id": answer.message_id, "button": "feedback:bad"}),
            ("feedback", {"message_id": answer.message_id, "judged": "good"}),
            ("say", {"chat_id": bot.sim.group, "text": "all", "user": "bob", "quote": answer.message_id}),
        ]:
            req_id = (await _post(bot, what, **body))["req_id"]
            assert (await bot.told.get())["headers"]["req_id"] == req_id, what
        assert await _post(bot, "say", chat_id=bot.sim.group, text="x", mention=False) == {"msgid": "", "req_id": ""}
        assert bot.sim.message(answer.message_id).feedback == "good"
        assert (await _post(bot, "person", user="carol", name="Carol"))["chat_id"] == "carol@bot_sim"
        await _post(bot, "bot", bot_id="bot_two", secret="two")
        made = await _post(bot, "group", chat_id="wr_two", name="Two", members=["carol"], bots=["bot_two"])
        assert bot.sim.view(made["chat_id"]).name == "Two"
        assert (await _post(bot, "switches", switches={"stream_life": 360, "race": "queue"}))["stream_life"] == 360
        assert bot.sim.switches.race == "queue"
        await _post(bot, "faults", faults=[{"op": "push", "kind": "refuse", "code": 40201}])
        assert await bot.push("alice", content="x") == 40201
        async with http(bot.sim) as client:
            views = (await client.get("/_sim/view.json")).json()["chats"]
            assert [each["chat_id"] for each in views][:2] == ["alice@bot_sim", bot.sim.group]
            calls = (await client.get("/_sim/calls")).json()["calls"]
            assert calls[-2]["fault"] == "refuse"
            told = (await client.get("/_sim/callbacks")).json()["callbacks"]
            assert told[0]["body"]["text"]["content"] == "hi"
            faults = (await client.get("/_sim/faults")).json()
            assert (faults["pending"], "finish" in faults["ops"], "kick" in faults["kinds"]) == ([], True, True)
        assert await _post(bot, "clear") == {}
        assert bot.sim.calls == []
        assert await _post(bot, "break", how="close") == {"connections": 1}
        await bot.closed.wait()


async def test_what_is_not_understood_is_refused_and_changes_nothing() -> None:
    async with talking() as bot:
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("say", {}, "text: must be a string"),
            ("say", {"text": "x", "chat_id": "none"}, "there is no chat 'none'"),
            ("say", {"text": "x", "mention": 5}, "mention: must be true, false or the id of a bot"),
            ("file", {"name": "a", "data": "?"}, "data: must be base64"),
            ("file", {"name": "a", "data": "", "kind": "gif"}, "kind: must be file, image or video"),
            ("click", {"message_id": "none"}, "there is no message 'none'"),
            ("group", {"bots": ["none"]}, "bots: there is no bot 'none'"),
            ("switches", {"switches": {"race": "never"}}, "switches: race is like 'conflict'"),
            ("switches", {"switches": {"stream_life": "6"}}, "switches: stream_life is like 600.0"),
            ("switches", {"switches": {"rates": 1}}, "switches: rates is like True"),
            ("switches", {"switches": {"life": 3}}, "switches: an object of "),
            ("faults", {"faults": [{"kind": "refuse"}]}, "faults: a list as "),
            ("faults", {"faults": [{"op": "push", "kind": "worse"}]}, "there is no fault 'worse'"),
            ("advance", {"seconds": 1}, "advance: the clock of this simulator belongs to its test"),
            ("break", {"how": "none"}, "how: must be one of"),
            ("webhook", {"url": "", "token": "", "encoding_aes_key": "x"}, "an AES key has 43 letters"),
        ]
        for what, body, message in wrong:
            status, said = await _post(bot, what, **body)
            assert (status, said[: len(message)]) == (400, message)
        assert (await _post(bot, "nothing"))[0] == 404
        async with http(bot.sim) as client:
            assert (await client.get("/_sim/nothing")).status_code == 404
            for nobody in ("http://127.0.0.1:9", "http://a:b/"):
                verified = await client.post(
                    "/_sim/webhook", json={"url": nobody, "token": "t", "encoding_aes_key": "A" * 43}
                )
                assert verified.json() == {"verified": False}
        assert bot.sim.view("alice").messages == []
        assert bot.sim.faults.pending == []


async def test_a_process_can_be_told_that_time_has_passed() -> None:
    async with talking() as under, WecomSim(clock=JumpingClock(under.sim.clock)) as sim, http(sim) as client:
        ws = await connect(sim.ws_url, proxy=None)
        assert (await client.post("/_sim/advance", json={"seconds": 119})).json()["now"] == sim.clock.now()
        wrong = await client.post("/_sim/advance", json={"seconds": None})
        assert (wrong.status_code, wrong.json()["error"]["message"]) == (400, "seconds: must be a number")
        assert ws.close_code is None
        await client.post("/_sim/advance", json={"seconds": 1})
        await ws.wait_closed()
        assert ws.close_code == 1006


@pytest.mark.process
async def test_the_process_says_when_it_is_ready_and_ends_when_it_is_asked_to() -> None:
    code = "from turnwire.sim._wecom_serve import serve_wecom; serve_wecom(port=0, bot_id='own', secret='s', latency=0)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().removeprefix("ready ").strip()
        line = (await process.stdout.readline()).decode()
        assert f"{url}/_sim/   ws_url: {url.replace('http', 'ws')}   bot_id: own   secret: s" in line
        async with httpx2.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
            assert (await client.get("/_sim/view.json")).json()["chats"][0]["chat_id"] == "alice@own"
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
