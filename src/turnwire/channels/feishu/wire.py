"""Feishu's and Lark's REST calls, as one app makes them.

Guarantee: each call ends within its bound on the given clock, with the platform's own code or with `unknown`; a call
that certainly did not reach the platform is `busy`. A token that is over is replaced once for all who wait. Proxies of
the environment are ignored. No error text holds a secret.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import httpx2
import msgspec
import structlog

from ...clock import Clock, wait
from ...delivery.outcomes import CONFIRMED, Receipt, refused, unknown
from ...delivery.pacing import Limit, Pacer
from ...delivery.traces import Recorder
from .errors import TOKEN, receipt_of, wait_of

T = TypeVar("T")

_log = structlog.get_logger(__name__)

CALL_S = 15.0
UPLOAD_S = 120.0
CLOSE_S = 2.0
TOKEN_MARGIN_S = 600.0
"""A token is not used any more when it has so little time left."""
LOST = (httpx2.RequestError, httpx2.StreamError, ssl.SSLError, OSError)
UNSENT = (httpx2.ConnectError, httpx2.ProxyError, httpx2.PoolTimeout)

# In any second a bucket lets through its burst and what its rate adds, which together stay below the platform's limits.
PER_APP = Limit(rate=15.0, burst=35)
"""1000 calls a minute and 50 a second, of each kind."""
PER_CARD = Limit(rate=6.0, burst=4)
"""10 a second."""
PER_CHAT = Limit(rate=3.0, burst=2, spare=0.0)
"""5 a second, shared with all other bots in it."""
PER_MESSAGE = Limit(rate=3.0, burst=2, spare=0.0)
"""5 a second."""
_BUCKETS = {"reply": "send"}
"""Operations that wait in the line of another one."""


class Answer(msgspec.Struct, frozen=True):
    """What came back: the receipt, and for a confirmed call its data."""

    receipt: Receipt
    code: int | None = None
    data: dict[str, Any] = {}


class Wire:
    """One app's connection to the platform.

    Args:
        base_url: `https://open.feishu.cn`, or `https://open.larksuite.com` for Lark.
        proxy: address of an HTTP proxy; those of the environment are ignored.
        transport: carries the requests, if it is not the network.

    Attributes:
        trace: told of every call and its answer; None for nobody.
    """

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        base_url: str,
        clock: Clock,
        pacer: Pacer,
        proxy: str = "",
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.app_id = app_id
        self._secret = app_secret
        self._base = base_url.rstrip("/")
        self._clock = clock
        self._pacer = pacer
        self._proxy = proxy
        self._transport = transport
        self.trace: Recorder | None = None
        self._http: httpx2.AsyncClient | None = None
        self._token = ""
        self._token_until = 0.0
        self._asking: asyncio.Task[Receipt] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Closes the connections."""
        for task in list(self._tasks):
            task.cancel()
        http, self._http = self._http, None
        if http is not None:
            closing = asyncio.ensure_future(http.aclose())
            await wait(self._clock, {closing}, CLOSE_S)
            closing.cancel()

    def limits(self, kind: str, *more: tuple[str, Limit]) -> list[tuple[str, Limit]]:
        """The buckets that a call of that kind passes."""
        return [*more, (f"{self.app_id}:{kind}", PER_APP)]

    async def slot(self, kind: str, *more: tuple[str, Limit], urgent: bool) -> None:
        """Waits until the platform's limits allow a call of that kind."""
        await self._pacer.take(self.limits(kind, *more), urgent=urgent)

    def penalise(self, kind: str, seconds: float, *more: str) -> None:
        """The platform asked to be left alone."""
        for key in more or (f"{self.app_id}:{kind}",):
            self._pacer.penalise(key, seconds)

    async def call(
        self,
        op: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, tuple[str, bytes, str]] | None = None,
    ) -> Answer:
        """One call below `/open-apis`; `op` says which codes it may answer with (see `errors`)."""
        for last in (False, True):
            token = await self._fresh_token()
            if token is not None:
                return Answer(token)
            sent = self._token
            answer = await self._traced(op, method, path, body, params=params, form=form, files=files)
            if answer.code not in TOKEN or last:
                break
            if self._token == sent:
                self._token = ""
        if answer.code in TOKEN:
            return Answer(refused("busy", f"the platform does not take the app's token ({answer.code})", 5.0))
        if answer.code == 99991400 and answer.receipt.wait_s:
            self.penalise(_BUCKETS.get(op, op), answer.receipt.wait_s)
        return answer

    async def download(self, path: str, *, params: Mapping[str, str], limit: int) -> tuple[Receipt, bytes, str]:
        """The bytes behind a path and their media type; more than `limit` of them are refused."""
        for last in (False, True):
            token = await self._fresh_token()
            if token is not None:
                return token, b"", ""
            sent = self._token
            receipt, code, content, kind = await self._bounded(self._get(path, params, limit), UPLOAD_S) or (
                unknown("the platform did not answer in time"),
                None,
                b"",
                "",
            )
            if code not in TOKEN or last:
                break
            if self._token == sent:
                self._token = ""
        return receipt, content, kind

    async def endpoint(self) -> Answer:
        """Where the long connection is opened; `code` is the platform's."""
        request = self._client().build_request(
            "POST",
            f"{self._base}/callback/ws/endpoint",
            headers={"locale": "zh"},
            json={"AppID": self.app_id, "AppSecret": self._secret},
        )
        answer = await self._bounded(self._exchange("endpoint", request), CALL_S)
        return answer or Answer(unknown("the platform did not answer in time"))

    async def token(self) -> Receipt | None:
        """Why there is no token, None if there is one."""
        return await self._fresh_token()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Does `work` beside its caller, until the wire is closed; it must say itself what went wrong."""
        return self._own(asyncio.create_task(work))

    async def _traced(
        self,
        op: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        params: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
        files: Mapping[str, tuple[str, bytes, str]] | None,
    ) -> Answer:
        trace = self.trace
        number = 0 if trace is None else trace.call(method, path, body, params=params, form=form, files=files)
        answer = await self._send(op, method, path, body, params=params, form=form, files=files)
        if trace is not None:
            trace.answer(number, answer.receipt, answer.code, answer.data)
        return answer

    async def _send(
        self,
        op: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        params: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
        files: Mapping[str, tuple[str, bytes, str]] | None,
    ) -> Answer:
        headers = {"authorization": f"Bearer {self._token}"}
        content: dict[str, Any] = {}
        if files is not None:
            content = {"data": dict(form or {}), "files": dict(files)}
        elif body is not None:
            content = {"content": msgspec.json.encode(body)}
            headers["content-type"] = "application/json; charset=utf-8"
        request = self._client().build_request(
            method, f"{self._base}/open-apis{path}", params=params, headers=headers, **content
        )
        answer = await self._bounded(self._exchange(op, request), CALL_S if files is None else UPLOAD_S)
        return answer or Answer(unknown("the platform did not answer in time"))

    async def _exchange(self, op: str, request: httpx2.Request) -> Answer:
        try:
            response = await self._client().send(request)
        except UNSENT as error:
            return Answer(refused("busy", f"the platform cannot be reached ({type(error).__name__})"))
        except LOST as error:
            return Answer(unknown(f"the connection to the platform broke ({type(error).__name__})"))
        return _read(op, response)

    async def _get(self, path: str, params: Mapping[str, str], limit: int) -> tuple[Receipt, int | None, bytes, str]:
        request = self._client().build_request(
            "GET", f"{self._base}/open-apis{path}", params=params, headers={"authorization": f"Bearer {self._token}"}
        )
        try:
            response = await self._client().send(request, stream=True)
            try:
                kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                named = "content-disposition" in response.headers
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > limit:
                        return refused("content", f"it is larger than {limit} bytes"), None, b"", kind
            finally:
                await response.aclose()
        except UNSENT as error:
            return refused("busy", f"the platform cannot be reached ({type(error).__name__})"), None, b"", ""
        except LOST as error:
            return unknown(f"the connection to the platform broke ({type(error).__name__})"), None, b"", ""
        # A file may be JSON too; then it has a name.
        if (kind == "application/json" and not named) or response.status_code != 200:
            code, said, _ = _body(bytes(content))
            if code is None and response.status_code != 200:
                return unknown(f"the platform's answer cannot be read (HTTP {response.status_code})"), None, b"", kind
            if code:
                return receipt_of("get", code, said, wait_of(response.headers)), code, b"", kind
        return CONFIRMED, 0, bytes(content), kind

    async def _fresh_token(self) -> Receipt | None:
        if self._token and self._clock.monotonic() < self._token_until:
            return None
        if self._asking is None or self._asking.done():
            self._asking = self._own(asyncio.create_task(self._ask_token(), name=f"feishu-token-{self.app_id}"))
        receipt: Receipt = await asyncio.shield(self._asking)
        return None if receipt.ok else receipt

    async def _ask_token(self) -> Receipt:
        """One token for everybody who waits for it."""
        request = self._client().build_request(
            "POST",
            f"{self._base}/open-apis/auth/v3/tenant_access_token/internal",
            json={"app_id": self.app_id, "app_secret": self._secret},
        )
        answer = await self._bounded(self._exchange("token", request), CALL_S)
        if answer is None:
            return refused("busy", "the platform gave no token in time")
        if not answer.receipt.ok:
            # Asking for a token changes nothing: whatever became of it, it is asked for again.
            wrong = answer.code in (10003, 10014, 10015)
            why = "the platform does not know this app_id and app_secret" if wrong else answer.receipt.reason
            return refused("barred" if wrong else "busy", f"no token: {why}")
        token, life = answer.data.get("tenant_access_token"), answer.data.get("expire")
        if not isinstance(token, str) or not token:
            return refused("busy", "the platform's answer holds no token")
        life = float(life) if isinstance(life, (int, float)) else 0.0
        self._token = token
        self._token_until = self._clock.monotonic() + max(life - TOKEN_MARGIN_S, life / 2)
        return answer.receipt

    async def _bounded(self, work: Coroutine[Any, Any, T], seconds: float) -> T | None:
        task = self._own(asyncio.create_task(work))
        try:
            return task.result() if await wait(self._clock, {task}, seconds) else None
        finally:
            task.cancel()

    def _own(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return task

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            https = self._base.startswith("https")
            self._http = httpx2.AsyncClient(
                verify=ssl.create_default_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                proxy=self._proxy or None,
                transport=self._transport,
                trust_env=False,
                timeout=None,  # the clock we were given bounds everything
                limits=httpx2.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=60.0),
            )
        return self._http


def _body(content: bytes) -> tuple[int | None, str, dict[str, Any]]:
    try:
        said = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, "", {}
    if not isinstance(said, dict) or not isinstance(said.get("code"), int):
        return None, "", {}
    return said["code"], str(said.get("msg") or ""), said


def _read(op: str, response: httpx2.Response) -> Answer:
    """The platform's own word is its code, whatever the HTTP status says."""
    code, message, said = _body(response.content)
    if code is None:
        status = response.status_code
        if status == 429:
            return Answer(refused("busy", "too many calls", wait_of(response.headers) or 1.0), 99991400)
        return Answer(unknown(f"the platform's answer cannot be read (HTTP {status})"))
    receipt = receipt_of(op, code, message, wait_of(response.headers))
    data = said.get("data")
    return Answer(receipt, code, data if isinstance(data, dict) and data else said)
