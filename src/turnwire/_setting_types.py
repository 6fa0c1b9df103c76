"""Kinds of values that settings have, and how each is checked."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr


def address(*schemes: str, example: str) -> AfterValidator:
    """Checks a URL that may be left empty."""

    def check(value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            named = parts.hostname and parts.port != 0
        except ValueError:
            # The original error may quote a part of a password.
            raise ValueError(f"is no URL; write it like {example}") from None
        if parts.scheme not in schemes or not (named or (parts.scheme == "unix" and parts.path)):
            begin = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"must begin with {begin} and name a host; for example {example}")
        return value

    return AfterValidator(check)


def number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic turns only ValueError into a report
    return value


def listed(value: object) -> object:
    """A list, which the environment writes with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def sendable(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]*", value.get_secret_value()):
        raise ValueError("holds a space, a line break or a character outside ASCII; check what was copied")
    return value


Count: TypeAlias = Annotated[int, BeforeValidator(number)]
Amount: TypeAlias = Annotated[float, BeforeValidator(number), Field(allow_inf_nan=False)]
Secret: TypeAlias = Annotated[SecretStr, AfterValidator(sendable)]
