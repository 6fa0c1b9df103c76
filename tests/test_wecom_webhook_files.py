"""Files on WeCom in webhook mode: pictures with the end of a bubble, signed links, and what is said to be missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.feishu_rig import Told
from tests.wecom_hook_rig import HOST, LINK, LINKED, PATH, hooked, right
from turnwire import Turn
from turnwire.channels.wecom.links import Links
from turnwire.channels.wecom.words import OWN
from turnwire.delivery.state import load
from turnwire.testing import FakeClock
from turnwire.turns.pump import Agent

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(rounds=30)


PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000020000000208060000007293c7d0")


def attaching(*files: tuple[bytes, str]) -> Agent:
    async def agent(turn: Turn) -> AsyncIterator[str]:
        yield "Look: "
        for content, name in files:
            await turn.attach(content, name=name)
        yield "done."

    return agent


async def test_pictures_come_with_the_end_of_the_bubble(tmp_path: Path, clock: FakeClock) -> None:
    files = [(PNG + bytes([number]), f"{number}.png") for number in range(3)]
    async with hooked(tmp_path, attaching(*files), clock=clock) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        [bubble] = rig.answers()
        assert (bubble.raw, bubble.state) == ("Look: \n\ndone.", "finished")
        assert [(file.kind, file.size) for file in bubble.files] == [("image", len(PNG) + 1)] * 3
        right(rig)


async def test_more_pictures_than_an_end_takes_are_said_to_be_missing(tmp_path: Path, clock: FakeClock) -> None:
    files = [(PNG + bytes([number]), f"{number:02}.png") for number in range(12)]
    async with hooked(tmp_path, attaching(*files), clock=clock) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "partly"
        [bubble] = rig.answers()
        assert len(bubble.files) == 10
        assert [f"{number:02}.png" in bubble.raw for number in range(12)] == [False] * 10 + [True] * 2
        right(rig)


async def test_a_file_that_cannot_be_sent_is_linked(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, attaching((b"a,b\n1,2\n", "data.csv")), clock=clock, bot=LINKED) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "shown"
        [bubble] = rig.answers()
        [url] = LINK.findall(bubble.text)
        assert url.startswith(f"{HOST}{PATH}/files/")
        found = await rig.get(url)
        assert (found.status_code, found.content) == (200, b"a,b\n1,2\n")
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-disposition"].startswith("attachment")
        for wrong in (url.replace("signature=", "signature=0"), url.replace("until=", "until=9"), url.split("?")[0]):
            assert (await rig.get(wrong)).status_code == 403
        other = url.replace("/files/", "/answers/")
        assert (await rig.get(other)).status_code == 403
        right(rig)


def test_a_link_holds_for_seven_days_and_for_one_thing() -> None:
    links, others = Links("https://a.example/wecom/main", "key"), Links("https://a.example/wecom/main", "another key")
    url = links.to("files", "file_1", "Zahlen & more.csv", 1_000.5)
    assert url == links.to("files", "file_1", "Zahlen & more.csv", 1_000.5)
    asked = dict(parse_qsl(urlsplit(url).query))
    until, signature = asked["until"], asked["signature"]

    def opens(links: Links, kind: str = "files", own: str = "file_1", until: str = until, now: float = 1_000) -> bool:
        return links.opens(kind, own, until=until, signature=signature, now=now)

    assert opens(links)
    assert opens(links, now=1_000 + 7 * 86400 - 1)
    assert not opens(links, now=1_000 + 7 * 86400)
    assert not opens(links, until=str(int(until) + 1))
    assert not opens(links, own="file_2")
    assert not opens(links, kind="answers")
    assert not opens(others)
    assert not opens(Links("https://a.example/wecom/other", "key"))


async def test_a_file_that_can_be_shown_nowhere_is_said_to_be_missing(tmp_path: Path, clock: FakeClock) -> None:
    async with hooked(tmp_path, attaching((b"a,b\n1,2\n", "data.csv"), (PNG, "a.png")), clock=clock) as rig:
        rig.say("hi")
        [row] = await rig.settled()
        assert row.outcome == "partly"
        [bubble] = rig.answers()
        assert "data.csv" in bubble.raw
        assert OWN["en"].no_files in bubble.raw
        assert [file.kind for file in bubble.files] == ["image"]
        assert [item.status for item in load(row.state).items.values()] == ["refused", "confirmed"]
        right(rig)


@pytest.mark.heavy
@pytest.mark.parametrize("linked", [True, False])
async def test_a_picture_after_the_bubble_is_linked_or_said_to_be_missing(
    tmp_path: Path, clock: FakeClock, linked: bool
) -> None:
    told = Told()

    async def agent(turn: Turn) -> AsyncIterator[str]:
        await turn.attach(PNG, name="first.png")
        async for piece in told.agent(turn):
            yield piece
        await turn.attach(PNG + b"1", name="second.png")

    async with hooked(tmp_path, agent, clock=clock, bot=LINKED if linked else {}) as rig:
        rig.say("hi")
        told.say("It begins.\n\n")
        await rig.pass_time(400)
        told.say("It ends.")
        told.end()
        [row] = await rig.settled()
        assert row.outcome == ("shown" if linked else "partly")
        first, second = rig.answers()
        assert [file.size for file in first.files] == [len(PNG)]
        assert "second.png" in second.text
        assert "first.png" not in second.text
        if linked:
            assert (await rig.get(LINK.findall(second.text)[0])).content == PNG + b"1"
        right(rig)
