"""What helps to test an agent or a channel: a clock that a test moves, and turns on surfaces whose processes die."""

from .clock import FakeClock
from .memory import MemoryStore
from .script import Attach, End, Pause
from .stage import Crash, Question, Stage

__all__ = ["Attach", "Crash", "End", "FakeClock", "MemoryStore", "Pause", "Question", "Stage"]
