"""What a coordinator is started with; flags and environment are read by `cli`, never here."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from nixfleet.errors import UserError
from nixfleet.trust.passphrase import read_passphrase

LOG_KEY = "log.key"
NEXT_LOG_KEY = "log-next.key"
"""Where the log's next key lies until a root names it; `log.key` then takes its place."""
CACHE_KEY = "cache.key"
CACHE = "cache"
DATABASE = "fleet.db"
LOCK = "coordinator.lock"
BACKUP_STATUS = "backup.json"
CLAIM = "claim.json"
"""Keys and code of a coordinator that nobody has claimed yet; secret."""
_SECRETS: Final = {"password", "sslpassword"}


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The data folder, the address `host:port` to listen on (port 0: any free one), and a database URL or None."""

    data_dir: Path
    listen: str = "127.0.0.1:7070"
    database_url: str | None = None
    """``postgresql://…``; None is SQLite in the data folder."""
    claimable: bool = False
    """Without a fleet, wait for somebody who claims it, instead of an error."""
    metrics_anywhere: bool = False
    """Serve ``/metrics`` to others than the loopback."""

    backup_dir: Path | None = None
    """Where a sealed backup is written every day; None: nowhere."""
    backup_passphrase_file: Path | None = None

    def check_backups(self) -> None:
        """Check that daily backups can be made, if they are wanted. Raises: UserError."""
        if (self.backup_dir is None) != (self.backup_passphrase_file is None):
            raise UserError("daily backups need both: a folder (--backup-dir) and a --backup-passphrase-file")
        if self.backup_dir is None or self.backup_passphrase_file is None:
            return
        read_passphrase(self.backup_passphrase_file)
        if not os.access(self.backup_dir, os.W_OK | os.X_OK):
            raise UserError(f"the backup folder {self.backup_dir} is not there, or cannot be written")

    def address(self) -> tuple[str, int]:
        """Split `listen` into host and port. Raises: UserError."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65_535:
            raise UserError(f"listen address {self.listen!r} is not HOST:PORT, for example 127.0.0.1:7070")
        return host.strip("[]") or "::", int(port)

    def check_database(self) -> None:
        """Check that the data folder holds the database it should: serving never makes one. Raises: UserError."""
        if self.database_url is None and not (self.data_dir / DATABASE).is_file():
            raise UserError(
                f"this fleet's database is not in {self.data_dir}: bring {DATABASE} back, or pass --database if it"
                " lives elsewhere"
            )

    def url(self) -> str:
        """Give the database URL with the driver that the store uses. Raises: UserError for another database."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{self.data_dir / DATABASE}"
        scheme, separator, rest = self.database_url.partition("://")
        names = {name.lower() for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)}
        if ":" in rest.rpartition("@")[0] or names & _SECRETS:
            raise UserError("the database URL holds a password, which others can read; put it in a file (PGPASSFILE)")
        if separator and scheme in {"postgresql", "postgres", "postgresql+asyncpg"}:
            return f"postgresql+asyncpg://{rest}"
        raise UserError("the database URL is not postgresql://…; without one, SQLite in the data folder is used")
