"""The web: readers of the journal over HTTP."""
