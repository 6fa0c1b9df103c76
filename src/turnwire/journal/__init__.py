"""The journal: fenced append with group commit, and the hub that shows committed records to readers."""

from .hub import Hub, Topic
from .writer import Journal, JournalError, TurnFenced, TurnLog

__all__ = ["Hub", "Journal", "JournalError", "Topic", "TurnFenced", "TurnLog"]
