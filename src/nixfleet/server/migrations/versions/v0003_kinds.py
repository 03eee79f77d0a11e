"""What kind of device a try began on, so that a system that fails on one kind is noticed as such."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; a program of before writes nothing there, and its tries are of no known kind."""
    op.add_column("attempts", sa.Column("kind", sa.Text, nullable=False, server_default=""))
