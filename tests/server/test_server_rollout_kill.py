"""kill -9 at every write of the planner in turn: the next process goes on, and no device is started twice."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.factories import device_id
from tests.server import kill_planner
from tests.server.harness import Rig, rig

from nixfleet.errors import NixfleetError, Unreachable
from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Wave
from nixfleet.model.views import RolloutDetail
from nixfleet.server.store import AttemptRow, RolloutRow
from nixfleet.server.store.plans import PlanTables

NAMES = ("web-01", "web-02", "web-03")
WAVES = (Wave(members=1), Wave(members="100%"))

LIVES_S = 90
"""For all lives of a rollout, on a machine that is busy with others."""


async def _never(_tables: PlanTables, _row: RolloutRow, _rows: Sequence[AttemptRow]) -> None:
    raise Unreachable("this coordinator stores no decision")


async def _deployed(one: Rig) -> Digest:
    """Append a rollout, of which nothing is planned yet."""
    async with one.client("admin") as admin:
        release, lines = one.fleet.release("a", {name: f"{name}-new" for name in NAMES})
        assert lines is not None
        await one.send(admin, lines.texts)
        rollout = one.fleet.rollout(release, waves=WAVES)
        await one.send(admin)
    return rollout


@asynccontextmanager
async def _lives(one: Rig) -> AsyncGenerator[list[str], None]:
    """Let coordinators live and die on the rig's data; gives the addresses of those that came to serve so far."""
    arguments = [str(one.data_dir), str(one.now), *([one.database_url] if one.database_url else [])]
    program = str(Path(kill_planner.__file__))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        program,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    addresses: list[str] = []

    async def read() -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            addresses.append(line.decode().strip())

    reading = asyncio.create_task(read())
    try:
        yield addresses
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await reading


async def _one_step(one: Rig, rollout: str, url: str, told: dict[str, bool]) -> RolloutDetail | None:
    """Let every device say where it is, and confirm what it was offered; None when the coordinator died meanwhile."""
    try:
        async with one.client("admin", url) as admin:
            for name in NAMES:
                async with one.client(name, url) as device:
                    await device.report(one.report(name))
                    await device.sync(0)
            detail = await admin.rollout(rollout)
            for member in detail.members:
                if member.phase.value == "offered" or (member.name in told and not member.outcome):
                    told[member.name] = True
                    async with one.client(member.name, url) as device:
                        await device.report(one.outcome(member.name, rollout, Outcome.CONFIRMED))
    except NixfleetError:
        return None
    return detail


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_killed_at_every_write_of_a_rollout_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, database: str
) -> None:
    """Before or after each write a process dies; the rollout finishes, and each device was started once, in order."""
    url = request.getfixturevalue("postgres_url") if database == "postgres" else None
    with monkeypatch.context() as patch:
        patch.setattr(PlanTables, "decide", _never)
        async with rig(tmp_path / "data", *NAMES, database_url=url) as one:
            rollout = await _deployed(one)
    told: dict[str, bool] = {}
    async with _lives(one) as addresses:
        detail = None
        async with asyncio.timeout(LIVES_S):
            while detail is None or detail.rollout.state != "finished":
                await asyncio.sleep(0.02)  # the next life tells of itself by its address alone; bounded
                detail = await _one_step(one, rollout, addresses[-1], told) if addresses else None
    assert (3, 1) == (detail.rollout.confirmed, len([wave for wave in detail.members if wave.wave == 1]))
    deaths = (one.data_dir / kill_planner.DEATHS).read_text().splitlines()
    places = ("after",) if url else ("before", "after")
    writes = len(deaths) // len(places)
    assert [f"{place} {version}" for version in range(writes) for place in places] == deaths
    assert writes >= len(WAVES) + 1
    starts = (one.data_dir / kill_planner.STARTS).read_text().splitlines()
    (canary,) = [member.device for member in detail.members if member.wave == 1]
    assert (sorted(f"{device_id(name)} 1" for name in NAMES), f"{canary} 1") == (sorted(starts), starts[0])
