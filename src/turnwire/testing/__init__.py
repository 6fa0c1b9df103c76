"""What helps to test an agent or a channel: a clock that a test moves."""

from .clock import FakeClock

__all__ = ["FakeClock"]
