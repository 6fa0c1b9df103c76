"""Messages that people of the simulated tenant forward as one: what is seen, told, given back and given out."""

from __future__ import annotations

import pytest

from tests.feishu_calls import Calls, calling

pytestmark = pytest.mark.anyio


def _talk(calls: Calls) -> str:
    calls.sim.tenant.user("ou_bob", "Bob")
    return calls.sim.add_chat("oc_talk", members=["ou_alice", "ou_bob"], bots=[]).chat_id


async def test_what_is_forwarded_is_told_without_its_words_and_read_with_them() -> None:
    async with calling() as calls:
        sim, people, chat = calls.sim, calls.sim.people, _talk(calls)
        first = people.say(chat, "one", user="ou_bob")
        inner = people.forward(chat, [people.say(chat, "deep")])
        own = people.forward(sim.app_id, [first, inner])
        said = sim.events.deliveries[-1].body["event"]["message"]
        assert (said["message_type"], said["content"]) == ("merge_forward", "Merged and Forwarded Message")
        assert sim.message(own).text == "Bob: one\nAlice: Alice: deep"
        container, *inside = (await calls("GET", f"/im/v1/messages/{own}")).data["items"]
        assert (container["message_id"], container["body"]["content"]) == (own, "Merged and Forwarded Message")
        assert "upper_message_id" not in container
        assert [each["body"]["content"] for each in inside] == [
            '{"text": "one"}', "Merged and Forwarded Message", '{"text": "deep"}',
        ]  # fmt: skip
        assert [each["upper_message_id"] for each in inside] == [own, own, inside[1]["message_id"]]
        assert [each["sender"]["id"] for each in inside] == ["ou_bob", "ou_alice", "ou_alice"]
        assert not {each["message_id"] for each in inside} & {first, inner}


async def test_who_was_mentioned_is_given_back() -> None:
    async with calling() as calls:
        sim = calls.sim
        own = sim.people.say(sim.group, "hi")
        [item] = (await calls("GET", f"/im/v1/messages/{own}")).data["items"]
        bot = sim.tenant.apps[sim.app_id].open_id
        assert item["mentions"] == [{"key": "@_user_1", "id": bot, "id_type": "open_id", "name": "Sim bot"}]


async def test_files_inside_are_given_out_only_if_the_tenant_does() -> None:
    async with calling() as calls:
        sim, people, chat = calls.sim, calls.sim.people, _talk(calls)
        key = people.send_file(chat, "a.txt", b"abc")
        own = people.forward(sim.app_id, [people.forward(chat, [key])])
        *_, child = (await calls("GET", f"/im/v1/messages/{own}")).data["items"]
        name = sim.message(key).file
        assert name is not None
        path = "/im/v1/messages/{}/resources/" + name.key + "?type=file"
        for each in (own, child["message_id"]):
            assert (await calls("GET", path.format(each))).code == 234043
        sim.switches.forwarded_files = "by_container"
        assert (await calls("GET", path.format(child["message_id"]))).code == 234043
        assert (await calls.http.get(f"/open-apis{path.format(own)}")).content == b"abc"
        assert (await calls("GET", path.format(own).replace(name.key, "other"))).code == 234003


async def test_only_messages_of_one_chat_that_are_there_are_forwarded() -> None:
    async with calling() as calls:
        sim, people, chat = calls.sim, calls.sim.people, _talk(calls)
        here, there = people.say(chat, "one"), people.say(sim.group, "two")
        gone = people.say(chat, "three")
        people.recall(gone)
        _, written = await calls.streaming()
        for wrong in ([], [here, there], [here, gone], ["om_none"], [written]):
            with pytest.raises(ValueError, match=r"messages of one chat|there is no message"):
                people.forward(sim.app_id, wrong)
        people.forward(sim.app_id, [here])
        people.recall(here)
        own = sim.view(sim.p2p()).messages[-1]
        assert own.text == "Alice: one"
        people.recall(own.message_id)
        [item] = (await calls("GET", f"/im/v1/messages/{own.message_id}")).data["items"]
        assert (item["deleted"], item["body"]["content"]) == (True, "")
