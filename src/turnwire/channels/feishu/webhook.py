"""Events that the platform posts to us: checked, decrypted, and read.

Guarantee: a body is looked into only after its signature and token were found right; comparisons take the same time
for every wrong value. Source: the guide to event subscriptions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

BODY_BYTES = 4 * 1024 * 1024


class Refusal(Exception):
    """The post is not taken; the message says why, without what it held."""


def open_post(
    body: bytes, headers: Mapping[str, str], *, encrypt_key: str, verification_token: str
) -> tuple[dict[str, Any], bool]:
    """The event in a post, and whether it only asks for an answer to its challenge. Raises `Refusal`."""
    event = _object(body)
    if encrypt_key:
        if "encrypt" not in event:
            raise Refusal("the event is not encrypted, but this app has an encrypt_key")
        event = _object(decrypt(str(event["encrypt"]), encrypt_key))
    challenge = event.get("type") == "url_verification"
    if encrypt_key and not challenge:
        _check_signature(body, headers, encrypt_key)
    if verification_token:
        header = event.get("header")
        given = header.get("token") if isinstance(header, dict) else event.get("token")
        if not hmac.compare_digest(str(given or "").encode(), verification_token.encode()):
            raise Refusal("the verification token is another one")
    return event, challenge


def decrypt(encrypted: str, encrypt_key: str) -> bytes:
    """The plain bytes of an encrypted event. Raises `Refusal`."""
    try:
        raw = base64.b64decode(encrypted, validate=True)
        key = hashlib.sha256(encrypt_key.encode()).digest()
        reader = Cipher(algorithms.AES(key), modes.CBC(raw[:16])).decryptor()
        padded = reader.update(raw[16:]) + reader.finalize()
        filler = PKCS7(128).unpadder()
        return filler.update(padded) + filler.finalize()
    except (ValueError, binascii.Error):
        raise Refusal("the event cannot be decrypted; compare encrypt_key with the app's") from None


def _check_signature(body: bytes, headers: Mapping[str, str], encrypt_key: str) -> None:
    stamp, nonce = headers.get("x-lark-request-timestamp", ""), headers.get("x-lark-request-nonce", "")
    right = hashlib.sha256(f"{stamp}{nonce}{encrypt_key}".encode() + body).hexdigest()
    if not hmac.compare_digest(headers.get("x-lark-signature", "").encode(), right.encode()):
        raise Refusal("the signature is wrong; compare encrypt_key with the app's")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("the body is no JSON") from None
    if not isinstance(found, dict):
        raise Refusal("the body is no JSON object")
    return found
