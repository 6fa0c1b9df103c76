"""Turns: admitted once, run by one owner, stopped by intent, ended exactly once."""
