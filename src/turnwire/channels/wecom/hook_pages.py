"""What a turn looks like in webhook mode: one bubble for each message, pictures at its end, links, one answer by
address. Pure.

Guarantee: the same turn and ledger give the same pages in every process, so that who answers a poll and who drives the
delivery agree. What does not fit is linked, or said to be missing. Source: the platform's pages 100719, 101031 and
101138.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from ...delivery.surface import Desired, FileOutcome, Page
from ...events import JSON
from .. import facts
from .links import Links
from .render import Bubble, CardPage, Style, pages
from .target import Target

LIFE_S = 360.0
"""Seconds since a message for which the platform asks for the bubble that answers it."""
CLOSE_S = LIFE_S - 30.0
"""When a bubble is closed as it is, so that the platform still fetches its end."""
PICTURES, PICTURE_BYTES, PICTURES_BYTES = 10, 10 * 2**20, 40 * 2**20
"""How many pictures an end may have; the bytes of each; and, our own bound, of all."""
_PICTURES: Final = frozenset({"image/png", "image/jpeg"})
FILES, ANSWERS = "files", "answers"


class Polled(msgspec.Struct, frozen=True):
    """A bubble, and the files that come with its end."""

    bubble: Bubble
    pictures: Sequence[str] = ()


class Beyond(msgspec.Struct, frozen=True):
    """What no bubble can show: each message has one."""


def is_picture(media_type: str, size: int) -> bool:
    """Whether a file can come with the end of a bubble."""
    return media_type in _PICTURES and 0 < size <= PICTURE_BYTES


def is_over(desired: Desired, target: Target) -> bool:
    """Whether the bubble has to be closed as it is."""
    return desired.now >= target.at + CLOSE_S


def bubble_pages(
    desired: Desired, target: Target, style: Style, sealed: Sequence[Mapping[str, JSON]], links: Links | None
) -> list[Page]:
    """The bubble that answers a message, and what follows it otherwise."""
    over = is_over(desired, target)
    if not (over or desired.ended or desired.view.count > 0):
        return []
    first = not any("text" in one for one in sealed)
    fitted = _Fitted(desired, style, sealed, links, target.at, pictures=first)
    with_card = _one_question(desired) and bool(target.url) and not target.group
    found = pages(fitted.desired, msgspec.structs.replace(fitted.style, cards=with_card), sealed)
    out, rest = _told(found, sealed), found[len(sealed) :]
    for number, page in enumerate(rest):
        if number > 0 or not first or not isinstance(page.content, Bubble):
            out.append(Page(f"beyond {page.digest}", Beyond()))
            continue
        live = page.live and not over
        known: dict[str, JSON] = {**page.content.kept, "pictures": list(fitted.pictures)}
        last = number == len(rest) - 1
        lacks = fitted.lacks if last and not page.live else ""
        known |= {"lacks": lacks} if lacks else {}
        content = Polled(msgspec.structs.replace(page.content, kept=known), fitted.pictures)
        out.append(Page(f"{page.digest} {live}", content, live=live, lacks=lacks))
        if page.live and over:
            # So that it is not the last one, and is closed.
            out.append(Page("beyond", Beyond()))
    return out


def address_pages(
    desired: Desired,
    target: Target,
    style: Style,
    sealed: Sequence[Mapping[str, JSON]],
    links: Links | None,
    delivery: str,
) -> list[Page]:
    """What was closed, and the one message that can follow it: the rest of the answer, or a card that asks."""
    if not (desired.ended or desired.view.count > 0):
        return []
    fitted = _Fitted(desired, style, sealed, links, target.at, pictures=False)
    plain = msgspec.structs.replace(fitted.style, reasoning=False, cards=False)
    found = pages(fitted.desired, plain, sealed)
    out, rest = _told(found, sealed), found[len(sealed) :]
    if any(one.get("cut") for one in sealed):
        return out
    if not rest:
        if _one_question(desired) and not target.group:
            cards = pages(fitted.desired, msgspec.structs.replace(plain, cards=True), sealed)[len(sealed) :]
            return [*out, *(page for page in cards if isinstance(page.content, CardPage))]
        return out
    return [*out, _only(rest, plain, fitted.lacks, links, target, delivery)]


def _only(rest: Sequence[Page], style: Style, lacks: str, links: Links | None, target: Target, delivery: str) -> Page:
    """As much as one message takes, and where the rest is."""
    bubble: Bubble = rest[0].content
    known, content = dict(bubble.kept), bubble.closed
    if len(rest) > 1:
        own = style.own
        url = "" if links is None else links.to(ANSWERS, delivery, "answer.md", target.at)
        more = [own.cut, own.rest.format(url=url)] if url else [own.cut]
        content = "\n\n".join([content.removesuffix(own.goes_on).rstrip(), *more])
        known["cut"] = True
        lacks = lacks if url else "the answer is longer than one message by address can be"
    known |= {"lacks": lacks} if lacks else {}
    shown = Bubble(content, content, known)
    return Page(rest[0].digest, shown, live=rest[0].live, lacks=lacks)


class _Fitted:
    """A turn with its files as they can be shown there.

    Attributes:
        pictures: the files that come with the end of the bubble.
        lacks: why not every file can be shown, if so.
    """

    def __init__(
        self,
        desired: Desired,
        style: Style,
        sealed: Sequence[Mapping[str, JSON]],
        links: Links | None,
        since: float,
        *,
        pictures: bool,
    ) -> None:
        gone = {str(own) for one in sealed for own in _list(one.get("pictures"))}
        confirmed = [file for file in desired.files if file.status == "confirmed" and file.id not in gone]
        self.pictures = _coming(confirmed) if pictures else []
        others = [file for file in confirmed if file.id not in self.pictures]
        linked = {} if links is None else {file.id: links.to(FILES, file.id, file.name, since) for file in others}
        missing = {file.id for file in others if file.id not in linked}
        self.lacks = style.own.no_files if missing else ""
        self.style = msgspec.structs.replace(style, links=linked)
        files = [
            msgspec.structs.replace(file, status="refused", reason=style.own.no_files) if file.id in missing else file
            for file in desired.files
        ]
        self.desired = msgspec.structs.replace(desired, files=files)


def _coming(files: Sequence[FileOutcome]) -> list[str]:
    """The pictures that one end takes, in order."""
    out, left = list[str](), PICTURES_BYTES
    for file in files:
        if len(out) < PICTURES and is_picture(file.media_type, file.size) and file.size <= left:
            out.append(file.id)
            left -= file.size
    return out


def _told(found: Sequence[Page], sealed: Sequence[Mapping[str, JSON]]) -> list[Page]:
    """The pages that were closed, with what they lack."""
    told = zip(found[: len(sealed)], sealed, strict=True)
    return [msgspec.structs.replace(page, lacks=str(one.get("lacks") or "")) for page, one in told]


def _one_question(desired: Desired) -> bool:
    """Whether one card can ask all that is to be asked."""
    verdicts = [facts.verdict_of(desired, tool) for tool in facts.asking(desired)]
    return sum(verdict is not None and verdict.approved is None for verdict in verdicts) == 1


def _list(value: JSON) -> Sequence[JSON]:
    return value if isinstance(value, list) else []
