"""A client of Turnwire's own HTTP API.

Guarantee: an `Answer` gives every record of its turn once and in order, from the first to `finish`, through lost
connections and restarts of the server; the message behind it becomes one turn however often it had to be sent. When
that cannot be kept within `give_up_s` seconds, an error says so. Neither errors nor reprs hold the token.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import httpx2
import msgspec

from . import chunks as c
from ._wire import (
    SILENCE_S,
    ChatError,
    Cut,
    Unreachable,
    checked_url,
    numbered,
    post_body,
    read_body,
    segment,
    sendable,
    states,
)
from .agents.exchange import BROKEN, Exchange, Late
from .clock import Clock, SystemClock, sleep
from .ids import new_id
from .view import View

__all__ = ["Answer", "ChatClient", "ChatError", "Unreachable"]

DIALECT = "7"
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each further attempt to reach the server; the last one repeats."""
GIVE_UP_S = 60.0
HEAD_S = 60.0
STEADY_S = 5.0
"""A connection that held for so long is no failed attempt, even if it brought nothing."""
_RETRIED = frozenset({429, 502, 503, 504})


class ChatClient:
    """Talks to one Turnwire server. Use it as an async context manager, or call `close`.

    Args:
        base_url: such as `http://127.0.0.1:8787`.
        token: for `auth = "token"`.
        header: name and value of the header that names the user, for `auth = "header"`.
        give_up_s: how long the server may be out of reach, in seconds.

    Raises `ValueError` for an address, token or header that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        header: tuple[str, str] | None = None,
        *,
        clock: Clock | None = None,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.clock = clock or SystemClock()
        self.give_up_s = give_up_s
        headers = {"accept-encoding": "identity"}
        if token:
            headers["authorization"] = f"Bearer {sendable(token, 'the token')}"
        if header is not None:
            headers[header[0]] = sendable(header[1], f"the header {header[0]}")
        self._http = httpx2.AsyncClient(
            headers=headers,
            trust_env=False,
            # The injected clock bounds everything; streams are silent for as long as their agents are.
            timeout=None,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=4),
        )

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections; turns go on."""
        await self._http.aclose()

    def send(
        self, conversation: str, text: str, files: Sequence[Path] = (), *, message_id: str | None = None
    ) -> Answer:
        """Says `text` in a conversation, which is made if it is new; iterate over the result for the answer's records.

        Args:
            files: sent along with the message; read when the iteration begins.
            message_id: names the message; the same id and content again are the same turn.
        """
        return Answer(
            self, conversation=conversation, message=(message_id or new_id("msg", self.clock), text, list(files))
        )

    def resume(self, turn_id: str, cursor: int | None = None) -> Answer:
        """Reads a turn that exists: its records from number `cursor` on, or without one the shortest replay first."""
        return Answer(self, turn_id=turn_id, cursor=cursor)

    async def stop(self, name: str) -> dict[str, Any]:
        """Stops a turn by its id, or what runs in a conversation: `{"turn", "status"}`. Repeated until it is recorded.

        Raises `ChatError`, `Unreachable`.
        """
        return await self._until_recorded(f"/api/chat/{segment(name)}/stop")

    async def stop_job(self, conversation: str, job: str) -> dict[str, Any]:
        """Stops a background job: `{"job", "status"}`; repeated and raises as `stop` does."""
        return await self._until_recorded(f"/api/chat/{segment(conversation)}/jobs/{segment(job)}/stop")

    async def answer(self, approval: str, *, approved: bool, reason: str = "") -> dict[str, Any]:
        """Answers an approval; returns what was recorded, whoever answered first: `{"approved", "reason", "by",
        "first", "turn", ...}`. `turn` goes on with the message, if one does. Repeated and raises as `stop` does.
        """
        said = {"approved": approved} | ({"reason": reason} if reason else {})
        return await self._until_recorded(f"/api/approvals/{segment(approval)}", msgspec.json.encode(said))

    async def states(self, conversation: str) -> AsyncGenerator[dict[str, Any], None]:
        """The newest state of a conversation at each change: `{"turn", "queued", "jobs", "last", ...}`; never ends.

        Raises `ChatError`; `Unreachable` when the server stays away.
        """
        patience = _Patience(self)
        while True:
            patience.begin()
            try:
                path = f"/api/conversations/{segment(conversation)}/events"
                async with (
                    self.exchange("GET", path) as (exchange, _),
                    contextlib.aclosing(states(exchange, self.clock)) as found,
                ):
                    async for state in found:
                        patience.renew()
                        yield state
                raise Cut("the stream ended")
            except Cut as cut:
                await patience.pause(cut)

    async def _until_recorded(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        patience = _Patience(self)
        while True:
            patience.begin()
            try:
                return await self._json("POST", path, body)
            except Cut as cut:
                await patience.pause(cut)

    async def history(self, conversation: str) -> dict[str, Any] | None:
        """`{"id", "title", "messages", "turn", "queued", "jobs"}`, None for a conversation that does not exist.

        Asked once: raises `Unreachable` at once when the server cannot be reached; `ChatError` when it refuses.
        """
        try:
            return await self._once("GET", f"/api/chat/{segment(conversation)}")
        except ChatError as error:
            if error.status == 404 and error.code == "not_found":
                return None
            raise

    async def conversations(self) -> list[dict[str, Any]]:
        """`{"id", "title", "createdAt", "updatedAt"}` of each, the newest first; raises as `history` does."""
        found = await self._once("GET", "/api/conversations")
        return list(found.get("conversations", ()))

    async def _once(self, method: str, path: str) -> dict[str, Any]:
        try:
            return await self._json(method, path)
        except Cut as cut:
            raise Unreachable(f"cannot reach {self.base_url} ({cut}); is `turnwire serve` running there?") from None

    async def _json(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        async with self.exchange(method, path, body) as (exchange, response):
            answered = await read_body(exchange, self.clock)
        try:
            value = msgspec.json.decode(answered)
        except msgspec.DecodeError:
            value = None
        if not isinstance(value, dict):
            raise ChatError(f"{response.url} gave no JSON object; is that a Turnwire server?", status=200)
        return value

    @contextlib.asynccontextmanager
    async def exchange(
        self, method: str, path: str, body: bytes | None = None
    ) -> AsyncIterator[tuple[Exchange, httpx2.Response]]:
        """A request whose head says that it succeeded. Raises `ChatError`, or `Cut` for what may succeed later."""
        request = self._http.build_request(method, self.base_url + path, content=body)
        exchange = Exchange(self._http, request, self.clock)
        exchange.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            try:
                response = await exchange.head(self.clock.monotonic() + HEAD_S)
                if response.status_code != 200 and not (method == "POST" and response.status_code == 202):
                    await self._refused(exchange, response)
                yield exchange, response
            except Late:
                raise Cut(f"no byte for {SILENCE_S:g} s") from None
            except BROKEN as error:
                raise Cut(str(error) or type(error).__name__) from None
        finally:
            exchange.task.cancel()
            await asyncio.wait({exchange.task})

    async def _refused(self, exchange: Exchange, response: httpx2.Response) -> NoReturn:
        status = response.status_code
        try:
            told = msgspec.json.decode(await read_body(exchange, self.clock))["error"]
            code, message = str(told["code"]), str(told["message"])
        except (msgspec.DecodeError, LookupError, TypeError):
            code, message = "", f"{response.url} answered {status}; is that a Turnwire server?"
        if status in _RETRIED:
            raise Cut(message)
        raise ChatError(message, status=status, code=code)


class Answer:
    """One turn as a reader gets it. Iterate over it once for its records, as JSON objects.

    A further `start` begins the answer anew: its records were trimmed while the connection was lost, and what follows
    is the whole answer again, folded.

    The iteration raises `ChatError` when the server refuses, `Unreachable` when it stays out of reach.

    Attributes:
        turn_id: the turn, once the server has admitted the message.
        admitted: set when `turn_id` is known.
        view: the fold of the records given so far; empty for a turn resumed from a cursor over 0.
        connected: False from the loss of the connection to the next record.
        cursor: the number of the next record, None before the first.
    """

    def __init__(
        self,
        client: ChatClient,
        *,
        conversation: str | None = None,
        message: tuple[str, str, list[Path]] | None = None,
        turn_id: str | None = None,
        cursor: int | None = None,
    ) -> None:
        self.turn_id = turn_id
        self.conversation = conversation
        self.cursor = cursor
        self.view = View()
        self.connected = True
        self.admitted = asyncio.Event()
        self._client = client
        self._message = message
        self._body: bytes | None = None
        self._steered = False
        self._records = self._read()
        # A raw tail has no start of its own, so nothing can be folded from it.
        self._folds = not cursor
        if turn_id is not None:
            self.admitted.set()

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self._records

    async def aclose(self) -> None:
        """Stops reading; the turn goes on."""
        await self._records.aclose()

    async def _read(self) -> AsyncGenerator[dict[str, Any], None]:
        if self._message is not None:
            self._body = await asyncio.to_thread(post_body, self.conversation or "", *self._message)
        patience = _Patience(self._client)
        while True:
            patience.begin()
            try:
                async with contextlib.aclosing(self._attempt()) as records:
                    async for record in records:
                        patience.renew()
                        yield record
                        if record["type"] == "finish":
                            return
                raise Cut("the stream ended before the turn did")
            except Cut as cut:
                self.connected = False
                await patience.pause(cut)

    async def _attempt(self) -> AsyncGenerator[dict[str, Any], None]:
        """The records that one request brings."""
        try:
            async with self._client.exchange(*self._request()) as (exchange, response):
                kind = response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    raise ChatError(f"{response.url} gave no event stream; is that a Turnwire server?", status=200)
                self.turn_id = response.headers.get("x-workflow-run-id") or self.turn_id
                # The message came while that turn ran, and may become the next; the first record says which it was.
                self._steered = "x-turnwire-steered" in response.headers
                self.admitted.set()
                async with contextlib.aclosing(numbered(exchange, self._client.clock, self.cursor)) as records:
                    async for number, record in records:
                        self._take(number, record)
                        yield record
        except ChatError as error:
            if error.status != 410 or self.cursor is None:
                raise
            self.cursor, self.view, self._folds = None, View(), True
            raise Cut("the records that come next are no longer kept") from None

    def _request(self) -> tuple[str, str, bytes | None]:
        if self.turn_id is None or self._steered:
            return "POST", f"/api/chat?ui={DIALECT}", self._body
        path = f"/api/chat/{segment(self.turn_id)}/stream?ui={DIALECT}"
        return "GET", path if self.cursor is None else f"{path}&startIndex={self.cursor}", None

    def _take(self, number: int | None, record: dict[str, Any]) -> None:
        self.connected = True
        if number is not None:
            self.cursor = number + 1
        if self._steered and record["type"] == "start":
            self.turn_id = _turn_of(record) or self.turn_id
            self._steered = False
        if not self._folds:
            return
        try:
            chunk = c.decode(msgspec.json.encode(record))
        except ValueError as error:
            raise ChatError(f"the server sent what this client cannot read: {error}") from None
        # A turn that goes on with a message also changes parts that only the history has.
        with contextlib.suppress(ValueError):
            self.view.apply(chunk)


def _turn_of(start: dict[str, Any]) -> str | None:
    metadata = start.get("messageMetadata")
    own = metadata.get("turnwire") if isinstance(metadata, dict) else None
    return str(own["turn"]) if isinstance(own, dict) and own.get("turn") else None


class _Patience:
    """How often and how long an attempt is repeated."""

    def __init__(self, client: ChatClient) -> None:
        self._client = client
        self._clock = client.clock
        self._began = 0.0
        self._failing_since: float | None = None
        self._tries = 0

    def begin(self) -> None:
        """An attempt begins."""
        self._began = self._clock.monotonic()

    def renew(self) -> None:
        """It brought something."""
        self._failing_since, self._tries = None, 0

    async def pause(self, cut: Cut) -> None:
        """It failed: waits before the next. Raises `Unreachable` when it is time to give up."""
        now = self._clock.monotonic()
        if now - self._began >= STEADY_S:
            self.renew()
        if self._failing_since is None:
            self._failing_since = now
        pause = PAUSES_S[min(self._tries, len(PAUSES_S) - 1)]
        self._tries += 1
        left = self._failing_since + self._client.give_up_s - now
        if left <= 0:
            raise Unreachable(
                f"cannot reach {self._client.base_url} for {self._client.give_up_s:g} s ({cut}); "
                "what it had accepted goes on there"
            ) from None
        await sleep(self._clock, min(pause, left))
