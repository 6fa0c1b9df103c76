"""The guard as a transport: what it guards, encodings and time, over transports that the tests write."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from tests.fake_provider import delta, finish, sse
from tests.guard_bodies import DONE, KEY, URL, WHOLE, Inner, ask, at_once, client_of, open_, passes, then_silence
from turnwire.agents._guard_pump import QUEUED_BYTES, QUEUED_CHUNKS
from turnwire.agents.guard import GuardError, wire_of
from turnwire.clock import sleep
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio


# What is guarded


@pytest.mark.parametrize(
    ("method", "url", "body", "wire"),
    [
        ("POST", "https://api.openai.com/v1/chat/completions", {"stream": True}, "openai"),
        ("POST", "https://x.test/openai/deployments/d/chat/completions?api-version=1", {"stream": True}, "openai"),
        ("POST", "https://api.openai.com/v1/chat/completions", {"stream": False}, None),
        ("POST", "https://api.openai.com/v1/chat/completions", {}, None),
        ("POST", "https://api.openai.com/v1/responses", {"stream": True}, "openai-responses"),
        ("POST", "https://api.openai.com/v1/responses", {"model": "m"}, None),
        ("GET", "https://api.openai.com/v1/responses/resp_1?stream=true", None, "openai-responses"),
        ("GET", "https://api.openai.com/v1/responses/resp_1", None, None),
        ("POST", "https://api.anthropic.com/v1/messages?beta=true", {"stream": True}, "anthropic"),
        ("POST", "https://api.anthropic.com/v1/messages/count_tokens", {"messages": []}, None),
        ("POST", "https://v.test/publishers/anthropic/models/c:streamRawPredict", {"stream": True}, "anthropic"),
        ("POST", "https://g.test/v1beta/models/m:streamGenerateContent?alt=sse", {"contents": []}, "google"),
        ("POST", "https://g.test/v1beta/models/m:streamGenerateContent", {"contents": []}, "other"),
        ("POST", "https://g.test/v1beta/models/m:generateContent", {"contents": []}, None),
        ("POST", "https://x.test/v1/completions", {"stream": True}, "other"),
        ("POST", "https://x.test/mcp", {"jsonrpc": "2.0"}, None),
        ("GET", "https://x.test/mcp", None, None),
    ],
)
def test_the_wire_is_known_by_the_request(method: str, url: str, body: Any, wire: str | None) -> None:
    assert wire_of(httpx2.Request(method, url, json=body)) == wire


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b"null", b'"x"'])
def test_a_body_of_any_kind_is_taken(content: bytes) -> None:
    assert wire_of(httpx2.Request("POST", URL, content=content)) is None


async def test_what_is_no_stream_passes_as_it_is_but_for_limits_that_are_missing() -> None:
    clock = FakeClock()
    inner = Inner(lambda: at_once(b'{"choices": []}'), content_type="application/json")
    async with client_of(inner, clock) as client:
        response = await client.post(URL, json={}, timeout=httpx2.Timeout(None, connect=3.0))
        assert response.json() == {"choices": []}
        assert response.headers["content-type"] == "application/json"
    assert inner.requests[0].extensions["timeout"] == {"connect": 3.0, "read": 600.0, "write": 60.0, "pool": 60.0}
    assert "gzip" in inner.requests[0].headers["accept-encoding"]


async def test_a_guarded_request_asks_for_plain_bytes_and_leaves_reading_to_the_guard() -> None:
    inner = Inner(lambda: at_once(*WHOLE), content_type="text/plain", content_length="9")
    async with client_of(inner, FakeClock()) as client, ask(client) as response:
        assert await response.aread() == b"".join(WHOLE)
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "content-length" not in response.headers
    assert inner.requests[0].headers["accept-encoding"] == "identity"
    assert inner.requests[0].extensions["timeout"]["read"] is None


async def test_a_refusal_passes_as_it_is_but_may_not_fall_silent() -> None:
    clock = FakeClock()
    body = b'{"error": {"message": "slow down"}}'
    inner = Inner(lambda: at_once(gzip.compress(body)), status=429, content_encoding="gzip", retry_after="7")
    async with client_of(inner, clock) as client, ask(client) as response:
        assert response.status_code == 429
        assert await response.aread() == body
        assert response.headers["retry-after"] == "7"
    silent = Inner(lambda: then_silence(b"{"), status=500)
    async with client_of(silent, clock, idle_bytes=5) as client, ask(client) as response:
        with pytest.raises(GuardError, match="sent nothing for 5 s"):
            await passes(clock, response.aread(), 5.0)


async def test_a_stream_of_an_unknown_kind_only_has_its_silence_bounded() -> None:
    clock = FakeClock()
    inner = Inner(lambda: then_silence(b"\r: any bytes"))
    async with client_of(inner, clock, idle_bytes=5) as client:
        request = client.build_request("POST", "http://x.test/v1/completions", json={"stream": True})
        response = await client.send(request, stream=True)
        chunks: Any = response.aiter_raw()
        assert await anext(chunks) == b"\r: any bytes"
        with pytest.raises(GuardError) as caught:
            await passes(clock, anext(chunks), 5.0)
        assert caught.value.kind == "idle_bytes"


async def test_secrets_of_the_request_are_not_repeated() -> None:
    said = f"bad key {KEY} in header, query-secret-1 in the address"
    inner = Inner(lambda: at_once(sse({"error": {"message": said}})))
    async with client_of(inner, FakeClock()) as client:
        request = client.stream(
            "POST", f"{URL}?key=query-secret-1", json={"stream": True}, headers={"authorization": f"Bearer {KEY}"}
        )
        async with request as response:
            with pytest.raises(GuardError) as caught:
                await response.aread()
    assert str(caught.value).endswith("bad key *** in header, *** in the address")


# Encodings


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_compressed_stream_comes_as_it_is_flushed(encoding: str) -> None:
    packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
    more = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield packer.compress(WHOLE[0]) + packer.flush(zlib.Z_SYNC_FLUSH)
        await more.wait()
        yield packer.compress(b"".join(WHOLE[1:])) + packer.flush()

    async with client_of(Inner(pieces, content_encoding=encoding), FakeClock()) as client, ask(client) as response:
        chunks = response.aiter_bytes()
        assert await anext(chunks) == WHOLE[0]
        more.set()
        assert b"".join([chunk async for chunk in chunks]) == b"".join(WHOLE[1:])


@pytest.mark.parametrize(
    ("encoding", "body", "message"),
    [
        ("gzip", gzip.compress(b"".join(WHOLE))[:40], "ended within its encoding"),
        ("gzip", b"no gzip at all", "encoding is damaged"),
        ("br", b"anything", "not asked for"),
    ],
    ids=["cut", "not gzip", "not asked for"],
)
async def test_an_encoding_that_cannot_be_undone_is_an_error(encoding: str, body: bytes, message: str) -> None:
    inner = Inner(lambda: at_once(body), content_encoding=encoding)
    async with client_of(inner, FakeClock()) as client, ask(client) as response:
        with pytest.raises(GuardError, match=message):
            await response.aread()


async def test_what_is_packed_very_small_is_unpacked_in_pieces() -> None:
    bomb = gzip.compress(b"data: " + b"x" * 50_000_000)
    inner = Inner(lambda: at_once(bomb), content_encoding="gzip")
    async with client_of(inner, FakeClock(), max_event_bytes=100_000) as client, ask(client) as response:
        tracemalloc.start()
        try:
            with pytest.raises(GuardError, match="more than 100000 bytes"):
                await response.aread()
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
        finally:
            tracemalloc.stop()


# Time


async def test_a_head_that_does_not_come_is_an_error_and_leaves_nothing() -> None:
    clock = FakeClock()
    left = asyncio.Event()

    class Silent(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            try:
                return await asyncio.Event().wait()  # type: ignore[return-value]
            finally:
                left.set()

    async with client_of(Silent(), clock, first_byte=3) as client:
        with pytest.raises(GuardError) as caught:
            await passes(clock, open_(client), 3.0)
        assert caught.value.kind == "first_byte"
        assert left.is_set()
        assert clock.pending == 0


async def test_errors_of_connecting_stay_what_they_are() -> None:
    class Refusing(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            raise httpx2.ConnectError("refused")

    async with client_of(Refusing(), FakeClock()) as client:
        with pytest.raises(httpx2.ConnectError, match="refused"):
            await open_(client)


async def test_a_slow_reader_loses_nothing_and_its_time_does_not_count() -> None:
    clock = FakeClock()
    many = [sse(delta(f"{number} " + "x" * 9000)) for number in range(400)]
    inner = Inner(lambda: at_once(*many, sse(finish()), DONE))
    async with client_of(inner, clock, idle_bytes=5) as client, ask(client) as response:
        got, longest = b"", 0
        async for chunk in response.aiter_raw():
            got += chunk
            longest = max(longest, len(chunk))
            await clock.advance(20.0)
        assert got == b"".join([*many, sse(finish()), DONE])
        assert longest < QUEUED_BYTES + 64 * 1024


async def test_silence_after_a_slow_reader_is_measured_from_when_reading_went_on() -> None:
    clock = FakeClock()
    first = sse(delta("x" * QUEUED_BYTES))

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        await sleep(clock, 4.0)
        yield sse(delta("y")) + sse(finish()) + DONE

    async with client_of(Inner(pieces), clock, idle_bytes=5) as client:
        response = await open_(client)
        await clock.advance(100.0)
        assert (await passes(clock, response.aread(), 4.0)).endswith(DONE)


async def test_what_waits_for_its_reader_is_bounded() -> None:
    clock = FakeClock()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield sse(delta("x"))
            await asyncio.sleep(0)

    inner = Inner(endless)
    async with client_of(inner, clock) as client:
        response = await open_(client)
        for _ in range(40):
            await clock.settle()
        assert inner.bodies[0].read == QUEUED_CHUNKS
        await response.aclose()
    assert inner.bodies[0].closed


async def test_a_flood_after_the_finish_ends_with_the_grace() -> None:
    clock = FakeClock()

    async def pieces() -> AsyncIterator[bytes]:
        yield sse(finish())
        while True:
            yield sse(delta("!"))
            await sleep(clock, 0.01)

    async with client_of(Inner(pieces), clock) as client:
        response = await open_(client)
        body = await passes(clock, response.aread(), 1.0 + 0.05)
        assert body.endswith(DONE)


async def test_a_timeout_on_one_read_loses_nothing() -> None:
    clock = FakeClock()
    more = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield WHOLE[0]
        await more.wait()
        yield b"".join(WHOLE[1:])

    async with client_of(Inner(pieces), clock) as client:
        response = await open_(client)
        stream: Any = response.stream
        assert await anext(stream.__aiter__()) == WHOLE[0]
        for _ in range(3):
            waiting = asyncio.ensure_future(anext(stream.__aiter__()))
            await clock.settle()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        more.set()
        assert await anext(stream.__aiter__()) == b"".join(WHOLE[1:])
        await response.aclose()
