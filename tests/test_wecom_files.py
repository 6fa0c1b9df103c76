"""Files that people send in WeCom: fetched before their addresses die, and kept before an agent reads."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.store_steps import end, said, take
from tests.wecom_bots import PNG
from tests.wecom_rig import Heard, Told, WecomRig, wecom
from turnwire import Turn
from turnwire.channels.wecom import resources
from turnwire.channels.wecom.resources import AT_ONCE
from turnwire.sim._wecom_people import aes_key
from turnwire.sim._wecom_state import Webhook
from turnwire.sim.wecom import Fault
from turnwire.store import Database, StoreUnavailable
from turnwire.store.queries.conversations import live_messages
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

MP4 = b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2mp41"
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


class Reads(Heard):
    """An agent that also reads what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[list[tuple[str, str, bytes]]] = []

    async def agent(self, turn: Turn) -> AsyncIterator[str]:
        self.turns.append(turn)
        self.files.append([(file.name, file.media_type, await file.read()) for file in turn.files])
        yield f"Heard: {turn.text}"


def image_of(rig: WecomRig, number: int = 0) -> dict[str, Any]:
    """The image in the number-th thing that a bot was told."""
    told = list(rig.sim.platform.callbacks.values())[number].body
    image: dict[str, Any] = told["image"]
    return image


# Contents


@pytest.mark.parametrize(
    ("kind", "name", "data", "media_type"),
    [
        ("image", "photo.png", PNG, "image/png"),
        ("file", "报告 1.csv", b"a,b\n1,2\n", "text/csv"),
        ("file", "data.json", b'{"code": 7}', "application/json"),
        ("video", "film.mp4", MP4, "video/mp4"),
        ("file", "../../etc/passwd", b"root", "text/plain"),
    ],
)
async def test_a_file_reaches_the_agent_under_its_name(
    tmp_path: Path, clock: FakeClock, kind: Any, name: str, data: bytes, media_type: str
) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.people.send_file("alice", name, data, kind=kind)
        await rig.settled()
        assert reads.files == [[(name.rpartition("/")[2], media_type, data)]]
        assert reads.texts == [""]


