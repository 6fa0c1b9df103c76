"""The simulated WeCom's bubbles: what becomes of frames, files, pushes and welcomes, as people see it."""

from __future__ import annotations

import pytest

from tests.wecom_bots import PNG, Bot, Json, card, clock_of, talking
from turnwire.sim.wecom import MessageView

pytestmark = pytest.mark.anyio


def _seen(bot: Bot, chat: str = "alice") -> list[MessageView]:
    return bot.sim.view(chat).from_bots


def _shown(bot: Bot, chat: str = "alice") -> list[tuple[str, str, str]]:
    return [(each.kind, each.text, each.state) for each in _seen(bot, chat)]


async def test_frames_replace_the_text_and_the_last_one_seals_the_bubble() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        assert await bot.stream(asked, "<think>let me see</think>") == 0
        (bubble,) = _seen(bot)
        assert (bubble.text, bubble.thinking, bubble.state, bubble.streaming) == ("", "let me see", "thinking", True)
        for text in ("1", "123"):
            assert await bot.stream(asked, text) == 0
        assert _shown(bot) == [("stream", "123", "live")]
        assert await bot.stream(asked, "123 and 4", finish=True) == 0
        assert _shown(bot) == [("stream", "123 and 4", "finished")]
        changes = bot.sim.changes(_seen(bot)[0].message_id)
        assert [(each.text, each.finish) for each in changes][-2:] == [("123", False), ("123 and 4", True)]
        assert await bot.stream(asked, "more") == 846608
        assert await bot.stream(asked, "second", sid="s2", finish=True) == 0
        assert [each.text for each in _seen(bot)] == ["123 and 4", "second"]
        bot.sim.switches.frame_after_finish = "drop"
        assert await bot.stream(asked, "more") == 0
        assert [each.text for each in _seen(bot)] == ["123 and 4", "second"]


async def test_a_bubble_has_20480_bytes() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        assert await bot.stream(asked, "中" * 6826 + "ab") == 0
        assert await bot.stream(asked, "中" * 6827) == -40058
        assert _seen(bot)[0].text == "中" * 6826 + "ab"
        assert await bot.push("alice", content="中" * 6827) == -40058
        assert await bot.push("alice", content="a" * 20480) == 0


async def test_a_stream_expires_ten_minutes_after_its_first_frame() -> None:
    async with talking() as bot:
        clock, asked = clock_of(bot), await bot.asked()
        assert await bot.stream(asked, "1") == 0
        for _ in range(2):
            await clock.advance(299)
            assert await bot.stream(asked, "2") == 0
        await clock.advance(2)
        assert _shown(bot) == [("stream", "2", "expired")]
        assert await bot.stream(asked, "3", finish=True) == 846608
        assert bot.acks[asked][-1]["errmsg"] == "stream message update expired (>10 minutes), cannot update"
        assert await bot.stream(asked, "3", sid="s2") == 846608
        bot.sim.switches.stream_after_expiry = "accept"
        assert await bot.stream(asked, "3", sid="s3", finish=True) == 0
        assert _shown(bot) == [("stream", "2", "expired"), ("stream", "3", "finished")]
        bot.sim.switches.expired_frame = "drop"
        assert await bot.stream(asked, "4", finish=True) == 0
        assert _seen(bot)[0].text == "2"
        await clock.advance(24 * 3600 - 600)
        assert await bot.stream(asked, "4", sid="s4") == 846604
        assert [call.op for call in bot.sim.hopeless] == ["finish"]


async def test_by_switch_a_stream_expires_six_minutes_after_its_last_frame() -> None:
    async with talking(stream_life=360, stream_expiry="idle") as bot:
        clock, asked = clock_of(bot), await bot.asked()
        for text in ("1", "2", "3"):
            assert await bot.stream(asked, text) == 0
            await clock.advance(300)
        await clock.advance(60)
        assert await bot.stream(asked, "4") == 846608
        assert "(>6 minutes)" in bot.acks[asked][-1]["errmsg"]


async def test_a_rotated_stream_goes_on_in_a_new_bubble() -> None:
    async with talking() as bot:
        clock, asked = clock_of(bot), await bot.asked()
        await bot.stream(asked, "first")
        await clock.advance(570)
        assert await bot.stream(asked, "first.", finish=True) == 0
        assert await bot.stream(asked, "second", sid="s2") == 0
        await clock.advance(570)
        assert await bot.stream(asked, "second.", sid="s2", finish=True) == 0
        assert _shown(bot) == [("stream", "first.", "finished"), ("stream", "second.", "finished")]


async def test_a_blank_final_frame_leaves_the_bubble_thinking() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        await bot.stream(asked, "so far")
        assert await bot.stream(asked, " \n", finish=True) == 0
        assert _shown(bot) == [("stream", "so far", "thinking")]
        assert await bot.stream(asked, "so far.", finish=True) == 846608


