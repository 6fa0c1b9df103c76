"""What a bench found, and how it is shown.

Guarantee: a row says what was measured in the unit of its budget; its verdict follows from the two numbers alone.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured path.

    Attributes:
        path: what was measured.
        value: the result in `unit`; less is better.
        budget: the most it may be, or None for a row that only informs.
        baseline: the same work done plainly, in the same run and unit.
        about: how the number came about, in a few words.
        where: where the time goes, a line each.
    """

    path: str
    value: float
    unit: str
    budget: float | None = None
    baseline: float | None = None
    about: str = ""
    where: list[str] = []

    @property
    def verdict(self) -> str:
        if self.budget is None:
            return ""
        return "ok" if self.value <= self.budget else "missed"


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table that is also legible as it is."""
    cells = [("path", "measured", "budget", "verdict", "baseline", "ratio")]
    for row in rows:
        ratio = f"{row.value / row.baseline:.2f}" if row.baseline else ""
        cells.append(
            (
                row.path,
                _amount(row.value, row.unit),
                "" if row.budget is None else f"<= {_amount(row.budget, row.unit)}",
                row.verdict,
                "" if row.baseline is None else _amount(row.baseline, row.unit),
                ratio,
            )
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def remarks(rows: Sequence[Row]) -> str:
    """How each number came about and, for what missed its budget, where the time goes."""
    lines = []
    for row in rows:
        if row.about:
            lines.append(f"{row.path}: {row.about}.")
        if row.where and row.verdict == "missed":
            lines += [f"    {line}" for line in row.where]
    return "\n".join(lines)


def machine() -> dict[str, str | int | float]:
    """What the numbers depend on."""
    return {
        "cores": os.cpu_count() or 0,
        "cpu": _cpu_name(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]


def median(values: Sequence[float]) -> float:
    """The middle of the values."""
    return statistics.median(values)


def _amount(value: float, unit: str) -> str:
    digits = 2 if value < 10 and value != int(value) else 1 if value < 100 and value != int(value) else 0
    return f"{value:.{digits}f} {unit}".rstrip()


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
