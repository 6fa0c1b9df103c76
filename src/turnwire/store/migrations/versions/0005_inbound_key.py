"""Inbounds found by their own names."""

from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations) -> None:
    """Adds the index that finds an inbound whose conversation nobody names."""
    op.create_index("inbound_key", "inbound", ["key"], unique=False)