async def test_by_switch_a_final_frame_that_repeats_the_text_is_not_seen() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        await bot.stream(asked, "same")
        assert await bot.stream(asked, "same", finish=True) == 0
        bot.sim.switches.identical_final = "drop"
        await bot.stream(asked, "same", sid="s2")
        assert await bot.stream(asked, "same", sid="s2", finish=True) == 0
        assert [each.state for each in _seen(bot)] == ["finished", "live"]
        assert await bot.stream(asked, "same.", sid="s2", finish=True) == 0
        assert _seen(bot)[1].state == "finished"


async def test_files_after_the_final_frame_are_acknowledged_and_vanish() -> None:
    async with talking() as bot:
        asked, media = await bot.asked(), await bot.upload(b"numbers", name="报告.txt")
        await bot.stream(asked, "working")
        assert await bot.reply(asked, "file", media_id=media) == 0
        await bot.stream(asked, "done", finish=True)
        assert await bot.reply(asked, "file", media_id=media) == 0
        assert await bot.reply(asked, "markdown", content="words") == 0
        assert [each.kind for each in _seen(bot)] == ["stream", "file", "markdown"]
        (vanished,) = bot.sim.view("alice").vanished
        assert vanished.file is not None
        assert (vanished.file.name, vanished.file.size) == ("报告.txt", 7)
        assert await bot.push("alice", "file", media_id=media) == 0
        await bot.stream(asked, "rotated", sid="s2")
        assert await bot.reply(asked, "file", media_id=media) == 0
        assert [each.via for each in _seen(bot) if each.kind == "file"] == ["reply", "push", "reply"]
        await bot.stream(asked, "rotated.", sid="s2", finish=True)
        bot.sim.switches.attach_after_finish = "deliver"
        assert await bot.reply(asked, "file", media_id=media) == 0
        assert _seen(bot)[-1].kind == "file"
        bot.sim.switches.media_per_reply = 4
        assert await bot.reply(asked, "file", media_id=media) == 846605


async def test_by_switch_pushes_after_a_stream_vanish_until_somebody_writes() -> None:
    async with talking(push_after_stream="ack_and_drop") as bot:
        asked = await bot.asked()
        assert await bot.push("alice", content="before") == 0
        await bot.stream(asked, "done", finish=True)
        assert await bot.push("alice", content="after") == 0
        await bot.asked("again")
        assert await bot.push("alice", content="later") == 0
        assert [each.text for each in _seen(bot)] == ["before", "done", "later"]
        assert [each.text for each in bot.sim.view("alice").vanished] == ["after"]


async def test_request_ids_belong_to_what_they_answer() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        assert await bot.stream("own", "x") == 846605
        assert (
            await bot.code("aibot_respond_welcome_msg", {"msgtype": "text", "text": {"content": "x"}}, asked) == 846605
        )
        entered = bot.sim.people.enter_chat("alice").req_id
        assert await bot.stream(entered, "x") == 846605
        bot.sim.add_bot("bot_two", "two")
        other = bot.sim.people.say(bot.sim.single("alice", "bot_two"), "for another")
        assert other is not None
        assert await bot.stream(other.req_id, "x") == 846605
        assert _seen(bot) == []


async def test_bodies_that_are_wrong_are_refused_as_the_platform_does() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        wrong: dict[int, list[Json]] = {
            40008: [{"msgtype": "text", "text": {"content": "x"}}, {"msgtype": "mixed", "mixed": {}},
                    {"msgtype": "stream_with_template_card", "stream": {"id": "s", "content": "x"}}],
            -40058: [{}, {"msgtype": "image", "image": {"url": "x"}}, {"msgtype": "stream"},
                     {"msgtype": "stream", "stream": {"content": "x"}},
                     {"msgtype": "stream", "stream": {"id": "s", "content": 5}},
                     {"msgtype": "stream", "stream": {"id": "s", "finish": True}},
                     {"msgtype": "stream", "stream": {"id": "s", "finish": "yes", "content": "x"}},
                     {"msgtype": "stream", "stream": {"id": "s", "content": "x", "feedback": {"id": "f" * 257}}},
                     {"msgtype": "markdown", "markdown": {"content": " "}},
                     {"msgtype": "template_card", "template_card": {"card_type": "none"}},
                     {"msgtype": "template_card", "template_card": {**card(), "task_id": ""}}],
            40007: [{"msgtype": "file", "file": {"media_id": "none"}}],
            40016: [{"msgtype": "template_card", "template_card": card("t", *"abcdefg")},
                    {"msgtype": "template_card", "template_card": {**card(), "button_list": []}}],
        }  # fmt: skip
        for code, bodies in wrong.items():
            for body in bodies:
                assert await bot.code("aibot_respond_msg", body, asked) == code, body
        assert "missing field `body.image.media_id`" in bot.orphans[1]["errmsg"]
        assert "headers" not in bot.orphans[1]
        assert await bot.code("aibot_send_msg", {"msgtype": "markdown", "markdown": {"content": "x"}}) == 86201
        assert await bot.code("aibot_none", {}) == -40058
        assert _seen(bot) == []


