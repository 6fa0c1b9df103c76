"""What a person sees in a chat right now, as data.

Guarantee: pure functions over the platform's state; nothing that a bot was only told (codes, acknowledgements) is in
what is shown, and nothing that a reader would see is missing.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Literal

from ._json import Json
from ._wecom_state import Chat, Message, Platform, Stream

State = Literal["", "thinking", "live", "finished", "expired"]
_THINK = re.compile(r"<think>(.*?)(?:</think>|\Z)", re.DOTALL)


@dataclass
class FileView:
    """A file in a message."""

    file_id: str
    kind: str
    name: str
    size: int


@dataclass
class CardView:
    """A template card; `buttons` are keys and words, `text` is all that it says without them."""

    card_type: str
    task_id: str
    title: str
    text: str
    buttons: list[tuple[str, str]]


@dataclass
class MessageView:
    """One message.

    Args:
        kind: `stream`, `markdown`, `text`, `mixed`, `template_card`, `file`, `image`, `voice` or `video`.
        text: its words, of a stream without the reasoning.
        thinking: the reasoning, what stood in `<think>`.
        raw: what was sent.
        state: of a stream: `thinking` shows only dots, or shows them for ever after a blank final frame; `live` is
            being written; `expired` was never finished in time.
        via: `reply`, `push`, `welcome` or `response_url`.
        feedback: how it was judged; None for a message without such buttons.
    """

    message_id: str
    sender: str
    from_bot: bool
    kind: str
    text: str
    at: float
    state: State = ""
    thinking: str = ""
    raw: str = ""
    via: str = ""
    quote: str = ""
    files: list[FileView] = field(default_factory=list)
    card: CardView | None = None
    feedback: str | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def file(self) -> FileView | None:
        """Its file, or the first of them."""
        return self.files[0] if self.files else None

    @property
    def streaming(self) -> bool:
        """It looks as if more were to come."""
        return self.state in ("thinking", "live")


@dataclass
class ChatView:
    """A chat with its messages, oldest first; `vanished` is what bots were told was sent and nobody ever sees."""

    chat_id: str
    kind: str
    name: str
    messages: list[MessageView]
    vanished: list[MessageView]

    @property
    def from_bots(self) -> list[MessageView]:
        """What bots said."""
        return [each for each in self.messages if each.from_bot]

    def as_json(self) -> Json:
        """All of it by the names of the fields."""
        return asdict(self)


def view(platform: Platform, chat: Chat) -> ChatView:
    """The chat as everybody in it sees it."""
    shown = [message_view(platform, each) for each in platform.in_chat(chat.key)]
    vanished = [message_view(platform, each) for each in platform.vanished if each.chat == chat.key]
    return ChatView(chat.key, chat.kind, chat.name, shown, vanished)


def message_view(platform: Platform, message: Message) -> MessageView:
    """The message as everybody in its chat sees it."""
    stream = message.stream
    raw = stream.content if stream else message.text
    text, thinking = reasoned(raw) if stream else (raw, "")
    shown = MessageView(
        message.message_id,
        platform.name_of(message.sender),
        message.from_bot,
        message.kind,
        text,
        message.at,
        _state(platform, stream, text) if stream else "",
        thinking,
        raw,
        message.via,
        message.quote,
        [FileView(each.file_id, each.kind, each.name, len(each.data)) for each in message.files],
        notices=list(message.notices),
    )
    if message.card is not None:
        shown.card = card_view(message.card)
        shown.text = shown.card.text
    elif shown.files and message.from_bot:
        shown.text = shown.files[0].name
    if message.feedback_id:
        shown.feedback = message.feedback
    return shown


def reasoned(content: str) -> tuple[str, str]:
    """The words of a stream, and the reasoning in it; what is not closed is reasoning to its end."""
    thinking = "\n".join(found.strip() for found in _THINK.findall(content))
    return _THINK.sub("", content).strip(), thinking


def _state(platform: Platform, stream: Stream, text: str) -> State:
    if stream.ignored_final:
        return "thinking"
    if stream.finished:
        return "finished"
    if platform.over(stream):
        return "expired"
    return "live" if text else "thinking"


def card_view(card: Json) -> CardView:
    """A template card."""
    main = _object(card, "main_title")
    lines = [_object(card, "source").get("desc"), main.get("title"), main.get("desc"), card.get("sub_title_text")]
    emphasis, quote = _object(card, "emphasis_content"), _object(card, "quote_area")
    lines += [emphasis.get("title"), emphasis.get("desc"), quote.get("title"), quote.get("quote_text")]
    for each in _list(card, "horizontal_content_list"):
        lines += [f"{each.get('keyname', '')}: {each.get('value', '')}"]
    for each in [_object(card, "checkbox"), *_list(card, "select_list"), _object(card, "button_selection")]:
        options = [str(option.get("text", "")) for option in _list(each, "option_list")]
        lines += [each.get("title"), " / ".join(options)]
    for each in _list(card, "jump_list"):
        lines += [each.get("title")]
    buttons = [(str(each.get("key", "")), str(each.get("text", ""))) for each in _list(card, "button_list")]
    if submit := _object(card, "submit_button"):
        buttons += [(str(submit.get("key", "")), str(submit.get("text", "")))]
    text = "\n".join(str(line) for line in lines if line)
    title = str(main.get("title") or card.get("sub_title_text") or "")
    return CardView(str(card.get("card_type", "")), str(card.get("task_id", "")), title, text, buttons)


def _object(value: Json, name: str) -> Json:
    inner = value.get(name)
    return inner if isinstance(inner, dict) else {}


def _list(value: Json, name: str) -> list[Json]:
    inner = value.get(name)
    return [each for each in inner if isinstance(each, dict)] if isinstance(inner, list) else []
