"""Bringing a store's schema up to date, or checking that it is."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from .database import StoreError


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate(connection: Connection, name: str) -> None:
    """Brings the schema to this version in one transaction.

    Raises `StoreError` when the store was written by a newer Turnwire; it is left untouched then.
    """
    with connection.begin():
        config = _config(connection)
        found = MigrationContext.configure(connection).get_current_revision()
        script = ScriptDirectory.from_config(config)
        if found == script.get_current_head():
            return
        _known(script, found, name)
        command.upgrade(config, "head")


def check(connection: Connection, name: str) -> None:
    """Raises `StoreError` unless the schema is exactly this version's; changes nothing."""
    with connection.begin():
        script = ScriptDirectory.from_config(_config(connection))
        found = MigrationContext.configure(connection).get_current_revision()
        _known(script, found, name)
        if found != script.get_current_head():
            raise StoreError(f"the store {name} has an older schema; `turnwire serve` brings it up to date")


def _known(script: ScriptDirectory, found: str | None, name: str) -> None:
    if found is not None and found not in {revision.revision for revision in script.walk_revisions()}:
        raise StoreError(f"the store {name} was written by a newer Turnwire (schema {found}); upgrade Turnwire")
