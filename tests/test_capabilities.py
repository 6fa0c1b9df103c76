"""The table of what each adapter can do: it says what the tests are marked to show, no more and no less."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests import capabilities
from tests.capabilities import (
    ADAPTERS,
    CAPABILITIES,
    PAGE,
    Plugin,
    WrongMark,
    cells_of,
    claimed,
    marked,
    missing,
    written,
)

TESTS = Path(__file__).parent
MARKS = list(marked(TESTS))


def test_the_table_says_what_the_tests_are_marked_to_show() -> None:
    shown = {mark.cell for mark in MARKS}
    page = claimed(PAGE.read_text(encoding="utf-8"))
    assert sorted(shown - page) == [], "a test shows what the table lacks: run `make capabilities`"
    assert sorted(page - shown) == [], "no test is marked to show what the table says: run `make capabilities`"


def test_the_table_is_as_it_would_be_written() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, {}) == page


def test_one_environment_shows_all_of_an_adapter() -> None:
    """Whoever writes a row must know all of it."""
    for adapter in ADAPTERS:
        homes = {mark.file.startswith("test_frameworks_") for mark in MARKS if mark.cell[0] == adapter}
        assert len(homes) == 1, adapter


def test_every_no_is_explained_and_nothing_else_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    reasons = page.partition("## Why some adapters cannot do something")[2]
    explained = {
        (adapter, name.strip())
        for adapter, names in re.findall(r"(?m)^- \*\*([^:*]+): ([^*]+)\*\*", reasons)
        for name in names.split(",")
    }
    assert explained == missing(page)


def test_every_capability_is_defined() -> None:
    page = PAGE.read_text(encoding="utf-8")
    defined = page.partition("## What each capability of an adapter means")[2]
    assert [name for name in CAPABILITIES if f"| {name} | " not in defined] == []


def test_a_row_is_written_anew_and_others_stay() -> None:
    page = "before\n<!-- capabilities: begin (x) -->\n<!-- capabilities: end -->\nafter\n"
    first = written(page, {"LangGraph": {("LangGraph", "text"), ("LangGraph", "stop")}})
    assert claimed(first) == {("LangGraph", "text"), ("LangGraph", "stop")}
    second = written(first, {"plain generator": {("plain generator", "text")}})
    assert claimed(second) == claimed(first) | {("plain generator", "text")}
    third = written(second, {"LangGraph": {("LangGraph", "stop")}})
    assert claimed(third) == {("LangGraph", "stop"), ("plain generator", "text")}
    assert third.startswith("before\n")
    assert third.endswith("after\n")
    with pytest.raises(ValueError, match="has no table"):
        written("no table", {})


def test_marks_in_sources_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text(
        "import pytest\n"
        "@pytest.mark.shows('LangGraph', 'text')\n"
        "@pytest.mark.parametrize('a', [pytest.param(1, marks=pytest.mark.shows('pydantic-ai', 'stop', 'tools'))])\n"
        "def test_a(a): ...\n"
    )
    assert {mark.cell for mark in marked(tmp_path)} == {
        ("LangGraph", "text"), ("pydantic-ai", "stop"), ("pydantic-ai", "tools"),
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [("LangGraph",), ("LangChain", "text"), ("LangGraph", "speed")])
def test_a_mark_that_names_nothing_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(WrongMark, match=r"tests/capabilities\.py"):
        cells_of(arguments)


def ended(write: bool, **outcomes: Any) -> int:
    """How a run ends in which each capability of LangGraph was shown by tests with these outcomes."""
    plugin = Plugin(cast(pytest.Config, SimpleNamespace(getoption=lambda _: write)))
    for name, found in outcomes.items():
        for outcome in found:
            # As it comes from a worker of xdist.
            properties: Any = [["shows", [["LangGraph", name]]]]
            report = pytest.TestReport("t", ("t", 0, "t"), {}, outcome, None, "call", user_properties=properties)
            plugin.pytest_runtest_logreport(report)
    session: Any = SimpleNamespace(config=SimpleNamespace(), exitstatus=0)
    plugin.pytest_sessionfinish(session)
    return int(session.exitstatus)


def test_a_run_writes_what_passed_and_fails_for_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "agents.md"
    monkeypatch.setattr(capabilities, "PAGE", page)
    page.write_text("<!-- capabilities: begin -->\n<!-- capabilities: end -->\n")
    assert ended(write=False, text=["passed"]) == pytest.ExitCode.TESTS_FAILED
    assert ended(write=False, text=["failed"], stop=["skipped"]) == 0
    assert ended(write=True, text=["passed"], stop=["passed", "failed"]) == 0
    assert claimed(page.read_text()) == {("LangGraph", "text")}
    assert ended(write=False, text=["passed"], stop=["failed"]) == 0
