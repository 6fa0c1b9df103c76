"""G3 for whatever an agent does: random events, in any order, ended in any way, at any point."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent_events import (
    Spoken,
    answers,
    any_event,
    broken_events,
    few,
    outcomes,
    refold,
    speak,
    speak_on,
    talk,
    turns,
    wire,
)
from tests.strict_client import StrictClient, comparable
from turnwire import events as e
from turnwire._checks import FIELDS
from turnwire.framer import Framer, Outcome, resume_framer
from turnwire.view import View, fold, replay, to_message


@given(turns())
def test_every_client_accepts_what_the_framer_emits(spoken: Spoken) -> None:
    message = StrictClient("7").feed_all(wire(spoken.chunks)).end()
    assert comparable(message) == to_message(spoken.framer.view)


@given(turns())
def test_the_view_is_the_fold_of_what_was_returned(spoken: Spoken) -> None:
    view = spoken.framer.view
    refolded = fold(spoken.chunks)
    assert to_message(refolded) == to_message(view)
    assert (refolded.count, refolded.step_open, refolded.error) == (view.count, view.step_open, view.error)
    assert (refolded.finish, refolded.aborted) == (view.finish, view.aborted)


@given(turns(st.one_of(any_event, broken_events)))
def test_what_is_refused_changes_nothing(spoken: Spoken) -> None:
    message = StrictClient("7").feed_all(wire(spoken.chunks)).end()
    assert comparable(message) == to_message(spoken.framer.view)


@given(st.lists(any_event, max_size=8), broken_events)
def test_what_is_invalid_is_refused_wherever_it_comes(events: list[Any], broken: Any) -> None:
    framer = speak(events, None).framer
    before = to_message(framer.view), framer.view.count, dict(framer.usage), framer.open_tools
    with pytest.raises(e.AgentEventError):
        framer.feed(broken)
    assert (to_message(framer.view), framer.view.count, dict(framer.usage), framer.open_tools) == before


@few
@given(st.lists(any_event, max_size=15), outcomes)
def test_a_turn_can_end_after_every_record(events: list[Any], outcome: Outcome) -> None:
    chunks = speak(events, outcome).chunks
    for cut in range(len(chunks) + 1):
        ending = resume_framer(fold(chunks[:cut]), "msg_1").finish("interrupted", reason="the process died")
        assert bool(ending) == (cut < len(chunks))
        message = StrictClient("7").feed_all(wire(chunks[:cut] + ending)).end()
        assert comparable(message) == to_message(fold(chunks[:cut] + ending))


@given(st.lists(any_event, max_size=20))
def test_open_tools_are_those_that_owe_an_answer(events: list[Any]) -> None:
    framer = Framer("msg_1")
    framer.start()
    for event in events:
        try:
            framer.feed(event)
        except e.AgentEventError:
            continue
        assert framer.open_tools == _open_tools(framer.view)
    framer.finish("done")
    assert framer.open_tools == _open_tools(framer.view) == 0


@given(st.data(), st.lists(any_event, max_size=10), st.lists(any_event, max_size=10), outcomes)
def test_a_turn_goes_on_with_the_message_of_the_turn_that_asked(
    data: st.DataObject, before: list[Any], after: list[Any], outcome: Outcome
) -> None:
    first = speak(before, "waiting")
    held = StrictClient("7").feed_all(wire(first.chunks)).end()
    said = data.draw(answers(first.framer.view))
    second = speak_on(first.chunks, said, after, outcome)
    message = StrictClient("7", held).feed_all(wire(second.chunks)).end()
    view = second.framer.view
    assert comparable(message) == to_message(view)
    for refused in (one for one in said if not one.approved):
        (part,) = (part for part in message["parts"] if part.get("approval", {}).get("id") == refused.approval_id)
        assert part["state"] == "output-denied"
    for cut in range(1, len(second.chunks) + 1):
        rest = second.chunks[cut:]
        so_far = fold(second.chunks[:cut], refold(first.chunks))
        again = StrictClient("7", held).feed_all(wire(replay(so_far)))
        assert comparable(again.message()) == to_message(so_far)
        if so_far.finish is None:
            assert comparable(again.feed_all(wire(rest)).end()) == to_message(view)


@few
@given(st.data(), st.lists(any_event, max_size=10), st.lists(any_event, max_size=8))
def test_a_turn_that_goes_on_can_end_after_every_record(
    data: st.DataObject, before: list[Any], after: list[Any]
) -> None:
    first = speak(before, "waiting")
    held = StrictClient("7").feed_all(wire(first.chunks)).end()
    chunks = speak_on(first.chunks, data.draw(answers(first.framer.view)), after).chunks
    for cut in range(len(chunks)):
        view = fold(chunks[:cut], refold(first.chunks))
        ending = resume_framer(view, "msg_1").finish("interrupted", reason="the process died")
        message = StrictClient("7", held).feed_all(wire(chunks[:cut] + ending)).end()
        assert comparable(message) == to_message(view)


def _open_tools(view: View) -> int:
    final = ("output-available", "output-error", "output-denied")
    tools = [part for part in to_message(view)["parts"] if "toolCallId" in part]
    return sum(part["state"] not in final or part.get("preliminary", False) for part in tools)


@given(st.lists(talk, max_size=12))
def test_text_is_what_a_tiny_model_says(events: list[Any]) -> None:
    spoken = speak(events)
    model = _Model()
    for event in events:
        model.hear(event)
    assert not spoken.refused
    assert spoken.framer.view.text() == model.text()


@dataclass(eq=False)
class _Said:
    text: str
    reasoning: bool


class _Model:
    """The answer as a list of what was said: deltas extend the last, a snapshot replaces one at the end."""

    def __init__(self) -> None:
        self.said: list[_Said] = []
        self.open: _Said | None = None
        self.named: dict[str | None, _Said] = {}
        self.emptied = False

    def hear(self, event: Any) -> None:
        text = (event if isinstance(event, str) else event.text).replace("\0", "")
        if isinstance(event, e.Snapshot):
            self.replace(text, event.part)
        elif text or getattr(event, "metadata", None):
            reasoning = isinstance(event, e.Reasoning)
            if self.open is None or self.open.reasoning != reasoning:
                self.add("", reasoning)
            self.said[-1].text += text

    def replace(self, text: str, name: str | None) -> None:
        answers = [said for said in self.said if not said.reasoning]
        old = self.named.get(name) if name else (answers[-1] if answers and not self.emptied else None)
        names = [name] if old is None else [known for known, said in self.named.items() if said is old]
        if old is not None:
            if old is not self.open and _clean(old.text) == _clean(text):
                return
            self.said = [said for said in self.said if said is not old]
            self.named = {known: said for known, said in self.named.items() if said is not old}
            self.open, self.emptied = None, not text
        if text:
            self.named |= dict.fromkeys(names, self.add(text, False))

    def add(self, text: str, reasoning: bool) -> _Said:
        self.open = _Said(text, reasoning)
        self.said.append(self.open)
        self.emptied = self.emptied and reasoning
        return self.open

    def text(self) -> str:
        return "\n\n".join(_clean(said.text) for said in self.said if not said.reasoning and said.text)


def _clean(text: str) -> str:
    joined = re.sub(
        "[\ud800-\udbff][\udc00-\udfff]",
        lambda pair: chr(0x10000 + (ord(pair[0][0]) - 0xD800) * 0x400 + ord(pair[0][1]) - 0xDC00),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", joined)


def test_every_field_of_every_event_is_checked() -> None:
    assert {kind: set(checks) for kind, checks in FIELDS.items()} == {
        kind: set(kind.__struct_fields__) for kind in e.Event.__subclasses__()
    }
