"""What a simulated WeCom remembers: bots, people, chats, what they show, callbacks, files.

Guarantee: no I/O; time comes from the clock. Ids are made in order, so that two runs of the same calls have the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from turnwire.clock import Clock

from ._json import Json
from ._wecom_codes import Refused

ChatKind = Literal["single", "group"]
CallbackKind = Literal["message", "enter_chat", "template_card_event", "feedback_event"]
MediaKind = Literal["file", "image", "voice", "video"]

REPLY_LIFE_S = 24 * 3600.0
EVENT_LIFE_S = 5.0
UPLOAD_LIFE_S = 30 * 60.0
MEDIA_LIFE_S = 3 * 86400.0
DOWNLOAD_LIFE_S = 300.0
RESPONSE_LIFE_S = 3600.0
PER_MINUTE, PER_HOUR = 30, 1000


@dataclass
class Switches:
    """How the simulator decides what the documents leave open, or what differs between tenants.

    Args:
        stream_life: how long a stream can be updated, in seconds: 600 since 2026, 360 before.
        stream_expiry: counted from its first frame, or from its last one.
        expired_frame: a frame of a stream that is over: 846608, or a success that nobody sees.
        frame_after_finish: a frame of a stream that was finished: 846608, or a success that nobody sees.
        stream_after_expiry: a new stream on a request id of which one has expired: 846608, or a new bubble.
        identical_final: a final frame that says what the last one said: it ends the bubble, or nobody sees it.
        race: a second frame on a request id before the first is answered: 6000, or it waits.
        attach_after_finish: a file as a reply after the final frame: a success that nobody sees, or it is shown.
        push_after_stream: a push after the final frame of the chat's newest turn, likewise.
        media_per_reply: how many files one request id takes; 0 for any number.
        stream_with_card: whether a reply may hold a stream and a card at once: 40008, or both are shown.
        group_cards: whether cards can be pushed into groups.
        feedback_prefix: what a feedback id must begin with, or no buttons are shown.
        rates: whether 30 messages a minute and 1000 an hour in a chat, and as many uploads of a bot, are the limit.
        rate_unit: what counts: messages, or each frame of a stream too.
        gap: what is said while no connection is there: lost, or delivered to the next one.
        kick_close: seconds from `disconnected_event` to the close of a connection; negative for never.
        ping_timeout: seconds without a ping after which a connection is closed; 0 for never.
        interactions: how many answers to one person in one chat may be under way; 0 for any number.
        image_bytes: the size of an image: 10 MB, on an older page 2 MB.
        latency, chunk_latency: how long each frame takes, in seconds; it is applied half-way.
        webhook_life: how long a stream lasts since the message it answers, in webhook mode, in seconds.
        poll_interval: seconds between two polls of a stream, in webhook mode.
    """

    stream_life: float = 600.0
    stream_expiry: Literal["absolute", "idle"] = "absolute"
    expired_frame: Literal["refuse", "drop"] = "refuse"
    frame_after_finish: Literal["refuse", "drop"] = "refuse"
    stream_after_expiry: Literal["refuse", "accept"] = "refuse"
    identical_final: Literal["apply", "drop"] = "apply"
    race: Literal["conflict", "queue"] = "conflict"
    attach_after_finish: Literal["ack_and_drop", "deliver"] = "ack_and_drop"
    push_after_stream: Literal["deliver", "ack_and_drop"] = "deliver"
    media_per_reply: int = 0
    stream_with_card: Literal["refuse", "accept"] = "refuse"
    group_cards: bool = False
    feedback_prefix: str = ""
    rates: bool = True
    rate_unit: Literal["messages", "frames"] = "messages"
    gap: Literal["drop", "deliver"] = "drop"
    kick_close: float = 2.0
    ping_timeout: float = 120.0
    interactions: int = 3
    image_bytes: int = 10 * 1024 * 1024
    latency: float = 0.0
    chunk_latency: float = 0.0
    webhook_life: float = 360.0
    poll_interval: float = 1.0


@dataclass
class Webhook:
    """Where a bot in webhook mode hears of things, and its secrets for that."""

    url: str
    token: str
    aes_key: str


@dataclass
class Bot:
    """A bot. With a webhook it has no long connection."""

    bot_id: str
    secret: str
    name: str
    webhook: Webhook | None = None


@dataclass
class Chat:
    """A chat: a group, or what one person and one bot say to each other (`members` and `bots` have one each).

    `wrote` are the bots that somebody has written to.
    """

    key: str
    kind: ChatKind
    name: str
    members: list[str] = field(default_factory=list)
    bots: list[str] = field(default_factory=list)
    wrote: set[str] = field(default_factory=set)


@dataclass
class Change:
    """What became visible in a bubble: the whole text of it afterwards, and whether that was the final frame."""

    at: float
    text: str
    finish: bool


@dataclass
class Stream:
    """A bubble that is written.

    Args:
        content: what is shown of it.
        until: when it ends whatever is sent, in seconds; None for by its frames only.
        ignored_final: its final frame was ignored by everybody's client, which goes on to wait for it.
    """

    stream_id: str
    req_id: str
    first_at: float
    last_at: float
    content: str = ""
    finished: bool = False
    ignored_final: bool = False
    forced: bool = False
    until: float | None = None
    changes: list[Change] = field(default_factory=list)


@dataclass
class File:
    """The bytes of a file with what is known about it; `owner` is a bot, or empty for what a person sent."""

    file_id: str
    kind: MediaKind
    name: str
    data: bytes
    owner: str
    created: float


@dataclass
class Message:
    """One thing in a chat; `via` says how a bot sent it."""

    message_id: str
    chat: str
    sender: str
    from_bot: bool
    kind: str
    at: float
    text: str = ""
    via: str = ""
    req_id: str = ""
    quote: str = ""
    files: list[File] = field(default_factory=list)
    stream: Stream | None = None
    card: Json | None = None
    feedback_id: str = ""
    feedback: str = ""
    notices: list[str] = field(default_factory=list)


@dataclass
class Callback:
    """Something that a bot was told, and may answer under this request id.

    Args:
        about: the message that was said, clicked or judged.
        answered: a welcome or a new card was taken; there is no second.
        streams: by their ids.
        files: how many files were sent as a reply.
    """

    req_id: str
    kind: CallbackKind
    bot_id: str
    chat: str
    user: str
    body: Json
    created: float
    about: str = ""
    delivered: bool = False
    answered: bool = False
    expired: bool = False
    files: int = 0
    streams: dict[str, Stream] = field(default_factory=dict)


@dataclass
class Upload:
    """A file on its way."""

    upload_id: str
    bot_id: str
    kind: MediaKind
    name: str
    size: int
    total: int
    md5: str
    created: float
    chunks: dict[int, bytes] = field(default_factory=dict)
    media_id: str = ""


@dataclass
class Response:
    """What a `response_url` stands for."""

    callback: Callback
    used: bool = False


class Platform:
    """All of it.

    Args:
        clock: says what time it is.
        switches: what the documents leave open.
    """

    def __init__(self, clock: Clock, switches: Switches) -> None:
        self.clock = clock
        self.switches = switches
        self.bots: dict[str, Bot] = {}
        self.users: dict[str, str] = {}
        self.chats: dict[str, Chat] = {}
        self.messages: dict[str, Message] = {}
        self.vanished: list[Message] = []
        self.callbacks: dict[str, Callback] = {}
        self.uploads: dict[str, Upload] = {}
        self.files: dict[str, File] = {}
        self.responses: dict[str, Response] = {}
        self._windows: dict[str, deque[float]] = {}
        self._numbers = count(1)

    def now(self) -> float:
        """Wall time in seconds."""
        return self.clock.now()

    def make_id(self, prefix: str) -> str:
        """A new id, unique among all."""
        return f"{prefix}{next(self._numbers):016x}"

    # People and chats

    def user(self, userid: str, name: str = "") -> str:
        """The name of a person, who is made if there is nobody with that id."""
        return self.users.setdefault(userid, name or userid.capitalize())

    def bot(self, bot_id: str) -> Bot:
        """A bot by its id. Raises `ValueError`."""
        if bot_id not in self.bots:
            raise ValueError(f"there is no bot {bot_id!r}")
        return self.bots[bot_id]

    def chat(self, named: str) -> Chat:
        """A chat by its key, or by a person's id that person's own with the first bot. Raises `ValueError`."""
        if named in self.chats:
            return self.chats[named]
        if named in self.users:
            return self.single(next(iter(self.bots)), named)
        raise ValueError(f"there is no chat {named!r}")

    def single(self, bot_id: str, userid: str) -> Chat:
        """What one person and one bot say to each other. Raises `ValueError` for a bot that there is not."""
        self.bot(bot_id)
        key = f"{userid}@{bot_id}"
        if key not in self.chats:
            self.chats[key] = Chat(key, "single", self.user(userid), [userid], [bot_id])
        return self.chats[key]

    def name_of(self, who: str) -> str:
        """What people call the bot or person with that id."""
        return self.bots[who].name if who in self.bots else self.users.get(who, who)

    def addressed(self, bot_id: str, chatid: str, chat_type: int) -> Chat:
        """The chat that a push means: a group first, unless it says which. Raises `Refused`."""
        group = self.chats.get(chatid)
        if chat_type != 1 and group is not None and group.kind == "group" and bot_id in group.bots:
            return group
        single = self.chats.get(f"{chatid}@{bot_id}")
        if chat_type != 2 and single is not None:
            return single
        raise Refused(93006)

    # What is shown

    def in_chat(self, key: str) -> Iterator[Message]:
        """What a chat shows, oldest first."""
        return (message for message in self.messages.values() if message.chat == key)

    def show(self, message: Message) -> Message:
        """Puts something into its chat."""
        self.messages[message.message_id] = message
        return message

    def newest(self, chat: str, bot_id: str) -> Callback | None:
        """The newest message to a bot in a chat."""
        found = [each for each in self.callbacks.values() if each.chat == chat and each.bot_id == bot_id]
        return next((each for each in reversed(found) if each.kind == "message"), None)

    # Limits

    def over(self, stream: Stream) -> bool:
        """Whether the time of a stream is over."""
        if stream.forced or (stream.until is not None and self.now() >= stream.until):
            return True
        since = stream.first_at if self.switches.stream_expiry == "absolute" else stream.last_at
        return stream.until is None and self.now() - since >= self.switches.stream_life

    def live(self, stream: Stream) -> bool:
        """Whether a stream can still be updated."""
        return not stream.finished and not self.over(stream)

    def spend(self, what: str) -> None:
        """Counts one message of a chat or one upload of a bot against its limits, or raises `Refused` (45009)."""
        if not self.switches.rates:
            return
        now, window = self.now(), self._windows.setdefault(what, deque())
        while window and now - window[0] >= 3600:
            window.popleft()
        if len(window) >= PER_HOUR or sum(now - each < 60 for each in window) >= PER_MINUTE:
            raise Refused(45009)
        window.append(now)

    def clear_rates(self) -> None:
        """Forgets what was counted."""
        self._windows.clear()

    # Callbacks

    def answerable(self, bot_id: str, req_id: str, kind: CallbackKind) -> Callback:
        """What is answered under a request id. Raises `Refused`."""
        callback = self.callbacks.get(req_id)
        if callback is None or callback.bot_id != bot_id or callback.kind != kind:
            raise Refused(846605)
        age = self.now() - callback.created
        if kind == "message" and (callback.expired or age >= REPLY_LIFE_S):
            raise Refused(846604)
        if kind != "message" and (age >= EVENT_LIFE_S or callback.answered or callback.expired):
            raise Refused(846605)
        return callback
