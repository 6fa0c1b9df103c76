"""Traces: what is written, what is left out, and that they show the same chat when they are played again."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.feishu_traces import SCENARIOS, acts, play, seen, stored
from turnwire.channels.feishu.channel import FeishuChannel
from turnwire.channels.feishu.settings import App
from turnwire.delivery import traces
from turnwire.delivery.outcomes import CONFIRMED, refused, unknown
from turnwire.delivery.traces import Entry, Recorder, TraceFolder, read_trace, replay, shape
from turnwire.sim.feishu import FeishuSim
from turnwire.sim.feishu_replay import replay as replay_on
from turnwire.testing import FakeClock, MemoryStore

pytestmark = pytest.mark.anyio

NAMES = list(SCENARIOS)


def kept(name: str) -> tuple[list[Entry], str]:
    lines, chat = stored(name)
    return read_trace(lines.read_bytes().splitlines()), chat.read_text(encoding="utf-8")


# The named scenarios


@pytest.mark.parametrize("name", NAMES)
async def test_a_trace_that_is_played_again_shows_the_same_chat(name: str) -> None:
    trace, chat = kept(name)
    clock = FakeClock(rounds=10)
    sim = FeishuSim(clock=clock)
    sim.people.say(sim.group, "so that ids are others")
    await replay_on(trace, sim, clock.advance)
    again = seen(sim.view(sim.p2p()))
    assert _without_keys(again) == _without_keys(chat)
    assert "streaming" not in chat
    sim.events.close()


def _without_keys(chat: str) -> str:
    return re.sub(r"img_v3_\w+", "img", chat)


@pytest.mark.parametrize("name", NAMES)
async def test_the_same_turn_makes_the_same_trace(name: str, store: MemoryStore) -> None:
    """If this fails because you changed what is called, write the traces anew and look at the difference."""
    trace, chat = await play(name, store)
    right, right_chat = kept(name)
    assert acts(trace) == acts(right)
    assert _without_keys(chat) == _without_keys(right_chat)


def test_every_scenario_has_its_trace_and_none_holds_a_secret() -> None:
    assert {path.stem for path in stored("x")[0].parent.iterdir()} == set(NAMES)
    for name in NAMES:
        lines, _ = stored(name)
        assert not re.search(r"cli_sim|sim-secret|t-[0-9a-f]{8}|Bearer", lines.read_text())


# What is written


def recorded(*secrets: str) -> tuple[Recorder, list[Entry], FakeClock]:
    entries, clock = list[Entry](), FakeClock()
    return Recorder(entries.append, clock, secrets=secrets), entries, clock


async def test_a_call_and_its_answer_belong_together() -> None:
    recorder, entries, clock = recorded()
    number = recorder.call("PUT", "/cards/71/elements/main/content", {"content": "Hi", "sequence": 3})
    await clock.advance(0.5)
    recorder.answer(number, refused("busy", "too many calls"), 99, {"msg": "slow down"})
    assert [(one.seq, one.at, one.dir, one.kind) for one in entries] == [
        (0, 0.0, "out", "PUT /cards/:id/elements/main/content"),
        (1, 0.5, "in", "refused"),
    ]
    assert entries[0].data["body"] == {"content": "Hi", "sequence": 3}
    assert entries[1].data == {"to": 0, "code": 99, "data": {"msg": "slow down"}, "reason": "too many calls"}


def test_secrets_are_left_out_wherever_they_stand() -> None:
    recorder, entries, _ = recorded("cli_a1b2", "s3cret", "")
    recorder.event("message", {"header": {"token": "verify-me", "app_id": "cli_a1b2"}, "text": "cli_a1b2 says s3cret"})
    recorder.call("POST", "/x/s3cret", {"deep": [{"Authorization": "Bearer t-1", "note": "s3cret!"}]}, form={"a": "b"})
    text = msgspec.json.encode(entries).decode()
    assert not re.search(r"cli_a1b2|s3cret|verify-me|t-1", text)
    assert entries[0].data["text"] == "*** says ***"


def test_small_files_are_kept_and_large_ones_named() -> None:
    recorder, entries, _ = recorded()
    large = b"x" * (traces.KEPT_FILE_BYTES + 1)
    recorder.call("POST", "/f", files={"file": ("a.txt", b"abc", "text/plain"), "big": ("b.txt", large, "text/plain")})
    files = entries[0].data["files"]
    assert base64.b64decode(files["file"]["content"]) == b"abc"
    assert files["big"].keys() == {"name", "mediaType", "size", "sha256"}


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/im/v1/messages/om_12ab/reply", "/im/v1/messages/:id/reply"),
        ("/cardkit/v1/cards", "/cardkit/v1/cards"),
        ("/bot/v3/info", "/bot/v3/info"),
    ],
)
def test_kinds_hold_no_ids(path: str, kind: str) -> None:
    assert shape(path) == kind


# Files


def test_files_are_bounded_and_only_for_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "FILE_BYTES", 400)
    monkeypatch.setattr(traces, "FILES", 3)
    folder = tmp_path / "made"
    recorder = Recorder(TraceFolder(folder, "feishu.main", FakeClock()), FakeClock())
    for number in range(40):
        recorder.event("note", {"text": f"number {number}"})
    paths = sorted(folder.iterdir())
    assert len(paths) == 3
    assert all(path.stat().st_size <= 400 for path in paths)
    assert {path.stat().st_mode & 0o077 for path in paths} == {0}
    assert folder.stat().st_mode & 0o077 == 0
    entries = [entry for path in paths for entry in read_trace(path.read_bytes().splitlines())]
    assert [entry.seq for entry in entries] == list(range(40 - len(entries), 40))


def test_a_trace_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    recorder = Recorder(TraceFolder(tmp_path / "file", "feishu.main", FakeClock()), FakeClock())
    assert [recorder.call("GET", "/a"), recorder.call("GET", "/b")] == [0, 1]
    recorder.answer(0, CONFIRMED, 0, {})


def test_a_line_that_is_no_entry_is_named() -> None:
    line = msgspec.json.encode(Entry(0, 0.0, "in", "event", {}))
    assert len(read_trace([line, b"", line])) == 2
    with pytest.raises(ValueError, match="line 2 is no entry of a trace"):
        read_trace([line, b"{}"])


async def test_an_app_with_a_folder_writes_what_it_hears_and_does(tmp_path: Path) -> None:
    async with FeishuSim() as sim:
        app = App(name="main", app_id=sim.app_id, app_secret=sim.app_secret, base_url=sim.base_url,
                  trace=str(tmp_path / "traces"))  # fmt: skip
        channel = FeishuChannel(app, clock=FakeClock())
        await channel.take({"schema": "2.0", "header": {"event_type": "nobody.cares_v1", "token": "vt"}, "event": {}})
        await channel.wire.call("get", "GET", "/bot/v3/info")
        await channel.close()
    [path] = (tmp_path / "traces").iterdir()
    assert path.name.startswith("feishu.main-")
    entries = read_trace(path.read_bytes().splitlines())
    assert [entry.kind for entry in entries] == ["event nobody.cares_v1", "GET /bot/v3/info", "confirmed"]
    assert "Sim bot" in path.read_text()
    assert not re.search(f"{sim.app_id}|{sim.app_secret}|Bearer|vt", path.read_text())


# Playing again


class Elsewhere:
    """A place where things are called `new-...`."""

    def __init__(self) -> None:
        self.did: list[Any] = []

    async def pass_time(self, seconds: float) -> None:
        self.did.append(round(seconds, 3))

    async def event(self, kind: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
        self.did.append(kind)
        return {"message": "new-message"}

    async def call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        self.did.append((call["path"], call.get("body")))
        return {"card": "new-card", "size": 1}


async def test_names_are_learned_refused_calls_left_out_and_unknown_ones_made() -> None:
    recorder, entries, clock = recorded()
    recorder.event("asked", {"message": "old-message", "text": "hi"})
    await clock.advance(2.0)
    recorder.answer(recorder.call("POST", "/cards"), CONFIRMED, 0, {"card": "old-card", "size": 5})
    recorder.answer(recorder.call("PUT", "/cards/old-card", {"n": 1}), refused("busy", "no"), 9, {})
    recorder.answer(recorder.call("PUT", "/cards/old-card", {"n": 2}), unknown("lost"), None, {})
    recorder.call("POST", "/reply", {"to": "old-message", "content": '{"card": "old-card"}'})
    place = Elsewhere()
    await replay(entries, place)
    assert place.did == [
        "asked",
        2.0,
        ("/cards", None),
        ("/cards/new-card", {"n": 2}),
        ("/reply", {"to": "new-message", "content": '{"card": "new-card"}'}),
    ]
