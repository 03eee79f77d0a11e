"""Rollbacks of whole rollouts through the coordinator: whom they take back, whom they skip, what they end."""

from pathlib import Path
from typing import Any

from tests.factories import device_id, fingerprint, store_path
from tests.server.harness import Rig, rig, until

from nixfleet.client.acts import Head, rollout_of
from nixfleet.client.api import Client
from nixfleet.client.previewing import rollback_wishes
from nixfleet.model.device import Outcome
from nixfleet.model.ids import Digest
from nixfleet.model.statements import Wave
from nixfleet.model.views import RolloutDetail
from nixfleet.rollout.asking import RolloutWishes
from nixfleet.rollout.waves import default_in_flight, default_waves

CANARY = (Wave(members={"role": ("canary",)}), Wave(members="100%"))
NAMES = ("web-01", "web-02")


async def _online(one: Rig, *names: str) -> None:
    for name in names:
        async with one.client(name) as device:
            await device.report(one.report(name))
            await device.sync(0)


async def _confirmed_by_canary(one: Rig, admin: Client) -> Digest:
    """Roll out in two waves; the canary confirms, and the long soak keeps the other from its turn."""
    one.fleet.device("web-01", tags={"env": "prod", "role": "canary"})
    await one.send(admin)
    await _online(one, *NAMES)
    release, _ = one.fleet.release("new")
    await one.send(admin)
    rollout = one.fleet.rollout(release, waves=CANARY, soak_s=3_600)
    await one.send(admin)
    await until(lambda: admin.rollout(rollout), lambda said: said.rollout.in_flight == 1)
    await _report(one, "web-01", rollout, Outcome.CONFIRMED, path=store_path("new"), previous=store_path("old"))
    await until(lambda: admin.rollout(rollout), lambda said: said.rollout.confirmed == 1)
    return rollout


async def _report(one: Rig, name: str, rollout: str, outcome: Outcome, **fields: Any) -> None:
    async with one.client(name) as device:
        await device.report(one.outcome(name, rollout, outcome, **fields))


async def _back(one: Rig, admin: Client, of: Digest, **fields: Any) -> Digest:
    back = one.fleet.rollout(None, kind="rollback", of=of, **fields)
    await one.send(admin)
    return back


def _names(detail: RolloutDetail) -> list[str]:
    return sorted(member.name for member in detail.members)


async def test_who_never_got_it_is_skipped_and_gets_it_no_more(tmp_path: Path) -> None:
    """The rollback is for the canary alone, and the rollout that it takes back starts nobody any more."""
    async with rig(tmp_path / "data", *NAMES) as one, one.client("admin") as admin:
        rollout = await _confirmed_by_canary(one, admin)
        back = await _back(one, admin, rollout)
        detail = await until(lambda: admin.rollout(back), lambda said: said.rollout.in_flight == 1)
        assert ["web-01"] == _names(detail)
        ended = await until(lambda: admin.rollout(rollout), lambda said: said.rollout.state == "superseded")
        assert 1 == ended.rollout.confirmed
        await _report(one, "web-01", back, Outcome.CONFIRMED, path=store_path("old"), previous=store_path("new"))
        await until(lambda: admin.rollout(back), lambda said: said.rollout.state == "finished")
        one.now += 7_200
        await _online(one, *NAMES)
        async with one.client("web-02") as device:
            assert () == (await device.sync(0)).gates
        assert 0 == (await admin.rollout(rollout)).rollout.in_flight


async def test_who_confirms_late_is_taken_back_too(tmp_path: Path) -> None:
    """A device that was under way when the rollback was signed confirms, and then goes back like the others."""
    async with rig(tmp_path / "data", *NAMES) as one, one.client("admin") as admin:
        await _online(one, *NAMES)
        release, _ = one.fleet.release("new")
        await one.send(admin)
        rollout = one.fleet.rollout(release)
        await one.send(admin)
        await until(lambda: admin.rollout(rollout), lambda said: said.rollout.in_flight == 2)
        paths = {"path": store_path("new"), "previous": store_path("old")}
        await _report(one, "web-01", rollout, Outcome.CONFIRMED, **paths)
        back = await _back(one, admin, rollout)
        await until(lambda: admin.rollout(back), lambda said: _names(said) == ["web-01"])
        await _report(one, "web-02", rollout, Outcome.CONFIRMED, **paths)
        detail = await until(lambda: admin.rollout(back), lambda said: _names(said) == [*NAMES])
        assert 2 == detail.rollout.total


