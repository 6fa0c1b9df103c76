"""Bringing a store's schema up to date, or checking that it is."""

from __future__ import annotations

from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from .database import StoreError


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(Path(__file__).parent / "migrations")


def migrate(connection: Connection, name: str) -> None:
    """Brings the schema to this version in one transaction.

    Raises `StoreError` when the store was written by a newer Turnwire; it is left untouched then.
    """
    with connection.begin():
        scripts = _scripts()
        found = MigrationContext.configure(connection).get_current_revision()
        if found == scripts.get_current_head():
            return
        _known(scripts, found, name)
        # Alembic's own way keeps its state in globals of the process, where two stores could meet. Each script gets
        # what it works with as an argument instead.
        context = MigrationContext.configure(
            connection, opts={"fn": lambda heads, _: scripts._upgrade_revs("head", heads)}
        )
        context.run_migrations(op=Operations(context))


def check(connection: Connection, name: str) -> None:
    """Raises `StoreError` unless the schema is exactly this version's; changes nothing."""
    with connection.begin():
        scripts = _scripts()
        found = MigrationContext.configure(connection).get_current_revision()
        _known(scripts, found, name)
        if found != scripts.get_current_head():
            raise StoreError(f"the store {name} has an older schema; `turnwire serve` brings it up to date")


def _known(scripts: ScriptDirectory, found: str | None, name: str) -> None:
    if found is not None and found not in {revision.revision for revision in scripts.walk_revisions()}:
        raise StoreError(f"the store {name} was written by a newer Turnwire (schema {found}); upgrade Turnwire")
