"""What people do in a simulated WeCom: write, send files, open a chat, click, judge answers.

Guarantee: each thing changes what is seen in the chat, and tells the bot that hears of it, once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence

from ._json import Json
from ._wecom_crypto import encrypt
from ._wecom_state import Bot, Callback, CallbackKind, Chat, File, MediaKind, Message, Platform, Response

TOO_MANY = "too many messages are being answered"
FEEDBACK = {"good": 1, "bad": 2, "cancel": 3}
Part = str | bytes


class People:
    """Everybody who is no bot.

    Args:
        platform: where they are.
        deliver: tells a bot.
        base_url: where files and `response_url` are.
    """

    def __init__(self, platform: Platform, deliver: Callable[[Callback], None], base_url: Callable[[], str]) -> None:
        self._platform = platform
        self._deliver = deliver
        self._base_url = base_url

    def say(
        self, chat: str, text: str, *, user: str = "alice", mention: bool | str = True, quote: str = ""
    ) -> Callback | None:
        """Somebody writes a text; what the bot is told, None if no bot hears of it.

        Args:
            chat: the key of a chat, or a person's id for that person's own chat with the first bot.
            user: who writes, in a group; a new one makes a new person.
            mention: in a group, whether the bot is mentioned (the first one, or the one with that id).
            quote: the message that it quotes.

        Raises `ValueError` for a chat or message that there is not.
        """
        where, who = self.place(chat, user)
        message = self._write(where, who, "text", text, quote)
        bot = self._mentioned(where, mention)
        if bot is None:
            return None
        if where.kind == "group":
            text = message.text = f"@{bot.name} {text}"
        return self._tell(where, bot, who, message, {"msgtype": "text", "text": {"content": text}})

    def send_mixed(
        self, chat: str, parts: Sequence[Part], *, user: str = "alice", mention: bool | str = True
    ) -> Callback | None:
        """Somebody sends texts and images (bytes) in one message; what the bot is told."""
        where, who = self.place(chat, user)
        bot = self._mentioned(where, mention)
        texts = [part for part in parts if isinstance(part, str)]
        message = self._write(where, who, "mixed", "\n".join(texts), "")
        items: list[Json] = []
        for part in parts:
            if isinstance(part, str):
                items += [{"msgtype": "text", "text": {"content": part}}]
                continue
            file = self._file("image", f"image{len(message.files)}.png", part)
            message.files.append(file)
            if bot is not None:
                items += [{"msgtype": "image", "image": self._link(bot, file)}]
        body = {"msgtype": "mixed", "mixed": {"msg_item": items}}
        return self._tell(where, bot, who, message, body) if bot else None

    def send_file(
        self, chat: str, name: str, data: bytes, *, user: str = "alice", kind: MediaKind = "file"
    ) -> Callback | None:
        """Somebody sends a file, an image or a video; in a group no bot hears of it, for nobody can be mentioned."""
        if kind == "voice":
            raise ValueError("kind: a voice message is said with its words; call say_aloud")
        where, who = self.place(chat, user)
        message = self._write(where, who, kind, name, "")
        message.files.append(self._file(kind, name, data))
        if where.kind == "group":
            return None
        bot = self._platform.bots[where.bots[0]]
        return self._tell(where, bot, who, message, {"msgtype": kind, kind: self._link(bot, message.files[0])})

    def say_aloud(self, chat: str, words: str, *, user: str = "alice") -> Callback | None:
        """Somebody sends a voice message; the bot gets its words. Groups as with `send_file`."""
        where, who = self.place(chat, user)
        message = self._write(where, who, "voice", words, "")
        if where.kind == "group":
            return None
        body = {"msgtype": "voice", "voice": {"content": words}}
        return self._tell(where, self._platform.bots[where.bots[0]], who, message, body)

    # Events

    def enter_chat(self, chat: str = "alice") -> Callback:
        """Somebody opens their own chat with a bot, for the first time that day."""
        where, who = self.place(chat, chat)
        if where.kind == "group":
            raise ValueError(f"{chat} is a group; only a person's own chat with a bot tells of being opened")
        return self._event(where, where.bots[0], who, "enter_chat", {})

    def click(
        self, message_id: str, button: str = "", *, user: str = "alice", selected: dict[str, list[str]] | None = None
    ) -> Callback:
        """Somebody clicks a button of a card.

        Args:
            button: its key or its words; empty for the first one.
            selected: by the key of a question, the ids that were chosen.

        Raises `ValueError` when no button of the card is meant.
        """
        message = self._message(message_id)
        found = next((each for each in _buttons(message.card) if not button or button in each), None)
        if message.card is None or found is None:
            raise ValueError(f"message {message_id} shows no button {button!r}")
        where = self._platform.chats[message.chat]
        said = {"card_type": message.card["card_type"], "event_key": found[0], "task_id": message.card.get("task_id")}
        if selected:
            items = [{"question_key": key, "option_ids": {"option_id": ids}} for key, ids in selected.items()]
            said["selected_items"] = {"selected_item": items}
        who = where.members[0] if where.kind == "single" else user
        return self._event(where, message.sender, who, "template_card_event", said, about=message_id)

    def feedback(self, message_id: str, judged: str = "good", content: str = "", *, user: str = "alice") -> Callback:
        """Somebody judges an answer: `good`, `bad` or `cancel`. Raises `ValueError` for one without such buttons."""
        message = self._message(message_id)
        if not message.feedback_id or judged not in FEEDBACK:
            raise ValueError(f"message {message_id} has no buttons for feedback, or {judged!r} is none of them")
        message.feedback = "" if judged == "cancel" else judged
        said: Json = {"id": message.feedback_id, "type": FEEDBACK[judged]}
        if content:
            said["content"] = content
        where = self._platform.chats[message.chat]
        who = where.members[0] if where.kind == "single" else user
        return self._event(where, message.sender, who, "feedback_event", said, about=message_id)

    # What they share

    def place(self, chat: str, user: str) -> tuple[Chat, str]:
        """The chat that is meant, and who writes in it. Raises `ValueError`."""
        platform = self._platform
        where = platform.chat(chat)
        if where.kind == "single":
            return where, where.members[0]
        platform.user(user)
        if user not in where.members:
            where.members.append(user)
        return where, user

    def _mentioned(self, chat: Chat, mention: bool | str) -> Bot | None:
        if chat.kind == "single":
            return self._platform.bots[chat.bots[0]]
        named = mention if isinstance(mention, str) else next(iter(chat.bots), "")
        if not mention or named not in chat.bots:
            return None
        return self._platform.bots[named]

    def _write(self, chat: Chat, user: str, kind: str, text: str, quote: str) -> Message:
        if quote:
            self._message(quote)
        platform = self._platform
        message = Message(platform.make_id("msg_"), chat.key, user, False, kind, platform.now(), text, quote=quote)
        return platform.show(message)

    def _file(self, kind: MediaKind, name: str, data: bytes) -> File:
        file = File(self._platform.make_id("sent_"), kind, name, data, "", self._platform.now())
        self._platform.files[file.file_id] = file
        return file

    def _link(self, bot: Bot, file: File) -> Json:
        url = f"{self._base_url()}/media/{file.file_id}"
        return {"url": f"{url}?bot={bot.bot_id}"} if bot.webhook else {"url": url, "aeskey": aes_key(file.file_id)}

    def _tell(self, chat: Chat, bot: Bot, user: str, message: Message, said: Json) -> Callback | None:
        platform = self._platform
        chat.wrote.add(bot.bot_id)
        limit = platform.switches.interactions
        open_ = [each for each in platform.callbacks.values() if each.chat == chat.key and each.user == user]
        if limit and sum(any(platform.live(one) for one in each.streams.values()) for each in open_) >= limit:
            message.notices.append(TOO_MANY)
            return None
        callback = self._callback(chat, bot.bot_id, user, "message", message.message_id)
        code = platform.make_id("code_")
        platform.responses[code] = Response(callback)
        callback.body |= {"response_url": f"{self._base_url()}/cgi-bin/aibot/response?response_code={code}", **said}
        if message.quote:
            callback.body["quote"] = self._quoted(bot, platform.messages[message.quote])
        self._deliver(callback)
        return callback

    def _quoted(self, bot: Bot, message: Message) -> Json:
        if message.files and message.kind != "mixed":
            old = message.files[0]
            return {"msgtype": old.kind, old.kind: self._link(bot, self._file(old.kind, old.name, old.data))}
        words = message.stream.content if message.stream else message.text
        return {"msgtype": "text", "text": {"content": words}}

    def _event(
        self, chat: Chat, bot_id: str, user: str, kind: CallbackKind, said: Json, *, about: str = ""
    ) -> Callback:
        callback = self._callback(chat, bot_id, user, kind, about)
        event: Json = {"eventtype": kind}
        if kind != "enter_chat":
            event[kind] = said
        callback.body |= {"msgtype": "event", "event": event}
        self._deliver(callback)
        return callback

    def _callback(self, chat: Chat, bot_id: str, user: str, kind: CallbackKind, about: str) -> Callback:
        platform = self._platform
        body: Json = {"msgid": platform.make_id("id_"), "create_time": int(platform.now()), "aibotid": bot_id}
        if chat.kind == "group":
            body["chatid"] = chat.key
        body |= {"chattype": chat.kind, "from": {"userid": user}}
        req_id = platform.make_id("req_")
        callback = Callback(req_id, kind, bot_id, chat.key, user, body, platform.now(), about)
        platform.callbacks[req_id] = callback
        return callback

    def _message(self, message_id: str) -> Message:
        if message_id not in self._platform.messages:
            raise ValueError(f"there is no message {message_id!r}")
        return self._platform.messages[message_id]


def aes_key(file_id: str) -> str:
    """The key of one file that a person sent: 43 letters, without the `=` at their end."""
    return base64.b64encode(hashlib.sha256(f"key of {file_id}".encode()).digest()).decode().rstrip("=")


def downloaded(platform: Platform, file: File, bot_id: str) -> bytes:
    """A file as its address gives it: encrypted with its own key, or with that of the webhook."""
    bot = platform.bots.get(bot_id)
    return encrypt(bot.webhook.aes_key if bot and bot.webhook else aes_key(file.file_id), file.data)


def _buttons(card: Json | None) -> list[tuple[str, str]]:
    """The keys and words of a card's buttons."""
    if card is None:
        return []
    submit = card.get("submit_button")
    each = [*card.get("button_list", []), *([submit] if isinstance(submit, dict) else [])]
    return [(str(one.get("key", "")), str(one.get("text", ""))) for one in each]
