"""The frames of the long connection: protobuf messages of nine fields, written and read by hand.

Guarantee: `decode(encode(frame))` is the frame; bytes that are no frame raise `ValueError`. Source: `pbbp2.Frame` as
the platform's own clients define it.
"""

from __future__ import annotations

import msgspec

_VARINT, _BYTES = 0, 2


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame; `method` 0 is control, 1 is data."""

    seq_id: int = 0
    log_id: int = 0
    service: int = 0
    method: int = 0
    headers: dict[str, str] = {}
    payload_encoding: str = ""
    payload_type: str = ""
    payload: bytes = b""
    log_id_new: str = ""


def encode(frame: Frame) -> bytes:
    """The frame's bytes."""
    out = bytearray()
    for field, number in enumerate((frame.seq_id, frame.log_id, frame.service, frame.method), start=1):
        out += _varint(field << 3 | _VARINT) + _varint(number)
    for key, value in frame.headers.items():
        out += _field(5, _field(1, key.encode()) + _field(2, value.encode()))
    for field, text in ((6, frame.payload_encoding), (7, frame.payload_type)):
        if text:
            out += _field(field, text.encode())
    if frame.payload:
        out += _field(8, frame.payload)
    if frame.log_id_new:
        out += _field(9, frame.log_id_new.encode())
    return bytes(out)


def decode(data: bytes) -> Frame:
    """The frame in `data`. Raises `ValueError`."""
    numbers = {1: 0, 2: 0, 3: 0, 4: 0}
    texts = {6: b"", 7: b"", 8: b"", 9: b""}
    headers: dict[str, str] = {}
    for field, value in _fields(data):
        if isinstance(value, int):
            numbers[field] = value
        elif field == 5:
            pair = {key: text for key, text in _fields(value) if isinstance(text, bytes)}
            headers[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
        else:
            texts[field] = value
    return Frame(
        seq_id=numbers[1],
        log_id=numbers[2],
        service=numbers[3],
        method=numbers[4],
        headers=headers,
        payload_encoding=texts[6].decode(),
        payload_type=texts[7].decode(),
        payload=texts[8],
        log_id_new=texts[9].decode(),
    )


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    out = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        if tag & 7 == _VARINT:
            number, at = _read_varint(data, at)
            found.append((tag >> 3, number))
        elif tag & 7 == _BYTES:
            size, at = _read_varint(data, at)
            if at + size > len(data):
                raise ValueError("the frame is cut off")
            found.append((tag >> 3, data[at : at + size]))
            at += size
        else:
            raise ValueError(f"a frame has no field of the wire type {tag & 7}")
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ValueError("the frame is cut off")
