"""Deliveries as traces: each outward call, each answer and each event, one JSON object a line.

Guarantee: what the recorder is told is secret stands in no trace, nor do tokens and the keys of tenants; a trace that
cannot be written costs the trace, never the delivery; what is kept on disk is bounded. A trace holds what people and
agents said: it is for whoever may read that.

A line is an `Entry`: `{"seq": 0, "at": 0.0, "dir": "in", "kind": "event im.message.receive_v1", "data": {...}}`.
Outward entries are named by method and path with ids left out; their answers name them by `to`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import structlog

from ..clock import Clock
from .outcomes import Receipt

_log = structlog.get_logger(__name__)

REMOVED = "***"
KEPT_FILE_BYTES = 64 * 1024
"""Contents of larger files are left out; their size and digest stand for them."""
FILE_BYTES = 16 * 1024 * 1024
FILES = 16
"""One channel keeps so many files of that size at most; the oldest goes first."""
_SECRET_KEYS = re.compile(r"token|secret|authorization|password|encrypt|app_id|tenant_key|challenge", re.IGNORECASE)
_VERSION = re.compile(r"v\d+")
_NAME_CHARS = 6
"""Shorter strings are no names of things."""

Direction = Literal["out", "in"]
Upload = tuple[str, bytes, str]


class Entry(msgspec.Struct, frozen=True):
    """One line.

    Attributes:
        seq: dense from 0.
        at: seconds since the first entry.
        dir: `out` for what we ask of the platform, `in` for its answers and events.
        kind: what it is, without ids.
        data: everything else, without secrets.
    """

    seq: int
    at: float
    dir: Direction
    kind: str
    data: dict[str, Any]


class Recorder:
    """Makes entries of what a channel does, in the order in which it happens.

    Args:
        write: gets each entry; what it raises of `OSError` ends the trace.
        secrets: strings that must stand nowhere, such as a secret of the app.
    """

    def __init__(self, write: Callable[[Entry], None], clock: Clock, *, secrets: Sequence[str] = ()) -> None:
        self._write = write
        self._clock = clock
        self._secrets = sorted({one for one in secrets if one}, key=len, reverse=True)
        self._began: float | None = None
        self._next = 0
        self._broken = False

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        params: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, Upload] | None = None,
    ) -> int:
        """An outward call that is about to be made; returns its number."""
        data: dict[str, Any] = {"method": method, "path": path}
        given = {"params": params, "body": body, "form": form, "files": _kept(files) if files else None}
        data |= {name: value for name, value in given.items() if value}
        return self._add("out", f"{method} {shape(path)}", data)

    def answer(self, to: int, receipt: Receipt, code: int | None, data: Mapping[str, Any]) -> None:
        """What came of a call; a call without an answer is one whose process died, or of which nobody is told."""
        said: dict[str, Any] = {"to": to, "code": code, "data": dict(data)}
        if receipt.reason:
            said["reason"] = receipt.reason
        self._add("in", receipt.kind, said)

    def event(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something that the platform told by itself."""
        self._add("in", f"event {kind}".strip(), dict(data))

    def _add(self, direction: Direction, kind: str, data: dict[str, Any]) -> int:
        now = self._clock.monotonic()
        if self._began is None:
            self._began = now
        number, self._next = self._next, self._next + 1
        if not self._broken:
            entry = Entry(number, round(now - self._began, 3), direction, kind, self._clean(data))
            try:
                self._write(entry)
            except OSError as error:
                self._broken = True
                _log.warning("no more traces are written", why=error.strerror)
        return number

    def _clean(self, value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            return {str(name): self._clean(inner, str(name)) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._clean(inner, key) for inner in value]
        if not isinstance(value, str):
            return value
        if _SECRET_KEYS.search(key):
            return REMOVED
        for secret in self._secrets:
            value = value.replace(secret, REMOVED)
        return value


class TraceFolder:
    """Writes entries to files in a folder: one for each process, the next when one is full, the oldest removed.

    Args:
        folder: made when the first entry comes.
        name: of the channel; each file's name begins with it.
    """

    def __init__(self, folder: Path, name: str, clock: Clock) -> None:
        self._folder = folder
        self._name = re.sub(r"[^\w.-]", "_", name)
        self._clock = clock
        self._path: Path | None = None
        self._size = 0
        self._count = 0

    def __call__(self, entry: Entry) -> None:
        """Appends one line. Raises `OSError`."""
        line = msgspec.json.encode(entry) + b"\n"
        if self._path is None or self._size + len(line) > FILE_BYTES:
            self._path, self._size = self._begin(), 0
        with self._path.open("ab") as file:
            file.write(line)
        self._size += len(line)

    def _begin(self) -> Path:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = sorted(self._folder.glob(f"{self._name}-*.jsonl"))
        for path in old[: max(len(old) - FILES + 1, 0)]:
            path.unlink(missing_ok=True)
        self._count += 1
        path = self._folder / f"{self._name}-{self._clock.now():014.3f}-{os.getpid()}-{self._count:04}.jsonl"
        path.touch(mode=0o600)
        return path


class Place(Protocol):
    """Where a trace is played again."""

    async def pass_time(self, seconds: float) -> None:
        """Lets so much time pass there."""
        ...

    async def event(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Lets happen what an event told of; returns that event as far as its names are others here."""
        ...

    async def call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carries a call out: `method`, `path` and what else it had; returns the answer's data."""
        ...


async def replay(trace: Sequence[Entry], place: Place) -> None:
    """Does again what a trace tells, at the same times, with the names that things have here.

    Calls that were refused are left out: they had no effect. Those whose outcome is not known are made, like the
    others; that is what the platform's own idempotency is for.
    """
    names: dict[str, str] = {}
    answers = {entry.data["to"]: entry for entry in trace if "to" in entry.data}
    now = 0.0
    for entry in trace:
        if entry.at > now:
            await place.pass_time(entry.at - now)
            now = entry.at
        if entry.dir == "out":
            answer = answers.get(entry.seq)
            if answer is not None and answer.kind == "refused":
                continue
            said = await place.call(_renamed(entry.data, names))
            _learn(answer.data["data"] if answer is not None else {}, said, names)
        elif entry.kind.startswith("event"):
            kind = entry.kind.removeprefix("event").strip()
            _learn(entry.data, await place.event(kind, _renamed(entry.data, names)), names)


def read_trace(lines: Iterable[bytes | str]) -> list[Entry]:
    """The entries of a trace. Raises `ValueError` that names the line which is none."""
    found: list[Entry] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=Entry))
        except msgspec.DecodeError as error:
            raise ValueError(f"line {number} is no entry of a trace: {error}") from None
    return found


def shape(path: str) -> str:
    """A path with `:id` for whatever is a name of one thing."""
    return "/".join(
        ":id" if re.search(r"\d", part) and not _VERSION.fullmatch(part) else part for part in path.split("/")
    )


def _kept(files: Mapping[str, Upload]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, (name, content, media_type) in files.items():
        about = {"name": name, "mediaType": media_type, "size": len(content)}
        if len(content) <= KEPT_FILE_BYTES:
            about["content"] = base64.b64encode(content).decode()
        else:
            about["sha256"] = hashlib.sha256(content).hexdigest()
        found[field] = about
    return found


def _learn(old: Any, new: Any, names: dict[str, str]) -> None:
    """Where both have the same place, what stood there then is called what stands there now."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in old.keys() & new.keys():
            _learn(old[name], new[name], names)
    elif isinstance(old, str) and isinstance(new, str) and old != new and len(old) >= _NAME_CHARS:
        names[old] = new


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _renamed(inner, names) for name, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    if not isinstance(value, str) or not names:
        return value
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(known, lambda found: names[found[0]], value)
