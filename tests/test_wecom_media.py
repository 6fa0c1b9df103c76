"""Files in both directions: uploaded in pieces whatever happens on the way, fetched and decrypted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

import httpx2
import pytest

from tests.wecom_bots import PNG, Sim, subscribed
from tests.wecom_owners import Owner, ready
from turnwire.channels.wecom import frames, media
from turnwire.channels.wecom.crypto import encrypt, key_of
from turnwire.channels.wecom.downloads import Downloaded, Downloads, name_of
from turnwire.channels.wecom.frames import CHUNK_BYTES, MediaKind
from turnwire.channels.wecom.media import MB, Uploaded, Uploader, kind_of, parallel
from turnwire.delivery.pacing import LocalPacer
from turnwire.sim.wecom import Fault, Switches
from turnwire.testing import FakeClock

pytestmark = pytest.mark.anyio

T = TypeVar("T")
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
MP4 = b"\x00\x00\x00\x18ftypisom"


async def passing(owner: Owner, work: Coroutine[Any, Any, T], *, step: float = 1.0) -> T:
    """What `work` comes to, while time passes."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await owner.calm()
        await owner.clock.advance(step)
    return task.result()


async def upload(owner: Owner, content: bytes, name: str = "a.bin", kind: MediaKind | None = None) -> Uploaded:
    uploader = Uploader(owner.connection, owner.clock, LocalPacer(owner.clock))
    return await passing(owner, uploader.upload(content, name=name, kind=kind))


async def shown(owner: Owner, done: Uploaded) -> list[tuple[str, str, bytes]]:
    """What alice sees once it is sent: kind, name and bytes of each file."""
    assert done.receipt.ok, done.receipt
    await owner.asked()
    sent = await owner.connection.push(frames.pushed("alice", frames.media(done.kind, done.media_id), group=False))
    assert sent.receipt.ok
    messages = [each for each in owner.sim.platform.in_chat(owner.sim.single()) if each.from_bot]
    return [(file.kind, file.name, file.data) for each in messages for file in each.files]


# Uploads


