"""IM: messages that are sent, answered, changed, recalled and read, and the reactions under them.

Guarantee: a refused call leaves the chat as it was; the same uuid sends at most one message in an hour.
"""

from __future__ import annotations

import json
from typing import Any

from ._feishu_call import Call
from ._feishu_cards import bind, check, new_card, replace_card
from ._feishu_checks import is_v2, parse
from ._feishu_codes import BadCard, Refused
from ._feishu_emoji import EMOJI
from ._feishu_rates import CHAT_PER_S, MESSAGE_PER_S, Limit
from ._feishu_state import MESSAGE_EDIT_S, UUID_LIFE_S, Chat, Message, Reaction, Tenant
from ._feishu_texts import shown_text
from ._json import Json

TEXT_BYTES = 150 * 1024
POST_BYTES = 30 * 1024
MAX_EDITS = 20
_RECEIVERS = ("open_id", "union_id", "user_id", "email", "chat_id")
_FILE_KINDS = {"file": None, "audio": "opus", "media": "mp4"}
SENDABLE = ("text", "post", "interactive", "image", "file", "audio", "media")


# Sending


def send(call: Call) -> Json:
    """A new message."""
    kind = call.query.get("receive_id_type", "")
    if kind not in _RECEIVERS:
        raise Refused(99992402, f"field validation failed: receive_id_type: one of {', '.join(_RECEIVERS)}")
    chat = _receiver(call, kind, call.text("receive_id", 100, code=230001))
    return _send(call, chat, None, in_thread=False)


def reply(call: Call) -> Json:
    """An answer to a message, in its topic if it has one or if the call asks for one."""
    parent = existing(call)
    if call.app.app_id not in call.tenant.chats[parent.chat_id].bots:
        raise Refused(230002)
    return _send(call, call.tenant.chats[parent.chat_id], parent, in_thread=call.body.get("reply_in_thread") is True)


def _send(call: Call, chat: Chat, parent: Message | None, *, in_thread: bool) -> Json:
    tenant, now = call.tenant, call.now
    msg_type = call.text("msg_type", 20, code=230001)
    uuid = call.text("uuid", 50, optional=True)
    known = tenant.sent.get((call.app.app_id, uuid)) if uuid else None
    if known and now - known[0] < UUID_LIFE_S:
        return as_json(tenant, tenant.messages[known[1]])
    _may_send(call, chat)
    if in_thread and not chat.threads:
        raise Refused(230071)
    call.limit(Limit(f"chat:{chat.chat_id}", CHAT_PER_S, 1.0, 230020))
    text = call.text("content", 3_000_000, code=230001)
    message = Message(tenant.make_id("om_"), chat.chat_id, call.app.app_id, True, msg_type, text, now, now)
    _fill(call, message, msg_type, text)
    place(tenant, chat, message, parent, in_thread=in_thread)
    tenant.add_message(message)
    if uuid:
        tenant.sent[call.app.app_id, uuid] = (now, message.message_id)
    return as_json(tenant, message)


