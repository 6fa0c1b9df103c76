"""A platform of the tests' own: a board that keeps messages and refuses as platforms do, and a surface on it.

It is as plain as a platform can be that still has every difficulty: messages that stream and close by themselves,
numbers that must grow, keys that make a repeat harmless (or are not known), edits (or none), files, outages.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from turnwire.channels import Holder, nobody
from turnwire.clock import Clock, sleep
from turnwire.delivery.outcomes import CONFIRMED, Receipt, refused, unknown
from turnwire.delivery.surface import Act, DeliveryOrder, Desired, Page, Rung
from turnwire.events import JSON
from turnwire.files import StoredFile
from turnwire.testing import Crash
from turnwire.view import OtherPart, TextPart, ToolPart

REPEAT = "(this may be a repeat)\n"
CORRECTED = "(corrected)\n"


@dataclasses.dataclass
class Post:
    """One message as people see it; `kind` is "post" or "note", and `file` the name of a file."""

    id: str
    text: str
    live: bool
    kind: str = "post"
    number: int = 0
    opened_at: float = 0.0
    file: str | None = None
    gone: bool = False
    lapsed: bool = False


class Cut(Exception):
    """The connection broke; nobody knows what became of the call."""


class Refusal(Exception):
    """The board said no."""

    def __init__(self, code: str, wait_s: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.wait_s = wait_s


Fault = Callable[[str, int], str | None]
"""What goes wrong with the n-th call, of that operation: None, `before`, `after` (cut after it was applied),
`crash-before`, `crash-after`, `broken` (the channel raises), or a refusal's code."""


