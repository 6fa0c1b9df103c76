"""What bots of the simulated WeCom hear of: messages of every kind, groups, quotes, events."""

from __future__ import annotations

import pytest

from tests.wecom_bots import PNG, Sim, card, clock_of, http, talking
from turnwire.sim._wecom_crypto import decrypt

pytestmark = pytest.mark.anyio


async def test_a_message_has_what_the_documents_say() -> None:
    async with talking() as bot:
        bot.sim.people.say("alice", "hello")
        frame = await bot.told.get()
        body = frame["body"]
        assert (frame["cmd"], list(frame["headers"])) == ("aibot_msg_callback", ["req_id"])
        assert (body["aibotid"], body["chattype"], body["from"]) == ("bot_sim", "single", {"userid": "alice"})
        assert (body["msgtype"], body["text"], body["create_time"]) == ("text", {"content": "hello"}, 1_700_000_000)
        assert "chatid" not in body
        assert body["response_url"].startswith(f"{bot.sim.base_url}/cgi-bin/aibot/response?response_code=")
        assert body["msgid"] != frame["headers"]["req_id"]


async def test_a_group_is_heard_when_the_bot_is_mentioned() -> None:
    async with talking() as bot:
        sim, people = bot.sim, bot.sim.people
        sim.add_bot("bot_two", "two", "Second")
        sim.add_group("wr_Other", members=["alice"], bots=["bot_two"])
        assert people.say(sim.group, "to nobody", mention=False) is None
        assert people.say(sim.group, "to another", mention="bot_two") is None
        assert people.send_file(sim.group, "a.txt", b"x") is None
        assert people.say_aloud(sim.group, "words") is None
        people.say(sim.group, "hello", user="bob")
        body = (await bot.told.get())["body"]
        assert (body["chatid"], body["chattype"], body["from"]["userid"]) == (sim.group, "group", "bob")
        assert body["text"]["content"] == "@Sim bot hello"
        assert sim.view(sim.group).messages[-1].text == "@Sim bot hello"
        assert sim.view(sim.group).messages[-1].sender == "Bob"
        assert bot.told.empty()
        with pytest.raises(ValueError, match="there is no chat 'nowhere'"):
            people.say("nowhere", "x")
        with pytest.raises(ValueError, match="there is a chat 'wr_Other' already"):
            sim.add_group("wr_Other", members=[], bots=[])
        with pytest.raises(ValueError, match="there is no bot 'none'"):
            sim.single("alice", "none")


async def test_files_voices_and_mixed_messages_arrive() -> None:
    async with talking() as bot, http(bot.sim) as client:
        people = bot.sim.people
        people.say_aloud("alice", "spoken")
        people.send_mixed("alice", ["look", PNG, "there"])
        people.send_file("alice", "a.png", PNG, kind="image")
        people.send_file("alice", "a.mp4", b"video", kind="video")
        voice, mixed, image, video = [(await bot.told.get())["body"] for _ in range(4)]
        assert voice["voice"] == {"content": "spoken"}
        items = mixed["mixed"]["msg_item"]
        assert [each["msgtype"] for each in items] == ["text", "image", "text"]
        assert items[0]["text"] == {"content": "look"}
        for link, data in ((items[1]["image"], PNG), (image["image"], PNG), (video["video"], b"video")):
            assert decrypt(link["aeskey"], (await client.get(link["url"])).content) == data
        kinds = [(each.kind, each.text, len(each.files)) for each in bot.sim.view("alice").messages]
        assert kinds == [
            ("voice", "spoken", 0),
            ("mixed", "look\nthere", 1),
            ("image", "a.png", 1),
            ("video", "a.mp4", 1),
        ]
        with pytest.raises(ValueError, match="call say_aloud"):
            people.send_file("alice", "a.amr", b"", kind="voice")


async def test_a_quote_holds_what_was_quoted() -> None:
    async with talking() as bot, http(bot.sim) as client:
        asked = await bot.asked()
        await bot.stream(asked, "the answer", finish=True)
        bot.sim.people.send_file("alice", "a.txt", b"x")
        await bot.told.get()
        _, answer, file = bot.sim.view("alice").messages
        await clock_of(bot).advance(3600)
        quotes = []
        for message in (answer, file):
            bot.sim.people.say("alice", "this", quote=message.message_id)
            quotes += [(await bot.told.get())["body"]["quote"]]
        assert quotes[0] == {"msgtype": "text", "text": {"content": "the answer"}}
        assert (quotes[1]["msgtype"], sorted(quotes[1]["file"])) == ("file", ["aeskey", "url"])
        assert decrypt(quotes[1]["file"]["aeskey"], (await client.get(quotes[1]["file"]["url"])).content) == b"x"
        assert bot.sim.view("alice").messages[-1].quote == file.message_id
        with pytest.raises(ValueError, match="there is no message 'none'"):
            bot.sim.people.say("alice", "x", quote="none")


