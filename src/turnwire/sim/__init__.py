"""Simulators of what Turnwire talks to, for its own tests and for those of its users.

A simulator keeps the state that the real service keeps, refuses what the real service refuses, and misbehaves on
demand. Nothing in here imports the code that is tested with it.
"""
