"""The planner's tables: rollouts with their versions, starts, and the running clock."""

from collections.abc import Sequence

from sqlalchemy import func, select, update

from nixfleet.errors import Conflict
from nixfleet.server import tables
from nixfleet.server.store.database import Database, Insert, many
from nixfleet.server.store.rows import AttemptRow, ClockRow, RolloutRow, values

_rollouts = tables.rollouts
_attempts = tables.attempts
_clock = tables.clock


class PlanTables:
    """A rollout's row changes only for who names the version it read (compare-and-set)."""

    def __init__(self, database: Database) -> None:
        self._db = database

    async def rollout(self, rollout: str) -> RolloutRow | None:
        """Read one rollout's planner state."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_rollouts).where(_rollouts.c.rollout == rollout))).first()
        return None if row is None else RolloutRow(*row)

    async def decide(self, row: RolloutRow, tries: Sequence[AttemptRow]) -> None:
        """Store a decision and the tries it changes, all or nothing; `row.version` is what was read, 0 for none yet.

        Raises:
            Conflict: another coordinator decided first.

        """
        async with self._db.write() as connection:
            fresh = {"version": row.version + 1, "state": row.state}
            if row.version == 0:
                # A taken primary key is a Conflict too.
                await connection.execute(_rollouts.insert().values(rollout=row.rollout, **fresh))
            else:
                where = (_rollouts.c.rollout == row.rollout) & (_rollouts.c.version == row.version)
                done = await connection.execute(update(_rollouts).where(where).values(**fresh))
                if done.rowcount != 1:
                    raise Conflict("another coordinator decided first")
            await many(connection, self._plan_tries(), [values(row) for row in tries])

    def _plan_tries(self) -> Insert:
        """Set the planner's clocks of a try and its kind of device, each once; what the device told of it stays."""
        statement = self._db.stamped(_attempts)
        once = ("offered_s", "offered_at", "waiting_s", "overdue_s", "parked_s")
        clocks = {name: func.coalesce(_attempts.c[name], statement.excluded[name]) for name in once}
        return statement.on_conflict_do_update(
            index_elements=["rollout", "device", "run"],
            set_={
                **clocks,
                "excused": statement.excluded.excused,
                "kind": func.coalesce(func.nullif(_attempts.c.kind, ""), statement.excluded.kind),
                "changed_at": statement.excluded.changed_at,
            },
        )

    async def clock(self) -> ClockRow | None:
        """Read the running clock."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_clock.c.run_s, _clock.c.beat_s))).first()
        return None if row is None else ClockRow(*row)

    async def beat(self, old: ClockRow | None, new: ClockRow) -> None:
        """Move the running clock on. Raises: Conflict when it moved since `old` was read."""
        async with self._db.write() as connection:
            if old is None:
                await connection.execute(_clock.insert().values(id=1, **values(new)))
                return
            where = (_clock.c.run_s == old.run_s) & (_clock.c.beat_s == old.beat_s)
            done = await connection.execute(update(_clock).where(where).values(**values(new)))
            if done.rowcount != 1:
                raise Conflict("the running clock moved meanwhile")
