"""The platform's cipher: AES-256-CBC, the iv from the key, PKCS#7 over blocks of 32 bytes; and webhooks' signatures.

Guarantee: a sealed message is opened only after its signature was found right; comparisons take the same time for
every wrong value; no error says what was in a message or a key. Source: the platform's pages 101033 and 100719.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK = 32
NOISE = 16


class BadCipher(Exception):
    """It cannot be decrypted, or its signature is wrong; the message says which, without what it held."""


def key_of(encoded: str) -> bytes:
    """The 32 bytes of a key of 43 letters, with or without the `=` at its end. Raises `BadCipher`."""
    letters = encoded.strip().rstrip("=")
    try:
        # The last letter of such keys holds two bits too many, which every reader ignores.
        key = base64.b64decode(letters + "=" * (-len(letters) % 4))
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != BLOCK or len(letters) != 43:
        raise BadCipher("the AES key has not 43 letters and digits")
    return key


def encrypt(key: bytes, plain: bytes) -> bytes:
    """The cipher text of `plain`."""
    fill = BLOCK - len(plain) % BLOCK
    worker = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return worker.update(plain + bytes([fill]) * fill) + worker.finalize()


def decrypt(key: bytes, sealed: bytes) -> bytes:
    """What `encrypt` was given; also a file of a message as it is downloaded. Raises `BadCipher`."""
    if not sealed or len(sealed) % 16:
        raise BadCipher("the length is not that of something encrypted")
    worker = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
    plain = worker.update(sealed) + worker.finalize()
    fill = plain[-1]
    if not 1 <= fill <= BLOCK or not hmac.compare_digest(plain[-fill:], bytes([fill]) * fill):
        raise BadCipher("it is encrypted with another key, or damaged")
    return plain[:-fill]


class Envelope:
    """The webhook's side of one bot: what is signed with its token and sealed with its key.

    Args:
        token, aes_key: from the bot's page; the key has 43 letters. Raises `BadCipher` for one that has not.
    """

    def __init__(self, token: str, aes_key: str) -> None:
        self._token = token
        self._key = key_of(aes_key)

    def __repr__(self) -> str:
        return "Envelope()"

    @property
    def key(self) -> bytes:
        """What the files of its messages are encrypted with."""
        return self._key

    def open(self, sealed: str, *, signature: str, timestamp: str, nonce: str) -> bytes:
        """The message in a request, or its challenge. Raises `BadCipher`."""
        right = self.sign(sealed, timestamp, nonce)
        if not hmac.compare_digest(signature.encode(), right.encode()):
            raise BadCipher("the signature is wrong; compare the token with the one on the bot's page")
        try:
            raw = base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError):
            raise BadCipher("it is no base64") from None
        plain = decrypt(self._key, raw)
        size = int.from_bytes(plain[NOISE : NOISE + 4], "big")
        message, receiver = plain[NOISE + 4 : NOISE + 4 + size], plain[NOISE + 4 + size :]
        if len(message) < size or len(plain) < NOISE + 4:
            raise BadCipher("its length is wrong")
        if receiver:
            raise BadCipher("it is meant for another kind of receiver; bots have none")
        return message

    def seal(self, message: bytes, *, timestamp: int, nonce: str, noise: bytes | None = None) -> dict[str, str | int]:
        """The answer to a request, which has that nonce.

        Args:
            noise: 16 random bytes; made here if they are not given.
        """
        noise = os.urandom(NOISE) if noise is None else noise
        sealed = base64.b64encode(encrypt(self._key, noise + len(message).to_bytes(4, "big") + message)).decode()
        signed = self.sign(sealed, str(timestamp), nonce)
        return {"encrypt": sealed, "msgsignature": signed, "timestamp": timestamp, "nonce": nonce}

    def sign(self, sealed: str, timestamp: str, nonce: str) -> str:
        """The signature of a sealed message."""
        return hashlib.sha1("".join(sorted([self._token, timestamp, nonce, sealed])).encode()).hexdigest()  # noqa: S324
