"""What a scenario is, and those in which the provider is well: the model answers, thinks, calls tools, declines.

Guarantee: a scenario is chosen by its name alone, and says in one line what it does.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ._model_answers import PIECES, THOUGHT, Answer, Ask, Call, Event
from ._model_google import blocked as blocked_prompt
from ._model_peer import Peer

ALL = "AORG"
CITIES = (Call("get_weather", '{"city": "北京"}'), Call("get_weather", '{"city": "Zürich"}'))

Act = Callable[[Peer], Awaitable[None]]
Says = Callable[[Ask], Answer]


@dataclass(frozen=True)
class Scenario:
    """One behaviour of a provider.

    Args:
        name: how it is chosen.
        wires: the letters of the wires on which it has a meaning.
        about: what it does, in a line.
        act: answers a request for a stream.
        says: what the model answers.
        any_body: whether `act` also answers a request without a stream; otherwise that gets the whole answer.
    """

    name: str
    wires: str
    about: str
    act: Act
    says: Says
    any_body: bool = False


class Catalogue:
    """Scenarios in the order in which they were written down."""

    def __init__(self) -> None:
        self._scenarios: list[Scenario] = []

    def __iter__(self) -> Iterator[Scenario]:
        return iter(self._scenarios)

    def add(
        self, wires: str = ALL, *, name: str = "", says: Says | None = None, any_body: bool = False
    ) -> Callable[[Act], Act]:
        """A decorator: the function's name names the scenario, the first line of its docstring tells about it."""

        def put(act: Act) -> Act:
            about = (act.__doc__ or "").partition("\n")[0]
            made = getattr(act, "__name__", "")
            self._scenarios.append(Scenario(name or made, wires, about, act, says or plain_answer, any_body))
            return act

        return put

    def answer(self, name: str, about: str, says: Says | Answer, wires: str = ALL) -> None:
        """A scenario whose stream is faultless."""
        model = (lambda _: says) if isinstance(says, Answer) else says
        self._scenarios.append(Scenario(name, wires, about, play, model))

    def spelling(
        self,
        name: str,
        about: str,
        spell: Callable[[list[Event]], list[bytes]],
        wires: str = ALL,
        says: Says | None = None,
    ) -> None:
        """A scenario whose stream is whole and ends properly, but whose bytes are unusual; each item is a chunk."""

        async def act(peer: Peer) -> None:
            await peer.head()
            for piece in spell(peer.script()):
                await peer.send(piece)
            await peer.end()

        self._scenarios.append(Scenario(name, wires, about, act, says or plain_answer))


def plain_answer(_: Ask) -> Answer:
    """What the model says when nothing else is asked of it."""
    return Answer(PIECES)


async def play(peer: Peer) -> None:
    """The whole answer, without a fault."""
    await peer.head()
    await peer.say(peer.script())
    await peer.end()


def echo_answer(ask: Ask) -> Answer:
    """What was asked, or what the tools returned, word by word."""
    said = "\n".join(ask.results) if ask.results else ask.text
    words = [word for word in said.replace(" ", " \0").split("\0") if word]
    return Answer(words or ["(nothing was said)"])


def tools_answer(ask: Ask) -> Answer:
    """A call of the first tool; with its result at hand, an answer that holds the result."""
    if ask.results:
        return Answer(["The tool ", "returned: ", *ask.results])
    if not ask.tools:
        return Answer(["No tool ", "was offered."])
    tool = ask.tools[0]
    return Answer(["Let me look. "], calls=[Call(tool.name, json.dumps(sample(tool.schema), ensure_ascii=False))])


def tools_twice_answer(ask: Ask) -> Answer:
    """Two rounds of one call each, the second once the first has returned; then an answer with the second's result."""
    if ask.rounds > 1:
        return Answer(["Both are done; ", "the second returned: ", *ask.results])
    if not ask.tools:
        return Answer(["No tool ", "was offered."])
    tool = ask.tools[min(ask.rounds, len(ask.tools) - 1)]
    said = "And once more. " if ask.rounds else "First this. "
    return Answer([said], calls=[Call(tool.name, json.dumps(sample(tool.schema), ensure_ascii=False))])


