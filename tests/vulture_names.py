"""Names that only others use, so that vulture does not call them unused; each group says who uses it."""

from __future__ import annotations

from typing import Any


def pydantic_settings_passes_its_sources_by_name(it: Any) -> tuple[Any, ...]:
    return it.settings_cls, it.env_settings, it.dotenv_settings, it.file_secret_settings


def rungs_are_given_what_is_sealed(it: Any) -> tuple[Any, ...]:
    return (it.sealed,)


def with_passes_the_traceback(it: Any) -> tuple[Any, ...]:
    return (it.trace,)