async def test_a_joiner_gets_nothing_that_was_taken_back(tmp_path: Path) -> None:
    """What a rollback has taken back stands for nobody; the rollback has nothing for a device without a past."""
    async with rig(tmp_path / "data", *NAMES) as one, one.client("admin") as admin:
        rollout = await _confirmed_by_canary(one, admin)
        back = await _back(one, admin, rollout)
        await _report(one, "web-01", back, Outcome.CONFIRMED, path=store_path("old"), previous=store_path("new"))
        await until(lambda: admin.rollout(back), lambda said: said.rollout.state == "finished")
        one.fleet.device("web-03", tags={"env": "prod"})
        await one.send(admin)
        await _online(one, "web-03")
        assert "" == (await until(lambda: admin.device("web-03"), lambda view: view.online)).intended
        assert device_id("web-03") not in {m.device for m in (await admin.rollout(rollout)).members}


async def test_a_rollback_of_a_part_lets_the_rest_go_on(tmp_path: Path) -> None:
    """By tags, only those devices go back and are kept from it; for the others the rollout goes on."""
    async with rig(tmp_path / "data", *NAMES) as one, one.client("admin") as admin:
        rollout = await _confirmed_by_canary(one, admin)
        back = await _back(one, admin, rollout, select={"role": ("canary",)})
        await until(lambda: admin.rollout(back), lambda said: said.rollout.in_flight == 1)
        view = (await admin.rollout(rollout)).rollout
        assert "running" == view.state
        assert [1, 1] == [wave.total for wave in view.waves]


async def test_a_failed_device_tries_to_go_back_again_when_it_is_asked_to(tmp_path: Path) -> None:
    """A rollback halts like any rollout, and goes on by retry and resume."""
    async with rig(tmp_path / "data", *NAMES) as one, one.client("admin") as admin:
        rollout = await _confirmed_by_canary(one, admin)
        back = await _back(one, admin, rollout)
        await until(lambda: admin.rollout(back), lambda said: said.rollout.in_flight == 1)
        await _report(one, "web-01", back, Outcome.REVERTED)
        await until(lambda: admin.rollout(back), lambda said: said.rollout.state == "halted")
        one.fleet.control(back, "retry", devices="failed")
        one.fleet.control(back, "resume")
        await one.send(admin)
        await until(lambda: admin.rollout(back), lambda said: said.rollout.in_flight == 1)
        done = one.outcome("web-01", back, Outcome.CONFIRMED, run=2, path=store_path("old"))
        async with one.client("web-01") as device:
            await device.report(done)
        await until(lambda: admin.rollout(back), lambda said: said.rollout.state == "finished")


async def test_the_defaults_of_a_rollback_are_for_those_that_go_back(tmp_path: Path) -> None:
    """Of 22 devices two confirmed: one goes back first, then the other, as in any rollout of two."""
    names = [f"web-{number:02}" for number in range(22)]
    async with rig(tmp_path / "data", *names) as one, one.client("admin") as admin:
        release, lines = one.fleet.release("a", {name: f"{name}-new" for name in names})
        assert lines is not None
        await one.send(admin, lines.texts)
        rollout = one.fleet.rollout(release, waves=(Wave(members="100%"),))
        await one.send(admin)
        for name in names[:2]:
            await admin.report(one.outcome(name, rollout, Outcome.CONFIRMED))
        await until(lambda: admin.rollout(rollout), lambda detail: detail.rollout.confirmed == 2)
        state = one.fleet.state
        wishes = await rollback_wishes(admin, state, rollout, RolloutWishes())
        nobody = await rollback_wishes(admin, state, rollout, RolloutWishes(select={"env": ("lab",)}))
    head = Head(one.fleet.fleet, fingerprint("admin"), int(one.now), one.fleet.log)
    made = rollout_of(head, state, wishes, of=rollout)
    assert (2, 0) == (wishes.count, nobody.count)
    assert (default_waves(2), default_in_flight(2)) == (made.waves, made.max_in_flight)
    assert default_waves(22) != made.waves
