"""Names, types and inline content of files from outside, made safe. No I/O.

Guarantee: a name is one name on every system and shows as what it is; a type that conflicts with the content gives way
to the content; what is too large or broken is refused with the reason.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import mimetypes
import re
import unicodedata
from urllib.parse import unquote_to_bytes

import filetype

from .sanitize import clean_text

MAX_BYTES = 25 * 1024 * 1024
NAME_BYTES = 200
_NAME_LOOK = 8192

OCTETS = "application/octet-stream"
_ZIP = "application/zip"
_OLE = "application/x-ole-storage"
_OLE_MAGIC = bytes.fromhex("d0cf11e0a1b11ae1")
# Formats whose signature says only what they are packed in.
_PACKED = {
    _ZIP: ("application/vnd.openxmlformats-", "application/vnd.oasis.", "application/epub+zip"),
    _OLE: ("application/msword", "application/vnd.ms-"),
}
_WRITTEN_AS_TEXT = {"application/pdf", "application/rtf", "application/postscript"}
_TEXT_SUBTYPES = {"json", "ndjson", "jsonl", "xml", "javascript", "ecmascript", "yaml", "toml", "sql", "csv", "sh"}
_KNOWN_BY_SIGNATURE = {kind.mime for kind in filetype.types} | {_OLE}
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,63}/[a-z0-9][a-z0-9.+_-]{0,127}")
# The library's own table, without what the machine's own files add, so that every machine decides alike.
_NAMES = mimetypes.MimeTypes()
_NAMES.add_type("text/markdown", ".md")

_TO_BASE64 = bytes.maketrans(b"-_", b"+/")
_CONTROL = re.compile(r"[\x00-\x07\x0e-\x1a\x1c-\x1f]")
_SEPARATOR = re.compile(r"[/\\]|%2f|%5c", re.IGNORECASE)
_JOINERS = "\u200c\u200d"
_TRIM = " ." + _JOINERS
_WINDOWS_CHARS = re.compile(r'[<>:"|?*]')
_WINDOWS_NAMES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])[ ]*(\.|$)", re.IGNORECASE)


class FileRefused(Exception):
    """This cannot become a file of ours; the message says what and why."""


class FileTooLarge(FileRefused):
    """More bytes than `limit`."""

    def __init__(self, label: str, limit: int) -> None:
        super().__init__(f"{label} is larger than the limit of {limit} bytes ({limit / 2**20:.1f} MB)")
        self.limit = limit


def safe_name(name: str | None, media_type: str | None = None) -> str:
    """A file name that is one name on every system and shows as what it is; never empty, at most 200 bytes of UTF-8.

    Letters of every script stay. Folders, control and invisible characters (bidi controls among them), leading dots and
    trailing dots and spaces go; what Windows reserves is replaced; of an endless name the end is looked at. Without a
    name it is `file` and the extension of `media_type`.
    """
    text = "".join(_visible(char) for char in clean_text((name or "")[-_NAME_LOOK:]))
    parts = (part.strip(_TRIM) for part in _SEPARATOR.split(unicodedata.normalize("NFC", text)))
    last = [part for part in parts if part][-1:]
    if not last:
        return f"file{_extension(media_type)}"
    safe = _WINDOWS_CHARS.sub("_", last[0])
    if _WINDOWS_NAMES.match(safe):
        safe = f"_{safe}"
    if len(safe.encode()) <= NAME_BYTES:
        return safe
    stem, dot, suffix = safe.rpartition(".")
    if not stem or not 0 < len(suffix.encode()) <= 20:
        stem, dot, suffix = safe, "", ""
    room = NAME_BYTES - len(f"{dot}{suffix}".encode())
    return stem.encode()[:room].decode(errors="ignore").rstrip(_TRIM) + dot + suffix


def media_type_of(head: bytes, *, whole: bool, declared: str | None = None, name: str | None = None) -> str:
    """The media type of content that begins with `head`; it never says a kind that the content contradicts.

    What the content shows, by its signature or by being UTF-8 text, decides. `declared`, then the extension of `name`,
    can only say it more exactly: `text/csv` for text, `audio/webm` for WebM, a Word document for a ZIP.

    Args:
        whole: whether `head` is all there is, so that a character cut at its end is an error and not a cut.
    """
    found: str | None = filetype.guess_mime(head) if head else None
    if found in (None, OCTETS):
        found = _OLE if head.startswith(_OLE_MAGIC) else None
    text = _is_text(head, whole)
    if text and found not in _WRITTEN_AS_TEXT:
        found = None  # some signatures are two letters that a text may begin with
    for claim in (_plain_type(declared), _type_of_name(name)):
        if claim and claim != OCTETS and _fits(claim, found, text, head):
            return claim
    return found or ("text/plain" if text else OCTETS)


def parse_data_url(url: str, *, max_bytes: int = MAX_BYTES) -> tuple[str, bytes]:
    """The media type, without parameters, and the content of a `data:` URL (RFC 2397).

    Base64 is taken in both alphabets, with or without padding. Without a type it is `text/plain`. A long one takes time
    (10 ms per MB): call it in a thread.

    Raises `FileTooLarge` for more than `max_bytes` bytes and `FileRefused` for what is no data URL; the message never
    repeats the content.
    """
    if url[:5].lower() != "data:":
        raise FileRefused("not a data URL: it must begin with 'data:'")
    comma = url.find(",")
    if comma < 0:
        raise FileRefused("data URL without a comma: the form is data:TYPE;base64,CONTENT")
    kind, *parameters = url[5:comma].split(";")
    try:
        data = unquote_to_bytes(url[comma + 1 :])
    except UnicodeEncodeError:
        raise FileRefused("data URL holds half of a surrogate pair; encode its content as base64") from None
    if parameters and parameters[-1].strip().lower() == "base64":
        data = data.translate(_TO_BASE64, b" \t\r\n\f").rstrip(b"=")
        if len(data) * 3 // 4 > max_bytes:
            raise FileTooLarge("data URL", max_bytes)
        try:
            data = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except binascii.Error as error:
            raise FileRefused(f"data URL with unreadable base64: {error}") from None
    if len(data) > max_bytes:
        raise FileTooLarge("data URL", max_bytes)
    return (_plain_type(kind) or OCTETS) if kind.strip() else "text/plain", data


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category in ("Zs", "Zl", "Zp"):
        return " "
    return "" if category in ("Cc", "Cf") and char not in _JOINERS else char


def _extension(media_type: str | None) -> str:
    plain = _plain_type(media_type)
    if plain is None:
        return ""
    known = _NAMES.guess_extension(plain, strict=False)
    return known or next((f".{kind.extension}" for kind in filetype.types if kind.mime == plain), "")


def _plain_type(value: str | None) -> str | None:
    plain = (value or "").partition(";")[0].strip().lower()
    return plain if _MEDIA_TYPE.fullmatch(plain) else None


def _type_of_name(name: str | None) -> str | None:
    safe = safe_name(name)
    guessed, packed = _NAMES.guess_type(f"/{safe}", strict=False)
    if guessed or packed:
        return None if packed else guessed
    suffix = safe.rpartition(".")[2].lower()
    return next((kind.mime for kind in filetype.types if kind.extension == suffix), None)


def _is_text(head: bytes, whole: bool) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return _CONTROL.search(text) is None


def _fits(claim: str, found: str | None, text: bool, head: bytes) -> bool:
    kind, _, subtype = claim.partition("/")
    reads_as_text = kind == "text" or not _TEXT_SUBTYPES.isdisjoint(re.split(r"[.+_-]", subtype))
    if found:
        found_kind, _, found_subtype = found.partition("/")
        if subtype.removeprefix("x-") == found_subtype.removeprefix("x-"):
            return kind == found_kind or {kind, found_kind} == {"audio", "video"}
        more_exact = claim not in _KNOWN_BY_SIGNATURE or claim.startswith(_PACKED.get(found, ()))
        return kind == found_kind == "application" and more_exact and not reads_as_text
    if text:
        return reads_as_text or (kind not in ("image", "audio", "video", "font") and claim not in _KNOWN_BY_SIGNATURE)
    if reads_as_text:
        return b"\0" not in head
    return kind in ("audio", "video") or claim not in _KNOWN_BY_SIGNATURE
