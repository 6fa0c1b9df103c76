"""What becomes of what a bot says: replies, streams, welcomes, new cards, pushes.

Guarantee: a refusal leaves everything as it was. A success says only that the platform took it; whether people see it
is decided by the switches, and what they never see is kept in `Platform.vanished`.
"""

from __future__ import annotations

from ._json import Json
from ._wecom_bodies import MEDIA, PUSHES, REPLIES, WELCOMES, Content, card, content, inner
from ._wecom_codes import Refused, invalid
from ._wecom_state import MEDIA_LIFE_S, Bot, Callback, Change, Chat, File, Message, Platform, Stream


def respond(platform: Platform, bot: Bot, req_id: str, body: Json) -> None:
    """`aibot_respond_msg`. Raises `Refused`."""
    both = ("stream_with_template_card",) if platform.switches.stream_with_card == "accept" else ()
    said = content(body, (*REPLIES, *both))
    reply(platform, platform.answerable(bot.bot_id, req_id, "message"), said)


def reply(platform: Platform, callback: Callback, said: Content, *, until: float | None = None) -> None:
    """Answers a message. `until` is when a stream that begins ends by itself. Raises `Refused`."""
    if said.kind == "stream":
        stream_frame(platform, callback, said, until=until)
        return
    file = _file(platform, callback.bot_id, said)
    limit = platform.switches.media_per_reply
    if file is not None and limit and callback.files >= limit:
        raise Refused(846605)
    platform.spend(callback.chat)
    message = _message(platform, callback.bot_id, callback.chat, said, "reply", file)
    message.req_id = callback.req_id
    if file is None:
        platform.show(message)
        return
    callback.files += 1
    finished = any(each.finished for each in callback.streams.values())
    late = finished and not any(platform.live(each) for each in callback.streams.values())
    _shown(platform, message, unseen=late and platform.switches.attach_after_finish == "ack_and_drop")


def stream_frame(platform: Platform, callback: Callback, said: Content, *, until: float | None = None) -> None:
    """One frame of a stream: a new bubble, or the whole text of an old one. Raises `Refused`."""
    switches, now = platform.switches, platform.now()
    stream = callback.streams.get(said.stream_id)
    if stream is None:
        over = [each for each in callback.streams.values() if not each.finished and platform.over(each)]
        if over and switches.stream_after_expiry == "refuse":
            raise _expired(platform)
        platform.spend(callback.chat)
        stream = Stream(said.stream_id, callback.req_id, now, now, until=until)
        callback.streams[said.stream_id] = stream
        message = _message(platform, callback.bot_id, callback.chat, said, "reply")
        message.stream, message.req_id = stream, callback.req_id
        platform.show(message)
    elif stream.finished:
        if switches.frame_after_finish == "refuse":
            raise Refused(846608)
        return
    elif platform.over(stream):
        if switches.expired_frame == "refuse":
            raise _expired(platform)
        return
    elif switches.rate_unit == "frames":
        platform.spend(callback.chat)
    _write(platform, stream, said)
    if said.card is not None:
        card_said = Content("template_card", card=said.card)
        platform.show(_message(platform, callback.bot_id, callback.chat, card_said, "reply"))


def _write(platform: Platform, stream: Stream, said: Content) -> None:
    now = platform.now()
    if said.finish and stream.changes and said.text == stream.content and platform.switches.identical_final == "drop":
        return
    stream.last_at = now
    if said.finish:
        stream.finished = True
        if not said.text.strip():
            stream.ignored_final = True
            return
    stream.content = said.text
    stream.changes.append(Change(now, said.text, said.finish))


def _expired(platform: Platform) -> Refused:
    minutes = platform.switches.stream_life / 60
    return Refused(846608, f"stream message update expired (>{minutes:g} minutes), cannot update")


