"""What is said to people beside answers: notices, and the short texts that follow a click."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Replies(msgspec.Struct, frozen=True, kw_only=True):
    """One language."""

    not_allowed: str
    recalled: str
    over: str
    stopping: str
    no_approval: str
    approved: str
    denied: str
    approved_before: str
    denied_before: str
    unknown_button: str
    full: str
    unable: str

    def refused(self, code: str) -> str:
        """Why a message did not become a turn."""
        return self.full if code in ("queue_full", "turn_running") else self.unable

    def verdict(self, approved: bool, *, first: bool) -> str:
        """What a click on an approval came to."""
        if first:
            return self.approved if approved else self.denied
        return self.approved_before if approved else self.denied_before


REPLIES: Mapping[str, Replies] = {
    "en": Replies(
        not_allowed="You may not use this bot here; ask who runs it.",
        recalled="The question was taken back.",
        over="This answer has ended already.",
        stopping="Stopping…",
        no_approval="There is nothing to answer here any more.",
        approved="Approved.",
        denied="Denied.",
        approved_before="Somebody has approved this already.",
        denied_before="This was denied already.",
        unknown_button="This button does nothing any more.",
        full="Too much is waiting here already. Wait for an answer or send /stop, then write again.",
        unable="This message could not be taken. Write it again.",
    ),
    "zh": Replies(
        not_allowed="你没有在这里使用此机器人的权限，请联系管理员。",
        recalled="提问已被撤回。",
        over="这条回答已经结束。",
        stopping="正在停止…",
        no_approval="这里已没有待处理的审批。",
        approved="已同意。",
        denied="已拒绝。",
        approved_before="已有人同意。",
        denied_before="此前已被拒绝。",
        unknown_button="此按钮已失效。",
        full="排队的消息太多。请等待回答或发送 /stop，然后重新发送。",
        unable="消息未能受理，请重新发送。",
    ),
}
