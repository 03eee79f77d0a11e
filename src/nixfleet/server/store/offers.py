"""What is given back to a coordinator that runs an old backup, until it is whole, and the coordinator's own marks."""

from collections.abc import Callable, Sequence

from sqlalchemy import delete, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from nixfleet.server import tables
from nixfleet.server.store.database import Database, many
from nixfleet.server.store.rows import EntryRow, MarkRow, OfferedRow, values

GOAL = "goal"
"""The checkpoint up to which entries are to be got back; while it is there, nothing is appended."""
HEAD = "head"
"""The newest checkpoint: what the entries are compared with at the next start."""
_LOCK = 0x6E6978676F616C00
"""Advisory lock ``nixgoal``: on a shared database, no append slips in while the goal is set."""
_PAGE = 500
_JUDGED = 50
"""Entries that are judged between two waits for the database: whoever else is served does not wait for more."""
_offered = tables.offered
_marks = tables.marks

Make = Callable[[Sequence[OfferedRow]], Sequence[EntryRow]]


async def shut(database: Database, connection: AsyncConnection) -> bool:
    """Tell, inside an append's transaction, whether entries are to be got back first."""
    if not database.sqlite:
        await connection.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": _LOCK})
    return await connection.scalar(select(_marks.c.name).where(_marks.c.name == GOAL)) is not None


async def mark(database: Database, connection: AsyncConnection, row: MarkRow) -> None:
    """Set a mark inside a transaction."""
    await connection.execute(database.upsert(_marks).values(values(row)))


class OfferTables:
    """Entries on their way back: proven by the caller, and not part of the log until all of them are here."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def mark(self, name: str) -> MarkRow | None:
        """Read a mark."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_marks).where(_marks.c.name == name))).first()
        return None if row is None else MarkRow(*row)

    async def keep(self, goal: MarkRow, rows: Sequence[OfferedRow]) -> None:
        """Keep the goal and entries that lead to it, all or none. Raises: Conflict when another was faster."""
        async with self._db.write() as connection:
            await self._exclude(connection)
            await mark(self._db, connection, goal)
            await many(connection, self._db.insert(_offered), [values(row) for row in rows])

    async def fill(self, payloads: Sequence[tuple[int, bytes]]) -> None:
        """Keep payloads of entries that came without."""
        async with self._db.write() as connection:
            for index, payload in payloads:
                await connection.execute(update(_offered).where(_offered.c.index == index).values(payload=payload))

    async def read(self, start: int, limit: int = _PAGE) -> list[OfferedRow]:
        """Read at most `limit` entries from index `start` on, in order."""
        async with self._db.read() as connection:
            return await _rows(connection, start, limit)

    async def finish(self, start: int, make: Make, goal: MarkRow, head: MarkRow) -> None:
        """Let everything from `start` on become part of the log, all or none; `make` judges page by page, in order.

        Raises: Conflict when the log has grown meanwhile.
        """
        async with self._db.write() as connection:
            await self._exclude(connection)
            while rows := await _rows(connection, start, _JUDGED):
                made = make(rows)
                await many(connection, self._db.insert(tables.entries), [values(row) for row in made])
                start = rows[-1].index + 1
            await connection.execute(delete(_offered))
            await mark(self._db, connection, goal)
            await mark(self._db, connection, head)

    async def open(self) -> None:
        """Let appends happen again."""
        async with self._db.write() as connection:
            await connection.execute(delete(_marks).where(_marks.c.name == GOAL))

    async def drop(self) -> None:
        """Throw away what was given back, and open the log again."""
        async with self._db.write() as connection:
            await connection.execute(delete(_offered))
            await connection.execute(delete(_marks).where(_marks.c.name == GOAL))

    async def _exclude(self, connection: AsyncConnection) -> None:
        if not self._db.sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


async def _rows(connection: AsyncConnection, start: int, limit: int) -> list[OfferedRow]:
    query = select(_offered).where(_offered.c.index >= start).order_by(_offered.c.index).limit(limit)
    return [OfferedRow(*row) for row in await connection.execute(query)]
