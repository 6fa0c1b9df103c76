"""A simulator's own routes, `/_sim/...`: what a test in another process, or a person at its page, needs.

Guarantee: a body that is not understood changes nothing and is answered 400 with what it should have been.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any, Generic, TypeVar

from turnwire.clock import Clock

from ._clock import JumpingClock
from ._http import Request
from ._json import Json, compact, read_object
from ._serving import Answer
from .faults import Fault, Faults

Sim = TypeVar("Sim")
HTML = "text/html; charset=utf-8"
_POLICY = "default-src 'self'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
GUARD = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}


class NotUnderstood(Exception):
    """A body that is not what it should be."""


class Said:
    """The fields of a body; a wrong one is refused by its name."""

    def __init__(self, body: Json) -> None:
        self._body = body

    def text(self, name: str, default: str | None = None) -> str:
        """A field that is a string; without a default it must be there. Raises `NotUnderstood`."""
        value = self._body.get(name, default)
        if not isinstance(value, str):
            raise NotUnderstood(f"{name}: must be a string")
        return value

    def list(self, name: str) -> list[str]:
        """A field that is a list of strings, empty by default. Raises `NotUnderstood`."""
        value = self._body.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise NotUnderstood(f"{name}: must be a list of strings")
        return value

    def data(self, name: str) -> bytes:
        """The bytes of a field in base64. Raises `NotUnderstood`."""
        try:
            return base64.b64decode(self.text(name), validate=True)
        except binascii.Error:
            raise NotUnderstood(f"{name}: must be base64") from None

    def any(self, name: str, default: Any = None) -> Any:
        """A field as it is."""
        return self._body.get(name, default)


@dataclass(frozen=True)
class Commands(Generic[Sim]):
    """The routes of one simulator.

    Args:
        posts: what can be posted, by the last part of the path.
        shown: answers a GET by the path behind `/_sim/`.
    """

    posts: dict[str, Callable[[Sim, Said], Json | Awaitable[Json]]]
    shown: Callable[[Sim, Request, str], Answer]

    async def answer(self, sim: Sim, request: Request, raw: bytes) -> Answer:
        """The answer to a request of the simulator's own."""
        what = request.path.removeprefix("/_sim").strip("/")
        if request.method == "GET":
            return self.shown(sim, request, what)
        if request.method != "POST" or what not in self.posts:
            return problem(404, f"POST one of {', '.join(sorted(self.posts))} to /_sim/")
        try:
            data = self.posts[what](sim, Said(read_object(raw)))
            if isawaitable(data):
                data = await data
        except (NotUnderstood, ValueError) as error:
            return problem(400, str(error))
        return as_json(data)


def add_faults(faults: Faults, said: Said, example: str) -> Json:
    """Adds the faults of a body; how many wait now. Raises `NotUnderstood`, with the example, and `ValueError`."""
    try:
        faults.add(*(Fault(**each) for each in said.any("faults", [])))
    except TypeError as error:
        raise NotUnderstood(f"faults: a list as [{example}]: {error}") from None
    return {"pending": len(faults.pending)}


def advance(clock: Clock, said: Said) -> Json:
    """Makes it later on a clock of the process; the time that it is. Raises `NotUnderstood` and `ValueError`."""
    if not isinstance(clock, JumpingClock):
        raise NotUnderstood("advance: the clock of this simulator belongs to its test; advance it there")
    try:
        seconds = float(said.any("seconds", 0))
    except TypeError:
        raise NotUnderstood("seconds: must be a number") from None
    clock.jump(seconds)
    return {"now": clock.now()}


def as_json(value: Json) -> Answer:
    """What was asked for."""
    return Answer(200, compact(value).encode("utf-8", "replace"))


def problem(status: int, message: str) -> Answer:
    """Why it is not answered."""
    return Answer(status, compact({"error": {"message": message}}).encode("utf-8", "replace"))
