"""The simulated tenant as people and other processes use it: its page, its own routes, its process."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
from typing import Any

import httpx2
import pytest

from tests.feishu_calls import Calls, calling, card, markdown
from turnwire.sim._clock import JumpingClock
from turnwire.sim.feishu import FeishuSim
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio


async def _page(calls: Calls, chat_id: str = "") -> Any:
    return (await calls.http.get("/_sim/page.json", params={"chat": chat_id})).json()


async def _post(calls: Calls, what: str, **body: Any) -> Any:
    answer = await calls.http.post(f"/_sim/{what}", json=body)
    return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["error"]["message"])


async def test_the_page_shows_cards_and_runs_nothing_of_them() -> None:
    async with calling() as calls:
        answer = await calls.http.get("/_sim/")
        assert answer.status_code == 200
        assert "<title>Feishu simulator</title>" in answer.text
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        evil = "<script>alert(1)</script>"
        words = {"tag": "plain_text", "content": evil}
        head = {"title": markdown(evil, "t")}
        panel = {"tag": "collapsible_panel", "header": head, "elements": [markdown("in", "i")]}
        button = {"tag": "button", "element_id": "go", "type": 'x" onclick="', "text": words}
        table = {"tag": "table", "columns": [{"name": "a", "display_name": evil}], "rows": [{"a": evil}]}
        text = f"**bold** {evil} <font color='red'>红</font> <at id=ou_alice></at>\n\n| a |\n|---|\n| {evil} |"
        header = {"title": {"content": evil}, "template": evil}
        shown = {**card(markdown(text), panel, button, table, words), "header": header}
        made = await calls.create(shown)
        assert made.code == 0, made.msg
        await calls.send_card(made.data["card_id"])
        await calls.send("text", {"text": evil})
        (html, plain) = [each["html"] for each in (await _page(calls))["messages"]]
        assert "<script" not in html + plain
        assert 'onclick="' not in html
        assert "<strong>bold</strong>" in html
        assert '<span class="c-red">红</span> <span class="at">@Alice</span>' in html
        assert "<details>" in html
        assert html.count("<table>") == 2
        assert "&lt;script&gt;" in plain


async def test_the_page_shows_what_is_being_written_recalled_edited_and_reacted_to() -> None:
    async with calling() as calls:
        asked = calls.sim.people.say(calls.sim.group, "question")
        card_id, message_id = await calls.streaming()
        live = (await _page(calls))["messages"][1]["html"]
        assert "generating" in live
        assert (await _page(calls))["chats"][0]["last"] == "Sim bot: [生成中...]"
        await calls.update(card_id, card(markdown("done")))
        assert "generating" not in (await _page(calls))["messages"][1]["html"]
        calls.sim.people.react(message_id, "THUMBSUP")
        text = (await calls.reply(asked, "draft")).data["message_id"]
        await calls("PUT", f"/im/v1/messages/{text}", {"msg_type": "text", "content": json.dumps({"text": "final"})})
        key = (await calls.upload("file", b"x" * 2048, file_type="stream", file_name="a<b>.txt")).data["file_key"]
        await calls.send("file", {"file_key": key})
        calls.sim.people.recall(asked)
        gone, reacted, edited, file = [each["html"] for each in (await _page(calls))["messages"]]
        assert ("撤回" in gone, "question" in gone) == (True, False)
        assert "👍 Alice" in reacted
        assert ("final" in edited, "已编辑" in edited, "recalled" in edited) == (True, True, True)
        assert ("a&lt;b&gt;.txt" in file, "2.0 KB" in file) == (True, True)
        assert (await calls.http.get(f"/_sim/files/{key}")).content == b"x" * 2048


async def test_another_process_does_all_that_people_do() -> None:
    async with calling() as calls:
        sim = calls.sim
        asked = (await _post(calls, "say", text="你好", user="ou_bob"))["message_id"]
        assert sim.message(asked).text == "@Sim bot 你好"
        await _post(calls, "react", message_id=asked, emoji="OK")
        assert sim.message(asked).reactions == [("OK", "Alice")]
        file = (await _post(calls, "file", name="a.txt", data=base64.b64encode(b"data").decode()))["message_id"]
        assert sim.message(file).text == "a.txt"
        button = {"tag": "button", "element_id": "go", "text": {"tag": "plain_text", "content": "Go"}}
        _, message_id = await calls.streaming(button)
        assert (await _post(calls, "click", message_id=message_id, button="go"))["state"] == "over"
        await _post(calls, "recall", message_id=asked)
        await _post(calls, "chat", chat_id="oc_new", kind="topic", name="New")
        await _post(calls, "app", app_id="cli_new", secret="s")
        shown = (await calls.http.get("/_sim/view.json")).json()["chats"]
        assert [(chat["chat_id"], len(chat["messages"])) for chat in shown] == [(sim.group, 3), ("oc_new", 0)]
        assert shown[0]["messages"][0]["gone"] == "recalled"
        assert "cli_new" in sim.tenant.apps
        events = (await calls.http.get("/_sim/events")).json()["events"]
        assert events[0]["event_type"] == "im.message.receive_v1"


async def test_another_process_decides_what_goes_wrong() -> None:
    async with calling() as calls:
        assert (await _post(calls, "switches", switches={"table_limit": 3}))["table_limit"] == 3
        assert await _post(calls, "faults", faults=[{"op": "create", "kind": "refuse", "code": 2200}]) == {"pending": 1}
        assert (await calls.http.get("/_sim/faults")).json()["pending"][0]["code"] == 2200
        assert (await calls.create(card())).code == 2200
        said = (await calls.http.get("/_sim/calls")).json()
        assert [(each["op"], each["code"]) for each in said["calls"]] == [("token", 0), ("create", 2200)]
        assert said["connections"] == 1
        assert await _post(calls, "reset_sockets") == {"reset": 0}
        for nobody in ("http://127.0.0.1:1/", "http://a:b/"):
            assert await _post(calls, "webhook", url=nobody) == {"verified": False}
        await _post(calls, "clear")
        assert calls.sim.calls == []


async def test_what_another_process_says_wrongly_changes_nothing() -> None:
    async with calling() as calls:
        wrong: list[tuple[str, Any, str]] = [
            ("say", {}, "text: must be a string"),
            ("say", {"text": "x", "chat_id": "oc_none"}, "there is no chat 'oc_none'"),
            ("say", {"text": "x", "mention": 5}, "mention: must be true, false or the id of an app"),
            ("say", {"text": "x", "mention": "cli_none"}, "there is no app 'cli_none'"),
            ("file", {"name": "a", "data": "?"}, "data: must be base64"),
            ("click", {"message_id": "om_none"}, "there is no message 'om_none'"),
            ("chat", {"kind": "room"}, "kind: must be p2p, group or topic"),
            ("chat", {"bots": ["cli_none"]}, "bots: there is no app 'cli_none'"),
            ("switches", {"switches": {"table_limit": "3"}}, "switches: table_limit is like 5"),
            ("switches", {"switches": {"table": 3}}, "switches: an object of "),
            ("faults", {"faults": [{"kind": "refuse"}]}, "faults: a list as "),
            ("faults", {"faults": [{"op": "send", "kind": "worse"}]}, "there is no fault 'worse'"),
            ("advance", {"seconds": 1}, "advance: the clock of this simulator belongs to its test"),
            ("webhook", {"app_id": "cli_none", "url": ""}, "app_id: there is no such app"),
        ]
        for what, body, message in wrong:
            status, said = await _post(calls, what, **body)
            assert (status, said[: len(message)]) == (400, message)
        assert (await _post(calls, "nothing"))[0] == 404
        assert (await calls.http.get("/_sim/nothing")).status_code == 404
        assert calls.sim.view(calls.sim.group).messages == []
        assert calls.sim.faults.pending == []


async def test_a_process_can_be_told_that_time_has_passed() -> None:
    under = FakeClock()
    clock = JumpingClock(under)
    ran: list[str] = []
    late = clock.call_later(60, lambda: ran.append("late"))
    clock.call_later(10, lambda: ran.append("soon"))
    clock.call_later(20, lambda: ran.append("never")).cancel()
    clock.jump(30)
    await under.settle()
    assert (ran, clock.now() - under.now(), clock.monotonic() - under.monotonic()) == (["soon"], 30, 30)
    await under.advance(29)
    assert ran == ["soon"]
    await under.advance(1)
    assert ran == ["soon", "late"]
    late.cancel()
    with pytest.raises(ValueError, match="0 or more"):
        clock.jump(-1)
    async with FeishuSim(clock=clock) as sim, calling() as calls:
        heard: list[str] = []
        sim.events.attach(sim.app_id, lambda delivery: heard.append(delivery.event_id))
        sim.people.say(sim.group, "x")
        answer = await calls.http.post(f"{sim.base_url}/_sim/advance", json={"seconds": 3})
        assert answer.status_code == 200
        await under.settle()
        await calls.http.post(f"{sim.base_url}/_sim/advance", json={"seconds": 12})
        await under.settle()
        assert len(heard) == 2


@pytest.mark.process
async def test_the_process_says_when_it_is_ready_and_ends_when_it_is_asked_to() -> None:
    code = "from turnwire.sim._feishu_serve import serve_feishu; serve_feishu(port=0, app_id='cli_own', secret='own')"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().removeprefix("ready ").strip()
        assert f"{url}/_sim/   app_id: cli_own" in (await process.stdout.readline()).decode()
        async with httpx2.AsyncClient(base_url=url, trust_env=False, verify=False) as http:
            credentials = {"app_id": "cli_own", "app_secret": "own"}
            got = await http.post("/open-apis/auth/v3/tenant_access_token/internal", json=credentials)
            assert got.json()["code"] == 0
            before = (await http.post("/_sim/advance", json={"seconds": 0})).json()["now"]
            assert (await http.post("/_sim/advance", json={"seconds": 7200})).json()["now"] >= before + 7200
            refused = await http.get(
                "/open-apis/bot/v3/info", headers={"authorization": f"Bearer {got.json()['tenant_access_token']}"}
            )
            assert refused.json()["code"] == 99991663
    finally:
        process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
