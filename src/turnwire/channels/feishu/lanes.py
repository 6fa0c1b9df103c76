"""Work in lanes: what belongs to one chat is done in order, and no chat waits for another.

Guarantee: jobs of one lane run one after another, in the order in which they were offered; at most `at_once` jobs run
and at most `waiting` wait. A lane that has run gives way to the others that wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

Job: TypeAlias = Callable[[], Awaitable[None]]


class Lanes:
    """Jobs, and the workers that do them.

    Args:
        at_once: how many jobs may run at the same time.
        waiting: how many may wait to run.
    """

    def __init__(self, at_once: int, waiting: int) -> None:
        self._at_once = at_once
        self._most = waiting
        self._waiting = 0
        # A lane is here while a job of its own runs or waits, and among the free ones while nobody works on it.
        self._lanes: dict[str, deque[Job]] = {}
        self._free: asyncio.Queue[tuple[str, deque[Job]]] = asyncio.Queue()

    def offer(self, lane: str, job: Job) -> bool:
        """Takes a job, unless too many wait already: then False. One without a lane ("") waits for no other."""
        if self._waiting >= self._most:
            return False
        self._waiting += 1
        jobs = self._lanes.get(lane)
        if jobs is not None:
            jobs.append(job)
            return True
        jobs = deque([job])
        if lane:
            self._lanes[lane] = jobs
        self._free.put_nowait((lane, jobs))
        return True

    async def run(self) -> None:
        """Does the jobs until it is cancelled, and then those under way are. Raises what a job raises."""
        workers = {asyncio.create_task(self._work()) for _ in range(self._at_once)}
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_COMPLETED)
            for worker in done:
                worker.result()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)

    async def _work(self) -> None:
        while True:
            lane, jobs = await self._free.get()
            self._waiting -= 1
            await jobs.popleft()()
            if jobs:
                self._free.put_nowait((lane, jobs))
            else:
                self._lanes.pop(lane, None)
