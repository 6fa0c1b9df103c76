"""Waiting one's turn under limits that several processes share, over the relay's Redis.

Guarantee: while Redis answers, all processes together pass no more than a bucket's rate allows. While it does not, each
keeps to the limits by itself, and says so once; an act never waits for Redis longer than `ANSWER_S`.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from ..clock import Clock, sleep
from ..journal.redis_relay import client_of
from .pacing import GRAIN_S, Keys, Lines, LocalPacer

_log = structlog.get_logger(__name__)

PREFIX = "turnwire:pace:1:"
ANSWER_S = 1.0
AWAY_S = 5.0
"""Seconds for which Redis is not asked after it did not answer."""
CLOSED_S = 5.0
"""How often a bucket that the platform has closed is looked at."""

# Each bucket is two times on the server's clock, in seconds: when it is empty again, and until when it is closed.
# ARGV: whether to take, then rate and depth of each bucket. Returns the seconds to wait as text, "0" if it passes.
_TAKE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local wait = 0
local full = {}
for i, key in ipairs(KEYS) do
  local rate, depth = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local known = redis.call('HMGET', key, 'full', 'closed')
  full[i] = math.max(tonumber(known[1] or '0') or 0, now)
  local due = math.max(full[i] - (depth - 1) / rate, tonumber(known[2] or '0') or 0)
  wait = math.max(wait, due - now)
end
if wait > 0.000001 then return string.format('%.6f', wait) end
if ARGV[1] == '1' then
  for i, key in ipairs(KEYS) do
    local rate = tonumber(ARGV[2 * i])
    local after = full[i] + 1 / rate
    redis.call('HSET', key, 'full', string.format('%.6f', after))
    redis.call('PEXPIRE', key, math.max(math.ceil((after - now) * 1000) + 1000, redis.call('PTTL', key)))
  end
end
return '0'
"""
_CLOSE = """
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1000000
local known = tonumber(redis.call('HGET', KEYS[1], 'closed') or '0') or 0
local closed = math.max(known, now + tonumber(ARGV[1]))
redis.call('HSET', KEYS[1], 'closed', string.format('%.6f', closed))
redis.call('PEXPIRE', KEYS[1], math.max(math.ceil((closed - now) * 1000) + 1000, redis.call('PTTL', KEYS[1])))
return '0'
"""


class SharedPacer:
    """Buckets of all processes on one Redis-compatible server.

    Args:
        url: as of the relay. Raises `RelayError` for one that cannot be used.
        prefix: begins the names of its keys.
    """

    def __init__(self, url: str, clock: Clock, *, prefix: str = PREFIX) -> None:
        self._redis: Redis = client_of(url)
        self._clock = clock
        self._prefix = prefix
        self._local = LocalPacer(clock)
        self._lines = Lines()
        self._away_until = 0.0
        self._away = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, keys: Keys, *, urgent: bool = False) -> None:
        """Waits until every bucket has room, and takes it."""
        if not keys:
            return
        if keys[:-1]:
            await self._pass(keys[:-1], urgent=urgent, take=False)
        async with self._lines.front(keys, urgent=urgent):
            await self._pass(keys, urgent=urgent)

    def penalise(self, key: str, seconds: float) -> None:
        """Nothing passes this bucket for that long, in any process."""
        self._local.penalise(key, seconds)
        task = asyncio.create_task(self._close_bucket(key, seconds), name="turnwire-penalty")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Lets the connections go."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._redis.aclose()

    async def _pass(self, keys: Keys, *, urgent: bool, take: bool = True) -> None:
        asked: list[Any] = [int(take)]
        for _, limit in keys:
            asked += [limit.rate, limit.depth(urgent=urgent)]
        while True:
            answer = await self._ask(_TAKE, [key for key, _ in keys], asked)
            if answer is None:
                if take:
                    await self._local.take(keys, urgent=urgent)
                return
            left = float(answer)
            if left <= GRAIN_S:
                return
            await sleep(self._clock, min(left, CLOSED_S))

    async def _close_bucket(self, key: str, seconds: float) -> None:
        await self._ask(_CLOSE, [key], [seconds])

    async def _ask(self, script: str, keys: list[str], args: list[Any]) -> bytes | None:
        """What the script returns; None while Redis is away."""
        if self._away and self._clock.monotonic() < self._away_until:
            return None
        names = [self._prefix + key for key in keys]
        sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        try:
            async with asyncio.timeout(ANSWER_S):
                try:
                    answer: bytes = await self._redis.evalsha(sha, len(names), *names, *args)
                except NoScriptError:
                    answer = await self._redis.eval(script, len(names), *names, *args)
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            return None
        if self._away:
            self._away = False
            _log.info("limits are shared between processes again")
        return answer

    def _lose(self, error: Exception) -> None:
        self._away_until = self._clock.monotonic() + AWAY_S
        if not self._away:
            self._away = True
            _log.warning(
                "limits are not shared between processes: Redis does not answer; each process keeps to them by itself",
                error=type(error).__name__,
            )
