"""The HTTP side of webhook mode: posts opened, answers sealed. Pure.

Guarantee: a body is looked into only after its signature was found right; an answer is sealed with the nonce of the
post that it answers. Source: the platform's pages 101033, 100719 and 101031.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from . import frames
from .crypto import BadCipher, Envelope
from .frames import Json
from .polls import Said

BODY_BYTES = 2 * 1024 * 1024


class Refusal(Exception):
    """The post is not taken; the message says why, without what it held."""


class Post(msgspec.Struct, frozen=True):
    """What was posted, and the nonce that its answer must have."""

    body: Json
    nonce: str

    @property
    def message(self) -> str:
        """The id of a message, or what stands for it."""
        own = self.body.get("msgid")
        return own if isinstance(own, str) and own else f"nonce-{self.nonce}"

    @property
    def stream(self) -> str | None:
        """The bubble that the platform asks for, None if it does not."""
        if self.body.get("msgtype") != "stream":
            return None
        stream = self.body.get("stream")
        own = stream.get("id") if isinstance(stream, dict) else None
        return own if isinstance(own, str) else ""


def open_challenge(envelope: Envelope, query: Mapping[str, str]) -> bytes:
    """What the platform wants to hear before it takes an address. Raises `Refusal`."""
    return _open(envelope, query, query.get("echostr", ""))


def open_post(envelope: Envelope, query: Mapping[str, str], body: bytes) -> Post:
    """What a post says. Raises `Refusal`."""
    sealed = _object(body).get("encrypt")
    if not isinstance(sealed, str):
        raise Refusal("the body is not encrypted")
    return Post(_object(_open(envelope, query, sealed)), query.get("nonce", ""))


def seal_answer(envelope: Envelope, said: Json, post: Post, now: float) -> bytes:
    """The body of the answer to a post."""
    return msgspec.json.encode(envelope.seal(msgspec.json.encode(said), timestamp=int(now), nonce=post.nonce))


def bubble(stream: str, said: Said, *, feedback_id: str = "") -> Json:
    """What a bubble shows. Raises `ValueError`.

    Args:
        feedback_id: for the first answer: people are asked whether they like it.
    """
    found = frames.stream(stream, said.content, finish=said.finish, feedback_id=feedback_id)
    if said.pictures:
        found["stream"]["msg_item"] = [_picture(content) for content in said.pictures]
    return found


def _picture(content: bytes) -> Json:
    digest = hashlib.md5(content).hexdigest()  # noqa: S324 - what the platform asks for
    return {"msgtype": "image", "image": {"base64": base64.b64encode(content).decode(), "md5": digest}}


def _open(envelope: Envelope, query: Mapping[str, str], sealed: str) -> bytes:
    try:
        return envelope.open(
            sealed,
            signature=query.get("msg_signature", ""),
            timestamp=query.get("timestamp", ""),
            nonce=query.get("nonce", ""),
        )
    except BadCipher as error:
        raise Refusal(str(error)) from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("the body is no JSON") from None
    if not isinstance(found, dict):
        raise Refusal("the body is no JSON object")
    return found
