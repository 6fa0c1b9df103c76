"""The relay: what one process commits, the others see at once; whatever is lost on the way makes them look."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from tests import servers
from turnwire.clock import Clock, SystemClock
from turnwire.journal import Hub, Topic, redis_relay
from turnwire.journal.follow import CONVERSATION
from turnwire.journal.redis_relay import RedisRelay
from turnwire.journal.relay import RelayError, open_relay
from turnwire.testing.clock import FakeClock

pytestmark = pytest.mark.anyio

LIMIT_S = 20.0


async def soon(awaitable: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaitable, LIMIT_S)


class Process:
    """One process of a gateway: its hub, its end of the relay, and what the relay told it."""

    def __init__(self, url: str, stream: str, name: str, clock: Clock | None = None) -> None:
        self.hub = Hub()
        self.stops: list[tuple[str, str]] = []
        self.changes: list[str] = []
        self.pokes = 0
        self._told = asyncio.Event()
        self.relay = RedisRelay(
            url,
            process=name,
            hub=self.hub,
            clock=clock or SystemClock(),
            stop=self._stop,
            told=self.changes.append,
            poke=self._poke,
            stream=stream,
        )

    def _stop(self, turn_id: str, by: str) -> None:
        self.stops.append((turn_id, by))
        self._told.set()

    def _poke(self) -> None:
        self.pokes += 1
        self._told.set()

    async def told(self, condition: Callable[[], bool]) -> None:
        """Waits until a poke or a stop made the condition true."""
        while not condition():
            self._told.clear()
            await soon(self._told.wait())

    async def heard(self, other: Process) -> None:
        """Waits until everything that `other` sent so far was received here."""
        mark = ("turn_mark", secrets.token_hex(8))
        other.relay.stop(*mark)
        await self.told(lambda: mark in self.stops)
        self.stops.remove(mark)


async def ended(topic: Topic) -> None:
    async def read() -> None:
        while not topic.ended:
            await topic.changed()

    await soon(read())


def pauses(clock: FakeClock) -> list[float]:
    """The seconds until each of the clock's timers."""
    return [round(timer.due - clock._elapsed, 6) for timer in clock._timers if timer.callback is not None]


class Server:
    """A Redis-compatible server of the test's own, which can go away and come back empty."""

    def __init__(self) -> None:
        self._port = servers._free_port()
        self._password = secrets.token_hex(16)
        self._running = contextlib.ExitStack()
        self.url = f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def client(self) -> Any:
        return Redis.from_url(self.url)

    def start(self) -> None:
        self._running.enter_context(servers._guarded(servers._prepare_valkey(self._port, self._password)))

    def stop(self) -> None:
        self._running.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as opened:
        yield opened


@pytest.fixture
async def stream(client: Any) -> AsyncIterator[str]:
    name = f"test:{os.urandom(8).hex()}"
    yield name
    await client.delete(name)


@contextlib.asynccontextmanager
async def connected(
    url: str, stream: str, *names: str, clock: Clock | None = None, wait: bool = True
) -> AsyncIterator[tuple[Process, ...]]:
    """Processes on one stream, each past its first connect unless told not to wait for it."""
    processes = tuple(Process(url, stream, name, clock) for name in names)
    for process in processes:
        process.relay.start()
    try:
        for process in processes if wait else ():
            await process.told(lambda process=process: process.pokes == 1)  # type: ignore[misc]
            process.pokes = 0
        yield processes
    finally:
        for process in processes:
            await process.relay.close()


@pytest.fixture
async def pair(redis_url: str, stream: str) -> AsyncIterator[tuple[Process, ...]]:
    async with connected(redis_url, stream, "here", "there") as processes:
        yield processes


def records(first: int, count: int) -> list[bytes]:
    return [b'{"type":"text-delta","delta":"%d"}' % seq for seq in range(first, first + count)]


