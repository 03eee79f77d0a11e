"""The devices' tables: newest signed reports and the history of attempts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from nixfleet.server import tables
from nixfleet.server.store.database import Database, Insert, many
from nixfleet.server.store.rows import AttemptRow, DeviceRow, values

_devices = tables.devices
_attempts = tables.attempts
_DEVICE_COLUMNS = tuple(column.name for column in _devices.columns)


@dataclass(frozen=True, slots=True)
class Told:
    """What one report changes: the device's row, and the attempt it speaks of."""

    device: DeviceRow
    attempt: AttemptRow | None = None


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a device's report: its key has changed, so that its `seq` starts over."""

    device: str


class StatusTables:
    """Reports of many devices are written in one transaction (group commit)."""

    def __init__(self, database: Database) -> None:
        self._db = database
        # Made once: a group is written many times a second, and making its statements took as long as writing it.
        self._report_statement = self._report()
        self._try_statement = self._try()

    async def save(self, items: Sequence[Told | Forget]) -> None:
        """Write reports durably in one transaction; one that is not above what its device's row has changes nothing.

        What comes before a `Forget` goes with it, what comes after it stays.
        """
        async with self._db.write() as connection:
            told: list[Told] = []
            for item in items:
                if isinstance(item, Told):
                    told.append(item)
                    continue
                await self._save(connection, told)
                told = []
                await connection.execute(delete(_devices).where(_devices.c.device == item.device))
            await self._save(connection, told)

    async def _save(self, connection: AsyncConnection, told: Sequence[Told]) -> None:
        told = sorted(told, key=lambda item: (item.device.device, item.device.seq))
        # Another coordinator may have had a newer one, and whoever delays messages may bring an old one late.
        held = await self._seqs(connection, {item.device.device for item in told})
        fresh = [item for item in told if item.device.seq > held.get(item.device.device, -1)]
        await many(connection, self._report_statement, [values(item.device) for item in fresh])
        tries = [item.attempt for item in fresh if item.attempt is not None]
        await many(connection, self._try_statement, [values(row) for row in tries])

    async def _seqs(self, connection: AsyncConnection, devices: Collection[str]) -> dict[str, int]:
        """Read the newest seq of these devices, and lock their rows where several coordinators write."""
        query = select(_devices.c.device, _devices.c.seq).where(_devices.c.device.in_(devices))
        found = await connection.execute(query.order_by(_devices.c.device).with_for_update())
        return {str(row.device): int(row.seq) for row in found}

    def _report(self) -> Insert:
        statement = self._db.stamped(_devices)
        return statement.on_conflict_do_update(
            index_elements=["device"],
            set_={name: statement.excluded[name] for name in _DEVICE_COLUMNS if name != "device"},
            where=statement.excluded.seq > _devices.c.seq,
        )

    def _try(self) -> Insert:
        statement = self._db.stamped(_attempts)
        told, fresh = _attempts.c, statement.excluded
        return statement.on_conflict_do_update(
            index_elements=["rollout", "device", "run"],
            set_={
                "told": fresh.told,
                "changed_at": fresh.changed_at,
                # When it was offered is the planner's to say; the first outcome's time stays.
                "outcome_s": func.coalesce(told.outcome_s, fresh.outcome_s),
                "outcome_at": func.coalesce(told.outcome_at, fresh.outcome_at),
                "healthy_s": func.coalesce(fresh.healthy_s, told.healthy_s),
            },
        )

    async def seen(self, times: Sequence[tuple[str, int]]) -> None:
        """Write when devices that went offline were last seen: pairs of device id and unix seconds."""
        async with self._db.write() as connection:
            for device, seen_at in sorted(times):
                where = (_devices.c.device == device) & (_devices.c.seen_at < seen_at)
                await connection.execute(update(_devices).where(where).values(seen_at=seen_at))

    async def now_s(self) -> int:
        """Give unix seconds by the clock that stamps what several coordinators write."""
        return await self._db.now_s()

    async def devices(self, changed_after: int = -1) -> list[DeviceRow]:
        """Read the devices whose row changed after a time, in unix seconds of the clock that stamped it (`now_s`)."""
        query = select(_devices).where(_devices.c.changed_at > changed_after)
        async with self._db.read() as connection:
            return [DeviceRow(*row) for row in await connection.execute(query)]

    async def device(self, device: str) -> DeviceRow | None:
        """Read one device's newest report."""
        async with self._db.read() as connection:
            row = (await connection.execute(select(_devices).where(_devices.c.device == device))).first()
        return None if row is None else DeviceRow(*row)

    async def reports(self, after: str, limit: int) -> list[DeviceRow]:
        """Read the newest reports of devices whose id comes after one, in the order of their ids."""
        query = select(_devices).where(_devices.c.device > after).order_by(_devices.c.device).limit(limit)
        async with self._db.read() as connection:
            return [DeviceRow(*row) for row in await connection.execute(query)]

    async def attempts(self, rollouts: Sequence[str], changed_after: int = -1) -> list[AttemptRow]:
        """Read all tries of these rollouts that changed after a time, as `devices`."""
        found: list[AttemptRow] = []
        async with self._db.read() as connection:
            for rollout in rollouts:
                where = (_attempts.c.rollout == rollout) & (_attempts.c.changed_at > changed_after)
                found += [_attempt(row) for row in await connection.execute(select(_attempts).where(where))]
        return found

    async def history(self, device: str, limit: int) -> list[AttemptRow]:
        """Read a device's newest tries, newest first."""
        query = select(_attempts).where(_attempts.c.device == device)
        newest = (_attempts.c.changed_at.desc(), _attempts.c.run.desc(), _attempts.c.rollout)
        query = query.order_by(*newest).limit(limit)
        async with self._db.read() as connection:
            return [_attempt(row) for row in await connection.execute(query)]


def _attempt(row: object) -> AttemptRow:
    names = AttemptRow.__slots__
    return AttemptRow(**{name: getattr(row, name) for name in names})
