"""What a simulated Feishu tenant remembers: apps, people, chats, messages, cards, files.

Guarantee: no I/O; time comes from the clock. Ids are made in order, so that two runs of the same calls have the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from turnwire.clock import Clock

from ._feishu_codes import Refused
from ._json import Json

ChatKind = Literal["p2p", "group", "topic"]

TOKEN_LIFE_S = 7200.0
TOKEN_RENEW_S = 1800.0
STREAM_LIFE_S = 600.0
CARD_LIFE_S = 14 * 86400.0
MESSAGE_EDIT_S = 14 * 86400.0
UUID_LIFE_S = 3600.0
CALLBACK_LIFE_S = 1800.0
MAX_CHANGES = 20_000


@dataclass
class Switches:
    """How the simulator decides what the documents leave open, or what differs between tenants.

    Args:
        content_semantics: what a stream of text does with what was there: replace it (as documented), append to it
            (as one report claimed), or replace it but accept and drop it once the streaming mode has timed out.
        uuid_replay: a card operation repeated byte by byte with its uuid: a success that changes nothing, or 200770.
        seq_consume_on_error: whether a refused card operation uses up its sequence.
        table_limit, tables_in_one: tables in one card, and in one markdown component.
        card_bytes: the size of a card, as compact JSON in bytes.
        component_limit: components and texts in one card.
        http_errors: the HTTP status of refusals that are no rate limit.
        replica_lag: how long a new card or component is unknown to other calls, in seconds.
        stream_life: how long the streaming mode lasts since it was last opened, in seconds.
        reopen_restarts: whether opening an open card begins that time anew.
        update_ends_streaming: whether a full update without `streaming_mode` true ends the streaming mode.
        patch_entity: what a PATCH of a message does that holds a card entity.
        rates: whether rate limits are enforced.
        card_rate_code: the code of more than ten operations on a card in a second.
        card_rate_while_streaming: whether that limit holds while the card is in streaming mode.
        recalled_card: the code of an operation on a card whose message was recalled; 0 if it is taken, unseen.
        edit_window: how long a text can be edited, in seconds; 0 for ever.
        latency: how long each call takes, in seconds; it is applied half-way.
        interaction: how long a click may wait for its answer and lock the card, in seconds.
        forwarded_files: whether images and files inside of a forwarded message can be had: never (as documented), or by
            the id of the message that holds them all (as two reports say).
    """

    content_semantics: Literal["replace", "append", "drop_after_10min"] = "replace"
    uuid_replay: Literal["noop", "conflict"] = "noop"
    seq_consume_on_error: bool = False
    table_limit: int = 5
    tables_in_one: int = 4
    card_bytes: int = 30 * 1024
    component_limit: int = 200
    http_errors: Literal[400, 200] = 400
    replica_lag: float = 0.0
    stream_life: float = STREAM_LIFE_S
    reopen_restarts: bool = True
    update_ends_streaming: bool = True
    patch_entity: Literal["refuse", "apply"] = "refuse"
    rates: bool = True
    card_rate_code: Literal[99991400, 230020] = 99991400
    card_rate_while_streaming: bool = True
    recalled_card: Literal[230011, 0] = 230011
    edit_window: float = 0.0
    latency: float = 0.0
    interaction: float = 3.0
    forwarded_files: Literal["refuse", "by_container"] = "refuse"


@dataclass
class App:
    """A self-built app with its bot; `scopes` None means all of them."""

    app_id: str
    secret: str
    name: str
    open_id: str
    bot: bool = True
    scopes: set[str] | None = None
    tokens: list[tuple[str, float]] = field(default_factory=list)
    verification_token: str = ""
    encrypt_key: str = ""
    webhook: str = ""


@dataclass
class User:
    """A person; `refuses` is the code that a message to them gets, 0 for none."""

    open_id: str
    name: str
    union_id: str
    user_id: str
    refuses: int = 0


@dataclass
class Chat:
    """A chat. `topic` is a group in which each message begins a topic; `refuses` as with `User`."""

    chat_id: str
    kind: ChatKind
    name: str
    members: list[str] = field(default_factory=list)
    bots: list[str] = field(default_factory=list)
    dissolved: bool = False
    threads: bool = True
    refuses: int = 0


@dataclass
class Reaction:
    """An emoji under a message, by an app or a person."""

    reaction_id: str
    emoji: str
    by: str


@dataclass
class Message:
    """A message; `sender` is an app id for bots, an open id for people; `gone` is how it ceased to exist.

    `children` are the messages inside of one that forwards several; `upper_id` is, of such a child, what it is in.
    """

    message_id: str
    chat_id: str
    sender: str
    from_bot: bool
    msg_type: str
    content: str
    created: float
    updated: float
    root_id: str = ""
    parent_id: str = ""
    thread_id: str = ""
    card_id: str = ""
    edits: int = 0
    gone: Literal["", "recalled", "deleted"] = ""
    reactions: list[Reaction] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    mentions: list[Json] = field(default_factory=list)
    upper_id: str = ""
    children: list[Message] = field(default_factory=list)

    @property
    def inside(self) -> list[Message]:
        """The messages inside of it at any depth, each before what is inside of it."""
        return [each for child in self.children for each in (child, *child.inside)]


@dataclass
class Change:
    """What became visible in a card: the whole text of it afterwards, and how it came.

    `how` is `typed` (the old text was its beginning), `flashed` (it was not) or `replaced` (no stream of text).
    """

    at: float
    op: str
    element_id: str
    text: str
    how: Literal["typed", "flashed", "replaced"]
    sequence: int


@dataclass
class Card:
    """A card: an entity of CardKit, or one that stands inside a message (`entity` False)."""

    card_id: str
    app_id: str
    data: Json
    created: float
    entity: bool = True
    streaming: bool = False
    opened_at: float = 0.0
    timed_out: bool = False
    told: bool = False
    last_seq: int = 0
    uuids: dict[str, str] = field(default_factory=dict)
    message_id: str = ""
    locked_until: float = 0.0
    fresh: dict[str, float] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=lambda: deque(maxlen=MAX_CHANGES))


@dataclass
class Upload:
    """An image or file. `kind` is `image` or the `file_type` it was uploaded with."""

    key: str
    kind: str
    name: str
    media_type: str
    data: bytes
    owner: str


@dataclass
class Callback:
    """What a click allows its app: changes of the card for half an hour, twice."""

    card_id: str
    at: float
    left: int = 2


class Tenant:
    """One tenant.

    Args:
        clock: says what time it is.
        switches: what the documents leave open.
    """

    def __init__(self, clock: Clock, switches: Switches) -> None:
        self.clock = clock
        self.switches = switches
        self.key = "tenant_sim"
        self.apps: dict[str, App] = {}
        self.users: dict[str, User] = {}
        self.chats: dict[str, Chat] = {}
        self.messages: dict[str, Message] = {}
        self.cards: dict[str, Card] = {}
        self.uploads: dict[str, Upload] = {}
        self.sent: dict[tuple[str, str], tuple[float, str]] = {}
        self.callbacks: dict[str, Callback] = {}
        self._numbers = count(1)

    def now(self) -> float:
        """Wall time in seconds."""
        return self.clock.now()

    # Ids

    def make_id(self, prefix: str) -> str:
        """A new id, unique among all of the tenant's."""
        return f"{prefix}{next(self._numbers):032x}"

    def card_number(self) -> str:
        """A new id of a card: up to 20 digits."""
        return str(7_355_000_000_000_000_000 + next(self._numbers))

    # People and chats

    def add_app(self, app_id: str, secret: str, name: str) -> App:
        """A new app whose bot is in no chat yet."""
        app = App(app_id, secret, name, f"ou_bot_{app_id}")
        self.apps[app_id] = app
        return app

    def user(self, open_id: str, name: str = "") -> User:
        """A person, who is made if there is nobody with that open id."""
        if open_id not in self.users:
            plain = open_id.removeprefix("ou_")
            self.users[open_id] = User(open_id, name or plain, f"on_{plain}", f"u_{plain}")
        return self.users[open_id]

    def p2p(self, app_id: str, open_id: str) -> Chat:
        """The chat of one person with a bot, made if they never spoke."""
        for chat in self.chats.values():
            if chat.kind == "p2p" and chat.members == [open_id] and chat.bots == [app_id]:
                return chat
        return self.add_chat(self.make_id("oc_"), "p2p", self.user(open_id).name, [open_id], [app_id])

    def add_chat(self, chat_id: str, kind: ChatKind, name: str, members: list[str], bots: list[str]) -> Chat:
        """A new chat. Raises `ValueError` when the id is taken."""
        if chat_id in self.chats:
            raise ValueError(f"there is a chat {chat_id!r} already")
        for open_id in members:
            self.user(open_id)
        self.chats[chat_id] = Chat(chat_id, kind, name, list(members), list(bots))
        return self.chats[chat_id]

    def name_of(self, who: str) -> str:
        """What people call the app or person with that id."""
        if who in self.apps:
            return self.apps[who].name
        return self.users[who].name if who in self.users else who

    # Messages and cards

    def in_chat(self, chat_id: str) -> Iterator[Message]:
        """The messages of a chat, oldest first."""
        return (message for message in self.messages.values() if message.chat_id == chat_id)

    def add_message(self, message: Message) -> Message:
        """Puts a message into its chat."""
        self.messages[message.message_id] = message
        return message

    def card_of(self, message: Message) -> Card | None:
        """The card that a message shows."""
        return self.cards.get(message.card_id) if message.card_id else None

    def expire(self, card: Card) -> None:
        """Ends the streaming mode of a card if its time is over."""
        if card.streaming and self.now() - card.opened_at >= self.switches.stream_life:
            card.streaming = False
            card.timed_out, card.told = True, False

    # Tokens

    def token(self, app: App) -> tuple[str, float]:
        """The app's token and how long it lasts: the last one while it has half an hour left, else a new one."""
        now = self.now()
        app.tokens = [each for each in app.tokens if each[1] > now]
        if not app.tokens or app.tokens[-1][1] - now < TOKEN_RENEW_S:
            app.tokens.append((self.make_id("t-"), now + TOKEN_LIFE_S))
        token, until = app.tokens[-1]
        return token, until - now

    def authorised(self, header: str) -> App:
        """The app whose token a request carries. Raises `Refused`."""
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Refused(99991661)
        if not token.startswith(("t-", "u-")):
            raise Refused(99991671)
        now = self.now()
        for app in self.apps.values():
            if any(each == token and until > now for each, until in app.tokens):
                return app
        raise Refused(99991663)
