"""Turns in Feishu chats: how many calls they take, how fresh what people see is, and that a bad platform costs the
model nothing.

Guarantee: a real server and a simulated tenant in another process than it, over sockets, on the machine's clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from turnwire.sim.feishu import ApiCall, Fault, FeishuSim, Switches

from .agents import MARK, Ask
from .report import Row, percentile
from .server import USE, running

NAME = "feishu"
LATENCY_S = 0.12
INTERVAL_S = 0.3
RATE, COUNT = 50.0, 300
"""A turn of 300 deltas in six seconds."""
AT_ONCE = 20
CALLS, FINAL_S = 30, 2.0
LIMITS = (99991400, 230020)
BAD_MS = 100.0
PATIENCE_S = 120.0


class _Turn(msgspec.Struct, frozen=True):
    """One turn, in seconds since 1970: when it ran, and when its card was confirmed to be as it should be."""

    began: float
    ended: float
    confirmed: float


class _Tenant:
    """A server with an app on a simulated tenant."""

    def __init__(self, sim: FeishuSim, store: Path) -> None:
        self.sim = sim
        self._store = store

    async def ask(self, count: int, ask: Ask, *, settled: bool = True) -> list[_Turn]:
        """So many turns at once, each in a chat of its own, to their ends; `settled` waits for the deliveries too."""
        people = [self.sim.tenant.user(f"ou_{number}", f"Person {number}").open_id for number in range(count)]
        before = len(self._rows())
        for person in people:
            self.sim.people.say(self.sim.p2p(person), ask.text, user=person)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                rows = self._rows()[before:]
                if len(rows) == count and all(row[1] and (row[2] or not settled) for row in rows):
                    return [_Turn(began, ended, confirmed or 0.0) for began, ended, confirmed in rows]
                await asyncio.sleep(0.1)

    def _rows(self) -> list[tuple[float, float, float]]:
        query = (
            "SELECT t.started_at, t.ended_at, d.settled_at FROM turns t "
            "LEFT JOIN deliveries d ON d.turn_id = t.id ORDER BY t.created_at, t.id"
        )
        with contextlib.closing(sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)) as store:
            return list(store.execute(query))


@contextlib.asynccontextmanager
async def _tenant(switches: Switches) -> AsyncIterator[_Tenant]:
    with tempfile.TemporaryDirectory(prefix="turnwire-bench-") as name:
        store, config = Path(name) / "turnwire.db", Path(name) / "turnwire.toml"
        async with FeishuSim(switches=switches) as sim:
            config.write_text(
                f'[server]\nport = 0\n[store]\nurl = "sqlite:///{store}"\n[agent]\nuse = "{USE}"\n'
                f'[channels.feishu.main]\napp_id = "{sim.app_id}"\napp_secret = "{sim.app_secret}"\n'
                f'base_url = "{sim.base_url}"\n'
            )
            with contextlib.ExitStack() as stack:
                serve = running("-m", "turnwire", "serve", "--config", config, "--log-level", "warning")
                await asyncio.to_thread(stack.enter_context, serve)
                tenant = _Tenant(sim, store)
                await sim.until(lambda: sim.open_connections > 1)
                # One turn, so that what is imported or fetched late is there.
                await tenant.ask(1, Ask(do="paced", rate=RATE, count=5))
                sim.clear()
                yield tenant


def run(quick: bool) -> list[Row]:
    """One turn alone, twenty at once, and one on a platform that is slow or fails."""
    return asyncio.run(_run(100 if quick else COUNT))


async def _run(count: int) -> list[Row]:
    ask = Ask(do="paced", rate=RATE, count=count)
    async with _tenant(Switches(latency=LATENCY_S)) as tenant:
        rows = await _alone(tenant, ask)
    async with _tenant(Switches(latency=LATENCY_S)) as tenant:
        rows += await _together(tenant, ask)
    return [*rows, *await _bad(ask)]


async def _alone(tenant: _Tenant, ask: Ask) -> list[Row]:
    [turn] = await tenant.ask(1, ask)
    calls = tenant.sim.calls
    late = _staleness(tenant.sim, turn, ask)
    # The first words wait for the card to be made and sent; afterwards each frame is one call.
    steady = late[int(ask.rate) :]
    lines = {call.connection for call in calls}
    ops = ", ".join(f"{number} {op}" for op, number in tenant.sim.counts.items())
    what = f"Feishu, a turn of {ask.count} deltas in {ask.count / ask.rate:g} s"
    return [
        Row(path=f"{what}, calls", value=len(calls), unit="", budget=CALLS, about=ops),
        Row(
            path=f"{what}, TCP connections of its calls",
            value=len(lines),
            unit="",
            budget=1,
            where=["the typing sign is taken away while the card is being written: two calls at once need two"],
        ),
        Row(
            path=f"{what}, staleness, p99 of its deltas",
            value=percentile(steady, 99) * 1e3,
            unit="ms",
            budget=(INTERVAL_S + LATENCY_S) * 1e3,
            about=f"from when a delta was said until it is seen, from the first second on; half of them "
            f"{percentile(steady, 50) * 1e3:.0f} ms; a call takes {LATENCY_S * 1e3:g} ms there and back",
        ),
        Row(
            path=f"{what}, the first words are seen",
            value=late[0] * 1e3,
            unit="ms",
            about="two calls, one after another",
        ),
        Row(path=f"{what}, final confirmed", value=turn.confirmed - turn.ended, unit="s", budget=FINAL_S),
    ]


def _staleness(sim: FeishuSim, turn: _Turn, ask: Ask) -> list[float]:
    """For each delta, how long it took until it was seen, in seconds."""
    late: list[float] = []
    seen = 0
    card = list(sim.tenant.cards)[-1]
    for change in sim.changes(card):
        count = change.text.count(MARK)
        late += [change.at - (turn.began + number / ask.rate) for number in range(seen, count)]
        seen = max(seen, count)
    return late


async def _together(tenant: _Tenant, ask: Ask) -> list[Row]:
    found = await tenant.ask(AT_ONCE, ask)
    calls = tenant.sim.calls
    over = [call for call in calls if call.code in LIMITS]
    finals = sorted(turn.confirmed - turn.ended for turn in found)
    what = f"Feishu, {AT_ONCE} such turns at once"
    return [
        Row(
            path=f"{what}, the last final confirmed",
            value=finals[-1],
            unit="s",
            budget=FINAL_S,
            about=f"half of them {percentile(finals, 50):.2f} s; {len(calls)} calls, {_busiest(calls)} in the busiest "
            f"second, {len({call.connection for call in calls})} TCP connections",
        ),
        Row(path=f"{what}, calls refused for a limit", value=len(over), unit="", budget=0),
    ]


def _busiest(calls: Sequence[ApiCall]) -> int:
    times = sorted(call.at for call in calls)
    return max(sum(1 for other in times if at <= other < at + 1.0) for at in times)


async def _bad(ask: Ask) -> list[Row]:
    """The model's time to finish beside a platform that works."""
    async with _tenant(Switches(latency=LATENCY_S)) as tenant:
        [well] = await tenant.ask(1, ask, settled=False)
    faults = {
        "answers after 10 s": Fault("*", "slow_answer", count=0, seconds=10.0),
        "answers 502": Fault("*", "bad_gateway", count=0),
        "never answers": Fault("*", "timeout_before_applying", count=0),
    }
    rows = []
    for how, fault in faults.items():
        async with _tenant(Switches()) as tenant:
            tenant.sim.faults.add(fault)
            [turn] = await tenant.ask(1, ask, settled=False)
        rows.append(
            Row(
                path=f"Feishu, the platform {how}: time that it adds to the turn",
                value=((turn.ended - turn.began) - (well.ended - well.began)) * 1e3,
                unit="ms",
                budget=BAD_MS,
                about=f"beside {well.ended - well.began:.2f} s on one that works",
            )
        )
    return rows
