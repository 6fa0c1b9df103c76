"""Files of the simulated WeCom: uploads in pieces, downloads with their ciphers, both with their limits."""

from __future__ import annotations

import base64
import hashlib
import os

import pytest

from tests.wecom_bots import PNG, Bot, Json, clock_of, connected, http, subscribed, talking
from turnwire.sim._wecom_crypto import BadCipher, decrypt, encrypt, seal, signature, unseal

pytestmark = pytest.mark.anyio

MB = 1024 * 1024
INIT, CHUNK, FINISH = "aibot_upload_media_init", "aibot_upload_media_chunk", "aibot_upload_media_finish"


def _init(**more: object) -> Json:
    return {"type": "file", "filename": "a.bin", "total_size": 10, "total_chunks": 2, **more}


def _chunk(upload_id: str, index: object, data: bytes) -> Json:
    return {"upload_id": upload_id, "chunk_index": index, "base64_data": base64.b64encode(data).decode()}


async def _begun(bot: Bot, **more: object) -> str:
    return str((await bot.answer(INIT, _init(**more)))["body"]["upload_id"])


async def test_a_file_is_put_together_from_its_pieces_in_any_order() -> None:
    data = os.urandom(1_100_000)
    async with talking() as bot:
        await bot.asked()
        md5 = hashlib.md5(data).hexdigest()
        upload_id = await _begun(bot, total_size=len(data), total_chunks=3, md5=md5)
        pieces = [data[at : at + 512 * 1024] for at in range(0, len(data), 512 * 1024)]
        assert await bot.code(CHUNK, _chunk(upload_id, 2, pieces[2])) == 0
        assert await bot.code(FINISH, {"upload_id": upload_id}) == 40058
        for index in (0, 1):
            assert await bot.code(CHUNK, _chunk(upload_id, index, pieces[index])) == 0
        assert await bot.code(CHUNK, _chunk(upload_id, 0, b"another")) == 0
        done = await bot.answer(FINISH, {"upload_id": upload_id})
        assert (done["body"]["type"], len(done["body"]["media_id"])) == ("file", 87)
        assert done["body"]["created_at"] == int(bot.sim.clock.now())
        assert await bot.push("alice", "file", media_id=done["body"]["media_id"]) == 0
        (message,) = bot.sim.view("alice").from_bots
        assert message.file is not None
        assert (message.text, message.file.size) == ("a.bin", len(data))
        assert bot.sim.platform.files[message.file.file_id].data == data


async def test_an_upload_outlives_its_connection_but_not_half_an_hour() -> None:
    async with talking() as bot:
        upload_id = await _begun(bot, total_size=5, total_chunks=1)
        bot.sim.add_bot("bot_two", "two")
        async with subscribed(bot.sim) as again:
            assert await again.code(CHUNK, _chunk(upload_id, 0, b"12345")) == 0
            late = await _begun(again)
            assert await again.subscribe("bot_two", "two") == 0
            assert await again.code(FINISH, {"upload_id": upload_id}) == 40058
        async with subscribed(bot.sim) as again:
            assert await again.code(FINISH, {"upload_id": upload_id}) == 0
            await clock_of(bot).advance(1800)
            assert await again.code(CHUNK, _chunk(late, 0, b"12345")) == 40058


async def test_uploads_that_are_wrong_are_refused() -> None:
    async with talking() as bot:
        for code, body in [
            (-40058, _init(type="text")),
            (-40058, _init(filename="")),
            (-40058, _init(filename="文" * 86)),
            (-40058, _init(total_size=4)),
            (-40058, _init(total_size="10")),
            (-40058, _init(total_chunks=101)),
            (-40058, _init(total_chunks=0)),
            (40006, _init(total_size=20 * MB + 1)),
            (40009, _init(type="image", total_size=10 * MB + 1)),
            (40010, _init(type="voice", total_size=2 * MB + 1)),
            (40011, _init(type="video", total_size=10 * MB + 1)),
            (0, _init(total_size=20 * MB)),
        ]:
            assert await bot.code(INIT, body) == code, body
        bot.sim.switches.image_bytes = 2 * MB
        assert await bot.code(INIT, _init(type="image", total_size=2 * MB + 1)) == 40009
        upload_id = await _begun(bot, md5="0" * 32)
        for code, said in [
            (-40058, _chunk(upload_id, 2, b"x")),
            (-40058, _chunk(upload_id, -1, b"x")),
            (-40058, _chunk(upload_id, "0", b"x")),
            (-40058, {**_chunk(upload_id, 0, b"x"), "base64_data": "not base64!"}),
            (40006, _chunk(upload_id, 0, bytes(512 * 1024 + 1))),
            (40058, _chunk("none", 0, b"x")),
        ]:
            assert await bot.code(CHUNK, said) == code, said["chunk_index"]
        await bot.code(CHUNK, _chunk(upload_id, 0, b"12345"))
        await bot.code(CHUNK, _chunk(upload_id, 1, b"1234"))
        assert await bot.code(FINISH, {"upload_id": upload_id}) == 40006
        upload_id = await _begun(bot, md5="0" * 32, total_size=9)
        await bot.code(CHUNK, _chunk(upload_id, 0, b"12345"))
        await bot.code(CHUNK, _chunk(upload_id, 1, b"1234"))
        assert await bot.code(FINISH, {"upload_id": upload_id}) == 40058


