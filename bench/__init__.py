"""Benches: what Turnwire costs, measured against its budgets. Run `python -m bench`."""