@pytest.mark.parametrize("size", [5, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * MB])
async def test_a_file_arrives_whole(size: int) -> None:
    content = os.urandom(size)
    async with ready() as owner:
        assert await shown(owner, await upload(owner, content, "报告.pdf")) == [("file", "报告.pdf", content)]
        calls = [call.body for call in owner.sim.calls if call.op == "upload_chunk"]
        assert sorted(call["chunk_index"] for call in calls) == list(range(-(-size // CHUNK_BYTES)))


@pytest.mark.parametrize(("chunks", "most"), [(4, 4), (7, 3), (12, 2)])
async def test_no_more_pieces_are_under_way_than_the_platform_bears(chunks: int, most: int) -> None:
    assert parallel(chunks) == most
    async with ready() as owner:
        owner.sim.switches.chunk_latency = 10
        done = await upload(owner, b"x" * (chunks * CHUNK_BYTES))
        assert done.receipt.ok
        calls = [call for call in owner.sim.calls if call.op == "upload_chunk"]
        # One more would have been refused, and said again.
        assert [call.code for call in calls] == [0] * chunks
        spans = [(call.at, call.ended_at or 0.0) for call in calls]
        assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) == most


async def test_pieces_of_a_large_file_are_paced() -> None:
    async with ready() as owner:
        done = await upload(owner, b"x" * (20 * MB))
        assert done.receipt.ok
        at = [call.at for call in owner.sim.calls if call.op == "upload_chunk"]
        assert len(at) == 40
        assert max(sum(begun <= other < begun + 1 for other in at) for begun in at) <= 8


async def test_uploads_of_a_bot_stay_within_its_limit() -> None:
    async with ready() as owner:
        uploader = Uploader(owner.connection, owner.clock, LocalPacer(owner.clock))
        for _ in range(40):
            assert (await passing(owner, uploader.upload(b"hello", name="a.txt"))).receipt.ok
        assert 45009 not in {call.code for call in owner.sim.calls}


@pytest.mark.parametrize("op", ["upload_init", "upload_chunk", "upload_finish"])
@pytest.mark.parametrize("kind", ["lost", "ack_lost", "refuse", "reset_before_applying", "reset_after_applying"])
async def test_a_step_that_goes_wrong_is_repeated_and_the_file_is_sent_once(op: str, kind: str) -> None:
    content = os.urandom(3 * CHUNK_BYTES)
    async with ready(ping_timeout=0) as owner:
        owner.sim.faults.add(Fault(op, kind, code=-1))
        assert await shown(owner, await upload(owner, content)) == [("file", "a.bin", content)]


async def test_an_upload_goes_on_where_it_was_on_another_connection() -> None:
    content = os.urandom(8 * CHUNK_BYTES)
    async with ready() as owner:
        owner.sim.faults.add(Fault("upload_chunk", "reset_after_applying", nth=5))
        assert await shown(owner, await upload(owner, content)) == [("file", "a.bin", content)]
        assert (owner.sim.counts["upload_init"], owner.sim.connections) == (1, 2)
        assert owner.sim.counts["upload_chunk"] <= 8 + 3


@pytest.mark.parametrize("op", ["upload_chunk", "upload_finish"])
async def test_an_upload_that_the_platform_has_forgotten_is_begun_again(op: str) -> None:
    content = os.urandom(2 * CHUNK_BYTES)
    async with ready() as owner:
        owner.sim.faults.add(Fault(op, "refuse", code=40058))
        assert await shown(owner, await upload(owner, content)) == [("file", "a.bin", content)]
        assert owner.sim.counts["upload_init"] == 2


async def test_an_upload_that_is_forgotten_again_and_again_is_given_up() -> None:
    async with ready() as owner:
        owner.sim.faults.add(Fault("upload_finish", "refuse", count=0, code=40058))
        done = await upload(owner, b"hello")
        assert (done.receipt.kind, done.receipt.cause, done.media_id) == ("refused", "busy", "")
        assert owner.sim.counts["upload_init"] == media.SESSIONS


async def test_too_many_uploads_are_followed_by_a_minute_of_rest() -> None:
    async with ready() as owner:
        owner.sim.faults.add(Fault("upload_init", "refuse", code=45009))
        assert (await upload(owner, b"hello")).receipt.ok
        first, second = [call.at for call in owner.sim.calls if call.op == "upload_init"]
        assert 60 <= second - first <= 70


async def test_an_upload_to_nobody_ends_in_time_and_says_so() -> None:
    async with ready(ping_timeout=0) as owner:
        owner.sim.faults.add(Fault("upload_*", "lost", count=0))
        begun = owner.clock.monotonic()
        done = await upload(owner, b"hello")
        assert (done.receipt.kind, done.receipt.cause) == ("refused", "busy")
        assert owner.clock.monotonic() - begun <= media.TOTAL_S + 2


async def test_an_upload_without_a_connection_waits_for_one_and_ends_in_time() -> None:
    async with ready(ping_timeout=0) as owner:
        owner.sim.faults.add(Fault("subscribe", "lost", count=0))
        owner.sim.sockets.break_all("reset")
        await owner.state("waiting")
        begun = owner.clock.monotonic()
        done = await upload(owner, b"hello")
        assert (done.receipt.kind, done.receipt.cause) == ("refused", "busy")
        assert media.TOTAL_S <= owner.clock.monotonic() - begun <= media.TOTAL_S + 2


async def test_an_upload_of_a_bot_that_was_taken_ends_at_once() -> None:
    async with ready(ping_timeout=0) as owner, subscribed(owner.sim):
        await owner.state("kicked")
        uploader = Uploader(owner.connection, owner.clock, LocalPacer(owner.clock))
        done = await uploader.upload(b"hello", name="a.txt")
        assert (done.receipt.cause, "another connection" in done.receipt.reason) == ("busy", True)


@pytest.mark.parametrize(
    ("content", "why"), [(b"", "fewer than 5"), (b"1234", "fewer than 5"), (b"x" * (20 * MB + 1), "larger than 20 MB")]
)
async def test_a_file_that_is_too_small_or_too_large_is_refused_in_plain_words(content: bytes, why: str) -> None:
    async with ready() as owner:
        done = await upload(owner, content)
        assert (done.receipt.kind, done.receipt.cause) == ("refused", "content")
        assert why in done.receipt.reason
        assert "upload_init" not in owner.sim.counts


@pytest.mark.parametrize(
    ("content", "asked", "kind"),
    [
        (PNG, None, "image"),
        (PNG, "image", "image"),
        (PNG, "file", "file"),
        (PNG, "video", "file"),
        (b"<svg></svg>", "image", "file"),
        (b"#!AMR\nxxxx", None, "voice"),
        (b"RIFF....WAVE", "voice", "file"),
        (MP4 + b"x", None, "video"),
        (PNG + bytes(10 * MB), "image", "file"),
        (b"#!AMR\n" + bytes(2 * MB), "voice", "file"),
        (MP4 + bytes(10 * MB), None, "file"),
    ],
)
async def test_what_does_not_fit_its_kind_goes_as_a_file(content: bytes, asked: MediaKind | None, kind: str) -> None:
    async with ready() as owner:
        done = await upload(owner, content, "x.bin", asked)
        assert await shown(owner, done) == [(kind, "x.bin", content)]
        # The platform did not have to say so.
        assert owner.sim.counts["upload_init"] == 1


async def test_an_image_that_the_platform_does_not_take_goes_as_a_file() -> None:
    content = PNG + bytes(3 * MB)
    assert kind_of(content) == "image"
    async with ready(image_bytes=2 * MB) as owner:
        assert await shown(owner, await upload(owner, content, "a.png")) == [("file", "a.png", content)]


async def test_who_no_longer_waits_for_an_upload_ends_it() -> None:
    async with ready() as owner:
        owner.sim.switches.chunk_latency = 10
        uploader = Uploader(owner.connection, owner.clock, LocalPacer(owner.clock))
        task = asyncio.ensure_future(uploader.upload(b"x" * 3 * MB, name="a"))
        await owner.sim.wait_calls(3, "upload_chunk")
        task.cancel()
        await asyncio.wait({task})
        count = owner.sim.counts["upload_chunk"]
        for _ in range(30):
            await owner.calm()
            await owner.clock.advance(1)
        assert owner.sim.counts["upload_chunk"] == count
        assert "upload_finish" not in owner.sim.counts


# Downloads


async def _fetched(owner: Owner, body: dict[str, Any], key: str = "", **more: Any) -> Downloaded:
    downloads = Downloads(owner.clock)
    try:
        return await passing(owner, downloads.fetch(body["url"], key or body["aeskey"], **more))
    finally:
        await downloads.close()


async def test_a_file_of_a_message_is_fetched_with_its_name() -> None:
    content = os.urandom(100_000)
    async with ready() as owner:
        told = owner.sim.people.send_file("alice", "年度 报告.pdf", content)
        assert told is not None
        found = await _fetched(owner, told.body["file"])
        assert (found.receipt.ok, found.content, found.name) == (True, content, "年度 报告.pdf")


async def test_a_file_in_webhook_mode_is_encrypted_with_the_bots_key() -> None:
    aes_key = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
    async with Sim(Switches()) as sim:
        from turnwire.sim._wecom_state import Webhook

        sim.platform.bots[sim.bot_id].webhook = Webhook("http://127.0.0.1:9", "tok", aes_key)
        told = sim.people.send_file("alice", "a.txt", b"hello")
        assert told is not None
        assert "aeskey" not in told.body["file"]
        found = await _fetched(Owner(sim), told.body["file"], aes_key)
        assert (found.receipt.ok, found.content, found.name) == (True, b"hello", "a.txt")
        await sim.webhooks.close()


async def test_an_address_holds_for_five_minutes() -> None:
    async with ready(ping_timeout=0) as owner:
        told = owner.sim.people.send_file("alice", "a.txt", b"hello")
        assert told is not None
        await owner.clock.advance(300)
        found = await _fetched(owner, told.body["file"])
        assert (found.receipt.cause, "five minutes" in found.receipt.reason) == ("content", True)
        assert told.body["file"]["url"] not in found.receipt.reason


@pytest.mark.parametrize("kind", ["reset_before_applying", "refuse"])
async def test_a_download_that_goes_wrong_is_tried_again(kind: str) -> None:
    async with ready(ping_timeout=0) as owner:
        owner.sim.faults.add(Fault("download", kind, code=503))
        told = owner.sim.people.send_file("alice", "a.txt", b"hello")
        assert told is not None
        assert (await _fetched(owner, told.body["file"])).content == b"hello"
        assert owner.sim.counts["download"] == 2


async def test_a_download_that_never_comes_ends_in_time() -> None:
    async with ready(ping_timeout=0) as owner:
        owner.sim.faults.add(Fault("download", "lost", count=0))
        told = owner.sim.people.send_file("alice", "a.txt", b"hello")
        assert told is not None
        found = await _fetched(owner, told.body["file"])
        assert (found.receipt.kind, found.receipt.cause) == ("refused", "busy")


async def test_a_file_that_is_too_large_is_not_read_to_its_end() -> None:
    given = 0

    async def endless() -> Any:
        nonlocal given
        while True:
            given += 1
            yield b"x" * 1000

    downloads = _answering(lambda request: httpx2.Response(200, content=endless()))
    found = await downloads.fetch("https://example.com/a", KEY, limit=10_000)
    assert (found.receipt.cause, "larger than 10000 bytes" in found.receipt.reason) == ("content", True)
    assert given <= 12
    exact = encrypt(key_of(KEY), b"x" * 10_001)
    downloads = _answering(lambda request: httpx2.Response(200, content=exact))
    assert (await downloads.fetch("https://example.com/a", KEY, limit=10_000)).receipt.cause == "content"
    assert (await downloads.fetch("https://example.com/a", KEY, limit=10_001)).content == b"x" * 10_001


@pytest.mark.parametrize(
    ("url", "key", "why"),
    [
        ("https://example.com/a", "short", "AES key"),
        ("https://example.com/a", "ABECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "decrypted"),
        ("file:///etc/passwd", KEY, "address"),
        ("https://[::1", KEY, "address"),
        ("", KEY, "address"),
    ],
)
async def test_what_cannot_be_fetched_is_refused_without_its_secrets(url: str, key: str, why: str) -> None:
    sealed = encrypt(key_of(KEY), b"hello")
    found = await _answering(lambda request: httpx2.Response(200, content=sealed)).fetch(url, key)
    assert (found.receipt.kind, found.receipt.cause, found.content) == ("refused", "content", b"")
    assert why in found.receipt.reason
    assert "example.com" not in found.receipt.reason
    assert key not in found.receipt.reason or len(key) < 43


def _answering(answer: Any) -> Downloads:
    return Downloads(FakeClock(), transport=httpx2.MockTransport(answer))


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("attachment; filename=\"a.txt\"; filename*=UTF-8''%E6%8A%A5.pdf", "报.pdf"),
        ('attachment; filename="%E6%8A%A5%20b.pdf"', "报 b.pdf"),
        ("attachment; filename=plain.txt", "plain.txt"),
        ('attachment; filename="a\\"b.txt"', 'a"b.txt'),
        ("attachment", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_file_is_url_encoded(said: str, name: str) -> None:
    assert name_of({"content-disposition": said}) == name
