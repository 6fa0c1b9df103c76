"""The frames of the long connection: `pbbp2.Frame` of proto2, written and read by hand.

Guarantee: `decode(encode(frame))` is the frame; what is no frame raises `BadFrame`; unknown fields are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CONTROL, DATA = 0, 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TEXTS = {6: "payload_encoding", 7: "payload_type", 9: "log_id_new"}
_NUMBERS = {1: "seq_id", 2: "log_id", 3: "service", 4: "method"}


class BadFrame(ValueError):
    """Bytes that are no frame."""


@dataclass
class Frame:
    """One frame; `method` is `CONTROL` or `DATA`."""

    method: int
    headers: dict[str, str] = field(default_factory=dict)
    payload: bytes = b""
    service: int = 0
    seq_id: int = 0
    log_id: int = 0
    payload_encoding: str = ""
    payload_type: str = ""
    log_id_new: str = ""


def encode(frame: Frame) -> bytes:
    """The frame's bytes; empty optional fields are left out."""
    out = bytearray()
    for number, name in _NUMBERS.items():
        out += _key(number, _VARINT) + _varint(getattr(frame, name))
    for name, value in frame.headers.items():
        out += _bytes(5, _bytes(1, name.encode()) + _bytes(2, value.encode()))
    for number, name in ((6, frame.payload_encoding), (7, frame.payload_type)):
        out += _bytes(number, name.encode()) if name else b""
    out += _bytes(8, frame.payload) if frame.payload else b""
    out += _bytes(9, frame.log_id_new.encode()) if frame.log_id_new else b""
    return bytes(out)


def decode(data: bytes) -> Frame:
    """The frame in these bytes. Raises `BadFrame`."""
    frame = Frame(-1)
    for number, value in _fields(data):
        if number in _NUMBERS and isinstance(value, int):
            setattr(frame, _NUMBERS[number], value)
        elif number in _TEXTS and isinstance(value, bytes):
            setattr(frame, _TEXTS[number], _text(value))
        elif number == 5 and isinstance(value, bytes):
            header = {inner: _text(each) for inner, each in _fields(value) if isinstance(each, bytes)}
            frame.headers[header.get(1, "")] = header.get(2, "")
        elif number == 8 and isinstance(value, bytes):
            frame.payload = value
    if frame.method not in (CONTROL, DATA):
        raise BadFrame(f"a frame's method is 0 or 1, not {frame.method}")
    return frame


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        key, at = _read(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read(data, at)
            found.append((number, value))
            continue
        if kind == _BYTES:
            size, at = _read(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise BadFrame(f"field {number} has the unknown type {kind}")
        if at + size > len(data):
            raise BadFrame(f"field {number} is longer than the frame")
        found.append((number, data[at : at + size]))
        at += size
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise BadFrame("a number does not end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(value)) + value


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadFrame("a text is no UTF-8") from None
