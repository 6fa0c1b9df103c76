"""`python -m bench [NAME ...] [--quick] [--json FILE]`: runs benches one after another and prints one table."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from . import append, delta, fanout, feishu, first, guard, live, replay, upstream
from .report import Row, machine, remarks, table

BENCHES: dict[str, Callable[[bool], list[Row]]] = {
    module.NAME: module.run for module in (append, delta, fanout, first, replay, live, feishu, guard, upstream)
}
QUICK = "quick: few turns for few seconds, to try the benches; these numbers are not to be judged."


def main() -> int:
    """Runs what was asked for; 1 if something missed its budget (never with `--quick`)."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What Turnwire costs, against its budgets.")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"which: {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few seconds each, to try them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(BENCHES)):
        parser.error(f"there is no bench {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    if sys.platform != "linux":
        parser.error("the benches read other processes' clocks and memory as Linux shows them; run them there")
    about = machine()
    rows: list[Row] = []
    for name in asked.names or BENCHES:
        began = time.monotonic()
        print(f"{name} ...", end=" ", file=sys.stderr, flush=True)
        rows += BENCHES[name](asked.quick)
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if asked.quick:
        print(QUICK)
    print(f"\n{table(rows)}\n\n{remarks(rows)}")
    if asked.json is not None:
        found = [{**msgspec.to_builtins(row), "verdict": row.verdict} for row in rows]
        asked.json.write_bytes(msgspec.json.encode({"machine": about, "quick": asked.quick, "rows": found}) + b"\n")
    return int(not asked.quick and any(row.verdict == "missed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
