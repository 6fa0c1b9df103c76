"""Which adapter can do what: the table in docs/reference/agents.md, written from the tests that showed it.

`@pytest.mark.shows(ADAPTER, CAPABILITY, ...)` says that a test shows these cells. `--write-capabilities` writes the
rows whose tests ran, with a cell for what passed; the other environment's rows stay. In every run, a cell whose test
passed and which the table lacks fails the run; `test_capabilities.py` compares the table with all marks.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "agents.md"
ADAPTERS = (
    "pydantic-ai",
    "Claude Agent SDK",
    "OpenAI Agents SDK",
    "LangGraph",
    "AI SDK stream",
    "OpenAI-compatible chat",
    "plain generator",
)
CAPABILITIES = (
    "text",
    "reasoning",
    "tools",
    "parallel tools",
    "files",
    "usage",
    "stop",
    "errors",
    "resume",
    "approvals",
)
ABOUT = "shows(adapter, *capabilities): this test shows that the adapter can do this; docs/reference/agents.md tells"

_TABLE = re.compile(r"(<!-- capabilities: begin[^>]*-->\n)(.*?)(<!-- capabilities: end -->)", re.DOTALL)
_PROPERTY = "shows"

Cell = tuple[str, str]


class Mark(NamedTuple):
    """A mark in a test's source: its file, and the cell that it claims."""

    file: str
    cell: Cell


class WrongMark(ValueError):
    """A mark names an adapter or a capability that the table does not have."""


def cells_of(arguments: tuple[object, ...]) -> list[Cell]:
    """The cells that a mark with these arguments claims. Raises `WrongMark`."""
    adapter, *found = map(str, arguments)
    wrong = [name for name in found if name not in CAPABILITIES]
    if adapter not in ADAPTERS or wrong or not found:
        raise WrongMark(f"shows{arguments}: write shows(ADAPTER, CAPABILITY, ...) with names of tests/capabilities.py")
    return [(adapter, name) for name in found]


def marked(folder: Path) -> Iterator[Mark]:
    """Every mark in the tests of a folder, read from their source, so that no test's library has to be there."""
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.shows":
                values = tuple(ast.literal_eval(argument) for argument in node.args)
                yield from (Mark(path.name, cell) for cell in cells_of(values))


def claimed(page: str) -> set[Cell]:
    """The cells that the page's table says yes to."""
    return {cell for row in _rows(page).values() for cell in row}


def missing(page: str) -> set[Cell]:
    """The cells that the page's table says no to."""
    return {(adapter, name) for adapter in ADAPTERS for name in CAPABILITIES} - claimed(page)


def written(page: str, shown: dict[str, set[Cell]]) -> str:
    """The page with the rows of the adapters in `shown` anew. Raises `ValueError` for a page without a table."""
    rows = {**_rows(page), **shown}
    lines = [
        "| | " + " | ".join(CAPABILITIES) + " |",
        "| --- |" + " --- |" * len(CAPABILITIES),
    ]
    for adapter in ADAPTERS:
        said = ["yes" if (adapter, name) in rows.get(adapter, ()) else "no" for name in CAPABILITIES]
        lines.append(f"| {adapter} | " + " | ".join(said) + " |")
    table = "\n".join(lines)
    return _TABLE.sub(lambda found: f"{found[1]}{table}\n{found[3]}", page)


def _rows(page: str) -> dict[str, set[Cell]]:
    found = _TABLE.search(page)
    if found is None:
        raise ValueError(f"{PAGE.name} has no table between its two comments `capabilities: begin` and `: end`")
    rows = {}
    for line in found[2].splitlines():
        adapter, *said = [cell.strip() for cell in line.strip("|").split("|")]
        if adapter in ADAPTERS:
            rows[adapter] = {(adapter, name) for name, word in zip(CAPABILITIES, said, strict=True) if word == "yes"}
    return rows


class Plugin:
    """Gathers what passing tests show, also from the workers of xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self._write = bool(config.getoption("--write-capabilities"))
        self._passed: set[Cell] = set()
        self._failed: set[Cell] = set()
        self._told: list[str] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            cells = [cell for mark in item.iter_markers("shows") for cell in cells_of(mark.args)]
            if cells:
                # Properties are what a report carries from a worker of xdist to its controller.
                item.user_properties.append((_PROPERTY, cells))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: list[tuple[str, Any]] = list(report.user_properties)
        found = {(adapter, name) for key, cells in properties if key == _PROPERTY for adapter, name in cells}
        if report.failed:
            self._failed |= found
        elif report.when == "call" and report.passed:
            self._passed |= found

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        shown = self._passed - self._failed
        page = PAGE.read_text(encoding="utf-8")
        if self._write:
            rows = {
                adapter: {cell for cell in shown if cell[0] == adapter} for adapter, _ in self._passed | self._failed
            }
            PAGE.write_text(written(page, rows), encoding="utf-8")
            self._told = [f"wrote to {PAGE.name}: {', '.join(sorted(rows)) or 'nothing'}"]
        elif lost := shown - claimed(page):
            names = ", ".join(f"{adapter}: {name}" for adapter, name in sorted(lost))
            self._told = [f"{PAGE.name} does not have {names}, which a test showed; run `make capabilities`"]
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in self._told:
            terminalreporter.write_line(line)
