"""The guard under the official libraries: a delta read through it against a delta read without it.

Guarantee: library, client and loop are the same on both sides and measured by turns in one run; the provider is a
process of its own, so that only reading is counted.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

import httpx2
import msgspec
import uvloop

from turnwire.agents.guard import guarded_client

from .report import Row, median
from .server import provider

if TYPE_CHECKING:
    from .libraries import Library

NAME = "guard"
BUDGET = 1.15
STREAMS = 40
RATE = 25.0
ENDLESS = 100_000
SETTLE_S = 0.5
ROUNDS = 9


class Said(msgspec.Struct):
    """The deltas that all streams of a client have given."""

    deltas: int = 0


def run(quick: bool) -> list[Row]:
    """Four libraries, `STREAMS` streams of `RATE` deltas a second each."""
    # Here, because these libraries take seconds to import.
    from .libraries import LIBRARIES

    rounds, window_s = (1, 1.0) if quick else (ROUNDS, 2.0)
    with provider(ENDLESS, RATE) as upstream:
        return [_measure(name, library, upstream.url, rounds, window_s) for name, library in LIBRARIES.items()]


def _measure(name: str, library: Library, url: str, rounds: int, window_s: float) -> Row:
    bare, guarded = [], []
    # By turns and for short, so that what else the machine does falls on both.
    for _ in range(rounds):
        bare.append(uvloop.run(_watch(library, httpx2.AsyncClient(trust_env=False, timeout=None), url, window_s)))
        guarded.append(uvloop.run(_watch(library, guarded_client(), url, window_s)))
    ratios = sorted(with_it / without for with_it, without in zip(guarded, bare, strict=True))
    return Row(
        path=f"guard under {name}, per delta",
        value=median(ratios),
        unit="×",
        budget=BUDGET,
        about=(
            f"{median(guarded):.1f} µs with the guard, {median(bare):.1f} µs without; {STREAMS} streams × {RATE:g}/s, "
            f"one event a read; in {rounds} rounds {ratios[0]:.2f} to {ratios[-1]:.2f}"
        ),
    )


async def _watch(library: Library, http: httpx2.AsyncClient, url: str, window_s: float) -> float:
    """Microseconds of processor time for each delta."""
    gc.collect()
    said = Said()
    async with http:
        read = library(http, url)
        readers = [asyncio.create_task(read(said)) for _ in range(STREAMS)]
        while said.deltas < STREAMS and not any(reader.done() for reader in readers):
            await asyncio.sleep(0.05)
        await asyncio.sleep(SETTLE_S)
        began, before = time.process_time(), said.deltas
        await asyncio.sleep(window_s)
        used, deltas = time.process_time() - began, said.deltas - before
        ended = [reader for reader in readers if reader.done()]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        if ended:
            raise RuntimeError(f"{len(ended)} streams ended") from ended[0].exception()
    return used / deltas * 1e6
