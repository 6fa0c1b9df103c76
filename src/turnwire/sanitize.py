"""Text and JSON that every database and every client can take.

Guarantee: the result holds no NUL, no lone surrogate and no key that a JavaScript reader refuses, and encodes to JSON.
A surrogate pair that an agent cut in two between deltas is joined, not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MAX_DEPTH = 250
"""Levels of lists and objects within each other; deeper values exhaust the stack of some reader."""

_HIGH = range(0xD800, 0xDC00)


def clean_text(text: str) -> str:
    """`text` without NUL (removed) and without lone surrogates (each replaced by U+FFFD)."""
    if "\0" in text:
        text = text.replace("\0", "")
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


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
    """`value` as plain JSON values of its own that encode and decode to the same.

    Models with `model_dump` (pydantic), dataclasses, mappings and what msgspec knows (dates, UUIDs, sets, bytes as
    base64) are converted; NaN and infinities become null, as in JavaScript. A key `__proto__`, and `constructor` over
    null or `prototype`, is put in parentheses: the AI SDK's parser ends the stream at it (`secure-json-parse.ts`).

    Raises `TypeError`, `ValueError` or `RecursionError` for what has no JSON form or is nested over `MAX_DEPTH` levels.
    """
    if value is None or value is True or value is False:
        return value
    try:
        encoded = msgspec.json.encode(value, enc_hook=_convert)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, str_keys=True, enc_hook=_convert)
        encoded = msgspec.json.encode(_scrub(plain))
    decoded = msgspec.json.decode(encoded)
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH:
        _check_depth(decoded)
    if b"\\u0000" in encoded or b'"__proto__"' in encoded or b'"constructor"' in encoded:
        decoded = _scrub(decoded)
    return decoded


def _convert(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        try:
            return dump(mode="json")
        except Exception as error:
            raise TypeError(f"{type(value).__name__}.model_dump failed: {error}") from error
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"{type(value).__name__} has no JSON form; give plain JSON values")


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, (list, tuple)):
        return [_scrub(item) for item in value]
    if not isinstance(value, dict):
        return value
    scrubbed: dict[str, Any] = {}
    for key, item in value.items():
        key = clean_text(key)
        if key == "__proto__" or (key == "constructor" and _is_refused(item)):
            key = f"({key})"
        while key in scrubbed:
            key += "'"
        scrubbed[key] = _scrub(item)
    return scrubbed


def _is_refused(constructor: Any) -> bool:
    """AI SDK 7 refuses an object with a `prototype` there, AI SDK 5 stumbles over null as well."""
    return constructor is None or (isinstance(constructor, dict) and "prototype" in constructor)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"it is nested over {MAX_DEPTH} levels deep; make it flatter")