class Board:
    """The platform.

    Args:
        keys: a repeat with the same key is the same message.
        editable: a message that was closed can be given other content.
        withdrawable: messages can be taken away.
        life_s: seconds after which what streams closes by itself.
        latency_s: seconds that a call is on its way, there and back.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        keys: bool = True,
        editable: bool = True,
        withdrawable: bool = True,
        life_s: float = 600.0,
        latency_s: float = 0.0,
    ) -> None:
        self.clock = clock
        self.keys = keys
        self.editable = editable
        self.withdrawable = withdrawable
        self.life_s = life_s
        self.latency_s = latency_s
        self.posts: list[Post] = []
        self.signs = 0
        self.calls: list[str] = []
        self.under_way = 0
        self.most_under_way = 0
        self.fault: Fault = lambda _, __: None
        self.dead: Callable[[], bool] = lambda: False
        self.crash: Callable[[], BaseException] = Crash
        self._by_key: dict[str, Post] = {}

    def visible(self) -> list[Post]:
        """What people see now."""
        for post in self.posts:
            self._age(post)
        return [post for post in self.posts if not post.gone]

    async def call(self, op: str, apply: Callable[[], Any]) -> Any:
        """One outward call."""
        if self.dead():
            raise Crash
        self.calls.append(op)
        fault = self.fault(op, len(self.calls) - 1)
        if fault == "crash-before":
            raise self.crash()
        self.under_way += op in ("create", "show", "close", "renew", "withdraw")
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self._travel(fault, apply)
        finally:
            self.under_way -= op in ("create", "show", "close", "renew", "withdraw")

    async def _travel(self, fault: str | None, apply: Callable[[], Any]) -> Any:
        if self.latency_s:
            await sleep(self.clock, self.latency_s / 2)
        if fault == "before":
            raise Cut
        if fault == "broken":
            raise ZeroDivisionError("the channel has a fault")
        if fault not in (None, "after", "crash-after"):
            raise Refusal(str(fault), 1.0 if fault == "busy" else None)
        result = apply()
        if fault == "crash-after":
            raise self.crash()
        if self.latency_s:
            await sleep(self.clock, self.latency_s / 2)
        if fault == "after":
            raise Cut
        return result

    def add(self, text: str, key: str, *, live: bool, kind: str = "post", file: str | None = None) -> Post:
        known = self._by_key.get(key) if self.keys else None
        if known is None:
            known = Post(f"m{len(self.posts)}", text, live, kind, opened_at=self.clock.now(), file=file)
            self.posts.append(known)
            self._by_key[key] = known
        return known

    def stream(self, own: str, text: str, number: int) -> None:
        post = self._post(own, number)
        if not post.live:
            raise Refusal("closed")
        post.text = text

    def replace(self, own: str, text: str, number: int, *, live: bool) -> None:
        post = self._post(own, number)
        if not self.editable and not post.live:
            raise Refusal("lapsed" if post.lapsed else "sealed")
        post.text, post.live = text, live

    def open(self, own: str, number: int) -> None:
        post = self._post(own, number)
        if not self.editable and not post.live:
            raise Refusal("lapsed")
        post.live, post.opened_at = True, self.clock.now()

    def remove(self, own: str) -> None:
        self._post(own, None).gone = True

    def _age(self, post: Post) -> None:
        if post.live and self.clock.now() - post.opened_at >= self.life_s:
            post.live, post.lapsed = False, True

    def _post(self, own: str, number: int | None) -> Post:
        post = next((one for one in self.posts if one.id == own), None)
        if post is None or post.gone:
            raise Refusal("gone")
        self._age(post)
        if number is not None:
            if number <= post.number:
                raise Refusal("stale")
            post.number = number
        return post


CAUSES: Mapping[str, Any] = {"closed": "expired", "lapsed": "spent", "sealed": "content", "too long": "content"}


async def receipt_of(work: Awaitable[Any]) -> Receipt:
    """What a call came to."""
    try:
        await work
    except Cut:
        return unknown("the connection broke")
    except Refusal as no:
        return refused(CAUSES.get(no.code, no.code), f"the board said {no.code}", no.wait_s)
    return CONFIRMED


def told(desired: Desired) -> str:
    """The whole answer as text."""
    lines: list[str] = []
    for part in desired.view.parts[desired.view.inherited :]:
        if isinstance(part, TextPart) and part.text:
            lines.append(f"~ {part.text}" if part.reasoning else part.text)
        elif isinstance(part, ToolPart):
            lines.append(f"[{part.name}: {part.state}]")
        elif isinstance(part, OtherPart):
            lines.append(f"({type(part.chunk).__name__})")
    lines += [f"! {file.name}: {file.status}" for file in desired.files if file.status in ("refused", "parked")]
    lines += [f"? {one.approved} by {one.by}" for one in desired.verdicts.values() if one.approved is not None]
    if desired.ended and desired.view.outcome != "done":
        lines.append(f"({desired.view.outcome}: {desired.view.error})" if desired.view.error else "(over)")
    text = "\n".join(lines)
    if not text and not desired.ended:
        return ""
    return (REPEAT if desired.repeat else "") + (text or "(no answer)")


def cut(text: str, width: int) -> list[str]:
    """The text in posts of at most `width` characters, 0 for any number."""
    return (
        [text[start : start + width] for start in range(0, len(text), width)]
        if width and text
        else [text] * (text != "")
    )


def arranged(text: str, width: int, kept: Sequence[str]) -> list[str]:
    """The texts of posts, the first of which can no longer be changed: what they said wrong is said again, whole."""
    begun = max((index for index, one in enumerate(kept) if one.startswith(CORRECTED)), default=0)
    corrected = bool(kept) and kept[begun].startswith(CORRECTED)
    current = cut((CORRECTED if corrected else "") + text, width)
    if list(kept[begun:]) == current[: len(kept) - begun]:
        return [*kept[:begun], *current]
    return [*kept, *cut(CORRECTED + text, width)]


class BoardRung:
    """Posts that stream.

    Args:
        limit: characters that the board takes in one message of this kind, 0 for any number.
    """

    def __init__(
        self,
        board: Board,
        *,
        name: str = "stream",
        kind: str = "post",
        live: bool = True,
        width: int = 0,
        limit: int = 0,
        editable: bool | None = None,
        renew_s: float | None = 480.0,
        seal_s: float | None = None,
    ) -> None:
        self.board = board
        self.name = name
        self.medium = kind
        self.live = live
        self.width = width
        self.limit = limit
        self.editable = board.editable if editable is None else editable
        self.repeatable = board.keys
        self.interval_s = 0.3
        self.withdrawable = board.withdrawable
        self.renew_s = renew_s
        self.seal_s = seal_s
        self.tick_s: float | None = None

    def render(self, desired: Desired, sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
        texts = arranged(told(desired), self.width, [str(facts.get("text", "")) for facts in sealed])
        pages = []
        for index, text in enumerate(texts):
            live = self.live and index == len(texts) - 1 and not desired.final
            pages.append(Page(hashlib.sha256(f"{live}{text}".encode()).hexdigest()[:16], text, live=live))
        return pages

    async def slot(self, *, urgent: bool) -> None:
        return

    async def create(self, act: Act, page: Page) -> Receipt:
        text = await self._text(act, page)

        async def work() -> None:
            if self.limit and len(text) > self.limit:
                raise Refusal("too long")
            board, live = self.board, page.live
            post = await board.call("create", lambda: board.add(text, act.key, live=live, kind=self.medium))
            await act.learn(id=post.id)

        return await receipt_of(work())

    async def show(self, act: Act, page: Page) -> Receipt:
        number = await act.number()
        own = str(act.facts["id"])

        async def work() -> None:
            if self.limit and len(page.content) > self.limit:
                raise Refusal("too long")
            await self.board.call("show", lambda: self.board.stream(own, page.content, number))

        return await receipt_of(work())

    async def close(self, act: Act, page: Page) -> Receipt:
        text, number = await self._text(act, page), await act.number()
        own = str(act.facts["id"])

        async def work() -> None:
            if self.limit and len(text) > self.limit:
                raise Refusal("too long")
            try:
                await self.board.call("close", lambda: self.board.replace(own, text, number, live=page.live))
            except Refusal as no:
                # Only we seal: the try whose outcome was unknown has done it.
                if not (no.code == "sealed" and act.again):
                    raise

        return await receipt_of(work())

    async def renew(self, act: Act, page: Page) -> Receipt:
        number = await act.number()
        return await receipt_of(self.board.call("renew", lambda: self.board.open(str(act.facts["id"]), number)))

    async def withdraw(self, act: Act) -> Receipt:
        own = act.facts.get("id")
        if own is None:
            return refused("rung", "its name was never learned")
        return await receipt_of(self.board.call("withdraw", lambda: self.board.remove(str(own))))

    async def _text(self, act: Act, page: Page) -> str:
        """What is said for good; where nothing can be changed later, a repeat says what the first try said."""
        if self.editable:
            return str(page.content)
        if not act.again:
            await act.learn(text=page.content)
        return str(act.facts["text"])


class BoardSurface:
    """One turn on the board."""

    def __init__(self, board: Board, ladder: Sequence[Rung]) -> None:
        self.board = board
        self.ladder = ladder

    async def attach(self, act: Act, file: StoredFile) -> Receipt:
        if act.again and not self.board.keys:
            return refused("spent", "the board knows no keys")
        board = self.board
        return await receipt_of(board.call("attach", lambda: board.add("", act.key, live=False, file=file.name)))

    async def greet(self, act: Act) -> Receipt:
        return await receipt_of(self.board.call("greet", lambda: setattr(self.board, "signs", 1)))

    async def part(self, act: Act) -> Receipt:
        return await receipt_of(self.board.call("part", lambda: setattr(self.board, "signs", 0)))


class BoardChannel:
    """The board as a channel of a gateway."""

    def __init__(self, board: Board, ladder: Callable[[Board], Sequence[Rung]] | None = None) -> None:
        self.name = "board"
        self.board = board
        self._ladder = ladder or (lambda board: [BoardRung(board)])

    async def start(self, gateway: Any) -> None:
        return

    async def stop_listening(self) -> None:
        return

    async def close(self) -> None:
        return

    def routes(self) -> list[Any]:
        return []

    async def prepare(self, turn: Any, *, steered: bool = False) -> str | None:
        return None

    async def check(self, holder: Holder = nobody) -> AsyncIterator[Any]:
        return
        yield

    showing = True

    def surface(self, order: DeliveryOrder) -> BoardSurface:
        msgspec.json.decode(order.target)
        return BoardSurface(self.board, self._ladder(self.board))
