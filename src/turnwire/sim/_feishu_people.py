"""What people do in a simulated tenant: write, click, react, recall, let bots in and out.

Guarantee: each thing changes what is seen in the chat and owes the events of it to the apps that hear of it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ._feishu_cards import check, replace_card
from ._feishu_checks import body_elements, find, tagged
from ._feishu_codes import BadCard
from ._feishu_events import Delivery, EventQueue
from ._feishu_im import place, withdraw
from ._feishu_state import App, Callback, Card, Chat, Message, Reaction, Tenant, Upload
from ._feishu_texts import element_text
from ._json import Json

NO_CALLBACK, TIMED_OUT, BAD_CARD = "200340", "200341", "200673"
FORWARDED = "Merged and Forwarded Message"
"""The content of a message that forwards several; what they say has to be read."""
FAILED_CLICKS = {
    NO_CALLBACK: "nobody is there to hear of clicks",
    TIMED_OUT: "the click was not answered in time",
    BAD_CARD: "the click was answered with a card that is none",
}


class People:
    """Everybody who is no bot.

    Args:
        tenant: where they are.
        events: where the events go.
    """

    def __init__(self, tenant: Tenant, events: EventQueue) -> None:
        self._tenant = tenant
        self._events = events

    # Writing

    def say(
        self,
        chat_id: str,
        text: str,
        *,
        user: str = "ou_alice",
        mention: bool | str = True,
        reply_to: str = "",
    ) -> str:
        """Somebody writes a text; the id of the message.

        Args:
            chat_id: a chat, or the id of an app for the person's own chat with its bot.
            user: the open id of who writes; a new one makes a new person.
            mention: in a group, whether the bot is mentioned (the first one, or the app with that id). Without it no
                bot hears of the message.
            reply_to: the message that it answers.

        Raises `ValueError` for a chat, an app or a message that there is not.
        """
        chat = self._chat(chat_id, user)
        bot = (mention if isinstance(mention, str) else next(iter(chat.bots), "")) if mention else ""
        if bot and bot not in self._tenant.apps:
            raise ValueError(f"there is no app {bot!r}")
        mentions = []
        if chat.kind != "p2p" and bot:
            text = f"@_user_1 {text}"
            mentions = [self._mention("@_user_1", self._tenant.apps[bot])]
        content = json.dumps({"text": text}, ensure_ascii=False)
        return self._write(chat, user, "text", content, reply_to, mentions).message_id

    def send(self, chat_id: str, msg_type: str, content: Json, *, user: str = "ou_alice", reply_to: str = "") -> str:
        """Somebody sends a message of another type, with its content as the platform would deliver it."""
        text = json.dumps(content, ensure_ascii=False)
        return self._write(self._chat(chat_id, user), user, msg_type, text, reply_to, []).message_id

    def send_file(
        self, chat_id: str, name: str, data: bytes, *, user: str = "ou_alice", media_type: str = "", image: bool = False
    ) -> str:
        """Somebody sends a file, or an image; the id of the message."""
        key = self._tenant.make_id("img_v3_" if image else "file_v3_")
        kind = "image" if image else "stream"
        self._tenant.uploads[key] = Upload(key, kind, name, media_type or "application/octet-stream", data, user)
        content = {"image_key": key} if image else {"file_key": key, "file_name": name}
        return self.send(chat_id, "image" if image else "file", content, user=user)

    def forward(self, chat_id: str, message_ids: Sequence[str], *, user: str = "ou_alice") -> str:
        """Somebody forwards messages as one; the id of that one. No bot of a group hears of it: it mentions nobody.

        Args:
            chat_id: where it goes, as with `say`.
            message_ids: what is forwarded, in this order, all from one chat; one may forward several itself.

        Raises `ValueError` for what cannot be forwarded together.
        """
        found = [self._message(each) for each in message_ids]
        if not found or len({each.chat_id for each in found}) > 1 or any(map(self._stuck, found)):
            raise ValueError("forward messages of one chat that are still there, and no card that is being written")
        chat = self._chat(chat_id, user)
        return self._write(chat, user, "merge_forward", FORWARDED, "", [], found).message_id

    def _stuck(self, message: Message) -> bool:
        card = self._tenant.card_of(message)
        if card is not None:
            self._tenant.expire(card)
        return bool(message.gone) or (card is not None and card.streaming)

    def _copy(self, message: Message, upper: Message) -> Message:
        """A message as it stands inside of another one."""
        copy = replace(
            message, message_id=self._tenant.make_id("om_"), chat_id=upper.chat_id, upper_id=upper.message_id,
            root_id="", parent_id="", thread_id="", reactions=[], notices=[],
        )  # fmt: skip
        copy.children = [self._copy(each, copy) for each in message.children]
        return copy

    def _chat(self, chat_id: str, user: str) -> Chat:
        if chat_id in self._tenant.apps:
            return self._tenant.p2p(chat_id, user)
        if chat_id not in self._tenant.chats:
            raise ValueError(f"there is no chat {chat_id!r}")
        return self._tenant.chats[chat_id]

    def _write(
        self,
        chat: Chat,
        user: str,
        msg_type: str,
        content: str,
        reply_to: str,
        mentions: list[Json],
        forwarded: Sequence[Message] = (),
    ) -> Message:
        tenant, now = self._tenant, self._tenant.now()
        tenant.user(user)
        if user not in chat.members:
            if chat.kind == "p2p":
                raise ValueError(f"{user} is not in {chat.chat_id}, which is a chat of one person with a bot")
            chat.members.append(user)
        parent = self._message(reply_to) if reply_to else None
        message = Message(tenant.make_id("om_"), chat.chat_id, user, False, msg_type, content, now, now)
        message.mentions = mentions
        message.children = [self._copy(each, message) for each in forwarded]
        place(tenant, chat, message, parent, in_thread=False)
        tenant.add_message(message)
        for app_id in chat.bots:
            if chat.kind == "p2p" or any(each["id"]["open_id"] == tenant.apps[app_id].open_id for each in mentions):
                self._emit(app_id, "im.message.receive_v1", self._received(chat, message, mentions))
        return message

    def _received(self, chat: Chat, message: Message, mentions: list[Json]) -> Json:
        places = {"root_id": message.root_id, "parent_id": message.parent_id, "thread_id": message.thread_id}
        return {
            "sender": {"sender_id": self._ids(message.sender), "sender_type": "user", "tenant_key": self._tenant.key},
            "message": {
                "message_id": message.message_id,
                **{name: value for name, value in places.items() if value},
                "create_time": _ms(message.created),
                "update_time": _ms(message.updated),
                "chat_id": chat.chat_id,
                "chat_type": "p2p" if chat.kind == "p2p" else "group",
                "message_type": message.msg_type,
                "content": message.content,
                **({"mentions": mentions} if mentions else {}),
            },
        }

    def _mention(self, key: str, app: App) -> Json:
        ids = {"union_id": f"on_bot_{app.app_id}", "user_id": "", "open_id": app.open_id}
        return {"key": key, "id": ids, "mentioned_type": "bot", "name": app.name, "tenant_key": self._tenant.key}

    # Other things that people do

    def recall(self, message_id: str) -> None:
        """Somebody takes a message back: an own one, or as the group's owner one of a bot."""
        message = self._message(message_id)
        withdraw(self._tenant, message)
        said = {"message_id": message_id, "chat_id": message.chat_id, "recall_type": "message_owner"}
        self._tell(message.chat_id, "im.message.recalled_v1", {**said, "recall_time": _ms(message.updated)})

    def delete(self, message_id: str) -> None:
        """A message ceases to exist, without an event."""
        message = self._message(message_id)
        withdraw(self._tenant, message)
        message.gone = "deleted"

    def react(self, message_id: str, emoji: str, *, user: str = "ou_alice") -> None:
        """Somebody reacts to a message."""
        message = self._message(message_id)
        message.reactions.append(Reaction(self._tenant.make_id("react_"), emoji, self._tenant.user(user).open_id))
        said = {"message_id": message_id, "reaction_type": {"emoji_type": emoji}, "operator_type": "user"}
        said |= {"user_id": self._ids(user), "action_time": _ms(self._tenant.now())}
        self._tell(message.chat_id, "im.message.reaction.created_v1", said)

    def add_bot(self, chat_id: str, app_id: str, *, user: str = "ou_alice") -> None:
        """Somebody lets a bot into a group."""
        chat = self._chat(chat_id, user)
        if app_id not in chat.bots:
            chat.bots.append(app_id)
        said = {"chat_id": chat_id, "operator_id": self._ids(user), "external": False, "name": chat.name}
        self._emit(app_id, "im.chat.member.bot.added_v1", {**said, "operator_tenant_key": self._tenant.key})

    def remove_bot(self, chat_id: str, app_id: str, *, user: str = "ou_alice") -> None:
        """Somebody takes a bot out of a group."""
        chat = self._chat(chat_id, user)
        chat.bots.remove(app_id)
        said = {"chat_id": chat_id, "operator_id": self._ids(user), "external": False, "name": chat.name}
        self._emit(app_id, "im.chat.member.bot.deleted_v1", {**said, "operator_tenant_key": self._tenant.key})

    def dissolve(self, chat_id: str) -> None:
        """A group ceases to exist."""
        chat = self._chat(chat_id, "")
        chat.dissolved = True
        self._tell(chat_id, "im.chat.disbanded_v1", {"chat_id": chat_id, "name": chat.name, "external": False})

    # Clicking

    def click(
        self, message_id: str, button: str = "", *, user: str = "ou_alice", form_value: Json | None = None
    ) -> Delivery:
        """Somebody clicks a button of a card; its event, whose `answer` says what the app made of it.

        The card is locked until the app has answered, or has not for three seconds.

        Args:
            button: its element id, its name or its words; empty for the first one.
            form_value: what was filled in, for a button inside a form.

        Raises `ValueError` when no button of the card is meant.
        """
        message = self._message(message_id)
        card = self._tenant.card_of(message)
        element = _button(card, button) if card else None
        if card is None or element is None or message.gone:
            raise ValueError(f"message {message_id} shows no button {button!r}")
        tenant, now = self._tenant, self._tenant.now()
        token = tenant.make_id("c-")
        tenant.callbacks[token] = Callback(card.card_id, now)
        action: Json = {"value": _value(element), "tag": element["tag"], "timezone": "Asia/Shanghai"}
        if "name" in element:
            action["name"] = element["name"]
        if form_value is not None:
            action["form_value"] = form_value
        event = {
            "operator": {"tenant_key": tenant.key, **self._ids(user)},
            "token": token,
            "action": action,
            "host": "im_message",
            "context": {"open_message_id": message_id, "open_chat_id": message.chat_id},
        }
        body = self._body(card.app_id, "card.action.trigger", event, micro=True)
        if not self._events.connections(card.app_id):
            message.notices.append(NO_CALLBACK)
            return Delivery(body["header"]["event_id"], card.app_id, body, again=False, state="over")
        card.locked_until = now + tenant.switches.interaction
        return self._events.push(card.app_id, body, again=False, done=lambda each: self._clicked(each, message, card))

    def _clicked(self, delivery: Delivery, message: Message, card: Card) -> None:
        """What the click's answer, or its lack, makes people see."""
        card.locked_until = 0.0
        if delivery.state != "acked":
            message.notices.append(TIMED_OUT)
            return
        said = delivery.answer or {}
        toast, new = said.get("toast"), said.get("card")
        if isinstance(toast, dict) and toast.get("content"):
            message.notices.append(str(toast["content"]))
        if not isinstance(new, dict) or new.get("type") != "raw":
            return
        self._tenant.expire(card)
        if card.streaming:
            return
        try:
            check(self._tenant, new.get("data", {}), entity=False)
        except BadCard:
            message.notices.append(BAD_CARD)
        else:
            replace_card(self._tenant, card, new["data"], "callback")

    # Events

    def _tell(self, chat_id: str, event_type: str, event: Json) -> None:
        for app_id in self._tenant.chats[chat_id].bots:
            self._emit(app_id, event_type, event)

    def _emit(self, app_id: str, event_type: str, event: Json) -> Delivery:
        return self._events.push(app_id, self._body(app_id, event_type, event))

    def _body(self, app_id: str, event_type: str, event: Json, *, micro: bool = False) -> Json:
        now = self._tenant.now()
        header = {
            "event_id": self._tenant.make_id("ev_"),
            "event_type": event_type,
            "create_time": str(int(now * 1_000_000)) if micro else _ms(now),
            "token": self._tenant.apps[app_id].verification_token,
            "app_id": app_id,
            "tenant_key": self._tenant.key,
        }
        return {"schema": "2.0", "header": header, "event": event}

    def _ids(self, open_id: str) -> dict[str, str]:
        user = self._tenant.user(open_id)
        return {"union_id": user.union_id, "user_id": user.user_id, "open_id": user.open_id}

    def _message(self, message_id: str) -> Message:
        if message_id not in self._tenant.messages:
            raise ValueError(f"there is no message {message_id!r}")
        return self._tenant.messages[message_id]


def _button(card: Card, named: str) -> Json | None:
    if named and (found := find(card.data, named)) is not None:
        return found
    for element, _ in tagged(body_elements(card.data)):
        if element["tag"] == "button" and (not named or named in (element.get("name"), element_text(element))):
            return element
    return None


def _value(element: Json) -> Any:
    behaviors = element.get("behaviors")
    for each in behaviors if isinstance(behaviors, list) else []:
        if isinstance(each, dict) and each.get("type") == "callback":
            return each.get("value", {})
    return element.get("value", {})


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))
