"""Answers that wait for people, what people thought of answers, and what only one process may hold."""

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0005"
down_revision = "0004"


def upgrade(op: Operations) -> None:
    """Adds feedback, leases, and an index of the deliveries that are held."""
    op.add_column("deliveries", sa.Column("feedback", sa.LargeBinary(), nullable=True))
    op.create_index(
        "deliveries_held",
        "deliveries",
        ["conversation_id"],
        unique=False,
        sqlite_where=sa.text("status = 'held'"),
        postgresql_where=sa.text("status = 'held'"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Float(precision=53), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