async def test_pushes_go_where_somebody_has_written() -> None:
    async with talking() as bot:
        sim = bot.sim
        for chat in ("alice", sim.group, sim.group.lower(), "nobody"):
            assert await bot.push(chat, content="x") == 93006
        await bot.asked()
        await bot.asked("hi", sim.group)
        assert await bot.push("alice", content="one", chat_type=1) == 0
        assert await bot.push("alice", content="one", chat_type=2) == 93006
        assert await bot.push(sim.group, content="all", chat_type=2) == 0
        assert await bot.push(sim.group, content="all", chat_type=1) == 93006
        assert await bot.push(sim.group.lower(), content="x") == 93006
        assert await bot.push("alice", "text", content="x") == 40008
        assert await bot.push("alice", "template_card", **card()) == 0
        assert await bot.push(sim.group, "template_card", **card()) == 40008
        sim.switches.group_cards = True
        assert await bot.push(sim.group, "template_card", **card()) == 0
        assert [each.kind for each in _seen(bot, sim.group)] == ["markdown", "template_card"]
        assert [each.kind for each in _seen(bot)] == ["markdown", "template_card"]


async def test_a_chat_takes_thirty_messages_a_minute_and_a_thousand_an_hour() -> None:
    async with talking() as bot:
        clock, asked = clock_of(bot), await bot.asked()
        for number in range(28):
            assert await bot.push("alice", content=str(number)) == 0
        assert await bot.stream(asked, "1") == 0
        for text in ("2", "3"):
            assert await bot.stream(asked, text) == 0
        assert await bot.push("alice", content="30") == 0
        assert await bot.push("alice", content="31") == 45009
        assert await bot.stream(asked, "1", sid="s2") == 45009
        assert await bot.stream(asked, "4", finish=True) == 0
        await clock.advance(60)
        bot.sim.switches.rate_unit = "frames"
        for number in range(30):
            assert await bot.stream(asked, str(number), sid="s3") == 0
        assert await bot.stream(asked, "31", sid="s3") == 45009
        bot.sim.switches.rates = False
        assert await bot.stream(asked, "31", sid="s3") == 0
        bot.sim.clear()
        bot.sim.switches.rates = True
        for _ in range(1000):
            bot.sim.platform.spend(bot.sim.group)
            await clock.advance(2.01)
        await bot.asked("hi", bot.sim.group)
        assert await bot.push(bot.sim.group, content="1001") == 45009


async def test_a_welcome_and_a_new_card_are_taken_once_and_within_five_seconds() -> None:
    async with talking() as bot:
        clock, people = clock_of(bot), bot.sim.people
        words = {"msgtype": "text", "text": {"content": "Welcome"}}
        entered = people.enter_chat("alice").req_id
        assert await bot.code("aibot_respond_welcome_msg", {"msgtype": "markdown", "markdown": {}}, entered) == 40008
        assert await bot.code("aibot_respond_welcome_msg", words, entered) == 0
        assert await bot.code("aibot_respond_welcome_msg", words, entered) == 846605
        late = people.enter_chat("alice").req_id
        await clock.advance(5)
        assert await bot.code("aibot_respond_welcome_msg", words, late) == 846605
        assert [(each.text, each.via) for each in _seen(bot)] == [("Welcome", "welcome")]
        asked = await bot.asked()
        assert await bot.reply(asked, "template_card", **card()) == 0
        (message,) = (each for each in _seen(bot) if each.card)
        assert message.card is not None
        assert (message.card.title, message.card.buttons) == ("Working", [("stop", "STOP")])
        clicked = people.click(message.message_id, "stop")
        new = {"response_type": "update_template_card", "template_card": {**card(), "main_title": {"title": "Stopped"}}}
        wrong = {**new, "template_card": card("other")}
        assert await bot.code("aibot_respond_update_msg", wrong, clicked.req_id) == -40058
        assert await bot.code("aibot_respond_update_msg", {**new, "response_type": "x"}, clicked.req_id) == -40058
        assert await bot.code("aibot_respond_update_msg", new, clicked.req_id) == 0
        assert await bot.code("aibot_respond_update_msg", new, clicked.req_id) == 846605
        late = people.click(message.message_id).req_id
        await clock.advance(5)
        assert await bot.code("aibot_respond_update_msg", new, late) == 846605
        assert bot.sim.message(message.message_id).text.startswith("Stopped")


async def test_by_switch_a_stream_may_come_with_a_card() -> None:
    async with talking(stream_with_card="accept") as bot:
        asked = await bot.asked()
        body = {
            "msgtype": "stream_with_template_card",
            "stream": {"id": "s", "content": "x"},
            "template_card": card(),
        }
        assert await bot.code("aibot_respond_msg", body, asked) == 0
        assert [each.kind for each in _seen(bot)] == ["stream", "template_card"]


async def test_pictures_in_a_text_are_taken_and_not_shown() -> None:
    async with talking() as bot:
        asked = await bot.asked()
        assert await bot.stream(asked, "x", finish=True, msg_item=[{"msgtype": "image", "image": {"base64": "x"}}]) == 0
        assert _seen(bot)[0].files == []
        media = await bot.upload(PNG, "image", "a.png")
        assert await bot.push("alice", "image", media_id=media) == 0
        assert await bot.push("alice", "file", media_id=media) == 40007
        await clock_of(bot).advance(3 * 86400)
        assert await bot.push("alice", "image", media_id=media) == 40007
