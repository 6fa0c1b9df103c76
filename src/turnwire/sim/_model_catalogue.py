"""All scenarios by their names."""

from __future__ import annotations

import difflib

from ._model_faults import faults
from ._model_outages import outages
from ._model_scenarios import Scenario, contents
from ._model_spellings import spellings

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (*contents, *faults, *outages, *spellings)}
"""Every scenario by its name."""


class UnknownScenario(ValueError):
    """No scenario has that name."""

    def __init__(self, name: object) -> None:
        near = difflib.get_close_matches(str(name), SCENARIOS, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ";"
        super().__init__(f"no scenario is named {str(name)[:100]!r}{hint} `turnwire sim models --list` lists them")


def known(name: str) -> str:
    """`name`, if a scenario has it. Raises `UnknownScenario`."""
    if name not in SCENARIOS:
        raise UnknownScenario(name)
    return name
