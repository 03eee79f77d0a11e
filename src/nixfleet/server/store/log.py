"""The log's tables: entries, release lines, and the journal of what was refused."""

from collections.abc import Collection, Sequence

from sqlalchemy import delete, func, select

from nixfleet.errors import Unreachable
from nixfleet.server import tables
from nixfleet.server.store.database import Database, many
from nixfleet.server.store.offers import mark, shut
from nixfleet.server.store.rows import EntryRow, LineRow, MarkRow, RefusalRow, values

_REFUSALS_KEPT = 10_000
_REFUSALS_OF_ONE = 200
"""Nobody pushes what others tried out of the journal."""
_entries = tables.entries
_lines = tables.release_lines
_refusals = tables.refusals


class LogTables:
    """Append-only: nothing here changes or deletes an entry."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def size(self) -> int:
        """Count the entries."""
        async with self._db.read() as connection:
            newest = await connection.scalar(select(func.max(_entries.c.index)))
        return 0 if newest is None else int(newest) + 1

    async def append(
        self, rows: Sequence[EntryRow], lines: Sequence[LineRow] = (), head: MarkRow | None = None
    ) -> None:
        """Write entries, release lines and the checkpoint over them durably, all or none.

        Raises:
            Conflict: an index is taken: another coordinator was faster (the primary key is the compare-and-set).
            Unreachable: the database is an old backup, and lacks entries that come before these.

        """
        async with self._db.write() as connection:
            if await shut(self._db, connection):
                raise Unreachable("this coordinator runs an old backup and takes entries back first; try again later")
            if head is not None:
                await mark(self._db, connection, head)
            await many(connection, self._db.insert(_entries), [values(row) for row in rows])
            again = self._db.insert(_lines).on_conflict_do_nothing()
            await many(connection, again, [values(line) for line in lines])

    async def entries(self, start: int, limit: int) -> list[EntryRow]:
        """Read at most `limit` entries from index `start` on, in order."""
        query = select(_entries).where(_entries.c.index >= start).order_by(_entries.c.index).limit(limit)
        async with self._db.read() as connection:
            return [EntryRow(*row) for row in await connection.execute(query)]

    async def said(self, start: int, limit: int) -> list[bytes]:
        """Read the entry views (JSON) of at most `limit` entries from index `start` on, in order."""
        query = select(_entries.c.said).where(_entries.c.index >= start).order_by(_entries.c.index).limit(limit)
        async with self._db.read() as connection:
            return [bytes(row.said) for row in await connection.execute(query)]

    async def payload(self, sha256: str) -> tuple[str, str, bytes] | None:
        """Find a payload by its digest, with the kind and subject of its entry."""
        columns = (_entries.c.kind, _entries.c.subject, _entries.c.payload)
        query = select(*columns).where(_entries.c.sha256 == sha256).order_by(_entries.c.index).limit(1)
        async with self._db.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else (str(row.kind), str(row.subject), bytes(row.payload))

    async def lines(self, release: str) -> list[str]:
        """Read a release's target lines in their order."""
        query = select(_lines.c.line).where(_lines.c.release == release).order_by(_lines.c.place)
        async with self._db.read() as connection:
            return [str(row.line) for row in await connection.execute(query)]

    async def lined(self) -> set[str]:
        """List the releases whose target lines are held."""
        async with self._db.read() as connection:
            return {str(row.release) for row in await connection.execute(select(_lines.c.release).distinct())}

    async def add_lines(self, lines: Sequence[LineRow]) -> None:
        """Write a release's target lines, all or none; those that are there stay."""
        async with self._db.write() as connection:
            again = self._db.insert(_lines).on_conflict_do_nothing()
            await many(connection, again, [values(line) for line in lines])

    async def refuse(self, row: RefusalRow) -> None:
        """Note a refused statement or request; only the newest 10,000 are kept, and of one signer the newest 200."""
        async with self._db.write() as connection:
            done = await connection.execute(_refusals.insert().values(values(row)).returning(_refusals.c.id))
            newest = done.scalar_one()
            await connection.execute(delete(_refusals).where(_refusals.c.id <= newest - _REFUSALS_KEPT))
            kept = select(_refusals.c.id).where(_refusals.c.by == row.by).order_by(_refusals.c.id.desc())
            excess = kept.offset(_REFUSALS_OF_ONE).limit(1).scalar_subquery()
            await connection.execute(delete(_refusals).where(_refusals.c.by == row.by, _refusals.c.id <= excess))

    async def refused(self, limit: int, by: Collection[str] | None = None) -> list[RefusalRow]:
        """Read the newest refusals, of these keys alone if any are given, newest first."""
        columns = (_refusals.c.at, _refusals.c.by, _refusals.c.namespace, _refusals.c.sha256, _refusals.c.reason)
        query = select(*columns).order_by(_refusals.c.id.desc()).limit(limit)
        if by is not None:
            query = query.where(_refusals.c.by.in_(sorted(by)))
        async with self._db.read() as connection:
            found = await connection.execute(query)
            return [RefusalRow(*row) for row in found]
