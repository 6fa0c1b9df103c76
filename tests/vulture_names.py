"""Names that vulture would call unused and that others use; a new one needs its reason beside it."""
