"""One turn in one chat: the ladder of ways to show it, its files, and the sign that somebody is at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...delivery.outcomes import CONFIRMED, Receipt, refused, unknown
from ...delivery.surface import Act, Rung
from ...files import StoredFile
from .cards import CardRung, PatchRung
from .images import IMAGE_TYPES, Images
from .limits import FILE_BYTES, IMAGE_BYTES
from .render import Style
from .send import send
from .target import Target
from .texts import DocumentRung, TextRung
from .wire import Wire

SIGN = "Typing"
NO_REACTION = 231001
FILE_TYPES: Mapping[str, str] = {
    "application/pdf": "pdf",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "doc",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xls",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "ppt",
    "video/mp4": "mp4",
    "audio/opus": "opus",
}
"""What the platform calls a media type; everything else is a `stream`."""


class FeishuSurface:
    """One delivery.

    Args:
        style: how cards look.
        plain: how they look when that was refused.
        images: those that the answer embeds.
        stream_life_s: seconds after which the platform closes what streams.
    """

    def __init__(
        self,
        wire: Wire,
        target: Target,
        style: Style,
        plain: Style,
        *,
        images: Images | None = None,
        stream_life_s: float = 600.0,
    ) -> None:
        self._wire = wire
        self._target = target
        self.ladder: Sequence[Rung] = (
            CardRung(wire, target, style, images, stream_life_s=stream_life_s),
            CardRung(wire, target, plain, name="plain card", stream_life_s=stream_life_s),
            PatchRung(wire, target, plain),
            TextRung(wire, target, plain),
            DocumentRung(wire, target, plain),
        )

    async def attach(self, act: Act, file: StoredFile) -> Receipt:
        """Uploads a file, which nobody sees, and sends it as a message of its own, once."""
        if file.size > FILE_BYTES:
            return refused("content", f"files may have {FILE_BYTES // 2**20} MB at most")
        if file.size == 0:
            return refused("content", "the file is empty")
        image = file.media_type in IMAGE_TYPES and file.size <= IMAGE_BYTES
        uploaded = act.facts.get("key")
        if not isinstance(uploaded, str):
            content = await file.read()
            receipt, uploaded, image = await self._upload(file, content, image=image)
            if not receipt.ok:
                # What was uploaded and not sent is seen by nobody.
                return refused("busy", receipt.reason) if receipt.kind == "unknown" else receipt
            await act.learn(key=uploaded, image=image)
        name, kind = ("image_key", "image") if act.facts.get("image") else ("file_key", "file")
        if kind == "file":
            kind = {"video/mp4": "media", "audio/opus": "audio"}.get(file.media_type, "file")
        answer = await send(self._wire, self._target, act, kind, {name: uploaded})
        return answer.receipt

    async def greet(self, act: Act) -> Receipt:
        """Puts the platform's typing sign under the message that is answered."""
        if not self._target.message or self._target.push:
            return refused("rung", "no message waits")
        await self._wire.slot("reaction", urgent=True)
        body: dict[str, Any] = {"reaction_type": {"emoji_type": SIGN}}
        answer = await self._wire.call("reaction", "POST", f"/im/v1/messages/{self._target.message}/reactions", body)
        own = answer.data.get("reaction_id")
        if answer.receipt.ok and isinstance(own, str):
            await act.learn(reaction_id=own)
        return answer.receipt

    async def part(self, act: Act) -> Receipt:
        """Takes the sign away; one whose name was never learned is put there again first, which changes nothing."""
        if not isinstance(act.facts.get("reaction_id"), str):
            again = await self.greet(act)
            if not again.ok:
                return again
        own = act.facts.get("reaction_id")
        if not isinstance(own, str):
            return unknown("the sign's name is not known")
        await self._wire.slot("reaction", urgent=True)
        path = f"/im/v1/messages/{self._target.message}/reactions/{own}"
        answer = await self._wire.call("reaction", "DELETE", path)
        return CONFIRMED if answer.receipt.cause == "gone" or answer.code == NO_REACTION else answer.receipt

    async def _upload(self, file: StoredFile, content: bytes, *, image: bool) -> tuple[Receipt, str, bool]:
        if image:
            await self._wire.slot("upload", urgent=True)
            answer = await self._wire.call(
                "upload",
                "POST",
                "/im/v1/images",
                form={"image_type": "message"},
                files={"image": (file.name, content, file.media_type)},
            )
            if answer.receipt.ok or answer.receipt.cause != "content":
                return answer.receipt, str(answer.data.get("image_key") or ""), True
        await self._wire.slot("upload", urgent=True)
        kind = FILE_TYPES.get(file.media_type, "stream")
        answer = await self._wire.call(
            "upload",
            "POST",
            "/im/v1/files",
            form={"file_type": kind, "file_name": file.name},
            files={"file": (file.name, content, file.media_type)},
        )
        return answer.receipt, str(answer.data.get("file_key") or ""), False
