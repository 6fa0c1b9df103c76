"""What bots sent to the simulated platform, for tests that look at more than what is seen in a chat.

Guarantee: every frame and request is noted as it comes, in order, and its answer once it is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ._json import Json
from ._observer import Calls
from ._wecom_codes import STREAM_OVER, TERMINAL

OPS = {
    "aibot_subscribe": "subscribe", "ping": "ping", "aibot_respond_msg": "reply",
    "aibot_respond_welcome_msg": "welcome", "aibot_respond_update_msg": "update", "aibot_send_msg": "push",
    "aibot_upload_media_init": "upload_init", "aibot_upload_media_chunk": "upload_chunk",
    "aibot_upload_media_finish": "upload_finish",
}  # fmt: skip
ALL_OPS = (*OPS.values(), "stream", "finish", "response_url", "download", "callback", "post", "poll")


@dataclass
class Call:
    """One frame or request of a bot.

    Args:
        number: counts the calls from 1.
        op: the operation; `stream` and `finish` are the frames of a stream, `reply` is every other reply.
        at, ended_at: when it came and when it was answered, in seconds of the clock's wall time.
        connection: counts the connections from 1.
        req_id, target: its request id, and the stream, upload or chat that it is about.
        code: of the answer; None while there is none.
        applied: whether the platform took it.
        fault: the kind of fault that it met.
        hopeless: an earlier answer had already said that there is no point in it.
        overlapping: how many frames with its request id were unanswered when it came.
    """

    number: int
    op: str
    at: float
    connection: int
    req_id: str
    target: str
    body: Json = field(repr=False)
    ended_at: float | None = None
    code: int | None = None
    applied: bool = False
    fault: str = ""
    hopeless: bool = False
    overlapping: int = 0


@dataclass
class Observer(Calls[Call]):
    """All calls, and what is known to be hopeless."""

    _over: set[tuple[str, str]] = field(default_factory=set)

    def begin(self, op: str, at: float, connection: int, req_id: str, body: Json) -> Call:
        """A call that came."""
        call = Call(self.count + 1, op, at, connection, req_id, target_of(op, body), body)
        call.hopeless = bool({(req_id, ""), (req_id, call.target)} & self._over)
        return self.note(call)

    def end(self, call: Call, at: float, code: int | None) -> None:
        """Its answer, or that there is none."""
        call.ended_at, call.code = at, code
        if code in TERMINAL:
            self._over.add((call.req_id, ""))
        elif code == STREAM_OVER:
            self._over.add((call.req_id, call.target))
        self.changed()


def op_of(cmd: str, body: Json) -> str:
    """The operation of a frame; `unknown` for a command that there is not."""
    op = OPS.get(cmd, "unknown")
    stream = body.get("stream")
    if op == "reply" and isinstance(stream, dict):
        return "finish" if stream.get("finish") is True else "stream"
    return op


def target_of(op: str, body: Json) -> str:
    """What a frame is about: a stream, an upload or a chat."""
    stream = body.get("stream")
    if op in ("stream", "finish") and isinstance(stream, dict):
        return str(stream.get("id", ""))
    return str(body.get("upload_id") or body.get("chatid") or body.get("bot_id") or "")
