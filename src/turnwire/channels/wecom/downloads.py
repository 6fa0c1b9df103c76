"""Files of messages: fetched from their addresses, which hold for five minutes, and decrypted.

Guarantee: never more than `limit` bytes are kept; each download ends within its bound on the given clock; proxies of
the environment are ignored; no error says the address or the key. Source: the platform's pages 101834 and 101033.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from urllib.parse import unquote

import httpx2
import msgspec
import structlog

from ...clock import sleep, wait
from ...delivery.outcomes import CONFIRMED, Receipt, pause_s, refused
from .crypto import BLOCK, BadCipher, decrypt, key_of
from .requests import LOST, Requests

_log = structlog.get_logger(__name__)

FILE_BYTES = 100 * 1024 * 1024
TOTAL_S = 120.0
TRIES = 3
_STARRED = re.compile(r"filename\*\s*=\s*(?:UTF-8|utf-8)''([^;]+)")
_PLAIN = re.compile(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]+))')


class Downloaded(msgspec.Struct, frozen=True):
    """What came: the plain bytes, if the receipt is confirmed, and the name that the platform gives, as far as it is
    known."""

    receipt: Receipt
    content: bytes = b""
    name: str = ""


class Downloads(Requests):
    """Fetches the files of one bot's messages.

    See `requests.Requests` for its arguments.
    """

    async def fetch(self, url: str, aes_key: str, *, limit: int = FILE_BYTES) -> Downloaded:
        """A file of a message; what fails is `refused`, with a reason for people.

        Args:
            aes_key: the `aeskey` beside the address; in webhook mode, where there is none, the bot's EncodingAESKey.
            limit: bytes that it may have.
        """
        try:
            key = key_of(aes_key)
        except BadCipher as error:
            return Downloaded(refused("content", f"the file cannot be read: {error}"))
        if not url.startswith(("https://", "http://")):
            return Downloaded(refused("content", "the file has no address"))
        task = asyncio.create_task(self._tries(url, limit))
        try:
            if not await wait(self._clock, {task}, TOTAL_S):
                return Downloaded(refused("busy", f"the file did not come within {TOTAL_S:g} s"))
            found = task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})
        if not found.receipt.ok:
            return found
        try:
            plain = await asyncio.to_thread(decrypt, key, found.content)
        except BadCipher as error:
            return Downloaded(refused("content", f"the file cannot be decrypted: {error}"), name=found.name)
        if len(plain) > limit:
            return Downloaded(refused("content", f"it is larger than {limit} bytes"), name=found.name)
        return Downloaded(CONFIRMED, plain, found.name)

    async def _tries(self, url: str, limit: int) -> Downloaded:
        found = Downloaded(refused("busy", "the file was not asked for"))
        for tried in range(1, TRIES + 1):
            try:
                found = await self._get(url, limit)
            except httpx2.InvalidURL:
                return Downloaded(refused("content", "the file has no address"))
            except LOST as error:
                found = Downloaded(refused("busy", f"the file could not be fetched ({type(error).__name__})"))
            if found.receipt.ok or found.receipt.cause != "busy" or tried == TRIES:
                break
            await sleep(self._clock, pause_s(tried, found.receipt))
        return found

    async def _get(self, url: str, limit: int) -> Downloaded:
        client = self.client()
        response = await client.send(client.build_request("GET", url), stream=True)
        try:
            status = response.status_code
            if status >= 500 or status == 429:
                return Downloaded(refused("busy", f"the file could not be fetched (HTTP {status})"))
            if status != 200:
                why = f"the file's address is not valid any more; it holds for five minutes (HTTP {status})"
                return Downloaded(refused("content", why))
            name, content = name_of(response.headers), bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > limit + BLOCK:
                    return Downloaded(refused("content", f"it is larger than {limit} bytes"), name=name)
            return Downloaded(CONFIRMED, bytes(content), name)
        finally:
            await response.aclose()


def name_of(headers: Mapping[str, str]) -> str:
    """The name in a `Content-Disposition`, which is URL-encoded; empty if there is none. It is not safe as a path."""
    said = headers.get("content-disposition", "")
    if found := _STARRED.search(said):
        return unquote(found.group(1).strip())
    if found := _PLAIN.search(said):
        return unquote((found.group(1) or found.group(2) or "").replace('\\"', '"').strip())
    return ""
