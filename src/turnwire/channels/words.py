"""What is said beside the agent's own words: the words of the page, as far as both say the same."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Language: TypeAlias = Literal["zh", "en"]


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one language; what stands in braces is filled in."""

    thinking: str
    thoughts: str
    working: str
    writing: str
    running: str
    sending: str
    stop: str
    tool: str
    tools: str
    tools_running: str
    tools_failed: str
    earlier: str
    asked: str
    denied_tool: str
    may_run: str
    allow: str
    deny: str
    allowed: str
    allowed_by: str
    denied: str
    denied_by: str
    superseded: str
    expired: str
    because: str
    stopped: str
    failed: str
    interrupted: str
    waiting: str
    nothing: str
    repeat: str
    not_sent: str
    unclear: str
    sources: str
    image: str
    tokens: str
    hours: str
    minutes: str
    seconds: str
    document: str
    document_notice: str


EN = Words(
    thinking="Thinking",
    thoughts="Thoughts",
    working="Working",
    writing="Writing",
    running="Running {tool}",
    sending="Sending files",
    stop="Stop",
    tool="1 tool",
    tools="{count} tools",
    tools_running="running",
    tools_failed="{count} failed",
    earlier="… and {count} before",
    asked="needs your approval",
    denied_tool="denied",
    may_run="May this tool run?",
    allow="Allow",
    deny="Deny",
    allowed="Allowed",
    allowed_by="Allowed by {who}",
    denied="Denied",
    denied_by="Denied by {who}",
    superseded="a newer message came first",
    expired="nobody answered in time",
    because=": ",
    stopped="This answer was stopped.",
    failed="This answer failed.",
    interrupted="This answer was interrupted.",
    waiting="Waiting for your approval.",
    nothing="There is no text in this answer.",
    repeat="This may be a repeat: it is not known whether an earlier copy arrived.",
    not_sent="{name} could not be sent",
    unclear="{name} may not have arrived",
    sources="Sources",
    image="image",
    tokens="{count} tokens",
    hours="{hours} h {minutes} min",
    minutes="{minutes} min {seconds} s",
    seconds="{seconds} s",
    document="answer.md",
    document_notice="The answer could not be shown here. It is in the file {name}.",
)

ZH = Words(
    thinking="正在思考",
    thoughts="思考过程",
    working="正在处理",
    writing="正在回答",
    running="正在运行 {tool}",
    sending="正在发送文件",
    stop="停止",
    tool="1 个工具",
    tools="{count} 个工具",
    tools_running="运行中",
    tools_failed="{count} 个失败",
    earlier="……之前还有 {count} 个",
    asked="需要你的批准",
    denied_tool="已拒绝",
    may_run="允许运行这个工具吗？",
    allow="允许",
    deny="拒绝",
    allowed="已允许",
    allowed_by="{who} 已允许",
    denied="已拒绝",
    denied_by="{who} 已拒绝",
    superseded="之后又发送了新消息",
    expired="无人及时答复",
    because="：",
    stopped="这次回答已停止。",
    failed="这次回答失败了。",
    interrupted="这次回答被中断了。",
    waiting="正在等待你的批准。",
    nothing="这次回答没有文字内容。",
    repeat="这可能是重复消息：无法确认之前的一份是否已送达。",
    not_sent="{name} 未能发送",
    unclear="{name} 可能未送达",
    sources="来源",
    image="图片",
    tokens="{count} tokens",
    hours="{hours} 小时 {minutes} 分",
    minutes="{minutes} 分 {seconds} 秒",
    seconds="{seconds} 秒",
    document="回答.md",
    document_notice="这里无法显示这次回答，内容见文件 {name}。",
)

WORDS: dict[Language, Words] = {"en": EN, "zh": ZH}


def duration(seconds: float, words: Words) -> str:
    """A length of time as people say it."""
    whole = max(int(seconds), 0)
    if whole >= 3600:
        return words.hours.format(hours=whole // 3600, minutes=whole % 3600 // 60)
    if whole >= 60:
        return words.minutes.format(minutes=whole // 60, seconds=whole % 60)
    return words.seconds.format(seconds=whole)
