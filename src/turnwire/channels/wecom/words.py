"""What is said on WeCom beside what every platform says."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..words import Language


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """The words of one language."""

    goes_on: str
    still: str
    done: str
    corrected: str
    withheld: str
    tools: str
    approve_title: str
    approve_elsewhere: str
    stop_title: str
    stop_text: str
    try_again: str
    unreadable: str
    unknown_poll: str
    elsewhere: str
    cut: str
    rest: str
    no_files: str
    welcome: str


OWN: Mapping[Language, Own] = {
    "en": Own(
        goes_on="↓ It goes on below.",
        still="Still at work; it goes on below.",
        done="Done.",
        corrected="**Corrected answer**",
        withheld="The platform does not let this answer through.",
        tools="Tools",
        approve_title="May this tool run?",
        approve_elsewhere="Write to the bot in your own chat with it, or use its page, to answer.",
        stop_title="An answer is being written",
        stop_text="Stop it here, or write /stop.",
        try_again="I cannot take messages just now. Please try again in a minute.",
        unreadable="[a message that this bot cannot read]",
        unknown_poll="This answer is not known here any more.",
        elsewhere="It is answered in another message.",
        cut="✂️ The answer is longer than what can be shown here.",
        rest="All of it: {url}",
        no_files="this bot can show pictures only (PNG or JPEG, up to 10 MB, ten at once)",
        welcome="Hello! Write to me; /help tells what I understand.",
    ),
    "zh": Own(
        goes_on="↓ 下文见下一条。",
        still="仍在处理，结果见下一条。",
        done="已完成。",
        corrected="**更正后的回答**",
        withheld="平台未放行这条回答。",
        tools="工具",
        approve_title="是否允许运行此工具？",
        approve_elsewhere="请在与机器人的单聊或其网页中处理。",
        stop_title="正在生成回答",
        stop_text="点击停止，或发送 /stop。",
        try_again="暂时无法接收消息，请一分钟后重试。",
        unreadable="[机器人无法读取的消息]",
        unknown_poll="这条回答已无法显示。",
        elsewhere="已在另一条消息中回复。",
        cut="✂️ 回答过长，此处无法全部显示。",
        rest="完整内容：{url}",
        no_files="机器人只能发送图片（PNG 或 JPEG，每张不超过 10 MB，每次最多十张）",
        welcome="你好！直接发消息给我即可，发送 /help 查看可用命令。",
    ),
}
