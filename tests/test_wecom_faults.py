"""What can go wrong between a turn and a WeCom chat, each by its name: what people see of it in the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wecom_stage import Play
from turnwire import Snapshot, ToolCall, ToolResult
from turnwire.channels.wecom.words import OWN
from turnwire.channels.words import EN
from turnwire.sim.wecom import Fault, Switches
from turnwire.testing import Attach, End, MemoryStore, Pause

pytestmark = pytest.mark.anyio

SAID = ["Hello ", Pause(1.0), "to all ", Pause(1.0), "of you."]
WHOLE = "Hello to all of you."


async def play(
    store: MemoryStore, script: list[Any], *faults: Fault, how: dict[str, Any] | None = None, **said: Any
) -> Play:
    """One turn."""
    return await Play(store, faults=faults, switches=Switches(**said), how=how).run(script)


def texts(done: Play) -> list[str]:
    """What the bot's messages say."""
    return [message.text for message in done.said]


async def test_a_turn_is_one_bubble_that_ends(store: MemoryStore) -> None:
    done = await play(store, SAID)
    [bubble] = done.said
    assert (bubble.text, bubble.state, bubble.via) == (WHOLE, "finished", "reply")
    assert done.sim.hopeless == []


async def test_thoughts_stand_apart_and_calls_are_told(store: MemoryStore) -> None:
    from turnwire import Reasoning

    script = [Reasoning("Let me think."), ToolCall(id="t", name="search", input={"q": "rain"}), Pause(5.0),
              ToolResult(id="t", output="wet"), "It rains."]  # fmt: skip
    done = await play(store, script)
    [bubble] = done.said
    assert bubble.thinking == "Let me think."
    assert bubble.text.startswith("It rains.")
    assert "✅ search" in bubble.text
    frames = [change.text for change in done.sim.changes(bubble.message_id)]
    assert any("Running search" in frame for frame in frames)


async def test_files_come_before_the_end_each_once(store: MemoryStore) -> None:
    done = await play(store, ["See ", Attach("a.txt"), Attach("b.txt"), "both."])
    assert done.files == ["a.txt", "b.txt"]
    assert done.sim.view("alice").vanished == []
    finish = next(call for call in done.sim.calls if call.op == "finish")
    assert all((call.ended_at or 0.0) <= finish.at for call in done.sim.calls if call.op == "push")
    assert texts(done) == ["See \n\nboth."]


@pytest.mark.parametrize("after", ["refuse", "accept"])
async def test_a_bubble_that_dies_while_it_is_written_is_followed_by_the_whole_answer(
    store: MemoryStore, after: Any
) -> None:
    done = await play(store, SAID, Fault("stream", "expire_stream", nth=2), stream_after_expiry=after)
    assert done.said[0].state == "expired"
    assert EN.repeat in done.said[-1].text
    assert done.said[-1].text.endswith(WHOLE)
    assert len(done.said) == 2
    assert done.row.outcome == "shown"


async def test_a_bubble_that_dies_before_its_end_is_followed_by_a_message(store: MemoryStore) -> None:
    done = await play(store, SAID, Fault("finish", "expire_stream"))
    assert [message.via for message in done.said] == ["reply", "push"]
    assert EN.repeat in done.said[-1].text
    assert done.said[-1].text.endswith(WHOLE)


@pytest.mark.parametrize("op", ["stream", "finish"])
@pytest.mark.parametrize("kind", ["lost", "ack_lost", "ack_late"])
async def test_answers_that_are_lost_or_late_double_nothing(store: MemoryStore, op: str, kind: str) -> None:
    done = await play(store, SAID, Fault(op, kind, seconds=7.0))
    assert texts(done) == [WHOLE]
    assert done.said[0].state == "finished"


async def test_a_message_whose_answer_is_lost_is_sent_once_more_and_marked(store: MemoryStore) -> None:
    faults = [Fault("stream", "refuse", code=846605, count=0), Fault("finish", "refuse", code=846605, count=0)]
    done = await play(store, SAID, *faults, Fault("push", "ack_lost"))
    assert texts(done)[0] == WHOLE
    assert EN.repeat in texts(done)[1]
    assert len(done.said) == 2


