"""A system that fails on one kind of device, through the coordinator: stored, shown, lifted by a signed resume."""

from pathlib import Path

from tests.factories import device_id
from tests.server.harness import Rig, rig, until

from nixfleet.client.api import Client
from nixfleet.model.device import Attempt, Cause, Facts, Outcome, Phase
from nixfleet.model.ids import Digest
from nixfleet.model.statements import StopAt
from nixfleet.model.views import RolloutDetail

PI, NUC = Facts(model="Raspberry Pi 4", kernel="6.6.31"), Facts(model="NUC", kernel="6.6.31")
NEW = Facts(model="Raspberry Pi 4", kernel="6.12")
PIS, NUCS = ("pi-1", "pi-2", "pi-3"), ("nuc-1",)
SAID = "Raspberry Pi 4 (kernel 6.6.31): 2 of 2 failed with the same system"


async def _online(one: Rig, *names: str, facts: Facts) -> None:
    for name in names:
        async with one.client(name) as device:
            await device.report(one.report(name, facts=facts))
            await device.sync(0)


async def _begun(one: Rig, admin: Client) -> Digest:
    """Bring one system to three machines of a kind, that are there, and one of another, that is not yet."""
    await _online(one, *PIS, facts=PI)
    release, lines = one.fleet.release("a", dict.fromkeys((*PIS, *NUCS), "new"))
    assert lines is not None
    await one.send(admin, lines.texts)
    rollout = one.fleet.rollout(release, max_in_flight=2, stop_at=StopAt(count=9))
    await one.send(admin)
    return rollout


async def _two_fail(one: Rig, admin: Client, rollout: str) -> RolloutDetail:
    """Let the two that were started fail, on a kernel that is not theirs; give the rollout once it has noticed."""
    detail = await until(lambda: admin.rollout(rollout), lambda said: said.rollout.in_flight == 2)
    for member in detail.members:
        if member.phase.value == "offered":
            told = Attempt(rollout=rollout, run=1, phase=Phase.REVERTED, outcome=Outcome.REVERTED, cause=Cause.HEALTH)
            async with one.client(member.name) as device:
                await device.report(one.report(member.name, facts=NEW, attempt=told))
    return await until(lambda: admin.rollout(rollout), lambda said: bool(said.rollout.stops))


async def test_a_kind_that_a_system_fails_on_is_started_no_more(tmp_path: Path) -> None:
    """The third of the kind says why it waits, the rollout that it goes on for others; so it does after a restart."""
    async with rig(tmp_path / "data", *PIS, *NUCS) as one:
        async with one.client("admin") as admin:
            rollout = await _begun(one, admin)
            detail = await _two_fail(one, admin, rollout)
            (stop,) = detail.rollout.stops
            assert (f"stops for {SAID}; others go on", 1) == (stop.said, stop.left)
            assert "running" == detail.rollout.state
            (left,) = [m for m in detail.members if m.name in PIS and m.outcome is None]
            assert f"{left.name} waits: stopped for {SAID}" == left.waits
            assert left.why is not None
            assert ("kind-stopped", 2) == (left.why["reason"], left.why["failed"])
        one.restart()
        async with one.client("admin") as admin:
            await _online(one, *NUCS, facts=NUC)
            await _online(one, left.name, facts=PI)
            await until(lambda: admin.rollout(rollout), lambda said: said.rollout.in_flight == 1)
            async with one.client(NUCS[0]) as device:
                await device.report(one.outcome(NUCS[0], rollout, Outcome.CONFIRMED))
            detail = await until(lambda: admin.rollout(rollout), lambda said: said.rollout.state == "halted")
            assert f"1 device left, and it stopped for {SAID}" == detail.rollout.halted


async def test_a_resume_lets_the_kind_go_on(tmp_path: Path) -> None:
    """What a person has seen and accepted no longer stands in the way, and the stop is gone."""
    async with rig(tmp_path / "data", *PIS, *NUCS) as one, one.client("admin") as admin:
        rollout = await _begun(one, admin)
        await _two_fail(one, admin, rollout)
        one.fleet.control(rollout, "resume")
        await one.send(admin)
        detail = await until(lambda: admin.rollout(rollout), lambda said: said.rollout.in_flight == 1)
        assert () == detail.rollout.stops
        (started,) = [m.device for m in detail.members if m.phase.value == "offered"]
        assert started in {device_id(name) for name in PIS}
