"""What a simulated model is asked and what it answers, in the words of no provider.

Guarantee: pure values; one `Answer` says the same thing on every wire that can say it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ._json import Json, compact

Role = Literal["open", "delta", "close", "finish", "usage", "last"]
"""What an event does: opens a part, adds to it, closes it, says why the model ended, counts tokens, ends the stream."""

Ended = Literal["open", "completed", "client_closed", "reset", "stopped"]
"""How a request stands; see `Seen`."""

PIECES = ("Hello, ", "wörld ", "你好🌍", " done.")
"""The text of a plain answer, one piece for each delta."""
TEXT = "".join(PIECES)
THOUGHT = ("Let me ", "think.")
SIGNATURE = "c2ltdWxhdGVk"
INPUT_TOKENS, OUTPUT_TOKENS = 30, 12
MODELS = ("sim-1",)


class Event(NamedTuple):
    """One server-sent event: its part in the answer, its data, and its name on the wires that name events."""

    role: Role
    data: Json | str
    name: str = ""

    def encode(self, newline: str = "\n", prefix: str = "data: ", *, named: bool = True) -> bytes:
        """The event with its closing blank line. Characters beyond ASCII stay as they are."""
        data = self.data if isinstance(self.data, str) else compact(self.data)
        name = f"event: {self.name}{newline}" if self.name and named else ""
        return f"{name}{prefix}{data}{newline}{newline}".encode("utf-8", "replace")


@dataclass(frozen=True)
class Call:
    """A tool call; `arguments` is the JSON as the model writes it, perhaps cut, perhaps empty."""

    name: str
    arguments: str


@dataclass(frozen=True)
class Answer:
    """One answer of a model: what it thinks, says, declines and calls, in this order, and why it ends."""

    text: Sequence[str] = ()
    thought: Sequence[str] = ()
    refusal: Sequence[str] = ()
    calls: Sequence[Call] = ()
    end: Literal["stop", "length", "filter"] = "stop"


class Tool(NamedTuple):
    """A tool that the request offers."""

    name: str
    schema: Json


@dataclass(frozen=True)
class Ask:
    """One checked request.

    Args:
        model, stream, usage: how the answer is wanted.
        text: the newest text of the user.
        results: what tools returned, if that is what the request ends with.
        tools: those that the model may call.
        rounds: how often tools have returned since the user last spoke, as far as the request tells.
        previous: the response that it follows without repeating it (R), and `answered`, the calls that it answers.
    """

    model: str
    stream: bool
    text: str = ""
    results: tuple[str, ...] = ()
    tools: tuple[Tool, ...] = ()
    usage: bool = True
    rounds: int = 0
    previous: str = ""
    answered: tuple[str, ...] = ()


class Ids:
    """The ids of one answer: unique in a simulator, the same in every run of a test."""

    def __init__(self, number: int) -> None:
        self.number = number

    def of(self, prefix: str, index: int = 0) -> str:
        """The id of the answer's part `index`, as `call_sim000001_0`."""
        return f"{prefix}_sim{self.number:06}_{index}"


class Refused(Exception):
    """The provider would refuse this request: an HTTP status, and what is wrong, where, in `message`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Wire:
    """All that the simulator knows about one provider's protocol.

    Args:
        letter: A, O, R or G.
        read: from a request's body, its model and whether it wants a stream, the `Ask`; raises `Refused`.
        stream: an answer as the events of a stream.
        whole: an answer as the one JSON object of a request without a stream.
        problem: the body of a refusal, from its status and message.
        broken: the events that report an error in the middle of a stream.
        ping: what keeps a silent stream alive.
        key: the API key that a request carries, from its headers and its query.
        headers: the names of the headers that every request must have.
    """

    letter: str
    read: Callable[[Json, str, bool], Ask]
    stream: Callable[[Answer, Ids, Ask], list[Event]]
    whole: Callable[[Answer, Ids, Ask], Json]
    problem: Callable[[int, str], Json]
    broken: Callable[[str], Event]
    ping: bytes
    key: Callable[[Mapping[str, str], Mapping[str, str]], str]
    headers: tuple[str, ...] = ()


def want(body: Any, name: str, kind: type | tuple[type, ...], where: str = "") -> Any:
    """The field `name` of an object. Raises `Refused` when it is missing, empty or of another kind."""
    at = f"{where}.{name}" if where else name
    if not isinstance(body, dict):
        raise Refused(400, f"{where or 'body'}: must be a JSON object")
    if body.get(name) is None:
        raise Refused(400, f"{at}: this field is required")
    value = _of_kind(body[name], kind, at)
    if value in ("", []):
        raise Refused(400, f"{at}: must not be empty")
    return value


def given(body: Json, name: str, kind: type | tuple[type, ...], default: Any, where: str = "") -> Any:
    """The optional field `name`: `default` where it is missing or null. Raises `Refused` when it is of another kind."""
    value = body.get(name)
    return default if value is None else _of_kind(value, kind, f"{where}.{name}" if where else name)


def objects(values: Sequence[Any], where: str) -> list[tuple[str, Json]]:
    """The objects in a list, each with its place, as `messages.0`. Raises `Refused` for anything else in it."""
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise Refused(400, f"{where}.{index}: must be an object")
    return [(f"{where}.{index}", value) for index, value in enumerate(values)]


def one_of(value: str, allowed: Sequence[str], at: str) -> str:
    """`value`, if it is allowed. Raises `Refused` otherwise."""
    if value not in allowed:
        raise Refused(400, f"{at}: {value!r} is not one of {', '.join(allowed)}")
    return value


def rounds(kinds: Iterable[str]) -> int:
    """How often tools have returned since the user last spoke.

    Args:
        kinds: "user" or "result" or anything else, for each message; neighbouring results are one round.
    """
    count, before = 0, ""
    for kind in kinds:
        if kind == "user":
            count = 0
        elif kind == "result" and before != "result":
            count += 1
        before = kind
    return count


def parsed(arguments: str) -> Json:
    """A call's arguments as an object: empty where they are none, cut or no object."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def halves(arguments: str) -> tuple[str, ...]:
    """Arguments as a model writes them, in two pieces; none for none."""
    middle = len(arguments) // 2
    return tuple(piece for piece in (arguments[:middle], arguments[middle:]) if piece)


_KINDS = {str: "a string", list: "an array", dict: "an object", int: "an integer", bool: "true or false"}


def _of_kind(value: Any, kind: type | tuple[type, ...], at: str) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # JSON's true is no number.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise Refused(400, f"{at}: must be {' or '.join(_KINDS[each] for each in kinds)}")
    return value
