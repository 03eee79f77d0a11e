"""Connections and transactions on SQLite or PostgreSQL; the only place that meets a driver's exceptions.

A write has been made durable when its block ends (SQLite: WAL with synchronous=FULL; PostgreSQL: its default).
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from threading import Thread, current_thread
from typing import Any
from weakref import WeakSet

import aiosqlite
from sqlalchemy import Connection, Table, event, literal_column, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from nixfleet.errors import Conflict, Unreachable, UserError
from nixfleet.server.schema import revisions, upgrade

_CLOSE_S = 5.0
"""For all threads together; less than who stops a coordinator waits for its end (`server.serve`)."""
_BUSY_S = 20
_CHUNK_ROWS = 64
_WRITE = {"nixfleet_write": True}
_MAY_ASK = """
    SELECT has_function_privilege('pg_control_system()', 'execute')
    AND has_function_privilege('pg_control_checkpoint()', 'execute')
"""
_CLUSTER = "SELECT system_identifier || '.' || timeline_id FROM pg_control_system(), pg_control_checkpoint()"
_IDENTITY = """
    SELECT pg_database.oid, pg_class.oid, pg_class.relfilenode FROM pg_database, pg_class
    WHERE datname = current_database() AND pg_class.oid = to_regclass('entries')
"""
_NOW = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS bigint)"

Insert = sqlite.Insert | postgresql.Insert


class Database:
    """An engine with one writer at a time on SQLite, and translated errors."""

    def __init__(self, url: str) -> None:
        self.sqlite = url.startswith("sqlite")
        self.name = _name_of(url)
        """The file, or the server's address: what a person has to look at."""
        self._threads: WeakSet[Thread] = WeakSet()
        self._engine = _sqlite_engine(url, self._threads) if self.sqlite else _postgres_engine(url)
        self._writer = asyncio.Lock()

    async def open(self) -> None:
        """Connect and bring the schema up to date. Raises: Unreachable; UserError for a newer program's database."""
        try:
            async with self.write() as connection:
                await connection.run_sync(upgrade)
        except (Unreachable, UserError) as error:
            # Who starts the program has to know which file; who sends requests to it does not.
            raise type(error)(f"{self.name}: {error}") from error

    async def revisions(self) -> tuple[str | None, str]:
        """Give the schema that the database has, and the newest one; changes nothing. Raises: Unreachable."""
        async with self.read() as connection:
            return await connection.run_sync(revisions)

    async def close(self) -> None:
        """Give all connections back, and wait for their threads, but for none that never comes to its end."""
        await self._engine.dispose()
        threads = list(self._threads)
        for thread in threads:
            await asyncio.to_thread(thread.join, _CLOSE_S / len(threads))

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Open a consistent read. Raises: Unreachable."""
        with _translated():
            async with self._engine.connect() as connection, connection.begin():
                yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that is durable when the block ends. Raises: Conflict for a taken key, Unreachable."""
        with _translated():
            if not self.sqlite:
                async with self._engine.begin() as connection:
                    yield connection
                return
            async with self._writer, self._engine.connect() as connection:
                await connection.execution_options(**_WRITE)
                async with connection.begin():
                    yield connection

    async def identity(self) -> str:
        """Say which PostgreSQL database this is: cluster, timeline, database, the entries' table, its file.

        A dump that is restored makes the table anew. A copy of the cluster's files that was rolled forward to some
        time, and a standby that takes over, go on under a timeline of their own (PostgreSQL, Continuous Archiving).
        Raises: Unreachable.
        """
        assert not self.sqlite, "a file is where it is"
        async with self.read() as connection:
            # Everybody may ask for the cluster's numbers, unless its owner has forbidden it: then the rest has to do.
            may_ask = await connection.scalar(text(_MAY_ASK))
            cluster = await connection.scalar(text(_CLUSTER)) if may_ask else "0"
            row = (await connection.execute(text(_IDENTITY))).one()
        return "/".join(map(str, (cluster, *row)))

    def insert(self, table: Table) -> Insert:
        """Make an insert that knows ``ON CONFLICT`` in this database's dialect."""
        return sqlite.insert(table) if self.sqlite else postgresql.insert(table)

    def stamped(self, table: Table) -> Insert:
        """Make an insert of rows that tell when they changed: by PostgreSQL's own clock, where many write by theirs."""
        statement = self.insert(table)
        return statement if self.sqlite else statement.values(changed_at=literal_column(_NOW))

    async def now_s(self) -> int:
        """Give unix seconds as PostgreSQL's own clock shows them."""
        async with self.read() as connection:
            return int((await connection.execute(select(literal_column(_NOW)))).scalar_one())

    def upsert(self, table: Table, *, keep: Sequence[str] = ()) -> Insert:
        """Make an insert that replaces the row of the same primary key, but for the columns in `keep`."""
        statement = self.insert(table)
        keys = [column.name for column in table.primary_key]
        return statement.on_conflict_do_update(
            index_elements=keys,
            set_={
                column.name: statement.excluded[column.name]
                for column in table.columns
                if column.name not in keys and column.name not in keep
            },
        )


async def many(connection: AsyncConnection, statement: Insert, rows: Sequence[Mapping[str, Any]]) -> None:
    """Execute a statement once per row; no rows, no statement."""
    if rows:
        await connection.execute(statement, list(rows))


class _translated:  # noqa: N801 reads as a statement
    """Turn the library's exceptions into ours at the end of a block."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, IntegrityError):
            raise Conflict("the database moved meanwhile: read again") from error
        told = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(error, DBAPIError | sqlite3.Error):
            raise Unreachable(f"the database refuses: {_first_line(told or error)}") from error
        if isinstance(error, SQLAlchemyError | OSError | TimeoutError):
            raise Unreachable(f"the database does not answer: {_first_line(error)}") from error


def _name_of(url: str) -> str:
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        return url
    if parsed.drivername.startswith("sqlite"):
        return parsed.database or url
    return f"{parsed.host or ''}/{parsed.database or ''}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _sqlite_engine(url: str, threads: WeakSet[Thread]) -> AsyncEngine:
    path = make_url(url).database or ""

    def connector() -> sqlite3.Connection:
        # Runs on the connection's own thread, which must have ended before the loop does: see `close`.
        threads.add(current_thread())
        # The driver must not begin transactions of its own: `begin` below says which kind.
        return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)

    def creator() -> aiosqlite.Connection:
        return aiosqlite.Connection(connector, _CHUNK_ROWS)

    engine = create_async_engine(url, pool_size=4, max_overflow=4, async_creator=creator)

    def connected(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={_BUSY_S * 1_000}", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("nixfleet_write")
        # A read that turns into a write fails at once when another process wrote meanwhile, so say it first.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begin)
    return engine


def _postgres_engine(url: str) -> AsyncEngine:
    try:
        return create_async_engine(url, pool_size=8, max_overflow=8, pool_pre_ping=True)
    except ImportError as error:
        raise UserError("PostgreSQL needs its driver: install nixfleet[postgres]") from error
    except SQLAlchemyError as error:
        raise UserError(f"the database URL does not parse: {error}") from error
