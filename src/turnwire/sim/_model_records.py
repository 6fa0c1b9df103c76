"""What the simulator remembers of the requests that came, and how one waits for more to happen.

Guarantee: memory is bounded by a number of requests and by their bytes; the oldest are forgotten first.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

from turnwire.clock import Clock

from ._json import Json
from ._model_answers import Ended
from ._observer import Watched

MAX_BYTES = 64 * 1024 * 1024
_SECRET = {"authorization", "proxy-authorization", "x-api-key", "x-goog-api-key", "cookie"}
_HIDDEN = "(hidden)"


@dataclass
class Seen:
    """One request as it came and what became of it.

    Args:
        number: counts the simulator's requests from 1.
        wire: A, O, R or G; empty for a connection that was reset before it asked.
        path: the target without its key.
        headers: names in lower case; the values of credentials are hidden.
        connection: counts the simulator's connections from 1.
        at: when its head was read, in seconds of the clock's wall time.
        body: the JSON of a body that was an object, else None.
        scenario: how it was treated; empty if it was refused before.
        status: the HTTP status that was sent, 0 for none.
        sent: how much was sent, in bytes, with all framing.
        ended: `open` while it lasts; `completed` when all was sent that the scenario says; `client_closed` when the
            client left before; `reset` when the scenario reset the connection; `stopped` with the simulator.
        closed_at: when it ended.
        size: of its body, in bytes.
    """

    number: int
    wire: str
    path: str
    headers: dict[str, str]
    connection: int
    at: float
    body: Json | None = None
    scenario: str = ""
    status: int = 0
    sent: int = 0
    ended: Ended = "open"
    closed_at: float | None = None
    size: int = 0

    def as_json(self) -> Json:
        """The fields by their names."""
        return asdict(self)


class Records(Watched):
    """The requests in the order in which they came.

    Args:
        clock: says when.
        limit: how many are remembered.
    """

    def __init__(self, clock: Clock, limit: int) -> None:
        super().__init__()
        self.requests: list[Seen] = []
        self.count = 0
        self.busy = 0
        self._clock = clock
        self._limit = limit
        self._bytes = 0

    def begin(self, wire: str, target: str, headers: dict[str, str], connection: int) -> Seen:
        """A request that has come; `finish` must follow."""
        self.count += 1
        self.busy += 1
        path = re.sub(r"(?<=[?&]key=)[^&]*", _HIDDEN, target)
        shown = {name: _HIDDEN if name in _SECRET else value for name, value in headers.items()}
        seen = Seen(self.count, wire, path, shown, connection, self._clock.now())
        self.requests.append(seen)
        self._forget()
        self.changed()
        return seen

    def keep(self, seen: Seen, body: Json | None, size: int) -> None:
        """Remembers the body of a request, of `size` bytes."""
        seen.body, seen.size = body, size
        if any(each is seen for each in self.requests):
            self._bytes += size
            self._forget()

    def finish(self, seen: Seen, ended: Ended) -> None:
        """The end of a request."""
        seen.ended = ended
        seen.closed_at = self._clock.now()
        self.busy -= 1
        self.changed()

    def waiting(self, begins: bool) -> None:
        """A request begins or ceases to wait for time or for its client."""
        self.busy += -1 if begins else 1
        self.changed()

    def clear(self) -> None:
        """Forgets the requests that have ended."""
        self.requests[:] = [seen for seen in self.requests if seen.ended == "open"]
        self._bytes = sum(seen.size for seen in self.requests)

    def _forget(self) -> None:
        while len(self.requests) > self._limit or (len(self.requests) > 1 and self._bytes > MAX_BYTES):
            self._bytes -= self.requests.pop(0).size