async def test_three_answers_to_one_person_may_be_under_way() -> None:
    async with talking() as bot:
        asked = [await bot.asked() for _ in range(3)]
        for req_id in asked:
            await bot.stream(req_id, "x")
        assert bot.sim.people.say("alice", "fourth") is None
        assert bot.sim.view("alice").messages[-1].notices == ["too many messages are being answered"]
        assert bot.sim.people.say(bot.sim.group, "elsewhere") is not None
        await bot.stream(asked[0], "x.", finish=True)
        assert bot.sim.people.say("alice", "fifth") is not None


async def test_clicks_and_judgements_are_events() -> None:
    async with talking() as bot:
        people, asked = bot.sim.people, await bot.asked()
        await bot.stream(asked, "answer", feedback={"id": "turn-1"})
        await bot.reply(asked, "template_card", **card("t1", "stop", "approve"))
        _, bubble, shown = bot.sim.view("alice").messages
        people.click(shown.message_id, "APPROVE", selected={"q": ["a", "b"]})
        frame = await bot.told.get()
        assert frame["cmd"] == "aibot_event_callback"
        said = {"card_type": "button_interaction", "event_key": "approve", "task_id": "t1"}
        chosen = {"selected_item": [{"question_key": "q", "option_ids": {"option_id": ["a", "b"]}}]}
        event = {"eventtype": "template_card_event", "template_card_event": {**said, "selected_items": chosen}}
        assert (frame["body"]["msgtype"], frame["body"]["event"]) == ("event", event)
        assert bubble.feedback == ""
        people.feedback(bubble.message_id, "bad", "wrong number")
        event = (await bot.told.get())["body"]["event"]
        assert event["feedback_event"] == {"id": "turn-1", "type": 2, "content": "wrong number"}
        assert bot.sim.message(bubble.message_id).feedback == "bad"
        people.feedback(bubble.message_id, "cancel")
        assert (await bot.told.get())["body"]["event"]["feedback_event"]["type"] == 3
        assert bot.sim.message(bubble.message_id).feedback == ""
        people.enter_chat("alice")
        assert (await bot.told.get())["body"]["event"] == {"eventtype": "enter_chat"}
        assert await bot.push("alice", content="x") == 0
        with pytest.raises(ValueError, match="shows no button 'none'"):
            people.click(shown.message_id, "none")
        with pytest.raises(ValueError, match="has no buttons for feedback"):
            people.feedback(shown.message_id)
        with pytest.raises(ValueError, match="is a group"):
            people.enter_chat(bot.sim.group)


async def test_by_switch_only_some_feedback_ids_have_buttons() -> None:
    async with talking(feedback_prefix="trace_") as bot:
        asked = await bot.asked()
        await bot.stream(asked, "a", feedback={"id": "turn-1"})
        await bot.stream(asked, "b", sid="s2", feedback={"id": "trace_1"})
        assert [each.feedback for each in bot.sim.view("alice").from_bots] == [None, ""]


async def test_a_response_url_takes_one_answer_within_an_hour() -> None:
    async with talking() as bot, http(bot.sim) as client:
        asked = bot.sim.people.say(bot.sim.group, "hi")
        late = bot.sim.people.say("alice", "hi")
        assert asked is not None
        assert late is not None
        for code, body in [
            (40008, {"msgtype": "text", "text": {"content": "x"}}),
            (40058, {"msgtype": "markdown"}),
            (0, {"msgtype": "markdown", "markdown": {"content": "**late**"}}),
            (60140, {"msgtype": "markdown", "markdown": {"content": "twice"}}),
        ]:
            assert (await client.post(asked.body["response_url"], json=body)).json()["errcode"] == code
        (message,) = bot.sim.view(bot.sim.group).from_bots
        assert (message.text, message.via) == ("**late**", "response_url")
        assert message.quote == bot.sim.view(bot.sim.group).messages[0].message_id
        await clock_of(bot).advance(3600)
        body = {"msgtype": "markdown", "markdown": {"content": "late"}}
        assert (await client.post(late.body["response_url"], json=body)).json()["errcode"] == 60140
        assert (await client.post("/cgi-bin/none", json=body)).status_code == 404


async def test_bots_have_their_own_chats_and_connections() -> None:
    async with Sim() as sim, talking() as other:
        assert other.sim.view().messages == []
        sim.add_bot("bot_two", "two")
        key = sim.single("bob", "bot_two")
        said = sim.people.say(key, "hi")
        assert said is not None
        assert (said.bot_id, sim.view(key).name) == ("bot_two", "Bob")
        assert sim.view("bob").messages == []