def sample(schema: Any, depth: int = 8) -> Any:
    """A value that fits most JSON schemas: the first or least that each allows, with the required properties only."""
    if not isinstance(schema, dict) or depth == 0:
        return {}
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    if "$ref" in schema:
        return {}
    for choices in ("enum", "anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(choices), list) and schema[choices]:
            first = schema[choices][0]
            return first if choices == "enum" else sample(first, depth - 1)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "array":
        return [sample(schema.get("items", {"type": "string"}), depth - 1)]
    if kind == "object":
        properties, required = schema.get("properties"), schema.get("required")
        known = properties if isinstance(properties, dict) else {}
        names = required if isinstance(required, list) else []
        return {str(name): sample(known.get(str(name)), depth - 1) for name in names}
    lowest = schema.get("minimum", 1)
    return {"string": "text", "integer": lowest, "number": lowest, "boolean": True, "null": None}.get(str(kind), {})


contents = Catalogue()
contents.answer("ok", "A whole answer; the connection stays open for the next request.", plain_answer)


@contents.add()
async def ok_slow(peer: Peer) -> None:
    """A whole answer, 150 ms between events."""
    await peer.head()
    first, *rest = peer.script()
    await peer.say([first])
    for event in rest:
        await peer.pause(0.15)
        await peer.say([event])
    await peer.end()


contents.answer("echo", "Answers with the newest text of the user, or with the newest tool results.", echo_answer)
contents.answer("tools", "Calls the first tool of the request; given its result, answers with it.", tools_answer)
contents.answer(
    "tools_twice",
    "Calls the first tool and, given its result, the second (or the first again); given that, answers with it.",
    tools_twice_answer,
)
contents.answer(
    "tools_parallel",
    "Two calls at once; their arguments come interleaved on O and R, one after the other on A, whole on G.",
    Answer(calls=CITIES),
)
contents.answer("tools_no_args", "A call without any arguments.", Answer(calls=[Call("now", "")]))
contents.answer(
    "tools_max_tokens",
    "Half the arguments of a call, then the end for length.",
    Answer(calls=[Call("get_weather", '{"city": "北')], end="length"),
    "AOR",
)
contents.answer(
    "thinking",
    "Thoughts, then text: thinking and signature (A), reasoning_content (O), summary (R), thought and signature (G).",
    Answer(PIECES, thought=THOUGHT),
)
contents.answer("max_tokens", "Two deltas, then the end for length.", Answer(PIECES[:2], end="length"))
contents.answer(
    "filter",
    "Two deltas, then the end by a filter: refusal (A), content_filter (O, R), SAFETY (G).",
    Answer(PIECES[:2], end="filter"),
)
contents.answer(
    "refusal",
    "The model declines, in its own fields where the wire has them.",
    Answer(refusal=["I cannot ", "help."]),
    "AOR",
)


@contents.add("G", any_body=True)
async def blocked(peer: Peer) -> None:
    """The prompt is refused: promptFeedback and no candidate."""
    reply = blocked_prompt(peer.ask, peer.ids)
    if not peer.ask.stream:
        await peer.json(200, reply)
        return
    await peer.head()
    await peer.say([Event("finish", reply)])
    await peer.end()


def _many(_: Ask) -> Answer:
    return Answer([f"{number} " for number in range(10_000)])


contents.answer("burst_10k", "10,000 deltas, as fast as the client takes them.", _many)


@contents.add()
async def keepalive(peer: Peer) -> None:
    """A whole answer; the head says for how long the connection may be used again."""
    await peer.head(headers={"connection": "keep-alive", "keep-alive": "timeout=60"})
    await peer.say(peer.script())
    await peer.end()
