"""Messages, files, reactions and tokens of the simulated tenant: what it refuses, and what people then see."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from tests.feishu_calls import Calls, calling, card, markdown
from turnwire.sim._feishu_codes import Refused
from turnwire.sim._feishu_rates import Rates, app_limits
from turnwire.sim.feishu import Switches

pytestmark = pytest.mark.anyio

HOUR, DAY = 3600.0, 86400.0
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


def _png(width: int, height: int) -> bytes:
    return PNG + struct.pack(">II", width, height) + b"\x08\x02\0\0\0"


def _gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0"


def _texts(calls: Calls, chat_id: str = "") -> list[str]:
    return [each.text for each in calls.sim.view(chat_id or calls.sim.group).messages if not each.gone]


# Tokens


async def test_a_token_is_kept_until_half_an_hour_is_left_and_both_are_valid_then() -> None:
    async with calling() as calls:
        first = await calls.login()
        await calls.clock.advance(1.5 * HOUR)
        assert await calls.login() == first
        await calls.clock.advance(1)
        second = await calls.login()
        assert second != first
        assert (await calls("GET", "/bot/v3/info", headers={"authorization": f"Bearer {first}"})).code == 0
        await calls.clock.advance(0.5 * HOUR)
        assert (await calls("GET", "/bot/v3/info", headers={"authorization": f"Bearer {first}"})).code == 99991663
        assert (await calls("GET", "/bot/v3/info")).code == 0


async def test_a_call_needs_a_token_and_its_scope() -> None:
    async with calling() as calls:
        for header, code in (("", 99991661), ("Bearer t-other", 99991663), ("Bearer other", 99991671)):
            refused = await calls("POST", "/cardkit/v1/cards", {}, headers={"authorization": header})
            assert (refused.status, refused.code) == (400, code)
        calls.sim.tenant.apps[calls.sim.app_id].scopes = {"im:message:send_as_bot"}
        assert (await calls.create(card())).code == 99991672
        assert (await calls.send("text", {"text": "hi"})).code == 0
        for body, code in (({"app_id": "x"}, 10003), ({"app_id": calls.sim.app_id, "app_secret": "x"}, 10014)):
            assert (await calls("POST", "/auth/v3/tenant_access_token/internal", body)).code == code


async def test_a_refusal_has_its_status_and_log_id() -> None:
    async with calling() as calls:
        answer = await calls.http.post("/open-apis/im/v1/messages/om_none/reply", json={})
        assert answer.status_code == 400
        assert answer.json()["error"]["log_id"] == answer.headers["x-tt-logid"]
        calls.sim.switches.http_errors = 200
        answer = await calls.http.post("/open-apis/im/v1/messages/om_none/reply", json={})
        assert (answer.status_code, answer.json()["code"]) == (200, 99992354)
        assert (await calls.http.get("/open-apis/nothing")).status_code == 404


async def test_who_the_bot_and_the_others_are() -> None:
    async with calling() as calls:
        said = (await calls.http.get("/open-apis/bot/v3/info")).json()
        assert said["bot"]["open_id"] == "ou_bot_cli_sim"
        assert (await calls("GET", "/contact/v3/users/ou_alice")).data["user"]["name"] == "Alice"
        assert (await calls("GET", f"/im/v1/chats/{calls.sim.group}")).data["name"] == "Sim group"
        members = (await calls("GET", f"/im/v1/chats/{calls.sim.group}/members")).data["items"]
        assert [each["name"] for each in members] == ["Alice"]


# Sending


BAD_CONTENTS: list[tuple[str, Any, int]] = [
    ("text", {"text": ""}, 230001),
    ("text", {"txt": "x"}, 230001),
    ("text", [], 230001),
    ("text", {"text": "长" * 51_200}, 230025),
    ("post", {"zh_cn": {"title": "x"}}, 230001),
    ("post", {"zh_cn": {"content": [[{"tag": "text", "text": "x" * 31_000}]]}}, 230025),
    ("image", {"image_key": "img_none"}, 230001),
    ("sticker", {"file_key": "x"}, 230054),
]


async def test_contents_that_are_none_are_refused() -> None:
    async with calling(Switches(rates=False)) as calls:
        for msg_type, content, code in BAD_CONTENTS:
            assert (await calls.send(msg_type, content)).code == code, (msg_type, code)
        assert (await calls.send("text", {"text": "x"}, uuid="u" * 51)).code == 99992402
        assert (await calls.send("text", {"text": "x"}, chat_id="oc_none")).code == 230034
        said = {"receive_id": "x", "msg_type": "text", "content": "{}"}
        assert (await calls("POST", "/im/v1/messages?receive_id_type=name", said)).code == 99992402
        assert (await calls("POST", "/im/v1/messages?receive_id_type=chat_id", {**said, "content": {}})).code == 230034
        assert _texts(calls) == []
        wrong = {**said, "receive_id": calls.sim.group, "content": {"text": "x"}}
        assert (await calls("POST", "/im/v1/messages?receive_id_type=chat_id", wrong)).code == 230001
        post = {"zh_cn": {"title": "T", "content": [[{"tag": "text", "text": "a"}, {"tag": "text", "text": "b"}]]}}
        assert (await calls.send("post", post)).code == 0
        assert (await calls.send("text", {"text": '<at user_id="ou_alice"></at> hi'})).code == 0
        assert _texts(calls) == ["T\nab", "@Alice hi"]


async def test_a_uuid_sends_once_in_an_hour() -> None:
    async with calling() as calls:
        first = await calls.send("text", {"text": "a"}, uuid="u1")
        again = await calls.send("text", {"text": "a"}, uuid="u1")
        assert again.data["message_id"] == first.data["message_id"]
        card_id = (await calls.create(card())).data["card_id"]
        sent = [(await calls.send_card(card_id, uuid="u2")).data["message_id"] for _ in range(2)]
        assert sent[0] == sent[1]
        await calls.clock.advance(HOUR)
        later = await calls.send("text", {"text": "a"}, uuid="u1")
        assert later.data["message_id"] != first.data["message_id"]
        assert (await calls.send_card(card_id, uuid="u2")).code == 230099
        assert len(_texts(calls)) == 3


async def test_people_are_written_to_by_any_of_their_ids() -> None:
    async with calling(Switches(rates=False)) as calls:
        for kind, who in (("open_id", "ou_alice"), ("union_id", "on_alice"), ("user_id", "u_alice")):
            said = {"receive_id": who, "msg_type": "text", "content": json.dumps({"text": kind})}
            assert (await calls("POST", f"/im/v1/messages?receive_id_type={kind}", said)).code == 0
        assert _texts(calls, calls.sim.p2p()) == ["open_id", "union_id", "user_id"]


async def test_an_answer_knows_what_it_answers_and_its_topic() -> None:
    async with calling() as calls:
        asked = calls.sim.people.say(calls.sim.group, "question")
        plain = (await calls.reply(asked)).data
        assert (plain["root_id"], plain["parent_id"], "thread_id" in plain) == (asked, asked, False)
        deeper = (await calls.reply(plain["message_id"], reply_in_thread=True)).data
        assert (deeper["root_id"], deeper["parent_id"]) == (asked, plain["message_id"])
        assert deeper["thread_id"].startswith("omt_")
        assert (await calls.reply(asked)).data["thread_id"] == deeper["thread_id"]
        calls.sim.tenant.chats[calls.sim.group].threads = False
        assert (await calls.reply(plain["message_id"], reply_in_thread=True)).code == 230071
        topics = calls.sim.add_chat("oc_topics", "topic", members=["ou_alice"], bots=[calls.sim.app_id])
        one, two = [(await calls.send("text", {"text": "x"}, chat_id=topics.chat_id)).data for _ in range(2)]
        assert one["thread_id"] != two["thread_id"]
        page = (await calls("GET", f"/im/v1/messages?container_id_type=thread&container_id={deeper['thread_id']}")).data
        assert page["items"][0]["message_id"] == asked
        chat = f"/im/v1/messages?container_id_type=chat&container_id={calls.sim.group}&sort_type=ByCreateTimeDesc"
        newest = (await calls("GET", f"{chat}&page_size=2")).data
        assert [newest["has_more"], len(newest["items"])] == [True, 2]
        rest = (await calls("GET", f"{chat}&page_token={newest['page_token']}")).data
        assert [rest["has_more"], rest["items"][-1]["message_id"]] == [False, asked]
        assert (await calls("GET", f"{chat}&page_size=many")).code == 99992402


async def test_a_bot_speaks_only_where_it_may() -> None:
    async with calling() as calls:
        sim, text = calls.sim, {"text": "hi"}
        asked = sim.people.say(sim.group, "question")
        sim.people.remove_bot(sim.group, sim.app_id)
        assert [(await calls.send("text", text)).code, (await calls.reply(asked)).code] == [230002, 230002]
        sim.people.add_bot(sim.group, sim.app_id)
        for code in (230018, 230035):
            sim.tenant.chats[sim.group].refuses = code
            assert (await calls.send("text", text)).code == code
        sim.tenant.chats[sim.group].refuses = 0
        sim.tenant.apps[sim.app_id].bot = False
        assert (await calls.send("text", text)).code == 230006
        sim.tenant.apps[sim.app_id].bot = True
        sim.people.dissolve(sim.group)
        assert (await calls.send("text", text)).code == 232009
        sim.tenant.users["ou_alice"].refuses = 230053
        assert (await calls.send("text", text, chat_id=sim.p2p())).code == 230053
        assert _texts(calls) == ["@Sim bot question"]


async def test_nobody_answers_what_is_gone() -> None:
    async with calling() as calls:
        asked, other = calls.sim.people.say(calls.sim.group, "a"), calls.sim.people.say(calls.sim.group, "b")
        calls.sim.people.recall(asked)
        calls.sim.people.delete(other)
        assert (await calls.reply(asked)).code == 230011
        assert (await calls.reply(other)).code == 230110
        assert (await calls.reply("om_none")).code == 99992354
        reaction = {"reaction_type": {"emoji_type": "OK"}}
        assert (await calls("POST", f"/im/v1/messages/{asked}/reactions", reaction)).code == 231003
        assert [each.gone for each in calls.sim.view(calls.sim.group).messages] == ["recalled"]
        assert [call.after_terminal for call in calls.sim.calls[-4:]] == [False, False, False, True]


# Changing


async def test_a_card_in_a_message_is_patched_while_it_is_young_and_shared() -> None:
    async with calling() as calls:
        old = {"config": {"update_multi": True}, "elements": [{"tag": "markdown", "content": "one"}]}
        shared = (await calls.send("interactive", old)).data["message_id"]
        alone = (await calls.send("interactive", {"elements": [{"tag": "hr"}]})).data["message_id"]
        text = (await calls.send("text", {"text": "x"})).data["message_id"]
        _, entity = await calls.streaming()

        async def patch(message_id: str, value: Any) -> Any:
            return await calls("PATCH", f"/im/v1/messages/{message_id}", {"content": json.dumps(value)})

        new = {**old, "elements": [{"tag": "markdown", "content": "two"}]}
        assert (await patch(shared, new)).code == 0
        assert "ErrCode: 300302;" in (await patch(shared, {"elements": [{"tag": "hr"}]})).msg
        assert "ErrCode: 300302;" in (await patch(alone, new)).msg
        assert (await patch(text, new)).code == 230001
        assert (await patch(entity, card(markdown("x")))).code == 230001
        asked = calls.sim.people.say(calls.sim.group, "mine")
        assert (await patch(asked, new)).code == 230001
        calls.sim.switches.patch_entity = "apply"
        assert (await patch(entity, card(markdown("patched")))).code == 0
        assert [calls.sim.message(each).text for each in (shared, entity)] == ["two", "patched"]
        await calls.clock.advance(14 * DAY)
        await calls.login()
        assert (await patch(shared, new)).code == 230031


async def test_a_message_takes_five_patches_and_a_chat_five_messages_a_second() -> None:
    async with calling() as calls:
        message_id = (await calls.send("interactive", card())).data["message_id"]
        said = {"content": json.dumps(card(markdown("new")))}
        codes = [(await calls("PATCH", f"/im/v1/messages/{message_id}", said)).code for _ in range(6)]
        assert codes == [*[0] * 5, 230020]
        codes = [(await calls.send("text", {"text": "x"})).code for _ in range(5)]
        assert codes == [*[0] * 4, 230020]
        assert (await calls.send("text", {"text": "x"}, chat_id=calls.sim.p2p())).code == 0
        calls.sim.add_app("cli_other", "secret")
        calls.sim.people.add_bot(calls.sim.group, "cli_other")
        await calls.login("cli_other", "secret")
        assert (await calls.send("text", {"text": "x"})).code == 230020
        await calls.clock.advance(1)
        assert (await calls.send("text", {"text": "x"})).code == 0


async def test_an_endpoint_takes_fifty_calls_a_second_and_a_thousand_a_minute() -> None:
    async with calling() as calls:
        codes = [(await calls("GET", "/bot/v3/info")).code for _ in range(51)]
        assert codes == [*[0] * 50, 99991400]
        assert (await calls.create(card())).code == 0


def test_a_minute_is_any_minute() -> None:
    rates, limits = Rates(), app_limits("cli_sim", "send")
    for number in range(1000):
        rates.take(number / 50, *limits)
    with pytest.raises(Refused) as refused:
        rates.take(21, *limits)
    assert (refused.value.code, refused.value.headers["x-ogw-ratelimit-reset"]) == (99991400, "39")
    rates.take(60, *limits)


async def test_a_text_is_edited_twenty_times_by_its_sender() -> None:
    async with calling(Switches(rates=False)) as calls:
        message_id = (await calls.send("text", {"text": "0"})).data["message_id"]

        async def edit(which: str, number: int, msg_type: str = "text") -> int:
            said = {"msg_type": msg_type, "content": json.dumps({"text": str(number)})}
            return (await calls("PUT", f"/im/v1/messages/{which}", said)).code

        assert [await edit(message_id, number) for number in range(1, 22)] == [*[0] * 20, 230072]
        shown = calls.sim.message(message_id)
        assert (shown.text, shown.edited) == ("20", True)
        assert await edit(message_id, 1, "image") == 230054
        assert await edit(calls.sim.people.say(calls.sim.group, "mine"), 1) == 230071
        calls.sim.switches.edit_window = 60
        other = (await calls.send("text", {"text": "0"})).data["message_id"]
        await calls.clock.advance(60)
        assert await edit(other, 1) == 230075


async def test_a_bot_recalls_its_own_messages() -> None:
    async with calling() as calls:
        card_id, message_id = await calls.streaming()
        asked = calls.sim.people.say(calls.sim.group, "mine")
        assert (await calls("DELETE", f"/im/v1/messages/{asked}")).code == 230026
        assert (await calls("DELETE", f"/im/v1/messages/{message_id}")).code == 0
        assert (await calls("DELETE", f"/im/v1/messages/{message_id}")).code == 230011
        assert calls.sim.view(calls.sim.group).from_bots == []
        assert (await calls("GET", f"/im/v1/messages/{message_id}")).data["items"][0]["deleted"]
        assert (await calls.content(card_id, "x")).code == 230011
        calls.sim.switches.recalled_card = 0
        assert (await calls.content(card_id, "x")).code == 0
        assert calls.sim.view(calls.sim.group).from_bots == []


async def test_reactions_come_and_go() -> None:
    async with calling() as calls:
        asked = calls.sim.people.say(calls.sim.group, "question")
        path = f"/im/v1/messages/{asked}/reactions"
        assert (await calls("POST", path, {"reaction_type": {"emoji_type": "typing"}})).code == 231001
        got = [await calls("POST", path, {"reaction_type": {"emoji_type": "Typing"}}) for _ in range(2)]
        assert got[0].data["reaction_id"] == got[1].data["reaction_id"]
        assert calls.sim.message(asked).reactions == [("Typing", "Sim bot")]
        assert (await calls("DELETE", f"{path}/{got[0].data['reaction_id']}")).code == 0
        assert (await calls("DELETE", f"{path}/{got[0].data['reaction_id']}")).code == 231001
        assert calls.sim.message(asked).reactions == []


# Files


async def test_files_are_uploaded_within_bounds_and_sent_as_what_they_are() -> None:
    async with calling(Switches(rates=False)) as calls:
        assert (await calls.upload("file", b"")).code == 234010
        assert (await calls.upload("file", b"x", file_type="zip", file_name="a")).code == 234001
        assert (await calls.upload("file", b"x", file_type="stream")).code == 234001
        assert (await calls("POST", "/im/v1/files", {"file_type": "stream"})).code == 234001
        assert (await calls.upload("file", bytes(30 * 1024 * 1024 + 1))).code == 234006
        data = b"\r\n--numbers\r\n\r\n"
        key = (await calls.upload("file", data, file_type="stream", file_name="报告 2.txt")).data["file_key"]
        sent = await calls.send("file", {"file_key": key})
        assert sent.code == 0
        shown = calls.sim.message(sent.data["message_id"])
        assert shown.file is not None
        assert (shown.text, shown.file.size) == ("报告 2.txt", len(data))
        voice = (await calls.upload("file", b"x", file_type="opus", file_name="a.opus")).data["file_key"]
        assert (await calls.send("audio", {"file_key": voice})).code == 0
        assert (await calls.send("audio", {"file_key": key})).code == 230055
        assert (await calls.send("image", {"image_key": key})).code == 230055
        got = await calls.http.get(f"/open-apis/im/v1/messages/{shown.message_id}/resources/{key}?type=file")
        assert got.content == data
        calls.sim.add_app("cli_other", "secret")
        calls.sim.people.add_bot(calls.sim.group, "cli_other")
        await calls.login("cli_other", "secret")
        assert (await calls.send("file", {"file_key": key})).code == 230017


async def test_images_are_recognised_and_measured() -> None:
    async with calling(Switches(rates=False)) as calls:
        for data, code in (
            (b"", 234010),
            (b"no image", 234011),
            (_png(12_001, 1), 234039),
            (_gif(2001, 1), 234039),
            (_png(1, 1) + bytes(10 * 1024 * 1024), 234006),
        ):
            assert (await calls.upload("image", data)).code == code
        key = (await calls.upload("image", _gif(2000, 2000))).data["image_key"]
        assert (await calls.send("image", {"image_key": key})).code == 0
        assert (await calls.send("interactive", card({"tag": "img", "img_key": key}))).code == 0
        assert (await calls.upload("image", b"x", image_type="other")).code == 234001


async def test_what_people_send_is_fetched_by_its_message() -> None:
    async with calling() as calls:
        message_id = calls.sim.people.send_file(calls.sim.group, "a.txt", b"data")
        other = calls.sim.people.say(calls.sim.group, "text")
        content = json.loads(calls.sim.tenant.messages[message_id].content)
        path = f"/open-apis/im/v1/messages/{message_id}/resources/{content['file_key']}"
        assert (await calls.http.get(f"{path}?type=file")).content == b"data"
        for where, code in (
            (f"{path}?type=image", 234001),
            (path, 234001),
            (path.replace(message_id, other) + "?type=file", 234003),
        ):
            assert (await calls.http.get(where)).json()["code"] == code
        calls.sim.people.remove_bot(calls.sim.group, calls.sim.app_id)
        assert (await calls.http.get(f"{path}?type=file")).json()["code"] == 234004


async def test_a_key_under_which_there_is_no_file_is_refused_as_one_that_is_not_in_the_message() -> None:
    async with calling() as calls:
        unknown = {"file_key": "file_v3_none", "file_name": "a.txt"}
        message_id = calls.sim.people.send(calls.sim.group, "file", unknown)
        path = f"/open-apis/im/v1/messages/{message_id}/resources/file_v3_none"
        assert (await calls.http.get(f"{path}?type=file")).json()["code"] == 234003
