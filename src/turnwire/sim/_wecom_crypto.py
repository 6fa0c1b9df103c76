"""The platform's cipher: AES-256-CBC with PKCS#7 over blocks of 32 bytes, and the signature of webhooks.

Guarantee: what is encrypted here is what the platform's own samples encrypt; the tests hold published vectors.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK = 32


class BadCipher(Exception):
    """Something that was not encrypted as it should be."""


def key_of(encoded: str) -> bytes:
    """The 32 bytes of a key of 43 letters. Raises `ValueError`."""
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error:
        key = b""
    if len(key) != BLOCK:
        raise ValueError("an AES key has 43 letters, which are base64 for 32 bytes")
    return key


def encrypt(encoded_key: str, data: bytes) -> bytes:
    """The bytes of a file as they are downloaded."""
    key = key_of(encoded_key)
    fill = BLOCK - len(data) % BLOCK
    worker = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return worker.update(data + bytes([fill]) * fill) + worker.finalize()


def decrypt(encoded_key: str, data: bytes) -> bytes:
    """What `encrypt` was given. Raises `BadCipher`."""
    if not data or len(data) % 16:
        raise BadCipher("the length is no multiple of 16")
    key = key_of(encoded_key)
    worker = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
    plain = worker.update(data) + worker.finalize()
    fill = plain[-1]
    if not 1 <= fill <= BLOCK or plain[-fill:] != bytes([fill]) * fill:
        raise BadCipher("the padding is wrong")
    return plain[:-fill]


def seal(encoded_key: str, text: str, *, noise: bytes | None = None) -> str:
    """A message as in the field `encrypt`; the receiver's id is empty for bots."""
    body = text.encode()
    plain = (noise or os.urandom(16)) + len(body).to_bytes(4, "big") + body
    return base64.b64encode(encrypt(encoded_key, plain)).decode()


def unseal(encoded_key: str, sealed: str) -> str:
    """What `seal` was given. Raises `BadCipher`."""
    try:
        plain = decrypt(encoded_key, base64.b64decode(sealed, validate=True))
        size = int.from_bytes(plain[16:20], "big")
        body, receiver = plain[20 : 20 + size], plain[20 + size :]
        if len(body) < size or receiver:
            raise BadCipher("the length is wrong, or there is a receiver's id")
        return body.decode()
    except ValueError as error:
        raise BadCipher(str(error)) from None


def signature(token: str, timestamp: str, nonce: str, sealed: str) -> str:
    """The signature of a sealed message."""
    return hashlib.sha1("".join(sorted([token, timestamp, nonce, sealed])).encode()).hexdigest()  # noqa: S324
