"""WeCom in webhook mode: what people see of turns that the platform asks for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.feishu_rig import Told, saying
from tests.wecom_hook_rig import HOST, KEY, LINK, LINKED, PATH, TOKEN, HookRig, hooked, right
from turnwire import Turn
from turnwire.channels.replies import REPLIES
from turnwire.channels.wecom.frames import Json
from turnwire.channels.wecom.words import OWN
from turnwire.delivery.traces import read_trace
from turnwire.events import ToolCall
from turnwire.sim._wecom_crypto import seal, signature
from turnwire.sim._wecom_state import Response
from turnwire.sim._wecom_ws import again
from turnwire.sim.wecom import Callback, Fault
from turnwire.store import StoreError
from turnwire.testing import FakeClock
from turnwire.turns.admission import Inbound
from turnwire.turns.pump import Agent

pytestmark = pytest.mark.anyio

PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000020000000208060000007293c7d0")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


async def test_a_turn_is_shown_while_it_runs(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        await rig.calm()
        assert rig.texts() == ["> ⏳ Working …"]
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        assert rig.states == ["live"]
        told.say("there.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert (rig.texts(), rig.states) == (["Hello there."], ["finished"])
        right(rig)


def posts(rig: HookRig) -> list[Json]:
    """What was said by address, as far as it was taken."""
    return [call.body for call in rig.sim.calls if call.op == "response_url" and call.applied]


# Posts


async def test_the_challenge_is_answered_and_only_that_of_the_platform(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:
        sealed = seal(KEY, "an echo")
        right_one = signature(TOKEN, "1", "n", sealed)
        asked = {"timestamp": "1", "nonce": "n", "echostr": sealed}
        found = await rig.client.get(HOST + PATH, params={**asked, "msg_signature": right_one})
        assert (found.status_code, found.content) == (200, b"an echo")
        found = await rig.client.get(HOST + PATH, params={**asked, "msg_signature": "0" * 40})
        assert (found.status_code, found.content) == (403, b"")


async def test_a_post_that_is_not_the_platforms_is_refused_without_a_word(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:
        body = {
            "msgid": "m",
            "chattype": "single",
            "from": {"userid": "alice"},
            "msgtype": "text",
            "text": {"content": "hi"},
        }
        sealed = seal(KEY, json.dumps(body))
        damaged = seal(KEY[::-1], json.dumps(body))
        query = {"timestamp": "1", "nonce": "n"}
        with structlog.testing.capture_logs() as logs:
            for content, signed in (
                (json.dumps({"encrypt": sealed}), signature("other", "1", "n", sealed)),
                (json.dumps({"encrypt": damaged}), signature(TOKEN, "1", "n", damaged)),
                (json.dumps({"text": "x"}), ""),
                ("no json", ""),
            ):
                said = await rig.client.post(HOST + PATH, params={**query, "msg_signature": signed}, content=content)
                assert (said.status_code, said.content) == (403, b"")
        assert len([line for line in logs if line["event"] == "a webhook call was refused"]) == 4
        assert not any(secret in str(logs) for secret in (TOKEN + "'", KEY, sealed, "alice"))
        await rig.calm()
        assert await rig.rows() == []


async def test_a_post_that_is_too_large_is_refused(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnwire.channels.wecom.posts.BODY_BYTES", 100)
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:
        assert (await rig.client.post(HOST + PATH, content=b"x" * 101)).status_code == 413
        assert (await rig.client.post(HOST + PATH, content=b"x" * 100)).status_code == 403


async def test_a_message_that_comes_twice_is_one_turn_in_one_stream(tmp_path: Path, clock: FakeClock) -> None:
    asked: list[str] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        asked.append(turn.text)
        yield "Once."

    async with hooked(tmp_path, agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("post", "duplicate"))
        rig.say("hi")
        await rig.settled()
        await rig.pass_time(3)
        assert asked == ["hi"]
        streams = [stream for callback in rig.sim.platform.callbacks.values() for stream in callback.streams]
        assert len(streams) == 2
        assert len(set(streams)) == 1
        assert set(zip(rig.texts(), rig.states, strict=True)) == {("Once.", "finished")}
        right(rig)


async def test_a_copy_that_comes_late_shows_all_at_once(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("Once."), clock=clock) as rig:
        told = rig.say("hi")
        await rig.settled()
        rig.sim.webhooks.deliver(again(rig.sim.platform, told))
        await rig.calm()
        assert list(zip(rig.texts(), rig.states, strict=True)) == [("Once.", "finished")] * 2
        right(rig)


async def test_who_is_not_on_the_list_is_told_so(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock, bot={"allow": ["bob"]}) as rig:
        rig.say("hi")
        await rig.pass_time(3)
        assert (rig.texts(), rig.states) == ([REPLIES["en"].not_allowed], ["finished"])
        assert await rig.rows() == []
        right(rig)


async def test_a_message_that_cannot_be_stored_is_said_to_be_lost(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:

        async def away(*_: object) -> None:
            raise StoreError("the store is away")

        monkeypatch.setattr(rig.gateway, "submit", away)
        rig.say("hi")
        await rig.pass_time(3)
        assert (rig.texts(), rig.states) == ([OWN["en"].try_again], ["finished"])
        right(rig)


async def test_a_bubble_stays_as_it_is_while_the_store_is_away(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        read = rig.gateway.db.read

        async def away(*_: object, **__: object) -> None:
            raise StoreError("the store is away")

        monkeypatch.setattr(rig.gateway.db, "read", away)
        polls = rig.sim.counts["poll"]
        await rig.pass_time(5)
        assert rig.sim.counts["poll"] > polls + 2
        assert rig.shows("Hello")
        assert rig.states == ["live"]
        monkeypatch.setattr(rig.gateway.db, "read", read)
        told.say("there.")
        told.end()
        [row] = await rig.settled()
        assert (row.outcome, rig.texts(), rig.states) == ("shown", ["Hello there."], ["finished"])
        right(rig)


async def test_a_stream_that_nobody_knows_is_ended(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:
        polls = rig.process.channel._posts
        assert polls is not None
        for stream in ("S1", "", "dlv_unknown-0123456789abcdef"):
            said = await polls._polled(stream or "x")
            assert (said["stream"]["finish"], said["stream"]["content"]) == (True, OWN["en"].unknown_poll)


async def test_a_person_is_welcomed(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:
        rig.sim.people.enter_chat("alice")
        await rig.pass_time(1)
        assert rig.texts() == [OWN["en"].welcome]
        right(rig)


async def test_a_command_is_answered(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("x"), clock=clock) as rig:
        rig.say("/help")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert "/stop" in rig.texts()[0]
        assert rig.states == ["finished"]
        right(rig)


async def test_a_message_for_a_turn_that_runs_is_answered_where_that_is(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock, turns__policy="steer") as rig:
        rig.say("hi")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.say("and this")
        await rig.until(lambda: rig.states == ["live", "finished"])
        assert rig.texts()[1] == OWN["en"].elsewhere
        told.say("there.")
        told.end()
        # The agent has not read it, so that it gets a turn of its own; its bubble has ended.
        told.say("This too.")
        told.end()
        await rig.settled(2)
        assert rig.texts() == ["Hello there.", OWN["en"].elsewhere, "This too."]
        assert rig.answers()[2].via == "response_url"
        right(rig)


async def test_messages_that_are_collected_are_answered_in_one_bubble(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock, turns__policy="collect") as rig:
        rig.say("first")
        await rig.pass_time(2)
        rig.say("second")
        await rig.pass_time(2)
        rig.say("third")
        await rig.pass_time(2)
        told.say("One.")
        told.end()
        told.say("Both.")
        told.end()
        await rig.settled(2)
        assert rig.texts() == ["One.", "Both.", OWN["en"].elsewhere]
        assert rig.states == ["finished"] * 3
        right(rig)


# Long answers, long turns


async def test_an_answer_longer_than_a_bubble_goes_on_by_address(tmp_path: Path, clock: FakeClock) -> None:
    lines = [f"line {number:05}\n\n" for number in range(2_500)]
    async with hooked(tmp_path, saying(*lines), clock=clock) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        first, second = rig.answers()
        assert (first.state, first.via, second.via) == ("finished", "reply", "response_url")
        assert first.text.endswith(OWN["en"].goes_on)
        said = first.text + second.text
        assert [said.count(line.strip()) for line in lines] == [1] * len(lines)
        assert len(posts(rig)) == 1
        right(rig)


@pytest.mark.parametrize("linked", [True, False])
async def test_what_is_longer_than_both_is_linked_or_said_to_be_cut(
    tmp_path: Path, clock: FakeClock, linked: bool
) -> None:
    text = "".join(f"line {number:05}\n\n" for number in range(6_000))
    async with hooked(tmp_path, saying(text), clock=clock, bot=LINKED if linked else {}) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == ("shown" if linked else "partly")
        _, second = rig.answers()
        assert OWN["en"].cut in second.text
        assert OWN["en"].goes_on not in second.text
        assert len(posts(rig)) == 1
        if linked:
            url = LINK.findall(second.text)[-1]
            found = await rig.get(url)
            assert found.text == text.strip()
            assert found.headers["x-content-type-options"] == "nosniff"
            assert (await rig.get(url.replace("signature=", "signature=0"))).status_code == 403
        right(rig)


async def test_a_turn_that_outlasts_its_bubble_ends_at_the_address(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.until(lambda: rig.shows("It begins."))
        await rig.pass_time(320)
        assert rig.states == ["live"]
        await rig.until(lambda: rig.states == ["finished"])
        [bubble] = rig.answers()
        assert bubble.text == f"It begins.\n\n{OWN['en'].goes_on}"
        assert clock.now() - bubble.at < 345
        told.say("It goes on.")
        await rig.pass_time(600)
        assert len(rig.answers()) == 1
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert [(each.text, each.via) for each in rig.answers()[1:]] == [("It goes on.", "response_url")]
        assert len(posts(rig)) == 1
        right(rig)


@pytest.mark.heavy
async def test_a_turn_that_begins_late_still_closes_its_bubble_in_time(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("first")
        rig.say("second")
        told.say("One.")
        await rig.pass_time(400)
        assert rig.states == ["finished", "finished"]
        told.end()
        told.say("Two.")
        told.end()
        rows = await rig.settled(2)
        assert {row.outcome for row in rows} == {"shown"}
        said = [(OWN["en"].done, "response_url"), ("Two.", "response_url")]
        assert [(each.text, each.via) for each in rig.answers()[2:]] == said
        right(rig)


@pytest.mark.heavy
async def test_what_can_be_said_nowhere_comes_with_the_next_message(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(3700)
        told.say("It ends.")
        told.end()
        await rig.pass_time(5)
        [row] = await rig.rows()
        assert row.status == "held"
        assert len(rig.answers()) == 1
        assert "response_url" not in rig.sim.counts
        rig.say("are you there?")
        await rig.pass_time(3)
        assert rig.texts()[-1] == "It ends."
        told.say("Yes.")
        told.end()
        rows = await rig.settled(2)
        assert {row.outcome for row in rows} == {"shown"}
        assert sorted((each.text, each.via) for each in rig.answers()[1:]) == [
            ("It ends.", "response_url"),
            ("Yes.", "reply"),
        ]
        assert len(posts(rig)) == 1
        right(rig)


@pytest.mark.heavy
async def test_the_address_of_a_message_is_used_once(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(3700)
        told.say("It ends.")
        told.end()
        await rig.pass_time(5)
        rig.say("go on")
        told.say("More.\n\n")
        await rig.until(lambda: rig.shows("It ends."))
        await rig.pass_time(400)
        told.say("The rest.")
        told.end()
        await rig.pass_time(5)
        newest, _ = await rig.rows()
        assert newest.status == "held"
        assert rig.sim.counts["response_url"] == 1
        rig.say("and?")
        told.say("Yes.")
        told.end()
        rows = await rig.settled(3)
        assert {row.outcome for row in rows} == {"shown"}
        assert [each.text for each in rig.answers() if each.via == "response_url"] == ["It ends.", "The rest."]
        right(rig)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["ack_lost", "reset_after_applying", "reset_before_applying", "lost"])
async def test_an_answer_by_address_that_gets_no_word_is_seen_once(tmp_path: Path, clock: FakeClock, kind: str) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(400)
        rig.sim.faults.add(Fault("response_url", kind))
        told.say("It ends.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert [each.text for each in rig.answers()[1:]] == ["It ends."]


async def test_the_address_stands_in_no_log(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    trace = tmp_path / "traces"
    with structlog.testing.capture_logs() as logs:
        async with hooked(tmp_path, told.agent, clock=clock, bot={"trace": str(trace)}) as rig:
            rig.say("hi")
            told.say("It begins.\n\n")
            await rig.pass_time(400)
            rig.sim.faults.add(Fault("response_url", "refuse", code=40201))
            told.end()
            await rig.pass_time(30)
    written = "".join(file.read_text() for file in trace.rglob("*") if file.is_file())
    assert '"hi"' in written
    assert '"POST /response_url"' in written
    assert "response_code" not in written + str(logs)


async def test_a_trace_holds_what_was_posted_and_how_bubbles_ended(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()

    async def agent(turn: Turn) -> AsyncIterator[Any]:
        await turn.attach(PNG, name="a.png")
        await turn.attach(b"1,2", name="data.csv")
        async for piece in told.agent(turn):
            yield piece

    trace = tmp_path / "traces"
    async with hooked(tmp_path, agent, clock=clock, bot={**LINKED, "trace": str(trace)}) as rig:
        rig.sim.people.enter_chat("alice")
        await rig.pass_time(1)
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(340)
        rig.sim.faults.add(Fault("response_url", "reset_after_applying"))
        told.say("It ends.")
        told.end()
        await rig.settled()
        bubble, last = rig.answers()[1:]
        assert last.text.startswith("It ends.")
        [url] = LINK.findall(last.text)
        assert (await rig.get(url)).content == b"1,2"
        [code] = rig.sim.platform.responses
    entries = read_trace(next(trace.iterdir()).read_bytes().splitlines())
    out = [entry for entry in entries if entry.dir == "out"]
    assert [entry.kind for entry in out] == ["ANSWER text", "ANSWER stream", "POST /response_url", "POST /response_url"]
    assert out[0].data["body"]["text"]["content"] == OWN["en"].welcome
    ended = out[1].data["body"]["stream"]
    assert (ended["content"], ended["finish"]) == (bubble.raw, True)
    [picture] = ended["msg_item"]
    assert picture["image"]["base64"].endswith(" characters")
    posted = out[2].data["body"]["markdown"]["content"]
    assert posted.startswith("It ends.")
    assert "data.csv" in posted
    answers = {entry.data["to"]: (entry.kind, entry.data["code"]) for entry in entries if "to" in entry.data}
    assert answers == {out[2].seq: ("unknown", None), out[3].seq: ("refused", 60140)}
    written = "".join(str(entry) for entry in entries)
    assert [one for one in (code, "response_code", url, url.split("signature=")[1]) if one in written] == []


async def test_what_the_platform_does_not_let_through_is_told(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with hooked(tmp_path, told.agent, clock=clock) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(400)
        rig.sim.faults.add(Fault("response_url", "refuse", code=40201))
        told.say("A bad word.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == "partly"
        assert rig.texts()[1:] == [OWN["en"].withheld]


@pytest.mark.parametrize(("waited", "status"), [(10, "settled"), (3700, "held")])
async def test_what_nobody_asked_for_is_told_at_the_address_while_it_holds(
    tmp_path: Path, clock: FakeClock, waited: int, status: str
) -> None:
    async with hooked(tmp_path, saying("News."), clock=clock) as rig:
        rig.say("/help")
        await rig.settled()
        await rig.pass_time(waited)
        message = json.dumps({"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}).encode()
        wish = Inbound(
            channel=rig.process.channel.name, owner="alice", conversation="alice", key="k", message=message,
            message_id="m", conversation_id="conv_x", turn_id="turn_x", answer_id="msg_x",
        )  # fmt: skip
        await rig.gateway.submit(wish)
        await rig.pass_time(30)
        newest, _ = await rig.rows()
        assert (newest.push, newest.status) == (1, status)
        assert rig.texts()[1:] == (["News."] if status == "settled" else [])
        if status == "held":
            rig.say("what is new?")
            await rig.pass_time(3)
            assert [each.via for each in rig.answers() if each.text == "News."] == ["reply", "response_url"]
        right(rig)


async def test_a_group_is_answered_in_the_group(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, saying("Hello."), clock=clock) as rig:
        rig.say("hi", rig.sim.group)
        [row] = await rig.settled()
        assert row.outcome == "shown"
        assert [(each.text, each.state) for each in rig.answers(rig.sim.group)] == [("Hello.", "finished")]
        assert rig.answers() == []
        right(rig)


# Approvals


def paying(count: int) -> Agent:
    async def agent(turn: Turn) -> AsyncIterator[Any]:
        if turn.resolutions:
            yield "Paid."
            return
        yield "I would pay."
        for number in range(count):
            yield ToolCall(id=f"pay-{number}", name="pay", input={"eur": number}, needs_approval=True)

    return agent


async def test_one_approval_is_asked_for_by_a_card(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, paying(1), clock=clock) as rig:
        rig.say("hi")
        await rig.settled()
        bubble, card = rig.answers()
        assert (bubble.state, card.via) == ("finished", "response_url")
        assert card.card is not None
        rig.sim.people.click(card.message_id)
        await rig.pass_time(3)
        card = rig.sim.message(card.message_id)
        assert card.card is not None
        assert card.card.buttons == []
        right(rig)


async def test_what_follows_from_a_click_is_answered_at_the_clicks_address(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, paying(1), clock=clock) as rig:
        rig.say("hi")
        await rig.settled()
        deliver = rig.sim.people._deliver

        def with_address(callback: Callback) -> None:
            code = rig.sim.platform.make_id("code_")
            rig.sim.platform.responses[code] = Response(callback)
            callback.body["response_url"] = f"{rig.sim.base_url}/cgi-bin/aibot/response?response_code={code}"
            deliver(callback)

        rig.sim.people._deliver = with_address
        rig.sim.people.click(rig.answers()[1].message_id)
        rows = await rig.settled(2)
        assert {row.outcome for row in rows} == {"shown"}
        assert [(each.text, each.via) for each in rig.answers()[2:]] == [("Paid.", "response_url")]
        right(rig)


async def test_several_approvals_are_asked_for_in_words(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, paying(2), clock=clock) as rig:
        rig.say("hi")
        await rig.settled()
        [bubble] = rig.answers()
        assert bubble.text.count("✋ **") == 2
        right(rig)
