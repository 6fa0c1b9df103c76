"""What helps to test an agent or a channel: a clock that a test moves, and turns on surfaces whose processes die."""

from .clock import FakeClock
from .stage import Attach, Crash, End, Pause, Question, Stage

__all__ = ["Attach", "Crash", "End", "FakeClock", "Pause", "Question", "Stage"]
