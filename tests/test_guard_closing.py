"""How guarded streams are closed: with their turn, with their client, within a second, whatever is below."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.guard_bodies import URL, WHOLE, Inner, ask, client_of, open_, passes, then_silence
from turnwire.agents.guard import GuardError, closing_streams, guarded_client
from turnwire.clock import sleep
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio


async def test_a_stream_that_nobody_reads_on_is_closed_with_the_turn() -> None:
    clock = FakeClock()
    inner = Inner(lambda: then_silence(WHOLE[0]))
    client = client_of(inner, clock)
    kept = []

    def closed() -> list[bool]:
        return [body.closed for body in inner.bodies]

    async with closing_streams():
        async with closing_streams():
            kept.append(await open_(client))
        assert closed() == [True]
        kept.append(await asyncio.create_task(open_(client)))
        await clock.settle()
        assert closed() == [True, False]
    assert closed() == [True, True]
    kept.append(await open_(client))
    assert closed() == [True, True, False]
    await client.aclose()
    assert closed() == [True, True, True]
    assert inner.closed


async def test_a_stream_that_nobody_holds_is_closed() -> None:
    clock = FakeClock()
    inner = Inner(lambda: then_silence(WHOLE[0]))
    async with client_of(inner, clock) as client:
        response = await open_(client)
        await clock.settle()
        del response
        gc.collect()
        await clock.until(lambda: inner.bodies[0].closed)


async def test_closing_takes_a_second_at_most_whatever_is_below() -> None:
    clock = FakeClock()
    inner = Inner(lambda: then_silence(WHOLE[0]), stuck=True)
    client = client_of(inner, clock)
    first, second, third = [await open_(client) for _ in range(3)]
    await passes(clock, first.aclose(), 1.0)

    async def turn() -> tuple[httpx2.Response, httpx2.Response]:
        async with closing_streams():
            return await asyncio.gather(open_(client), open_(client))

    left = await passes(clock, turn(), 1.0)
    await passes(clock, client.aclose(), 2.0)  # the streams, then what is below
    assert [body.close_asked for body in inner.bodies] == [True] * 5
    assert not any(response.is_closed for response in (second, third, *left))
    inner.release.set()


async def test_a_stream_that_ended_well_is_drained_shortly() -> None:
    clock = FakeClock()
    seen = []

    async def late_end() -> AsyncIterator[bytes]:
        for piece in WHOLE:
            yield piece
        for _ in range(40):
            yield b"x" * 65536
        await sleep(clock, 0.04)
        seen.append("end")

    async with client_of(Inner(late_end), clock) as client:
        await passes(clock, (await open_(client)).aread(), 0.04)
        assert seen == ["end"]
    async with client_of(Inner(lambda: then_silence(*WHOLE)), clock) as client:
        await passes(clock, (await open_(client)).aread(), 0.05)


async def test_cancelling_the_reader_closes_the_stream() -> None:
    clock = FakeClock()
    inner = Inner(lambda: then_silence(WHOLE[0]))

    async def turn(client: httpx2.AsyncClient) -> None:
        async with ask(client) as response:
            await response.aread()

    async with client_of(inner, clock) as client:
        reading = asyncio.create_task(turn(client))
        await clock.settle()
        reading.cancel()
        await asyncio.wait({reading})
        assert reading.cancelled()
        assert inner.bodies[0].closed
    assert clock.pending == 0


async def test_closing_the_client_ends_a_read_with_an_error() -> None:
    clock = FakeClock()
    client = client_of(Inner(lambda: then_silence(WHOLE[0])), clock)
    reading = asyncio.ensure_future((await open_(client)).aread())
    await clock.settle()
    await client.aclose()
    with pytest.raises(GuardError, match="closed on this side"):
        await reading


async def test_an_error_that_is_no_ones_fault_below_is_not_hidden() -> None:
    async def faulty() -> AsyncIterator[bytes]:
        yield WHOLE[0]
        raise LookupError("a bug")

    async with client_of(Inner(faulty), FakeClock()) as client:
        with pytest.raises(LookupError, match="a bug"):
            await (await open_(client)).aread()


async def test_a_client_takes_the_proxy_that_it_is_given() -> None:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, guarded_client(proxy=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        response = await client.post(URL, json={"stream": True})
        assert response.status_code == 502
    assert asked == [f"POST {URL} HTTP/1.1\r\n".encode()]
