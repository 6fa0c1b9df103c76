"""A simulated provider of models, with every way in which providers misbehave by name.

Guarantee: one port speaks four wires as the official SDKs expect them (A Anthropic Messages, O OpenAI Chat Completions,
R OpenAI Responses, G Gemini), refuses what the providers refuse, and treats each request by exactly one scenario:

    async with ModelSim(clock=clock) as sim:
        sim.plan(["rst_on_connect", "ok"])
        client = AsyncOpenAI(base_url=sim.base_url("O"), api_key="any")

Which scenario, in this order: the plan of the request's key, the plan of all keys, the header `x-scenario`, the first
segment of the path (`base_url` with a scenario), a model named `sim:SCENARIO`, the default.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, NamedTuple

from turnwire.clock import Clock, SystemClock

from ._http import NotHTTP, Protocol, Request, TooLarge, discard, read_body, read_head, reset
from ._model_answers import PIECES, TEXT, Ask, Ended, Refused, Wire
from ._model_catalogue import SCENARIOS, UnknownScenario, known
from ._model_control import control, reply
from ._model_faults import LEAKED_KEY
from ._model_peer import Peer
from ._model_records import Records, Seen
from ._model_routes import Route, base_path, route
from ._model_scenarios import Scenario

__all__ = ["LEAKED_KEY", "PIECES", "SCENARIOS", "TEXT", "ModelSim", "Scenario", "Seen", "UnknownScenario"]

MAX_RESPONSES = 10_000
"""How many answers are remembered with their calls, for requests that name one with `previous_response_id`."""


class _Line(NamedTuple):
    """One connection."""

    number: int
    gone: asyncio.Event
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Response(NamedTuple):
    """What is remembered of an answer: its calls, and the rounds of tools before it."""

    calls: set[str]
    rounds: int


class ModelSim:
    """The simulator; use it as an async context manager, or `start` and `stop` it.

    Args:
        host, port: where it listens; port 0 lets the system choose.
        key: the only API key that is taken; None takes any that is not empty.
        models: the names of the models that exist; None takes any name. `sim:SCENARIO` always exists.
        default: the scenario of a request that names none.
        clock: takes the pauses inside scenarios.
        retry_after: what 429 and 529 say about when to come again, in seconds.
        max_connections: further connections are answered 503.
        max_body: larger requests are answered 413, in bytes.
        max_requests: how many requests are remembered.

    Raises `UnknownScenario`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str | None = None,
        models: Sequence[str] | None = None,
        default: str = "ok",
        clock: Clock | None = None,
        retry_after: float = 1.0,
        max_connections: int = 1000,
        max_body: int = 32 * 1024 * 1024,
        max_requests: int = 1000,
    ) -> None:
        self.connections = 0
        self.open_connections = 0
        self.clock: Clock = clock or SystemClock()
        self._where = (host, port)
        self._key = key
        self.models = models
        self._default = known(default)
        self._retry_after = retry_after
        self._max_connections = max_connections
        self._max_body = max_body
        self._records = Records(self.clock, max_requests)
        self._plans: dict[str | None, deque[str]] = {}
        self._responses: dict[str, _Response] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    # Lifecycle

    async def start(self) -> None:
        """Accepts connections from when it returns. Raises `OSError` when the address is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Protocol(self._connection), *self._where)
        self._where = self._server.sockets[0].getsockname()[:2]

    async def stop(self) -> None:
        """Refuses connections from when it is called, and breaks those that are open. `start` begins again, at the
        same address."""
        if self._server is None:
            return
        self._server.close()
        # What was accepted just now must have begun, so that it is among the tasks.
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def __aenter__(self) -> ModelSim:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """`http://HOST:PORT`; known once it was started."""
        host, port = self._where
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def base_url(self, wire: Literal["A", "O", "R", "G"], scenario: str = "") -> str:
        """The base URL to give to the SDK of that wire; with a scenario, for requests that are all treated by it.

        Raises `UnknownScenario`.
        """
        return self.url + base_path(wire, known(scenario) if scenario else "")

    # What will happen

    def plan(self, scenarios: Iterable[str], *, key: str | None = None) -> None:
        """Treats the next requests by these scenarios, one each, after those planned before.

        Args:
            key: only requests with this API key.

        Raises `UnknownScenario`, and then plans none of them.
        """
        names = [known(name) for name in scenarios]
        self._plans.setdefault(key, deque()).extend(names)

    def clear(self) -> None:
        """Forgets the plans and the requests that have ended."""
        self._plans.clear()
        self._records.clear()

    # What has happened

    @property
    def requests(self) -> list[Seen]:
        """The requests that came, oldest first; those that are open too."""
        return self._records.requests

    async def wait_requests(self, count: int) -> None:
        """Returns once `count` requests have come, since the start of the simulator."""
        await self._records.until(lambda: self._records.count >= count)

    async def wait_idle(self) -> None:
        """Returns once nothing more will be sent until time passes or a client acts: each request that has come has
        ended, or its scenario pauses or hangs. A request that is still on its way does not count: see
        `wait_requests`."""
        await self._records.until(lambda: self._records.busy == 0)

    async def wait_ended(self) -> None:
        """Returns once every request that has come has ended."""
        await self._records.until(lambda: all(seen.ended != "open" for seen in self.requests))

    # Connections

    async def _connection(
        self, gone: asyncio.Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        self.open_connections += 1
        line = _Line(self.connections, gone, reader, writer)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs is in a task
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._talk(line)
        except asyncio.CancelledError:
            # Only `stop` cancels, and this is all of the task; asyncio's streams report a cancelled one as an error.
            writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self.open_connections -= 1
            writer.close()
            self._records.changed()

    async def _talk(self, line: _Line) -> None:
        plan = self._plans.get(None)
        if self.open_connections > self._max_connections:
            line.writer.write(reply(503, f"this simulator takes {self._max_connections} connections", close=True))
        elif plan and plan[0] == "rst_on_connect":
            seen = self._records.begin("", "", {}, line.number)
            seen.scenario = plan.popleft()
            reset(line.writer)
            self._records.finish(seen, "reset")
        else:
            try:
                while await self._one(line):
                    continue
            except NotHTTP as error:
                line.writer.write(reply(400, str(error), close=True))

    async def _one(self, line: _Line) -> bool:
        """Answers one request; whether the connection can take another."""
        request = await read_head(line.reader)
        if request is None:
            return False
        found = route(request.path)
        if found is not None and found.wire is not None and request.method == "POST":
            return await self._model(line, request, found, found.wire)
        try:
            body = await read_body(request, line.reader, line.writer, self._max_body)
        except TooLarge:
            line.writer.write(reply(413, f"a body may have {self._max_body} bytes", close=True))
            return False
        status, value = control(self, request, found, body)
        line.writer.write(reply(status, value, close=not request.keep_alive))
        await line.writer.drain()
        return request.keep_alive

    # Requests of models

    async def _model(self, line: _Line, request: Request, found: Route, wire: Wire) -> bool:
        seen = self._records.begin(wire.letter, request.target, request.headers, line.number)
        blank = Ask(found.model, stream=False)
        peer = Peer(wire, blank, seen, self._retry_after, line.writer, self.clock, self._records.waiting)
        cut_short: Ended = "client_closed"
        try:
            await _while_there(self._act(seen, peer, line, request, found), line.gone)
        except asyncio.CancelledError:
            cut_short = "stopped"
            raise
        finally:
            if seen.ended == "open":
                self._records.finish(seen, cut_short)
        return seen.ended == "completed" and peer.reusable and request.keep_alive

    async def _act(self, seen: Seen, peer: Peer, line: _Line, request: Request, found: Route) -> None:
        await self._treat(seen, peer, line, request, found)
        # Here and not later: who has read the last byte of an answer also sees that it is complete.
        self._records.finish(seen, peer.ended)

    async def _treat(self, seen: Seen, peer: Peer, line: _Line, request: Request, found: Route) -> None:
        try:
            raw = await read_body(request, line.reader, line.writer, self._max_body)
        except TooLarge as error:
            await peer.refuse(413, f"body: may have {self._max_body} bytes")
            peer.reusable = error.unread is not None and error.unread <= 4 * self._max_body
            await discard(line.reader, min(error.unread or 0, 4 * self._max_body))
            return
        except NotHTTP as error:
            await peer.refuse(400, f"body: {error}")
            peer.reusable = False
            return
        try:
            scenario = self._understand(seen, peer, request, found, raw)
        except Refused as refusal:
            await peer.refuse(refusal.status, refusal.message)
            return
        if scenario.any_body or peer.ask.stream:
            await scenario.act(peer)
        else:
            await peer.json(200, peer.wire.whole(peer.answer, peer.ids, peer.ask))

    def _understand(self, seen: Seen, peer: Peer, request: Request, found: Route, raw: bytes) -> Scenario:
        """The scenario of a request that the provider takes; the rest raises `Refused`."""
        key = peer.wire.key(request.headers, request.query)
        if not key:
            raise Refused(401, "the request carries no API key")
        if self._key is not None and not hmac.compare_digest(key.encode(), self._key.encode()):
            raise Refused(401, "the API key is not the one that this simulator takes")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"body: is no JSON: {error}") from None
        self._records.keep(seen, body if isinstance(body, dict) else None, len(raw))
        if missing := [name for name in peer.wire.headers if not request.headers.get(name)]:
            raise Refused(400, f"{missing[0]}: this header is required")
        if found.stream and request.query.get("alt") != "sse":
            raise Refused(400, "alt: this simulator streams with ?alt=sse only")
        peer.ask = peer.wire.read(body, found.model, found.stream)
        if self.models is not None and peer.ask.model not in self.models and not peer.ask.model.startswith("sim:"):
            raise Refused(404, f"model: there is no model {peer.ask.model[:100]!r}")
        peer.ask = self._following(peer.ask)
        name = self._named(peer.ask.model, request, found, key)
        scenario = SCENARIOS.get(name)
        if scenario is None:
            raise Refused(400, str(UnknownScenario(name)))
        if peer.wire.letter not in scenario.wires:
            raise Refused(400, f"scenario {name} has no meaning on wire {peer.wire.letter}; it has on {scenario.wires}")
        seen.scenario = name
        peer.answer = scenario.says(peer.ask)
        calls = {peer.ids.of("call", index) for index in range(len(peer.answer.calls))}
        self._responses[peer.ids.of("resp")] = _Response(calls, peer.ask.rounds)
        while len(self._responses) > MAX_RESPONSES:
            del self._responses[next(iter(self._responses))]
        return scenario

    def _following(self, ask: Ask) -> Ask:
        """The request with the rounds of the response that it follows.

        Refuses one that follows a response which never was, or leaves calls of that response unanswered.
        """
        if not ask.previous:
            return ask
        before = self._responses.get(ask.previous)
        if before is None:
            raise Refused(400, f"previous_response_id: there is no response {ask.previous[:100]!r}")
        if missing := before.calls - set(ask.answered):
            raise Refused(400, f"input: no function_call_output answers {sorted(missing)}")
        return ask if ask.text else replace(ask, rounds=before.rounds + ask.rounds)

    def _named(self, model: str, request: Request, found: Route, key: str) -> str:
        for plan in (self._plans.get(key), self._plans.get(None)):
            if plan:
                return plan.popleft()
        named = model.removeprefix("sim:") if model.startswith("sim:") else ""
        return request.headers.get("x-scenario") or found.scenario or named or self._default


async def _while_there(work: Coroutine[Any, Any, None], gone: asyncio.Event) -> None:
    """Runs `work` until it is done, or raises `ConnectionResetError` when the client leaves before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("the client has left")
        working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait({working, leaving})
