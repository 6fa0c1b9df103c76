"""From the UI messages of a conversation to plain entries that a framework's own messages are made of.

Guarantee: entries keep the order of the conversation; each call of a tool has exactly one answer and an id that every
provider takes and no other call has. What people and agents said is kept, also when an answer was cut short; reasoning
is left out, because providers refuse thoughts without their own signature.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..files import FileMissing
from .chat_reader import dicts

if TYPE_CHECKING:
    from ..turn import Turn

NOT_FINISHED = "This call was not finished; its result is not known."
"""What answers a call that has no answer in the conversation."""

_INLINE_CHARS = 200_000
_TAKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BINARY = re.compile(r"(?i)image/(?:png|jpeg|gif|webp)|application/pdf")
_TEXTUAL = re.compile(r"(?i)text/.+|application/(?:.+\+)?(?:json|xml|yaml|toml|x-ndjson|javascript)")


class Attached(msgspec.Struct, frozen=True):
    """An image or a PDF that goes along with a question."""

    name: str
    media_type: str
    data: bytes

    @property
    def base64(self) -> str:
        """The content in base64."""
        return base64.b64encode(self.data).decode()

    @property
    def data_url(self) -> str:
        """The content as a `data:` address."""
        return f"data:{self.media_type};base64,{self.base64}"


class Asked(msgspec.Struct, frozen=True):
    """What a person said."""

    parts: list[str | Attached]


class Instructed(msgspec.Struct, frozen=True):
    """A system message."""

    text: str


class Called(msgspec.Struct, frozen=True):
    """A call of a tool with its answer, as text."""

    id: str
    name: str
    arguments: dict[str, Any]
    output: str
    failed: bool


class Answered(msgspec.Struct, frozen=True):
    """One request to the model: its text, then its calls."""

    text: str
    calls: list[Called]


Entry: TypeAlias = Asked | Instructed | Answered


async def conversation(turn: Turn) -> list[Entry]:
    """The whole conversation, oldest first. The files of the newest question are read, earlier ones named."""
    contents: dict[str, bytes] = {}
    for file in turn.files:
        try:
            contents[file.url] = await file.read()
        except FileMissing:
            # It is named instead, as the files of earlier messages are.
            continue
    found = entries(turn.messages, contents)
    if turn.quote and found and isinstance(last := found[-1], Asked):
        quoted = "\n".join(f"> {line}" for line in str(turn.quote).splitlines())
        found[-1] = Asked([quoted, *last.parts])
    return found or [Asked([turn.text or "(an empty message)"])]


def entries(messages: Iterable[Mapping[str, Any]], contents: Mapping[str, bytes] | None = None) -> list[Entry]:
    """A conversation of UI messages as entries; `contents` are the files at hand, by address."""
    ids: set[str] = set()
    found: list[Entry] = []
    for message in messages:
        parts = dicts(message.get("parts"))
        if message.get("role") == "assistant":
            found += _answers(parts, ids)
        elif message.get("role") == "system":
            text = "\n".join(filter(None, map(_text, parts)))
            found += [Instructed(text)] if text else []
        else:
            said = [said for part in parts if (said := _text(part) or _file(part, contents or {}))]
            found.append(Asked(said or ["(an empty message)"]))
    return found


def _answers(parts: list[dict[str, Any]], ids: set[str]) -> Iterable[Answered]:
    texts: list[str] = []
    calls: list[Called] = []
    for part in [*parts, {"type": "step-start"}]:
        kind = str(part.get("type") or "")
        if kind == "step-start":
            if texts or calls:
                yield Answered("\n\n".join(texts), calls)
            texts, calls = [], []
        elif kind == "dynamic-tool" or kind.startswith("tool-"):
            calls.append(_call(part, str(part.get("toolName") or kind.removeprefix("tool-")), ids))
        elif kind == "file":
            texts.append(_named(part))
        elif text := _text(part):
            if calls:
                # Text after a call is a request of its own: no provider takes text between a call and its answer.
                yield Answered("\n\n".join(texts), calls)
                texts, calls = [], []
            texts.append(text)


def _call(part: Mapping[str, Any], name: str, ids: set[str]) -> Called:
    given = part.get("input")
    arguments = given if isinstance(given, dict) else {} if given is None else {"input": given}
    own, number = str(part.get("toolCallId") or ""), len(ids)
    while own in ids or not _TAKEN.fullmatch(own):
        number += 1
        own = f"call_{number}"
    ids.add(own)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64] or "tool"
    if part.get("state") == "output-available":
        return Called(own, name, arguments, as_text(part.get("output")), False)
    if part.get("state") == "output-error":
        return Called(own, name, arguments, str(part.get("errorText") or "The tool failed."), True)
    return Called(own, name, arguments, NOT_FINISHED, True)


def _text(part: Mapping[str, Any]) -> str:
    text = str(part.get("text") or "") if part.get("type") == "text" else ""
    return text if text.strip() else ""


def _file(part: Mapping[str, Any], contents: Mapping[str, bytes]) -> str | Attached | None:
    if part.get("type") != "file":
        return None
    media_type = str(part.get("mediaType") or "").partition(";")[0].strip()
    data = contents.get(str(part.get("url") or ""))
    if data is not None and _BINARY.fullmatch(media_type):
        return Attached(str(part.get("filename") or "file"), media_type, data)
    if data is not None and _TEXTUAL.fullmatch(media_type):
        return f"{_named(part)}\n{data.decode('utf-8', 'replace')[:_INLINE_CHARS]}"
    return _named(part)


def _named(part: Mapping[str, Any]) -> str:
    name, media_type = part.get("filename") or "without a name", part.get("mediaType") or "unknown type"
    url = str(part.get("url") or "")
    where = f", {url}" if url.startswith(("https://", "http://")) else ""
    return f"[attached file: {name}, {media_type}{where}]"


def as_text(value: object) -> str:
    """What a tool answered, as a model reads it."""
    return value if isinstance(value, str) else msgspec.json.encode(as_json(value)).decode()


def as_json(value: Any) -> Any:
    """Any value as JSON; what has no JSON form becomes its text."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    try:
        return msgspec.json.decode(msgspec.json.encode(value, enc_hook=str))
    except (TypeError, ValueError, RecursionError):
        return str(value)


def is_cut(arguments: str) -> bool:
    """Whether the JSON of a call's arguments ends too early; such a call must not be run."""
    if not arguments.strip():
        return False
    try:
        msgspec.json.decode(arguments)
    except msgspec.DecodeError as error:
        return "truncated" in str(error)
    return False
