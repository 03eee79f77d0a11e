"""The tables, as of the newest migration; who reads and writes them is `store` alone."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("said", LargeBinary, nullable=False),
    Index("entries_sha256", "sha256"),
)

release_lines = Table(
    "release_lines",
    metadata,
    Column("release", String(64), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("device", String(32), nullable=False),
    Column("line", Text, nullable=False),
    UniqueConstraint("release", "device"),
)

devices = Table(
    "devices",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("facts", LargeBinary, nullable=False),
    Column("reported_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Index("devices_changed_at", "changed_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("rollout", String(64), primary_key=True),
    Column("device", String(32), primary_key=True),
    Column("run", Integer, primary_key=True, autoincrement=False),
    Column("offered_s", BigInteger),
    Column("offered_at", BigInteger),
    Column("waiting_s", BigInteger),
    Column("overdue_s", BigInteger),
    Column("parked_s", BigInteger),
    Column("excused", Boolean, nullable=False),
    Column("outcome_s", BigInteger),
    Column("outcome_at", BigInteger),
    Column("healthy_s", BigInteger),
    Column("kind", Text, nullable=False, server_default=""),
    Column("told", LargeBinary, nullable=False),
    Column("changed_at", BigInteger, nullable=False),
    Index("attempts_device", "device"),
    Index("attempts_changed_at", "changed_at"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

enroll_requests = Table(
    "enroll_requests",
    metadata,
    Column("device", String(32), primary_key=True),
    Column("payload", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("asked_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("text", Text, nullable=False),
    Column("by", String(64), nullable=False),
    Column("not_after", BigInteger, nullable=False),
)

clock = Table(
    "clock",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("run_s", BigInteger, nullable=False),
    Column("beat_s", BigInteger, nullable=False),
)

refusals = Table(
    "refusals",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("by", String(64), nullable=False),
    Column("namespace", String(160), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("reason", Text, nullable=False),
)

offered = Table(
    "offered",
    metadata,
    Column("index", BigInteger, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
    Column("payload", LargeBinary),
)

marks = Table(
    "marks",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("note", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False),
)
