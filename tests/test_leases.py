"""What one process holds: taken by one, kept, given back, followed after a death; on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.store_steps import fresh, pass_time
from turnwire.leases import Leased
from turnwire.store import Database, StoreUnavailable
from turnwire.store.queries.leases import give_lease, lease_owner, renew_lease, take_lease
from turnwire.testing import FakeClock, MemoryStore

pytestmark = pytest.mark.anyio


async def take(db: Database, name: str, owner: str, *, alone: bool = False) -> int | None:
    return await db.run(take_lease, name, owner, 15.0, alone=alone)


async def test_one_process_holds_a_name(database: Database) -> None:
    name = fresh("lease")
    assert await database.read(lease_owner, name) is None
    assert await take(database, name, "a") == 1
    assert await take(database, name, "b") is None
    assert await database.read(lease_owner, name) == "a"
    assert await database.run(renew_lease, name, 1, 15.0)
    await database.run(give_lease, name, 1)
    assert await database.read(lease_owner, name) is None
    assert await take(database, name, "b") == 2
    assert not await database.run(renew_lease, name, 1, 15.0)
    await database.run(give_lease, name, 1)
    assert await database.read(lease_owner, name) == "b"


async def test_a_lease_that_ends_is_free(database: Database) -> None:
    name = fresh("lease")
    await take(database, name, "a")
    await pass_time(database, 16.0)
    assert await database.read(lease_owner, name) is None
    assert await take(database, name, "b") == 2


async def test_who_is_alone_follows_the_dead_at_once(database: Database) -> None:
    name = fresh("lease")
    await take(database, name, "dead")
    assert await take(database, name, "next", alone=True) == 2


async def test_two_that_ask_at_once(database: Database) -> None:
    name = fresh("lease")
    taken = await asyncio.gather(*(take(database, name, owner) for owner in "abcdef"))
    assert [one for one in taken if one is not None] == [1]


class Desk:
    """Two processes on one store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.away = False
        self.store = MemoryStore(before=self._before)
        self.working: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}

    def _before(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")

    def process(self, name: str, work: Callable[[], object] | None = None) -> Leased:
        async def hold() -> None:
            self.working.append(name)
            try:
                if work is not None:
                    work()
                await self.ends.setdefault(name, asyncio.Event()).wait()
            finally:
                self.working.remove(name)

        found = Leased(
            "bot",
            process=name,
            db=self.store,
            clock=self.clock,
            lease_s=15.0,
            alone=False,
            work=hold,
        )
        found.start()
        return found

    async def pass_(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            await self.clock.advance(1.0)


@pytest.fixture
async def desk() -> Desk:
    return Desk()


async def test_one_of_two_works_until_it_closes(desk: Desk) -> None:
    a = desk.process("a")
    await desk.pass_(1)
    b = desk.process("b")
    await desk.pass_(60)
    assert (desk.working, a.held, b.held) == (["a"], True, False)
    await a.close()
    assert desk.working == []
    await desk.pass_(6)
    assert (desk.working, b.held) == (["b"], True)
    await b.close()


async def test_the_work_ends_before_the_lease_if_the_store_is_away(desk: Desk) -> None:
    a = desk.process("a")
    await desk.pass_(1)
    desk.away = True
    await desk.pass_(8)
    assert desk.working == ["a"]
    await desk.pass_(7)
    assert desk.working == []
    desk.away = False
    await desk.pass_(10)
    assert desk.working == ["a"]
    await a.close()


async def test_who_was_followed_ends_its_work(desk: Desk) -> None:
    a = desk.process("a")
    await desk.pass_(1)
    await desk.store.run(take_lease, "bot", "thief", 15.0, alone=True)
    await desk.pass_(6)
    assert desk.working == []
    await a.close()


async def test_work_that_is_over_gives_the_lease_back(desk: Desk) -> None:
    a = desk.process("a")
    await desk.pass_(1)
    desk.ends["a"].set()
    await desk.pass_(1)
    b = desk.process("b")
    await desk.pass_(30)
    assert desk.working == ["b"]
    await b.close()
    await a.close()


async def test_work_that_fails_is_begun_again(desk: Desk) -> None:
    failures = [ValueError("once")]

    def work() -> None:
        if failures:
            raise failures.pop()

    a = desk.process("a", work)
    await desk.pass_(1)
    assert desk.working == []
    await desk.pass_(6)
    assert desk.working == ["a"]
    await a.close()
