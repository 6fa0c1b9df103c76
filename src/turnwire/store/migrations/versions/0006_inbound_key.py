"""Inbounds found by their own names."""

from alembic.operations import Operations

revision = "0006"
down_revision = "0005"


def upgrade(op: Operations) -> None:
    """Adds the index that finds an inbound whose conversation nobody names."""
    op.create_index("inbound_key", "inbound", ["key"], unique=False)
