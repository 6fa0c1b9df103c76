"""The platforms: one room each."""
