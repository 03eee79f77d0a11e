"""Bring a database to the newest schema; it must never go back, nor touch a database of a newer program."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from nixfleet.errors import UserError

_FOLDER = Path(__file__).parent / "migrations"
_LOCK = 0x6E6978666C656574
"""Advisory lock ``nixfleet``: two coordinators that start at once migrate one after the other."""


def revisions(connection: Connection) -> tuple[str | None, str]:
    """Give the schema that a database has, None for an empty one, and the newest that this program knows."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    newest = ScriptDirectory.from_config(config).get_current_head()
    assert newest is not None
    return MigrationContext.configure(connection).get_current_revision(), newest


def upgrade(connection: Connection) -> None:
    """Apply the missing steps inside the caller's transaction. Raises: UserError for a newer program's database."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    held = MigrationContext.configure(connection).get_current_revision()
    if held is not None and held not in known:
        raise UserError(f"the database has schema {held}, which this nixfleet does not know: use the newer program")
    command.upgrade(config, "head")
