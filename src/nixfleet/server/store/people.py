"""Tables of those who come in: enrolment requests and session keys."""

from sqlalchemy import delete, func, select

from nixfleet.server import tables
from nixfleet.server.faults import Busy
from nixfleet.server.store.database import Database
from nixfleet.server.store.rows import EnrollRow, SessionRow, values

_requests = tables.enroll_requests
_sessions = tables.sessions


class PeopleTables:
    """Anybody may ask to be enrolled, so the caller bounds how many may wait."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def ask(self, row: EnrollRow) -> None:
        """Keep a request; a repeat of the same device keeps the time it first asked."""
        async with self._db.write() as connection:
            await connection.execute(self._db.upsert(_requests, keep=["asked_at"]).values(values(row)))

    async def requests(self) -> list[EnrollRow]:
        """Read all requests, the oldest first."""
        async with self._db.read() as connection:
            return [
                EnrollRow(*row) for row in await connection.execute(select(_requests).order_by(_requests.c.asked_at))
            ]

    async def request(self, device: str) -> EnrollRow | None:
        """Find a device's request."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_requests).where(_requests.c.device == device))).first()
        return None if row is None else EnrollRow(*row)

    async def heard(self) -> dict[str, int]:
        """Read who asks, and when each was last heard (unix seconds, as it was written)."""
        async with self._db.read() as connection:
            found = await connection.execute(select(_requests.c.device, _requests.c.seen_at))
            return {str(row.device): int(row.seen_at) for row in found}

    async def forget(self, device: str) -> None:
        """Drop a request."""
        async with self._db.write() as connection:
            await connection.execute(delete(_requests).where(_requests.c.device == device))

    async def save_session(self, row: SessionRow, now: int, *, most: int, most_of_one: int) -> None:
        """Keep a session key, and drop those that have ended. Raises: Busy when too many last, of one key or in all."""
        others = select(func.count()).select_from(_sessions).where(_sessions.c.key != row.key)
        async with self._db.write() as connection:
            await connection.execute(delete(_sessions).where(_sessions.c.not_after <= now))
            if int(await connection.scalar(others.where(_sessions.c.by == row.by)) or 0) >= most_of_one:
                raise Busy(f"{most_of_one} sessions of the key {row.by} are open already; they end within 12 hours")
            if int(await connection.scalar(others) or 0) >= most:
                raise Busy("too many sessions are open; try again later")
            await connection.execute(self._db.upsert(_sessions).values(values(row)))

    async def sessions(self, now: int) -> list[SessionRow]:
        """Read the session keys that last; their number is bounded where they are saved."""
        async with self._db.read() as connection:
            found = await connection.execute(select(_sessions).where(_sessions.c.not_after > now))
            return [SessionRow(*row) for row in found]

    async def session(self, key: str) -> SessionRow | None:
        """Find a session key by its fingerprint; whether it has ended is the caller's to judge."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_sessions).where(_sessions.c.key == key))).first()
        return None if row is None else SessionRow(*row)