async def test_texts_and_images_of_one_message_reach_the_agent_together(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.people.send_mixed(rig.sim.group, ["@Sim bot look", PNG, "and this", PNG + b"2"])
        await rig.settled()
        assert reads.texts == ["look\nand this"]
        assert [(name, data) for name, _, data in reads.files[0]] == [("image0.png", PNG), ("image1.png", PNG + b"2")]
        # The next turn knows them too.
        rig.say("again", rig.sim.group)
        await rig.settled(2)
        told = reads.turns[1].messages[0]["parts"]
        assert [part["url"].partition("/files/")[0] for part in told[1:]] == ["", ""]


async def test_a_quoted_image_is_fetched_and_named(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.settled()
        await rig.pass_time(600)
        rig.say("What is that?", quote=rig.view().messages[0].message_id)
        await rig.settled(2)
        assert reads.texts[1] == "What is that?"
        assert reads.turns[1].quote == "[photo.png]"
        assert reads.files[1] == [("photo.png", "image/png", PNG)]


async def test_what_is_quoted_with_texts_and_images_is_told_whole(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.settled()
        items = [{"msgtype": "text", "text": {"content": "mine"}}, {"msgtype": "image", "image": image_of(rig)}]
        text = {"msgtype": "text", "text": {"content": "What?"}}
        rig.tell({**text, "quote": {"msgtype": "mixed", "mixed": {"msg_item": items}}})
        await rig.settled(2)
        assert reads.turns[1].quote == "mine\n[photo.png]"
        assert [name for name, _, _ in reads.files[1]] == ["photo.png"]


@pytest.mark.parametrize("key", ["right", "wrong"])
async def test_files_of_webhooks_are_opened_with_the_key_of_the_bot(tmp_path: Path, clock: FakeClock, key: str) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock, bot={"aes_key": KEY}) as rig:
        people, bot = rig.sim.people, rig.sim.platform.bots[rig.sim.bot_id]
        bot.webhook = Webhook("http://127.0.0.1:1", "token", KEY if key == "right" else aes_key("x"))
        link = people._link(bot, people._file("image", "photo.png", PNG))
        assert set(link) == {"url"}
        about = {"msgid": "m1", "chattype": "single", "from": {"userid": "alice"}}
        taken = await rig.channel._reception.take_body({**about, "msgtype": "image", "image": link})
        assert taken.admission is not None
        await rig.until(lambda: bool(reads.turns))
        assert reads.files == ([[("photo.png", "image/png", PNG)]] if key == "right" else [[]])


# When


async def test_a_file_of_a_turn_that_waits_is_fetched_at_once(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock, turns__idle_timeout_s=1000) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(400, step=5)
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(2)
        assert reads.files == [[("photo.png", "image/png", PNG)]]
        assert rig.sim.counts["download"] == 1


async def test_a_file_that_steers_a_turn_is_there_when_it_is_read(tmp_path: Path, clock: FakeClock) -> None:
    found: list[tuple[str, bytes]] = []

    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "Waiting. "
        async for more in turn.inbox:
            found.extend([(file.name, await file.read()) for file in more.files])
            yield "Thanks."
            return

    async with wecom(tmp_path, agent, clock=clock, turns__policy="steer") as rig:
        rig.say("one")
        await rig.until(lambda: rig.shows("Waiting."))
        rig.sim.faults.add(Fault("download", "slow", seconds=20.0))
        rig.sim.people.send_file("alice", "data.csv", b"a,b\n")
        await rig.settled()
        assert found == [("data.csv", b"a,b\n")]
        assert rig.sim.counts["download"] == 1


async def test_files_that_nobody_took_while_a_turn_ran_belong_to_the_next(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    go = asyncio.Event()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        if turn.text == "one":
            yield "Working. "
            await go.wait()
            return
        async for piece in reads.agent(turn):
            yield piece

    async with wecom(tmp_path, agent, clock=clock, turns__policy="steer") as rig:
        rig.say("one")
        await rig.until(lambda: rig.shows("Working."))
        # It comes while the message has moved to the next turn already.
        rig.sim.faults.add(Fault("download", "slow", seconds=20.0))
        rig.sim.people.send_file("alice", "data.csv", b"a,b\n")
        await rig.pass_time(5)
        go.set()
        await rig.settled(2)
        assert reads.files == [[("data.csv", "text/csv", b"a,b\n")]]
        assert rig.sim.counts["download"] == 1


async def test_a_file_is_fetched_by_the_next_process_if_the_first_could_not(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.faults.add(Fault("download", "lost", count=1))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(5)
        await rig.restart()
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(2)
        assert reads.files == [[("photo.png", "image/png", PNG)]]


async def test_a_file_of_a_turn_that_waits_is_fetched_by_the_next_process_at_once(
    tmp_path: Path, clock: FakeClock
) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock, turns__idle_timeout_s=1000) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.faults.add(Fault("download", "lost", count=1))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(5)
        await rig.restart()
        await rig.pass_time(400, step=5)
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(2)
        assert reads.files == [[("photo.png", "image/png", PNG)]]


async def test_two_processes_that_fetch_the_same_file_keep_it_once(tmp_path: Path, clock: FakeClock) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.faults.add(Fault("download", "slow", seconds=20.0, count=0))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(5)
        other = resources.Resources(rig.bot, clock)
        other.gateway = rig.gateway
        await other.resume(rig.channel.name)
        await rig.pass_time(40)
        assert rig.sim.counts["download"] == 2
        with sqlite3.connect(tmp_path / "wecom.db") as store:
            assert store.execute("SELECT name FROM files").fetchall() == [("photo.png",)]
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(2)
        assert reads.files == [[("photo.png", "image/png", PNG)]]
        await rig.over(other.close())


# What cannot be had


@pytest.mark.parametrize("status", [500, 503])
async def test_a_file_is_asked_for_again_when_its_turn_begins(tmp_path: Path, clock: FakeClock, status: int) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.faults.add(Fault("download", "refuse", code=status, count=3))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(120, step=1)
        assert rig.sim.counts["download"] == 3
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(2)
        assert reads.files == [[("photo.png", "image/png", PNG)]]


async def test_a_file_is_asked_for_again_while_its_turn_waits(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("download", "refuse", code=500, count=4))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.settled()
        assert reads.files == [[("photo.png", "image/png", PNG)]]
        assert rig.sim.counts["download"] == 5


async def test_a_file_whose_address_has_died_is_named_with_the_reason(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("callback", "delay", seconds=301.0))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(301, step=5)
        await rig.settled()
        assert reads.files == [[]]
        assert reads.texts == [
            "[the image could not be fetched: the file's address is not valid any more; it holds for five minutes "
            "(HTTP 403)]"
        ]


@pytest.mark.parametrize(("key", "why"), [(KEY, "another key"), ("short", "43 letters"), ("", "43 letters")])
async def test_a_file_with_a_wrong_key_is_named_with_the_reason(
    tmp_path: Path, clock: FakeClock, key: str, why: str
) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.settled()
        rig.tell({"msgtype": "file", "file": {**image_of(rig), "aeskey": key}})
        await rig.settled(2)
        assert reads.files[1] == []
        assert reads.texts[1].startswith("[the file photo.png " if key == KEY else "[the file could not be fetched: ")
        assert why in reads.texts[1]
        assert KEY not in reads.texts[1]


async def test_a_file_that_is_too_large_is_named_with_the_reason(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.gateway.files.max_bytes = 1000
        rig.sim.people.send_file("alice", "small.txt", b"x" * 1000)
        await rig.settled()
        rig.sim.people.send_file("alice", "large.txt", b"x" * 1001)
        await rig.settled(2)
        assert [len(files) for files in reads.files] == [1, 0]
        assert reads.texts[1] == "[the file large.txt could not be fetched: it is larger than 1000 bytes]"


async def test_of_several_files_those_that_came_are_there(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("download", "refuse", code=404, nth=1))
        rig.sim.people.send_mixed("alice", ["look", PNG, PNG + b"2"])
        await rig.settled()
        assert [len(files) for files in reads.files] == [1]
        lines = reads.texts[0].splitlines()
        assert lines[0] == "look"
        assert len(lines) == 2
        assert lines[1].startswith(("[the image 1 could not be fetched", "[the image 2 could not be fetched"))


@pytest.mark.heavy
async def test_a_turn_does_not_wait_for_its_files_for_ever(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("download", "lost", count=0))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.calm()
        began = clock.monotonic()
        await rig.until(lambda: bool(reads.turns), step=1)
        assert 120 < clock.monotonic() - began < 160
        assert reads.texts[0].startswith("[the image could not be fetched: the file did not come within")
        # What comes later changes nothing any more.
        rig.sim.faults.clear()
        await rig.settled()


async def test_a_turn_that_is_stopped_waits_for_no_file(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("download", "slow", seconds=60.0))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(1)
        rig.say("/stop")
        began = clock.monotonic()
        await rig.settled(2)
        assert clock.monotonic() - began < 5
        assert reads.turns == [], "its agent is not asked at all"
        # Its message keeps what it came with: turns after it are told of the file.
        rig.say("and now?")
        await rig.settled(3)
        assert reads.texts[-1] == "and now?"
        [file] = [part for part in reads.turns[-1].messages[0]["parts"] if part["type"] == "file"]
        assert (file["filename"], file["url"][:7]) == ("photo.png", "/files/")


async def test_a_file_that_cannot_be_kept_at_once_is_kept_when_its_turn_begins(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        put = rig.gateway.files.put

        async def full(*_: Any, **__: Any) -> Any:
            raise StoreUnavailable("the disk is full")

        monkeypatch.setattr(rig.gateway.files, "put", full)
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(5)
        monkeypatch.setattr(rig.gateway.files, "put", put)
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(2)
        assert reads.files == [[("photo.png", "image/png", PNG)]]


# Bounds


async def test_only_so_many_files_are_fetched_at_once(tmp_path: Path, clock: FakeClock) -> None:
    reads = Reads()
    async with wecom(tmp_path, reads.agent, clock=clock) as rig:
        rig.sim.faults.add(Fault("download", "slow", seconds=5.0, count=0))
        people = [rig.sim.single(f"person{number}") for number in range(20)]
        for person in people:
            rig.sim.people.send_file(person, "photo.png", PNG, kind="image")
        await rig.settled(len(people), step=1)
        assert reads.files == [[("photo.png", "image/png", PNG)]] * 20
        spans = [(call.at, call.ended_at or 0.0) for call in rig.sim.calls if call.op == "download"]
        assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) == AT_ONCE


async def test_only_so_many_messages_wait_for_their_files_ahead(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "AHEAD", 2)
    told = Told()
    async with wecom(tmp_path, told.agent, clock=clock) as rig:
        rig.say("one")
        told.say("Hello ")
        await rig.until(lambda: rig.shows("Hello"))
        rig.sim.faults.add(Fault("download", "slow", seconds=20.0, count=0))
        for number in range(4):
            rig.sim.people.send_file("alice", f"{number}.png", PNG, kind="image")
        await rig.pass_time(60, step=1)
        assert rig.sim.counts["download"] == 2
        reads = Reads()
        rig.gateway.supervisor._agent = reads.agent
        told.end()
        await rig.settled(5)
        assert sorted(name for [(name, _, _)] in reads.files) == ["0.png", "1.png", "2.png", "3.png"]


# Secrets


async def test_addresses_and_keys_are_read_by_nobody(
    tmp_path: Path, clock: FakeClock, capfd: pytest.CaptureFixture[str]
) -> None:
    reads = Reads()
    trace = tmp_path / "traces"
    async with wecom(tmp_path, reads.agent, clock=clock, bot={"trace": str(trace)}) as rig:
        rig.sim.faults.add(Fault("download", "slow", seconds=20.0))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.pass_time(5)
        secrets = {image_of(rig)["url"], image_of(rig)["aeskey"]}
        pending = stored(tmp_path)
        assert "wecom-resource:" in pending
        await rig.settled()
        rig.tell({"msgtype": "file", "file": {**image_of(rig), "aeskey": KEY}})
        await rig.settled(2)
        rig.sim.faults.add(Fault("download", "lost", count=0))
        rig.sim.people.send_file("alice", "photo.png", PNG, kind="image")
        await rig.settled(3, step=1)
        secrets |= {image_of(rig, -1)["url"], image_of(rig, -1)["aeskey"], KEY}
        told = json.dumps([turn.messages for turn in reads.turns]) + json.dumps([turn.metadata for turn in reads.turns])
        written = "".join(path.read_text() for path in trace.iterdir())
        assert "aeskey" in written
        seen = "".join(capfd.readouterr())
        assert "could not be fetched" in seen
        for place in (pending, stored(tmp_path), told, written, seen):
            assert [secret for secret in secrets if secret in place] == []
        assert "wecom-resource:" not in told + stored(tmp_path)


def stored(folder: Path) -> str:
    """Every message, as anybody finds it in the store."""
    with sqlite3.connect(folder / "wecom.db") as store:
        return " ".join(bytes(row[0]).decode() for row in store.execute("SELECT content FROM messages"))


async def test_messages_of_turns_that_have_not_ended_are_found(database: Database) -> None:
    ended, lives = said("one NEEDLE", conversation="a"), said("two NEEDLE", conversation="b")
    claims = (await take(database, ended)).claims
    await end(database, claims[0], "an answer with a NEEDLE")
    await take(database, lives)
    await take(database, said("three", conversation="b"))
    await take(database, said("four NEEDLE", conversation="b"))
    found = await database.read(live_messages, lives.channel, b"NEEDLE")
    assert [json.loads(row.content)["parts"][0]["text"] for _, row in found] == ["two NEEDLE", "four NEEDLE"]
    assert len({conversation for conversation, _ in found}) == 1
    assert await database.read(live_messages, "elsewhere", b"NEEDLE") == []
