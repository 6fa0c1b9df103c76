"""The durable store: SQLite for one process, PostgreSQL for many, the same queries on both."""

from .database import Append, Database, StoreError, StoreInUse, StoreUnavailable, open_database

__all__ = ["Append", "Database", "StoreError", "StoreInUse", "StoreUnavailable", "open_database"]
