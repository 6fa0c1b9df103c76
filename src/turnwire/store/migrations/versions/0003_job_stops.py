"""Background jobs that people stop."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision = "0002"


def upgrade(op: Operations) -> None:
    """Adds who wants a job to stop, and since when."""
    op.add_column("operations", sa.Column("stop_requested_at", sa.Float(precision=53), nullable=True))
    op.add_column("operations", sa.Column("stop_requested_by", sa.Text(), nullable=True))
