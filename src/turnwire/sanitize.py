"""Text and JSON that every database and every client can take.

Guarantee: the result holds no NUL and no lone surrogate, and encodes to JSON. A surrogate pair that an agent cut in two
between deltas is joined, not lost.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

_HIGH = range(0xD800, 0xDC00)


def clean_text(text: str) -> str:
    """`text` without NUL (removed) and without lone surrogates (replaced by U+FFFD)."""
    if text.isascii():
        return text.replace("\0", "") if "\0" in text else text
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", "") if "\0" in text else text


def split_trailing_surrogate(text: str) -> tuple[str, str]:
    """`text` and, apart, the first half of a pair that it ends with: its second half may be in the next delta."""
    if text and ord(text[-1]) in _HIGH:
        return text[:-1], text[-1]
    return text, ""


def join_surrogates(carry: str, text: str) -> str:
    """`carry` put before `text`; a pair that was cut becomes one character again."""
    if not carry:
        return text
    return (carry + text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def clean_json(value: Any) -> Any:
    """`value` as plain JSON values that encode and decode to the same.

    Models with `model_dump` (pydantic), dataclasses and what msgspec knows (dates, UUIDs, sets, bytes as base64) are
    converted. Raises `TypeError`, `ValueError`, `OverflowError` or `RecursionError` for what has no JSON form.
    """
    if value is None or value is True or value is False:
        return value
    try:
        encoded = msgspec.json.encode(value, enc_hook=_convert)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_scrub(value), enc_hook=_convert)
    decoded = msgspec.json.decode(encoded)
    if b"\\u0000" in encoded:
        decoded = _scrub(decoded)
    return decoded


def _convert(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form; give plain JSON values")


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_scrub(key): _scrub(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_scrub(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return _scrub(msgspec.structs.asdict(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _scrub({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    return value
