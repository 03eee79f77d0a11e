"""A coordinator with a long history: what has ended costs nothing when something new comes (budgets: growth)."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.factories import Fleet, device_id
from tests.server.harness import Rig

from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest
from nixfleet.model.wire import AppendRequest
from nixfleet.server.coordinator.core import Coordinator
from nixfleet.server.coordinator.planner import Planner
from nixfleet.server.coordinator.work import Work
from nixfleet.server.settings import ServerSettings
from nixfleet.trust.leaf import Leaf

DEVICES = 4
SHORT, LONG = 3, 9


class Site:
    """A coordinator that plans when it is told to, and its fleet."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.fleet = rig.fleet
        self.one = self.coordinator()

    def coordinator(self) -> Coordinator:
        """Make a coordinator on the same data."""
        settings = ServerSettings(data_dir=self.rig.data_dir, listen="127.0.0.1:0")
        return Coordinator(settings, wall=lambda: self.rig.now)

    async def start(self) -> None:
        """Start it, and end its own planning."""
        await self.one.start()
        self.one.planner.stop()

    async def restart(self) -> None:
        """Let another one go on."""
        await self.one.stop()
        self.one = self.coordinator()
        await self.start()

    async def settle(self) -> None:
        """Append what the fleet has made since, and plan until nothing follows."""
        while self.rig.sent < self.fleet.size:
            self.rig.now = Leaf.unpack(self.fleet.entries[self.rig.sent][0]).log_time
            await self.one.append(AppendRequest(statements=(self.rig.submission(self.rig.sent),)))
            self.rig.sent += 1
        while not await self.one.planner.tick():
            pass

    def deploy(self, name: str, **fields: Any) -> Digest:
        """Sign a release and its rollout to everything."""
        release, _ = self.fleet.release(name)
        return self.fleet.rollout(release, **fields)

    async def history(self, count: int, *, cancel: bool) -> None:
        """Run rollouts one after the other, each cancelled or replaced by the next."""
        for number in range(count):
            rollout = self.deploy(f"r{number}")
            await self.settle()
            if cancel:
                self.fleet.control(rollout, "cancel")
                await self.settle()


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """Run a coordinator for a few devices."""
    rig = Rig(folder, Fleet())
    rig.create()
    made = Site(rig)
    await made.start()
    try:
        for number in range(DEVICES):
            made.fleet.device(f"d{number}", tags={"env": "prod"})
        await made.settle()
        yield made
    finally:
        await made.one.stop()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count each member that is looked at, each question what a rollout brings to a device, and each plan."""
    counted: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        real: Callable[..., object] = getattr(owner, name)

        def counting(*args: object, **fields: object) -> object:
            counted[name] += 1
            return real(*args, **fields)

        monkeypatch.setattr(owner, name, counting)

    count(Work, "set_member")
    count(Work, "brings")
    count(Work, "course")
    count(Planner, "_plan")
    return counted


async def _cost_of_a_device(folder: Path, steps: Counter[str], count: int, *, cancel: bool) -> Counter[str]:
    """Count what the statement of one more device costs after so many rollouts."""
    async with site(folder) as made:
        await made.history(count, cancel=cancel)
        made.fleet.device("newcomer", tags={"env": "prod"})
        steps.clear()
        await made.settle()
        return Counter(steps)


@pytest.mark.parametrize("cancel", [True, False], ids=["cancelled", "superseded"])
async def test_a_device_statement_costs_the_same_after_a_long_history(
    tmp_path: Path, steps: Counter[str], *, cancel: bool
) -> None:
    """What a device statement costs does not grow with the rollouts that were cancelled or replaced before it."""
    short = await _cost_of_a_device(tmp_path / "short", steps, SHORT, cancel=cancel)
    long = await _cost_of_a_device(tmp_path / "long", steps, LONG, cancel=cancel)
    assert long == short


async def _cost_of_a_rollout(folder: Path, steps: Counter[str], count: int) -> Counter[str]:
    """Count what one more rollout costs after so many; `course` is each one's own word of state, told once a look."""
    async with site(folder) as made:
        await made.history(count, cancel=False)
        made.deploy("newest")
        steps.clear()
        await made.settle()
        steps.pop("course")
        return Counter(steps)


async def test_a_rollout_costs_the_same_after_a_long_history(tmp_path: Path, steps: Counter[str]) -> None:
    """The members of rollouts that newer ones replaced are not looked at again when one more is signed."""
    short = await _cost_of_a_rollout(tmp_path / "short", steps, SHORT)
    long = await _cost_of_a_rollout(tmp_path / "long", steps, LONG)
    assert long == short


async def test_a_replaced_rollout_comes_back_when_the_newer_one_is_cancelled(tmp_path: Path) -> None:
    """A rollout that had ended is planned again, for every device that there is, once its replacement is cancelled."""
    async with site(tmp_path / "data") as made:
        old = made.deploy("old")
        await made.settle()
        new = made.deploy("new", not_before=made.fleet.now + 5)
        await made.settle()
        made.rig.now += 10
        made.fleet.now = made.rig.now
        made.fleet.device("newcomer", tags={"env": "prod"})
        await made.settle()
        made.one.planner.log_changed((), everything=True)
        await made.settle()
        ended = [work.id for work in made.one.planner.works.values() if work.ended]
        made.fleet.control(new, "cancel")
        await made.settle()
        works = made.one.planner.works
        found = (ended, [work.id for work in made.one.planner.open()], device_id("newcomer") in works[old].members)
        assert found == ([old], [old], True)


async def test_a_replaced_rollout_waits_for_the_try_that_it_started(tmp_path: Path) -> None:
    """What a rollout has started is awaited though a newer one replaced it, and is over with the device's outcome."""
    async with site(tmp_path / "data") as made:
        old = made.deploy("old", select={"env": ("prod",)})
        made.one.live.get(device_id("d0")).polled_at = made.rig.now + 60
        await made.settle()
        made.deploy("new")
        await made.settle()
        work = made.one.planner.works[old]
        before = (work.superseded, set(work.awaited), work.ended)
        await made.one.report(made.rig.outcome("d0", old, Outcome.CONFIRMED))
        await made.settle()
        assert (before, work.ended) == ((True, {device_id("d0")}, False), True)


async def test_a_restarted_coordinator_knows_what_has_ended(tmp_path: Path) -> None:
    """After a restart the same rollouts are open as before, and the same ones have ended."""
    async with site(tmp_path / "data") as made:
        await made.history(3, cancel=False)
        await made.history(3, cancel=True)
        before = [(work.id, work.ended, work.superseded) for work in made.one.planner.works.values()]
        await made.restart()
        after = [(work.id, work.ended, work.superseded) for work in made.one.planner.works.values()]
        assert after == before


@pytest.mark.parametrize("change", [{"state": "retired"}, {"tags": {"env": "lab"}}], ids=["retired", "retagged"])
async def test_a_device_that_leaves_brings_no_replaced_rollout_back(tmp_path: Path, change: dict[str, Any]) -> None:
    """Rollouts that were replaced stay so when one of their devices is retired or gets other tags, restarted or not."""
    async with site(tmp_path / "data") as made:
        for number in range(3):
            newest = made.deploy(f"r{number}", select={"env": ("prod",)})
            await made.settle()
        made.fleet.device("d0", **change)
        await made.settle()
        made.one.planner.log_changed((), everything=True)
        await made.settle()
        opened = [[work.id for work in made.one.planner.open()]]
        await made.restart()
        opened.append([work.id for work in made.one.planner.open()])
        assert opened == [[newest], [newest]]
