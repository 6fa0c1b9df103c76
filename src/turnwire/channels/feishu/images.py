"""The images that an answer embeds: uploaded beside its frames, so that its cards can show them.

Guarantee: only what the answer itself holds (`data:`) and files of its own conversation are uploaded; addresses
elsewhere are never fetched. An image that cannot be had stays what it was, a link or its words.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

import structlog

from ...clock import Clock, wait
from ...delivery.surface import Desired
from ...files import FileMissing, FileStore
from ...store import StoreError
from ..facts import said
from .limits import IMAGE_BYTES
from .render_inline import images as embedded
from .wire import Wire

_log = structlog.get_logger(__name__)

IMAGES = 10
"""Of one answer at most."""
TRIES = 3
PATIENCE_S = 20.0
"""Seconds that the end of an answer waits for its images."""
IMAGE_TYPES = frozenset(
    {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/x-icon", "image/tiff", "image/heic"}
)
_OWN = re.compile(r"/files/(file_[0-9A-Za-z]+)(?:[/?#].*)?")
_DATA = re.compile(r"data:([a-z]+/[a-z0-9.+-]+)?((?:;[^;,]*)*),(.*)", re.IGNORECASE | re.DOTALL)


class Images:
    """The images of one delivery.

    Args:
        conversation: whose files may be shown.
        public_url: what an address of ours may begin with.

    Attributes:
        keys: the platform's keys of what was uploaded, by the addresses as lines have them; it grows.
    """

    def __init__(self, wire: Wire, files: FileStore, conversation: str, clock: Clock, *, public_url: str = "") -> None:
        self._wire = wire
        self._files = files
        self._conversation = conversation
        self._clock = clock
        self._public_url = public_url.rstrip("/")
        self.keys: dict[str, str] = {}
        # By the same addresses: what is uploaded or was tried, and the whole addresses of what is still to be.
        self._uploads: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, str] = {}
        self._drawn = 0

    def drawn(self, desired: Desired) -> Mapping[str, str]:
        """The keys for drawing it now; what it embeds beyond them is uploaded by the next `begin`."""
        for name, address in (each for text in said(desired) for each in embedded(text)):
            if name in self._uploads or name in self._waiting:
                continue
            if len(self._uploads) + len(self._waiting) < IMAGES and self._is_ours(address):
                self._waiting[name] = address
        self._drawn = len(self.keys)
        return self.keys

    def begin(self) -> None:
        """Uploads what is not under way yet."""
        for name, address in self._waiting.items():
            self._uploads[name] = self._wire.spawn(self._upload(name, address))
        self._waiting.clear()

    async def complete(self) -> bool:
        """Waits for the uploads, within bounds; whether what was drawn last shows all that there is."""
        self.begin()
        under_way = {task for task in self._uploads.values() if not task.done()}
        if under_way:
            done = asyncio.ensure_future(asyncio.wait(under_way))
            await wait(self._clock, {done}, PATIENCE_S)
            done.cancel()
        return self._drawn == len(self.keys)

    def _is_ours(self, address: str) -> bool:
        return _DATA.match(address) is not None or _OWN.fullmatch(self._path(address)) is not None

    def _path(self, address: str) -> str:
        return address.removeprefix(self._public_url) if self._public_url else address

    async def _upload(self, name: str, address: str) -> None:
        try:
            found = _embedded(address) or await self._stored(address)
        except (StoreError, FileMissing, OSError) as error:
            _log.warning("an image of an answer cannot be read", error=str(error))
            return
        if found is None:
            return
        content, media_type = found
        for _ in range(TRIES):
            await self._wire.slot("upload", urgent=False)
            answer = await self._wire.call(
                "upload",
                "POST",
                "/im/v1/images",
                form={"image_type": "message"},
                files={"image": (f"image.{media_type.partition('/')[2]}", content, media_type)},
            )
            key = answer.data.get("image_key")
            if answer.receipt.ok and isinstance(key, str):
                self.keys[name] = key
                return
            if answer.receipt.kind == "refused" and answer.receipt.cause != "busy":
                break
        _log.warning("an image of an answer is not shown", why=answer.receipt.reason)

    async def _stored(self, address: str) -> tuple[bytes, str] | None:
        named = _OWN.fullmatch(self._path(address))
        file = await self._files.get(named[1]) if named is not None else None
        # An answer may name any address, so what it may show is decided by the file.
        if file is None or file.conversation_id != self._conversation:
            return None
        if file.media_type not in IMAGE_TYPES or not 0 < file.size <= IMAGE_BYTES:
            return None
        return await file.read(), file.media_type


def _embedded(address: str) -> tuple[bytes, str] | None:
    """The image inside a `data:` address."""
    found = _DATA.fullmatch(address)
    if found is None:
        return None
    media_type = (found[1] or "").lower()
    if media_type not in IMAGE_TYPES or len(found[3]) > IMAGE_BYTES * 3 // 2:
        return None
    raw = unquote_to_bytes(found[3])
    if found[2].lower().endswith(";base64"):
        try:
            raw = base64.b64decode(raw, validate=True)
        except (ValueError, binascii.Error):
            return None
    return (raw, media_type) if 0 < len(raw) <= IMAGE_BYTES else None
