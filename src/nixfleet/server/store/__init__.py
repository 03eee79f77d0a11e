"""The database behind typed methods: everything that outlives a coordinator; it judges nothing.

The same queries run on SQLite and PostgreSQL. Whatever a method has written is durable when it returns.
"""

from nixfleet.server.store.database import Database
from nixfleet.server.store.log import LogTables
from nixfleet.server.store.offers import GOAL, HEAD, OfferTables
from nixfleet.server.store.people import PeopleTables
from nixfleet.server.store.plans import PlanTables
from nixfleet.server.store.rows import (
    AttemptRow,
    ClockRow,
    DeviceRow,
    EnrollRow,
    EntryRow,
    LineRow,
    MarkRow,
    OfferedRow,
    RefusalRow,
    RolloutRow,
    SessionRow,
)
from nixfleet.server.store.status import Forget, StatusTables, Told

__all__ = [
    "GOAL",
    "HEAD",
    "AttemptRow",
    "ClockRow",
    "DeviceRow",
    "EnrollRow",
    "EntryRow",
    "Forget",
    "LineRow",
    "MarkRow",
    "OfferedRow",
    "RefusalRow",
    "RolloutRow",
    "SessionRow",
    "Store",
    "Told",
]


class Store:
    """One database, its tables grouped by who uses them."""

    def __init__(self, url: str) -> None:
        self._db = Database(url)
        self.log = LogTables(self._db)
        self.status = StatusTables(self._db)
        self.plans = PlanTables(self._db)
        self.people = PeopleTables(self._db)
        self.offers = OfferTables(self._db)
        self.name = self._db.name
        self.shared = not self._db.sqlite
        """Whether other coordinators may be writing to the same database."""

    async def open(self) -> None:
        """Connect and migrate. Raises: Unreachable; UserError for a newer program's database."""
        await self._db.open()

    async def revisions(self) -> tuple[str | None, str]:
        """Give the schema that the database has, and the newest one; changes nothing. Raises: Unreachable."""
        return await self._db.revisions()

    async def identity(self) -> str:
        """Say which PostgreSQL database this is: another one after it was restored or moved. Raises: Unreachable."""
        return await self._db.identity()

    async def close(self) -> None:
        """Let go of the database."""
        await self._db.close()
