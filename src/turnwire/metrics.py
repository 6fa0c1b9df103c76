"""What an operator watches, in Prometheus's form. One registry per gateway; nothing is global."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """The counters of one gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turns = Counter(
            "turnwire_turns_total", "Turns ended here, by outcome.", ["outcome"], registry=self.registry
        )
        self.turn_seconds = Histogram(
            "turnwire_turn_seconds", "From admission to the end of a turn.", buckets=_SECONDS, registry=self.registry
        )
        self.live_turns = Gauge("turnwire_live_turns", "Turns running in this process.", registry=self.registry)
        self.abandoned_agents = Counter(
            "turnwire_abandoned_agents_total",
            "Agents left behind because they ignored cancellation.",
            registry=self.registry,
        )
        self.readers = Gauge("turnwire_readers", "Open event streams.", registry=self.registry)
        self.cut_readers = Counter(
            "turnwire_cut_readers_total",
            "Event streams broken off before their end, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self.blocked_loop = Counter(
            "turnwire_blocked_loop_total", "Times that something blocked the event loop.", registry=self.registry
        )

    def ended(self, outcome: str, created_at: float, now: float) -> None:
        """Counts one ended turn."""
        self.turns.labels(outcome).inc()
        self.turn_seconds.observe(max(now - created_at, 0.0))

    def render(self) -> bytes:
        """The text that `/metrics` answers."""
        return generate_latest(self.registry)
