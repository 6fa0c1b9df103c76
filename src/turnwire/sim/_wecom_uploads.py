"""Files that bots send: uploaded in pieces, checked as a whole.

Guarantee: a `media_id` is given only for a file that is complete, has the sum that was said, and is what its type
demands. What the platform says about a file that is not, nobody has published; the codes are WeCom's general ones.
"""

from __future__ import annotations

import hashlib

from ._json import Json
from ._wecom_bodies import MEDIA, number, text, unpacked
from ._wecom_codes import Refused, invalid
from ._wecom_state import UPLOAD_LIFE_S, Bot, File, MediaKind, Platform, Upload

CHUNK_BYTES = 512 * 1024
MAX_CHUNKS = 100
MAX_TOTAL = 50 * 1024 * 1024
MB = 1024 * 1024
SIZES: dict[MediaKind, int] = {"file": 20 * MB, "image": 10 * MB, "voice": 2 * MB, "video": 10 * MB}
SIZE_CODES: dict[MediaKind, int] = {"file": 40006, "image": 40009, "voice": 40010, "video": 40011}


def begin(platform: Platform, bot: Bot, body: Json) -> Json:
    """`aibot_upload_media_init`. Raises `Refused`."""
    said = text(body, "type")
    kind = next((each for each in SIZES if each == said), None)
    if kind is None:
        raise invalid("type", f"must be one of {', '.join(MEDIA)}")
    name, size = text(body, "filename"), number(body, "total_size", 5, MAX_TOTAL)
    if len(name.encode()) > 256:
        raise invalid("filename", "longer than 256 bytes")
    total, md5 = number(body, "total_chunks", 1, MAX_CHUNKS), body.get("md5", "")
    if not isinstance(md5, str):
        raise invalid("md5", "must be a string")
    if size > (platform.switches.image_bytes if kind == "image" else SIZES[kind]):
        raise Refused(SIZE_CODES[kind])
    platform.spend(f"uploads of {bot.bot_id}")
    upload = Upload(platform.make_id("upload_"), bot.bot_id, kind, name, size, total, md5.lower(), platform.now())
    platform.uploads[upload.upload_id] = upload
    return {"upload_id": upload.upload_id}


def chunk(platform: Platform, bot: Bot, body: Json) -> None:
    """`aibot_upload_media_chunk`. Raises `Refused`."""
    upload = _upload(platform, bot, body)
    index = number(body, "chunk_index", 0, upload.total - 1)
    data = unpacked(text(body, "base64_data"), "base64_data")
    if not data or len(data) > CHUNK_BYTES:
        raise Refused(40006, f"invalid file size: a chunk has 1 to {CHUNK_BYTES} bytes")
    upload.chunks.setdefault(index, data)


def finish(platform: Platform, bot: Bot, body: Json) -> Json:
    """`aibot_upload_media_finish`. Raises `Refused`."""
    upload = _upload(platform, bot, body)
    if lacking := [str(each) for each in range(upload.total) if each not in upload.chunks]:
        raise Refused(40058, f"invalid Request Parameter: the upload lacks chunk {', '.join(lacking[:5])}")
    data = b"".join(upload.chunks[each] for each in range(upload.total))
    if len(data) != upload.size:
        raise Refused(40006, f"invalid file size: {len(data)} bytes came, {upload.size} were said")
    if upload.md5 and hashlib.md5(data).hexdigest() != upload.md5:  # noqa: S324 - the platform's own check
        raise Refused(40058, "invalid Request Parameter: md5 does not match")
    if not fits(upload.kind, data):
        raise Refused(40004)
    if not upload.media_id:
        upload.media_id = platform.make_id("media_").ljust(87, "x")
        file = File(upload.media_id, upload.kind, upload.name, data, bot.bot_id, platform.now())
        platform.files[upload.media_id] = file
    return {"type": upload.kind, "media_id": upload.media_id, "created_at": int(platform.now())}


def parallel(upload: Upload) -> int:
    """How many chunks of an upload may be under way at once."""
    return upload.total if upload.total <= 4 else 3 if upload.total <= 10 else 2


def fits(kind: str, data: bytes) -> bool:
    """Whether a file is what its type demands: images are PNG, JPEG or GIF, voices AMR, videos MP4."""
    match kind:
        case "image":
            return data.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"))
        case "voice":
            return data.startswith(b"#!AMR")
        case "video":
            return data[4:8] == b"ftyp"
    return True


def _upload(platform: Platform, bot: Bot, body: Json) -> Upload:
    upload = platform.uploads.get(text(body, "upload_id"))
    if upload is None or upload.bot_id != bot.bot_id or platform.now() - upload.created >= UPLOAD_LIFE_S:
        raise Refused(40058, "invalid Request Parameter: upload_id is unknown or has expired")
    return upload
