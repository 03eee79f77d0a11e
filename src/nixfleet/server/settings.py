"""What a coordinator is started with; reading it from files is `config`'s work, never done here."""

from dataclasses import dataclass
from pathlib import Path

from nixfleet.errors import UserError

LOG_KEY = "log.key"
CACHE_KEY = "cache.key"
CACHE = "cache"
DATABASE = "fleet.db"
LOCK = "coordinator.lock"


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The data folder, the address `host:port` to listen on (port 0: any free one), and a database URL or None."""

    data_dir: Path
    listen: str = "127.0.0.1:7070"
    database_url: str | None = None
    """``postgresql://…``; None is SQLite in the data folder."""
    metrics_anywhere: bool = False
    """Serve ``/metrics`` to others than the loopback."""

    def address(self) -> tuple[str, int]:
        """Split `listen` into host and port. Raises: UserError."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65_535:
            raise UserError(f"listen address {self.listen!r} is not HOST:PORT, for example 127.0.0.1:7070")
        return host.strip("[]") or "::", int(port)

    def url(self) -> str:
        """Give the database URL with the driver that the store uses. Raises: UserError for another database."""
        if self.database_url is None:
            return f"sqlite+aiosqlite:///{self.data_dir / DATABASE}"
        scheme, separator, rest = self.database_url.partition("://")
        if ":" in rest.rpartition("@")[0]:
            raise UserError("the database URL holds a password, which others can read; put it in a file (PGPASSFILE)")
        if separator and scheme in {"postgresql", "postgres", "postgresql+asyncpg"}:
            return f"postgresql+asyncpg://{rest}"
        raise UserError("the database URL is not postgresql://…; without one, SQLite in the data folder is used")
