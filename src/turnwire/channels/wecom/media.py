"""Files that the bot sends: uploaded in pieces over the long connection.

Guarantee: a media id is given only for a file that the platform has taken whole, by its length and its MD5. An upload
shows nothing to anybody, so one that fails is `refused`, never `unknown`, and can be begun again. Source: the
platform's page 101838 and its own clients.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

import msgspec
import structlog

from ...clock import Clock, sleep, wait
from ...delivery.outcomes import Receipt, pause_s, refused
from ...delivery.pacing import Limit, Pacer
from . import frames
from .connection import UPLOAD_S, BotConnection
from .errors import TOO_MANY
from .frames import CHUNK_BYTES, Json, MediaKind
from .lanes import Answer

_log = structlog.get_logger(__name__)

MB = 1024 * 1024
SIZES: dict[MediaKind, int] = {"image": 10 * MB, "voice": 2 * MB, "video": 10 * MB, "file": 20 * MB}
LEAST_BYTES = 5
"""The platform announces no shorter file. It is not padded, for then it would be another file."""
TOTAL_S = 300.0
"""Seconds that an upload may take; the platform keeps what it has of one for half an hour."""
TRIES = 6
"""Of one step, with growing pauses."""
SESSIONS = 3
"""How often an upload is begun again because the platform has forgotten it, or has it otherwise than we."""
PER_BOT = Limit(rate=0.25, burst=12)
"""30 uploads a minute and 1000 an hour."""
PIECES = Limit(rate=2.0, burst=6)
"""Of what the platform counts nobody knows; a large file takes its time."""


class Uploaded(msgspec.Struct, frozen=True):
    """What became of an upload: if it is confirmed, the media id, and the kind that it can be sent as."""

    receipt: Receipt
    media_id: str = ""
    kind: MediaKind = "file"


def kind_of(content: bytes) -> MediaKind:
    """What a file can be sent as: its bytes decide, and whatever does not fit goes as a plain file."""
    found: MediaKind = "file"
    if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")):
        found = "image"
    elif content.startswith(b"#!AMR"):
        found = "voice"
    elif content[4:8] == b"ftyp" and content[8:12] != b"qt  ":
        found = "video"
    return found if len(content) <= SIZES[found] else "file"


def parallel(chunks: int) -> int:
    """How many pieces of a file may be under way at once; with more the platform fails."""
    return chunks if chunks <= 4 else 3 if chunks <= 10 else 2


class Uploader:
    """Uploads over one bot's connection."""

    def __init__(self, connection: BotConnection, clock: Clock, pacer: Pacer) -> None:
        self._connection = connection
        self._clock = clock
        self._pacer = pacer
        self._line = f"wecom:{connection.bot_id}:upload"

    async def upload(self, content: bytes, *, name: str, kind: MediaKind | None = None) -> Uploaded:
        """Uploads a file within `TOTAL_S` seconds, going on when the connection was replaced meanwhile.

        Args:
            kind: what it is to be sent as; `kind_of` decides if it is not given. What does not fit goes as a file.
        """
        if len(content) < LEAST_BYTES:
            return Uploaded(refused("content", f"the platform takes no file of fewer than {LEAST_BYTES} bytes"))
        if len(content) > SIZES["file"]:
            return Uploaded(
                refused("content", f"it is larger than {SIZES['file'] // MB} MB, the most that can be sent")
            )
        fitting = kind_of(content)
        kind = fitting if kind is None or kind == fitting else "file"
        task = asyncio.create_task(self._upload(content, name, kind), name=f"wecom-upload-{self._connection.name}")
        try:
            if await wait(self._clock, {task}, TOTAL_S):
                return task.result()
            return Uploaded(refused("busy", f"it could not be uploaded within {TOTAL_S:g} s"))
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _upload(self, content: bytes, name: str, kind: MediaKind) -> Uploaded:
        done = await self._sessions(content, name, kind)
        if done.receipt.cause == "content" and kind != "file":
            _log.info("a file is not taken as what it is, and goes as a file", kind=kind, why=done.receipt.reason)
            done = await self._sessions(content, name, "file")
        return done

    async def _sessions(self, content: bytes, name: str, kind: MediaKind) -> Uploaded:
        receipt = refused("busy", "it could not be uploaded")
        for _ in range(SESSIONS):
            receipt, media_id = await self._session(content, name, kind)
            if receipt.ok:
                return Uploaded(receipt, media_id, kind)
            if receipt.cause != "spent":
                return Uploaded(receipt)
        # The next delivery of it begins anew.
        return Uploaded(refused("busy", receipt.reason))

    async def _session(self, content: bytes, name: str, kind: MediaKind) -> tuple[Receipt, str]:
        chunks = -(-len(content) // CHUNK_BYTES)
        md5 = hashlib.md5(content).hexdigest()  # noqa: S324 - the platform's own check
        await self._pacer.take([(self._line, PER_BOT)])
        said = frames.upload_init(kind, name, size=len(content), chunks=chunks, md5=md5)
        receipt, upload_id = await self._step(frames.UPLOAD_INIT, said, gives="upload_id")
        if not receipt.ok:
            return receipt, ""
        left = iter(range(chunks))
        sending = [asyncio.create_task(self._pieces(content, upload_id, left)) for _ in range(parallel(chunks))]
        try:
            for task in sending:
                receipt = await task
                if not receipt.ok:
                    return receipt, ""
        finally:
            for task in sending:
                task.cancel()
            await asyncio.wait(sending)
        return await self._step(frames.UPLOAD_FINISH, frames.upload_finish(upload_id), gives="media_id")

    async def _pieces(self, content: bytes, upload_id: str, left: Iterator[int]) -> Receipt:
        """Sends pieces, one after another, until none is left or one is refused."""
        receipt = refused("busy", "nothing was sent")
        for index in left:
            await self._pacer.take([(f"{self._line}:pieces", PIECES)])
            piece = content[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]
            receipt, _ = await self._step(frames.UPLOAD_CHUNK, frames.upload_chunk(upload_id, index, piece))
            if not receipt.ok:
                return receipt
        return _DONE

    async def _step(self, cmd: str, body: Json, *, gives: str = "") -> tuple[Receipt, str]:
        """One frame, repeated while it is open whether it was taken: nothing is done twice by that."""
        receipt = refused("busy", "nothing was sent")
        for tried in range(1, TRIES + 1):
            if not await self._connection.ready():
                return refused("busy", f"the bot is not connected: {self._connection.reason}"), ""
            answer = await self._connection.call(cmd, body, ack_s=UPLOAD_S)
            receipt = answer.receipt
            given = _given(answer, gives)
            if receipt.ok and given is not None:
                return receipt, given
            if receipt.kind == "refused" and receipt.cause != "busy":
                return receipt, ""
            if answer.code == TOO_MANY and receipt.wait_s:
                self._pacer.penalise(self._line, receipt.wait_s)
            _log.info("a step of an upload is repeated", bot=self._connection.name, cmd=cmd, why=receipt.reason)
            await sleep(self._clock, pause_s(tried, receipt))
        return refused("busy", receipt.reason or "the platform's answer lacks what it should give"), ""


_DONE = Receipt("confirmed")


def _given(answer: Answer, name: str) -> str | None:
    """What an answer gives under that name; None if it should and does not."""
    if not name:
        return ""
    found = answer.body.get(name)
    return found if isinstance(found, str) and found else None
