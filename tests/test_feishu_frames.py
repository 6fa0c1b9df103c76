"""Frames of the long connection, and posts of the webhook: bytes as the platform writes them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire.channels.feishu.frames import Frame, decode, encode
from turnwire.channels.feishu.webhook import Refusal, decrypt, open_post
from turnwire.sim._feishu_webhook import encrypt, signature

PING = bytes.fromhex("0800100018f681801020002a0c0a0474797065120470696e67")
EVENT = bytes.fromhex(
    "08011002180720012a0d0a047479706512056576656e742a100a0a6d6573736167655f696412026d312a080a0373756d1201312a080a03"
    "7365711201302a0e0a0874726163655f69641202743142107b22736368656d61223a22322e30227d"
)
NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
FRAMES = st.builds(
    Frame, seq_id=NUMBERS, log_id=NUMBERS, service=st.integers(0, 2**31 - 1), method=st.integers(0, 1),
    headers=st.dictionaries(TEXT, TEXT, max_size=5), payload_encoding=TEXT, payload_type=TEXT,
    payload=st.binary(max_size=300), log_id_new=TEXT,
)  # fmt: skip


def test_the_documented_frames() -> None:
    ping = Frame(service=33554678, headers={"type": "ping"})
    assert encode(ping) == PING
    assert decode(PING) == ping
    event = Frame(
        seq_id=1, log_id=2, service=7, method=1, payload=b'{"schema":"2.0"}',
        headers={"type": "event", "message_id": "m1", "sum": "1", "seq": "0", "trace_id": "t1"},
    )  # fmt: skip
    assert encode(event) == EVENT
    assert decode(EVENT) == event


@given(FRAMES)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


@given(st.binary(max_size=60) | st.tuples(FRAMES.map(encode), st.integers(0, 400)).map(lambda cut: cut[0][: cut[1]]))
def test_other_bytes_are_an_error_or_a_frame(data: bytes) -> None:
    try:
        frame = decode(data)
    except ValueError:
        return
    assert isinstance(frame, Frame)


# Posts

KEY = "ek_test"
SIGNED = {
    "x-lark-request-timestamp": "1700000000",
    "x-lark-request-nonce": "n0nce",
    "x-lark-signature": "7438790b31b0351d61b3fade04f4f6abf3d4e68d9fbe979088248900646f200b",
}
CHALLENGE = (
    "AAECAwQFBgcICQoLDA0OD0C3IHVnD7+FdlVcp1aCmC4zD6V9moTqPEczTo3dQLn08B/3OAEosazv6MLabOJUbLs4gwvD5bXQy6lNpUpAgmg="
)


def test_the_documented_secret_is_read() -> None:
    assert decrypt("P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk=", "test key") == b"hello world"


def test_the_documented_signature_is_right() -> None:
    from turnwire.channels.feishu.webhook import _check_signature

    _check_signature(b'{"schema":"2.0"}', SIGNED, KEY)
    for other in ({**SIGNED, "x-lark-request-nonce": "other"}, {**SIGNED, "x-lark-signature": "é"}, {}):
        with pytest.raises(Refusal, match="signature"):
            _check_signature(b'{"schema":"2.0"}', other, KEY)
    with pytest.raises(Refusal, match="signature"):
        _check_signature(b'{"schema":"2.0" }', SIGNED, KEY)


def test_the_documented_challenge_is_read() -> None:
    body = json.dumps({"encrypt": CHALLENGE}).encode()
    for key in (KEY, "test key"):
        try:
            event, challenge = open_post(body, {}, encrypt_key=key, verification_token="vt")
        except Refusal:
            continue
        assert challenge
        assert event["challenge"] == "c1"
        return
    pytest.fail("no key reads it")


def post(token: str) -> bytes:
    return json.dumps({"schema": "2.0", "header": {"token": token, "event_type": "x"}, "event": {}}).encode()


def test_a_token_that_is_another_one_is_refused() -> None:
    assert open_post(post("vt"), {}, encrypt_key="", verification_token="vt")[0]["event"] == {}
    for token in ("VT", "", "vté"):
        with pytest.raises(Refusal, match="token"):
            open_post(post(token), {}, encrypt_key="", verification_token="vt")
    with pytest.raises(Refusal, match="token"):
        open_post(b'{"event": {}}', {}, encrypt_key="", verification_token="vt")


def test_a_secret_body_without_its_signature_is_refused() -> None:
    body = json.dumps({"encrypt": encrypt(KEY, post("vt").decode())}).encode()
    with pytest.raises(Refusal, match="signature"):
        open_post(body, SIGNED, encrypt_key=KEY, verification_token="vt")
    right = {**SIGNED, "x-lark-signature": signature("1700000000", "n0nce", KEY, body)}
    assert open_post(body, right, encrypt_key=KEY, verification_token="vt")[1] is False


def test_what_should_be_encrypted_and_is_not_is_refused() -> None:
    with pytest.raises(Refusal, match="not encrypted"):
        open_post(post("vt"), {}, encrypt_key=KEY, verification_token="vt")


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda said: json.dumps({"encrypt": said}).encode()))
def test_no_body_is_taken_that_is_not_the_platforms(body: bytes) -> None:
    with pytest.raises(Refusal):
        open_post(body, {}, encrypt_key=KEY, verification_token="vt")


def test_a_body_without_end_is_refused() -> None:
    with pytest.raises(Refusal):
        open_post(b"[" * 100_000, {}, encrypt_key="", verification_token="")
