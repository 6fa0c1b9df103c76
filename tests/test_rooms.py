"""The rooms stay apart: who may import whom, and where a platform may be named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "turnwire"
PLATFORMS = re.compile(r"feishu|lark|wecom", re.IGNORECASE)
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
PAGES = sorted(path.relative_to(SOURCE).as_posix() for path in (SOURCE / "sim").glob("*.html"))
# The configuration, the commands that start a simulator, and what the demo agent looks up in the documentation.
NAMED_IN = {"config.py", "channels/load.py", "demo.py", "sim/sim_cli.py", "agents/demo.py", "agents/docs_index.py"}


def simulated(module: str) -> str:
    """What a module of the simulators simulates, as a path or as a name; empty for what they share."""
    found = re.match(r"sim[/.]_?(feishu|wecom|model)", module)
    return found[1] if found else ""


def imported(module: str) -> Iterator[str]:
    """The modules of ours that a module imports, as paths from the package's root, also inside functions."""
    package = ["turnwire", *module.removesuffix(".py").split("/")[:-1]]
    for node in ast.walk(ast.parse((SOURCE / module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("turnwire.") for alias in node.names if "turnwire" in alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            if name.startswith("turnwire"):
                yield name.removeprefix("turnwire.")
                yield from (f"{name}.{alias.name}".removeprefix("turnwire.") for alias in node.names)


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("sim/")])
def test_simulators_know_nothing_of_channels(module: str) -> None:
    assert [name for name in imported(module) if name.startswith("channels")] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("sim/")])
def test_a_simulator_imports_no_other_and_what_they_share_imports_none(module: str) -> None:
    if module == "sim/sim_cli.py":
        return
    assert [name for name in imported(module) if simulated(name) not in ("", simulated(module))] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("channels/")])
def test_channels_know_nothing_of_simulators(module: str) -> None:
    assert [name for name in imported(module) if name.startswith("sim")] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("delivery/")])
def test_delivery_knows_surfaces_only_by_their_protocol(module: str) -> None:
    assert [name for name in imported(module) if name.startswith(("channels", "agents", "sim"))] == []


@pytest.mark.parametrize("module", [*MODULES, *PAGES])
def test_no_platform_is_named_outside_its_channel_and_its_simulator(module: str) -> None:
    room = module.startswith(("channels/feishu/", "channels/wecom/")) or re.match(r"sim/_?(feishu|wecom)", module)
    if room or module in NAMED_IN:
        return
    named = [line for line in (SOURCE / module).read_text().splitlines() if PLATFORMS.search(line)]
    assert named == []
