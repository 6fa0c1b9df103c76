"""Posts of one answer to the address that came with a message (`response_url`).

Guarantee: each post ends within its bound on the given clock, with the platform's own code or as unknown; an address
takes one answer, so that one whose fate is unknown is posted again, and taken for shown once the platform says that the
address is used up. The address stands in no log, trace or error. Source: the platform's page 101138.
"""

from __future__ import annotations

import asyncio

import httpx2
import msgspec

from ...clock import sleep, wait
from ...delivery.outcomes import CONFIRMED, Receipt, pause_s, refused, unknown
from ...delivery.traces import Recorder
from .errors import receipt_of
from .events import without_secrets
from .frames import Json
from .requests import LOST, Requests

CALL_S = 15.0
TRIES = 4
ANSWER_BYTES = 64 * 1024
USED_UP = 60140
NAME = "/response_url"
"""Stands for the address in traces."""
UNSENT = (httpx2.ConnectError, httpx2.ProxyError, httpx2.PoolTimeout)


class Address(Requests):
    """Posts for one bot.

    See `requests.Requests` for its arguments.

    Attributes:
        trace: told of every post and its answer; None for nobody.
    """

    trace: Recorder | None = None

    async def say(self, url: str, body: Json, *, again: bool = False) -> Receipt:
        """What came of it; nothing is raised for what the platform or the network does.

        Args:
            again: it may have been posted before, and nothing else was, while the address holds.
        """
        if not url.startswith(("https://", "http://")):
            return refused("rung", "the message came without an address for an answer")
        tried = 0
        while True:
            tried += 1
            receipt, code = await self._recorded(url, body)
            if code == USED_UP and (again or tried > 1):
                # By a try before, whose answer never came.
                return CONFIRMED
            if (again or tried > 1) and receipt.cause == "busy":
                # What became of the try before is not known any better.
                receipt = unknown(receipt.reason)
            if receipt.kind != "unknown" or tried == TRIES:
                return receipt
            await sleep(self._clock, pause_s(tried))

    async def _recorded(self, url: str, body: Json) -> tuple[Receipt, int | None]:
        trace = self.trace
        number = 0 if trace is None else trace.call("POST", NAME, without_secrets(body))
        receipt, code = await self._bounded(url, msgspec.json.encode(body))
        if trace is not None:
            trace.answer(number, receipt, code, {})
        return receipt, code

    async def _bounded(self, url: str, body: bytes) -> tuple[Receipt, int | None]:
        task = asyncio.create_task(self._post(url, body))
        try:
            if await wait(self._clock, {task}, CALL_S):
                return task.result()
            return unknown("the platform did not answer in time"), None
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _post(self, url: str, body: bytes) -> tuple[Receipt, int | None]:
        client = self.client()
        try:
            request = client.build_request("POST", url, content=body, headers={"content-type": "application/json"})
            response = await client.send(request, stream=True)
            try:
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > ANSWER_BYTES:
                        break
            finally:
                await response.aclose()
        except httpx2.InvalidURL:
            return refused("rung", "the address for an answer is none"), None
        except UNSENT as error:
            return refused("busy", f"the platform cannot be reached ({type(error).__name__})"), None
        except LOST as error:
            return unknown(f"the connection to the platform broke ({type(error).__name__})"), None
        code = _code(bytes(content))
        if code is None and response.status_code == 429:
            return refused("busy", "too many messages", 60.0), None
        return receipt_of("response_url", code), code


def _code(content: bytes) -> int | None:
    try:
        said = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    code = said.get("errcode") if isinstance(said, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None
