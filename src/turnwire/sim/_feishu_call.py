"""One call of the platform's API, and how its fields are read.

Guarantee: a field that is missing or of the wrong type is refused by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ._feishu_codes import Refused, invalid
from ._feishu_rates import Limit, Rates
from ._feishu_state import App, Tenant
from ._json import Json


@dataclass
class Call:
    """A call as it came: `params` from the path, `body` the JSON object in it, `raw` its bytes."""

    op: str
    tenant: Tenant
    rates: Rates
    app: App
    params: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Json = field(default_factory=dict)
    raw: bytes = b""

    @property
    def now(self) -> float:
        """Wall time in seconds."""
        return self.tenant.now()

    def limit(self, *limits: Limit) -> None:
        """Counts the call against rates. Raises `Refused`."""
        if self.tenant.switches.rates:
            self.rates.take(self.now, *limits)

    def text(self, name: str, most: int, *, code: int = 99992402, optional: bool = False) -> str:
        """A string of 1 to `most` characters; empty only if it may be left out. Raises `Refused`."""
        value = self.body.get(name)
        if value is None and optional:
            return ""
        if not isinstance(value, str) or not value or len(value) > most:
            problem = invalid(name, f"must be a string of 1 to {most} characters")
            raise problem if code == 99992402 else Refused(code, f"{Refused(code).msg} {name} is missing or wrong")
        return value

    def sequence(self) -> int:
        """The sequence of a card operation, a positive int32; 0 is refused as one that is too low."""
        value = self.body.get("sequence")
        if not isinstance(value, int) or isinstance(value, bool) or value > 2**31 - 1:
            raise invalid("sequence", "must be an integer from 1 to 2147483647")
        if value < 1:
            raise Refused(300317)
        return value
