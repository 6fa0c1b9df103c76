"""What a person can say to the gateway itself, on every channel."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Command: TypeAlias = Literal["stop", "new", "help"]
Language: TypeAlias = Literal["en", "zh"]


def parse_command(text: str) -> Command | None:
    """The command that a whole message is, or None: `/stop`, `/new`, `/help`."""
    word = text.strip().lower()
    for command in get_args(Command):
        if word == f"/{command}":
            return command  # type: ignore[no-any-return]
    return None


def reply(command: Command, *, stopped: bool, language: Language = "en") -> str:
    """What the gateway answers."""
    if language == "zh":
        return _reply_in_chinese(command, stopped=stopped)
    if command == "stop":
        return "Stopped." if stopped else "Nothing is running."
    if command == "new":
        return "Started afresh: what was said before is no longer given to the agent."
    return (
        "`/stop` ends the running answer and drops what waits.\n\n"
        "`/new` starts afresh: the agent forgets what was said before.\n\n"
        "`/help` shows this."
    )


def _reply_in_chinese(command: Command, *, stopped: bool) -> str:
    if command == "stop":
        return "已停止。" if stopped else "当前没有正在运行的回答。"
    if command == "new":
        return "已重新开始：智能体不会再看到之前的对话。"
    return (
        "`/stop` 结束正在运行的回答，并放弃排队的消息。\n\n"
        "`/new` 重新开始：智能体会忘记之前的对话。\n\n"
        "`/help` 显示本说明。"
    )
