"""The platform's cipher and signatures, by its own vectors and against the simulator."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.channels.wecom.crypto import BadCipher, Envelope, decrypt, encrypt, key_of
from turnwire.sim import _wecom_crypto as theirs

# A file: its key as it comes in a message, without `=`.
FILE_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
FILE = "bBjveTnmyQthEFA0vklx4LyTRWWSSl7VYu612ox3GgM="
# A message of a webhook.
AES_KEY = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
MESSAGE = b'{"msgtype":"stream","stream":{"id":"S1"}}'
SEALED = "Q3stYC6hdFzMh9T8HCvyDEOAkX5ekXdBcFGXj17TA0t04DpkFxhRFqC75jmVTkAD0N3Ukl+v0DceqEirTrVoow=="
SIGNATURE = "01d6cc9ee09e08aede6589159fcfbffc9455183b"


def test_a_file_is_decrypted_with_the_key_of_its_message() -> None:
    assert decrypt(key_of(FILE_KEY), base64.b64decode(FILE)) == b"hello wecom"
    assert decrypt(key_of(FILE_KEY + "="), base64.b64decode(FILE)) == b"hello wecom"


def test_a_message_is_sealed_and_signed_as_the_platform_does() -> None:
    said = Envelope("tok", AES_KEY).seal(MESSAGE, timestamp=1_700_000_000, nonce="nonce1", noise=b"0123456789abcdef")
    assert said == {"encrypt": SEALED, "msgsignature": SIGNATURE, "timestamp": 1_700_000_000, "nonce": "nonce1"}


def test_a_message_is_opened() -> None:
    opened = Envelope("tok", AES_KEY).open(SEALED, signature=SIGNATURE, timestamp="1700000000", nonce="nonce1")
    assert opened == MESSAGE


@pytest.mark.parametrize(
    ("token", "signature", "timestamp", "nonce"),
    [
        ("other", SIGNATURE, "1700000000", "nonce1"),
        ("tok", SIGNATURE[:-1] + "0", "1700000000", "nonce1"),
        ("tok", "", "1700000000", "nonce1"),
        ("tok", "é", "1700000000", "nonce1"),
        ("tok", SIGNATURE, "1700000001", "nonce1"),
        ("tok", SIGNATURE, "1700000000", "nonce2"),
    ],
)
def test_a_wrong_signature_is_refused_before_anything_is_read(
    token: str, signature: str, timestamp: str, nonce: str
) -> None:
    with pytest.raises(BadCipher, match="signature"):
        Envelope(token, AES_KEY).open(SEALED, signature=signature, timestamp=timestamp, nonce=nonce)


def _open(sealed: str, key: str = AES_KEY) -> bytes:
    envelope = Envelope("tok", key)
    return envelope.open(sealed, signature=envelope.sign(sealed, "1", "n"), timestamp="1", nonce="n")


def test_what_is_signed_and_still_wrong_is_refused_without_its_content() -> None:
    key = key_of(AES_KEY)
    bad = {
        "no base64": "!",
        "another length": base64.b64encode(b"x" * 33).decode(),
        "nothing": "",
        "another key": base64.b64encode(encrypt(key_of(FILE_KEY), b"x" * 40)).decode(),
        "a receiver": base64.b64encode(encrypt(key, b"n" * 16 + (2).to_bytes(4, "big") + b"{}wx123")).decode(),
        "too long": base64.b64encode(encrypt(key, b"n" * 16 + (99).to_bytes(4, "big") + b"{}")).decode(),
        "too short": base64.b64encode(encrypt(key, b"n" * 10)).decode(),
    }
    for sealed in bad.values():
        with pytest.raises(BadCipher) as raised:
            _open(sealed)
        assert "wx123" not in str(raised.value)
        assert AES_KEY not in str(raised.value)


@pytest.mark.parametrize("key", ["", "short", AES_KEY[:-1], AES_KEY + "A", "é" * 43, "!" * 43])
def test_a_key_has_43_letters(key: str) -> None:
    with pytest.raises(BadCipher, match="43"):
        Envelope("tok", key)


def test_nothing_of_an_envelope_is_seen_in_traces() -> None:
    assert repr(Envelope("tok", AES_KEY)) == "Envelope()"


@given(st.binary(max_size=200))
def test_what_we_seal_the_platform_opens_and_the_other_way_round(data: bytes) -> None:
    text = data.hex()
    assert theirs.decrypt(AES_KEY, encrypt(key_of(AES_KEY), data)) == data
    assert decrypt(key_of(AES_KEY), theirs.encrypt(AES_KEY, data)) == data
    said = Envelope("tok", AES_KEY).seal(text.encode(), timestamp=7, nonce="n")
    assert theirs.unseal(AES_KEY, str(said["encrypt"])) == text
    assert theirs.signature("tok", "7", "n", str(said["encrypt"])) == said["msgsignature"]
    assert _open(theirs.seal(AES_KEY, text)) == text.encode()
    assert len(encrypt(key_of(AES_KEY), data)) % 32 == 0


@given(st.binary(min_size=32, max_size=96))
def test_damaged_bytes_are_refused_or_shorter_and_nothing_worse(data: bytes) -> None:
    try:
        plain = decrypt(key_of(AES_KEY), data)
    except BadCipher:
        return
    assert len(plain) < len(data)