def _fill(call: Call, message: Message, msg_type: str, text: str) -> None:
    """Checks the content by its type, and binds or makes the card."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise Refused(230001, "content is not a string in json format")
    if msg_type == "text":
        _within(text, TEXT_BYTES)
        if not isinstance(said.get("text"), str) or not said["text"]:
            raise Refused(230001, 'content of text must be {"text": "..."}, not empty')
    elif msg_type == "post":
        _within(text, POST_BYTES)
        if not any(isinstance(each, dict) and isinstance(each.get("content"), list) for each in said.values()):
            raise Refused(230001, 'content of post must be {"zh_cn": {"title": "...", "content": [[...]]}}')
    elif msg_type == "interactive":
        _card(call, message, said)
    elif msg_type == "image":
        _own(call, said.get("image_key"), "image", "image")
    elif msg_type in _FILE_KINDS:
        _own(call, said.get("file_key"), msg_type, _FILE_KINDS[msg_type])
    else:
        raise Refused(230054, f"msg_type: one of {', '.join(SENDABLE)}")


def _card(call: Call, message: Message, said: Json) -> None:
    tenant = call.tenant
    try:
        if said.get("type") == "card":
            data = said.get("data")
            bind(tenant, call.app.app_id, str(data.get("card_id") if isinstance(data, dict) else ""), message)
            return
        if said.get("type") == "template":
            raise BadCard(200381, "this simulator has no templates")
        if not {"schema", "elements", "i18n_elements", "body"} & said.keys():
            raise BadCard(200621, "parse card json err, please check whether it is right")
        check(tenant, said, entity=False)
    except BadCard as error:
        raise error.in_message() from None
    card = new_card(tenant, call.app.app_id, said, entity=False)
    card.message_id, message.card_id = message.message_id, card.card_id


def _own(call: Call, key: object, what: str, kind: str | None) -> None:
    upload = call.tenant.uploads.get(key) if isinstance(key, str) else None
    if upload is None:
        raise Refused(230001, f"content of {what}: there is no such key")
    if upload.owner != call.app.app_id:
        raise Refused(230017)
    if (upload.kind == "image") != (what == "image") or (kind and upload.kind != kind):
        raise Refused(230055)


def _within(text: str, most: int) -> None:
    if len(text.encode("utf-8", "replace")) > most:
        raise Refused(230025)


def _receiver(call: Call, kind: str, receiver: str) -> Chat:
    tenant = call.tenant
    if kind == "chat_id":
        if receiver not in tenant.chats:
            raise Refused(230034)
        return tenant.chats[receiver]
    for user in tenant.users.values():
        if receiver in (user.open_id, user.union_id, user.user_id, f"{user.user_id}@sim.example"):
            return tenant.p2p(call.app.app_id, user.open_id)
    raise Refused(230034)


def _may_send(call: Call, chat: Chat) -> None:
    if not call.app.bot:
        raise Refused(230006)
    if chat.dissolved:
        raise Refused(232009)
    if call.app.app_id not in chat.bots:
        raise Refused(230002)
    refusing = [chat.refuses, *(call.tenant.users[each].refuses for each in chat.members if chat.kind == "p2p")]
    if code := next(filter(None, refusing), 0):
        raise Refused(code)


def place(tenant: Tenant, chat: Chat, message: Message, parent: Message | None, *, in_thread: bool) -> None:
    """Gives a message its place: what it answers, and its topic."""
    if parent is not None:
        message.parent_id = parent.message_id
        message.root_id = parent.root_id or parent.message_id
        message.thread_id = parent.thread_id
    if not message.thread_id and (in_thread or chat.kind == "topic"):
        message.thread_id = tenant.make_id("omt_")
        root = tenant.messages.get(message.root_id)
        if root is not None:
            root.thread_id = message.thread_id


# Changing


def existing(call: Call, missing: int = 99992354) -> Message:
    """The message that the path names, if it still exists. Raises `Refused`."""
    message = call.tenant.messages.get(call.params["message_id"])
    if message is None:
        raise Refused(missing)
    if message.gone:
        raise Refused(missing if missing == 231003 else 230110 if message.gone == "deleted" else 230011)
    return message


def patch(call: Call) -> Json:
    """Another card in the message, which must show one that several people may see change."""
    message = existing(call)
    if message.msg_type != "interactive":
        raise Refused(230001, "only messages with a card can be patched")
    card = call.tenant.card_of(message)
    if message.sender != call.app.app_id or card is None:
        raise Refused(230035, "only the app that sent the message may patch it")
    if call.now - message.created >= MESSAGE_EDIT_S:
        raise Refused(230031)
    if card.entity and call.tenant.switches.patch_entity == "refuse":
        raise Refused(230001, "the message holds a card entity; update it through CardKit")
    call.limit(Limit(f"message:{message.message_id}", MESSAGE_PER_S, 1.0, 230020))
    if call.now < card.locked_until:
        raise BadCard(11310, "card action is lock").in_message()
    try:
        said = parse(call.text("content", 3_000_000, code=230001), "content")
        check(call.tenant, said, entity=False)
        if not _multi(card.data) or not _multi(said):
            raise BadCard(300302)
    except BadCard as error:
        raise error.in_message() from None
    replace_card(call.tenant, card, said, call.op)
    message.content, message.updated = call.body["content"], call.now
    return {}


def _multi(card: Json) -> bool:
    """Whether everybody sees a change of the card: always in the newer structure unless it says no."""
    config = card.get("config")
    said = config.get("update_multi") if isinstance(config, dict) else None
    return said is True or (said is None and is_v2(card))


def edit(call: Call) -> Json:
    """Another text in the message."""
    message = existing(call)
    msg_type = call.text("msg_type", 20, code=230001)
    if msg_type not in ("text", "post") or message.msg_type not in ("text", "post"):
        raise Refused(230054)
    if message.sender != call.app.app_id:
        raise Refused(230071, "The operator is not the sender of the message.")
    if message.edits >= MAX_EDITS:
        raise Refused(230072)
    window = call.tenant.switches.edit_window
    if window and call.now - message.created >= window:
        raise Refused(230075)
    text = call.text("content", 3_000_000, code=230001)
    _fill(call, message, msg_type, text)
    message.msg_type, message.content, message.updated = msg_type, text, call.now
    message.edits += 1
    return as_json(call.tenant, message)


def recall(call: Call) -> Json:
    """Takes back a message of the bot's own."""
    message = existing(call)
    if message.sender != call.app.app_id:
        raise Refused(230026)
    withdraw(call.tenant, message)
    return {}