async def test_a_file_whose_answer_is_lost_is_not_sent_again(store: MemoryStore) -> None:
    done = await play(store, ["See ", Attach("a.txt"), "it."], Fault("push", "ack_lost"))
    assert done.files == ["a.txt"]
    assert "a.txt may not have arrived" in texts(done)[0]
    assert done.row.outcome == "partly"


@pytest.mark.parametrize("op", ["stream", "finish"])
async def test_two_frames_that_met_are_no_failure(store: MemoryStore, op: str) -> None:
    done = await play(store, SAID, Fault(op, "refuse", code=6000, count=2))
    assert texts(done) == [WHOLE]


@pytest.mark.parametrize("op", ["stream", "finish"])
async def test_a_refusal_that_does_not_say_whose_it_is_ends_in_a_plainer_way(store: MemoryStore, op: str) -> None:
    done = await play(store, SAID, Fault(op, "orphan", count=0))
    assert done.said[-1].text.endswith(WHOLE)
    assert done.row.outcome == "shown"


@pytest.mark.parametrize("how", ["reset_before_applying", "reset_after_applying", "close_after_applying", "half_open"])
@pytest.mark.parametrize("op", ["stream", "finish"])
async def test_a_connection_that_is_lost_is_replaced(store: MemoryStore, op: str, how: str) -> None:
    done = await play(store, SAID, Fault(op, how, nth=1))
    assert texts(done) == [WHOLE]
    assert done.said[0].state == "finished"


async def test_too_many_messages_are_waited_for(store: MemoryStore) -> None:
    done = await play(store, SAID, Fault("stream", "refuse", code=45009), Fault("finish", "refuse", code=45009))
    assert texts(done) == [WHOLE]


async def test_frames_that_count_as_messages_do_not_keep_the_end_away(store: MemoryStore) -> None:
    script = [one for n in range(60) for one in (f"{n} ", Pause(1.0))]
    done = await play(store, script, rate_unit="frames")
    assert texts(done) == ["".join(f"{n} " for n in range(60)).strip()]


async def test_a_file_that_the_platform_refuses_fails_visibly(store: MemoryStore) -> None:
    done = await play(store, ["See ", Attach("a.txt"), "it."], Fault("upload_init", "refuse", code=40006))
    assert done.files == []
    assert "a.txt could not be sent" in texts(done)[0]
    assert texts(done)[0].startswith("See")
    assert done.row.outcome == "partly"


async def test_an_upload_that_breaks_off_is_begun_again(store: MemoryStore) -> None:
    done = await play(store, [Attach("a.txt"), "Here."], Fault("upload_chunk", "reset_before_applying"))
    assert done.files == ["a.txt"]
    assert texts(done) == ["Here."]


async def test_what_was_rewritten_after_it_was_closed_is_said_anew(store: MemoryStore) -> None:
    script = [Snapshot("Quite wrong.", part="a"), Pause(700.0), Snapshot("Rather right.", part="a"), Pause(1.0)]
    done = await play(store, script)
    assert texts(done)[0].startswith("Quite wrong.")
    assert texts(done)[-1] == f"{OWN['en'].corrected}\n\nRather right."


async def test_words_that_the_platform_does_not_let_through_are_said_to_be_so(store: MemoryStore) -> None:
    faults = [Fault("stream", "refuse", code=40201, count=0), Fault("finish", "refuse", code=40201, count=0)]
    done = await play(store, SAID, *faults, Fault("push", "refuse", code=40201))
    assert texts(done)[-1] == OWN["en"].withheld
    assert done.row.outcome == "partly"


@pytest.mark.parametrize(
    ("end", "words"),
    [(End("stopped"), EN.stopped), (End("failed", "It broke."), "It broke."), (End("interrupted"), EN.interrupted)],
)
async def test_an_end_that_is_none_is_said(store: MemoryStore, end: End, words: str) -> None:
    done = await play(store, ["Half a", Pause(1.0), end])
    [bubble] = done.said
    assert bubble.text.startswith("Half a")
    assert words in bubble.text
    assert bubble.state == "finished"


async def test_an_empty_answer_ends_visibly(store: MemoryStore) -> None:
    done = await play(store, [Pause(1.0)])
    [bubble] = done.said
    assert (bubble.text, bubble.state) == (f"**{EN.nothing}**", "finished")