async def test_records_arrive_in_order_without_gaps(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = there.hub.join("turn_1")
    for first in range(0, 300, 3):
        here.relay.publish("turn_1", first, records(first, 3), first == 297)
        if first % 30 == 0:
            await there.heard(here)
    await ended(topic)
    assert topic.head == 300
    assert topic.records(0) == records(0, 300)
    assert there.pokes == 0


async def test_records_of_many_turns_do_not_mix(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topics = [there.hub.join(f"turn_{number}") for number in range(5)]
    for first in range(4):
        for number in range(5):
            here.relay.publish(f"turn_{number}", first, [b"%d of %d" % (first, number)], first == 3)
    for number, topic in enumerate(topics):
        await ended(topic)
        assert topic.records(0) == [b"%d of %d" % (first, number) for first in range(4)]


async def test_the_last_record_is_an_end_also_when_it_is_known(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = there.hub.join("turn_1", 3)
    here.relay.publish("turn_1", 2, records(2, 1), True)
    await ended(topic)
    assert (topic.head, there.pokes) == (3, 0)


async def test_what_is_known_is_not_shown_again(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = there.hub.join("turn_1", 2)
    changes = topic.changes
    here.relay.publish("turn_1", 0, records(0, 2), False)
    await there.heard(here)
    assert (topic.head, topic.changes, there.pokes) == (2, changes, 0)
    here.relay.publish("turn_1", 1, records(1, 2), False)
    await there.heard(here)
    assert topic.records(2) == records(2, 1)


async def test_a_process_does_not_hear_itself(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = here.hub.join("turn_1")
    here.relay.publish("turn_1", 0, records(0, 2), True)
    here.relay.stop("turn_1", "ann")
    await there.heard(here)
    await here.heard(there)
    assert (topic.head, topic.ended, here.stops, here.pokes) == (0, False, [], 0)
    assert there.stops == [("turn_1", "ann")]


async def test_turns_that_nobody_reads_leave_no_trace(pair: tuple[Process, ...]) -> None:
    here, there = pair
    here.relay.publish("turn_1", 5, records(5, 2), False)
    await there.heard(here)
    assert (len(there.hub), there.pokes) == (0, 0)


async def test_records_are_never_shown_over_a_writer_of_this_process(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = there.hub.open("turn_1")
    there.hub.join("turn_1")
    here.relay.publish("turn_1", 0, records(0, 1), True)
    here.relay.publish("turn_1", 7, records(7, 1), True)
    await there.heard(here)
    assert (topic.head, topic.ended, there.pokes) == (0, False, 0)


async def test_who_joins_late_gets_exactly_what_continues(redis_url: str, stream: str) -> None:
    async with connected(redis_url, stream, "here", "early") as (here, early):
        here.relay.publish("turn_1", 0, records(0, 3), False)
        here.relay.stop("turn_1", "ann")
        await early.heard(here)
        async with connected(redis_url, stream, "late") as (late,):
            topic = late.hub.join("turn_1", 3)
            here.relay.publish("turn_1", 3, records(3, 2), True)
            await ended(topic)
            assert not topic.holds(2)
            assert late.stops == []
            assert topic.records(3) == records(3, 2)


async def test_a_gap_pokes_and_shows_nothing(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = there.hub.join("turn_1", 1)
    here.relay.publish("turn_1", 2, records(2, 2), True)
    await there.told(lambda: there.pokes == 1)
    assert (topic.head, topic.ended) == (1, False)


async def test_records_too_large_for_the_relay_are_looked_up(pair: tuple[Process, ...], client: Any) -> None:
    here, there = pair
    topic = there.hub.join("turn_1")
    here.relay.publish("turn_1", 0, [b"x" * redis_relay.ENTRY_BYTES], False)
    await there.told(lambda: there.pokes == 1)
    assert topic.head == 0
    (entry,) = await client.xrevrange(there.relay._stream, count=1)
    assert sum(map(len, entry[1].values())) < 1000


async def test_an_entry_stays_small_however_much_waits(pair: tuple[Process, ...], client: Any) -> None:
    here, there = pair
    topic = there.hub.join("turn_1")
    for first in range(20):
        here.relay.publish("turn_1", first, [b"x" * 20_000], first == 19)
    await ended(topic)
    sizes = [sum(map(len, entry.values())) for _, entry in await client.xrange(here.relay._stream)]
    assert topic.head == 20
    assert max(sizes) <= redis_relay.ENTRY_BYTES + 200
    assert len(sizes) < 10


@pytest.mark.parametrize("limit", ["OUTBOX_MESSAGES", "OUTBOX_BYTES"])
async def test_an_outbox_that_overflows_loses_the_oldest_and_others_poke(
    pair: tuple[Process, ...], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    here, there = pair
    monkeypatch.setattr(redis_relay, limit, {"OUTBOX_MESSAGES": 4, "OUTBOX_BYTES": 450}[limit])
    for number in range(6):
        here.relay.stop(f"turn_{number}", "ann")
    await there.told(lambda: len(there.stops) == 4)
    assert there.stops == [(f"turn_{number}", "ann") for number in range(2, 6)]
    assert there.pokes == 1
    await there.heard(here)
    assert there.pokes == 1


async def test_a_stop_reaches_every_other_process(redis_url: str, stream: str) -> None:
    async with connected(redis_url, stream, "one", "two", "three") as (one, two, three):
        one.relay.stop("turn_1", "王")
        for other in (two, three):
            await other.told(lambda other=other: other.stops == [("turn_1", "王")])  # type: ignore[misc]
        assert one.stops == []


async def test_a_changed_conversation_wakes_its_readers(pair: tuple[Process, ...]) -> None:
    here, there = pair
    topic = there.hub.join(CONVERSATION + "c1", 7)
    other = there.hub.join(CONVERSATION + "c2", 7)
    woken = asyncio.ensure_future(topic.changed())
    unchanged = other.changes
    await asyncio.sleep(0)
    here.relay.changed("c1")
    here.relay.changed("c3")
    await soon(woken)
    await there.heard(here)
    assert (topic.head, other.changes) == (7, unchanged)
    assert (here.changes, there.changes) == ([], ["c1", "c3"])


async def test_the_stream_is_capped(pair: tuple[Process, ...], client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = pair
    monkeypatch.setattr(redis_relay, "STREAM_ENTRIES", 100)
    for _ in range(400):
        await there.heard(here)
    assert 100 <= await client.xlen(here.relay._stream) <= 250


async def test_an_entry_that_arrives_twice_counts_once(pair: tuple[Process, ...], client: Any) -> None:
    here, there = pair
    here.relay.stop("turn_1", "ann")
    await there.told(lambda: there.stops == [("turn_1", "ann")])
    (entry,) = await client.xrange(here.relay._stream)
    await client.xadd(here.relay._stream, entry[1])
    await there.heard(here)
    assert (there.stops, there.pokes) == ([("turn_1", "ann")], 0)


async def test_only_so_many_processes_are_remembered(
    pair: tuple[Process, ...], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = pair
    monkeypatch.setattr(redis_relay, "PROCESSES", 3)
    await there.heard(here)
    for number in range(10):
        await client.xadd(here.relay._stream, {"process": f"p{number}", "number": "1", "messages": b"\x90"})
    await there.heard(here)
    assert list(there.relay._numbers) == [b"p8", b"p9", b"here"]
    assert there.pokes == 1, "a process that was forgotten may have been missed"


@pytest.mark.parametrize(
    "garbage",
    [
        {"hello": "world"},
        {"process": "elsewhere", "number": "1"},
        {"process": "elsewhere", "number": "one", "messages": b"\x90"},
        {"process": "elsewhere", "number": "1", "messages": b"\xff\x00garbage"},
        {"process": "elsewhere", "number": "1", "messages": b"\x91\x92\x63\xa1x"},
        {"process": "elsewhere", "number": "1", "messages": b"\x91\x95\x00\xa6turn_1\x00\x01\xc2"},
        {"process": "elsewhere", "number": "1", "messages": b"\x91\x96\x00\xa6turn_1\x00\x01\xc2\xa3abc"},
    ],
    ids=["foreign", "no messages", "no number", "no msgpack", "unknown kind", "no records", "records of another type"],
)
async def test_garbage_in_the_stream_is_skipped_with_a_warning(
    pair: tuple[Process, ...], client: Any, garbage: dict[Any, Any]
) -> None:
    here, there = pair
    topic = there.hub.join("turn_1")
    with capture_logs() as logs:
        for _ in range(3):
            await client.xadd(here.relay._stream, {**garbage, "more": secrets.token_hex(4)})
        await there.heard(here)
    assert topic.head == 0
    assert there.pokes >= 1
    assert "an entry of the relay's stream was skipped" in [line["event"] for line in logs]
    assert len(logs) <= 2, "one warning a minute and process"
    here.relay.publish("turn_1", 0, records(0, 2), True)
    await ended(topic)
    assert topic.records(0) == records(0, 2)


async def test_a_message_that_cannot_be_written_costs_only_its_entry(pair: tuple[Process, ...]) -> None:
    here, there = pair
    here.relay.changed("\ud800")
    await here.heard(there)
    await there.heard(here)
    assert there.pokes == 1


async def test_a_server_that_restarts_empty_is_met_again(server: Server, stream: str) -> None:
    server.start()
    clock = FakeClock()
    async with connected(server.url, stream, "here", "there", clock=clock) as (here, there):
        topic = there.hub.join("turn_1")
        here.relay.publish("turn_1", 0, records(0, 2), False)
        await there.heard(here)
        with capture_logs() as logs:
            server.stop()
            here.relay.publish("turn_1", 2, records(2, 2), False)
            here.relay.stop("turn_2", "ann")
            await clock.until(lambda: clock.pending == 3)
            assert there.pokes == 0
            server.start()
            here.relay.publish("turn_1", 4, records(4, 2), True)
            await clock.advance(redis_relay.FIRST_PAUSE_S)
            await ended(topic)
            await there.told(lambda: there.pokes >= 1 and there.stops == [("turn_2", "ann")])
            await here.told(lambda: here.pokes >= 1)
            await here.heard(there)
        assert topic.records(0) == records(0, 6)
    failed, again = (
        [line for line in logs if line["event"].startswith(start)] for start in ("relay failed", "relay reached again")
    )
    assert len(failed) == 2, "once a process"
    assert len(again) == 2
    assert clock.pending == 0


async def test_cut_connections_lose_nothing_that_the_stream_still_holds(server: Server, stream: str) -> None:
    server.start()
    clock = FakeClock()
    async with connected(server.url, stream, "here", "there", clock=clock) as (here, there), server.client() as client:
        topic = there.hub.join("turn_1")
        here.relay.publish("turn_1", 0, records(0, 1), False)
        await there.heard(here)
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await clock.until(lambda: clock.pending == 2)
        sent = await client.xlen(stream)
        here.relay.publish("turn_1", 1, records(1, 1), True)
        here.relay.stop("turn_2", "ann")
        while await client.xlen(stream) == sent:
            await clock.settle()
        await clock.advance(redis_relay.FIRST_PAUSE_S)
        await ended(topic)
        await there.told(lambda: there.stops == [("turn_2", "ann")])
        assert topic.records(0) == records(0, 2)
        assert there.pokes == 1


async def test_a_stream_that_begins_anew_is_read_from_its_beginning(server: Server, stream: str) -> None:
    server.start()
    clock = FakeClock()
    async with connected(server.url, stream, "here", "there", clock=clock) as (here, there), server.client() as client:
        # As after a failover to a server whose clock is behind: the numbers of new entries are lower than ours.
        await client.xadd(stream, {"process": "there", "number": "1", "messages": b"\x90"}, id="99999999999999-0")
        await client.xadd(stream, {"process": "ghost", "number": "1", "messages": b"\x90"}, id="99999999999999-1")
        await clock.until(lambda: b"ghost" in there.relay._numbers)
        await client.delete(stream)
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await clock.until(lambda: clock.pending == 2)
        await clock.advance(redis_relay.FIRST_PAUSE_S)
        await there.told(lambda: there.pokes >= 1)
        await there.heard(here)


async def test_redis_may_come_later(server: Server, stream: str) -> None:
    clock = FakeClock()
    group = connected(server.url, stream, "here", "there", clock=clock, wait=False)
    with capture_logs() as logs:
        async with group as (here, there):
            here.relay.stop("turn_1", "ann")
            topic = there.hub.join("turn_2")
            await clock.until(lambda: clock.pending == 3)
            await clock.advance(0.2)
            await clock.until(lambda: clock.pending == 3)
            assert (here.pokes, there.pokes) == (0, 0)
            assert (here.relay.down, there.relay.down) == (True, True), "they look in the store more often then"
            server.start()
            await clock.advance(0.4)
            await here.told(lambda: here.pokes == 1)
            await there.told(lambda: there.pokes >= 1)
            here.relay.publish("turn_2", 0, records(0, 1), True)
            await ended(topic)
            await here.heard(there)
            assert (here.relay.down, there.relay.down) == (False, False)
            server.stop()
            await clock.until(lambda: clock.pending == 2)
            assert pauses(clock) == [0.2, 0.2], "the pauses begin anew"
    events = [line["event"].partition(",")[0] for line in logs]
    assert sorted(events) == ["relay failed"] * 4 + ["relay reached again"] * 2
    assert clock.pending == 0


async def test_the_pauses_between_two_tries_grow_to_five_seconds(stream: str) -> None:
    clock = FakeClock()
    with capture_logs() as logs:
        async with connected(Server().url, stream, "here", clock=clock, wait=False) as (process,):
            for pause in (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
                await clock.until(lambda: clock.pending == 1)
                assert pauses(clock) == [pause]
                await clock.advance(pause)
    assert len(logs) == 1
    assert process.pokes == 0


async def test_an_answer_that_is_an_error_is_no_end(server: Server, stream: str) -> None:
    server.start()
    clock = FakeClock()
    group = connected(server.url, stream, "here", "there", clock=clock, wait=False)
    async with server.client() as client:
        await client.set(stream, "this is no stream")
        with capture_logs() as logs:
            async with group as (here, there):
                here.relay.stop("turn_1", "ann")
                await clock.until(lambda: clock.pending == 3)
                # As after a failover: whoever answers so is not to be asked again over the same connection.
                while len(await client.client_list()) > 1:
                    await clock.settle()
                await client.delete(stream)
                await clock.advance(0.2)
                await there.told(lambda: there.pokes >= 1)
                await there.heard(here)
    assert [line["event"].partition(",")[0] for line in logs[:2]] == ["relay failed"] * 2


async def test_a_server_that_never_answers_is_given_up(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_relay, "ANSWER_S", 0.05)
    monkeypatch.setattr(redis_relay, "BLOCK_S", 0.05)
    clock = FakeClock()
    with socket.create_server(("127.0.0.1", 0)) as silent, capture_logs() as logs:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        async with connected(url, stream, "here", clock=clock, wait=False) as (process,):
            process.relay.stop("turn_1", "ann")
            await clock.until(lambda: clock.pending == 2)
    assert [line["event"].partition(",")[0] for line in logs] == ["relay failed"]


async def test_a_wrong_password_is_no_end_and_never_logged(server: Server, stream: str) -> None:
    server.start()
    clock = FakeClock()
    wrong = server.url.replace(server._password, "hunter2hunter2")
    with capture_logs() as logs:
        async with connected(wrong, stream, "here", clock=clock, wait=False) as (process,):
            process.relay.stop("turn_1", "ann")
            await clock.until(lambda: clock.pending == 2)
    (line,) = logs
    assert line["relay"] == f"redis://127.0.0.1:{server._port}/0"
    assert "AuthenticationError" in line["error"]
    assert "hunter2" not in repr(logs)


async def test_close_sends_what_waits_and_leaves_nothing(redis_url: str, stream: str) -> None:
    async with connected(redis_url, stream, "there") as (there,):
        before = asyncio.all_tasks()
        topic = there.hub.join("turn_1")
        async with connected(redis_url, stream, "here") as (here,):
            for first in range(50):
                here.relay.publish("turn_1", first, [b"x" * 10_000], first == 49)
        assert asyncio.all_tasks() == before
        await ended(topic)
        here.relay.publish("turn_1", 0, records(0, 1), True)
        here.relay.changed("c1")
        here.relay.stop("turn_1", "ann")
        assert not here.relay._outbox
        await here.relay.close()
    gc.collect()


async def test_close_before_the_first_connect_leaves_nothing(redis_url: str, stream: str) -> None:
    before = asyncio.all_tasks()
    async with connected(redis_url, stream, "here", wait=False):
        pass
    assert asyncio.all_tasks() == before
    gc.collect()


async def test_close_does_not_wait_for_a_redis_that_is_away(stream: str) -> None:
    before = asyncio.all_tasks()
    clock = FakeClock()
    async with connected(Server().url, stream, "here", clock=clock, wait=False) as (here,):
        here.relay.stop("turn_1", "ann")
        await clock.until(lambda: clock.pending == 2)
        await soon(here.relay.close())
        assert (asyncio.all_tasks(), clock.pending) == (before, 0)


async def test_close_gives_up_when_redis_goes_away_under_it(server: Server, stream: str) -> None:
    server.start()
    clock = FakeClock()
    async with connected(server.url, stream, "here", clock=clock) as (here,):
        await here.relay._writing.client.ping()
        server.stop()
        for number in range(5):
            here.relay.publish(f"turn_{number}", 0, [b"x" * 60_000], False)
        await soon(here.relay.close())
    assert clock.pending == 0


async def test_an_empty_address_means_no_relay() -> None:
    def never(*_: object) -> None:
        raise AssertionError

    assert await open_relay("", process="p", hub=Hub(), clock=SystemClock(), stop=never, told=never, poke=never) is None


async def test_open_relay_connects_and_waits_for_nothing(redis_url: str) -> None:
    poked = asyncio.Event()
    made: list[bool] = []
    relay = await open_relay(
        redis_url,
        process=f"p:{secrets.token_hex(8)}",
        hub=Hub(),
        clock=SystemClock(),
        stop=lambda name, by: None,
        told=lambda conversation_id: None,
        poke=lambda: (made.append(True), poked.set()),  # type: ignore[arg-type, func-returns-value]
    )
    assert made == [], "the caller may still be making what the callbacks need"
    assert relay is not None
    await soon(poked.wait())
    await relay.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://hunter2@host/0", "use redis://HOST"),
        ("redis://:hunter2@host:port/0", "use redis://HOST"),
        ("redis://:hunter2/more@host:6379/0", "%XX"),
        ("redis://user:12/hunter2@host", "number of a database"),
        ("redis://:hunter2@host:6379/first", "number of a database"),
        ("redis://:hunter2@host:6379/0?hunter2=1", "option after the question mark"),
        ("redis://:hunter2@host:6379/0?db=hunter2", "use redis://HOST"),
    ],
)
async def test_a_bad_address_is_refused_without_repeating_it(url: str, says: str) -> None:
    with pytest.raises(RelayError) as refused:
        await open_relay(
            url, process="p", hub=Hub(), clock=SystemClock(), stop=lambda *_: None, told=print, poke=lambda: None
        )
    assert says in str(refused.value)
    assert "[relay] url" in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("url", ["unix:///run/redis.sock?db=1", "rediss://user:secret@host/2", "redis://host"])
async def test_every_kind_of_address_is_taken(url: str) -> None:
    process = Process(url, "test:never", "here")
    await process.relay.close()


async def test_without_the_redis_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "turnwire.journal.redis_relay")
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(RelayError, match=r"install turnwire\[redis\]"):
        await open_relay(
            "redis://host/0", process="p", hub=Hub(), clock=SystemClock(), stop=print, told=print, poke=lambda: None
        )
