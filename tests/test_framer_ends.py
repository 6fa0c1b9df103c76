"""How turns begin and end, also those whose process died."""

from __future__ import annotations

import pytest

from tests.agent_events import call, result, speak, wire
from tests.strict_client import StrictClient
from turnwire import events as e
from turnwire.framer import Framer, Outcome, resume_framer
from turnwire.view import fold

ENDINGS: dict[Outcome, tuple[str, list[str]]] = {
    "done": ("stop", []),
    "waiting": ("tool-calls", []),
    "stopped": ("other", ["abort"]),
    "failed": ("error", ["message-metadata", "error"]),
    "interrupted": ("error", ["message-metadata", "error"]),
}


@pytest.mark.parametrize("outcome", ENDINGS)
def test_every_end_closes_what_is_open(outcome: Outcome) -> None:
    finish_reason, extra = ENDINGS[outcome]
    events = [call("a"), e.ToolInput("b", "search", '{"q'), result("c", 3), "text", e.Usage(finish_reason="stop")]
    for cut in range(len(events) + 1):
        spoken = speak(events[:cut], outcome, reason="it had to be\0")
        client = StrictClient("7").feed_all(wire(spoken.chunks))
        client.end()
        assert client.finish_reason == finish_reason
        ending = wire(spoken.groups[-1])
        assert [event["type"] for event in ending][-2 - len(extra) :] == ["finish-step", *extra, "finish"]
        assert ending[-1]["messageMetadata"] == {"turnwire": {"outcome": outcome}}
        said = ending[-2].get("reason") or ending[-2].get("errorText")
        assert said == ("it had to be" if extra else None)
        assert spoken.framer.open_tools == 0


@pytest.mark.parametrize(
    ("outcome", "text"), [("failed", "The turn failed."), ("interrupted", "The turn was interrupted.")]
)
def test_an_end_without_a_reason_still_says_what_happened(outcome: Outcome, text: str) -> None:
    assert StrictClient("7").feed_all(wire(speak([], outcome).chunks)).error == text


def test_an_agent_that_never_started_still_ends() -> None:
    chunks = Framer("msg_1").finish("failed", reason="no model")
    assert [event["type"] for event in wire(chunks)] == ["start", "error", "finish"]
    StrictClient("7").feed_all(wire(chunks)).end()


def test_the_end_comes_once_and_last() -> None:
    spoken = speak(["a"])
    assert spoken.framer.ended
    assert spoken.framer.finish("failed") == []
    with pytest.raises(e.AgentEventError, match="the turn has ended"):
        spoken.framer.feed("b")


def test_an_end_that_cannot_be_written_changes_nothing() -> None:
    framer = Framer("msg_1")
    chunks = framer.start() + framer.feed("a")
    with pytest.raises(ValueError, match="metadata of the finish cannot be written as JSON: object has no JSON form"):
        framer.finish("failed", metadata={"turnwire": object()})
    with pytest.raises(ValueError, match="outcome must be one of done"):
        framer.finish("lost")  # type: ignore[arg-type]
    chunks += framer.finish("failed")
    StrictClient("7").feed_all(wire(chunks)).end()


def test_events_need_a_start_and_a_turn_has_one() -> None:
    framer = Framer("msg_1")
    with pytest.raises(RuntimeError, match="after start"):
        framer.feed("a")
    framer.start()
    with pytest.raises(RuntimeError, match="started already"):
        framer.start()


def test_a_resumed_turn_can_only_be_finished() -> None:
    spoken = speak(["a", call("t")], None)
    framer = resume_framer(fold(spoken.chunks))
    assert framer.open_tools == 1
    with pytest.raises(RuntimeError, match="only from the framer that started it"):
        framer.feed("b")
    with pytest.raises(RuntimeError, match="started already"):
        framer.start()
    client = StrictClient("7").feed_all(wire(spoken.chunks + framer.finish("interrupted")))
    assert client.end()["parts"][-1]["errorText"] == "The turn was interrupted before the tool answered."


def test_a_turn_of_which_nothing_was_stored_can_be_finished() -> None:
    chunks = resume_framer(fold([]), "msg_1").finish("interrupted")
    assert StrictClient("7").feed_all(wire(chunks)).end()["id"] == "msg_1"
