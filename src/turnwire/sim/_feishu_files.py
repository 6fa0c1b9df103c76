"""Images and files: their upload as a form of several parts, and their download from a message.

Guarantee: what is taken can be recognised, is not empty and within the platform's bounds.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import filetype

from ._feishu_call import Call
from ._feishu_codes import Refused
from ._feishu_state import Message, Upload
from ._json import Json

FILE_BYTES = 30 * 1024 * 1024
IMAGE_BYTES = 10 * 1024 * 1024
DOWNLOAD_BYTES = 100 * 1024 * 1024
GIF_SIDE = 2000
IMAGE_SIDE = 12_000
FILE_TYPES = ("opus", "mp4", "pdf", "doc", "xls", "ppt", "stream")
IMAGES = {"jpg", "png", "webp", "gif", "bmp", "ico", "tif", "heic"}


class Part(NamedTuple):
    """One part of a form; `filename` is empty for a plain field."""

    name: str
    filename: str
    media_type: str
    data: bytes


def parts(content_type: str, body: bytes) -> dict[str, Part]:
    """The parts of `multipart/form-data` by name, the last of each. Raises `Refused`."""
    found = re.search(r'(?i)multipart/form-data;.*?boundary="?([^";]+)"?', content_type)
    if found is None:
        raise Refused(234001, "Invalid request param: the body must be multipart/form-data")
    whole = b"\r\n" + body
    read: dict[str, Part] = {}
    for piece in whole.split(b"\r\n--" + found[1].encode("latin-1"))[1:]:
        head, blank, data = piece.partition(b"\r\n\r\n")
        if not blank or piece.startswith(b"--"):
            continue
        lines = head.decode("utf-8", "replace")
        name = re.search(r'(?i)content-disposition:[^\r\n]*?[; ]name="([^"]*)"', lines)
        filename = re.search(r'(?i)filename="([^"]*)"', lines)
        media = re.search(r"(?i)content-type: *([^\r\n;]+)", lines)
        if name:
            said = media[1].strip() if media else ""
            read[name[1]] = Part(name[1], filename[1] if filename else "", said, data)
    return read


def _text(form: dict[str, Part], name: str) -> str:
    return form[name].data.decode("utf-8", "replace") if name in form else ""


def upload_file(call: Call) -> Json:
    """A file that messages can be sent with."""
    form = parts(call.headers.get("content-type", ""), call.raw)
    kind, name = _text(form, "file_type"), _text(form, "file_name")
    if kind not in FILE_TYPES or not name or "file" not in form:
        raise Refused(234001, f"Invalid request param: file_type is one of {', '.join(FILE_TYPES)}; file_name and file")
    _bounded(form["file"].data, FILE_BYTES)
    key = call.tenant.make_id("file_v3_")
    data = form["file"]
    call.tenant.uploads[key] = Upload(key, kind, name, data.media_type, data.data, call.app.app_id)
    return {"file_key": key}


def upload_image(call: Call) -> Json:
    """An image that messages and cards can show."""
    form = parts(call.headers.get("content-type", ""), call.raw)
    if _text(form, "image_type") not in ("message", "avatar") or "image" not in form:
        raise Refused(234001, "Invalid request param: image_type is message or avatar, image the file")
    data = form["image"].data
    _bounded(data, IMAGE_BYTES)
    kind = filetype.guess(data)
    if kind is None or kind.extension not in IMAGES:
        raise Refused(234011)
    side = max(dimensions(data) or (0, 0))
    if side > (GIF_SIDE if kind.extension == "gif" else IMAGE_SIDE):
        raise Refused(234039)
    key = call.tenant.make_id("img_v3_")
    call.tenant.uploads[key] = Upload(key, "image", f"image.{kind.extension}", kind.mime, data, call.app.app_id)
    return {"image_key": key}


def _bounded(data: bytes, most: int) -> None:
    if not data:
        raise Refused(234010)
    if len(data) > most:
        raise Refused(234006)


def dimensions(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG, GIF, BMP or JPEG in pixels, None when they cannot be read."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack(">II", data[16:24])
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack("<HH", data[6:10])
        if data.startswith(b"BM"):
            width, height = struct.unpack("<ii", data[18:26])
            return abs(width), abs(height)
        return _jpeg(data) if data.startswith(b"\xff\xd8") else None
    except struct.error:
        return None


def _jpeg(data: bytes) -> tuple[int, int] | None:
    at = 2
    while True:
        marker, length = struct.unpack(">HH", data[at : at + 4])
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length


def download(call: Call) -> Upload:
    """What a message carries. Raises `Refused`."""
    kind = call.query.get("type", "")
    if kind not in ("image", "file"):
        raise Refused(234001, "Invalid request param: type is image or file")
    message = call.tenant.messages.get(call.params["message_id"])
    key = call.params["file_key"]
    if message is None and any(each.message_id == call.params["message_id"] for each in _forwarded(call)):
        raise Refused(234043)
    if message is not None and message.children and call.tenant.switches.forwarded_files == "refuse":
        raise Refused(234043)
    upload = call.tenant.uploads.get(key)
    if message is None or message.gone or upload is None or key not in keys_in(message):
        raise Refused(234003)
    if call.app.app_id not in call.tenant.chats[message.chat_id].bots:
        raise Refused(234004)
    if (upload.kind == "image") != (kind == "image"):
        raise Refused(234001, "Invalid request param: type does not fit the key")
    if len(upload.data) > DOWNLOAD_BYTES:
        raise Refused(234037)
    return upload


def _forwarded(call: Call) -> Iterator[Message]:
    return (each for message in call.tenant.messages.values() for each in message.inside)


def keys_in(message: Message) -> set[str]:
    """The keys of the images and files in a message, at any depth."""
    if message.children:
        return {key for each in message.inside if not each.children for key in keys_in(each)}
    if message.card_id:
        return set()
    return set(re.findall(r'"(?:image|file)_key": *"([^"]+)"', json.dumps(json.loads(message.content))))