def withdraw(tenant: Tenant, message: Message) -> None:
    """Makes a message a recalled one; nothing of it is seen any more."""
    message.gone, message.updated = "recalled", tenant.now()


# Reading


def get(call: Call) -> Json:
    """One message, as a list of one; after one that forwards several, those that are inside of it at any depth."""
    message = call.tenant.messages.get(call.params["message_id"])
    if message is None:
        raise Refused(99992354)
    if call.app.app_id not in call.tenant.chats[message.chat_id].bots:
        raise Refused(230002)
    return {"items": [as_json(call.tenant, each) for each in (message, *(() if message.gone else message.inside))]}


def history(call: Call) -> Json:
    """The messages of a chat or a topic, a page of them."""
    kind, container = call.query.get("container_id_type", ""), call.query.get("container_id", "")
    if kind == "chat" and container not in call.tenant.chats:
        raise Refused(230001, "container_id: there is no such chat")
    found = [
        message
        for message in call.tenant.messages.values()
        if (message.chat_id if kind == "chat" else message.thread_id) == container
    ]
    if call.query.get("sort_type") == "ByCreateTimeDesc":
        found.reverse()
    said = [call.query.get("page_size") or "20", call.query.get("page_token") or "0"]
    if not all(each.isdecimal() for each in said):
        raise Refused(99992402, "field validation failed: page_size, page_token: must be numbers")
    size, start = (int(each) for each in said)
    page = found[start : start + size]
    more = start + size < len(found)
    token = {"page_token": str(start + size)} if more else {}
    return {"items": [as_json(call.tenant, each) for each in page], "has_more": more, **token}


def as_json(tenant: Tenant, message: Message) -> Json:
    """A message as the platform gives it back; of a card only its words."""
    content = message.content
    if (card := tenant.card_of(message)) is not None:
        text = [[{"tag": "text", "text": shown_text(card.data)}]]
        content = json.dumps({"title": "", "elements": text}, ensure_ascii=False)
    sender: dict[str, Any] = {"id": message.sender, "id_type": "app_id", "sender_type": "app"}
    if not message.from_bot:
        sender = {"id": message.sender, "id_type": "open_id", "sender_type": "user"}
    said: Json = {
        "message_id": message.message_id,
        "msg_type": message.msg_type,
        "create_time": str(int(message.created * 1000)),
        "update_time": str(int(message.updated * 1000)),
        "deleted": bool(message.gone),
        "updated": message.edits > 0,
        "chat_id": message.chat_id,
        "sender": {**sender, "tenant_key": tenant.key},
        "body": {"content": "" if message.gone else content},
        "mentions": [_mention(each) for each in message.mentions],
    }
    places = {"root_id": message.root_id, "parent_id": message.parent_id, "thread_id": message.thread_id}
    places["upper_message_id"] = message.upper_id
    return {**said, **{name: value for name, value in places.items() if value}}


def _mention(said: Json) -> Json:
    """Somebody who is mentioned, as messages name them that are read; events do it otherwise."""
    return {"key": said["key"], "id": said["id"]["open_id"], "id_type": "open_id", "name": said["name"]}


# Reactions


def react(call: Call) -> Json:
    """An emoji under a message."""
    message = existing(call, 231003)
    said = call.body.get("reaction_type")
    emoji = said.get("emoji_type") if isinstance(said, dict) else None
    if emoji not in EMOJI:
        raise Refused(231001)
    chat = call.tenant.chats[message.chat_id]
    if call.app.app_id not in chat.bots:
        raise Refused(231002)
    for known in message.reactions:
        if known.emoji == emoji and known.by == call.app.app_id:
            return _reaction(call, known)
    reaction = Reaction(call.tenant.make_id("react_"), emoji, call.app.app_id)
    message.reactions.append(reaction)
    return _reaction(call, reaction)


def unreact(call: Call) -> Json:
    """Takes an emoji of the bot's own away."""
    message = existing(call, 231003)
    found = [each for each in message.reactions if each.reaction_id == call.params["reaction_id"]]
    if not found:
        raise Refused(231001, "reaction_id: there is no such reaction")
    if found[0].by != call.app.app_id:
        raise Refused(231007)
    message.reactions.remove(found[0])
    return _reaction(call, found[0])


def _reaction(call: Call, reaction: Reaction) -> Json:
    return {
        "reaction_id": reaction.reaction_id,
        "operator": {"operator_id": reaction.by, "operator_type": "app"},
        "action_time": str(int(call.now * 1000)),
        "reaction_type": {"emoji_type": reaction.emoji},
    }