def welcome(platform: Platform, bot: Bot, req_id: str, body: Json) -> None:
    """`aibot_respond_welcome_msg`. Raises `Refused`."""
    said = content(body, WELCOMES)
    callback = platform.answerable(bot.bot_id, req_id, "enter_chat")
    platform.spend(callback.chat)
    callback.answered = True
    platform.show(_message(platform, bot.bot_id, callback.chat, said, "welcome"))


def update_card(platform: Platform, bot: Bot, req_id: str, body: Json) -> None:
    """`aibot_respond_update_msg`. Raises `Refused`."""
    if body.get("response_type") != "update_template_card":
        raise invalid("response_type", "must be update_template_card")
    new = card(inner(body, "template_card"))
    callback = platform.answerable(bot.bot_id, req_id, "template_card_event")
    message = platform.messages[callback.about]
    if message.card is None or new.get("task_id") != message.card.get("task_id"):
        raise invalid("template_card.task_id", "is not that of the card that was clicked")
    callback.answered = True
    message.card = new


def push(platform: Platform, bot: Bot, body: Json) -> None:
    """`aibot_send_msg`. Raises `Refused`."""
    chatid, chat_type = body.get("chatid"), body.get("chat_type", 0)
    if not chatid:
        raise Refused(86201)
    if not isinstance(chatid, str):
        raise invalid("chatid", "must be a string")
    if chat_type not in (0, 1, 2) or isinstance(chat_type, bool):
        raise invalid("chat_type", "must be 0, 1 or 2")
    said = content(body, PUSHES)
    chat = platform.addressed(bot.bot_id, chatid, chat_type)
    if bot.bot_id not in chat.wrote:
        raise Refused(93006, "invalid chatid: nobody has written to the bot there")
    if said.kind == "template_card" and chat.kind == "group" and not platform.switches.group_cards:
        raise Refused(40008, "invalid message type: no template_card in a group")
    file = _file(platform, bot.bot_id, said)
    platform.spend(chat.key)
    message = _message(platform, bot.bot_id, chat.key, said, "push", file)
    _shown(platform, message, unseen=_after_stream(platform, bot, chat))


def answer_by_url(platform: Platform, code: str, body: Json) -> None:
    """A request to a `response_url`, which takes one. Raises `Refused`."""
    said = content(body, ("markdown", "template_card"))
    response = platform.responses.get(code)
    if response is None or response.used or platform.now() - response.callback.created >= 3600:
        raise Refused(60140)
    callback = response.callback
    platform.spend(callback.chat)
    response.used = True
    message = platform.show(_message(platform, callback.bot_id, callback.chat, said, "response_url"))
    if platform.chats[callback.chat].kind == "group":
        message.quote = callback.about


def _after_stream(platform: Platform, bot: Bot, chat: Chat) -> bool:
    newest = platform.newest(chat.key, bot.bot_id)
    finished = newest is not None and any(each.finished for each in newest.streams.values())
    return finished and platform.switches.push_after_stream == "ack_and_drop"


def _file(platform: Platform, bot_id: str, said: Content) -> File | None:
    if said.kind not in MEDIA:
        return None
    file = platform.files.get(said.media_id)
    if file is None or file.owner != bot_id or file.kind != said.kind:
        raise Refused(40007)
    if platform.now() - file.created >= MEDIA_LIFE_S:
        raise Refused(40007, "invalid media_id: it has expired")
    return file


def _message(platform: Platform, bot_id: str, chat: str, said: Content, via: str, file: File | None = None) -> Message:
    message = Message(platform.make_id("msg_"), chat, bot_id, True, said.kind, platform.now(), said.text, via)
    message.card = said.card if said.kind == "template_card" else None
    message.files = [file] if file else []
    if said.feedback_id.startswith(platform.switches.feedback_prefix):
        message.feedback_id = said.feedback_id
    return message


def _shown(platform: Platform, message: Message, *, unseen: bool) -> None:
    if unseen:
        platform.vanished.append(message)
    else:
        platform.show(message)