async def test_a_file_must_be_what_its_type_demands() -> None:
    samples = {"image": PNG, "voice": b"#!AMR\n....", "video": b"\0\0\0\x18ftypmp42"}
    async with talking() as bot:
        for kind, data in samples.items():
            upload_id = await _begun(bot, type=kind, total_size=9, total_chunks=1)
            await bot.code(CHUNK, _chunk(upload_id, 0, b"plaintext"))
            assert await bot.code(FINISH, {"upload_id": upload_id}) == 40004
            await bot.asked()
            media_id = await bot.upload(data, kind)
            assert await bot.push("alice", kind, media_id=media_id, title="t", description="d") == 0
        assert await bot.push("alice", "video", media_id=media_id, title="t" * 65) == -40058
        assert [each.kind for each in bot.sim.view("alice").from_bots] == ["image", "voice", "video"]


async def test_a_bot_sends_only_what_it_uploaded() -> None:
    async with talking() as bot, connected(bot.sim) as other:
        bot.sim.add_bot("bot_two", "two")
        assert await other.subscribe("bot_two", "two") == 0
        asked, theirs = await bot.asked(), await other.upload(b"12345")
        told = bot.sim.people.send_file("alice", "a.txt", b"x")
        assert told is not None
        for media_id in (theirs, told.body["file"]["url"].rpartition("/")[2]):
            assert await bot.reply(asked, "file", media_id=media_id) == 40007
        assert bot.sim.view("alice").from_bots == []


async def test_a_bot_uploads_thirty_files_a_minute() -> None:
    async with talking() as bot:
        for _ in range(30):
            assert await bot.code(INIT, _init()) == 0
        assert await bot.code(INIT, _init()) == 45009
        await clock_of(bot).advance(60)
        assert await bot.code(INIT, _init()) == 0


@pytest.mark.parametrize(("total", "taken"), [(4, 4), (5, 3), (11, 2)])
async def test_too_many_pieces_at_once_are_a_system_error(total: int, taken: int) -> None:
    async with talking() as bot:
        upload_id = await _begun(bot, total_size=99, total_chunks=total)
        bot.sim.switches.chunk_latency = 10
        sent = [await bot.send(CHUNK, _chunk(upload_id, index, b"x")) for index in range(4)]
        await bot.sim.wait_calls(4, "upload_chunk")
        await clock_of(bot).advance(10)
        await bot.ping()
        assert [bot.acks[each][0]["errcode"] for each in sent] == [0] * taken + [-1] * (4 - taken)
        assert sorted(bot.sim.platform.uploads[upload_id].chunks) == list(range(taken))


async def test_what_people_send_is_downloaded_within_five_minutes_and_decrypted() -> None:
    data = os.urandom(100) + b"\x20"
    async with talking() as bot, http(bot.sim) as client:
        told = bot.sim.people.send_file("alice", "报告 1.txt", data)
        assert told is not None
        said = told.body["file"]
        assert (len(said["aeskey"]), "name" in said) == (43, False)
        got = await client.get(said["url"])
        assert got.status_code == 200
        assert "filename*=UTF-8''%E6%8A%A5%E5%91%8A%201.txt" in got.headers["content-disposition"]
        assert len(got.content) % 32 == 0
        assert decrypt(said["aeskey"], got.content) == data
        await clock_of(bot).advance(299)
        assert (await client.get(said["url"])).status_code == 200
        await clock_of(bot).advance(1)
        assert (await client.get(said["url"])).status_code == 403
        assert (await client.get("/media/none")).status_code == 403
        assert [(call.op, call.applied) for call in bot.sim.calls if call.op == "download"][-2:] == [
            ("download", False)
        ] * 2
        uploaded = await bot.upload(b"12345")
        assert (await client.get(f"/media/{uploaded}")).status_code == 403


def test_the_cipher_is_that_of_the_published_vectors() -> None:
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    cipher = base64.b64decode("bBjveTnmyQthEFA0vklx4LyTRWWSSl7VYu612ox3GgM=")
    assert encrypt(key, b"hello wecom") == cipher
    assert decrypt(key, cipher) == b"hello wecom"
    for wrong in (b"", cipher[:-1], bytes(32)):
        with pytest.raises(BadCipher):
            decrypt(key, wrong)
    with pytest.raises(ValueError, match="43 letters"):
        encrypt("short", b"")
    key = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
    text = '{"msgtype":"stream","stream":{"id":"S1"}}'
    known = "Q3stYC6hdFzMh9T8HCvyDEOAkX5ekXdBcFGXj17TA0t04DpkFxhRFqC75jmVTkAD0N3Ukl+v0DceqEirTrVoow=="
    assert seal(key, text, noise=b"0123456789abcdef") == known
    assert unseal(key, known) == text
    assert signature("tok", "1700000000", "nonce1", known) == "01d6cc9ee09e08aede6589159fcfbffc9455183b"
    for bad in ("!", base64.b64encode(encrypt(key, b"0" * 16 + b"\0\0\0\x09short")).decode()):
        with pytest.raises(BadCipher):
            unseal(key, bad)
