"""A coordinator that dies at any write of a rollout, and two on one database: nothing is lost, nobody starts twice."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.factories import device_id
from tests.server.harness import Rig, rig, twin, until

from nixfleet.client.api import Client
from nixfleet.errors import Unreachable
from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Wave
from nixfleet.model.views import RolloutDetail
from nixfleet.server.store import AttemptRow, RolloutRow
from nixfleet.server.store.plans import PlanTables

NAMES = ("web-01", "web-02", "web-03")
WAVES = (Wave(members=1), Wave(members="100%"))


class Writes:
    """Watches the planner's writes: counts starts, and lets the program die at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: Counter[tuple[str, int]] = Counter()
        self.done = 0
        self.dies_at: int | None = None
        self.after = False
        """Whether the write that it dies at is still made."""
        self._decide = PlanTables.decide

        async def decide(tables: PlanTables, row: RolloutRow, rows: Sequence[AttemptRow]) -> None:
            await self._watched(tables, row, rows)

        monkeypatch.setattr(PlanTables, "decide", decide)

    async def _watched(self, tables: PlanTables, row: RolloutRow, rows: Sequence[AttemptRow]) -> None:
        dies = self.dies_at is not None and self.done >= self.dies_at
        if dies and not self.after:
            raise Unreachable("it died before the write")
        await self._decide(tables, row, rows)
        self.done += 1
        self.starts.update((each.device, each.run) for each in rows if each.offered_s is not None)
        if dies:
            self.after = False  # what is dead writes no more
            raise Unreachable("it died after the write")


async def _poll(one: Rig, *names: str, url: str = "") -> None:
    for name in names:
        async with one.client(name, url) as device:
            await device.report(one.report(name))
            await device.sync(0)


async def _begun(one: Rig, admin: Client) -> Digest:
    await _poll(one, *NAMES)
    release, lines = one.fleet.release("a", {name: f"{name}-new" for name in NAMES})
    assert lines is not None
    await one.send(admin, lines.texts)
    rollout = one.fleet.rollout(release, waves=WAVES)
    await one.send(admin)
    return rollout


async def _finish(one: Rig, rollout: str, *urls: str) -> RolloutDetail:
    """Let every device that was started confirm, by these coordinators in turn, until the rollout is finished."""
    confirmed: set[str] = set()

    async def look() -> RolloutDetail:
        url = urls[len(confirmed) % len(urls)] if urls else ""
        async with one.client("admin", url) as admin:
            detail = await admin.rollout(rollout)
        for member in detail.members:
            if member.phase.value == "offered" and member.name not in confirmed:
                confirmed.add(member.name)
                async with one.client(member.name, url) as device:
                    await device.report(one.outcome(member.name, rollout, Outcome.CONFIRMED))
        return detail

    await until(look, lambda detail: detail.rollout.confirmed > 0)  # each step has the whole deadline
    await until(look, lambda detail: detail.rollout.confirmed == len(NAMES))
    return await until(look, lambda detail: detail.rollout.state == "finished")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", [0, 1])
async def test_who_dies_at_a_write_loses_nothing_and_starts_nobody_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int, after: bool
) -> None:
    """The next coordinator goes on from what was stored: every device is started once, and the waves keep order."""
    writes = Writes(monkeypatch)
    async with rig(tmp_path / "data", *NAMES) as one:
        writes.dies_at, writes.after = write, after
        async with one.client("admin") as admin:
            rollout = await _begun(one, admin)
            if write:
                detail = await until(lambda: admin.rollout(rollout), lambda said: said.rollout.in_flight == 1)
                (canary,) = [member.name for member in detail.members if member.phase.value == "offered"]
                async with one.client(canary) as device:
                    await device.report(one.outcome(canary, rollout, Outcome.CONFIRMED))

            async def died() -> bool:
                return writes.done >= write + int(after)

            await until(died, bool)
        await asyncio.to_thread(one.server.stop)
        writes.dies_at = None
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        await _poll(one, *NAMES)
        detail = await _finish(one, rollout)
    assert 3 == detail.rollout.confirmed
    assert {(device_id(name), 1): 1 for name in NAMES} == writes.starts


async def test_a_start_whose_first_decision_is_not_stored_serves_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The coordinator answers people and devices meanwhile, says what holds it up, and plans once the database can."""
    writes = Writes(monkeypatch)
    async with rig(tmp_path / "data", *NAMES) as one:
        writes.dies_at = 0
        async with one.client("admin") as admin:
            rollout = await _begun(one, admin)
        await asyncio.to_thread(one.server.stop)
        caplog.clear()
        one.server = one.make_server()
        await asyncio.to_thread(one.server.start)
        assert any("planning is put off: it died before the write" in text for text in caplog.messages)
        async with one.client("admin") as admin:
            assert [rollout] == [view.id for view in await admin.rollouts()]
        writes.dies_at = None
        await _poll(one, *NAMES)
        detail = await _finish(one, rollout)
    assert 3 == detail.rollout.confirmed


async def test_two_coordinators_start_each_device_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str
) -> None:
    """Both plan the same rollout on one PostgreSQL: of two decisions one is stored, and the other one is made anew."""
    writes = Writes(monkeypatch)
    async with (
        rig(tmp_path / "data", *NAMES, database_url=postgres_url) as one,
        twin(one, tmp_path / "twin") as other,
    ):
        await _poll(one, *NAMES, url=other.address)
        async with one.client("admin") as admin:
            rollout = await _begun(one, admin)
        detail = await _finish(one, rollout, one.server.address, other.address)
    assert 3 == detail.rollout.confirmed
    assert {(device_id(name), 1): 1 for name in NAMES} == writes.starts
