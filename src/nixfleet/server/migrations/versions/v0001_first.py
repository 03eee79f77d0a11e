"""First schema; frozen: later changes are steps of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table of the first release."""
    _log()
    _fleet()
    _requests()


def _log() -> None:
    op.create_table(
        "entries",
        sa.Column("index", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("leaf", sa.LargeBinary, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("said", sa.LargeBinary, nullable=False),
    )
    op.create_index("entries_sha256", "entries", ["sha256"])
    op.create_table(
        "release_lines",
        sa.Column("release", sa.String(64), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.UniqueConstraint("release", "device"),
    )


def _fleet() -> None:
    op.create_table(
        "devices",
        sa.Column("device", sa.String(32), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.Column("reported_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("devices_changed_at", "devices", ["changed_at"])
    op.create_table(
        "attempts",
        sa.Column("rollout", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(32), primary_key=True),
        sa.Column("run", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("offered_s", sa.BigInteger),
        sa.Column("offered_at", sa.BigInteger),
        sa.Column("waiting_s", sa.BigInteger),
        sa.Column("overdue_s", sa.BigInteger),
        sa.Column("parked_s", sa.BigInteger),
        sa.Column("excused", sa.Boolean, nullable=False),
        sa.Column("outcome_s", sa.BigInteger),
        sa.Column("outcome_at", sa.BigInteger),
        sa.Column("healthy_s", sa.BigInteger),
        sa.Column("told", sa.LargeBinary, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
    )
    op.create_index("attempts_device", "attempts", ["device"])
    op.create_index("attempts_changed_at", "attempts", ["changed_at"])
    op.create_table(
        "rollouts",
        sa.Column("rollout", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("run_s", sa.BigInteger, nullable=False),
        sa.Column("beat_s", sa.BigInteger, nullable=False),
    )


def _requests() -> None:
    op.create_table(
        "enroll_requests",
        sa.Column("device", sa.String(32), primary_key=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "refusals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("namespace", sa.String(160), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
