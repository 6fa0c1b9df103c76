"""Sending one message into a chat, as an answer if it can be one.

Guarantee: with the same key a message is sent once, by the platform's own word, for one hour; how it was first tried
(as an answer, in its topic, or just into the chat) is kept for repeats.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...delivery.outcomes import Receipt, unknown
from ...delivery.surface import Act
from .errors import ASIDE, INSIDE, TAKEN_AWAY, UNTHREADED
from .target import Target
from .wire import PER_CHAT, Answer, Wire


async def send(wire: Wire, target: Target, act: Act, kind: str, content: dict[str, Any]) -> Answer:
    """Sends `content` as a message of that kind, with the act's key.

    What is learned: `way`, and `message_id` once it is confirmed.
    """
    way = str(act.facts.get("way") or _first_way(target))
    while True:
        if act.facts.get("way") != way:
            await act.learn(way=way)
        await wire.slot("send", (f"{wire.app_id}:chat:{target.chat}", PER_CHAT), urgent=True)
        answer = await _send(wire, target, way, act.key, kind, content)
        if answer.code == 230020:
            wire.penalise("send", answer.receipt.wait_s or 1.0, f"{wire.app_id}:chat:{target.chat}")
        following = _other_way(target, way, answer.code)
        if following is None:
            break
        way = following
    if answer.code in INSIDE:
        # It may have been sent; the key tells.
        return Answer(unknown(answer.receipt.reason), answer.code)
    message = answer.data.get("message_id")
    if answer.receipt.ok and isinstance(message, str):
        await act.learn(message_id=message)
    return answer


async def _send(wire: Wire, target: Target, way: str, key: str, kind: str, content: dict[str, Any]) -> Answer:
    body: dict[str, Any] = {"msg_type": kind, "content": msgspec.json.encode(content).decode(), "uuid": key}
    if way == "chat":
        body["receive_id"] = target.chat
        return await wire.call("send", "POST", "/im/v1/messages", body, params={"receive_id_type": "chat_id"})
    if way == "topic":
        body["reply_in_thread"] = True
    return await wire.call("reply", "POST", f"/im/v1/messages/{target.message}/reply", body)


def _first_way(target: Target) -> str:
    if not target.message:
        return "chat"
    return "topic" if target.topic else "reply"


def _other_way(target: Target, way: str, code: int | None) -> str | None:
    if way == "topic" and code in UNTHREADED:
        return "reply"
    if way != "chat" and (code in ASIDE or (target.push and code in TAKEN_AWAY)):
        return "chat"
    return None


async def send_notice(wire: Wire, chat: str, message: str, text: str) -> Receipt:
    """A text that answers `message`, once within an hour."""
    target = Target(chat, message)
    await wire.slot("send", (f"{wire.app_id}:chat:{chat}", PER_CHAT), urgent=True)
    return (await _send(wire, target, "reply", f"notice-{message}"[:50], "text", {"text": text})).receipt
